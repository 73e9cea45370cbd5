//! One token in the pool: its workers, and whether it is drained.

use std::{
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{line::Line, member::Readiness};
use crate::token::{Drain, Health, Survey, TokenName, TokenSelect, turns::Turns, uri};

/// One token of the pool.
pub(super) struct Seat {
    pub(super) name: TokenName,
    pub(super) select: TokenSelect,
    pub(super) module: PathBuf,
    /// How long one operation on it may take.
    pub(super) deadline: Duration,
    /// Its workers; at least one.
    pub(super) lines: Vec<Arc<Line>>,
    /// What they do in turn.
    pub(super) turns: Turns,
    drain: RwLock<Option<Drain>>,
    /// It refused the PIN at a start.
    refused: AtomicBool,
}

/// How one token of several is. What an administrator sees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenReport {
    /// What it is called here.
    pub name: TokenName,
    /// Its PKCS#11 URI (RFC 7512).
    pub uri: String,
    /// Why it is given no operations by an administrator's wish.
    pub drain: Option<Drain>,
    /// Workers that serve.
    pub serving: usize,
    /// Workers that there should be.
    pub workers: usize,
    /// Operations under way on it.
    pub under_way: usize,
    /// Restarts of its workers; why none serves; what it has, as far as that is known.
    pub health: Health,
}

impl Seat {
    pub(super) fn new(
        name: TokenName,
        (select, module): (TokenSelect, PathBuf),
        deadline: Duration,
        (lines, turns): (Vec<Arc<Line>>, Turns),
        drain: Option<Drain>,
    ) -> Self {
        Self {
            name,
            select,
            module,
            deadline,
            lines,
            turns,
            drain: RwLock::new(drain),
            refused: AtomicBool::new(false),
        }
    }

    /// Whether it is drained, and why.
    pub(super) fn drain(&self) -> Option<Drain> {
        self.drain.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drain.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn set_drain(&self, drain: Option<Drain>) {
        *self.drain.write().unwrap_or_else(PoisonError::into_inner) = drain;
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// How it is: it serves if one of its workers does.
    pub(super) fn health(&self) -> Health {
        let lines: Vec<_> = self.lines.iter().map(|line| line.health()).collect();
        let serves = lines.iter().any(|line| line.trouble.is_none());
        Health {
            restarts: lines.iter().map(|line| line.restarts).sum(),
            trouble: if serves { None } else { lines.iter().find_map(|line| line.trouble.clone()) },
            last_survey: lines
                .into_iter()
                .filter_map(|line| line.last_survey)
                .reduce(|a, b| if a.keys.len() >= b.keys.len() { a } else { b }),
        }
    }

    pub(super) fn survey(&self) -> Option<Arc<Survey>> {
        self.health().last_survey
    }

    pub(super) fn under_way(&self) -> usize {
        self.lines.iter().map(|line| line.under_way()).sum()
    }

    pub(super) fn report(&self) -> TokenReport {
        let health = self.health();
        let label = health.last_survey.as_ref().map(|survey| survey.label.as_str());
        TokenReport {
            name: self.name.clone(),
            uri: uri::show(&self.select, label, &self.module),
            drain: self.drain(),
            serving: self.lines.iter().filter(|line| line.readiness() == Readiness::Ready).count(),
            workers: self.lines.len(),
            under_way: self.under_way(),
            health,
        }
    }
}
