//! `FactorService`, and how codes are judged.

use custodian_proto::{
    refusal::Refusal,
    secret::Secret,
    v1::{self, factor_service_server::FactorService},
};
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::{Accepted, invalid},
    resource::{required_reason, user_id},
};
use crate::{
    authority::{
        Factor, FactorProof, FactorRule, Need, RecoveryHash, Role, SealedSecret, SessionId, TotpSecret,
        UserId,
    },
    custody::Denial,
    ledger::{Change, Intent},
};

/// Longest thing that is looked at as a code, in bytes.
const MAX_CODE_LEN: usize = 64;

#[tonic::async_trait]
impl FactorService for Api {
    async fn enroll_factor(
        &self,
        request: Request<v1::EnrollFactorRequest>,
    ) -> Result<Response<v1::EnrollFactorResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let (api, own) = (self.clone(), own(&accepted));
        let enroll = async move {
            let (user, session) = own?;
            let secret = TotpSecret::generate()?;
            let sealed = api.sealing.seal(&user, &secret)?;
            Ok((Change::PendFactor { session, secret: sealed }, secret.uri(&user)))
        };
        let intent = about_oneself(&accepted, "EnrollFactor");
        let enrolled = self.custodian.change(accepted.call.clone(), Need::Enrolling, intent, enroll).await;
        let (_, uri) = enrolled.map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::EnrollFactorResponse { uri: uri.expose().to_owned() }))
    }

    async fn confirm_factor(
        &self,
        request: Request<v1::ConfirmFactorRequest>,
    ) -> Result<Response<v1::ConfirmFactorResponse>, Status> {
        // No policy is asked, and a code is to be kept nowhere.
        let accepted = self.accept_as(&request, |_| Vec::new()).await?;
        let code = Secret::new(request.into_inner().code);
        let (api, own) = (self.clone(), own(&accepted));
        let device = accepted.call.caller.device_id();
        let confirm = async move {
            let (user, session) = own?;
            api.throttle.check(user.as_str(), &device?)?;
            let factor = api.factor_of(&user).await?;
            let secret = factor.pending.ok_or_else(|| conflict("no enrolment was begun"))?;
            let step = api.step_of(&user, &secret, &code)?;
            let codes = (0..RecoveryHash::CODES).map(|_| RecoveryHash::generate(&user));
            let (codes, recovery): (Vec<_>, Vec<_>) =
                codes.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
            Ok((Change::ConfirmFactor { session, secret, step, recovery }, codes))
        };
        let intent = about_oneself(&accepted, "ConfirmFactor");
        let confirmed = self.custodian.change(accepted.call.clone(), Need::Enrolling, intent, confirm).await;
        let (_, codes) = confirmed.map_err(|denial| accepted.status(denial))?;
        let recovery_codes = codes.iter().map(|code| code.expose().to_owned()).collect();
        Ok(Response::new(v1::ConfirmFactorResponse { recovery_codes }))
    }

    async fn reset_factor(
        &self,
        request: Request<v1::ResetFactorRequest>,
    ) -> Result<Response<v1::User>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::ResetFactorRequest { name, reason } = request.into_inner();
        let parsed = user_id(&name).and_then(|id| Ok((id, required_reason(reason)?)));
        let (id, reason) = self.parsed(&accepted, "ResetFactor", parsed).await?;
        let intent = Intent { target: id.resource_name(), reason, ..accepted.call.intent("ResetFactor") };
        let own = own(&accepted);
        let reset = async move {
            if own.is_ok_and(|(user, _)| user == id) {
                return Err(conflict("nobody resets their own: enrol another with envelope totp enroll"));
            }
            Ok(Change::ResetFactor { id })
        };
        self.change_user(&accepted, Need::Role(Role::Admin), intent, reset).await
    }

    async fn require_factor(
        &self,
        request: Request<v1::RequireFactorRequest>,
    ) -> Result<Response<v1::User>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::RequireFactorRequest { name, required } = request.into_inner();
        let id = self.parsed(&accepted, "RequireFactor", user_id(&name)).await?;
        let rule = if required { FactorRule::Always } else { FactorRule::AsPolicySays };
        let intent = Intent { target: id.resource_name(), ..accepted.call.intent("RequireFactor") };
        let require = async move { Ok(Change::RequireFactor { id, rule }) };
        self.change_user(&accepted, Need::Role(Role::Admin), intent, require).await
    }
}

impl Api {
    /// Makes the session of this call have the second factor, with a code of the app or a recovery code.
    pub(super) async fn show_factor(&self, accepted: &Accepted, code: Secret) -> Result<(), Status> {
        let (api, own) = (self.clone(), own(accepted));
        let device = accepted.call.caller.device_id();
        let show = async move {
            let (user, session) = own?;
            // As fast as passwords are guessed, codes are.
            api.throttle.check(user.as_str(), &device?)?;
            let proof = api.prove(&user, &code).await?;
            Ok((Change::ShowFactor { session, proof }, ()))
        };
        let intent = about_oneself(accepted, "StepUp");
        let shown = self.custodian.change(accepted.call.clone(), Need::Unfinished, intent, show).await;
        shown.map(drop).map_err(|denial| accepted.status(denial))
    }

    /// What a code proves now. That it was not used before, the settling transaction says.
    async fn prove(&self, user: &UserId, code: &Secret) -> Result<FactorProof, Denial> {
        let factor = self.factor_of(user).await?;
        factor.wrong.allow(Timestamp::now())?;
        if code.expose().len() > MAX_CODE_LEN {
            return Err(invalid("code: is longer than any"));
        }
        let secret = factor.secret.ok_or(Refusal::FactorMissing)?;
        if code.expose().bytes().all(|byte| byte.is_ascii_digit()) {
            let step = self.step_of(user, &secret, code)?;
            return Ok(FactorProof::Code { step, secret });
        }
        let hash = RecoveryHash::of(user, code.expose());
        if factor.recovery.contains(&hash) {
            Ok(FactorProof::Recovery(hash))
        } else {
            Err(wrong("no such recovery code"))
        }
    }

    fn step_of(&self, user: &UserId, secret: &SealedSecret, code: &Secret) -> Result<u64, Denial> {
        let secret = self.sealing.open(user, secret)?;
        secret.step_of(code.expose(), Timestamp::now()).ok_or_else(|| wrong("wrong code"))
    }

    async fn factor_of(&self, user: &UserId) -> Result<Factor, Denial> {
        Ok(self.custodian.ledger().factor(user).await?.ok_or(Refusal::NotFound)?)
    }
}

/// Whose call it is, and in which session. Whether that still holds is judged elsewhere.
fn own(accepted: &Accepted) -> Result<(UserId, SessionId), Denial> {
    let caller = &accepted.call.caller;
    match (&caller.user, &caller.session) {
        (Some(user), Some(session)) => Ok((user.id.clone(), session.id)),
        _ => Err(Refusal::NotLoggedIn.into()),
    }
}

fn about_oneself(accepted: &Accepted, operation: &'static str) -> Intent {
    let intent = accepted.call.intent(operation);
    Intent { target: intent.user.clone(), ..intent }
}

/// Counted when it is recorded.
fn wrong(detail: &str) -> Denial {
    Denial::Refused { refusal: Refusal::FactorRefused, detail: detail.into() }
}

fn conflict(detail: &str) -> Denial {
    Denial::Refused { refusal: Refusal::StateConflict, detail: detail.into() }
}
