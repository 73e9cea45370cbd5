//! What a policy is asked about: the operations of the API that need a role, and those of people for themselves that an
//! organisation may want to narrow.

use self::Group::{Administer, Audit, Open, Own};

/// Whom an operation is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Group {
    /// `Action::"Open"`: what operators do.
    Open,
    /// `Action::"Audit"`.
    Audit,
    /// `Action::"Administer"`.
    Administer,
    /// `Action::"Own"`: what people do for themselves, whatever their roles. Permitted, unless a policy forbids it.
    Own,
}

impl Group {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "Open",
            Self::Audit => "Audit",
            Self::Administer => "Administer",
            Self::Own => "Own",
        }
    }
}

/// Every operation that a policy decides on, as the log names it, and the groups it is in.
pub(super) const OPERATIONS: &[(&str, &[Group])] = &[
    ("Unwrap", &[Open]),
    ("Wrap", &[Open]),
    ("Sign", &[Open]),
    ("Timestamp", &[Open]),
    ("ListRecords", &[Audit]),
    ("TailRecords", &[Audit]),
    ("GetCheckpoint", &[Audit]),
    ("GetTile", &[Audit]),
    ("GetEntries", &[Audit]),
    ("InviteDevice", &[Administer]),
    ("ListDevices", &[Administer]),
    ("GetDevice", &[Administer]),
    ("ActivateDevice", &[Administer]),
    ("GetRevocationList", &[Audit, Administer]),
    ("CreateUser", &[Administer]),
    ("ListUsers", &[Administer]),
    ("EnableUser", &[Administer]),
    ("SetPassword", &[Administer]),
    ("SetRoles", &[Administer]),
    ("SetUserGroups", &[Administer]),
    ("SetIdentity", &[Administer]),
    ("GetIdentity", &[Administer]),
    ("ListCertificates", &[Administer]),
    ("GetCertificate", &[Administer]),
    ("SetDeviceGroups", &[Administer]),
    ("ResetFactor", &[Administer]),
    ("RequireFactor", &[Administer]),
    ("CreateKey", &[Administer]),
    ("RotateKey", &[Administer]),
    ("ImportKey", &[Administer]),
    ("ListUnusedKeys", &[Administer]),
    ("AttestKey", &[Audit, Administer]),
    ("ExportOpenPgpKey", &[Audit, Administer]),
    ("ActivateKey", &[Administer]),
    ("LimitKey", &[Administer]),
    ("DestroyKey", &[Administer]),
    ("ListUnwrapped", &[Audit, Administer]),
    ("ListTokens", &[Administer]),
    ("DrainToken", &[Administer]),
    ("ResumeToken", &[Administer]),
    ("ListBudgets", &[Administer]),
    ("GetBudget", &[Administer]),
    ("LiftBudget", &[Administer]),
    ("UnlockUnwrap", &[Administer]),
    ("GetPolicy", &[Administer]),
    ("ListPolicies", &[Administer]),
    ("ApplyPolicy", &[Administer]),
    ("TestPolicy", &[Administer]),
    ("ExplainPolicy", &[Administer]),
    ("ExplainWithout", &[Administer]),
    ("ListApprovals", &[Administer]),
    ("GetApproval", &[Administer]),
    ("Approve", &[Administer]),
    ("RequestCertificate", &[Own]),
];

/// Operations that stop somebody or something. No policy is asked: an administrator can always do them alone, whatever
/// policy somebody applied.
pub(super) const ALWAYS_ALLOWED: &[&str] = &[
    "WithdrawInvitation",
    "RevokeDevice",
    "SuspendDevice",
    "DisableUser",
    "SuspendKey",
    "DeactivateKey",
    "CompromiseKey",
    "Deny",
    "RevokeCertificate",
];

/// Approving is not itself approved: that would have no end.
pub(super) const NEVER_APPROVED: &[&str] = &["ListApprovals", "GetApproval", "Approve"];

/// The groups that an operation is in. None for an operation that no policy decides on.
pub(super) fn groups(operation: &str) -> &'static [Group] {
    OPERATIONS.iter().find(|(name, _)| *name == operation).map_or(&[], |(_, groups)| groups)
}
