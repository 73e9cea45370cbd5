//! `BudgetService`.

use custodian_proto::{
    limits::{MAX_CHECKED_FILES, MAX_PAGE_SIZE},
    refusal::Refusal,
    v1::{self, budget_service_server::BudgetService},
};
use jiff::{SignedDuration, Timestamp};
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::invalid,
    resource::{
        device_id, from_timestamp, key_id, page, page_size, required_reason, rows_for, timestamp, user_id,
    },
};
use crate::{
    authority::{Amounts, Budgets, Lift, Lock, Need, Role, Span, Spender, Tally},
    custody::{Denial, Fault},
    ledger::{Change, Changed, Intent, KeyFiles, LedgerError, ManyFiles},
};

/// Most unwraps that one lift allows.
const MOST_LIFTED: u32 = 1_000_000;

/// The longest lift.
const LONGEST_LIFT: SignedDuration = SignedDuration::from_hours(31 * 24);

#[tonic::async_trait]
impl BudgetService for Api {
    async fn list_budgets(
        &self,
        request: Request<v1::ListBudgetsRequest>,
    ) -> Result<Response<v1::ListBudgetsResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "ListBudgets").await?;
        let v1::ListBudgetsRequest { page_size: asked, page_token: after } = request.into_inner();
        let ledger = self.custodian.ledger();
        let denied = |error: LedgerError| accepted.status(error.into());
        let size = page_size(asked);
        let budgets = ledger.budgets(&after, rows_for(size)).await.map_err(denied)?;
        let (budgets, next_page_token) = page(budgets, size, |(spender, _)| spender.clone());
        let limits = self.limits();
        let shown = |(name, tally): (String, Tally)| {
            Some(shown(&Spender::from_resource_name(&name)?, tally, &limits))
        };
        let locks = match after.as_str() {
            "" => ledger.locks(MAX_PAGE_SIZE).await.map_err(denied)?,
            _ => Vec::new(),
        };
        Ok(Response::new(v1::ListBudgetsResponse {
            budgets: budgets.into_iter().filter_map(shown).collect(),
            next_page_token,
            locks: locks.into_iter().map(v1::UnwrapLock::from).collect(),
        }))
    }

    async fn get_budget(
        &self,
        request: Request<v1::GetBudgetRequest>,
    ) -> Result<Response<v1::Budget>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "GetBudget").await?;
        let found = async {
            let spender = spender(&request.into_inner().spender)?;
            let tally = self.custodian.ledger().budget(&spender).await?.ok_or(Refusal::NotFound)?;
            Ok(shown(&spender, tally, &self.limits()))
        };
        found.await.map(Response::new).map_err(|denial: Denial| accepted.status(denial))
    }

    async fn lift_budget(
        &self,
        request: Request<v1::LiftBudgetRequest>,
    ) -> Result<Response<v1::Budget>, Status> {
        let accepted = self.accept(&request).await?;
        let by = accepted.call.caller.user.as_ref().map(|user| user.id.resource_name()).unwrap_or_default();
        let parsed = lift(request.into_inner(), by);
        let (spender, lift, reason) = self.parsed(&accepted, "LiftBudget", parsed).await?;
        let intent = Intent { target: spender.resource_name(), reason, ..accepted.call.intent("LiftBudget") };
        let change = Change::LiftBudget { spender: spender.clone(), lift };
        let (call, admin) = (accepted.call.clone(), Need::Role(Role::Admin));
        let lifted = self.custodian.change(call, admin, intent, async move { Ok((change, ())) }).await;
        match lifted.map_err(|denial| accepted.status(denial))? {
            (Changed::Budget(tally), ()) => Ok(Response::new(shown(&spender, tally, &self.limits()))),
            _ => Err(accepted.status(Fault::Internal("the ledger returned no budget".into()).into())),
        }
    }

    async fn unlock_unwrap(
        &self,
        request: Request<v1::UnlockUnwrapRequest>,
    ) -> Result<Response<v1::UnlockUnwrapResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::UnlockUnwrapRequest { user, device, reason } = request.into_inner();
        let parsed =
            user_id(&user).and_then(|user| Ok((user, device_id(&device)?, required_reason(reason)?)));
        let (user, device, reason) = self.parsed(&accepted, "UnlockUnwrap", parsed).await?;
        let intent = Intent { target: user.resource_name(), reason, ..accepted.call.intent("UnlockUnwrap") };
        let change = Change::UnlockUnwrap { user, device };
        let (call, admin) = (accepted.call.clone(), Need::Role(Role::Admin));
        let unlocked = self.custodian.change(call, admin, intent, async move { Ok((change, ())) }).await;
        unlocked.map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::UnlockUnwrapResponse {}))
    }

    async fn check_budget(
        &self,
        request: Request<v1::CheckBudgetRequest>,
    ) -> Result<Response<v1::CheckBudgetResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Session, "CheckBudget").await?;
        let room = async {
            let caller = &accepted.call.caller;
            let (Some(user), Some(device)) = (&caller.user, &caller.device) else {
                return Err(Fault::Internal("a session has no user or device".into()).into());
            };
            let (user, device) = (user.id.clone(), device.id.clone());
            let keys = files(&request.into_inner())?;
            let many = ManyFiles { user, device, keys, budgets: self.limits() };
            self.custodian.ledger().room_for(many).await?
        };
        match room.await {
            Ok(()) => Ok(Response::new(v1::CheckBudgetResponse {})),
            Err(denial) => {
                let refused = self.custodian.refuse(&accepted.call, "CheckBudget", denial).await;
                refused.map_err(|denial| accepted.status(denial))
            }
        }
    }
}

