//! `ApprovalService`.

use custodian_proto::{
    approval::Glass,
    refusal::Refusal,
    v1::{self, approval_service_server::ApprovalService},
};
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Accepted, invalid, is_admin},
    resource::{approval_id, page, page_size, page_start, required_reason, rows_for, timestamp},
};
use crate::{
    authority::{Approval, ApprovalState, Caller, DeviceId, Ending, Need, Role, UserId, Vote, Weight},
    custody::{Denial, Fault},
    ledger::{ApprovalQuery, Change, Changed, Intent},
};

const ADMIN: Need<'static> = Need::Role(Role::Admin);

#[tonic::async_trait]
impl ApprovalService for Api {
    async fn list_approvals(
        &self,
        request: Request<v1::ListApprovalsRequest>,
    ) -> Result<Response<v1::ListApprovalsResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let own = match is_admin(&accepted.call.caller) {
            true => None,
            false => accepted.call.caller.user.as_ref().map(|user| user.id.clone()),
        };
        let need = if own.is_some() { Need::Session } else { Need::Role(Role::Admin) };
        self.admit(&accepted, need, "ListApprovals").await?;
        let v1::ListApprovalsRequest { page_size: size, page_token, include_ended } = request.into_inner();
        let before = page_start(&page_token).map_err(|denial| accepted.status(denial))?;
        let size = page_size(size);
        let open_at = (!include_ended).then(Timestamp::now);
        let query = ApprovalQuery { user: own, open_at, before, limit: rows_for(size) };
        let approvals = self.custodian.ledger().approvals(query).await;
        let approvals = approvals.map_err(|error| accepted.status(error.into()))?;
        let (approvals, next_page_token) = page(approvals, size, |approval| approval.id.to_string());
        let approvals =
            approvals.into_iter().map(|approval| v1::Approval { request: Vec::new(), ..approval.into() });
        Ok(Response::new(v1::ListApprovalsResponse { approvals: approvals.collect(), next_page_token }))
    }

    async fn get_approval(
        &self,
        request: Request<v1::GetApprovalRequest>,
    ) -> Result<Response<v1::Approval>, Status> {
        let accepted = self.accept(&request).await?;
        let id = approval_id(&request.into_inner().name).map_err(|denial| accepted.status(denial))?;
        let found = self.custodian.ledger().approval(id).await;
        let found = found.map_err(|error| accepted.status(error.into()))?;
        let user = accepted.call.caller.user.as_ref().map(|user| &user.id);
        let is_own = found.as_ref().is_some_and(|approval| Some(&approval.request.user) == user);
        let need = if is_own { Need::Session } else { Need::Role(Role::Admin) };
        self.admit(&accepted, need, "GetApproval").await?;
        let found = found.ok_or_else(|| accepted.status(Refusal::NotFound.into()))?;
        Ok(Response::new(found.into()))
    }

    async fn approve(&self, request: Request<v1::ApproveRequest>) -> Result<Response<v1::Approval>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::ApproveRequest { name, request_sha256 } = request.into_inner();
        let parsed = approval_id(&name).and_then(|id| Ok((id, digest(&request_sha256)?)));
        let (id, digest) = self.parsed(&accepted, "Approve", parsed).await?;
        let found = self.custodian.ledger().approval(id).await;
        let found = found.map_err(|error| accepted.status(error.into()))?;
        let is_there = found.is_some();
        // The policy is asked with what is to be approved.
        let intent = Intent {
            target: id.resource_name(),
            key: found.as_ref().and_then(|approval| approval.request.key),
            approves: found.map(|approval| approval.request.operation).unwrap_or_default(),
            ..accepted.call.intent("Approve")
        };
        let who = approver(&accepted.call.caller);
        let approves = intent.approves.clone();
        let approve = async move {
            if !is_there {
                // One that is made meanwhile under this number the policy has not looked at.
                return Err(Refusal::NotFound.into());
            }
            let (user, device) = who?;
            Ok(Change::Approve { id, digest, approves, user, device })
        };
        self.change_approval(&accepted, ADMIN, intent, approve).await
    }

    async fn deny(&self, request: Request<v1::DenyRequest>) -> Result<Response<v1::Approval>, Status> {
        let accepted = self.accept_stop(&request).await?;
        let v1::DenyRequest { name, reason } = request.into_inner();
        let parsed = approval_id(&name).and_then(|id| Ok((id, required_reason(reason)?)));
        let (id, reason) = self.parsed(&accepted, "Deny", parsed).await?;
        let intent =
            Intent { target: id.resource_name(), reason: reason.clone(), ..accepted.call.intent("Deny") };
        let who = approver(&accepted.call.caller);
        let deny = async move {
            let (user, _) = who?;
            Ok(Change::Deny { id, user, reason })
        };
        self.change_approval(&accepted, ADMIN, intent, deny).await
    }

    async fn withdraw(
        &self,
        request: Request<v1::WithdrawRequest>,
    ) -> Result<Response<v1::Approval>, Status> {
        let accepted = self.accept(&request).await?;
        let id = self.parsed(&accepted, "Withdraw", approval_id(&request.into_inner().name)).await?;
        let intent = Intent { target: id.resource_name(), ..accepted.call.intent("Withdraw") };
        let who = approver(&accepted.call.caller);
        let withdraw = async move {
            let (user, _) = who?;
            Ok(Change::Withdraw { id, user })
        };
        self.change_approval(&accepted, Need::Session, intent, withdraw).await
    }
}

