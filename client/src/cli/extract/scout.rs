//! What the custodian will be asked about an envelope, found out before its turn.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use custodian_proto::{
    key::{FileKey, KeyId, WrappedKey},
    v1::Claims,
};

use super::{ExtractArgs, WhenNeeded, job};
use crate::{
    ahead::{Found, Question},
    error::{Error, Kind, Result},
    extract::{ExtractTo, Input, extract_stamped},
    interrupt::Interrupt,
    progress::Progress,
    remote::Remote,
    unwrapper::{KeyName, Unwrapper},
};

/// Longest reading for it. A signature is verified again in its turn: of a large envelope, that takes longer than to ask.
const LONGEST: Duration = Duration::from_millis(100);

/// What will be asked. Nothing: it will not be, as far as can be seen now, or that cannot be seen cheaply. Whatever is wrong with the
/// envelope is told in its turn, and nobody is asked for a password before it.
pub(super) fn question(args: &ExtractArgs, file: &Path, custodian: &WhenNeeded) -> Found {
    let scout = Scout { custodian, seen: Mutex::new(Found::Nothing) };
    match look(args, file, &scout) {
        Some(()) => scout.seen.into_inner().unwrap_or_else(PoisonError::into_inner),
        None => Found::Nothing,
    }
}

fn look(args: &ExtractArgs, file: &Path, scout: &Scout<'_>) -> Option<()> {
    let custodian = scout.custodian;
    let job = job(args, file, ExtractTo::Trial(args.folder.clone())).ok()?;
    if matches!(job.envelope, Input::Web(..)) {
        return None;
    }
    let accept = args.accept.accept(&custodian.settings).ok()?;
    let trusted = args.trust.load(&custodian.settings).ok()?;
    let glance = Glance { interrupt: &custodian.interrupt, began: Instant::now() };
    // It always fails: with what is wrong, or where the key would be needed.
    extract_stamped(&job, &accept, &trusted, scout, &glance).err().map(drop)
}

/// Takes note of what it is asked, and never answers.
struct Scout<'a> {
    custodian: &'a WhenNeeded,
    seen: Mutex<Found>,
}

impl Scout<'_> {
    fn sees(&self, seen: Found) -> Error {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        Error::new(Kind::Local, "cannot open the envelope", "it is not its turn")
    }

    /// Asks the custodian, and no person: what needs one is found out after its turn.
    fn ask<T>(&self, question: impl FnOnce(&Remote) -> Result<T>) -> Result<T> {
        let remote = self.custodian.ask(|remote| Ok(remote.without_person()))?;
        let answer = question(&remote);
        if remote.missed_person() { Err(self.sees(Found::LoginFirst)) } else { answer }
    }
}

impl Unwrapper for Scout<'_> {
    fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey> {
        let seen = match self.custodian.ask(|remote| Ok(remote.is_logged_in()))? {
            true => Found::Question(Question { wrapped: wrapped.clone(), claims: claims.clone() }),
            false => Found::LoginFirst,
        };
        Err(self.sees(seen))
    }

    fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize> {
        self.ask(|remote| self.custodian.choose(remote, wrapped))
    }

    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        self.ask(|remote| remote.find(names))
    }

    fn openpgp_fingerprints(&self, key: KeyId) -> Result<Vec<Vec<u8>>> {
        self.ask(|remote| remote.openpgp_fingerprints(key))
    }
}

/// Shows nothing, and ends what takes long.
struct Glance<'a> {
    interrupt: &'a Interrupt,
    began: Instant,
}

impl Progress for Glance<'_> {
    fn total(&self, _: u64) {}

    fn advance(&self, _: u64) {}

    fn interrupted(&self) -> bool {
        self.interrupt.happened() || self.began.elapsed() > LONGEST
    }
}
