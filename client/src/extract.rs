//! Extract: an envelope in, authenticated files out.

use std::{path::PathBuf, time::SystemTime};

use custodian_proto::{
    key::{FileKey, WrappedKey},
    limits::MAX_TEXT_LEN,
    refusal::Refusal,
    v1::Claims,
};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::{
    envelope::{
        Entry, EntryKind, Format, Opened,
        cms::{self, Unauthenticated},
        damaged, mtd,
        openpgp::{self, Around},
        sealed,
    },
    error::{Error, Kind, Result},
    input::Envelope,
    inspect,
    output::{self, Case, SafePath, Tree},
    progress::Progress,
    sender::Checked,
    signed::Accept,
    single,
    target::{TargetFolder, check_free_in},
    timestamp::{Stamped, TrustedAuthorities},
    unwrapper::{KeyName, Unwrapper},
    verify::Sender,
    web::{Access, Location},
};

/// What to extract, and where to.
pub struct ExtractJob {
    /// The envelope.
    pub envelope: Input,
    /// Where the files go.
    pub output: ExtractTo,
    /// Only entries that match one of these globs; empty: all.
    pub only: Vec<String>,
    /// Why; recorded by the custodian.
    pub reason: String,
    /// What is too much.
    pub limits: Limits,
    /// What to do with envelopes that nothing authenticates.
    pub unauthenticated: Unauthenticated,
}

/// Where an envelope comes from.
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// Somewhere on the network. Only the parts are fetched that are needed, so only `sealed` envelopes can be read there.
    Web(Location, Access),
}

/// Where extracted files go.
pub enum ExtractTo {
    /// Beneath this folder, which is made if it is missing. Existing files are not overwritten.
    Folder(PathBuf),
    /// The content of the one matching entry to standard output, once all of it is authenticated.
    Stdout,
    /// Nowhere, and nothing is made; but as far as can be seen before the key is there, it could go beneath this folder. To find
    /// out which key is asked for.
    Trial(PathBuf),
    /// Nowhere: the report lists what would be extracted. Where the list is secret, that takes the key, too.
    List,
}

/// What an envelope may not exceed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of content in all.
    pub content_bytes: u64,
    /// Content bytes per stored byte, for any one entry.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 1_000_000, content_bytes: 1 << 40, ratio: 1_100 }
    }
}

/// What was extracted.
#[derive(Clone, Debug, Default)]
pub struct ExtractReport {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
    /// Leftovers of an earlier, killed run that were removed.
    pub swept: u64,
    /// What would be extracted, if only that was asked for.
    pub listed: Vec<inspect::Entry>,
    /// Who signed the envelope, if somebody did.
    pub sender: Option<Sender>,
    /// When that was, if an authority says so that counts.
    pub timestamp: Option<Stamped>,
}

/// Extracts an envelope of any format.
///
/// The order matters: everything that can be checked without a key is checked before the key is asked for, and nothing gets
/// its final name before all of it is authenticated.
///
/// # Errors
/// [`Kind::Integrity`] for envelopes that are damaged, unsafe, or opened with the wrong key; [`Kind::Local`] for those that
/// exceed a limit, and for folders that cannot be written; [`Kind::Interrupted`]; and whatever the unwrapper says. Nothing
/// is released then, and nothing is left behind.
pub fn extract(
    job: &ExtractJob,
    unwrapper: &dyn Unwrapper,
    progress: &dyn Progress,
) -> Result<ExtractReport> {
    extract_from(job, &Accept::Anything, unwrapper, progress)
}

/// Extracts an envelope of any format, if its sender is accepted. Its signature is verified before the key is asked for, which
/// takes reading all of it once.
///
/// # Errors
/// Those of [`extract`]; [`Kind::Integrity`] if the signature is wrong or was taken away, or the sender is not accepted.
pub fn extract_from(
    job: &ExtractJob,
    accept: &Accept,
    unwrapper: &dyn Unwrapper,
    progress: &dyn Progress,
) -> Result<ExtractReport> {
    extract_stamped(job, accept, &TrustedAuthorities::default(), unwrapper, progress)
}