impl Api {
    fn limits(&self) -> Budgets {
        self.custodian.authority().rules().budgets
    }
}

fn spender(name: &str) -> Result<Spender, Denial> {
    Spender::from_resource_name(name)
        .ok_or_else(|| invalid("spender: must be users/ID, devices/ID or keys/KEY_ID"))
}

fn lift(request: v1::LiftBudgetRequest, by: String) -> Result<(Spender, Option<Lift>, String), Denial> {
    let v1::LiftBudgetRequest { spender: name, count, expire_time, reason } = request;
    let (spender, reason) = (spender(&name)?, required_reason(reason)?);
    if count == 0 {
        return Ok((spender, None, reason));
    }
    if count > MOST_LIFTED {
        return Err(invalid(format!("count: may be {MOST_LIFTED}")));
    }
    let until = expire_time.ok_or_else(|| invalid("expire_time: is required"))?;
    let (until, now) = (from_timestamp(until, "expire_time")?, Timestamp::now());
    if until <= now || until > now + LONGEST_LIFT {
        return Err(invalid("expire_time: must be within the next 31 days"));
    }
    let lift = Lift { count, left: count, until, reason: reason.clone(), by };
    Ok((spender, Some(lift), reason))
}

fn files(request: &v1::CheckBudgetRequest) -> Result<Vec<KeyFiles>, Denial> {
    let mut keys = Vec::with_capacity(request.keys.len());
    let mut count = 0;
    for v1::KeyFiles { key, wrapped_key_sha256s } in &request.keys {
        let (files, rest) = wrapped_key_sha256s.as_chunks::<32>();
        if files.is_empty() || !rest.is_empty() {
            return Err(invalid("keys.wrapped_key_sha256s: must be hashes of 32 bytes each"));
        }
        count += files.len();
        if count > MAX_CHECKED_FILES {
            return Err(invalid(format!("keys: may be {MAX_CHECKED_FILES} files in one request")));
        }
        keys.push((key_id(key)?, files.to_vec()));
    }
    Ok(keys)
}

fn shown(spender: &Spender, tally: Tally, limits: &Budgets) -> v1::Budget {
    let budget = limits.of(spender.kind());
    let spending = |span: Span, limit: Amounts| {
        let window = tally.window(span);
        v1::Spending {
            files: window.files,
            files_limit: limit.files,
            unwraps: window.unwraps,
            unwraps_limit: limit.unwraps,
            end_time: Some(timestamp(span.end(window.number))),
        }
    };
    v1::Budget {
        spender: spender.resource_name(),
        hour: Some(spending(Span::Hour, budget.hour)),
        day: Some(spending(Span::Day, budget.day)),
        lift: tally.lift.map(|lift| v1::Lift {
            count: lift.count,
            left: lift.left,
            expire_time: Some(timestamp(lift.until)),
            reason: lift.reason,
            lifted_by: lift.by,
        }),
    }
}

impl From<Lock> for v1::UnwrapLock {
    fn from(lock: Lock) -> Self {
        Self { user: lock.user, device: lock.device, expire_time: Some(timestamp(lock.until)) }
    }
}
