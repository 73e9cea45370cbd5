//! The log of every attempt.

use std::ops::ControlFlow;

use custodian_proto::{
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    v1::{self, audit_service_client::AuditServiceClient},
};

use super::{Remote, session::Signed};
use crate::error::{Error, Kind, Result};

/// In which order records are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// As they were written.
    OldestFirst,
    /// The last one first.
    NewestFirst,
}

/// Records, and whether there are more that match.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Those asked for.
    pub records: Vec<v1::Record>,
    /// More match than were asked for.
    pub more: bool,
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
    /// At most `limit` records that match.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn records(&self, filter: &v1::RecordFilter, order: Order, limit: usize) -> Result<Records> {
        let mut found = Records::default();
        let mut page_token = String::new();
        while found.records.len() < limit {
            let left = u32::try_from(limit - found.records.len()).unwrap_or(u32::MAX);
            let request = v1::ListRecordsRequest {
                filter: Some(filter.clone()),
                page_size: left.min(MAX_PAGE_SIZE),
                page_token,
                newest_first: order == Order::NewestFirst,
            };
            let page = self.call("cannot list records", async |service| {
                client(service).list_records(request.clone()).await
            })?;
            found.records.extend(page.records);
            page_token = page.next_page_token;
            found.more = !page_token.is_empty();
            if !found.more {
                break;
            }
        }
        if found.records.len() > limit {
            found.records.truncate(limit);
            found.more = true;
        }
        Ok(found)
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
