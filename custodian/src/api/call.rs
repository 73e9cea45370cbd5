//! From a tonic request to a [`Call`]: who asks, under which id.

use std::{sync::Arc, time::Instant};

use custodian_proto::{
    approval::{BREAK_GLASS, BREAK_GLASS_METADATA, Glass},
    refusal::Refusal,
};
use prost::Message;
use tonic::{Request, Status};
use tracing::{Instrument as _, trace_span};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Api, room::Lane, status::to_status};
use crate::{
    authority::{Asked, AskedRequest, Caller, Need, Peer, Role},
    custody::{Call, Denial, Fault},
};

/// A call that was let in.
pub(super) struct Accepted {
    pub(super) call: Call,
}

impl Accepted {
    /// The status for a denial of this call.
    pub(super) fn status(&self, denial: Denial) -> Status {
        to_status(&denial, self.call.request_id)
    }
}

impl Api {
    /// Lets a call in if there is room, and finds out who asks. With no room the answer comes at once; of such calls only the
    /// number is recorded, each minute. Callers without an active device and a session have little room, so that
    /// they cannot fill the log.
    pub(super) async fn accept<T: Message>(&self, request: &Request<T>) -> Result<Accepted, Status> {
        self.accept_as(request, T::encode_to_vec).await
    }

    /// [`Api::accept`] for an administrator's call that stops somebody or something. With no room left it has a lane of its
    /// own: who must be stopped may be the one who takes the room.
    pub(super) async fn accept_stop<T: Message>(&self, request: &Request<T>) -> Result<Accepted, Status> {
        self.accept_in(Lane::Stopping, request, T::encode_to_vec).await
    }

    /// [`Api::accept`] for requests with a password: `without` is the message without it. Approvals are bound to that,
    /// since its hash is kept, and passwords can be guessed by their hash.
    pub(super) async fn accept_as<T>(
        &self,
        request: &Request<T>,
        without: impl FnOnce(&T) -> Vec<u8>,
    ) -> Result<Accepted, Status> {
        self.accept_in(Lane::Common, request, without).await
    }

    /// [`Api::accept_as`] for calls that ask a token.
    pub(super) async fn accept_for_token<T>(
        &self,
        request: &Request<T>,
        without: impl FnOnce(&T) -> Vec<u8>,
    ) -> Result<Accepted, Status> {
        self.accept_in(Lane::Token, request, without).await
    }

    async fn accept_in<T>(
        &self,
        lane: Lane,
        request: &Request<T>,
        without: impl FnOnce(&T) -> Vec<u8>,
    ) -> Result<Accepted, Status> {
        let arrived = Instant::now();
        let request_id = Uuid::now_v7();
        let denied = |denial: Denial| to_status(&denial, request_id);
        let room = self.room.enter(lane);
        let (place, lane) = room.ok_or_else(|| self.room.refuse(request_id))?;
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| denied(Fault::Internal("the connection has no peer".into()).into()))?;
        let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        let authority = self.custodian.authority();
        let caller = authority.identify(peer, token).instrument(trace_span!("identify")).await;
        let caller = caller.map_err(denied)?;
        if lane == Lane::Stopping && !(authority.has_session(&caller) && is_admin(&caller)) {
            return Err(self.room.refuse(request_id));
        }
        if !authority.has_session(&caller) && !self.strangers.admit(&caller) {
            return Err(denied(Refusal::Overloaded.into()));
        }
        let asked = match authority.policy().asks_for_approvals() {
            true => {
                let glass = glass(request).map_err(denied)?;
                Asked::Kept(Arc::new(AskedRequest {
                    message: Zeroizing::new(without(request.get_ref())),
                    glass,
                }))
            }
            false => Asked::NotKept,
        };
        Ok(Accepted { call: Call { request_id, arrived, caller, asked, place } })
    }

    /// [`Api::accept`] for calls that only read: also says whether the caller may.
    pub(super) async fn accept_reader<T: Message>(
        &self,
        request: &Request<T>,
        need: Need<'_>,
        operation: &'static str,
    ) -> Result<Accepted, Status> {
        let accepted = self.accept(request).await?;
        self.custodian
            .admit(&accepted.call, need, operation)
            .await
            .map_err(|denial| accepted.status(denial))?;
        Ok(accepted)
    }

    /// The parsed request; or, if it makes no sense, the answer that says so, after that is recorded.
    pub(super) async fn parsed<T>(
        &self,
        accepted: &Accepted,
        operation: &'static str,
        parsed: Result<T, Denial>,
    ) -> Result<T, Status> {
        match parsed {
            Ok(parsed) => Ok(parsed),
            Err(denial) => {
                let refused = self.custodian.refuse(&accepted.call, operation, denial).await;
                refused.map_err(|denial| accepted.status(denial))
            }
        }
    }
}

pub(super) fn is_admin(caller: &Caller) -> bool {
    caller.user.as_ref().is_some_and(|user| user.roles.contains(Role::Admin))
}

/// Whether a request asks to break the glass.
fn glass<T>(request: &Request<T>) -> Result<Glass, Denial> {
    match request.metadata().get(BREAK_GLASS_METADATA).map(|value| value.as_bytes()) {
        None => Ok(Glass::Whole),
        Some(value) if value == BREAK_GLASS.as_bytes() => Ok(Glass::Broken),
        Some(_) => Err(invalid(format!("{BREAK_GLASS_METADATA}: must be {BREAK_GLASS:?}"))),
    }
}

/// The refusal of a request that makes no sense.
pub(super) fn invalid(detail: impl Into<String>) -> Denial {
    Denial::Refused { refusal: Refusal::InvalidArgument, detail: detail.into() }
}
