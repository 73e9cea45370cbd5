//! What revocation lists are made of.

use tonic::Status;

use super::{Api, call::Accepted};
use crate::{
    authority::{Need, RevokedCertificate},
    custody::Fault,
    ledger::{Certified, Change, Changed},
};

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
        let _my_turn = self.list_turn.lock().await;
        let (call, intent) = (accepted.call.clone(), accepted.call.intent(operation));
        let listed = self.custodian.change(call, need, intent, async move { Ok((change, ())) }).await;
        let Changed::Listed(number) = listed.map_err(|denial| accepted.status(denial))?.0 else {
            return Err(accepted.status(Fault::Internal("the ledger numbered no list".into()).into()));
        };
        let revoked = self.custodian.ledger().revoked(of).await;
        Ok((number, revoked.map_err(|error| accepted.status(error.into()))?))
    }
}
