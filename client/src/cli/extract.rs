//! `envelope extract`: through the custodian.

mod scout;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    limits::MAX_TEXT_LEN,
    tlog::{Receipt, VerifierKey},
    v1::Claims,
};

use super::{
    accept::AcceptArgs,
    connection::Connection,
    inspect::{ENTRY_COLUMNS, Web, entry_row, input},
    output::Style,
    progress::{Bar, Talk},
    several,
    text::printable,
    timestamp::TrustArgs,
    verify::signed_by,
};
use crate::{
    ahead::{Early, Found, Further, Question, with_keys_ahead},
    envelope::{OwnKey, cms::Unauthenticated},
    error::{Error, Kind, Result},
    extract::{ExtractJob, ExtractTo, Limits, extract_stamped},
    interrupt::Interrupt,
    log::{prove_receipt, read_log_key, record_of, write_receipt},
    password::PasswordSource,
    person::key_file,
    remote::{ReceiptWanted, Recorded, Remote},
    settings::Settings,
    unwrapper::{KeyName, Unwrapper},
};

/// Open an envelope through the custodian, and write its files once they are authenticated
#[derive(Debug, clap::Args)]
pub(super) struct ExtractArgs {
    /// The envelopes. - for standard input, alone. Sealed ones may be https:// URLs or s3://BUCKET/KEY: only what is needed is
    /// fetched. Of several, all are tried, and the exit code is the highest of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Folder to extract into; made if it is missing
    #[arg(long = "directory", short = 'C', value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Only entries whose path matches. May be repeated
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,
    /// Why the envelope is opened; recorded by the custodian
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = reason, hide_default_value = true)]
    reason: String,
    /// The one matching file to standard output, once all of it is authenticated
    #[arg(long, conflicts_with = "folder")]
    to_stdout: bool,
    /// Write the receipt of this attempt there: proves offline that it is in the custodian's log. Without a receipt, nothing
    /// is extracted
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// The log's public key, to check the receipt at once
    #[arg(long, value_name = "FILE", env = "CUSTODIAN_LOG_KEY")]
    log_key: Option<PathBuf>,
    /// Only list what would be extracted. Where the list is secret, that is recorded as opening the envelope
    #[arg(long, conflicts_with_all = ["folder", "to_stdout", "receipt"])]
    list: bool,
    #[command(flatten)]
    accept: AcceptArgs,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    style: Style,
    /// Refuse envelopes with more entries
    #[arg(long, value_name = "N", default_value_t = Limits::default().entries)]
    max_entries: u64,
    /// Refuse envelopes with more bytes of content
    #[arg(long, value_name = "N", default_value_t = Limits::default().content_bytes)]
    max_bytes: u64,
    /// Open what is sealed to your own key (PKCS #8 in PEM), here and without the custodian: nothing is recorded
    #[arg(long, value_name = "FILE", conflicts_with_all = ["receipt", "reason"])]
    own_key: Option<PathBuf>,
    /// File with the passphrase of that key, - for standard input. [default: asked for on the terminal, if it has one]
    #[arg(long, value_name = "FILE", requires = "own_key")]
    passphrase_file: Option<PathBuf>,
    /// Open a CMS envelope without authentication (AES-CBC) too: somebody may have changed its content
    #[arg(long)]
    allow_unauthenticated: bool,
    #[command(flatten)]
    talk: Talk,
    #[command(flatten)]
    web: Web,
    #[command(flatten)]
    connection: Connection,
}

/// Extracts. Several envelopes only if the budgets have room for all of them.
pub(super) fn run(args: &ExtractArgs, interrupt: &Interrupt) -> Result<()> {
    let settings = args.connection.settings()?;
    check(args, &settings)?;
    let custodian = WhenNeeded {
        settings,
        connection: args.connection.clone(),
        interrupt: interrupt.clone(),
        remote: Mutex::default(),
        chosen: Mutex::default(),
        own: args
            .own_key
            .as_deref()
            .map(|path| own_key(path, args.passphrase_file.as_deref()))
            .transpose()?,
    };
    let files = match args.files.as_slice() {
        [file] => return extract_one(args, file, &custodian, None, "extracted"),
        files => files,
    };
    let done = |file: &Path| format!("{}: extracted", printable(&file.display().to_string()));
    if custodian.own.is_some() {
        return several::each(files, |file| extract_one(args, file, &custodian, None, &done(file)));
    }
    let choose = |keys: &[KeyId]| custodian.ask(|remote| remote.choose_key(keys));
    let wanted = several::wanted(files, &args.web, choose)?;
    if !wanted.is_empty() {
        let what = format!("cannot extract these {} envelopes", files.len());
        custodian.ask(|remote| remote.check_budget(&what, &wanted))?;
    }
    let question = |number: usize| {
        files.get(number).map_or(Found::Nothing, |file| scout::question(args, file, &custodian))
    };
    let ask = |questions: &[Question], told: &mut dyn FnMut(usize, Result<FileKey>)| {
        match custodian.ask(|remote| remote.unwrap_many(questions, told)) {
            Ok(()) => Further::Look,
            // Whatever it is: it is told by the envelope whose turn it is, if it is still so then.
            Err(_) => Further::Stop,
        }
    };
    with_keys_ahead(files.len(), question, ask, |ahead| {
        let mut turns = 0..;
        several::each(files, |file| {
            let early = turns.next().and_then(|turn| ahead.turn(turn));
            extract_one(args, file, &custodian, early, &done(file))
        })
    })
}

