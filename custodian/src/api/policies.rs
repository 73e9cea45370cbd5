//! `PolicyService`.

use std::{collections::HashMap, net::IpAddr, net::Ipv4Addr, sync::Arc};

use custodian_proto::{
    limits::MAX_PAGE_SIZE,
    refusal::Refusal,
    v1::{self, policy_service_server::PolicyService},
};
use jiff::{SignedDuration, Timestamp};
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::invalid,
    resource::{
        device_id, from_timestamp, key_id, page, page_size, page_start, reason, rows_for, timestamp, user_id,
    },
    without::Gone,
};
use crate::{
    authority::{Answer, Device, Need, Policy, PolicyText, Question, Role, User, Verdict},
    custody::{Denial, Fault},
    ledger::{Change, Changed, Intent, OK, RecordQuery},
};

/// Records that are read at once when a policy is tried on them.
const AT_ONCE: u32 = 1_000;

/// Most records that a policy is tried on.
const MOST_RECORDS: u64 = 20_000;

/// Most differences that are listed.
const MOST_DIFFERENCES: usize = 1_000;

/// How many days back a policy is tried, unless told otherwise, and at most.
const DAYS: u32 = 30;
const MOST_DAYS: u32 = 366;

#[tonic::async_trait]
impl PolicyService for Api {
    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "GetPolicy").await?;
        let policy = self.custodian.ledger().policy().await;
        let policy = policy.map_err(|error| accepted.status(error.into()))?;
        Ok(Response::new(v1::GetPolicyResponse {
            policy: Some(policy.unwrap_or_else(PolicyText::initial).into()),
            schema: Policy::schema_text(),
        }))
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "ListPolicies").await?;
        let request = request.into_inner();
        let before = page_start(&request.page_token).map_err(|denial| accepted.status(denial))?;
        let size = page_size(request.page_size);
        let policies = self.custodian.ledger().policies(before, rows_for(size)).await;
        let policies = policies.map_err(|error| accepted.status(error.into()))?;
        let (policies, next_page_token) = page(policies, size, |policy| policy.version.to_string());
        let policies = policies.into_iter().map(|policy| PolicyText { text: String::new(), ..policy }.into());
        Ok(Response::new(v1::ListPoliciesResponse { policies: policies.collect(), next_page_token }))
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::ApplyPolicyRequest { text, base_version, reason: why } = request.into_inner();
        let version = base_version.saturating_add(1);
        let reason = self.parsed(&accepted, "ApplyPolicy", reason(why)).await?;
        let intent = Intent {
            target: format!("policies/{version}"),
            reason: reason.clone(),
            ..accepted.call.intent("ApplyPolicy")
        };
        let caller = accepted.call.caller.clone();
        let applied_by = caller.user.as_ref().map(|user| user.id.clone());
        let now = Timestamp::now();
        let shown = caller.session.as_ref().and_then(|session| session.factor);
        // Who can show a second factor can show it again for the next one.
        let can_show = caller.user.as_ref().is_some_and(|user| user.factor.enrolled);
        let question = Question::of(&caller, "ApplyPolicy", now).map(|question| Question {
            factor: if can_show { Some(now) } else { shown },
            target: intent.target.clone(),
            reason: reason.clone(),
            cosigners: self.custodian.authority().cosigners(Timestamp::now()),
            ..question
        });
        let api = self.clone();
        let apply = async move {
            let policy = read(version, text.clone()).await?;
            let question = question.ok_or(Refusal::NotLoggedIn)?;
            let verdict = policy.decide(&question)?;
            let approvers = match verdict.decision {
                Answer::Allowed => 0,
                Answer::Approvals(needed) => api.enough_approve(&policy, &question, needed.get()).await?,
                Answer::Denied => {
                    let why = format!("text: with it you could not apply the next one: {verdict}");
                    return Err(invalid(why));
                }
            };
            let applied = Timestamp::now();
            let policy_text = PolicyText { version, text, applied_by, applied, reason };
            Ok((Change::ApplyPolicy { policy: policy_text, approvers }, policy))
        };
        let need = Need::Role(Role::Admin);
        let custodian = Arc::clone(&self.custodian);
        let put_in_force = move |_: &Changed, policy| custodian.authority().set_policy(policy);
        let applied =
            self.custodian.change_and(accepted.call.clone(), need, intent, apply, put_in_force).await;
        match applied.map_err(|denial| accepted.status(denial))? {
            (Changed::Policy(text), ()) => Ok(Response::new(text.into())),
            _ => Err(accepted.status(Fault::Internal("the ledger returned no policy".into()).into())),
        }
    }

    async fn test_policy(
        &self,
        request: Request<v1::TestPolicyRequest>,
    ) -> Result<Response<v1::TestPolicyResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "TestPolicy").await?;
        let v1::TestPolicyRequest { text, days } = request.into_inner();
        let tested = async {
            let policy = self.policy_or_read(text).await?;
            self.try_policy(&policy, days_back(days)?).await
        };
        tested.await.map(Response::new).map_err(|denial| accepted.status(denial))
    }

    async fn explain_without(
        &self,
        request: Request<v1::ExplainWithoutRequest>,
    ) -> Result<Response<v1::ExplainWithoutResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "ExplainWithout").await?;
        let v1::ExplainWithoutRequest { name, days } = request.into_inner();
        let told = async { self.without(&Gone::parse(&name)?, days_back(days)?).await };
        told.await.map(Response::new).map_err(|denial: Denial| accepted.status(denial))
    }

    async fn explain_policy(
        &self,
        request: Request<v1::ExplainPolicyRequest>,
    ) -> Result<Response<v1::ExplainPolicyResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Role(Role::Admin), "ExplainPolicy").await?;
        let mut request = request.into_inner();
        let text = std::mem::take(&mut request.text);
        let explained = async {
            let policy = self.policy_or_read(text).await?;
            let question = self.question(request).await?;
            let Verdict { decision, because } =
                policy.decide(&question).map_err(|fault| invalid(fault.detail()))?;
            let allowed = decision == Answer::Allowed;
            let approvals = needed(decision);
            let fresh = policy.decide(&Question { factor: Some(question.now), ..question })?;
            let step_up_helps = !allowed && fresh.decision == Answer::Allowed;
            Ok(v1::ExplainPolicyResponse {
                allowed,
                policies: because,
                version: policy.version(),
                approvals,
                step_up_helps,
            })
        };
        explained.await.map(Response::new).map_err(|denial: Denial| accepted.status(denial))
    }
}

