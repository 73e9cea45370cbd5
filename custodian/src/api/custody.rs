//! `CustodyService`.

use custodian_proto::{
    key::{KeyId, KeyWrapping, WrappedKey},
    limits::{MAX_FORMAT_LEN, MAX_TEXT_LEN},
    sign::{DigestToSign, SignatureAlgorithm},
    v1::{self, custody_service_server::CustodyService},
};
use tonic::{Request, Response, Status};

use super::{Api, call::invalid};
use crate::custody::{Denial, SignRequest, UnwrapRequest};

#[tonic::async_trait]
impl CustodyService for Api {
    async fn unwrap(
        &self,
        request: Request<v1::UnwrapRequest>,
    ) -> Result<Response<v1::UnwrapResponse>, Status> {
        let accepted = self.accept(&request).await?;
        let request = self.parsed(&accepted, "Unwrap", parse(request.into_inner())).await?;
        let unwrapped = self.custodian.unwrap(accepted.call.clone(), request).await;
        let unwrapped = unwrapped.map_err(|denial| accepted.status(denial))?;
        Ok(Response::new(v1::UnwrapResponse {
            file_key: unwrapped.file_key.expose().to_vec(),
            request_id: accepted.call.request_id.to_string(),
            sequence: unwrapped.sequence,
        }))
    }

    async fn sign(&self, request: Request<v1::SignRequest>) -> Result<Response<v1::SignResponse>, Status> {
        let accepted = self.accept(&request).await?;
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
