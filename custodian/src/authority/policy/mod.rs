//! Policy: what the organisation asks for beyond certificate, device, login and role. Written in Cedar.
//!
//! A policy can only narrow: the roles stand before it, the budget and the key's state beside it. Stopping somebody or
//! something is never asked of it.

mod annotation;
mod kept;
mod operation;
mod question;
mod schema;

use std::{fmt, num::NonZeroU32, sync::OnceLock};

use cedar_policy::{
    AuthorizationError, Authorizer, Decision, Entities, ParseErrors, PolicyId, PolicySet, Request, Schema,
    ValidationMode, Validator,
};
use custodian_proto::{approval::Glass, limits::MAX_POLICY_LEN, refusal::Refusal};
use jiff::Timestamp;

pub use question::Question;

use annotation::Annotations;

use super::UserId;
use crate::custody::{Denial, Fault};

/// Most policies in one text.
const MAX_POLICIES: usize = 1_000;

/// What holds in a custodian to which no policy was applied yet: version 0.
const DEFAULT: &str = include_str!("default.cedar");

/// Stands beside every policy: what people do for themselves needs no rule that permits it, or custodians whose policy is
/// older than such an operation would refuse it to everybody.
const OWN: &str = r#"permit (principal, action in Action::"Own", resource);"#;

/// What that rule is called.
const OWN_ID: &str = "everybody-for-oneself";

/// What it is called beside a policy that has had a rule of that name since before it was ours.
const OWN_OTHER_ID: &str = "everybody-for-oneself (always there)";

/// A version of the policy, as the ledger keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyText {
    /// Counts from 1. 0 is the policy that comes with the program.
    pub version: u64,
    /// In Cedar.
    pub text: String,
    /// Who applied it. `None` for version 0.
    pub applied_by: Option<UserId>,
    /// When.
    pub applied: Timestamp,
    /// Why.
    pub reason: String,
}

impl PolicyText {
    /// What comes with the program.
    pub fn initial() -> Self {
        Self {
            version: 0,
            text: DEFAULT.to_owned(),
            applied_by: None,
            applied: Timestamp::UNIX_EPOCH,
            reason: "comes with the program".to_owned(),
        }
    }
}

/// A policy that is ready to decide.
#[derive(Debug)]
pub struct Policy {
    version: u64,
    /// Whether `cosigners` stands anywhere in it.
    cosigners: bool,
    set: PolicySet,
    /// What its rules say beside Cedar.
    annotations: Annotations,
}

/// What a policy says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Whether it allows.
    pub decision: Answer,
    /// The ids of the policies that made the difference, in order. None for a refusal: nothing permits it.
    pub because: Vec<String>,
}

/// Yes, no, or only if others approve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Some policy permits, none forbids.
    Allowed,
    /// A policy forbids, or none permits.
    Denied,
    /// Some policy permits, and so many others must approve to get past those that forbid.
    Approvals(NonZeroU32),
}

/// A text that is no policy of this custodian. Says where and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(pub String);

impl Policy {
    /// Reads a policy and checks it against the schema: a policy that compares what cannot be compared, or speaks of what
    /// does not exist, is refused here and not found out at three in the morning.
    ///
    /// # Errors
    /// No Cedar, against the schema, a policy without an `@id` of its own, an annotation that says nothing that we know, or
    /// too much of it.
    pub fn parse(version: u64, text: &str) -> Result<Self, PolicyError> {
        Self::read(version, text, OWN_ID)
    }

    /// As [`Policy::parse`], of a text that is in force: an earlier version of this program may have taken it when one of its rules
    /// could have the name that is ours now. The ledger is of this version by then, so it could not go back to that one.
    ///
    /// # Errors
    /// As [`Policy::parse`].
    pub fn in_force(version: u64, text: &str) -> Result<Self, PolicyError> {
        Self::parse(version, text).or_else(|error| Self::read(version, text, OWN_OTHER_ID).map_err(|_| error))
    }

