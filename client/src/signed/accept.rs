//! Whose signatures count: pinned certificates and keys, or those of a CA with certain e-mail addresses. Never “any valid
//! certificate”.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use custodian_proto::{identity::IdentityLevel, key::KeyId};
use serde::Deserialize;

use super::{Signature, vouched};
use crate::{
    chain::EndedLists,
    chain::revocation_list,
    envelope::openpgp::{self, Keyring},
    error::{Error, Kind, Result},
    remote,
};

/// Largest file with signers' certificates, in bytes.
const MAX_CERTIFICATES_LEN: u64 = 16 * 1024 * 1024;

/// The table `[accept]` of the settings.
#[derive(Clone, Default, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptTable {
    /// Files with the certificates of signers who are accepted: X.509 or OpenPGP.
    #[serde(default)]
    pub certificates: Vec<PathBuf>,
    /// Ids of signers' keys, 40 hex digits.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Files with CAs whose people are accepted, if `emails` has them.
    #[serde(default)]
    pub ca: Vec<PathBuf>,
    /// E-mail addresses, or all of a domain: `@example.org`.
    #[serde(default)]
    pub emails: Vec<String>,
    /// The identity level that a CA must have checked at least.
    pub level: Option<String>,
    /// Files with revocation lists of those CAs.
    #[serde(default)]
    pub crls: Vec<PathBuf>,
    /// What to do without a signature.
    #[serde(default)]
    pub unsigned: Choice,
    /// What to do with certificates that ended after they signed, as the signer tells the time.
    #[serde(default)]
    pub expired: Choice,
    /// Whether the administrator of this machine settled it, so that no flag changes it.
    #[serde(skip)]
    pub by_administrator: bool,
}

/// What a person says about something that is not as it should be.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// It is refused.
    #[default]
    Refuse,
    /// It is let pass.
    Allow,
}

impl AcceptTable {
    /// Paths relative to the folder of the settings.
    #[must_use]
    pub fn relative_to(self, folder: &Path) -> Self {
        let place = |paths: Vec<PathBuf>| paths.into_iter().map(|path| folder.join(path)).collect();
        Self { certificates: place(self.certificates), ca: place(self.ca), crls: place(self.crls), ..self }
    }
}

/// Whose signatures count.
pub enum Accept {
    /// Nobody said: unsigned is fine, and a signature that is there must be right, whoever made it.
    Anything,
    /// Only these.
    Only(Box<Rules>),
}

/// Who is accepted.
pub struct Rules {
    certificates: Vec<Vec<u8>>,
    /// Those that are OpenPGP's.
    pub(super) keyring: Keyring,
    keys: Vec<KeyId>,
    authorities: Vec<Vec<u8>>,
    emails: Vec<String>,
    level: Option<IdentityLevel>,
    lists: Vec<Vec<u8>>,
    pub(super) unsigned: Choice,
    pub(super) expired: Choice,
}

/// Why a signature counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The certificate or its key is pinned.
    Pinned,
    /// An accepted CA vouches for it.
    VouchedFor,
    /// Nobody said who is accepted.
    Unknown,
}

impl Accept {
    /// Reads the files that a table names.
    ///
    /// # Errors
    /// [`Kind::Local`] if one cannot be read; [`Kind::Usage`] for CAs without e-mail addresses, and text that is no key id and
    /// no level.
    pub fn load(table: &AcceptTable) -> Result<Self> {
        let wrong = |what: &str, why: &dyn std::fmt::Display| {
            Error::new(Kind::Usage, format!("cannot use {what} in [accept]"), why)
        };
        if !table.ca.is_empty() && table.emails.is_empty() {
            return Err(wrong("ca", &"it accepts everybody whom that CA knows")
                .hint("say whom: emails = [\"anna@example.org\", \"@example.com\"]"));
        }
        let keys = table.keys.iter().map(|key| {
            key.strip_prefix("keys/")
                .unwrap_or(key)
                .parse()
                .map_err(|why| wrong(&format!("the key {key:?}"), &why))
        });
        let level = table
            .level
            .as_deref()
            .map(|level| level.parse().map_err(|why| wrong(&format!("the level {level:?}"), &why)));
        let (pinned, keyring) = signers(&table.certificates)?;
        let rules = Rules {
            certificates: pinned,
            keyring,
            keys: keys.collect::<Result<_>>()?,
            authorities: certificates(&table.ca)?,
            emails: table.emails.clone(),
            level: level.transpose()?,
            lists: table.crls.iter().map(|path| revocation_list(path)).collect::<Result<_>>()?,
            unsigned: table.unsigned,
            expired: table.expired,
        };
        Ok(Self::Only(Box::new(rules)))
    }

    /// Checks what has no signature.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if one must be there.
    pub fn check_unsigned(&self) -> Result<()> {
        match self {
            Self::Only(rules) if rules.unsigned == Choice::Refuse => Err(refused(
                "it is not signed, or its signature was taken away",
            )
            .hint("ask its sender to sign it; or, if you know where it comes from, give --accept-unsigned")),
            _ => Ok(()),
        }
    }

