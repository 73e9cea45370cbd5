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
    ahead::Question,
    error::{Error, Kind, Result},
    extract::{ExtractTo, Input, extract_stamped},
    interrupt::Interrupt,
    progress::Progress,
    unwrapper::{KeyName, Unwrapper},
};

/// Longest reading for it. A signature is verified again in its turn: of a large envelope, that takes longer than to ask.
const LONGEST: Duration = Duration::from_millis(100);

/// The question. `None`: it will not be asked, as far as can be seen now, or that cannot be seen cheaply. Whatever is wrong with the
/// envelope is told in its turn.
pub(super) fn question(args: &ExtractArgs, file: &Path, custodian: &WhenNeeded) -> Option<Question> {
    let job = job(args, file, ExtractTo::Trial(args.folder.clone())).ok()?;
    if matches!(job.envelope, Input::Web(..)) {
        return None;
    }
    let accept = args.accept.accept(&custodian.settings).ok()?;
    let trusted = args.trust.load(&custodian.settings).ok()?;
    let scout = Scout { custodian, question: Mutex::new(None) };
    let glance = Glance { interrupt: &custodian.interrupt, began: Instant::now() };
    // It always fails: with what is wrong, or where the key would be needed.
    extract_stamped(&job, &accept, &trusted, &scout, &glance).err()?;
    scout.question.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note of what it is asked, and never answers.
struct Scout<'a> {
    custodian: &'a WhenNeeded,
    question: Mutex<Option<Question>>,
}

impl Unwrapper for Scout<'_> {
    fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey> {
        let question = Question { wrapped: wrapped.clone(), claims: claims.clone() };
        *self.question.lock().unwrap_or_else(PoisonError::into_inner) = Some(question);
        Err(Error::new(Kind::Local, "cannot open the envelope", "it is not its turn"))
    }

    fn choose(&self, wrapped: &[WrappedKey]) -> Result<usize> {
        self.custodian.choose(wrapped)
    }

    fn find(&self, names: &[KeyName]) -> Result<Vec<Option<KeyId>>> {
        self.custodian.ask(|remote| remote.find(names))
    }

    fn openpgp_fingerprints(&self, key: KeyId) -> Result<Vec<Vec<u8>>> {
        self.custodian.ask(|remote| remote.openpgp_fingerprints(key))
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
