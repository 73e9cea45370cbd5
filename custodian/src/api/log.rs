//! `LogService`.

use custodian_proto::{
    refusal::Refusal,
    tlog::{
        Receipt, Tile,
        tiles::{self, WIDTH},
    },
    v1::{self, log_service_server::LogService},
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Accepted, invalid},
};
use crate::{
    authority::{Need, Role},
    custody::{Denial, Fault},
    ledger::OK,
};

#[tonic::async_trait]
impl LogService for Api {
    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Auditor), "GetCheckpoint").await?;
        let newest = self.log.checkpoint().await.ok_or_else(|| {
            let why = self.log.state().borrow().trouble.clone();
            let why = why.unwrap_or_else(|| "no checkpoint is signed yet".to_owned());
            accepted.status(Fault::TokenUnavailable(why).into())
        })?;
        Ok(Response::new(v1::GetCheckpointResponse { note: newest.note.clone() }))
    }

    async fn get_tile(
        &self,
        request: Request<v1::GetTileRequest>,
    ) -> Result<Response<v1::GetTileResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Auditor), "GetTile").await?;
        let status = |denial| accepted.status(denial);
        let v1::GetTileRequest { level, index, width } = request.into_inner();
        let width = parse_width(width).map_err(status)?;
        let level = u8::try_from(level).ok().filter(|level| *level < 8);
        let level = level.ok_or_else(|| status(invalid("level: must be 0 to 7")))?;
        let hashes = self.custodian.ledger().tile(Tile { level, index }).await;
        let hashes = hashes.map_err(|error| status(error.into()))?;
        let hashes = hashes.get(..width).ok_or_else(|| status(Refusal::NotFound.into()))?;
        Ok(Response::new(v1::GetTileResponse { hashes: tiles::bytes(hashes) }))
    }

    async fn get_entries(
        &self,
        request: Request<v1::GetEntriesRequest>,
    ) -> Result<Response<v1::GetEntriesResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Auditor), "GetEntries").await?;
        let status = |denial| accepted.status(denial);
        let v1::GetEntriesRequest { index, width } = request.into_inner();
        let width = parse_width(width).map_err(status)?;
        let first = index.checked_mul(WIDTH as u64).filter(|first| i64::try_from(*first).is_ok());
        let first = first.ok_or_else(|| status(Refusal::NotFound.into()))?;
        let entries = self.custodian.ledger().entries(first, width as u32).await;
        let entries = entries.map_err(|error| status(error.into()))?;
        if first + width as u64 > *self.custodian.ledger().last_sequence().borrow() {
            return Err(status(Refusal::NotFound.into()));
        }
        let bundle = tiles::bundle(entries.iter().map(Vec::as_slice));
        let bundle = bundle.map_err(|flaw| status(Fault::Internal(flaw.to_string()).into()))?;
        Ok(Response::new(v1::GetEntriesResponse { bundle }))
    }

    async fn get_receipt(
        &self,
        request: Request<v1::GetReceiptRequest>,
    ) -> Result<Response<v1::GetReceiptResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Session, "GetReceipt").await?;
        let sequence = request.into_inner().sequence;
        match self.receipt_for(&accepted, sequence).await {
            Ok(receipt) => Ok(Response::new(v1::GetReceiptResponse { receipt: receipt.to_string() })),
            Err(denial) => {
                let refused = self.custodian.refuse(&accepted.call, "GetReceipt", denial).await;
                refused.map_err(|denial| accepted.status(denial))
            }
        }
    }
}

impl Api {
    async fn receipt_for(&self, accepted: &Accepted, sequence: u64) -> Result<Receipt, Denial> {
        let receipt = self.log.receipt(sequence).await?;
        let Some(user) = &accepted.call.caller.user else { return Err(Refusal::NotLoggedIn.into()) };
        let is_own = || {
            let record = v1::Record::decode(receipt.entry.as_slice()).ok();
            record.is_some_and(|record| {
                record.user == user.id.resource_name() && record.operation == "Unwrap" && record.outcome == OK
            })
        };
        if user.roles.contains(Role::Auditor) || is_own() {
            return Ok(receipt);
        }
        // The same answer as for a number that there is not: records are the auditors' business.
        let detail = format!("record {sequence} is not of an Unwrap by this user");
        Err(Denial::Refused { refusal: Refusal::NotFound, detail })
    }
}

fn parse_width(width: u32) -> Result<usize, Denial> {
    let width = usize::try_from(width).unwrap_or(usize::MAX);
    if (1..=WIDTH).contains(&width) { Ok(width) } else { Err(invalid("width: must be 1 to 256")) }
}
