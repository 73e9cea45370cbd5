//! Whose timestamps count.

use std::{path::PathBuf, time::SystemTime};

use super::token::not_good;
use crate::{
    chain::{EndedLists, revocation_list},
    error::{Error, Result},
    remote,
    signed::{self, SignerCertificate},
};

/// Certificates of time-stamping authorities, or of the CAs that certify them, and revocation lists of those.
#[derive(Default)]
pub struct TrustedAuthorities {
    authorities: Vec<Vec<u8>>,
    lists: Vec<Vec<u8>>,
    others: Others,
}

/// What to do with a signature's timestamp by anybody else.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Others {
    /// It is refused: somebody said who it must be.
    #[default]
    Refuse,
    /// It counts nothing, as if it were not there.
    Ignore,
}

impl TrustedAuthorities {
    /// Reads them from files in PEM or DER.
    ///
    /// # Errors
    /// [`crate::Kind::Local`] if one cannot be read.
    pub fn load(authorities: &[PathBuf], lists: &[PathBuf]) -> Result<Self> {
        let authorities =
            authorities.iter().map(|file| remote::certificates(file)).collect::<Result<Vec<_>>>()?;
        let lists = lists.iter().map(|file| revocation_list(file)).collect::<Result<_>>()?;
        Ok(Self::new(authorities.concat(), lists))
    }

    /// These certificates, and these revocation lists, in DER.
    pub fn new(authorities: Vec<Vec<u8>>, lists: Vec<Vec<u8>>) -> Self {
        Self { authorities, lists, others: Others::default() }
    }

    /// The same, with this done about others.
    #[must_use]
    pub fn and_others(self, others: Others) -> Self {
        Self { others, ..self }
    }

    /// Whether a signature's timestamp must be by one of them.
    pub(super) fn must_count(&self) -> bool {
        self.others == Others::Refuse
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty()
    }

    /// In DER.
    pub(super) fn authorities(&self) -> &[Vec<u8>] {
        &self.authorities
    }

    /// Checks that one of them vouched for this certificate at a time. What came with the timestamp helps to find the way,
    /// and its revocation lists count as ours do: their CA signed them.
    pub(super) fn check(
        &self,
        certificate: &SignerCertificate,
        others: &[Vec<u8>],
        lists: &[Vec<u8>],
        time: SystemTime,
    ) -> Result<()> {
        certificate.check_valid_at(time).map_err(|error| {
            not_good(format!("its certificate was not valid at that time: {}", error.why))
        })?;
        if self.authorities.iter().any(|der| der == certificate.der()) {
            return Ok(());
        }
        let lists: Vec<_> = self.lists.iter().chain(lists).cloned().collect();
        // A list that had not ended then, as for signers.
        let ended = EndedLists::Refuse;
        signed::check_path(certificate.der(), others, &self.authorities, &lists, time, ended).map_err(
            |error| Error {
                hint: "name the authority's CA: --tsa-ca FILE".to_owned(),
                ..not_good(error.why)
            },
        )
    }
}
