//! The custodian at the other end of a TLS 1.3 connection. The only code of this package that uses the network.
//!
//! A blocking face over tonic: the formats and pipelines are synchronous.

mod approvals;
pub mod audit;
mod batch;
mod budgets;
mod certificates;
mod certify;
mod custody;
mod devices;
mod enroll;
mod factor;
mod identity;
mod keys;
mod log;
mod policies;
mod renew;
mod session;
mod signer;
mod status;
mod timestamp;
mod tls;
mod tokens;
mod users;
mod wire;

pub use approvals::{Ended, Patience};
pub use budgets::Spent;
pub use certify::{Certified, certify};
pub use custody::{ReceiptWanted, Recorded};
pub use enroll::{Enrolled, enroll};
pub use factor::Needed;
pub use identity::{certificates, certificates_of, expiry};
pub use keys::{ImportFrom, NewKey, WhichKey, full_label};
pub use renew::{Renewed, renew};
pub use signer::{RemoteSigner, openpgp_signer};
pub use tokens::IfLast;
pub use users::Given;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use custodian_proto::{
    approval::Glass,
    refusal::Refusal,
    secret::Secret,
    v1::{self, session_service_client::SessionServiceClient, status_service_client::StatusServiceClient},
};
use jiff::Timestamp;
use tonic::{Response, Status};

use self::{
    identity::Identity,
    session::{Session, SessionCache, Signed},
    status::Failure,
    wire::Wire,
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    password::PasswordSource,
    settings::Settings,
};

/// A custodian we are connected to with this device's certificate.
pub struct Remote {
    wire: Arc<Wire>,
    user: String,
    password: PasswordSource,
    second_factor: PasswordSource,
    cache: Arc<SessionCache>,
    session: Arc<Mutex<Option<Session>>>,
    /// Whose turn it is to log in, or to show the second factor.
    turn: Arc<Mutex<Turn>>,
    person: Person,
    patience: Option<Patience>,
    glass: Glass,
}

/// Whether calls may take what is a person's to give: a password, a code of the second factor, patience.
enum Person {
    /// They may.
    MayBeAsked,
    /// They may not, whether there is somebody to ask or a file to read. Whether one of them would have.
    LeftAlone(AtomicBool),
}

/// What became of passwords and codes that will be the same the next time, and so are tried once.
#[derive(Default)]
struct Turn {
    password: Option<Error>,
    code: Option<Error>,
    /// How often the second factor was shown.
    shown: u32,
}

/// What a login gave.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    /// Who.
    pub user: String,
    /// When the session ends whatever happens.
    pub expires: Timestamp,
    /// Unused for this many seconds, it ends earlier.
    pub idle_seconds: u32,
    /// What must be done before anything else.
    pub unfinished: Option<Unfinished>,
}

/// What a session lacks before it is good for anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfinished {
    /// Somebody else set the password: it must be changed.
    Password,
    /// The user needs a second factor, and has none.
    Enrolment,
    /// The user needs the second factor, and has not shown it.
    SecondFactor,
}

impl Remote {
    /// Connects. A session is looked for when the first call needs one.
    ///
    /// # Errors
    /// A missing setting, an unreadable certificate or key, an unreachable custodian, or one that `ca` does not vouch
    /// for. That the custodian does not accept our certificate shows at the first call: with TLS 1.3 the client
    /// cannot know earlier.
    pub fn connect(settings: &Settings, interrupt: &Interrupt) -> Result<Self> {
        let address = settings.address()?;
        let user = settings.user()?.to_owned();
        let roots = identity::roots(settings.ca()?)?;
        let identity = Identity::read(settings.cert()?, settings.key()?)?;
        let cache = SessionCache::of(settings.session_dir()?, &address, &user, identity.certificate());
        let wire = Wire::open(address, tls::config(roots, identity)?, interrupt.clone())?;
        Ok(Self {
            wire: Arc::new(wire),
            user,
            password: settings.password(),
            second_factor: settings.second_factor(),
            session: Arc::new(Mutex::new(cache.load())),
            cache: Arc::new(cache),
            turn: Arc::default(),
            person: Person::MayBeAsked,
            patience: None,
            glass: Glass::Whole,
        })
    }

