//! `StatusService`.

use custodian_proto::v1::{self, status_service_server::StatusService};
use tonic::{Request, Response, Status};

use super::{Api, resource::timestamp};
use crate::authority::Need;

#[tonic::async_trait]
impl StatusService for Api {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let _accepted = self.accept_reader(&request, Need::Session, "GetStatus").await?;
        let token = self.custodian.token();
        let health = token.health();
        let mut status = v1::TokenStatus {
            serving: health.trouble.is_none(),
            trouble: health.trouble.unwrap_or_default(),
            worker_restarts: health.restarts,
            ..v1::TokenStatus::default()
        };
        match token.survey(self.custodian.token_deadline()).await {
            Ok(survey) => {
                status.label = survey.label;
                status.model = survey.model;
                status.wrapping = v1::KeyWrapping::from(survey.wrapping).into();
                status.key_count = u32::try_from(survey.keys.len()).unwrap_or(u32::MAX);
            }
            Err(error) => {
                status.serving = false;
                status.trouble = error.to_string();
            }
        }
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            start_time: Some(timestamp(self.started)),
            record_count: *self.custodian.ledger().last_sequence().borrow(),
            token: Some(status),
        }))
    }
}
