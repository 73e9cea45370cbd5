//! The timestamp of a signature (RFC 3161 appendix A): an unsigned attribute, of the signature's value.

use cms::{
    content_info::ContentInfo,
    signed_data::{SignedData, SignerInfos},
};
use custodian_proto::{sign::Hash, tsp::ID_AA_SIGNATURE_TIME_STAMP_TOKEN};
use der::{Any, Decode, Encode, asn1::SetOfVec};
use x509_cert::attr::{Attribute, Attributes};

use super::{Authority, Token, ask, token::not_good};
use crate::error::{Error, Kind, Result};

/// Has a detached signature of ours timestamped, and puts the timestamp into it. All in DER.
///
/// # Errors
/// Those of [`ask`]; [`Kind::Local`] if this is no signature of ours.
pub fn attach(signature: &[u8], authority: &dyn Authority) -> Result<(Vec<u8>, Token)> {
    let cannot = |why: der::Error| Error::new(Kind::Local, "cannot timestamp the signature", why);
    let message = ContentInfo::from_der(signature).map_err(cannot)?;
    let mut signed: SignedData = message.content.decode_as().map_err(cannot)?;
    let mut signers = signed.signer_infos.0.into_vec();
    let Some(signer) = signers.first_mut() else {
        return Err(Error::new(Kind::Local, "cannot timestamp the signature", "nobody signed"));
    };
    let digest = Hash::Sha256.of(signer.signature.as_bytes());
    let (_, token) = ask(authority, Hash::Sha256, &digest)?;
    let value = Any::from_der(token.der()).map_err(cannot)?;
    let values = SetOfVec::try_from(vec![value]).map_err(cannot)?;
    let attribute = Attribute { oid: ID_AA_SIGNATURE_TIME_STAMP_TOKEN, values };
    signer.unsigned_attrs = Some(SetOfVec::try_from(vec![attribute]).map_err(cannot)?);
    signed.signer_infos = SignerInfos::try_from(signers).map_err(cannot)?;
    let content = Any::encode_from(&signed).map_err(cannot)?;
    let stamped = ContentInfo { content, ..message }.to_der().map_err(cannot)?;
    Ok((stamped, token))
}

/// The timestamp among a signature's unsigned attributes, if there is one; checked to be of this signature value.
///
/// # Errors
/// [`Kind::Integrity`] if there are several, or it cannot be read, or is of something else.
pub fn attached(unsigned: Option<&Attributes>, signature: &[u8]) -> Result<Option<Token>> {
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
