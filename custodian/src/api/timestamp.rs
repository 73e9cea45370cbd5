//! `TimestampService`.

use custodian_proto::{
    refusal::Refusal,
    sign::Hash,
    tsp::{Rejection, TimeStampReq, TimeStampResp},
    v1::{self, timestamp_service_server::TimestampService},
};
use der::Encode;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::Api;
use crate::custody::{Denial, Fault, TimestampRequest};

const OPERATION: &str = "Timestamp";

#[tonic::async_trait]
impl TimestampService for Api {
    async fn timestamp(
        &self,
        request: Request<v1::TimestampRequest>,
    ) -> Result<Response<v1::TimestampResponse>, Status> {
        let accepted = self.accept_for_token(&request, v1::TimestampRequest::encode_to_vec).await?;
        let request_id = accepted.call.request_id.to_string();
        let (request, hash) = match self.read(&request.get_ref().request) {
            Ok(read) => read,
            Err(rejection) => {
                let detail = format!("{}: {}", rejection.name(), rejection.meaning());
                let denial = Denial::Refused { refusal: Refusal::InvalidArgument, detail };
                // Recorded as any request that makes no sense; the answer has a form of its own.
                let refused = self.custodian.refuse::<()>(&accepted.call, OPERATION, denial).await;
                if let Err(Denial::Failed(fault)) = refused {
                    return Err(accepted.status(fault.into()));
                }
                let response = rejected(rejection).map_err(|denial| accepted.status(denial))?;
                return Ok(Response::new(v1::TimestampResponse { response, request_id, sequence: 0 }));
            }
        };
        let key = self.custodian.ledger().key_by_label(&self.timestamps.label).await;
        let key = key.map_err(|error| accepted.status(error.into()))?;
        let Some(key) = key else {
            let detail = format!("there is no key {:?} (timestamps.label)", self.timestamps.label);
            let denial = Denial::Refused { refusal: Refusal::KeyUnknown, detail };
            let refused = self.custodian.refuse(&accepted.call, OPERATION, denial).await;
            return refused.map_err(|denial| accepted.status(denial));
        };
        let request = TimestampRequest {
            request,
            hash,
            key: key.id,
            rules: self.timestamps.clone(),
            issuer: self.ca.certificate().to_vec(),
        };
        let stamped = self.custodian.timestamp(accepted.call.clone(), request).await;
        let stamped = stamped.map_err(|denial| accepted.status(denial))?;
        let (response, sequence) = (stamped.response, stamped.sequence);
        Ok(Response::new(v1::TimestampResponse { response, request_id, sequence }))
    }
}

impl Api {
    fn read(&self, query: &[u8]) -> Result<(TimeStampReq, Hash), Rejection> {
        let (request, hash) = TimeStampReq::read(query)?;
        self.timestamps.accept(&request)?;
        Ok((request, hash))
    }
}

fn rejected(rejection: Rejection) -> Result<Vec<u8>, Denial> {
    let answer = TimeStampResp::rejected(rejection).and_then(|answer| answer.to_der());
    answer.map_err(|error| Fault::Internal(format!("the rejection does not encode: {error}")).into())
}
