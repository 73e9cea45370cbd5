//! What an approval is bound to: one exact request of one user on one device.

use sha2::{Digest, Sha256};

/// The metadata with which a request asks to get past rules that the policy marks with `@break_glass`.
pub const BREAK_GLASS_METADATA: &str = "custodian-break-glass";

/// The value of that metadata.
pub const BREAK_GLASS: &str = "yes";

/// Whether a request may get past rules that the policy marks so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Glass {
    /// As usual.
    #[default]
    Whole,
    /// It asks to.
    Broken,
}

/// A request, as approvals see it.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// The method's name: `ApplyPolicy`.
    pub operation: &'a str,
    /// `users/anna`
    pub user: &'a str,
    /// `devices/laptop-7`
    pub device: &'a str,
    /// Whether it would break the glass.
    pub glass: Glass,
    /// The message that the method takes, serialised, without its passwords.
    pub message: &'a [u8],
}

impl Bound<'_> {
    /// The SHA-256 that the API calls `request_sha256`: of each part after its length.
    pub fn sha256(&self) -> [u8; 32] {
        let glass = match self.glass {
            Glass::Whole => "",
            Glass::Broken => "break-glass",
        };
        let texts = ["custodian-approval-v1", self.operation, self.user, self.device, glass];
        let mut hash = Sha256::new();
        for part in texts.into_iter().map(str::as_bytes).chain([self.message]) {
            // A message has at most 64 KiB.
            hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_gives_another_digest() {
        let one = Bound {
            operation: "ApplyPolicy",
            user: "users/anna",
            device: "devices/laptop-7",
            glass: Glass::Whole,
            message: b"message",
        };
        let others = [
            Bound { operation: "ApplyPolic", user: "yusers/anna", ..one },
            Bound { user: "users/bob", ..one },
            Bound { device: "devices/laptop-8", ..one },
            Bound { glass: Glass::Broken, ..one },
            Bound { message: b"massage", ..one },
            Bound { message: b"", ..one },
        ];
        let mut digests: Vec<_> = others.iter().chain([&one]).map(Bound::sha256).collect();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 7);
        assert_eq!(one.sha256(), one.sha256());
    }
}