/// As [`extract_from`]. `trusted`: whose timestamps count. A signature that was there while its certificate was valid is good
/// later, too.
///
/// # Errors
/// Those of [`extract_from`].
pub fn extract_stamped(
    job: &ExtractJob,
    accept: &Accept,
    trusted: &TrustedAuthorities,
    unwrapper: &dyn Unwrapper,
    progress: &dyn Progress,
) -> Result<ExtractReport> {
    let envelope = Envelope::open(&job.envelope, progress)?;
    let chosen = Chosen::from_globs(&job.only)?;
    let format = envelope.format()?;
    let checked =
        Checked::new(&envelope, accept, trusted, progress).map_err(|error| envelope.named(error))?;
    let result = match format {
        Format::Mtd => extract_mtd(job, &envelope, &checked, &chosen, unwrapper, progress),
        Format::Sealed => extract_sealed(job, &envelope, &checked, &chosen, unwrapper, progress),
        Format::Cms => extract_cms(job, &envelope, &checked, &chosen, unwrapper, progress),
        Format::OpenPgp => extract_openpgp(job, &envelope, accept, &chosen, unwrapper, progress),
    };
    let report = result.map_err(|error| envelope.named(error))?;
    Ok(ExtractReport {
        sender: checked.sender().or_else(|| report.sender.clone()),
        timestamp: checked.timestamp().stamped().cloned(),
        ..report
    })
}

fn extract_mtd(
    job: &ExtractJob,
    envelope: &Envelope,
    checked: &Checked,
    chosen: &Chosen,
    unwrapper: &dyn Unwrapper,
    progress: &dyn Progress,
) -> Result<ExtractReport> {
    let sealed = mtd::read_header(envelope.file()?, &job.limits)?;
    checked.confirm(sealed.sender_mark())?;
    let entries = chosen.of(sealed.entries())?;
    match &job.output {
        ExtractTo::Folder(folder) => {
            let mut target = TargetFolder::new(folder)?;
            sealed.check_names(target.case()?)?;
            target.check_free(of(sealed.entries(), &entries))?;
            let file_key = unwrap(job, envelope, sealed.wrapped_keys(), unwrapper)?;
            let opened = Opened::Mtd(sealed.open(&file_key)?);
            fill(&mut target, &opened, &entries, progress)
        }
        ExtractTo::Trial(folder) => {
            sealed.check_names(Case::Distinguished)?;
            check_free_in(folder, of(sealed.entries(), &entries))?;
            unwrap(job, envelope, sealed.wrapped_keys(), unwrapper)?;
            Ok(ExtractReport::default())
        }
        ExtractTo::Stdout => {
            sealed.check_names(Case::Distinguished)?;
            the_one_file(sealed.entries(), &entries)?;
            let file_key = unwrap(job, envelope, sealed.wrapped_keys(), unwrapper)?;
            print(&Opened::Mtd(sealed.open(&file_key)?), &entries, progress)
        }
        ExtractTo::List => Ok(listed(sealed.entries(), &entries)),
    }
}

/// Its list of entries is secret: what it has to say comes after the key.
fn extract_sealed(
    job: &ExtractJob,
    envelope: &Envelope,
    checked: &Checked,
    chosen: &Chosen,
    unwrapper: &dyn Unwrapper,
    progress: &dyn Progress,
) -> Result<ExtractReport> {
    let sealed = sealed::read_header(envelope.source(), envelope.len())?;
    checked.confirm(sealed.sender_mark())?;
    let mut target = match &job.output {
        ExtractTo::Folder(folder) => Some(TargetFolder::new(folder)?),
        ExtractTo::Trial(_) | ExtractTo::Stdout | ExtractTo::List => None,
    };
    let case = target.as_ref().map_or(Ok(Case::Distinguished), TargetFolder::case)?;
    let file_key = unwrap(job, envelope, sealed.wrapped_keys(), unwrapper)?;
    if matches!(job.output, ExtractTo::Trial(_)) {
        return Ok(ExtractReport::default());
    }
    let opened = sealed.open(&file_key, &job.limits)?;
    check_names(opened.entries(), case)?;
    let entries = chosen.of(opened.entries())?;
    match &mut target {
        None if matches!(job.output, ExtractTo::List) => Ok(listed(opened.entries(), &entries)),
        Some(target) => {
            target.check_free(of(opened.entries(), &entries))?;
            fill(target, &Opened::Sealed(Box::new(opened)), &entries, progress)
        }
        None => print(&Opened::Sealed(Box::new(opened)), &entries, progress),
    }
}

