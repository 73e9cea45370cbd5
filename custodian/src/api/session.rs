//! `SessionService`.

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use custodian_proto::{
    refusal::Refusal,
    secret::Secret,
    v1::{self, session_service_server::SessionService},
};
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    Api,
    resource::{api_roles, timestamp},
};
use crate::{
    authority::{Caller, FactorRule, FactorState, Need, PasswordState, Rules, Session, SessionId, UserId},
    custody::{Denial, Fault},
    ledger::{Change, Intent},
};

#[tonic::async_trait]
impl SessionService for Api {
    async fn login(&self, request: Request<v1::LoginRequest>) -> Result<Response<v1::LoginResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let v1::LoginRequest { user, password } = request.into_inner();
        let password = Secret::new(password);
        let user: Option<UserId> = user.parse().ok();
        let intent = Intent {
            user: user.as_ref().map(UserId::resource_name).unwrap_or_default(),
            ..accepted.call.intent("Login")
        };
        let caller = accepted.call.caller.clone();
        let api = self.clone();
        let rules = self.custodian.authority().rules();
        let sign_in = async move { api.sign_in(user, password, &caller, rules).await };
        let login = self.custodian.change(accepted.call.clone(), Need::Device, intent, sign_in).await;
        let (_, SignedIn { token, expires, password_state, factor }) =
            login.map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::LoginResponse {
            session_token: token.expose().to_owned(),
            expire_time: Some(timestamp(expires)),
            must_change_password: password_state == PasswordState::MustChange,
            second_factor_required: factor.rule == FactorRule::Always,
            second_factor_enrolled: factor.enrolled,
            idle_seconds: u32::try_from(rules.session_idle.as_secs()).unwrap_or(u32::MAX),
        }))
    }

    async fn step_up(
        &self,
        request: Request<v1::StepUpRequest>,
    ) -> Result<Response<v1::StepUpResponse>, Status> {
        // No policy is asked, and a code is to be kept nowhere.
        let accepted = self.accept_as(&request, |_| Vec::new()).await?;
        let code = Secret::new(request.into_inner().code);
        self.show_factor(&accepted, code).await?;
        Ok(Response::new(v1::StepUpResponse {}))
    }

    async fn logout(
        &self,
        request: Request<v1::LogoutRequest>,
    ) -> Result<Response<v1::LogoutResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let session = accepted.call.caller.session.as_ref().map(|session| session.id);
        let intent = accepted.call.intent("Logout");
        let close = async move { Ok((Change::CloseSession(session.ok_or(Refusal::NotLoggedIn)?), ())) };
        let logout = self.custodian.change(accepted.call.clone(), Need::Unfinished, intent, close).await;
        logout.map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::LogoutResponse {}))
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let accepted = self.accept_reader(&request, Need::Unfinished, "WhoAmI").await?;
        let caller = &accepted.call.caller;
        let factor = caller.user.as_ref().map(|user| user.factor).unwrap_or_default();
        let shown = caller.session.as_ref().and_then(|session| session.factor);
        Ok(Response::new(v1::WhoAmIResponse {
            user: caller.user.as_ref().map(|user| user.id.resource_name()).unwrap_or_default(),
            roles: caller.user.as_ref().map(|user| api_roles(user.roles)).unwrap_or_default(),
            device: caller.device.as_ref().map(|device| device.id.resource_name()).unwrap_or_default(),
            session_expire_time: caller.session.as_ref().map(|session| timestamp(session.expires)),
            must_change_password: caller
                .user
                .as_ref()
                .is_some_and(|user| user.password_state == PasswordState::MustChange),
            second_factor_enrolled: factor.enrolled,
            second_factor_required: factor.rule == FactorRule::Always,
            second_factor_time: shown.map(timestamp),
        }))
    }
}

impl Api {
    async fn sign_in(
        &self,
        user: Option<UserId>,
        password: Secret,
        caller: &Caller,
        rules: Rules,
    ) -> Result<(Change, SignedIn), Denial> {
        // An id that cannot exist is treated as one that does not.
        let name = user.as_ref().map(UserId::as_str).unwrap_or_default();
        self.throttle.check(name, &caller.device_id()?)?;
        let known = match &user {
            Some(id) => self.custodian.ledger().user(id).await?,
            None => None,
        };
        let matches = self.passwords.verify(known.as_ref(), password).await?;
        let user = match known {
            None => return Err(failed("unknown user")),
            Some(user) if user.disabled => return Err(failed("disabled user")),
            Some(_) if !matches => return Err(failed("wrong password")),
            Some(user) => user,
        };
        let (password_state, factor) = (user.password_state, user.factor);
        let token = random_token()?;
        let now = Timestamp::now();
        let expires = now + rules.session_lifetime;
        let id = SessionId::of_token(token.expose());
        let device = caller.peer.certificate.spki;
        let session = Session { id, user: user.id, device, created: now, used: now, factor: None, expires };
        Ok((Change::OpenSession(session), SignedIn { token, expires, password_state, factor }))
    }
}

/// What a login gives beside the session.
struct SignedIn {
    token: Secret,
    expires: Timestamp,
    password_state: PasswordState,
    factor: FactorState,
}

/// 256 random bits, as text: a session token, an enrolment code.
pub(crate) fn random_token() -> Result<Secret, Denial> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| Fault::Internal("no randomness".into()))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(*bytes)))
}

/// Outside there is one answer; the log says which it was.
fn failed(detail: &str) -> Denial {
    Denial::Refused { refusal: Refusal::LoginFailed, detail: detail.into() }
}
