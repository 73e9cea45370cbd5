//! The judgement: from everything known about a caller to a permit, or to the one reason why not.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use custodian_proto::{
    approval::Glass,
    key::{KeyId, WrappedKey},
    refusal::Refusal,
    sign::DigestToSign,
};
use jiff::{SignedDuration, Timestamp};

use super::{
    Answer, ApprovalRequest, ApprovalRules, ApprovalState, ApprovalUse, Asked, Budgets, Caller, Charge,
    DeviceState, KeyPurpose, KeyTask, MayLack, PasswordState, Peer, PeerKind, Permit, Policy, PolicyText,
    Question, Role, SessionId, Spenders, Standing, WrappingKey,
};
use crate::{
    custody::{Denial, Fault, Unapproved},
    ledger::{Identity, Intent, Ledger, Opening},
    log::{Cosigned, Cosigners},
};

/// The rules that can change while the custodian runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// An unused session ends after this long.
    pub session_idle: SignedDuration,
    /// A session ends after this long, used or not.
    pub session_lifetime: SignedDuration,
    /// How much may be unwrapped, failed attempts included.
    pub budgets: Budgets,
    /// What becomes of passwords that administrators set.
    pub given_passwords: PasswordState,
    /// What approvals take.
    pub approvals: ApprovalRules,
}

/// What an operation asks of its caller, beyond a valid certificate and an active device.
#[derive(Clone, Copy, Debug)]
pub enum Need<'a> {
    /// Nothing: signing in.
    Device,
    /// A session, even of a user who must change the password first or show the second factor: for that, and for signing
    /// out.
    Unfinished,
    /// A session, even of a user who has no second factor and needs one: for enrolling it.
    Enrolling,
    /// A session.
    Session,
    /// A session, and that the policy does not forbid it: what people do for themselves.
    Own,
    /// A session of a user with this role.
    Role(Role),
    /// A session of a user with one of these roles.
    Either(Role, Role),
    /// A session of an operator, and a wrapping key that is sealed to now.
    Wrap(KeyId),
    /// Everything that unwrapping this key asks for: a session, the operator's role, a key that unwraps now, budget.
    Unwrap(&'a WrappedKey),
    /// Everything that signing this digest asks for: a session, the operator's role, a key that signs now, budget.
    Sign(&'a DigestToSign),
    /// Everything that a timestamp under this key asks for: a session, the operator's role, a key that signs now.
    Timestamp(KeyId),
}

/// What is to be done with which key, and what it costs.
#[derive(Clone, Copy)]
struct KeyNeed {
    task: KeyTask,
    id: KeyId,
    /// What budgets know it by. `None`: it costs nothing.
    file: Option<[u8; 32]>,
}

impl Need<'_> {
    fn of_key(self) -> Option<KeyNeed> {
        match self {
            Self::Unwrap(wrapped) => {
                Some(KeyNeed { task: KeyTask::Unwrap, id: wrapped.key_id(), file: Some(wrapped.sha256()) })
            }
            Self::Sign(digest) => {
                Some(KeyNeed { task: KeyTask::Sign, id: digest.key_id(), file: Some(digest.sha256()) })
            }
            Self::Timestamp(id) => Some(KeyNeed { task: KeyTask::Timestamp, id, file: None }),
            _ => None,
        }
    }

    /// Whether a key of this purpose does it as it is asked.
    fn suits(self, purpose: KeyPurpose) -> Result<(), Denial> {
        match (self, purpose) {
            (Self::Unwrap(wrapped), KeyPurpose::Unwrap(wrapping)) if wrapping != wrapped.wrapping() => {
                Err(Refusal::WrappedKeyRejected.into())
            }
            (Self::Sign(digest), KeyPurpose::Sign(scheme)) if !scheme.has(digest.algorithm()) => {
                let detail = format!("algorithm: this key signs with {} only", purpose.name());
                Err(Denial::Refused { refusal: Refusal::InvalidArgument, detail })
            }
            _ => Ok(()),
        }
    }
}

/// Judges callers by what the ledger says of them.
pub struct Authority {
    ledger: Arc<dyn Ledger>,
    rules: RwLock<Rules>,
    policy: RwLock<Arc<Policy>>,
    /// Held while the policy is read again.
    reading: tokio::sync::Mutex<()>,
    cosigners: OnceLock<Cosigners>,
}

