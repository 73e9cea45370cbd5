//! Passwords and one-time codes: read from a file, standard input or the terminal, never from argv (law 9).

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use custodian_proto::{
    limits::{MAX_PASSWORD_LEN, MIN_PASSWORD_LEN},
    secret::Secret,
};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// Where a secret text comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PasswordSource {
    /// The first line of a file.
    File(PathBuf),
    /// The first line of standard input.
    Stdin,
    /// A question on the terminal, without echo.
    Terminal,
}

impl PasswordSource {
    /// `-` is standard input, no file is the terminal.
    pub fn of(file: Option<&Path>) -> Self {
        match file {
            None => Self::Terminal,
            Some(path) if path == Path::new("-") => Self::Stdin,
            Some(path) => Self::File(path.to_owned()),
        }
    }

    /// Whether there is something to read from, or somebody to ask.
    pub fn is_there(&self) -> bool {
        !matches!(self, Self::Terminal) || File::open("/dev/tty").is_ok()
    }

    /// Reads the secret. `name` says which, to a person: `password of anna`.
    ///
    /// # Errors
    /// The file cannot be read, there is no terminal, or the text is empty or longer than any password.
    pub fn read(&self, name: &str) -> Result<Secret> {
        let cannot = |why: String| Error::new(Kind::Local, format!("cannot read the {name}"), why);
        match self {
            Self::File(path) => {
                let file =
                    File::open(path).map_err(|error| cannot(format!("{}: {error}", path.display())))?;
                first_line(file).map_err(|why| cannot(format!("{}: {why}", path.display())))
            }
            // Not through the buffer of `io::stdin()`: nobody overwrites that.
            Self::Stdin => {
                let stdin = io::stdin().as_fd().try_clone_to_owned().map(File::from);
                let stdin = stdin.map_err(|error| cannot(format!("standard input: {error}")))?;
                first_line(stdin).map_err(|why| cannot(format!("standard input: {why}")))
            }
            Self::Terminal if !self.is_there() => Err(cannot("there is no terminal to ask on".into()).hint(
                "give it in a file: --password-file F, or - for standard input, or CUSTODIAN_PASSWORD_FILE",
            )),
            Self::Terminal => match rpassword::prompt_password(format!("{name}: ")) {
                Ok(text) => checked(Zeroizing::new(text)).map_err(cannot),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    Err(Error::new(Kind::Interrupted, format!("cannot read the {name}"), "interrupted"))
                }
                Err(error) => Err(cannot(error.to_string())),
            },
        }
    }

    /// Reads a password that is being set: the terminal asks twice, and its length is checked here already.
    ///
    /// # Errors
    /// Those of [`PasswordSource::read`]; the two answers differ; the password is too short.
    pub fn read_new(&self, name: &str) -> Result<Secret> {
        let secret = self.read(name)?;
        let cannot = |why: String| Error::new(Kind::Usage, format!("cannot set the {name}"), why);
        if secret.expose().len() < MIN_PASSWORD_LEN {
            return Err(
                cannot(format!("it is shorter than {MIN_PASSWORD_LEN} bytes")).hint("choose a longer one")
            );
        }
        if matches!(self, Self::Terminal) && self.read(&format!("{name}, again"))?.expose() != secret.expose()
        {
            return Err(cannot("the two are not the same".into()).hint("try again"));
        }
        Ok(secret)
    }
}

/// Byte by byte: what follows the line is not ours, and a person on a terminal does not press Ctrl-D.
fn first_line(mut source: impl Read) -> std::result::Result<Secret, String> {
    // Room for a carriage return, and one more to see that it is too long. The buffer never grows, so that no copy stays
    // behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD_LEN + 2));
    while line.len() < MAX_PASSWORD_LEN + 2 {
        let mut byte = Zeroizing::new([0]);
        match source.read(byte.as_mut_slice()) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let line = line.strip_suffix(b"\r").unwrap_or(&line);
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    checked(Zeroizing::new(text.to_owned()))
}

fn checked(mut text: Zeroizing<String>) -> std::result::Result<Secret, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() > MAX_PASSWORD_LEN {
        return Err(format!("it is longer than {MAX_PASSWORD_LEN} bytes"));
    }
    Ok(Secret::new(std::mem::take(&mut *text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_is_its_first_line() {
        for content in ["correct horse", "correct horse\n", "correct horse\r\n", "correct horse\nmore"] {
            assert_eq!(first_line(content.as_bytes()).ok().unwrap().expose(), "correct horse");
        }
        for bad in ["".to_owned(), "\n".to_owned(), "x".repeat(MAX_PASSWORD_LEN + 1), "x".repeat(100_000)] {
            assert!(first_line(bad.as_bytes()).is_err());
        }
        let mut source = &b"correct horse\nnot ours"[..];
        assert!(first_line(&mut source).is_ok());
        assert_eq!(source, b"not ours");
        assert!(first_line(&b"\xff\xfe"[..]).is_err());
        assert!(first_line("x".repeat(MAX_PASSWORD_LEN).as_bytes()).is_ok());
    }

    #[test]
    fn a_new_password_must_be_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "short\n").unwrap();
        let error = PasswordSource::of(Some(&file)).read_new("new password").err().unwrap();
        assert_eq!(error.kind, Kind::Usage);
        assert!(!format!("{error:?}").contains("\"short\""));
    }
}
