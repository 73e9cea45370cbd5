//! The permit: proof that one operation is allowed.

use custodian_proto::{key::KeyId, refusal::Refusal};
use jiff::{SignedDuration, Timestamp};

use super::{
    ApprovalUse, Charge, FactorRule, FactorState, Groups, KeyTask, PasswordState, Role, Roles, SessionId,
    SpkiHash,
};
use crate::log::Cosigned;

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

    /// Uses the permit up to do this task with this key. `None`: it was given for something else.
    pub fn redeem_for(self, task: KeyTask, key: KeyId) -> Option<Standing> {
        Some(self.standing).filter(|standing| (standing.task, standing.key) == (task, Some(key)))
    }

    /// Uses the permit up to sign with this key, for a user or a timestamp. `None`: it was given for something else.
    pub fn redeem_to_sign(self, key: KeyId) -> Option<Standing> {
        let signs = matches!(self.standing.task, KeyTask::Sign | KeyTask::Timestamp);
        Some(self.standing).filter(|standing| signs && standing.key == Some(key))
    }

    /// A permit for tests of what lies behind one.
    #[cfg(test)]
    pub(crate) fn for_test(standing: Standing) -> Self {
        Self { standing }
    }
}

/// What a session may still lack for an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MayLack {
    /// Nothing.
    #[default]
    Nothing,
    /// The second factor that the user always needs: for enrolling it.
    SecondFactor,
    /// That, and a password of the user's own: for changing it, for showing the factor, and for signing out.
    Everything,
}

impl MayLack {
    /// Refuses a session that lacks more than that.
    ///
    /// # Errors
    /// [`Refusal::PasswordMustChange`], [`Refusal::StepUpRequired`], [`Refusal::FactorMissing`]
    pub(crate) fn check(
        self,
        password: PasswordState,
        factor: FactorState,
        shown: Option<Timestamp>,
    ) -> Result<(), Refusal> {
        if self != Self::Everything && password == PasswordState::MustChange {
            return Err(Refusal::PasswordMustChange);
        }
        if self == Self::Nothing && factor.rule == FactorRule::Always && shown.is_none() {
            return Err(factor.missing());
        }
        Ok(())
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
    /// What that session may still lack.
    pub(crate) may_lack: MayLack,
    /// That user must still have this role.
    pub(crate) role: Option<Role>,
    /// This key must do its task at that time: its purpose, its state and its periods must allow it.
    pub(crate) key: Option<KeyId>,
    /// The task of that key.
    pub(crate) task: KeyTask,
    /// This key must not have changed since that time: what is released says how it was.
    pub(crate) unchanged: Option<(KeyId, Timestamp)>,
    /// This version of the policy must be the one in force.
    pub(crate) policy: Option<u64>,
    /// The user must have just these roles still: the policy looked at them.
    pub(crate) roles: Option<Roles>,
    /// The user and the device must be in these groups still: the policy looked at them.
    pub(crate) groups: Option<(Groups, Groups)>,
    /// This session must have shown the second factor then or later: the policy looked at it. `None`: it had not.
    pub(crate) factor: Option<Timestamp>,
    /// As many witnesses must have cosigned the log lately: the policy looked at them.
    pub(crate) cosigned: Option<Cosigned>,
    /// This approval must still stand, with so many who count. It is used up.
    pub(crate) approval: Option<ApprovalUse>,
    /// Charge one unwrap to that user, that device and this key; refuse if a budget of theirs has no room for it.
    pub(crate) charge: Option<Charge>,
}
