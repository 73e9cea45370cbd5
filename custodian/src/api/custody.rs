//! `CustodyService`.

use std::time::Duration;

use custodian_proto::{
    key::{FileKey, KeyId, KeyWrapping, WrappedKey},
    limits::{MAX_FORMAT_LEN, MAX_MESSAGE_LEN, MAX_TEXT_LEN},
    sign::{DigestToSign, SignatureAlgorithm},
    v1::{self, custody_service_server::CustodyService},
};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Api,
    batch::Answers,
    call::{Accepted, invalid},
};
use crate::custody::{Denial, SignRequest, UnwrapRequest, WrapRequest, Wrapped};

/// How long an answer waits for its receipt.
const RECEIPT_PATIENCE: Duration = Duration::from_millis(250);

#[tonic::async_trait]
impl CustodyService for Api {
    async fn unwrap(
        &self,
        request: Request<v1::UnwrapRequest>,
    ) -> Result<Response<v1::UnwrapResponse>, Status> {
        let accepted = self.accept_for_token(&request, approvable).await?;
        self.unwrap_one(&accepted, request.into_inner()).await.map(Response::new)
    }

    type UnwrapBatchStream = Answers;

    async fn unwrap_batch(
        &self,
        request: Request<Streaming<v1::UnwrapBatchRequest>>,
    ) -> Result<Response<Answers>, Status> {
        self.batch(request).await
    }

    async fn wrap(&self, request: Request<v1::WrapRequest>) -> Result<Response<v1::WrapResponse>, Status> {
        // An approval is not bound to the file key: requests are kept, and shown to approvers.
        let without = |request: &v1::WrapRequest| {
            v1::WrapRequest { file_key: Vec::new(), ..request.clone() }.encode_to_vec()
        };
        let accepted = self.accept_as(&request, without).await?;
        let request = self.parsed(&accepted, "Wrap", parse_wrap(request.into_inner())).await?;
        let wrapped = self.custodian.wrap(accepted.call.clone(), request).await;
        let Wrapped { wrapped, sequence } = wrapped.map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::WrapResponse {
            wrapping: v1::KeyWrapping::from(wrapped.wrapping()).into(),
            wrapped_key: wrapped.ciphertext().to_vec(),
            request_id: accepted.call.request_id.to_string(),
            sequence,
        }))
    }

    async fn sign(&self, request: Request<v1::SignRequest>) -> Result<Response<v1::SignResponse>, Status> {
        let accepted = self.accept_for_token(&request, v1::SignRequest::encode_to_vec).await?;
        let request = self.parsed(&accepted, "Sign", parse_sign(request.into_inner())).await?;
        let signed = self.custodian.sign(accepted.call.clone(), request).await;
        let signed = signed.map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::SignResponse {
            signature: signed.signature,
            request_id: accepted.call.request_id.to_string(),
            sequence: signed.sequence,
        }))
    }
}

impl Api {
    /// The answer to a call, or to an item of a batch.
    pub(super) async fn unwrap_one(
        &self,
        accepted: &Accepted,
        request: v1::UnwrapRequest,
    ) -> Result<v1::UnwrapResponse, Status> {
        let with_receipt = request.with_receipt;
        let request = self.parsed(accepted, "Unwrap", parse(request)).await?;
        let unwrapped = self.custodian.unwrap(accepted.call.clone(), request).await;
        let unwrapped = unwrapped.map_err(|denial| accepted.status(denial))?;
        let receipt = if with_receipt { self.receipt_of(unwrapped.sequence).await } else { String::new() };
        Ok(v1::UnwrapResponse {
            file_key: unwrapped.file_key.expose().to_vec(),
            request_id: accepted.call.request_id.to_string(),
            sequence: unwrapped.sequence,
            receipt,
        })
    }

    /// The receipt of a record for the answer; empty if there is none soon. The key is released by then, so it waits neither long
    /// nor for a token that does not sign: nobody should be stopped while it does. `GetReceipt` tells what is wrong.
    async fn receipt_of(&self, sequence: u64) -> String {
        if self.log.state().borrow().trouble.is_some() {
            return String::new();
        }
        let receipt = timeout(RECEIPT_PATIENCE, self.log.receipt(sequence)).await;
        let receipt = receipt.ok().and_then(Result::ok).map(|receipt| receipt.to_string());
        receipt.filter(|receipt| receipt.len() <= MAX_MESSAGE_LEN / 2).unwrap_or_default()
    }
}

/// What an approval of an unwrap is bound to: not to how the answer comes.
pub(super) fn approvable(request: &v1::UnwrapRequest) -> Vec<u8> {
    v1::UnwrapRequest { with_receipt: false, ..request.clone() }.encode_to_vec()
}

fn parse_wrap(mut request: v1::WrapRequest) -> Result<WrapRequest, Denial> {
    let file_key = FileKey::take(&mut request.file_key);
    let file_key = file_key.ok_or_else(|| invalid("file_key: must have 32 bytes"))?;
    Ok(WrapRequest { key: key(&request.key)?, file_key, claims: claims(request.claims)? })
}

fn parse(request: v1::UnwrapRequest) -> Result<UnwrapRequest, Denial> {
    let wrapping = request.wrapping();
    let key = key(&request.key)?;
    let wrapping = KeyWrapping::try_from(wrapping).map_err(|_| invalid("wrapping: must be given"))?;
    let wrapped = WrappedKey::new(key, wrapping, request.wrapped_key)
        .ok_or_else(|| invalid("wrapped_key: must have 1 to 512 bytes"))?;
    Ok(UnwrapRequest { wrapped, claims: claims(request.claims)? })
}

fn parse_sign(request: v1::SignRequest) -> Result<SignRequest, Denial> {
    let algorithm = request.algorithm();
    let key = key(&request.key)?;
    let algorithm =
        SignatureAlgorithm::try_from(algorithm).map_err(|_| invalid("algorithm: must be given"))?;
    let digest = DigestToSign::new(key, algorithm, request.digest).ok_or_else(|| {
        invalid(format!("digest: must have {} bytes for {algorithm}", algorithm.hash().size()))
    })?;
    Ok(SignRequest { digest, claims: claims(request.claims)? })
}

fn key(name: &str) -> Result<KeyId, Denial> {
    KeyId::from_resource_name(name)
        .map_err(|_| invalid("key: must be keys/KEY_ID, KEY_ID being 40 hex digits"))
}

fn claims(claims: Option<v1::Claims>) -> Result<v1::Claims, Denial> {
    let claims = claims.unwrap_or_default();
    if claims.file_name.len() > MAX_TEXT_LEN || claims.reason.len() > MAX_TEXT_LEN {
        return Err(invalid("claims: file_name and reason may have 1,024 bytes each"));
    }
    if claims.format.len() > MAX_FORMAT_LEN {
        return Err(invalid("claims.format: may have 32 bytes"));
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_is_not_bound_to_how_the_answer_comes_but_to_what_is_asked() {
        let plain = v1::UnwrapRequest { key: "keys/ab".into(), wrapped_key: vec![7], ..Default::default() };
        let with_receipt = v1::UnwrapRequest { with_receipt: true, ..plain.clone() };
        assert_eq!(approvable(&plain), approvable(&with_receipt));
        let other = v1::UnwrapRequest { wrapped_key: vec![8], ..plain.clone() };
        assert_ne!(approvable(&plain), approvable(&other));
    }
}