/// The beginning of so many days back from now.
fn days_back(days: u32) -> Result<Timestamp, Denial> {
    let days = if days == 0 { DAYS } else { days };
    if days > MOST_DAYS {
        return Err(invalid(format!("days: may be {MOST_DAYS}")));
    }
    Ok(Timestamp::now() - SignedDuration::from_hours(24 * i64::from(days)))
}

impl Api {
    /// The policy of a request's text, or the one in force.
    async fn policy_or_read(&self, text: String) -> Result<Arc<Policy>, Denial> {
        if text.is_empty() {
            Ok(self.custodian.authority().policy())
        } else {
            Ok(read(0, text).await?.into())
        }
    }

    /// Whether others than the caller could approve the next policy, if this one came into force: `needed`, or the answer
    /// that says how many could. They count as if they were where the caller is.
    async fn enough_approve(&self, policy: &Policy, asked: &Question, needed: u32) -> Result<u32, Denial> {
        let (mut could, mut after) = (0, None);
        loop {
            let users = self.custodian.ledger().users(after, MAX_PAGE_SIZE).await?;
            for user in &users {
                if user.disabled || !user.roles.contains(Role::Admin) || user.id == asked.user {
                    continue;
                }
                let question = Question {
                    user: user.id.clone(),
                    roles: user.roles,
                    groups: user.groups.clone(),
                    // Who can show a second factor can show it then.
                    factor: user.factor.enrolled.then_some(asked.now),
                    operation: "Approve".to_owned(),
                    approves: asked.operation.clone(),
                    target: String::new(),
                    reason: String::new(),
                    ..asked.clone()
                };
                if policy.decide(&question)?.decision == Answer::Allowed {
                    could += 1;
                }
                if could == needed {
                    return Ok(needed);
                }
            }
            after = users.last().map(|user| user.id.clone());
            if users.len() < MAX_PAGE_SIZE as usize {
                break;
            }
        }
        Err(invalid(format!(
            "text: with it the next one would need the approval of {needed} other enabled administrators, and {could} could \
             give it: make users with the role admin first, each with a device"
        )))
    }

    async fn question(&self, request: v1::ExplainPolicyRequest) -> Result<Question, Denial> {
        let ledger = self.custodian.ledger();
        let missing = |what: &str| invalid(format!("{what}: there is none of that name"));
        let user = ledger.user(&user_id(&request.user)?).await?.ok_or_else(|| missing("user"))?;
        let device = ledger.device(&device_id(&request.device)?).await?.ok_or_else(|| missing("device"))?;
        let key = match request.key.as_str() {
            "" => None,
            name => Some(ledger.key(key_id(name)?).await?.ok_or_else(|| missing("key"))?),
        };
        let now = match request.time {
            Some(time) => from_timestamp(time, "time")?,
            None => Timestamp::now(),
        };
        let ip = match request.ip.as_str() {
            "" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            text => text.parse().map_err(|_| invalid("ip: is no address"))?,
        };
        Ok(Question {
            user: user.id,
            roles: user.roles,
            groups: user.groups,
            device: device.id,
            device_groups: device.groups,
            enrolled: device.enrolled,
            operation: request.operation,
            key: key.map(|key| (key.id, key.label)),
            target: String::new(),
            approves: request.approves,
            reason: reason(request.reason)?,
            ip,
            now,
            signed_in: now,
            factor: request.mfa_age_seconds.map(|age| now - SignedDuration::from_secs(age.into())),
            claims: v1::Claims::default(),
            cosigners: self.custodian.authority().cosigners(Timestamp::now()),
        })
    }