/// It holds one file, and does not say its name.
fn extract_cms(
    job: &ExtractJob,
    envelope: &Envelope,
    checked: &Checked,
    chosen: &Chosen,
    unwrapper: &dyn Unwrapper,
    progress: &dyn Progress,
) -> Result<ExtractReport> {
    let message = cms::Message::new(envelope.file()?, envelope.len())?;
    let sealed = message.read_header()?;
    checked.confirm(sealed.sender_mark())?;
    sealed.check(job.unauthenticated)?;
    if sealed.content_len() > job.limits.content_bytes {
        let why = format!(
            "it has {} bytes of content, more than {}",
            sealed.content_len(),
            job.limits.content_bytes
        );
        return Err(Error::new(Kind::Local, "the envelope is too large", why));
    }
    let name = single::content_name(&job.envelope)?;
    if !chosen.takes(&name) {
        return Err(nothing_chosen());
    }
    progress.total(sealed.content_len());
    single::deliver(&job.output, &name, sealed.content_len(), |out| {
        let (mut wrapped, names) = (sealed.wrapped_keys().to_vec(), sealed.names());
        if !names.is_empty() {
            wrapped.extend(sealed.wrapped_keys_of(&unwrapper.find(&names)?));
        }
        if wrapped.is_empty() {
            return Err(no_common_key(&names));
        }
        let file_key = unwrap(job, envelope, &wrapped, unwrapper)?;
        sealed.open(file_key)?.write_to(out, progress)
    })
}

/// It holds one file, names the wrapping keys in its own way, and does not say how long the file is. Who signed it stands
/// inside: that is verified before the file gets its name.
fn extract_openpgp(
    job: &ExtractJob,
    envelope: &Envelope,
    accept: &Accept,
    chosen: &Chosen,
    unwrapper: &dyn Unwrapper,
    progress: &dyn Progress,
) -> Result<ExtractReport> {
    let message = openpgp::Message::new(envelope.file()?, envelope.len())?;
    let sealed = message.read_header(progress)?;
    sealed.check()?;
    let name = single::content_name(&job.envelope)?;
    if !chosen.takes(&name) {
        return Err(nothing_chosen());
    }
    progress.total(sealed.content_len());
    let mut sender = None;
    let report = single::deliver(&job.output, &name, sealed.content_len(), |out| {
        let names = sealed.names();
        let wrapped = sealed.wrapped_keys(&unwrapper.find(&names)?);
        if wrapped.is_empty() {
            return Err(no_common_key(&names));
        }
        let wrapped = choose(&wrapped, unwrapper)?;
        let keyring = accept.keyring().filter(|keyring| !keyring.is_empty());
        let addresses = match keyring {
            Some(_) => unwrapper.openpgp_fingerprints(wrapped.key_id())?,
            None => Vec::new(),
        };
        let file_key = unwrap_this(job, envelope, wrapped, unwrapper)?;
        let content = sealed.open(file_key).write_to(out, &job.limits, keyring, progress)?;
        let around = Around::Encryption(&addresses);
        sender = accept.check_openpgp(&content.signatures, around, SystemTime::now())?;
        Ok(content.len)
    })?;
    Ok(ExtractReport { sender, ..report })
}

fn no_common_key(names: &[KeyName]) -> Error {
    let names: Vec<_> = names.iter().map(KeyName::to_string).collect();
    let why = format!(
        "it is encrypted to {}, and the custodian has no such key ({})",
        names.join(", "),
        Refusal::KeyUnknown.code()
    );
    Error::new(Kind::Refused, "cannot open the envelope", why)
        .hint("have it encrypted to a certificate that custodianctl key cert prints, or use the custodian it is meant for")
}

/// Checks that names can stand beside each other.
fn check_names(entries: &[Entry], case: Case) -> Result<()> {
    let mut tree = Tree::new(case);
    entries.iter().try_for_each(|entry| {
        tree.insert(entry.path(), entry.kind())
            .map_err(|why| damaged(format!("the entry “{}” cannot be extracted: {why}", entry.path())))
    })
}

fn fill(
    target: &mut TargetFolder,
    opened: &Opened<'_>,
    entries: &[usize],
    progress: &dyn Progress,
) -> Result<ExtractReport> {
    let entries: Vec<&Entry> = of(opened.entries(), entries).collect();
    let content_bytes = content_bytes(entries.iter().copied());
    progress.total(content_bytes);
    target.fill(opened, &entries, progress)?;
    Ok(ExtractReport {
        entries: entries.len() as u64,
        content_bytes,
        swept: target.swept(),
        ..ExtractReport::default()
    })
}

fn print(opened: &Opened<'_>, entries: &[usize], progress: &dyn Progress) -> Result<ExtractReport> {
    let index = the_one_file(opened.entries(), entries)?;
    let entry: Vec<&Entry> = of(opened.entries(), &[index]).collect();
    let content_bytes = content_bytes(entry.iter().copied());
    progress.total(content_bytes);
    let mut spool = output::spool()?;
    let create =
        |_: &Entry| spool.try_clone().map_err(|why| output::failed("cannot write a temporary file", &why));
    opened.write_files(&entry, create, progress)?;
    output::copy_to_stdout(&mut spool)?;
    Ok(ExtractReport { entries: 1, content_bytes, ..ExtractReport::default() })
}

