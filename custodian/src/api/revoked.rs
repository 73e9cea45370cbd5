//! What revocation lists are made of.

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tonic::Status;

use super::{Api, call::Accepted};
use crate::{
    authority::{Need, RevokedCertificate},
    custody::Fault,
    ledger::{Certified, Change, Changed},
};

/// Lists of one kind that are made or wait for their turn, of those that are made for whoever asks. They are made one after the
/// other, and each has a place among the calls: many could take all of them.
const IN_LINE: usize = 4;

/// Whose list gets its number and is read.
pub(super) struct ListTurn {
    turn: Mutex<()>,
    devices: Semaphore,
    people: Semaphore,
}

impl Default for ListTurn {
    fn default() -> Self {
        Self { turn: Mutex::default(), devices: Semaphore::new(IN_LINE), people: Semaphore::new(IN_LINE) }
    }
}

impl ListTurn {
    /// A place in the line, if one is left.
    pub(super) fn in_line(&self, of: Certified) -> Option<SemaphorePermit<'_>> {
        let line = match of {
            Certified::Devices => &self.devices,
            Certified::People => &self.people,
        };
        line.try_acquire().ok()
    }
}

impl Api {
    /// What is revoked, and the number of the list of it: that of its record. The list is read beside the commits, which a long
    /// one must not hold up; and in turn: one with a greater number is of a later state.
    pub(super) async fn revoked(
        &self,
        accepted: &Accepted,
        need: Need<'static>,
        operation: &'static str,
        of: Certified,
    ) -> Result<(u64, Vec<RevokedCertificate>), Status> {
        let change = match of {
            Certified::Devices => Change::ListRevoked,
            Certified::People => Change::ListRevokedPeople,
        };
        let _my_turn = self.list_turn.turn.lock().await;
        let (call, intent) = (accepted.call.clone(), accepted.call.intent(operation));
        let listed = self.custodian.change(call, need, intent, async move { Ok((change, ())) }).await;
        let Changed::Listed(number) = listed.map_err(|denial| accepted.status(denial))?.0 else {
            return Err(accepted.status(Fault::Internal("the ledger numbered no list".into()).into()));
        };
        let revoked = self.custodian.ledger().revoked(of).await;
        Ok((number, revoked.map_err(|error| accepted.status(error.into()))?))
    }
}
