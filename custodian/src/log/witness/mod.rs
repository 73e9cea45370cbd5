//! Witnesses elsewhere sign each checkpoint, too (C2SP tlog-witness and tlog-cosignature): so that a log which shows different
//! people different trees can be told from one that does not.
//!
//! Asking them is never in the way of a commit, and a record needs no cosignature to be made.

mod post;
mod rounds;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, sync::Arc};

use custodian_proto::tlog::{Cosignature, CosignerKey, cosignature};
use jiff::{SignedDuration, Timestamp};

pub use post::WitnessUrl;

use super::{Log, LogState, SignedCheckpoint};

/// A witness to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessConfig {
    /// Its public key and name.
    pub key: CosignerKey,
    /// Where it listens.
    pub url: WitnessUrl,
    /// With https: a PEM file with the CAs to trust. `None`: those that this system trusts.
    pub ca: Option<PathBuf>,
}

/// How a witness is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WitnessState {
    /// Its name.
    pub name: String,
    /// Records of the last checkpoint that it cosigned for us.
    pub size: u64,
    /// When, by its own clock: seconds since 1970. `None`: it never did, or an earlier run did not keep it.
    pub time: Option<u64>,
    /// Why it does not cosign; `None` while all is well.
    pub trouble: Option<String>,
}

impl Log {
    /// This log, with these witnesses. What they signed for an earlier run counts.
    #[must_use]
    pub fn watched_by(mut self, witnesses: Vec<WitnessConfig>) -> Self {
        let newest = self.state.borrow().newest.clone();
        let kept = newest.as_deref().map_or(Vec::new(), |newest| cosigned(&newest.note, &witnesses));
        let states = witnesses.iter().map(|witness| {
            let kept = kept.iter().find(|cosignature| cosignature.name == witness.key.name());
            WitnessState {
                name: witness.key.name().to_owned(),
                size: kept.and(newest.as_ref()).map_or(0, |newest| newest.checkpoint.size),
                time: kept.map(|cosignature| cosignature.time),
                trouble: None,
            }
        });
        let states = states.collect();
        self.state.send_modify(|state| {
            state.cosigned = newest.filter(|_| !kept.is_empty());
            state.witnesses = states;
        });
        self.witnesses = witnesses;
        self
    }

    /// How many witnesses have cosigned this log within that time. One whose clock is off by more does not count.
    pub fn cosigners(&self, within: SignedDuration, now: Timestamp) -> u32 {
        let fresh = |witness: &&WitnessState| {
            let time = witness.time.and_then(|time| i64::try_from(time).ok());
            let time = time.and_then(|time| Timestamp::from_second(time).ok());
            time.is_some_and(|time| now.duration_since(time).abs() < within)
        };
        let count = self.state.borrow().witnesses.iter().filter(fresh).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// What a policy can ask of the witnesses: `context.cosigners`.
#[derive(Clone)]
pub struct Cosigners {
    count: Arc<dyn Fn(Timestamp) -> u32 + Send + Sync>,
}

impl Cosigners {
    /// Those of a log whose cosignatures are younger than `within`.
    pub fn of(log: Arc<Log>, within: SignedDuration) -> Self {
        Self::counted_by(move |now| log.cosigners(within, now))
    }

    /// As this counts them.
    pub(crate) fn counted_by(count: impl Fn(Timestamp) -> u32 + Send + Sync + 'static) -> Self {
        Self { count: Arc::new(count) }
    }

    /// How many there are. In memory, and kept with the checkpoint, so a restart changes nothing.
    pub fn count(&self, now: Timestamp) -> u32 {
        (self.count)(now)
    }
}

/// What a permit was given on: so many witnesses had cosigned the log lately, and the policy looked at that.
#[derive(Clone)]
pub struct Cosigned {
    by: Cosigners,
    at_least: u32,
}

impl Cosigned {
    /// As many as the policy saw.
    pub(crate) fn seen(by: Cosigners, at_least: u32) -> Self {
        Self { by, at_least }
    }

    /// Whether there are still as many.
    pub(crate) fn still_is(&self, now: Timestamp) -> bool {
        self.by.count(now) >= self.at_least
    }
}

impl PartialEq for Cosigned {
    fn eq(&self, other: &Self) -> bool {
        self.at_least == other.at_least && Arc::ptr_eq(&self.by.count, &other.by.count)
    }
}

impl Eq for Cosigned {}

impl fmt::Debug for Cosigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cosigned({})", self.at_least)
    }
}

impl LogState {
    /// The newest checkpoint, with the cosignatures that it has by now.
    pub fn best(&self) -> Option<Arc<SignedCheckpoint>> {
        let newest = self.newest.as_ref()?;
        let cosigned = self.cosigned.as_ref().filter(|it| it.checkpoint == newest.checkpoint);
        Some(Arc::clone(cosigned.unwrap_or(newest)))
    }
}

/// The cosignatures of a note by these witnesses.
fn cosigned(note: &str, witnesses: &[WitnessConfig]) -> Vec<Cosignature> {
    let keys: Vec<CosignerKey> = witnesses.iter().map(|witness| witness.key.clone()).collect();
    // What is no note has no cosignatures either.
    cosignature::cosignatures(note, &keys).unwrap_or_default()
}
