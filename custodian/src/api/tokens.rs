//! `TokenService`.

use std::{sync::Arc, time::Duration};

use custodian_proto::{
    refusal::Refusal,
    v1::{self, token_service_server::TokenService},
};
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Accepted, invalid},
    resource::{reason, timestamp, token_name},
};
use crate::{
    authority::{Need, Role},
    custody::Denial,
    ledger::{Change, Changed, Intent},
    token::{Drain, Pool, TokenName, TokenReport},
};

/// How long a caller who drains a token waits for what is under way on it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to do if nobody else serves a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfLast {
    Refuse,
    DrainAllTheSame,
}

#[tonic::async_trait]
impl TokenService for Api {
    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let _accepted = self.accept_reader(&request, Need::Role(Role::Admin), "ListTokens").await?;
        let tokens = self.tokens.reports().into_iter().map(v1::Token::from).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn drain_token(
        &self,
        request: Request<v1::DrainTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::DrainTokenRequest { name, reason: why, even_if_last } = request.into_inner();
        let given = if why.trim().is_empty() { Err(invalid("reason: is required")) } else { reason(why) };
        let parsed = token_name(&name).and_then(|token| Ok((token, given?)));
        let (token, reason) = self.parsed(&accepted, "DrainToken", parsed).await?;
        let if_last = if even_if_last { IfLast::DrainAllTheSame } else { IfLast::Refuse };
        let intent = Intent {
            target: token.resource_name(),
            reason: reason.clone(),
            ..accepted.call.intent("DrainToken")
        };
        let drain = Drain { token: token.clone(), reason, since: Timestamp::now() };
        let (api, tokens) = (self.clone(), Arc::clone(&self.tokens));
        let prepare = async move {
            // Of two administrators who drain a token each, the second must see what the first did.
            let alone = api.tokens.maintenance().await;
            known(&api.tokens, &drain.token)?;
            if if_last == IfLast::Refuse {
                api.refuse_to_lose_keys(&drain.token).await?;
            }
            Ok((Change::DrainToken(drain.clone()), (drain, alone)))
        };
        let put_in_force = move |_: &Changed, (drain, alone)| {
            tokens.drain(drain);
            drop(alone);
        };
        let admin = Need::Role(Role::Admin);
        let drained = self.custodian.change_and(accepted.call.clone(), admin, intent, prepare, put_in_force);
        drained.await.map_err(|denial| accepted.status(denial))?;
        self.tokens.until_idle(&token, PATIENCE).await;
        self.show(&accepted, &token)
    }

    async fn resume_token(
        &self,
        request: Request<v1::ResumeTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        let accepted = self.accept(&request).await?;
        let parsed = token_name(&request.into_inner().name);
        let token = self.parsed(&accepted, "ResumeToken", parsed).await?;
        let intent = Intent { target: token.resource_name(), ..accepted.call.intent("ResumeToken") };
        let (tokens, resumed) = (Arc::clone(&self.tokens), token.clone());
        let prepare = async move {
            let alone = tokens.maintenance().await;
            known(&tokens, &resumed)?;
            Ok((Change::ResumeToken(resumed.clone()), (tokens, resumed, alone)))
        };
        let put_in_force = |_: &Changed, (tokens, resumed, alone): (Arc<Pool>, TokenName, _)| {
            tokens.resume(&resumed);
            drop(alone);
        };
        let admin = Need::Role(Role::Admin);
        let resumed = self.custodian.change_and(accepted.call.clone(), admin, intent, prepare, put_in_force);
        resumed.await.map_err(|denial| accepted.status(denial))?;
        self.show(&accepted, &token)
    }
}

impl Api {
    /// A key in use that no other token serves is a reason not to drain this one.
    async fn refuse_to_lose_keys(&self, token: &TokenName) -> Result<(), Denial> {
        for key in self.tokens.keys_only_in(token) {
            let in_use = match self.custodian.ledger().key(key.id).await? {
                Some(known) => known.may(known.purpose.task(), Timestamp::now()).is_ok(),
                None => {
                    let people = self.people.as_ref().map(|people| people.key());
                    key.id == self.ca.key() || key.id == self.log.key() || Some(key.id) == people
                }
            };
            if in_use {
                let detail = format!("no other token serves {:?} ({})", key.label, key.id);
                return Err(Denial::Refused { refusal: Refusal::LastToken, detail });
            }
        }
        Ok(())
    }

    fn show(&self, accepted: &Accepted, token: &TokenName) -> Result<Response<v1::Token>, Status> {
        let report = self.tokens.report(token);
        let report = report.ok_or_else(|| accepted.status(Refusal::NotFound.into()))?;
        Ok(Response::new(report.into()))
    }
}

fn known(tokens: &Pool, token: &TokenName) -> Result<(), Denial> {
    match tokens.report(token) {
        Some(_) => Ok(()),
        None => Err(Denial::Refused {
            refusal: Refusal::NotFound,
            detail: format!("no [[token]] table has the name {token}"),
        }),
    }
}

impl From<TokenReport> for v1::Token {
    fn from(report: TokenReport) -> Self {
        let state = match (&report.drain, report.under_way, report.serving) {
            (Some(_), 0, _) => v1::TokenState::Drained,
            (Some(_), _, _) => v1::TokenState::Draining,
            (None, _, 0) => v1::TokenState::Away,
            (None, _, _) => v1::TokenState::Serving,
        };
        let mut token = Self {
            name: report.name.resource_name(),
            state: state.into(),
            trouble: report.health.trouble.unwrap_or_default(),
            uri: report.uri,
            worker_count: count(report.workers),
            serving_worker_count: count(report.serving),
            worker_restarts: report.health.restarts,
            under_way: count(report.under_way),
            ..Self::default()
        };
        if let Some(survey) = report.health.last_survey {
            token.label.clone_from(&survey.label);
            token.model.clone_from(&survey.model);
            token.wrapping = v1::KeyWrapping::from(survey.wrapping).into();
            token.keys = survey.keys.iter().map(|key| key.id.resource_name()).collect();
        }
        if let Some(drain) = report.drain {
            token.drain_reason = drain.reason;
            token.drain_time = Some(timestamp(drain.since));
        }
        token
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
