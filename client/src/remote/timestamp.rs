//! The custodian as a time-stamping authority.

use custodian_proto::v1::{self, timestamp_service_client::TimestampServiceClient};

use super::Remote;
use crate::{error::Result, timestamp::Authority};

impl Authority for Remote {
    fn answer(&self, query: &[u8]) -> Result<Vec<u8>> {
        let request = v1::TimestampRequest { request: query.to_vec() };
        let ask = async |service| TimestampServiceClient::new(service).timestamp(request.clone()).await;
        Ok(self.call("cannot get a timestamp", ask)?.response)
    }
}
