//! Who does it: the least busy worker that has the key and serves.

use std::sync::{Arc, atomic::Ordering};

use super::{
    Pool,
    line::Line,
    member::{Member, Readiness},
    seat::Seat,
    usage::{Fit, Usage},
};
use crate::token::{TokenError, TokenName};

/// Which line of which seat.
pub(super) type Place = (usize, usize);

/// What to do with an operation.
pub(super) enum Choice<'a> {
    /// Give it to this one.
    Try {
        place: Place,
        seat: &'a Arc<Seat>,
        line: &'a Arc<Line>,
        member: &'a Arc<dyn Member>,
        others: Others,
    },
    /// Nobody can do it now, but somebody may soon.
    Wait,
    /// Nobody can do it.
    Nobody(TokenError),
}

/// Whether somebody else could do it, if this one does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Others {
    Some,
    None,
}

struct Candidate<'a> {
    place: Place,
    seat: &'a Arc<Seat>,
    line: &'a Arc<Line>,
}

impl Pool {
    /// Who uses a key next, of those that were not `tried`.
    pub(super) fn choose<U: Usage>(&self, usage: &U, tried: &[Place]) -> Choice<'_> {
        let holders: Vec<_> = self
            .candidates()
            .filter_map(|one| one.line.key(usage.key()).map(|key| (one, usage.fits(&key))))
            .collect();
        if holders.is_empty() {
            return Choice::Nobody(self.nobody_has(usage));
        }
        // One that cannot must not be asked while one that can is only away: it would say no, for good.
        let fit = if holders.iter().any(|(_, fit)| *fit == Fit::Good) { Fit::Good } else { Fit::Bad };
        let fitting = holders.into_iter().filter(|(_, of)| *of == fit).map(|(one, _)| one);
        let (drained, active): (Vec<_>, Vec<_>) = fitting.partition(|one| one.seat.is_drained());
        if active.is_empty() {
            let names = drained.iter().map(|one| one.seat.name.as_str()).collect::<Vec<_>>().join(", ");
            return Choice::Nobody(TokenError::Unavailable(format!(
                "the key is in no token that is not drained ({names}): custodianctl token resume gives it back"
            )));
        }
        self.pick(active.into_iter().filter(|one| !tried.contains(&one.place)).collect())
    }

    /// Who makes a key: the token of this name, or the first that serves.
    pub(super) fn choose_maker(&self, name: Option<&TokenName>) -> Choice<'_> {
        let active = |seat: &&Arc<Seat>| !seat.is_drained() && name.is_none_or(|name| seat.name == *name);
        let mut first = None;
        for seat in self.seats.iter().filter(active) {
            let picked = self.pick(self.candidates().filter(|one| Arc::ptr_eq(one.seat, seat)).collect());
            match picked {
                Choice::Try { .. } => return picked,
                // One that will serve soon goes before one that does not.
                other => match first {
                    Some(Choice::Wait) => {}
                    _ => first = Some(other),
                },
            }
        }
        first.unwrap_or_else(|| {
            let all = self.seats.iter().map(|seat| seat.name.as_str()).collect::<Vec<_>>().join(", ");
            Choice::Nobody(TokenError::Unavailable(match name {
                Some(name) => {
                    format!("the token {name} is drained, or there is none of that name (there are {all})")
                }
                None => format!("every token is drained ({all})"),
            }))
        })
    }

    /// The least busy that serves; among equals, each in its turn.
    fn pick<'a>(&'a self, candidates: Vec<Candidate<'a>>) -> Choice<'a> {
        let with_readiness = candidates.into_iter().map(|one| {
            let readiness = one.line.readiness();
            (one, readiness)
        });
        let (down, up): (Vec<_>, Vec<_>) =
            with_readiness.partition(|(_, readiness)| matches!(readiness, Readiness::Down(_)));
        let others = if up.len() > 1 { Others::Some } else { Others::None };
        let may_wait = !up.is_empty();
        let mut ready: Vec<_> = up
            .into_iter()
            .filter(|(_, readiness)| *readiness == Readiness::Ready)
            .map(|(one, _)| one)
            .collect();
        if !ready.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % ready.len();
            ready.rotate_left(turn);
        }
        let least = ready.into_iter().min_by_key(|one| one.line.load());
        match least.and_then(|one| Some((one.line.member()?, one))) {
            Some((member, Candidate { place, seat, line })) => {
                Choice::Try { place, seat, line, member, others }
            }
            None if may_wait => Choice::Wait,
            None => {
                let mut troubles: Vec<_> = down
                    .into_iter()
                    .map(|(one, readiness)| match readiness {
                        Readiness::Down(why) => self.named(one.seat, &why),
                        Readiness::Ready | Readiness::Soon => String::new(),
                    })
                    .collect();
                troubles.dedup();
                Choice::Nobody(TokenError::Unavailable(troubles.join("; ")))
            }
        }
    }

    fn candidates(&self) -> impl Iterator<Item = Candidate<'_>> {
        self.seats.iter().enumerate().flat_map(|(at, seat)| {
            let lines = seat.lines.iter().enumerate();
            lines.map(move |(number, line)| Candidate { place: (at, number), seat, line })
        })
    }

    /// Why a key is nowhere: a token that has never served may have it.
    fn nobody_has<U: Usage>(&self, usage: &U) -> TokenError {
        let unknown = self.seats.iter().find(|seat| !seat.lines.iter().any(|line| line.is_known()));
        match unknown {
            None => TokenError::UnknownKey(usage.key()),
            Some(seat) => {
                let why = seat.health().trouble.unwrap_or_else(|| "it has not served yet".to_owned());
                TokenError::Unavailable(format!(
                    "no token that serves has the key {}; the token {} may have it: {why}",
                    usage.key(),
                    seat.name
                ))
            }
        }
    }
}
