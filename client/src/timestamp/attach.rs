//! The timestamp of a signature (RFC 3161 appendix A): an unsigned attribute, of the signature's value.

use std::time::SystemTime;

use custodian_proto::{sign::Hash, tsp::ID_AA_SIGNATURE_TIME_STAMP_TOKEN};
use der::{Any, Decode, Encode, asn1::SetOfVec};
use x509_cert::attr::{Attribute, Attributes};

use super::{Authority, Stamped, Token, TrustedAuthorities, ask, token::not_good};
use crate::{
    error::{Error, Kind, Result},
    signed::Signature,
};

/// Has a signature timestamped: the unsigned attributes that say so.
///
/// # Errors
/// Those of [`ask`].
pub(crate) fn attributes(signature: &[u8], authority: &dyn Authority) -> Result<Attributes> {
    let cannot = |why: der::Error| Error::new(Kind::Local, "cannot timestamp the signature", why);
    let (_, token) = ask(authority, Hash::Sha256, &Hash::Sha256.of(signature))?;
    let values = SetOfVec::try_from(vec![Any::from_der(token.der()).map_err(cannot)?]).map_err(cannot)?;
    let attribute = Attribute { oid: ID_AA_SIGNATURE_TIME_STAMP_TOKEN, values };
    SetOfVec::try_from(vec![attribute]).map_err(cannot)
}

/// The timestamp that a signature brings along.
#[derive(Clone, Debug)]
pub enum Attached {
    /// It has none.
    Nothing,
    /// It has one of somebody whose word does not count here, for this reason.
    DoesNotCount(String),
    /// It has one that counts.
    Counts(Stamped),
}

impl Attached {
    /// Looks at the timestamp of a signature, if it has one. Whether or not its authority counts, it must be of this
    /// signature, and right in itself.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if there are several, or it cannot be read, is of something else, or contradicts itself; or if its
    /// authority does not count, and somebody said which ones do for this very signature.
    pub fn of(signature: &Signature, trusted: &TrustedAuthorities, now: SystemTime) -> Result<Self> {
        let Some(token) = token(signature.unsigned_attributes(), signature.value())? else {
            return Ok(Self::Nothing);
        };
        let why = if trusted.is_empty() {
            "nobody said whose timestamps count (--tsa-ca)".to_owned()
        } else {
            match token.verify(trusted, now) {
                Ok(stamped) => return Ok(Self::Counts(stamped)),
                Err(error) if trusted.must_count() => return Err(error),
                Err(error) => error.why,
            }
        };
        if token.has_certificates() {
            token.check(&[])?;
        }
        Ok(Self::DoesNotCount(why))
    }

    /// When the signature was there, if an authority says so that counts.
    pub fn at(&self) -> Option<SystemTime> {
        self.stamped().map(|stamped| stamped.at)
    }

    /// What the authority says, if it counts.
    pub fn stamped(&self) -> Option<&Stamped> {
        match self {
            Self::Counts(stamped) => Some(stamped),
            Self::Nothing | Self::DoesNotCount(_) => None,
        }
    }
}

/// The timestamp among a signature's unsigned attributes, checked to be of this signature value.
fn token(unsigned: Option<&Attributes>, signature: &[u8]) -> Result<Option<Token>> {
    let attributes = unsigned.iter().flat_map(|attributes| attributes.iter());
    let mut found = attributes.filter(|attribute| attribute.oid == ID_AA_SIGNATURE_TIME_STAMP_TOKEN);
    let Some(attribute) = found.next() else { return Ok(None) };
    let ([value], None) = (attribute.values.as_slice(), found.next()) else {
        return Err(not_good("the signature has more than one"));
    };
    let token = Token::read(&value.to_der().map_err(not_good)?)?;
    let hash = token.hash()?;
    token.check_digest(hash, &hash.of(signature))?;
    Ok(Some(token))
}
