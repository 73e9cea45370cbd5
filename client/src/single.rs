//! Envelopes that hold one file and do not say its name: it is named after the envelope.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::Path,
};

use cap_std::fs::OpenOptions;

use crate::{
    error::{Error, Kind, Result},
    extract::{ExtractReport, ExtractTo, Input},
    inspect,
    output::{self, IfMissing, SafePath, Staging},
};

/// What an envelope of such a format may be named with, and its content is not.
const SUFFIXES: [&str; 6] = ["p7m", "p7e", "cms", "gpg", "pgp", "asc"];
/// What the content's name ends with if that of the envelope has no such suffix: two files cannot have one name.
const OTHERWISE: &str = "content";

/// The file's name until it is authenticated.
const STAGED_NAME: &str = "content";

/// The name of what is in an envelope.
///
/// # Errors
/// [`Kind::Local`] if the envelope's name is no name for a file anywhere.
pub(crate) fn content_name(envelope: &Input) -> Result<SafePath> {
    let name = match envelope {
        Input::Stdin => OTHERWISE.to_owned(),
        Input::File(path) => named_after(path),
        Input::Web(location, _) => named_after(Path::new(&location.file_name())),
    };
    SafePath::parse(&name).map_err(|why| {
        Error::new(Kind::Local, format!("cannot name the content “{name}”"), why)
            .hint("rename the envelope, or give --to-stdout")
    })
}

fn named_after(envelope: &Path) -> String {
    let text = |name: Option<&OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
    let suffix = text(envelope.extension());
    if SUFFIXES.iter().any(|known| suffix.eq_ignore_ascii_case(known)) {
        return text(envelope.file_stem());
    }
    format!("{}.{OTHERWISE}", text(envelope.file_name()))
}

/// Has the content written, and delivers it once that worked: under this name, or to standard output. `write` fills an
/// empty file, and tells how much the content is. Only to list it takes no more than its size, as far as the envelope tells.
///
/// # Errors
/// Those of `write`; [`Kind::Local`] if the name is taken, or nothing can be written. Nothing is left then.
pub(crate) fn deliver(
    output: &ExtractTo,
    name: &SafePath,
    size: u64,
    write: impl FnOnce(&File) -> Result<u64>,
) -> Result<ExtractReport> {
    match output {
        ExtractTo::Folder(folder) => {
            let cannot_write =
                |why| output::failed(format!("cannot write “{name}” to {}", folder.display()), &why);
            let staging = Staging::new(folder, IfMissing::Make)?;
            if staging.target().symlink_metadata(name).is_ok() {
                return Err(taken(name, folder));
            }
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            let file = staging.dir().open_with(STAGED_NAME, &options).map_err(cannot_write)?.into_std();
            let content_bytes = write(&file)?;
            let swept = staging.swept();
            staging.commit_file(STAGED_NAME, OsStr::new(name.as_str()))?;
            Ok(ExtractReport { entries: 1, content_bytes, swept, ..ExtractReport::default() })
        }
        ExtractTo::Trial(folder) => {
            if fs::symlink_metadata(folder.join(name.as_str())).is_ok() {
                return Err(taken(name, folder));
            }
            write(&output::spool()?)?;
            Ok(ExtractReport::default())
        }
        ExtractTo::Stdout => {
            let mut spool = output::spool()?;
            let content_bytes = write(&spool)?;
            output::copy_to_stdout(&mut spool)?;
            Ok(ExtractReport { entries: 1, content_bytes, ..ExtractReport::default() })
        }
        ExtractTo::List => {
            let listed = vec![inspect::Entry::single(name, size)];
            Ok(ExtractReport { entries: 1, content_bytes: size, listed, ..ExtractReport::default() })
        }
    }
}

fn taken(name: &SafePath, folder: &Path) -> Error {
    let what = format!("cannot write “{name}” to {}", folder.display());
    Error::new(Kind::Local, what, "something of this name is there already")
        .hint("existing files are not overwritten: move it away, or extract to another folder with -C")
}
