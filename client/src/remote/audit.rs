//! The log of every attempt.

use std::ops::ControlFlow;

use custodian_proto::{
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    v1::{self, audit_service_client::AuditServiceClient},
};

use super::{Remote, session::Signed};
use crate::{
    error::{Error, Kind, Result},
    log::matches,
};

/// In which order records are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// As they were written.
    OldestFirst,
    /// The last one first.
    NewestFirst,
}

/// Where a tail starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TailFrom {
    /// With what is recorded from now on.
    Now,
    /// With the first record.
    Start,
    /// With the record after this sequence number.
    After(u64),
}

impl Remote {
    /// Hands at most `limit` records that match to `each`, page by page. Returns whether more match.
    ///
    /// The custodian finds them by an index beside the log. What it hands out is the logged entry, and must match.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted; [`Kind::Integrity`] if a record does not match; those of `each`.
    pub fn each_record(
        &self,
        filter: &v1::RecordFilter,
        order: Order,
        limit: usize,
        each: &mut impl FnMut(v1::Record) -> Result<()>,
    ) -> Result<bool> {
        let what = "cannot list records";
        let mut page_token = String::new();
        let mut left = limit;
        while left > 0 {
            let request = v1::ListRecordsRequest {
                filter: Some(filter.clone()),
                page_size: u32::try_from(left).unwrap_or(u32::MAX).min(MAX_PAGE_SIZE),
                page_token,
                newest_first: order == Order::NewestFirst,
            };
            let page =
                self.call(what, async |service| client(service).list_records(request.clone()).await)?;
            page_token = page.next_page_token;
            let more = !page_token.is_empty() || page.records.len() > left;
            for record in page.records.into_iter().take(left) {
                if !matches(filter, &record) {
                    let why = format!(
                        "the index says that record {} matches, but what was logged does not: somebody changed the \
                         ledger's file",
                        record.sequence
                    );
                    return Err(Error::new(Kind::Integrity, what, why)
                        .hint("keep a copy of it; --proven searches without the index"));
                }
                left -= 1;
                each(record)?;
            }
            if !more || left == 0 {
                return Ok(more);
            }
        }
        Ok(false)
    }

    /// Hands every record that matches to `each` as it becomes durable, until `each` breaks or fails.
    ///
    /// # Errors
    /// Those of any call; the custodian ended the stream; those of `each`.
    pub fn tail(
        &self,
        filter: &v1::RecordFilter,
        from: TailFrom,
        mut each: impl FnMut(v1::Record) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let what = "cannot follow the log";
        let (after_sequence, from_start) = match from {
            TailFrom::Now => (0, false),
            TailFrom::Start | TailFrom::After(0) => (0, true),
            TailFrom::After(sequence) => (sequence, false),
        };
        let request = v1::TailRecordsRequest { filter: Some(filter.clone()), after_sequence, from_start };
        let mut stream =
            self.call(what, async |service| client(service).tail_records(request.clone()).await)?;
        while let Some(record) = self.wire.next(what, &mut stream)? {
            if each(record)?.is_break() {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Unreachable, what, "the custodian ended the stream")
            .hint("it may be restarting: try again, with --after the last sequence number you saw"))
    }
}

fn client(service: Signed) -> AuditServiceClient<Signed> {
    AuditServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}