fn listed(entries: &[Entry], chosen: &[usize]) -> ExtractReport {
    let listed: Vec<_> = of(entries, chosen).map(inspect::Entry::from).collect();
    let content_bytes = content_bytes(of(entries, chosen));
    ExtractReport { entries: listed.len() as u64, content_bytes, listed, ..ExtractReport::default() }
}

fn of<'e>(entries: &'e [Entry], chosen: &[usize]) -> impl Iterator<Item = &'e Entry> {
    chosen.iter().filter_map(|index| entries.get(*index))
}

fn content_bytes<'e>(entries: impl Iterator<Item = &'e Entry>) -> u64 {
    entries.filter(|entry| entry.kind() == EntryKind::File).map(Entry::size).sum()
}

fn unwrap(
    job: &ExtractJob,
    envelope: &Envelope,
    wrapped: &[WrappedKey],
    unwrapper: &dyn Unwrapper,
) -> Result<FileKey> {
    unwrap_this(job, envelope, choose(wrapped, unwrapper)?, unwrapper)
}

fn choose<'w>(wrapped: &'w [WrappedKey], unwrapper: &dyn Unwrapper) -> Result<&'w WrappedKey> {
    let index = unwrapper.choose(wrapped)?;
    wrapped.get(index).ok_or_else(|| {
        Error::new(
            Kind::Local,
            "cannot unwrap the file key",
            "a key was chosen that the envelope does not have",
        )
    })
}

fn unwrap_this(
    job: &ExtractJob,
    envelope: &Envelope,
    wrapped: &WrappedKey,
    unwrapper: &dyn Unwrapper,
) -> Result<FileKey> {
    if job.reason.len() > MAX_TEXT_LEN {
        let why = format!("it has {} bytes, at most {MAX_TEXT_LEN} are recorded", job.reason.len());
        return Err(Error::new(Kind::Usage, "the reason is too long", why));
    }
    let claims = Claims {
        file_name: envelope.claimed_name(),
        file_size: envelope.len(),
        format: envelope.format()?.name().to_owned(),
        reason: job.reason.clone(),
    };
    unwrapper.unwrap(wrapped, &claims)
}

fn the_one_file(entries: &[Entry], chosen: &[usize]) -> Result<usize> {
    let mut files = chosen
        .iter()
        .filter(|index| entries.get(**index).is_some_and(|entry| entry.kind() == EntryKind::File));
    match (files.next(), files.count()) {
        (Some(index), 0) => Ok(*index),
        (None, _) => Err(Error::new(Kind::Usage, "cannot extract to standard output", "no file was chosen")
            .hint("name one with --only")),
        (Some(_), more) => {
            let why = format!("{} files were chosen, only one can be written there", more + 1);
            Err(Error::new(Kind::Usage, "cannot extract to standard output", why)
                .hint("name one with --only"))
        }
    }
}

fn nothing_chosen() -> Error {
    Error::new(Kind::Local, "nothing to extract", "no entry matches --only")
        .hint("envelope extract --list lists the entries")
}

/// Which entries a person wants.
struct Chosen(Option<GlobSet>);

impl Chosen {
    fn from_globs(globs: &[String]) -> Result<Self> {
        if globs.is_empty() {
            return Ok(Self(None));
        }
        let bad = |why: globset::Error| Error::new(Kind::Usage, "cannot understand --only", why);
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(GlobBuilder::new(glob).literal_separator(true).build().map_err(bad)?);
        }
        Ok(Self(Some(set.build().map_err(bad)?)))
    }

    /// The indices of the entries that match, or are in a folder that matches.
    fn of(&self, entries: &[Entry]) -> Result<Vec<usize>> {
        let matching = entries.iter().enumerate().filter(|(_, entry)| self.takes(entry.path()));
        let chosen: Vec<_> = matching.map(|(index, _)| index).collect();
        if chosen.is_empty() && self.0.is_some() {
            return Err(nothing_chosen());
        }
        Ok(chosen)
    }

    /// Whether this path matches, or is in a folder that matches.
    fn takes(&self, path: &SafePath) -> bool {
        self.0.as_ref().is_none_or(|globs| {
            globs.is_match(path.as_str()) || path.ancestors().any(|folder| globs.is_match(folder))
        })
    }
}
