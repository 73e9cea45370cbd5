//! Limits that both sides check, so that a client can tell before it asks.

/// A file key is an AES-256 key: this many bytes, never another number (law 4).
pub const FILE_KEY_LEN: usize = 32;

/// RSA modulus sizes that wrapping keys may have, in bits.
pub const MODULUS_BITS: [u32; 3] = [2048, 3072, 4096];

/// The modulus size of a key made without asking for another.
pub const DEFAULT_MODULUS_BITS: u32 = 3072;

/// Largest wrapped key: the modulus of RSA-4096, in bytes.
pub const MAX_WRAPPED_KEY_LEN: usize = 512;

/// Largest gRPC message in either direction, in bytes, except pages of lists.
pub const MAX_MESSAGE_LEN: usize = 64 * 1024;

/// Most items of one batch.
pub const MAX_BATCH_ITEMS: usize = 256;

/// Most files in one request that asks whether they fit into the budgets.
pub const MAX_CHECKED_FILES: usize = 10_000;

/// Largest such request, in bytes: all those files, each under a key of its own.
pub const MAX_CHECK_LEN: usize = 1024 * 1024;

/// Largest gRPC message a client should accept: a page of 1,000 audit records.
pub const MAX_PAGE_LEN: usize = 8 * 1024 * 1024;

/// Rows in a page when the caller does not say.
pub const DEFAULT_PAGE_SIZE: u32 = 100;

/// Most rows in a page.
pub const MAX_PAGE_SIZE: u32 = 1_000;

/// Longest free text that is recorded: a reason, a claimed file name. In bytes.
pub const MAX_TEXT_LEN: usize = 1_024;

/// Longest policy, in bytes: with everything else of its request it is one message.
pub const MAX_POLICY_LEN: usize = 48 * 1024;

/// Longest claimed format name, in bytes.
pub const MAX_FORMAT_LEN: usize = 32;

/// Longest id of a device, user or key label, in bytes.
pub const MAX_ID_LEN: usize = 63;

/// Most groups that a user or a device is in.
pub const MAX_GROUPS: usize = 32;

/// Shortest password that can be set, in bytes.
pub const MIN_PASSWORD_LEN: usize = 12;

/// Longest password, in bytes. Bounds the work of hashing one.
pub const MAX_PASSWORD_LEN: usize = 1_024;

/// Most requests of one user that wait for approval.
pub const MAX_PENDING_APPROVALS: u32 = 20;

/// Longest nonce of an attestation, in bytes.
pub const MAX_NONCE_LEN: usize = 64;
