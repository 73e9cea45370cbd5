//! Asking for a timestamp.

use custodian_proto::{
    sign::Hash,
    tsp::{MessageImprint, TimeStampReq},
};
use der::Encode;

use super::{Authority, Token, token::not_good};
use crate::error::{Error, Kind, Result};

/// Bytes of a number that nobody used before.
const NONCE_LEN: usize = 16;

/// Gets a timestamp of a digest, and checks that it answers this very request. Whose it is comes after ([`Token::verify`]).
/// Returns the authority's whole answer in DER, and the token in it.
///
/// # Errors
/// Those of the authority; [`Kind::Refused`] if it rejects the request; [`Kind::Integrity`] if it answers something else.
pub fn ask(authority: &dyn Authority, hash: Hash, digest: &[u8]) -> Result<(Vec<u8>, Token)> {
    let cannot = |why: &dyn std::fmt::Display| Error::new(Kind::Local, "cannot ask for a timestamp", why);
    let mut nonce = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| cannot(&"the system gives no random numbers"))?;
    let imprint = MessageImprint::new(hash, digest).map_err(|why| cannot(&why))?;
    let request = TimeStampReq::new(imprint, &nonce).map_err(|why| cannot(&why))?;
    let query = request.to_der().map_err(|why| cannot(&why))?;
    let answer = authority.answer(&query)?;
    let token = Token::of_answer(&answer)?;
    token.check_digest(hash, digest)?;
    if token.info().nonce != request.nonce {
        return Err(not_good("it has another nonce than was sent: it is the answer to another request"));
    }
    Ok((answer, token))
}