    /// Checks who signed. A certificate must be for signing, and valid: today, because nobody but the signer says when the
    /// signature was made.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if that person is not accepted, or the certificate ended or was revoked.
    pub fn check(&self, signature: &Signature, now: SystemTime) -> Result<Standing> {
        self.check_stamped(signature, None, now)
    }

    /// As [`Accept::check`]. If an authority says that the signature was there at a time (RFC 3161), its certificate need not
    /// have been valid later.
    ///
    /// # Errors
    /// As [`Accept::check`].
    pub fn check_stamped(
        &self,
        signature: &Signature,
        stamped: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Standing> {
        signature.certificate().check_usage()?;
        let claimed = signature.claimed_time().or(stamped).unwrap_or(now);
        signature.certificate().check_valid_at(claimed)?;
        match self {
            Self::Anything => Ok(Standing::Unknown),
            Self::Only(rules) => {
                let (time, ended) = match (stamped, rules.expired) {
                    // A list that had not ended then. With an older one, whoever stole a key would only have to stamp.
                    (Some(stamped), _) => (stamped, EndedLists::Refuse),
                    // Where certificates that ended pass, their CA may have none but lists that ended, too.
                    (None, Choice::Allow) => (claimed, EndedLists::LookInto),
                    (None, Choice::Refuse) => (now, EndedLists::Refuse),
                };
                rules.check(signature, time, ended)
            }
        }
    }
}

impl Rules {
    fn check(&self, signature: &Signature, time: SystemTime, ended: EndedLists) -> Result<Standing> {
        let certificate = signature.certificate();
        if self.certificates.iter().any(|der| der == certificate.der())
            || self.keys.contains(&certificate.key_id())
        {
            certificate.check_valid_at(time)?;
            return Ok(Standing::Pinned);
        }
        if self.authorities.is_empty() {
            return Err(refused(format!("it was signed by {}, who is not accepted", certificate.subject()))
                .hint(format!("if that is right, accept the key: --accept-from {}", certificate.key_id())));
        }
        vouched::check(signature, &self.authorities, &self.lists, time, ended)?;
        let emails = certificate.emails();
        if !emails.iter().any(|email| self.emails.iter().any(|accepted| is_accepted(email, accepted))) {
            let who = if emails.is_empty() { certificate.subject() } else { emails.join(", ") };
            return Err(refused(format!("it was signed by {who}, who is not accepted"))
                .hint("if that is right, add the address to emails in [accept]"));
        }
        match self.level {
            Some(level) if certificate.identity_level() < Some(level) => Err(refused(format!(
                "its signer was checked at {}, less than {level}",
                certificate
                    .identity_level()
                    .map_or_else(|| "no level".to_owned(), |level| format!("level {level}"))
            ))),
            _ => Ok(Standing::VouchedFor),
        }
    }
}

/// Whether an address is this one, or of this domain. Domains have no case (RFC 5321 §2.4); nobody tells people apart by the
/// case of the rest, either.
fn is_accepted(email: &str, accepted: &str) -> bool {
    match accepted.starts_with('@') {
        true => email.rfind('@').is_some_and(|at| email[at..].eq_ignore_ascii_case(accepted)),
        false => email.eq_ignore_ascii_case(accepted),
    }
}

/// The certificates of signers: X.509 in DER, and OpenPGP.
fn signers(files: &[PathBuf]) -> Result<(Vec<Vec<u8>>, Keyring)> {
    let (mut x509, mut keyring) = (Vec::new(), Keyring::default());
    for file in files {
        let cannot = |why: &dyn std::fmt::Display| {
            Error::new(Kind::Local, format!("cannot read {}", file.display()), why)
        };
        if fs::metadata(file).map_err(|why| cannot(&why))?.len() > MAX_CERTIFICATES_LEN {
            return Err(cannot(&"it is too long for certificates"));
        }
        let bytes = fs::read(file).map_err(|why| cannot(&why))?;
        match openpgp::is_certificate(&bytes) {
            true => {
                keyring.extend(Keyring::read(&bytes).map_err(|error| cannot(&error.why).hint(error.hint))?)
            }
            false => x509.extend(remote::certificates(file)?),
        }
    }
    Ok((x509, keyring))
}

fn certificates(files: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    let found = files.iter().map(|file| remote::certificates(file)).collect::<Result<Vec<_>>>()?;
    Ok(found.concat())
}

/// The sender is not accepted.
pub(super) fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Integrity, "the sender is not accepted", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_accepted_by_itself_or_by_its_domain() {
        assert!(is_accepted("Anna@Example.org", "anna@example.org"));
        assert!(is_accepted("anna@example.org", "@example.org"));
        for (email, accepted) in [
            ("anna@example.org.evil", "@example.org"),
            ("anna@sub.example.org", "@example.org"),
            ("@example.org", "anna@example.org"),
            ("anna", "@"),
            ("anna@example.org@evil", "@example.org"),
        ] {
            assert!(!is_accepted(email, accepted), "{email} by {accepted}");
        }
    }

    #[test]
    fn a_ca_without_addresses_is_no_rule() {
        let table = AcceptTable { ca: vec!["ca.crt".into()], ..AcceptTable::default() };
        let error = Accept::load(&table).err().expect("refused");
        assert!(error.kind == Kind::Usage && error.hint.contains("emails"), "{error}");
    }
}
