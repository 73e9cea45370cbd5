//! A witness's folder: its key, the logs it watches, and the last checkpoint of each.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    encoding::AsBigEndian as _,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use custodian_proto::tlog::{Checkpoint, CosignerKey, VerifierKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Kind, Result},
    log::{read_log_key, write_durably},
};

const SECRET: &str = "witness.key";
const PUBLIC: &str = "witness.pub";
const LOGS: &str = "logs";
const SEEN: &str = "seen";
const EVIDENCE: &str = "evidence";

/// Most files of a kind that are kept: a misbehaving log's operator could fill the disk.
const MOST_EVIDENCE: usize = 100;

/// What a request may be evidence of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Suspicion {
    /// Two trees of one size, both signed. No honest log does that.
    Split,
    /// A signed tree of which nobody proved that it begins with the last one. It may: whoever sent it chose the proof.
    Unproven,
}

impl Suspicion {
    fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Unproven => "unproven",
        }
    }
}

/// What became of evidence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// It is in the file of this name, in `evidence`. Maybe for long.
    Kept(String),
    /// There are too many files of its kind.
    NoRoom,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(name) => write!(f, "it is kept as {EVIDENCE}/{name}"),
            Self::NoRoom => {
                write!(
                    f,
                    "it is not kept: {EVIDENCE}/ has {MOST_EVIDENCE} of its kind. Look at them, and move them away"
                )
            }
        }
    }
}

/// The folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

/// The last checkpoint of a log.
pub(super) struct Last {
    pub(super) checkpoint: Checkpoint,
}

impl Folder {
    /// Makes a witness: its key, and room for logs and memory. Nothing is overwritten.
    ///
    /// # Errors
    /// The folder has a witness already; it cannot be written; the name is none.
    pub fn create(path: &Path, name: &str) -> Result<(Self, CosignerKey)> {
        let what = format!("cannot make a witness in {}", path.display());
        let cannot = |why: &dyn std::fmt::Display| Error::new(Kind::Local, &what, why);
        let pair = Ed25519KeyPair::generate().map_err(|error| cannot(&error))?;
        let seed = pair.seed().map_err(|error| cannot(&error))?;
        let seed = seed.as_be_bytes().map_err(|error| cannot(&error))?;
        let key = public(name, &pair).map_err(|flaw| Error::new(Kind::Usage, &what, flaw))?;
        for folder in [path.to_owned(), path.join(LOGS), path.join(SEEN), path.join(EVIDENCE)] {
            fs::create_dir_all(folder).map_err(|error| cannot(&error))?;
        }
        let secret = Zeroizing::new(format!("{name}\n{}\n", hex::encode(seed.as_ref())));
        let mut file = OpenOptions::new();
        let mut file =
            file.write(true).create_new(true).mode(0o600).open(path.join(SECRET)).map_err(|error| {
                cannot(&error).hint("a witness's key is never replaced: choose another folder")
            })?;
        file.write_all(secret.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| cannot(&error))?;
        let folder = Self { path: path.to_owned() };
        write_durably(&path.join(PUBLIC), path, format!("{key}\n").as_bytes())
            .map_err(|error| cannot(&error))?;
        Ok((folder, key))
    }

    /// A folder that is there.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where the public keys of logs go, as files that end in `.pub`.
    pub fn logs_path(&self) -> PathBuf {
        self.path.join(LOGS)
    }