    fn read(version: u64, text: &str, own: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_LEN {
            return Err(PolicyError(format!("it is longer than {MAX_POLICY_LEN} bytes")));
        }
        let set: PolicySet = text.parse().map_err(|error| PolicyError(spelled(&error)))?;
        if set.num_of_templates() > 0 {
            return Err(PolicyError(
                "it has a template (?principal or ?resource), which nothing fills".into(),
            ));
        }
        if set.num_of_policies() > MAX_POLICIES {
            return Err(PolicyError(format!("it has more than {MAX_POLICIES} policies")));
        }
        let set = named(&set)?;
        let validation = Validator::new(schema()?.clone()).validate(&set, ValidationMode::Strict);
        let errors: Vec<_> =
            validation.validation_errors().map(|error| format!("{}: {error}", error.policy_id())).collect();
        if !errors.is_empty() {
            return Err(PolicyError(errors.join("; ")));
        }
        let set = with_own(set, own)?;
        let annotations = Annotations::read(&set)?;
        Ok(Self { version, cosigners: text.contains("cosigners"), set, annotations })
    }

    /// Whether any operation may need approvals.
    pub fn asks_for_approvals(&self) -> bool {
        self.annotations.any()
    }

    /// Whether an answer may depend on how many witnesses have cosigned the log.
    pub fn looks_at_cosigners(&self) -> bool {
        self.cosigners
    }

    /// Which version it is.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether no policy is asked about this operation, since it stops somebody or something.
    pub fn is_never_asked(operation: &str) -> bool {
        operation::ALWAYS_ALLOWED.contains(&operation)
    }

    /// Decides. A policy that cannot be evaluated (an overflow) counts as one that forbids: Cedar would pass over it.
    ///
    /// # Errors
    /// [`Fault::Internal`] for an operation that the schema does not know: a defect of ours.
    pub fn decide(&self, question: &Question) -> Result<Verdict, Fault> {
        self.decide_through(question, Glass::Whole, NonZeroU32::MIN)
    }

    /// Decides on a request to break the glass, which takes at least `break_glass` approvals.
    ///
    /// # Errors
    /// As [`Policy::decide`].
    pub fn decide_on_breaking(&self, question: &Question, break_glass: NonZeroU32) -> Result<Verdict, Fault> {
        self.decide_through(question, Glass::Broken, break_glass)
    }

    fn decide_through(
        &self,
        question: &Question,
        glass: Glass,
        break_glass: NonZeroU32,
    ) -> Result<Verdict, Fault> {
        if Self::is_never_asked(&question.operation) {
            return Ok(Verdict { decision: Answer::Allowed, because: vec!["always-allowed".to_owned()] });
        }
        if !operation::OPERATIONS.iter().any(|(name, _)| *name == question.operation) {
            return Err(Fault::Internal(format!(
                "the policy's schema has no operation {}",
                question.operation
            )));
        }
        let schema = schema().map_err(|error| Fault::Internal(error.0))?;
        let (request, entities) = question.to_cedar(schema).map_err(Fault::Internal)?;
        let verdict = judge(&self.set, &request, &entities);
        if verdict.decision == Answer::Allowed
            || !self.annotations.any()
            || operation::NEVER_APPROVED.contains(&question.operation.as_str())
        {
            return Ok(verdict);
        }
        // What if others approved? What still forbids then is the answer.
        let needed = self.annotations.past(&verdict.because, glass, break_glass);
        let rest = judge(self.annotations.rest(glass), &request, &entities);
        Ok(match (rest.decision, needed) {
            (Answer::Allowed, Some(needed)) => Verdict { decision: Answer::Approvals(needed), ..verdict },
            (Answer::Allowed, None) => verdict,
            (_, _) => rest,
        })
    }

    /// The schema that policies are checked against, with comments for people.
    pub fn schema_text() -> String {
        schema::text()
    }
}