impl Authority {
    /// Judges by this ledger, these rules and this policy.
    pub fn new(ledger: Arc<dyn Ledger>, rules: Rules, policy: Policy) -> Self {
        Self {
            ledger,
            rules: RwLock::new(rules),
            policy: RwLock::new(Arc::new(policy)),
            reading: tokio::sync::Mutex::default(),
            cosigners: OnceLock::new(),
        }
    }

    /// Lets policies ask for witnesses of the log. Once; before, there are none.
    pub fn count_cosigners_by(&self, cosigners: Cosigners) {
        self.cosigners.get_or_init(|| cosigners);
    }

    /// How many witnesses have cosigned the log lately: `context.cosigners`.
    pub fn cosigners(&self, now: Timestamp) -> u32 {
        self.cosigners.get().map_or(0, |cosigners| cosigners.count(now))
    }

    /// The policy now in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another policy in force: the one that the ledger has just recorded as applied. Until then, what the old one
    /// allowed is refused when it is settled. An older one than is in force is passed over.
    pub fn set_policy(&self, policy: Policy) {
        let mut current = self.policy.write().unwrap_or_else(PoisonError::into_inner);
        if policy.version() > current.version() {
            *current = Arc::new(policy);
        }
    }

    /// The rules now in force.
    pub fn rules(&self) -> Rules {
        *self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other rules in force.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Gathers what is known about a caller. Decides nothing.
    pub async fn identify(&self, peer: Peer, session_token: Option<&str>) -> Result<Caller, Denial> {
        self.caller(peer, session_token.map(SessionId::of_token)).await
    }

    /// Gathers again what is known about a caller, for calls that last.
    pub async fn look_again(&self, caller: &Caller) -> Result<Caller, Denial> {
        let session = caller.session.as_ref().map(|session| session.id);
        self.caller(caller.peer.clone(), session).await
    }

    async fn caller(&self, peer: Peer, session: Option<SessionId>) -> Result<Caller, Denial> {
        let identity = self.ledger.identify(peer.certificate.spki, session).await?;
        let Identity { device, session, user, policy } = identity;
        Ok(Caller { peer, device, session, user, policy })
    }

    /// The policy in force, of this version at least. Whoever applied it may have hung up, or been told that the ledger is too
    /// slow, before it came here: then it is read from the ledger now.
    async fn policy_since(&self, version: u64) -> Result<Arc<Policy>, Denial> {
        let policy = self.policy();
        if policy.version() >= version {
            return Ok(policy);
        }
        let _one_reads = self.reading.lock().await;
        if self.policy().version() < version {
            let text = self.ledger.policy().await?.unwrap_or_else(PolicyText::initial);
            let read = tokio::task::spawn_blocking(move || Policy::in_force(text.version, &text.text)).await;
            let read = read.map_err(|error| error.to_string());
            let policy = read.and_then(|read| read.map_err(|error| error.to_string())).map_err(|error| {
                Fault::Internal(format!("the policy in the ledger cannot be read: {error}"))
            })?;
            self.set_policy(policy);
        }
        Ok(self.policy())
    }

    /// Whether a caller is signed in on an active device, whatever else an operation asks for.
    pub fn has_session(&self, caller: &Caller) -> bool {
        let now = Timestamp::now();
        device(caller, now).is_ok() && self.session(caller, MayLack::Everything, None, now).is_ok()
    }

    /// Certificate AND device AND session AND role AND budget AND key AND policy, or the first that is missing (law 3).
    /// `intent` is what the policy is asked about.
    ///
    /// An exhausted budget keeps the caller from the token (law 5). It is charged when the attempt is settled.
    pub async fn permit(&self, caller: &Caller, need: Need<'_>, intent: &Intent) -> Result<Permit, Denial> {
        let now = Timestamp::now();
        let mut standing = Standing { device: Some(device(caller, now)?), ..Standing::default() };
        let role = match need {
            Need::Device => return Ok(Permit::new(standing)),
            Need::Session | Need::Own | Need::Unfinished | Need::Enrolling => None,
            Need::Role(role) => Some(role),
            Need::Either(one, other) => {
                let has_other = caller.user.as_ref().is_some_and(|user| user.roles.contains(other));
                Some(if has_other { other } else { one })
            }
            Need::Wrap(_) | Need::Unwrap(_) | Need::Sign(_) | Need::Timestamp(_) => Some(Role::Operator),
        };
        standing.may_lack = match need {
            Need::Unfinished => MayLack::Everything,
            Need::Enrolling => MayLack::SecondFactor,
            _ => MayLack::Nothing,
        };
        standing.session = Some(self.session(caller, standing.may_lack, role, now)?);
        standing.session_idle = Some(self.rules().session_idle);
        standing.role = role;
        if let Some(KeyNeed { task, id, file }) = need.of_key() {
            standing.charge = file.map(|file| Charge { file, budgets: self.rules().budgets });
            let key = match &standing.charge {
                Some(charge) => self.affordable_key(id, spenders(caller, id)?, charge.clone()).await?,
                None => self.ledger.key(id).await?.ok_or(Refusal::KeyUnknown)?,
            };
            key.may(task, now)?;
            need.suits(key.purpose)?;
            (standing.key, standing.task) = (Some(id), task);
            self.ask(caller, intent, Some(key), now, &mut standing).await?;
        } else if role.is_some() || matches!(need, Need::Own) {
            let wraps = if let Need::Wrap(id) = need { Some(id) } else { None };
            let key = match wraps.or(intent.key) {
                Some(id) => self.ledger.key(id).await?,
                None => None,
            };
            if wraps.is_some() {
                key.as_ref().ok_or(Refusal::KeyUnknown)?.may(KeyTask::Wrap, now)?;
                (standing.key, standing.task) = (wraps, KeyTask::Wrap);
            }
            self.ask(caller, intent, key, now, &mut standing).await?;
        }
        if standing.policy.is_some() {
            standing.factor = caller.session.as_ref().and_then(|session| session.factor);
            standing.roles = caller.user.as_ref().map(|user| user.roles);
            standing.groups = match (&caller.user, &caller.device) {
                (Some(user), Some(device)) => Some((user.groups.clone(), device.groups.clone())),
                _ => None,
            };
        }
        Ok(Permit::new(standing))
    }

    /// Asks the policy. The standing gets the version that allows this, and the approval if it takes one; nothing, if no policy
    /// is asked: then none that is applied meanwhile can be in the way either.
    async fn ask(
        &self,
        caller: &Caller,
        intent: &Intent,
        key: Option<WrappingKey>,
        now: Timestamp,
        standing: &mut Standing,
    ) -> Result<(), Denial> {
        if Policy::is_never_asked(intent.operation) {
            return Ok(());
        }
        let policy = self.policy_since(caller.policy).await?;
        let question = Question::of(caller, intent.operation, now)
            .ok_or_else(|| Fault::Internal("a policy was asked about nobody".to_owned()))?;
        let question = Question {
            key: key.map(|key| (key.id, key.label)),
            target: intent.target.clone(),
            approves: intent.approves.clone(),
            reason: intent.reason.clone(),
            claims: intent.claims.clone().unwrap_or_default(),
            cosigners: self.cosigners(now),
            ..question
        };
        let rules = self.rules().approvals;
        let (mut verdict, mut glass) = (policy.decide(&question)?, Glass::Whole);
        if verdict.decision == Answer::Denied && intent.asked.glass() == Glass::Broken {
            (verdict, glass) = (policy.decide_on_breaking(&question, rules.break_glass)?, Glass::Broken);
        }
        if verdict.decision != Answer::Allowed
            && let Some(user) = &caller.user
        {
            // What would it say if the second factor had just been shown? That is less to ask for than approvals.
            let fresh = policy.decide(&Question { factor: Some(now), ..question.clone() })?.decision;
            if fresh == Answer::Allowed || verdict.decision == Answer::Denied && fresh != Answer::Denied {
                let detail = format!("{verdict} (policy version {})", policy.version());
                return Err(Denial::Refused { refusal: user.factor.missing(), detail });
            }
        }
        standing.policy = Some(policy.version());
        if policy.looks_at_cosigners() && question.cosigners > 0 {
            let by = self.cosigners.get().cloned();
            standing.cosigned = by.map(|by| Cosigned::seen(by, question.cosigners));
        }
        let Some(needed) = verdict.require(policy.version())? else { return Ok(()) };
        let message = match &intent.asked {
            Asked::Kept(request) => request.message.to_vec(),
            Asked::GoesOn => return Ok(()),
            // The policy that asks for approval came after the call. Next time its request is kept.
            Asked::NotKept => return Err(Refusal::PolicyChanged.into()),
        };
        let lifetime = match glass {
            Glass::Whole => rules.lifetime,
            Glass::Broken => rules.break_glass_lifetime,
        };
        let request = ApprovalRequest {
            user: question.user,
            device: question.device,
            ip: question.ip,
            operation: question.operation,
            target: question.target,
            key: intent.key,
            reason: question.reason,
            claims: intent.claims.clone(),
            message,
            glass,
            needed,
            expires: now + lifetime,
        };
        standing.approval = Some(self.approved(request, now).await?);
        Ok(())
    }

    /// The approval of this request, if enough others gave it.
    async fn approved(&self, request: ApprovalRequest, now: Timestamp) -> Result<ApprovalUse, Denial> {
        let (digest, needed) = (request.digest(), request.needed);
        let last = self.ledger.approval_of(digest).await?;
        if let Some(approval) = &last {
            match approval.state(now) {
                // The policy may ask for more than it did.
                ApprovalState::Pending | ApprovalState::Approved if approval.given() >= needed.get() => {
                    if request.glass == Glass::Broken {
                        let (user, operation) = (request.user.as_str(), &request.operation);
                        tracing::warn!(user, operation, approval = approval.id.0, "the glass is broken");
                    }
                    return Ok(ApprovalUse { id: approval.id, digest, needed });
                }
                // As long as it would have held.
                ApprovalState::Denied if now < approval.request.expires => {
                    let detail = approval.id.resource_name();
                    return Err(Denial::Refused { refusal: Refusal::ApprovalDenied, detail });
                }
                _ => {}
            }
        }
        if request.glass == Glass::Broken {
            let (user, operation) = (request.user.as_str(), &request.operation);
            tracing::warn!(user, operation, "somebody asks to break the glass");
        }
        Err(Unapproved::by(request))
    }

    fn session(
        &self,
        caller: &Caller,
        may_lack: MayLack,
        role: Option<Role>,
        now: Timestamp,
    ) -> Result<SessionId, Denial> {
        let (Some(session), Some(user)) = (&caller.session, &caller.user) else {
            return Err(Refusal::NotLoggedIn.into());
        };
        let why = if session.device != caller.peer.certificate.spki {
            Some("the session belongs to another certificate")
        } else if now >= session.expires {
            Some("the session has ended")
        } else if now.duration_since(session.used) >= self.rules().session_idle {
            Some("the session was idle for too long")
        } else {
            None
        };
        if let Some(detail) = why {
            return Err(Denial::Refused { refusal: Refusal::NotLoggedIn, detail: detail.into() });
        }
        if user.disabled {
            return Err(Refusal::UserDisabled.into());
        }
        may_lack.check(user.password_state, user.factor, session.factor)?;
        match role {
            Some(role) if !user.roles.contains(role) => Err(Denial::Refused {
                refusal: Refusal::RoleMissing,
                detail: format!("needs the role {}", role.name()),
            }),
            _ => Ok(session.id),
        }
    }

    /// The key, if there is room for one more use of it. The budgets come first: with one used up, whatever is asked
    /// has the same answer (law 5).
    async fn affordable_key(
        &self,
        id: KeyId,
        spenders: Spenders,
        charge: Charge,
    ) -> Result<WrappingKey, Denial> {
        let Opening { key, room } = self.ledger.opening(id, spenders, charge).await?;
        room?;
        Ok(key.ok_or(Refusal::KeyUnknown)?)
    }
}

/// Who pays for a use of this key.
fn spenders(caller: &Caller, key: KeyId) -> Result<Spenders, Denial> {
    let user = caller.user.as_ref().ok_or(Refusal::NotLoggedIn)?.id.resource_name();
    let device = caller.device.as_ref().ok_or(Refusal::DeviceUnknown)?.id.resource_name();
    Ok(Spenders { user, device, key: key.resource_name() })
}

fn device(caller: &Caller, now: Timestamp) -> Result<super::SpkiHash, Denial> {
    let certificate = &caller.peer.certificate;
    if certificate.kind == PeerKind::Newcomer {
        return Err(Refusal::CertificateRefused.into());
    }
    // The handshake checked this too, but connections and TLS sessions outlive certificates.
    if now < certificate.not_before || now >= certificate.not_after {
        return Err(Refusal::CertificateExpired.into());
    }
    let device = caller.device.as_ref().ok_or(Refusal::DeviceUnknown)?;
    match device.state {
        DeviceState::Active => Ok(device.spki),
        DeviceState::Enrolled => Err(Refusal::DeviceNotActive.into()),
        DeviceState::Suspended => Err(Refusal::DeviceSuspended.into()),
        DeviceState::Revoked => Err(Refusal::DeviceRevoked.into()),
    }
}