    pub(super) fn key(&self) -> Result<(CosignerKey, Ed25519KeyPair)> {
        let path = self.path.join(SECRET);
        let what = format!("cannot use the witness's key {}", path.display());
        let cannot = |why: &dyn std::fmt::Display| Error::new(Kind::Local, &what, why);
        let text = fs::read_to_string(&path)
            .map(Zeroizing::new)
            .map_err(|error| cannot(&error).hint("custodianctl audit witness init makes it"))?;
        let no_key = || cannot(&"it is none: a name and 64 hex digits, on two lines");
        let (name, seed) = text.trim_ascii_end().split_once('\n').ok_or_else(no_key)?;
        let seed = hex::decode(seed).map(Zeroizing::new).map_err(|_| no_key())?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| no_key())?;
        Ok((public(name, &pair).map_err(|flaw| cannot(&flaw))?, pair))
    }

    pub(super) fn logs(&self) -> Result<Vec<VerifierKey>> {
        let folder = self.logs_path();
        let what = format!("cannot read the logs in {}", folder.display());
        let cannot = |why: &dyn std::fmt::Display| Error::new(Kind::Local, &what, why);
        let mut logs: Vec<VerifierKey> = Vec::new();
        for file in fs::read_dir(&folder).map_err(|error| cannot(&error))? {
            let path = file.map_err(|error| cannot(&error))?.path();
            if path.extension().is_none_or(|end| end != "pub") {
                continue;
            }
            let log = read_log_key(&path)?;
            if logs.iter().any(|other| other.name() == log.name()) {
                return Err(cannot(&format!("two keys are of the log {}", log.name())));
            }
            logs.push(log);
        }
        if logs.is_empty() {
            return Err(cannot(&"there are none").hint("put the custodian's keys/log.pub there, as NAME.pub"));
        }
        Ok(logs)
    }

    /// What was remembered last of a log.
    pub(super) fn last(&self, log: &VerifierKey) -> Result<Option<Last>> {
        let path = self.seen(log);
        let what = format!("cannot use the remembered checkpoint {}", path.display());
        match fs::read_to_string(&path) {
            Ok(note) => {
                let checkpoint = Checkpoint::open(&note, log);
                let checkpoint = checkpoint.map_err(|flaw| Error::new(Kind::Integrity, what, flaw))?;
                Ok(Some(Last { checkpoint }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::new(Kind::Local, what, error)),
        }
    }

    /// Remembers a checkpoint durably.
    pub(super) fn remember(&self, log: &VerifierKey, note: &str) -> Result<()> {
        let path = self.seen(log);
        let cannot = |error: io::Error| {
            Error::new(Kind::Local, format!("cannot remember the checkpoint in {}", path.display()), error)
        };
        write_durably(&path, &self.path.join(SEEN), note.as_bytes()).map_err(cannot)
    }

    /// Keeps a request with this checkpoint, which may prove that a log has signed trees that do not fit. One for each tree: who
    /// sends the same once more, with whatever proof, takes no more room.
    pub(super) fn keep_evidence(
        &self,
        of: Suspicion,
        checkpoint: &Checkpoint,
        request: &str,
    ) -> Result<Evidence> {
        let folder = self.path.join(EVIDENCE);
        let cannot = |error: io::Error| {
            Error::new(Kind::Local, format!("cannot keep evidence in {}", folder.display()), error)
        };
        let Checkpoint { origin, size, root, .. } = checkpoint;
        let tree = hex::encode(&Sha256::digest(format!("{origin}\n{size}\n{root}"))[..16]);
        let name = format!("{}-{size}-{tree}", of.name());
        let path = folder.join(&name);
        if path.exists() {
            return Ok(Evidence::Kept(name));
        }
        let mut kept = 0;
        for file in fs::read_dir(&folder).map_err(cannot)? {
            let other = file.map_err(cannot)?.file_name();
            kept += usize::from(other.to_string_lossy().starts_with(of.name()));
        }
        if kept >= MOST_EVIDENCE {
            return Ok(Evidence::NoRoom);
        }
        write_durably(&path, &folder, request.as_bytes()).map_err(cannot)?;
        Ok(Evidence::Kept(name))
    }

    /// One file for each log key: its name may have slashes in it.
    fn seen(&self, log: &VerifierKey) -> PathBuf {
        let name = hex::encode(&Sha256::digest(log.to_string())[..16]);
        self.path.join(SEEN).join(format!("{name}.checkpoint"))
    }

    /// Takes the folder for this process alone, as long as the file lives.
    pub fn lock(&self) -> Result<File> {
        let path = self.path.join("lock");
        let cannot = |why: &dyn std::fmt::Display| {
            Error::new(Kind::Local, format!("cannot use the witness in {}", self.path.display()), why)
        };
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| cannot(&error))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| cannot(&"another process runs it"))?;
        Ok(file)
    }
}

fn public(
    name: &str,
    pair: &Ed25519KeyPair,
) -> std::result::Result<CosignerKey, custodian_proto::tlog::Flaw> {
    let mut key = [0; 32];
    key.copy_from_slice(pair.public_key().as_ref());
    CosignerKey::new(name, key)
}
