//! The sender's mark: an authenticated attribute that says who signs the envelope. Whoever takes the signature away, or puts
//! another in its place, would have to change what only the file key authenticates.

use custodian_proto::identity::ARC;
use der::{
    Any,
    asn1::{ObjectIdentifier, OctetString, SetOfVec},
};
use x509_cert::attr::Attribute;

use crate::signed::{Hash, Signer};

/// SHA-256 of the signer's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderMark([u8; Self::LEN]);

impl SenderMark {
    const LEN: usize = 32;

    /// The mark of whoever has this certificate, DER.
    pub fn of_certificate(der: &[u8]) -> Self {
        let mut mark = [0; Self::LEN];
        mark.copy_from_slice(&Hash::Sha256.of(der));
        Self(mark)
    }

    /// The mark of this signer.
    pub(crate) fn of(signer: &dyn Signer) -> Option<Self> {
        signer.certificates().first().map(|leaf| Self::of_certificate(leaf))
    }

    /// [`ARC`], 2 for attributes, 1.
    fn oid() -> der::Result<ObjectIdentifier> {
        Ok(ObjectIdentifier::new(&format!("{ARC}.2.1"))?)
    }

    /// As an attribute.
    pub(super) fn attribute(self) -> der::Result<Attribute> {
        let value = Any::encode_from(&OctetString::new(self.0.as_slice())?)?;
        Ok(Attribute { oid: Self::oid()?, values: SetOfVec::try_from(vec![value])? })
    }

    /// The mark among these attributes. An attribute of this kind that holds something else is an error.
    pub(super) fn find<'a>(attributes: impl Iterator<Item = &'a Attribute>) -> der::Result<Option<Self>> {
        let oid = Self::oid()?;
        let no_mark = || der::Error::from(der::ErrorKind::Failed);
        let mut found = attributes.filter(|attribute| attribute.oid == oid);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(attribute), None) => {
                let [value] = attribute.values.as_slice() else { return Err(no_mark()) };
                let value: OctetString = value.decode_as()?;
                value.as_bytes().try_into().map(|mark| Some(Self(mark))).map_err(|_| no_mark())
            }
            _ => Err(no_mark()),
        }
    }
}