/// Whether the arguments fit together.
fn check(args: &ExtractArgs, settings: &Settings) -> Result<()> {
    let what = match args.files.as_slice() {
        [file] => format!("cannot extract {}", name_of(file)),
        files => format!("cannot extract {} envelopes", files.len()),
    };
    let wrong = |why: &str| Err(Error::new(Kind::Usage, what.clone(), why));
    let from_stdin = args.files.iter().any(|file| file == Path::new("-"));
    if from_stdin && args.passphrase_file.as_deref() == Some(Path::new("-")) {
        return wrong("standard input cannot be both envelope and passphrase");
    }
    if from_stdin && args.own_key.is_none() && settings.password() == PasswordSource::Stdin {
        return wrong("standard input cannot be both envelope and password")
            .map_err(|error| error.hint("log in first: envelope login --password-file -"));
    }
    if from_stdin && args.own_key.is_none() && settings.second_factor() == PasswordSource::Stdin {
        return wrong("standard input cannot be both envelope and code")
            .map_err(|error| error.hint("show the second factor first: envelope totp verify --totp-file -"));
    }
    if !args.list && !args.style.is_for_people() {
        return wrong("--json is for --list");
    }
    if args.files.len() > 1 && (from_stdin || args.to_stdout || args.list || args.receipt.is_some()) {
        return wrong("standard input, --to-stdout, --list and --receipt are for one envelope");
    }
    Ok(())
}

/// What is to be done with this one.
fn job(args: &ExtractArgs, file: &Path, output: ExtractTo) -> Result<ExtractJob> {
    let limits = Limits { entries: args.max_entries, content_bytes: args.max_bytes, ..Limits::default() };
    let (envelope, only, reason) = (input(file, &args.web)?, args.only.clone(), args.reason.clone());
    let unauthenticated =
        if args.allow_unauthenticated { Unauthenticated::Allow } else { Unauthenticated::Refuse };
    Ok(ExtractJob { envelope, output, only, reason, limits, unauthenticated })
}

/// `early`: what the custodian said already. `done` is what it says before the numbers.
fn extract_one(
    args: &ExtractArgs,
    file: &Path,
    custodian: &WhenNeeded,
    early: Option<Early>,
    done: &str,
) -> Result<()> {
    let output = match () {
        () if args.list => ExtractTo::List,
        () if args.to_stdout => ExtractTo::Stdout,
        () => ExtractTo::Folder(args.folder.clone()),
    };
    let receipt =
        args.receipt.as_deref().map(|path| Wanted::new(path, args.log_key.as_deref())).transpose()?;
    let job = job(args, file, output)?;
    let what = format!("cannot extract {}", name_of(file));
    let opener = Opener { custodian, what, receipt, early: Mutex::new(early) };

    let bar = Bar::start(args.talk, &custodian.interrupt);
    let accept = args.accept.accept(&custodian.settings)?;
    let unwrapper: &dyn Unwrapper = match &custodian.own {
        Some(own) => own,
        None => &opener,
    };
    let trusted = args.trust.load(&custodian.settings)?;
    let report = extract_stamped(&job, &accept, &trusted, unwrapper, &bar).inspect_err(|_| bar.clear())?;
    if args.list {
        bar.clear();
        return args.style.many(&report.listed, &ENTRY_COLUMNS, entry_row);
    }
    if let Some(sender) = &report.sender {
        bar.remark(&printable(&signed_by(sender, report.timestamp.as_ref())));
    }
    if report.swept > 0 {
        bar.remark(&format!("removed {} leftovers of an earlier run that was killed", report.swept));
    }
    bar.finish(done, report.entries, report.content_bytes);
    Ok(())
}

/// Which of these keys, each wrapped in this way, is asked for.
type Chosen = HashMap<Vec<(KeyId, KeyWrapping)>, usize>;

/// The custodian, connected to when the first key is asked for: an envelope that cannot be read costs no connection, no
/// password and no record.
struct WhenNeeded {
    settings: Settings,
    connection: Connection,
    interrupt: Interrupt,
    remote: Mutex<Option<Arc<Remote>>>,
    /// Which key of an envelope's is asked for, by all of them.
    chosen: Mutex<Chosen>,
    /// The person's own key: then the custodian is not asked at all.
    own: Option<OwnKey>,
}

fn own_key(path: &Path, passphrase: Option<&Path>) -> Result<OwnKey> {
    let key = key_file::read(path, &PasswordSource::of(passphrase))?;
    OwnKey::new(key.as_bytes())
        .map_err(|why| Error::new(Kind::Local, format!("cannot use the key {}", path.display()), why))
}

