//! `CustodyService`.

use custodian_proto::{
    key::{KeyId, KeyWrapping, WrappedKey},
    limits::{MAX_FORMAT_LEN, MAX_TEXT_LEN},
    v1::{self, custody_service_server::CustodyService},
};
use tonic::{Request, Response, Status};

use super::{Api, call::invalid};
use crate::custody::{Denial, UnwrapRequest};

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
}

fn parse(request: v1::UnwrapRequest) -> Result<UnwrapRequest, Denial> {
    let wrapping = request.wrapping();
    let key = KeyId::from_resource_name(&request.key)
        .map_err(|_| invalid("key: must be keys/KEY_ID, KEY_ID being 40 hex digits"))?;
    let wrapping = KeyWrapping::try_from(wrapping).map_err(|_| invalid("wrapping: must be given"))?;
    let wrapped = WrappedKey::new(key, wrapping, request.wrapped_key)
        .ok_or_else(|| invalid("wrapped_key: must have 1 to 512 bytes"))?;
    let claims = request.claims.unwrap_or_default();
    if claims.file_name.len() > MAX_TEXT_LEN || claims.reason.len() > MAX_TEXT_LEN {
        return Err(invalid("claims: file_name and reason may have 1,024 bytes each"));
    }
    if claims.format.len() > MAX_FORMAT_LEN {
        return Err(invalid("claims.format: may have 32 bytes"));
    }
    Ok(UnwrapRequest { wrapped, claims })
}