impl Api {
    async fn admit(
        &self,
        accepted: &Accepted,
        need: Need<'_>,
        operation: &'static str,
    ) -> Result<(), Status> {
        let admitted = self.custodian.admit(&accepted.call, need, operation).await;
        admitted.map_err(|denial| accepted.status(denial))
    }

    async fn change_approval(
        &self,
        accepted: &Accepted,
        need: Need<'static>,
        intent: Intent,
        change: impl Future<Output = Result<Change, Denial>> + Send + 'static,
    ) -> Result<Response<v1::Approval>, Status> {
        let prepare = async move { Ok((change.await?, ())) };
        match self.custodian.change(accepted.call.clone(), need, intent, prepare).await {
            Ok((Changed::Approval(approval), ())) => Ok(Response::new((*approval).into())),
            Ok(_) => Err(accepted.status(Fault::Internal("an approval's change left none".into()).into())),
            Err(denial) => Err(accepted.status(denial)),
        }
    }
}

/// Who approves, denies or withdraws, and on which device. Both are known once the caller is judged.
fn approver(caller: &Caller) -> Result<(UserId, DeviceId), Denial> {
    match (&caller.user, &caller.device) {
        (Some(user), Some(device)) => Ok((user.id.clone(), device.id.clone())),
        _ => Err(Refusal::NotLoggedIn.into()),
    }
}

fn digest(hex: &str) -> Result<[u8; 32], Denial> {
    let digest = hex::decode(hex).ok().and_then(|bytes| bytes.try_into().ok());
    digest.ok_or_else(|| {
        invalid("request_sha256: must be the 64 hex digits of the approval that was looked at")
    })
}

impl From<Approval> for v1::Approval {
    fn from(approval: Approval) -> Self {
        let state = v1::ApprovalState::from(approval.state(Timestamp::now()));
        let request_sha256 = hex::encode(approval.request.digest());
        let Approval { id, request, created, votes, ending } = approval;
        let (denied_by, deny_reason, used_sequence) = match ending {
            Some(Ending::Denied { by, reason }) => (by.resource_name(), reason, 0),
            Some(Ending::Used { sequence }) => (String::new(), String::new(), sequence),
            Some(Ending::Withdrawn) | None => Default::default(),
        };
        Self {
            name: id.resource_name(),
            state: state.into(),
            user: request.user.resource_name(),
            device: request.device.resource_name(),
            peer_ip: request.ip.to_string(),
            operation: request.operation,
            target: request.target,
            key: request.key.map(|key| key.resource_name()).unwrap_or_default(),
            reason: request.reason,
            claims: request.claims,
            request: request.message,
            request_sha256,
            break_glass: request.glass == Glass::Broken,
            needed: request.needed.get(),
            votes: votes.into_iter().map(v1::Vote::from).collect(),
            create_time: Some(timestamp(created)),
            expire_time: Some(timestamp(request.expires)),
            denied_by,
            deny_reason,
            used_sequence,
        }
    }
}

impl From<Vote> for v1::Vote {
    fn from(vote: Vote) -> Self {
        Self {
            user: vote.user.resource_name(),
            device: vote.device.resource_name(),
            time: Some(timestamp(vote.time)),
            counts: vote.weight == Weight::Counts,
        }
    }
}

impl From<ApprovalState> for v1::ApprovalState {
    fn from(state: ApprovalState) -> Self {
        match state {
            ApprovalState::Pending => Self::Pending,
            ApprovalState::Approved => Self::Approved,
            ApprovalState::Denied => Self::Denied,
            ApprovalState::Used => Self::Used,
            ApprovalState::Expired => Self::Expired,
            ApprovalState::Withdrawn => Self::Withdrawn,
        }
    }
}
