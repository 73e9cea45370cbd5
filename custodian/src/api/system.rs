//! `StatusService`.

use custodian_proto::v1::{self, status_service_server::StatusService};
use tonic::{Request, Response, Status};

use super::{Api, resource::timestamp};
use crate::{authority::Need, token::Health};

#[tonic::async_trait]
impl StatusService for Api {
    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let _accepted = self.accept_reader(&request, Need::Session, "GetStatus").await?;
        // Only what is known without asking the token: anybody who is signed in may ask for the status, as often as they
        // like, and must not take the unwraps' turn.
        let each = self.tokens.reports().into_iter().map(|report| v1::TokenStatus {
            name: report.name.resource_name(),
            drained: report.drain.is_some(),
            ..status(report.health)
        });
        let log = self.log.state().borrow().clone();
        let newest = log.newest.as_deref();
        let log = v1::LogStatus {
            name: self.log.verifier().name().to_owned(),
            checkpoint_size: newest.map_or(0, |newest| newest.checkpoint.size),
            checkpoint_time: newest.and_then(|newest| newest.time).map(timestamp),
            trouble: log.trouble.unwrap_or_default(),
            witnesses: log
                .witnesses
                .into_iter()
                .map(|witness| v1::WitnessStatus {
                    name: witness.name,
                    checkpoint_size: witness.size,
                    cosign_time: witness.time.map(|time| prost_types::Timestamp {
                        seconds: i64::try_from(time).unwrap_or(i64::MAX),
                        nanos: 0,
                    }),
                    trouble: witness.trouble.unwrap_or_default(),
                })
                .collect(),
            copy: self.custodian.second_place().state().map(|copy| v1::LogCopyStatus {
                record_count: copy.copied,
                trouble: copy.trouble.unwrap_or_default(),
            }),
        };
        let siem = self.siem.as_ref().map(|siem| siem.borrow().clone());
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            start_time: Some(timestamp(self.started)),
            record_count: *self.custodian.ledger().last_sequence().borrow(),
            token: Some(status(self.custodian.token().health())),
            tokens: each.collect(),
            log: Some(log),
            siem: siem.map(|siem| v1::SiemStatus {
                received: siem.received,
                trouble: siem.trouble.unwrap_or_default(),
            }),
        }))
    }
}

fn status(health: Health) -> v1::TokenStatus {
    let mut status = v1::TokenStatus {
        serving: health.trouble.is_none(),
        trouble: health.trouble.unwrap_or_default(),
        worker_restarts: health.restarts,
        ..v1::TokenStatus::default()
    };
    if let Some(survey) = health.last_survey {
        status.label.clone_from(&survey.label);
        status.model.clone_from(&survey.model);
        status.wrapping = v1::KeyWrapping::from(survey.wrapping).into();
        status.key_count = u32::try_from(survey.keys.len()).unwrap_or(u32::MAX);
    }
    status
}
