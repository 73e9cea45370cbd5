//! `AuditService`.

use std::{pin::Pin, sync::Arc, time::Duration};

use custodian_proto::{
    limits::MAX_PAGE_SIZE,
    v1::{self, audit_service_server::AuditService},
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::Accepted,
    resource::{from_timestamp, page, page_size, page_start, rows_for},
};
use crate::{
    authority::{Asked, Need, Role},
    custody::{Call, Denial, Place},
    ledger::RecordQuery,
};

/// A reader of a tail that takes nothing for this long has lost its place.
const SLOWEST_READER: Duration = Duration::from_secs(30);

/// A tail without news asks this often whether it may go on.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

#[tonic::async_trait]
impl AuditService for Api {
    async fn list_records(
        &self,
        request: Request<v1::ListRecordsRequest>,
    ) -> Result<Response<v1::ListRecordsResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Auditor), "ListRecords").await?;
        let request = request.into_inner();
        let size = page_size(request.page_size);
        let query = parse_query(request, rows_for(size)).map_err(|denial| accepted.status(denial))?;
        let records = self.custodian.ledger().records(query).await;
        let records = records.map_err(|error| accepted.status(error.into()))?;
        let (records, next_page_token) = page(records, size, |record| record.sequence.to_string());
        Ok(Response::new(v1::ListRecordsResponse { records, next_page_token }))
    }

    type TailRecordsStream = Pin<Box<dyn Stream<Item = Result<v1::Record, Status>> + Send>>;

    async fn tail_records(
        &self,
        request: Request<v1::TailRecordsRequest>,
    ) -> Result<Response<Self::TailRecordsStream>, Status> {
        let Accepted { call } =
            self.accept_reader(&request, Need::Role(Role::Auditor), "TailRecords").await?;
        // A tail has a place among the tails instead.
        let call = Call { place: Place::default(), ..call };
        let status = |denial: Denial| super::to_status(&denial, call.request_id);
        let request = request.into_inner();
        let mut query = parse_filter(request.filter.unwrap_or_default()).map_err(status)?;
        let newest = *self.custodian.ledger().last_sequence().borrow();
        query.beyond = Some(match (request.after_sequence, request.from_start) {
            (0, true) => 0,
            (0, false) => newest,
            (sequence, _) => sequence,
        });
        query.limit = MAX_PAGE_SIZE;
        let place = self.tails.clone().try_acquire_owned().map_err(|_| self.room.refuse(call.request_id))?;
        // A reader who does not keep up slows down its own stream, not the ledger; see SLOWEST_READER.
        let (sender, receiver) = mpsc::channel(64);
        let device = call.caller.peer.certificate.spki;
        let stream = self.streams.open(call.request_id, device, ReceiverStream::new(receiver));
        let api = self.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Err(status) = api.tail(&call, query, &sender).await {
                // The reader may be gone: then there is nobody to tell.
                sender.send(Err(status)).await.ok();
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Api {
    /// Sends what is there, then what comes, until the reader goes away or may no longer read.
    async fn tail(
        &self,
        call: &Call,
        mut query: RecordQuery,
        sender: &mpsc::Sender<Result<v1::Record, Status>>,
    ) -> Result<(), Status> {
        let status = |denial: Denial| super::to_status(&denial, call.request_id);
        let ledger = Arc::clone(self.custodian.ledger());
        let mut news = ledger.last_sequence();
        loop {
            news.borrow_and_update();
            // Who was allowed when the stream began may be revoked by now.
            let caller = self.custodian.authority().look_again(&call.caller).await.map_err(status)?;
            // An approval, if it took one, was used when it began.
            let now = Call { caller, asked: Asked::GoesOn, ..call.clone() };
            self.custodian.admit(&now, Need::Role(Role::Auditor), "TailRecords").await.map_err(status)?;
            let records = ledger.records(query.clone()).await.map_err(|error| status(error.into()))?;
            let full = records.len() == query.limit as usize;
            for record in records {
                query.beyond = Some(record.sequence);
                tokio::select! {
                    sent = tokio::time::timeout(SLOWEST_READER, sender.send(Ok(record))) => {
                        if !matches!(sent, Ok(Ok(()))) {
                            return Ok(());
                        }
                    }
                    () = self.shutdown.cancelled() => return Ok(()),
                }
            }
            if full {
                continue;
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return Ok(()) },
                // A tail in use is a session in use; and what was revoked meanwhile ends without news, too.
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = sender.closed() => return Ok(()),
                () = self.shutdown.cancelled() => return Ok(()),
            }
        }
    }
}

fn parse_query(request: v1::ListRecordsRequest, limit: u32) -> Result<RecordQuery, Denial> {
    let mut query = parse_filter(request.filter.unwrap_or_default())?;
    query.limit = limit;
    query.newest_first = request.newest_first;
    query.beyond = page_start(&request.page_token)?;
    Ok(query)
}

fn parse_filter(filter: v1::RecordFilter) -> Result<RecordQuery, Denial> {
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(RecordQuery {
        user: given(filter.user),
        device: given(filter.device),
        key: given(filter.key),
        wrapped_key_sha256: given(filter.wrapped_key_sha256),
        operation: given(filter.operation),
        outcome: given(filter.outcome),
        break_glass: filter.break_glass,
        start: filter.start_time.map(|time| from_timestamp(time, "filter.start_time")).transpose()?,
        end: filter.end_time.map(|time| from_timestamp(time, "filter.end_time")).transpose()?,
        ..RecordQuery::default()
    })
}
