//! The files and folders to seal, as entries of an envelope.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

use crate::{
    envelope::{Body, Source},
    error::{Error, Kind, Result},
    output::{self, Case, Kind as Place, SafePath, Tree},
    seal::Symlinks,
};

/// Mode of the file that standard input becomes: a file, for its owner alone.
const STDIN_MODE: u32 = 0o100_600;

/// Lists all that is to be sealed, in a stable order: each path under its own last name, folders with all that is in them;
/// then standard input, if it is wanted, under the name given.
///
/// # Errors
/// [`Kind::Local`] for what cannot be read, is neither file, folder nor link, or could not be extracted again.
pub(crate) fn list(paths: &[PathBuf], stdin: Option<&str>, symlinks: Symlinks) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut names = Tree::new(Case::Distinguished);
    for path in paths {
        let root = root_name(path)?;
        for found in WalkDir::new(path).sort_by_file_name() {
            let found = found.map_err(|why| cannot_walk(path, why))?;
            let name = match found.path().strip_prefix(path) {
                Ok(below) if !below.as_os_str().is_empty() => root.join(below),
                _ => root.clone(),
            };
            let source = source(found.path(), &name, symlinks)?;
            names.insert(&source.path, place(&source.body)).map_err(|why| cannot_seal(found.path(), why))?;
            sources.push(source);
        }
    }
    if let Some(name) = stdin {
        let source = stdin_source(name)?;
        names.insert(&source.path, Place::File).map_err(cannot_seal_stdin)?;
        sources.push(source);
    }
    Ok(sources)
}

fn stdin_source(name: &str) -> Result<Source> {
    let path = SafePath::parse(name).map_err(|why| {
        cannot_seal_stdin(format!("the name “{name}” could not be extracted again: {why}"))
            .hint("give another --name")
    })?;
    Ok(Source { path, body: Body::Stdin, mode: STDIN_MODE, modified: jiff::Timestamp::now().as_second() })
}

/// The name that a path has inside the envelope. `.` and `..` have one too.
fn root_name(path: &Path) -> Result<PathBuf> {
    if let Some(name) = path.file_name() {
        return Ok(name.into());
    }
    let resolved = fs::canonicalize(path).map_err(|why| cannot_read(path, &why))?;
    let name = resolved.file_name().ok_or_else(|| {
        cannot_seal(path, "the root folder has no name").hint("seal the folders in it by their names")
    })?;
    Ok(name.into())
}

fn source(path: &Path, name: &Path, symlinks: Symlinks) -> Result<Source> {
    let metadata = fs::symlink_metadata(path).map_err(|why| cannot_read(path, &why))?;
    let name = name.to_str().ok_or_else(|| cannot_seal(path, "its name is not UTF-8").hint("rename it"))?;
    let safe = SafePath::parse(name).map_err(|why| {
        cannot_seal(path, format!("its name could not be extracted again: {why}")).hint("rename it")
    })?;
    let kind = metadata.file_type();
    let body = if kind.is_file() {
        Body::File(path.to_owned(), metadata.len())
    } else if kind.is_dir() {
        Body::Folder
    } else if kind.is_symlink() {
        link(path, &safe, symlinks)?
    } else {
        let what = match () {
            () if kind.is_socket() => "a socket",
            () if kind.is_fifo() => "a named pipe",
            () => "a device",
        };
        return Err(
            cannot_seal(path, format!("it is {what}")).hint("only files, folders and links can be sealed")
        );
    };
    Ok(Source { path: safe, body, mode: metadata.mode(), modified: metadata.mtime() })
}

fn link(path: &Path, name: &SafePath, symlinks: Symlinks) -> Result<Body> {
    if symlinks == Symlinks::Refuse {
        return Err(cannot_seal(path, "it is a symbolic link")
            .hint("keep links as links with --keep-symlinks, or seal what it points to"));
    }
    let target = fs::read_link(path).map_err(|why| cannot_read(path, &why))?;
    let target = target.to_str().ok_or_else(|| cannot_seal(path, "its target is not UTF-8"))?;
    output::check_link(name, target).map_err(|why| {
        cannot_seal(path, format!("the link could not be extracted again: {why}"))
            .hint("leave it out, or seal what it points to")
    })?;
    Ok(Body::Link(target.to_owned()))
}

fn place(body: &Body) -> Place {
    match body {
        Body::File(..) | Body::Stdin => Place::File,
        Body::Folder => Place::Folder,
        Body::Link(_) => Place::Link,
    }
}

fn cannot_walk(root: &Path, why: walkdir::Error) -> Error {
    let path = why.path().unwrap_or(root).to_owned();
    cannot_read(&path, &why.into())
}

fn cannot_read(path: &Path, why: &io::Error) -> Error {
    output::failed(format!("cannot read {}", path.display()), why)
}

fn cannot_seal_stdin(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "cannot seal standard input", why)
}

fn cannot_seal(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, format!("cannot seal {}", path.display()), why)
}
