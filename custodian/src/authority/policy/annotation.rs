//! What a rule of a policy says beside Cedar: `@approvals("2")`, and `@break_glass`.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
};

use cedar_policy::{Effect, Policy, PolicySet};
use custodian_proto::approval::Glass;

use super::PolicyError;

/// Most approvals that a rule can ask for.
const MOST: u32 = 16;

/// The annotations of a whole policy, by the ids of its rules, and what of it is left without those rules.
#[derive(Debug)]
pub(super) struct Annotations {
    /// Forbids unless so many others approve.
    approvals: BTreeMap<String, NonZeroU32>,
    /// Forbids unless the glass is broken.
    breakable: BTreeSet<String>,
    /// The policy without `approvals`.
    approved: PolicySet,
    /// The policy without either.
    broken: PolicySet,
}

impl Annotations {
    /// # Errors
    /// A number that is none, or below 1; either annotation on a rule that permits.
    pub(super) fn read(set: &PolicySet) -> Result<Self, PolicyError> {
        let (mut approvals, mut breakable) = (BTreeMap::new(), BTreeSet::new());
        let (mut approved, mut broken) = (PolicySet::new(), PolicySet::new());
        for policy in set.policies() {
            let asked = count(policy)?;
            let may_break = breaks(policy)?;
            let id = policy.id().to_string();
            if let Some(needed) = asked {
                approvals.insert(id, needed);
                continue;
            }
            add(&mut approved, policy)?;
            if may_break {
                breakable.insert(id);
                continue;
            }
            add(&mut broken, policy)?;
        }
        Ok(Self { approvals, breakable, approved, broken })
    }

    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        !self.approvals.is_empty() || !self.breakable.is_empty()
    }

    /// How many must approve to get past the rules that forbid. `None`: nobody can, one of them is not marked so.
    pub(super) fn past(
        &self,
        forbidding: &[String],
        glass: Glass,
        break_glass: NonZeroU32,
    ) -> Option<NonZeroU32> {
        let needed = forbidding.iter().map(|id| match (self.approvals.get(id), glass) {
            (Some(needed), Glass::Whole) => Some(*needed),
            (Some(needed), Glass::Broken) => Some(*needed.max(&break_glass)),
            (None, Glass::Broken) if self.breakable.contains(id) => Some(break_glass),
            (None, _) => None,
        });
        needed.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The policy without the rules that can be got past.
    pub(super) fn rest(&self, glass: Glass) -> &PolicySet {
        match glass {
            Glass::Whole => &self.approved,
            Glass::Broken => &self.broken,
        }
    }
}

fn add(set: &mut PolicySet, policy: &Policy) -> Result<(), PolicyError> {
    set.add(policy.clone()).map_err(|error| PolicyError(error.to_string()))
}

/// How many `@approvals` a rule asks for.
fn count(policy: &Policy) -> Result<Option<NonZeroU32>, PolicyError> {
    let Some(text) = policy.annotation("approvals") else { return Ok(None) };
    forbids(policy, "approvals")?;
    let number = text.parse::<NonZeroU32>().ok().filter(|number| number.get() <= MOST);
    let number = number.ok_or_else(|| {
        let id = policy.id();
        PolicyError(format!("{id}: @approvals({text:?}) is no number from 1 to {MOST}"))
    });
    number.map(Some)
}

fn breaks(policy: &Policy) -> Result<bool, PolicyError> {
    match policy.annotation("break_glass") {
        None => Ok(false),
        Some("") => forbids(policy, "break_glass").map(|()| true),
        Some(_) => {
            let id = policy.id();
            Err(PolicyError(format!(
                "{id}: @break_glass has no value: the configuration says how many approvals it takes"
            )))
        }
    }
}

fn forbids(policy: &Policy, annotation: &str) -> Result<(), PolicyError> {
    match policy.effect() {
        Effect::Forbid => Ok(()),
        Effect::Permit => {
            let id = policy.id();
            Err(PolicyError(format!("{id}: @{annotation} stands on a permit; it belongs on a forbid")))
        }
    }
}
