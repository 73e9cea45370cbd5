//! `envelope extract` of several envelopes, one after the other.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use custodian_proto::{
    key::{KeyId, KeyWrapping},
    limits::MAX_CHECKED_FILES,
};

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
    let mut chosen: HashMap<Vec<KeyId>, Option<usize>> = HashMap::new();
    for file in files {
        let Ok(found) = input(file, web).and_then(|input| inspect(&input)) else { continue };
        let recipients = in_order(&found.recipients);
        let keys: Vec<KeyId> = recipients.iter().map(|(key, _)| *key).collect();
        let index = match chosen.get(&keys) {
            Some(index) => *index,
            None => {
                let index = the_one_of(&keys, &choose)?;
                chosen.insert(keys, index);
                index
            }
        };
        let recipient = index.and_then(|index| recipients.get(index));
        if let Some((key, hash)) = recipient.and_then(|(key, recipient)| Some((*key, hash_of(recipient)?))) {
            wanted.entry(key).or_default().push(hash);
        }
    }
    Ok(wanted)
}

/// Those that name their key by its id, in the order in which the custodian is asked about them: PKCS #1 v1.5 comes last.
fn in_order(recipients: &[Recipient]) -> Vec<(KeyId, &Recipient)> {
    let mut named: Vec<_> =
        recipients.iter().filter_map(|recipient| Some((recipient.key_id?, recipient))).collect();
    named.sort_by_key(|(_, recipient)| recipient.wrapping == KeyWrapping::Pkcs1);
    named
}

/// The number of the key that would be asked for.
fn the_one_of(keys: &[KeyId], choose: &impl Fn(&[KeyId]) -> Result<Option<usize>>) -> Result<Option<usize>> {
    match keys {
        // The format names its keys in another way.
        [] => Ok(None),
        [_] => Ok(Some(0)),
        several => choose(several),
    }
}

fn hash_of(recipient: &Recipient) -> Option<[u8; 32]> {
    hex::decode(&recipient.wrapped_key_sha256).ok()?.try_into().ok()
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
    fn the_recipient_that_counts_is_the_one_that_is_asked_for() {
        let recipient = |key: u8, wrapping, hash: u8| Recipient {
            key_id: Some(KeyId::of_public_key(&[key])),
            openpgp_key: None,
            certificate: None,
            wrapping,
            wrapped_key_sha256: hex::encode([hash; 32]),
        };
        let unnamed = Recipient { key_id: None, ..recipient(9, KeyWrapping::OaepSha256, 9) };
        let recipients = [
            recipient(1, KeyWrapping::Pkcs1, 1),
            unnamed,
            recipient(2, KeyWrapping::OaepSha256, 2),
            recipient(1, KeyWrapping::OaepSha256, 3),
        ];
        let hashes: Vec<_> = in_order(&recipients).iter().map(|(_, one)| hash_of(one)).collect();
        assert_eq!(hashes, [Some([2; 32]), Some([3; 32]), Some([1; 32])]);
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