    async fn try_policy(&self, policy: &Policy, start: Timestamp) -> Result<v1::TestPolicyResponse, Denial> {
        let mut tested = v1::TestPolicyResponse::default();
        let mut known = Known::default();
        let mut beyond = None;
        for _ in 0..MOST_RECORDS / u64::from(AT_ONCE) {
            let query = RecordQuery {
                start: Some(start),
                beyond,
                newest_first: true,
                limit: AT_ONCE,
                ..RecordQuery::default()
            };
            let records = self.custodian.ledger().records(query).await?;
            beyond = records.last().map(|record| record.sequence);
            let is_last = records.len() < AT_ONCE as usize;
            for record in records {
                let Some(question) = known.question(self, &record).await? else { continue };
                let Ok(verdict) = policy.decide(&question) else { continue };
                tested.decided += 1;
                let was_refused = [Refusal::PolicyDenied.code(), Refusal::ApprovalRequired.code()];
                let differences = match (record.outcome.as_str(), verdict.decision) {
                    (OK, Answer::Denied) => &mut tested.newly_refused,
                    (OK, Answer::Approvals(_)) if record.approval.is_empty() => &mut tested.newly_refused,
                    (outcome, Answer::Allowed) if was_refused.contains(&outcome) => &mut tested.newly_allowed,
                    _ => continue,
                };
                if differences.len() < MOST_DIFFERENCES {
                    differences.push(v1::Difference {
                        sequence: record.sequence,
                        request_id: record.request_id,
                        user: record.user,
                        device: record.device,
                        operation: record.operation,
                        approvals: needed(verdict.decision),
                        policies: verdict.because,
                    });
                }
            }
            if is_last {
                break;
            }
            // Others have their turn.
            tokio::task::yield_now().await;
        }
        Ok(tested)
    }
}

/// What was looked up already.
#[derive(Default)]
pub(super) struct Known {
    users: HashMap<String, Option<User>>,
    devices: HashMap<String, Option<Device>>,
    labels: HashMap<String, Option<String>>,
}

impl Known {
    /// The question that a record answers. `None` if its user, device or key is gone, or it had none.
    pub(super) async fn question(
        &mut self,
        api: &Api,
        record: &v1::Record,
    ) -> Result<Option<Question>, Denial> {
        let ledger = api.custodian.ledger();
        if !self.users.contains_key(&record.user) {
            let user = match user_id(&record.user) {
                Ok(id) => ledger.user(&id).await?,
                Err(_) => None,
            };
            self.users.insert(record.user.clone(), user);
        }
        if !self.devices.contains_key(&record.device) {
            let device = match device_id(&record.device) {
                Ok(id) => ledger.device(&id).await?,
                Err(_) => None,
            };
            self.devices.insert(record.device.clone(), device);
        }
        let (Some(Some(user)), Some(Some(device))) =
            (self.users.get(&record.user), self.devices.get(&record.device))
        else {
            return Ok(None);
        };
        let key = match key_id(&record.key) {
            Err(_) => None,
            Ok(id) => {
                if !self.labels.contains_key(&record.key) {
                    let label = ledger.key(id).await?.map(|key| key.label);
                    self.labels.insert(record.key.clone(), label);
                }
                let Some(Some(label)) = self.labels.get(&record.key) else { return Ok(None) };
                Some((id, label.clone()))
            }
        };
        let time = record.time.ok_or_else(|| Fault::Internal("a record has no time".into()))?;
        let now = from_timestamp(time, "time")?;
        Ok(Some(Question {
            user: user.id.clone(),
            roles: user.roles,
            groups: user.groups.clone(),
            device: device.id.clone(),
            device_groups: device.groups.clone(),
            enrolled: device.enrolled,
            operation: record.operation.clone(),
            key,
            target: record.target.clone(),
            approves: String::new(),
            reason: String::new(),
            ip: record.peer_ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            now,
            signed_in: now,
            factor: record
                .second_factor_time
                .map(|time| from_timestamp(time, "second_factor_time"))
                .transpose()?,
            claims: record.claims.clone().unwrap_or_default(),
            // As they are now, like users and devices.
            cosigners: api.custodian.authority().cosigners(Timestamp::now()),
        }))
    }
}

/// How many approvals would help; 0 if it needs none, or none helps.
fn needed(answer: Answer) -> u32 {
    match answer {
        Answer::Approvals(needed) => needed.get(),
        Answer::Allowed | Answer::Denied => 0,
    }
}

/// Reads a policy on a thread where it may take its time.
async fn read(version: u64, text: String) -> Result<Policy, Denial> {
    match tokio::task::spawn_blocking(move || Policy::parse(version, &text)).await {
        Ok(read) => read.map_err(|error| invalid(format!("text: {error}"))),
        Err(error) => Err(Fault::Internal(format!("reading a policy did not end: {error}")).into()),
    }
}

impl From<PolicyText> for v1::Policy {
    fn from(policy: PolicyText) -> Self {
        Self {
            name: format!("policies/{}", policy.version),
            text: policy.text,
            applied_by: policy.applied_by.map(|user| user.resource_name()).unwrap_or_default(),
            apply_time: Some(timestamp(policy.applied)),
            reason: policy.reason,
        }
    }
}
