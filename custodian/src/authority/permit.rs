//! The permit: proof that one operation is allowed.

use custodian_proto::key::KeyId;
use jiff::SignedDuration;

use super::{ApprovalUse, Charge, Role, SessionId, SpkiHash};

/// The proof that certificate, device, session, role, key and budget together allow ONE operation (law 3). Only the
/// authority makes one, and the token call consumes it.
///
/// It cannot be made:
/// ```compile_fail
/// use custodian::authority::{Permit, Standing};
/// # fn forge(standing: Standing) -> Permit {
/// Permit { standing }
/// # }
/// ```
/// nor copied:
/// ```compile_fail
/// # fn twice(permit: custodian::authority::Permit) -> (custodian::authority::Permit, custodian::authority::Permit) {
/// (permit.clone(), permit)
/// # }
/// ```
pub struct Permit {
    standing: Standing,
}

impl Permit {
    /// Only the authority judges.
    pub(in crate::authority) fn new(standing: Standing) -> Self {
        Self { standing }
    }

    /// Uses the permit up. What is left is what must still be true when the attempt is settled.
    pub fn redeem(self) -> Standing {
        self.standing
    }

    /// Uses the permit up to unwrap with this key. `None`: it was given for something else.
    pub fn redeem_for(self, key: KeyId) -> Option<Standing> {
        Some(self.standing).filter(|standing| standing.key == Some(key))
    }

    /// A permit for tests of what lies behind one.
    #[cfg(test)]
    pub(crate) fn for_test(standing: Standing) -> Self {
        Self { standing }
    }
}

/// What a permit was given on, and what the settling transaction reads again (law 2).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// This device must be active.
    pub(crate) device: Option<SpkiHash>,
    /// This session must be alive, on that device, and its user enabled.
    pub(crate) session: Option<SessionId>,
    /// That session must not have been unused for this long. `None`: whatever it was.
    pub(crate) session_idle: Option<SignedDuration>,
    /// That user must still have this role.
    pub(crate) role: Option<Role>,
    /// This wrapping key must unwrap at that time: its state and its periods must allow it.
    pub(crate) key: Option<KeyId>,
    /// This version of the policy must be the one in force.
    pub(crate) policy: Option<u64>,
    /// This approval must still stand, with so many who count. It is used up.
    pub(crate) approval: Option<ApprovalUse>,
    /// Charge one unwrap to that user, that device and this key; refuse if a budget of theirs has no room for it.
    pub(crate) charge: Option<Charge>,
}
