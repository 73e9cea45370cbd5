//! The envelope, readable at any position.

use std::{fs::File, io::Write, path::Path};

use custodian_proto::limits::MAX_TEXT_LEN;

use crate::{
    envelope::{self, Format, ReadAt},
    error::{Error, Kind, Result},
    extract::Input,
    output,
    progress::Progress,
    stdin::Stdin,
    web::Object,
};

/// Bytes of standard input that are taken at once.
const BUFFER: u64 = 1024 * 1024;

/// An envelope of whatever format.
pub(crate) struct Envelope {
    place: Place,
    len: u64,
    name: String,
}

enum Place {
    Here(File),
    Web(Box<Object>),
}

impl Envelope {
    /// Opens it; standard input is copied to a temporary file without a name first.
    ///
    /// # Errors
    /// [`Kind::Local`] if it cannot be read; [`Kind::Interrupted`].
    pub(crate) fn open(input: &Input, progress: &dyn Progress) -> Result<Self> {
        let (file, name) = match input {
            Input::File(path) => (open_file(path)?, shown(path)),
            Input::Stdin => (spool_stdin(progress)?, "standard input".to_owned()),
            Input::Web(location, access) => {
                let (name, whole) = (location.file_name(), location.to_string());
                let named = |error: Error| Error { what: format!("cannot fetch {whole}"), ..error };
                let object = Object::open(location.clone(), access).map_err(named)?;
                return Ok(Self { len: object.len(), place: Place::Web(Box::new(object)), name });
            }
        };
        let len = file.metadata().map_err(|why| output::failed(format!("cannot read {name}"), &why))?.len();
        Ok(Self { place: Place::Here(file), len, name })
    }

    /// The file, for formats that are read from one end to the other.
    ///
    /// # Errors
    /// [`Kind::Local`] if it is somewhere else.
    pub(crate) fn file(&self) -> Result<&File> {
        match &self.place {
            Place::Here(file) => Ok(file),
            Place::Web(_) => Err(Error::new(
                Kind::Local,
                "cannot open the envelope where it is",
                "only sealed envelopes (--format sealed) can be read in parts",
            )
            .hint("download it first, e.g. with curl -O, and give the file")),
        }
    }

    /// Its bytes, wherever they are.
    pub(crate) fn source(&self) -> &dyn ReadAt {
        match &self.place {
            Place::Here(file) => file,
            Place::Web(object) => &**object,
        }
    }

    /// Its size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Its format, by its content.
    pub(crate) fn format(&self) -> Result<Format> {
        envelope::detect(self.source(), self.len).map_err(|error| self.named(error))
    }

    /// The name that the custodian records: as much of it as fits.
    pub(crate) fn claimed_name(&self) -> String {
        let fits = |end: &usize| *end <= MAX_TEXT_LEN;
        let end = self.name.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(fits).last();
        self.name[..end.unwrap_or(0)].to_owned()
    }

    /// The error, with the name of this envelope where it says “the envelope” only.
    pub(crate) fn named(&self, error: Error) -> Error {
        let what = error.what.replace("the envelope", &self.name);
        let what = if what == "this is no envelope" { format!("{} is no envelope", self.name) } else { what };
        Error { what: what.replace("open such an envelope", &format!("open {}", self.name)), ..error }
    }
}

fn open_file(path: &Path) -> Result<File> {
    let file =
        File::open(path).map_err(|why| output::failed(format!("cannot open {}", path.display()), &why))?;
    let metadata =
        file.metadata().map_err(|why| output::failed(format!("cannot open {}", path.display()), &why))?;
    if !metadata.is_file() {
        return Err(Error::new(Kind::Local, format!("cannot open {}", path.display()), "it is no file"));
    }
    Ok(file)
}

fn shown(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn spool_stdin(progress: &dyn Progress) -> Result<File> {
    let mut spool = output::spool()?;
    let mut stdin = Stdin::new(progress);
    loop {
        let chunk = stdin.read_chunk(BUFFER)?;
        if chunk.is_empty() {
            return Ok(spool);
        }
        spool.write_all(&chunk).map_err(|why| output::failed("cannot write a temporary file", &why))?;
    }
}