impl WhenNeeded {
    fn ask<T>(&self, question: impl FnOnce(&Remote) -> Result<T>) -> Result<T> {
        question(&*self.connected()?)
    }

    fn connected(&self) -> Result<Arc<Remote>> {
        let mut slot = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = &*slot {
            return Ok(Arc::clone(remote));
        }
        let remote = Remote::connect(&self.settings, &self.interrupt)?;
        Ok(Arc::clone(slot.insert(Arc::new(self.connection.equip(remote)))))
    }

    /// As [`Unwrapper::choose`] of the custodian, which is asked until it names one, for each set of keys and ways of wrapping. Why it
    /// did not may have been of the moment: a mistyped password.
    fn choose(&self, remote: &Remote, wrapped: &[WrappedKey]) -> Result<usize> {
        let keys: Vec<_> = wrapped.iter().map(|one| (one.key_id(), one.wrapping())).collect();
        let chosen = || self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = chosen().get(&keys) {
            return Ok(*known);
        }
        let index = remote.choose(wrapped)?;
        chosen().insert(keys, index);
        Ok(index)
    }
}

/// Opens one envelope through the custodian.
struct Opener<'a> {
    custodian: &'a WhenNeeded,
    /// What fails if it fails.
    what: String,
    receipt: Option<Wanted>,
    /// What it said before it was asked here.
    early: Mutex<Option<Early>>,
}

impl Opener<'_> {
    fn ask<T>(&self, question: impl FnOnce(&Remote) -> Result<T>) -> Result<T> {
        self.custodian.ask(question).map_err(|error| about_envelope(&self.what, error))
    }
}

/// What the custodian says is about this envelope; our own troubles have names of their own.
fn about_envelope(what: &str, error: Error) -> Error {
    match error.kind {
        Kind::Refused | Kind::WaitsForApproval | Kind::Integrity | Kind::Unreachable => {
            Error { what: what.to_owned(), ..error }
        }
        Kind::Local | Kind::Usage | Kind::Interrupted => error,
    }
}

impl Unwrapper for Opener<'_> {
    fn unwrap(&self, wrapped: &WrappedKey, claims: &Claims) -> Result<FileKey> {
        let early = self.early.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(answer) = early.and_then(|early| early.answer_to(wrapped, claims)) {
            return answer.map_err(|error| about_envelope(&self.what, error));
        }
        self.ask(|remote| {
            let Some(wanted) = &self.receipt else { return remote.unwrap(wrapped, claims) };
            let Recorded { file_key, sequence, receipt } =
                remote.unwrap_recorded(wrapped, claims, ReceiptWanted::Yes)?;
            wanted.keep(&receipt.map_or_else(|| remote.receipt(sequence), Ok)?, wrapped)?;
            Ok(file_key)
        })
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

/// The receipt that a person wants.
struct Wanted {
    path: PathBuf,
    key: Option<VerifierKey>,
}

impl Wanted {
    /// Finds what cannot work before a key is asked for.
    fn new(path: &Path, key: Option<&Path>) -> Result<Self> {
        if path.exists() {
            let what = format!("cannot write the receipt {}", path.display());
            return Err(Error::new(Kind::Local, what, "the file exists").hint("choose another name"));
        }
        Ok(Self { path: path.to_owned(), key: key.map(read_log_key).transpose()? })
    }

    /// Writes it into its file, if it is of this wrapped key.
    fn keep(&self, receipt: &Receipt, wrapped: &WrappedKey) -> Result<()> {
        let record = match &self.key {
            Some(key) => prove_receipt(receipt, key)?.record,
            None => record_of(receipt)?,
        };
        let is_of_it = record.wrapped_key_sha256 == hex::encode(wrapped.sha256());
        if !is_of_it || record.operation != "Unwrap" || record.outcome != "OK" {
            let why = "it is of another attempt: the custodian's log does not say what it answered";
            return Err(Error::new(Kind::Integrity, "the receipt is wrong", why).hint("tell the auditors"));
        }
        write_receipt(&self.path, receipt)
    }
}

/// A reason that the custodian will take.
pub(super) fn reason(text: &str) -> std::result::Result<String, String> {
    if text.len() > MAX_TEXT_LEN {
        return Err(format!("it is longer than {MAX_TEXT_LEN} bytes"));
    }
    Ok(text.to_owned())
}

fn name_of(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_envelope_and_a_local_failure_what_failed() {
        let told = |kind| {
            about_envelope("cannot extract a.mtd", Error::new(kind, "cannot log in as anna", "why")).what
        };
        assert_eq!(told(Kind::Refused), "cannot extract a.mtd");
        assert_eq!(told(Kind::Unreachable), "cannot extract a.mtd");
        assert_eq!(told(Kind::Local), "cannot log in as anna");
    }

    #[test]
    fn a_reason_longer_than_the_log_takes_is_refused_here() {
        assert!(reason(&"x".repeat(MAX_TEXT_LEN)).is_ok());
        assert!(reason(&"x".repeat(MAX_TEXT_LEN + 1)).is_err());
    }
}
