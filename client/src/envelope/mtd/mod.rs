//! MTD: a ZIP archive that other programs can open. Its first entry, CIPHER.KEY, holds the password of the others,
//! encrypted to the recipients. `docs/formats/mtd.md` is the specification.
//!
//! Reading order: [`seal`] writes an envelope; [`read_header`] reads one as far as that goes without a key; then
//! [`Sealed::open`] takes the file key, and [`Opened`] yields authenticated content.

mod ae2;
mod archive;
mod content;
mod directory_seal;
mod kdf;
mod open;
mod password;
mod seal;

use std::fs::File;

use custodian_proto::key::{FileKey, WrappedKey};

use self::{directory_seal::DirectorySeal, password::Password};
pub use self::{open::Opened, seal::seal};
use super::{
    CIPHER_KEY, SenderMark,
    carried::Unsigned,
    cipher_key::{CipherKey, Purpose},
    zip::{Directory, Entry},
};
use crate::{
    envelope::{damaged, unsupported},
    error::{Error, Kind, Result},
    extract::Limits,
    output::{Case, Tree},
};

/// An envelope whose header was read and checked.
pub struct Sealed<'f> {
    file: &'f File,
    directory: Directory,
    cipher_key: CipherKey,
}

/// Reads all that can be read without a key, and checks it: limits, structure, names. A signature that it carries is not
/// verified here.
///
/// # Errors
/// [`Kind::Integrity`] for what contradicts itself or is unsafe; [`Kind::Local`] for what is too much, unknown here or
/// cannot be read.
pub fn read_header<'f>(file: &'f File, limits: &Limits) -> Result<Sealed<'f>> {
    let len = file.metadata().map_err(|why| Error::new(Kind::Local, "cannot read the envelope", why))?.len();
    let (unsigned, _) = Unsigned::of_zip(file, len)?;
    let len = unsigned.len();
    let (directory, cipher_key) = Directory::read_with_first(&unsigned, len, CIPHER_KEY.as_bytes(), limits)?;
    let cipher_key = CipherKey::parse(&cipher_key, Purpose::MtdPassword)?;
    Ok(Sealed { file, directory, cipher_key })
}

impl<'f> Sealed<'f> {
    /// The file key, wrapped: once for each recipient that a custodian can serve.
    pub fn wrapped_keys(&self) -> &[WrappedKey] {
        self.cipher_key.wrapped_keys()
    }

    /// Who must have signed it.
    pub fn sender_mark(&self) -> Option<SenderMark> {
        self.cipher_key.sender_mark()
    }

    /// Files, folders and links.
    pub fn entries(&self) -> &[Entry] {
        &self.directory.entries
    }

    /// Checks that the names can stand beside each other in a folder that treats case like this.
    ///
    /// In an envelope without directory seal anybody may have changed the names, so there upper and lower case alone
    /// never make a difference.
    ///
    /// # Errors
    /// [`Kind::Integrity`], with both names.
    pub fn check_names(&self, case: Case) -> Result<()> {
        let vouched_for = directory_seal::is_claimed(&self.directory.comment);
        let mut tree = Tree::new(if vouched_for { case } else { Case::Folded });
        self.entries().iter().try_for_each(|entry| {
            tree.insert(&entry.path, entry.kind)
                .map_err(|why| damaged(format!("the entry “{}” cannot be extracted: {why}", entry.path)))
        })
    }

    /// Opens it. Nothing is decrypted yet but the password.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if the file key is not the right one, or the directory was changed.
    pub fn open(self, file_key: &FileKey) -> Result<Opened<'f>> {
        let password = Password::from_bytes(self.cipher_key.open(file_key)?)
            .ok_or_else(|| unsupported("the content of CIPHER.KEY cannot be a password"))?;
        let codes = self.directory.entries.iter().filter_map(|entry| Some(&entry.data.as_ref()?.code));
        let comment = &self.directory.comment;
        if password.promises_directory_seal() || directory_seal::is_claimed(comment) {
            let seal = DirectorySeal::new(&password, &self.directory.bytes, codes)
                .ok_or_else(|| unsupported("the password is too long"))?;
            if !seal.confirms(comment) {
                return Err(damaged("the list of entries is not the one that was sealed"));
            }
        }
        Ok(Opened::new(self.file, self.directory.entries, password))
    }
}
