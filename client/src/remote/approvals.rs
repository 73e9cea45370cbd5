//! Approvals: given, denied, and waited for.

use std::time::{Duration, Instant};

use custodian_proto::{
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    refusal::Refusal,
    v1::{self, ApprovalState, approval_service_client::ApprovalServiceClient},
};

use super::{
    Remote,
    session::Signed,
    status::{Failure, WaitsFor, approve_first},
};
use crate::error::{Error, Kind, Result};

/// How long to wait before the custodian is asked whether a request is approved.
const SOON: Duration = Duration::from_secs(1);
/// As [`SOON`], once it has taken longer than [`LONG`].
const LATER: Duration = Duration::from_secs(5);
/// People who have not answered by then take their time.
const LONG: Duration = Duration::from_secs(60);

/// How long to wait for approvals, and whom to tell about it.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// At most this long, for all that one call waits for. `None`: until the request expires.
    pub longest: Option<Duration>,
    /// Told once for each approval, what it waits for.
    pub tell: fn(&str),
}

impl Patience {
    /// Until when, if it begins now. `None`: as long as there is something to wait for.
    pub(super) fn deadline(self) -> Option<Instant> {
        self.longest.and_then(|longest| Instant::now().checked_add(longest))
    }
}

/// All of these fail as any call does: refused, unreachable, interrupted.
impl Remote {
    /// What waits for approval, newest first; with `ended`, what is over, too.
    ///
    /// # Errors
    /// Those of any call.
    pub fn approvals(&self, ended: Ended) -> Result<Vec<v1::Approval>> {
        let mut approvals = Vec::new();
        let mut page_token = String::new();
        loop {
            let include_ended = ended == Ended::Included;
            let request = v1::ListApprovalsRequest { page_size: MAX_PAGE_SIZE, page_token, include_ended };
            let page = self.call("cannot list approvals", async |service| {
                client(service).list_approvals(request.clone()).await
            })?;
            approvals.extend(page.approvals);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(approvals);
            }
        }
    }

    /// One of them, with the request.
    ///
    /// # Errors
    /// Those of any call.
    pub fn approval(&self, name: &str) -> Result<v1::Approval> {
        Ok(self.read_approval("cannot show the approval", name)?)
    }

    /// Approves the request of this SHA-256.
    ///
    /// # Errors
    /// Those of any call.
    pub fn approve(&self, name: &str, request_sha256: &str) -> Result<v1::Approval> {
        let (name, request_sha256) = (name.to_owned(), request_sha256.to_owned());
        let request = v1::ApproveRequest { name, request_sha256 };
        Ok(self.call("cannot approve", async |service| client(service).approve(request.clone()).await)?)
    }

    /// Denies a request.
    ///
    /// # Errors
    /// Those of any call.
    pub fn deny(&self, name: &str, reason: &str) -> Result<v1::Approval> {
        let request = v1::DenyRequest { name: name.to_owned(), reason: reason.to_owned() };
        Ok(self.call("cannot deny", async |service| client(service).deny(request.clone()).await)?)
    }

    /// Takes one's own request back.
    ///
    /// # Errors
    /// Those of any call.
    pub fn withdraw(&self, name: &str) -> Result<v1::Approval> {
        let request = v1::WithdrawRequest { name: name.to_owned() };
        Ok(self.call("cannot withdraw", async |service| client(service).withdraw(request.clone()).await)?)
    }

    /// Returns once enough others have approved.
    pub(super) fn until_approved(
        &self,
        what: &str,
        waits_for: &WaitsFor,
        patience: Patience,
        deadline: Option<Instant>,
    ) -> std::result::Result<(), Failure> {
        let WaitsFor { name, needed } = waits_for;
        let id = waits_for.id();
        (patience.tell)(&format!(
            "waits for approval ({needed} needed): custodianctl approval approve {id}. Ctrl-C leaves the request as it is, and \
             the same command goes on with it"
        ));
        let began = Instant::now();
        loop {
            let pause = if began.elapsed() < LONG { SOON } else { LATER };
            let left = deadline.map_or(pause, |deadline| deadline.saturating_duration_since(Instant::now()));
            self.wire.pause(what, pause.min(left)).map_err(|error| error.hint(approve_first(waits_for)))?;
            let approval = self.read_approval(what, name)?;
            let over = |refusal: Refusal, why: String| {
                Failure::from(Error::new(Kind::Refused, what, why).hint(refusal.hint()))
            };
            match approval.state() {
                ApprovalState::Approved => return Ok(()),
                ApprovalState::Denied => {
                    let v1::Approval { denied_by, deny_reason, .. } = approval;
                    let code = Refusal::ApprovalDenied.code();
                    let why = format!("{denied_by} denied it: {deny_reason} ({code}, {name})");
                    return Err(over(Refusal::ApprovalDenied, why));
                }
                ApprovalState::Expired => {
                    let refusal = Refusal::ApprovalExpired;
                    return Err(over(refusal, format!("{} ({}, {name})", refusal.text(), refusal.code())));
                }
                ApprovalState::Used => {
                    let refusal = Refusal::ApprovalUsed;
                    return Err(over(refusal, format!("{} ({}, {name})", refusal.text(), refusal.code())));
                }
                ApprovalState::Withdrawn => {
                    let refusal = Refusal::ApprovalWithdrawn;
                    return Err(over(refusal, format!("{} ({}, {name})", refusal.text(), refusal.code())));
                }
                ApprovalState::Pending | ApprovalState::Unspecified => {}
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let refusal = Refusal::ApprovalRequired;
                let why = format!("{}, and nobody gave it in time ({})", refusal.text(), refusal.code());
                let error = Error::new(Kind::WaitsForApproval, what, why).hint(approve_first(waits_for));
                return Err(error.into());
            }
        }
    }

    fn read_approval(&self, what: &str, name: &str) -> std::result::Result<v1::Approval, Failure> {
        let request = v1::GetApprovalRequest { name: name.to_owned() };
        self.call_once(what, &async |service| client(service).get_approval(request.clone()).await)
    }
}

/// Which approvals to list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Those that are over, too.
    Included,
    /// Only what waits, or may be used.
    LeftOut,
}

fn client(service: Signed) -> ApprovalServiceClient<Signed> {
    ApprovalServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}
