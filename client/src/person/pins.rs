//! Pins: which certificate an address had when it was first sealed to, remembered on this workstation.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use custodian_proto::email::Email;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Kind, Result},
    settings,
};

/// Largest pin, in bytes.
const MAX_LEN: u64 = 4 * 1024 * 1024;

/// What is remembered of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    /// The address.
    pub email: Email,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// The CA that issued it, DER.
    pub issuer: Vec<u8>,
    /// The revocation list of that CA, DER, as of `asked`.
    pub list: Vec<u8>,
    /// When the key was first sealed to.
    pub first_used: Timestamp,
    /// When the custodian was last asked.
    pub asked: Timestamp,
}

/// A pin as it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    email: String,
    first_used: Timestamp,
    asked: Timestamp,
    certificate: String,
    issuer: String,
    list: String,
}

/// The folder with the pins of a user: a file for each address.
pub struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// Those in `~/.config/custodian/pins`.
    ///
    /// # Errors
    /// There is no home folder.
    pub fn of_user() -> Result<Self> {
        let folder = settings::user_config_dir().ok_or_else(|| {
            Error::new(Kind::Usage, "cannot remember certificates", "there is no folder for it")
                .hint("set HOME")
        })?;
        Ok(Self::in_folder(folder.join("pins")))
    }

    /// Those in this folder, which is made when the first is kept.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// What is remembered of an address.
    ///
    /// # Errors
    /// [`Kind::Local`] if the file cannot be read. A damaged pin is not passed over: it may have said no.
    pub fn get(&self, email: &Email) -> Result<Option<Pin>> {
        let path = self.path(email);
        let bad = |why: &dyn std::fmt::Display| {
            Error::new(Kind::Local, format!("cannot use what is remembered of {email}"), why).hint(format!(
                "it is in {}; without that file the next certificate counts as the first",
                path.display()
            ))
        };
        match fs::metadata(&path) {
            Ok(found) if found.len() > MAX_LEN => return Err(bad(&"the file is too long")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(bad(&error)),
        }
        let text = fs::read_to_string(&path).map_err(|error| bad(&error))?;
        let raw: Raw = serde_json::from_str(&text).map_err(|error| bad(&error))?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|error| bad(&error));
        let pin = Pin {
            email: raw.email.parse().map_err(|error| bad(&error))?,
            certificate: decode(&raw.certificate)?,
            issuer: decode(&raw.issuer)?,
            list: decode(&raw.list)?,
            first_used: raw.first_used,
            asked: raw.asked,
        };
        if pin.email != *email { Err(bad(&"it is of another address")) } else { Ok(Some(pin)) }
    }

    /// Remembers it, in the place of what was remembered of the address.
    ///
    /// # Errors
    /// [`Kind::Local`] if it cannot be written.
    pub fn keep(&self, pin: &Pin) -> Result<()> {
        let failed = |why: &dyn std::fmt::Display| {
            Error::new(Kind::Local, format!("cannot remember the certificate of {}", pin.email), why)
        };
        let raw = Raw {
            email: pin.email.to_string(),
            first_used: pin.first_used,
            asked: pin.asked,
            certificate: STANDARD.encode(&pin.certificate),
            issuer: STANDARD.encode(&pin.issuer),
            list: STANDARD.encode(&pin.list),
        };
        let text = serde_json::to_string_pretty(&raw).map_err(|error| failed(&error))?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|error| failed(&error))?;
        // Whoever reads it meanwhile has the old one or the new one.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(|error| failed(&error))?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all());
        written.map_err(|error| failed(&error))?;
        file.persist(self.path(&pin.email)).map(drop).map_err(|error| failed(&error))
    }

    /// By a hash: an address may have characters that a file name may not.
    fn path(&self, email: &Email) -> PathBuf {
        self.folder.join(format!("{}.json", hex::encode(Sha256::digest(email.folded()))))
    }
}