fn judge(set: &PolicySet, request: &Request, entities: &Entities) -> Verdict {
    let response = Authorizer::new().is_authorized(request, set, entities);
    let errors = response.diagnostics().errors();
    let errors: Vec<_> =
        errors.map(|AuthorizationError::PolicyEvaluationError(error)| error.policy_id()).collect();
    let (decision, mut because) = match (errors.is_empty(), response.decision()) {
        (true, Decision::Allow) => (Answer::Allowed, ids(response.diagnostics().reason())),
        (true, Decision::Deny) => (Answer::Denied, ids(response.diagnostics().reason())),
        // Beside them, what forbids in any case.
        (false, Decision::Deny) => {
            (Answer::Denied, ids(errors.into_iter().chain(response.diagnostics().reason())))
        }
        (false, Decision::Allow) => (Answer::Denied, ids(errors)),
    };
    because.sort();
    Verdict { decision, because }
}

impl Verdict {
    /// What follows from it, for the caller and the record: how many approvals it takes.
    ///
    /// # Errors
    /// [`Refusal::PolicyDenied`], with the policies that forbid.
    pub fn require(&self, version: u64) -> Result<Option<NonZeroU32>, Denial> {
        match self.decision {
            Answer::Allowed => Ok(None),
            Answer::Approvals(needed) => Ok(Some(needed)),
            Answer::Denied => {
                let detail = format!("{self} (policy version {version})");
                Err(Denial::Refused { refusal: Refusal::PolicyDenied, detail })
            }
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = self.because.join(", ");
        match (self.decision, self.because.is_empty()) {
            (Answer::Allowed, _) => write!(f, "permitted by {because}"),
            (Answer::Denied, false) => write!(f, "forbidden by {because}"),
            (Answer::Denied, true) => f.write_str("no policy permits it"),
            (Answer::Approvals(needed), _) => write!(f, "{because} asks for the approval of {needed}"),
        }
    }
}

fn ids<'a>(ids: impl IntoIterator<Item = &'a PolicyId>) -> Vec<String> {
    ids.into_iter().map(ToString::to_string).collect()
}

/// The same policies under their `@id`s: refusals name them by these.
fn named(set: &PolicySet) -> Result<PolicySet, PolicyError> {
    let mut named = PolicySet::new();
    for policy in set.policies() {
        let Some(id) = policy.annotation("id").filter(|id| !id.is_empty()) else {
            let start = start_of(policy);
            return Err(PolicyError(format!("a policy has no @id(\"…\"): {start}")));
        };
        let policy = policy.new_id(PolicyId::new(id));
        named.add(policy).map_err(|_| PolicyError(format!("two policies have the @id {id:?}")))?;
    }
    Ok(named)
}

/// The same policies with [`OWN`] under this name.
fn with_own(mut set: PolicySet, id: &str) -> Result<PolicySet, PolicyError> {
    let own = cedar_policy::Policy::parse(Some(PolicyId::new(id)), OWN);
    let own = own.map_err(|error| PolicyError(spelled(&error)))?;
    set.add(own)
        .map_err(|_| PolicyError(format!("the @id {id:?} is that of a rule that is always there")))?;
    Ok(set)
}

/// As much of a policy as tells which it is.
fn start_of(policy: &cedar_policy::Policy) -> String {
    let text = policy.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(80).collect()
}

/// An error of Cedar's parser with the line it is about.
fn spelled(error: &ParseErrors) -> String {
    let causes: Vec<_> = error.iter().map(ToString::to_string).collect();
    causes.join("; ")
}

fn schema() -> Result<&'static Schema, PolicyError> {
    static SCHEMA: OnceLock<Result<Schema, String>> = OnceLock::new();
    SCHEMA.get_or_init(schema::parse).as_ref().map_err(|error| PolicyError(error.clone()))
}

#[cfg(test)]
mod tests;
