//! `envelope extract` of several envelopes, one after the other.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use custodian_proto::{key::KeyId, limits::MAX_CHECKED_FILES};

use super::{
    inspect::{Web, input},
    message::tell,
};
use crate::{
    error::{Error, Kind, Result},
    inspect::{Recipient, inspect},
};

/// Extracts each, whatever became of those before, and tells of each that failed.
///
/// # Errors
/// If any failed: of the kind with the highest exit code among them. At once if a person interrupts it.
pub(super) fn each(files: &[PathBuf], mut extract: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut failed = Vec::new();
    for file in files {
        match extract(file) {
            Ok(()) => {}
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(error) => {
                tell(&error);
                failed.push(error.kind);
            }
        }
    }
    match failed.iter().copied().max_by_key(|kind| kind.exit_code()) {
        None => Ok(()),
        Some(worst) => {
            let what = format!("cannot extract {} of {} envelopes", failed.len(), files.len());
            Err(Error::new(worst, what, "each is told above").hint("the others are extracted"))
        }
    }
}

/// The files that these envelopes would make the custodian unwrap, by the key that would be asked for: what can be known
/// beforehand. An envelope that cannot be read, or has no key that `choose` would take, says so in its turn.
///
/// # Errors
/// [`Kind::Usage`] if there are too many; and those of `choose`.
pub(super) fn wanted(
    files: &[PathBuf],
    web: &Web,
    choose: impl Fn(&[KeyId]) -> Result<Option<usize>>,
) -> Result<BTreeMap<KeyId, Vec<[u8; 32]>>> {
    if files.len() > MAX_CHECKED_FILES {
        let what = format!("cannot extract {} envelopes", files.len());
        return Err(Error::new(Kind::Usage, what, format!("at most {MAX_CHECKED_FILES} at once")));
    }
    let mut wanted: BTreeMap<KeyId, Vec<[u8; 32]>> = BTreeMap::new();
    let mut chosen: HashMap<Vec<KeyId>, Option<KeyId>> = HashMap::new();
    for file in files {
        let Ok(found) = input(file, web).and_then(|input| inspect(&input)) else { continue };
        let keys: Vec<KeyId> = found.recipients.iter().filter_map(|recipient| recipient.key_id).collect();
        let key = match chosen.get(&keys) {
            Some(key) => *key,
            None => {
                let key = the_one_of(&keys, &choose)?;
                chosen.insert(keys, key);
                key
            }
        };
        let recipient =
            key.and_then(|key| found.recipients.iter().find(|recipient| recipient.key_id == Some(key)));
        if let Some((key, hash)) = recipient.and_then(hashed) {
            wanted.entry(key).or_default().push(hash);
        }
    }
    Ok(wanted)
}

/// The key that would be asked for.
fn the_one_of(keys: &[KeyId], choose: &impl Fn(&[KeyId]) -> Result<Option<usize>>) -> Result<Option<KeyId>> {
    match keys {
        // The format names its keys in another way.
        [] => Ok(None),
        [only] => Ok(Some(*only)),
        several => Ok(choose(several)?.and_then(|index| several.get(index).copied())),
    }
}

fn hashed(recipient: &Recipient) -> Option<(KeyId, [u8; 32])> {
    let hash = hex::decode(&recipient.wrapped_key_sha256).ok()?;
    Some((recipient.key_id?, hash.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_tried_and_the_worst_is_what_it_ends_with() {
        let files = ["refused", "good", "damaged", "local"].map(PathBuf::from);
        let mut tried = Vec::new();
        let error = each(&files, |file| {
            tried.push(file.to_owned());
            match file.to_str() {
                Some("good") => Ok(()),
                Some("damaged") => Err(Error::new(Kind::Integrity, "x", "y")),
                Some("refused") => Err(Error::new(Kind::Refused, "x", "y")),
                _ => Err(Error::new(Kind::Local, "x", "y")),
            }
        });
        let error = error.unwrap_err();
        assert_eq!((error.kind, error.what.as_str()), (Kind::Integrity, "cannot extract 3 of 4 envelopes"));
        assert_eq!(tried, files);
        assert_eq!(each(&files[1..2], |_| Ok(())), Ok(()));
    }

    #[test]
    fn an_interruption_ends_it() {
        let files = ["a", "b"].map(PathBuf::from);
        let error = each(&files, |file| {
            assert_eq!(file, "a");
            Err(Error::new(Kind::Interrupted, "stopped", "Ctrl-C"))
        });
        assert_eq!(error.unwrap_err().kind, Kind::Interrupted);
    }
}