    /// Waits, from now on, for approvals that calls need.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience: Some(patience), ..self }
    }

    /// Asks, from now on, to get past rules of the policy that are marked with `@break_glass`.
    #[must_use]
    pub fn with_glass(self, glass: Glass) -> Self {
        Self { glass, ..self }
    }

    /// The same connection and session for who must leave everybody alone: no call logs in, renews the session, shows the second
    /// factor or waits for approvals. [`Remote::missed_person`] tells whether one would have.
    #[must_use]
    pub fn without_person(&self) -> Self {
        Self {
            wire: Arc::clone(&self.wire),
            user: self.user.clone(),
            password: self.password.clone(),
            second_factor: self.second_factor.clone(),
            cache: Arc::clone(&self.cache),
            session: Arc::clone(&self.session),
            turn: Arc::clone(&self.turn),
            person: Person::LeftAlone(AtomicBool::new(false)),
            patience: None,
            glass: self.glass,
        }
    }

    /// Whether a call failed for want of a login or of the second factor, and nobody was asked ([`Remote::without_person`]).
    pub fn missed_person(&self) -> bool {
        match &self.person {
            Person::MayBeAsked => false,
            Person::LeftAlone(missed) => missed.load(Ordering::Relaxed),
        }
    }

    /// Whether a call that needs it may take what is a person's to give. Takes note if not.
    fn may_ask(&self) -> bool {
        match &self.person {
            Person::MayBeAsked => true,
            Person::LeftAlone(missed) => {
                missed.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// Forgets the session of these settings on this machine, without asking anybody.
    ///
    /// # Errors
    /// A missing setting, an unreadable certificate, a file that cannot be removed.
    pub fn forget_session(settings: &Settings) -> Result<()> {
        let chain = identity::certificates(settings.cert()?)?;
        let certificate = chain.first().map(Vec::as_slice).unwrap_or_default();
        SessionCache::of(settings.session_dir()?, &settings.address()?, settings.user()?, certificate)
            .forget()
    }

    /// Starts a new session with the password and keeps it for the next command. Shows the second factor too, if the user
    /// always needs it and there is a code to be had.
    ///
    /// # Errors
    /// No password can be had; the custodian refuses; the session cannot be written down.
    pub fn login(&self) -> Result<LoggedIn> {
        Ok(self.log_in(&mut self.turn())?)
    }

    /// Whether there is a session: then no call asks for a password, unless the custodian has forgotten it.
    pub fn is_logged_in(&self) -> bool {
        self.slot().is_some()
    }

    fn log_in(&self, turn: &mut Turn) -> std::result::Result<LoggedIn, Failure> {
        let (session, login) = self.new_session()?;
        self.cache.store(&session)?;
        *self.slot() = Some(session.clone());
        if login.unfinished == Some(Unfinished::SecondFactor) && self.second_factor.is_there() {
            // Never in another session than this one: that would be another login.
            self.with_code(turn, |code, _| self.show(&session, code)).map_err(|failure| failure.error)?;
            return Ok(LoggedIn { unfinished: None, ..login });
        }
        Ok(login)
    }

    /// Ends the session here and at the custodian. Returns whether there was one.
    ///
    /// # Errors
    /// The custodian could not be told; here, the session is forgotten all the same.
    pub fn logout(&self) -> Result<bool> {
        let session = self.slot().take();
        self.cache.forget()?;
        let Some(session) = session else { return Ok(false) };
        let told = self.wire.ask("cannot log out", async |channel| {
            SessionServiceClient::new(session.sign(channel, self.glass)).logout(v1::LogoutRequest {}).await
        });
        match told {
            Ok(_) => Ok(true),
            Err(failure) if failure.refusal == Some(Refusal::NotLoggedIn) => Ok(false),
            Err(failure) => Err(failure.error),
        }
    }

    /// Who the custodian believes us to be.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn who_am_i(&self) -> Result<v1::WhoAmIResponse> {
        Ok(self.call("cannot tell who you are", async |service| {
            SessionServiceClient::new(service).who_am_i(v1::WhoAmIRequest {}).await
        })?)
    }

    /// How the custodian is.
    ///
    /// # Errors
    /// Those of any call: refused, unreachable, interrupted.
    pub fn status(&self) -> Result<v1::GetStatusResponse> {
        Ok(self.call("cannot tell the status", async |service| {
            StatusServiceClient::new(service).get_status(v1::GetStatusRequest {}).await
        })?)
    }

    /// One call within a session. If it needs the approval of others, waits for that with the patience there is.
    fn call<T>(
        &self,
        what: &str,
        request: impl AsyncFn(Signed) -> std::result::Result<Response<T>, Status>,
    ) -> std::result::Result<T, Failure> {
        let mut deadline = None;
        loop {
            let failure = match self.call_with_factor(what, &request) {
                Err(failure) => failure,
                answer => return answer,
            };
            let (Some(waits_for), Some(patience)) = (&failure.waits_for, self.patience) else {
                return Err(failure);
            };
            let deadline = *deadline.get_or_insert_with(|| patience.deadline());
            self.until_approved(what, waits_for, patience, deadline)?;
        }
    }

    /// One call within a session. If all that it lacks is a fresh second factor, that is shown, and it is tried again.
    fn call_with_factor<T>(
        &self,
        what: &str,
        request: &impl AsyncFn(Signed) -> std::result::Result<Response<T>, Status>,
    ) -> std::result::Result<T, Failure> {
        match self.call_once(what, request) {
            Err(failure)
                if failure.refusal == Some(Refusal::StepUpRequired)
                    && self.may_ask()
                    && self.second_factor.is_there() =>
            {
                self.step_up()?;
                self.call_once(what, request)
            }
            answer => answer,
        }
    }

    /// One call within a session. Logs in when there is none, or when the custodian has forgotten the one that was there.
    fn call_once<T>(
        &self,
        what: &str,
        request: &impl AsyncFn(Signed) -> std::result::Result<Response<T>, Status>,
    ) -> std::result::Result<T, Failure> {
        // One that begins with this call and is refused at once would be so for ever.
        let was_there = self.is_logged_in();
        let session = self.session_for(what)?;
        let answer = self.wire.ask(what, async |channel| request(session.sign(channel, self.glass)).await);
        match answer {
            Err(failure) if failure.refusal == Some(Refusal::NotLoggedIn) && self.may_ask() && was_there => {
                let newer = self.session_after(what, &session, &mut self.turn())?;
                let Some(session) = newer else { return Err(failure) };
                self.wire.ask(what, async |channel| request(session.sign(channel, self.glass)).await)
            }
            answer => answer,
        }
    }

    fn session_for(&self, what: &str) -> Result<Session> {
        if let Some(session) = &*self.slot() {
            return Ok(session.clone());
        }
        if !self.may_ask() || !self.password.is_there() {
            return Err(self.not_logged_in(what));
        }
        self.sign_in(what, &mut self.turn())
    }

    fn not_logged_in(&self, what: &str) -> Error {
        let why = format!("{} as {}", Refusal::NotLoggedIn.text(), self.user);
        Error::new(Kind::Refused, what, why)
            .hint("log in: envelope login, or give the password in a file: CUSTODIAN_PASSWORD_FILE")
    }

    /// The session in the place of one that the custodian has forgotten. `None`: there is no password to begin one.
    fn session_after(&self, what: &str, forgotten: &Session, turn: &mut Turn) -> Result<Option<Session>> {
        // Another thread may have been here meanwhile, or another command of ours: their session stays.
        let newer = self.slot().clone().filter(|session| !session.is(forgotten));
        let newer = newer.map_or_else(|| self.cache.newer_than(forgotten), |session| Ok(Some(session)))?;
        (*self.slot()).clone_from(&newer);
        if newer.is_none() && self.password.is_there() {
            return self.sign_in(what, turn).map(Some);
        }
        Ok(newer)
    }

    /// One login at a time: of two threads, both would ask on the terminal. A password that will be the same the next time is
    /// tried once: wrong ones are counted, and lock the user out.
    fn sign_in(&self, what: &str, turn: &mut Turn) -> Result<Session> {
        if let Some(session) = &*self.slot() {
            return Ok(session.clone());
        }
        if let Some(error) = &turn.password {
            return Err(error.clone());
        }
        let logged_in = self.log_in(turn);
        if self.password == PasswordSource::Stdin && logged_in.is_ok() {
            turn.password = Some(self.not_logged_in(what));
        }
        if let Err(failure) = logged_in {
            let again = match (&self.password, failure.refusal) {
                // Its line is read.
                (PasswordSource::Stdin, _) => false,
                (PasswordSource::Terminal, Some(Refusal::LoginFailed)) => true,
                _ => failure.error.kind != Kind::Refused,
            };
            if !again && self.slot().is_none() {
                turn.password = Some(failure.error.clone());
            }
            return Err(failure.error);
        }
        self.slot().clone().ok_or_else(|| Error::new(Kind::Local, what, "the new session is gone"))
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_session(&self) -> std::result::Result<(Session, LoggedIn), Failure> {
        let password: Secret = self.password.read(&format!("password of {}", self.user))?;
        let what = format!("cannot log in as {}", self.user);
        let answer = self.wire.ask(&what, async |channel| {
            let (user, password) = (self.user.clone(), password.expose().to_owned());
            SessionServiceClient::new(channel).login(v1::LoginRequest { user, password }).await
        })?;
        let idle_seconds = answer.idle_seconds;
        let unfinished = if answer.must_change_password {
            Some(Unfinished::Password)
        } else if answer.second_factor_required {
            let enrolled = answer.second_factor_enrolled;
            Some(if enrolled { Unfinished::SecondFactor } else { Unfinished::Enrolment })
        } else {
            None
        };
        let session = Session::from_login(answer)
            .ok_or_else(|| Error::new(Kind::Unreachable, what, "the custodian's answer makes no sense"))?;
        let login =
            LoggedIn { user: self.user.clone(), expires: session.expires(), idle_seconds, unfinished };
        Ok((session, login))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
