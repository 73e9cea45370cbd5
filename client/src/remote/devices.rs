//! The workstations.

use std::time::Duration;

use custodian_proto::{
    limits::{MAX_PAGE_LEN, MAX_PAGE_SIZE},
    v1::{self, device_service_client::DeviceServiceClient},
};
use jiff::Timestamp;

use super::{Remote, session::Signed};
use crate::error::Result;

/// All of these fail as any call does: refused, unreachable, interrupted. Names are `devices/ID`.
impl Remote {
    /// Makes a one-time code with which a workstation can enrol under this id. `None`: good for a day.
    ///
    /// # Errors
    /// Those of any call.
    pub fn invite_device(&self, id: &str, ttl: Option<Duration>) -> Result<v1::InviteDeviceResponse> {
        let ttl_seconds = ttl.map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX));
        let request = v1::InviteDeviceRequest { device_id: id.to_owned(), ttl_seconds };
        let what = format!("cannot invite devices/{id}");
        Ok(self.call(&what, async |service| client(service).invite_device(request.clone()).await)?)
    }

    /// Takes an invitation back: its code is void.
    ///
    /// # Errors
    /// Those of any call.
    pub fn withdraw_invitation(&self, id: &str) -> Result<()> {
        let request = v1::WithdrawInvitationRequest { device_id: id.to_owned() };
        let what = format!("cannot withdraw the invitation of devices/{id}");
        self.call(&what, async |service| client(service).withdraw_invitation(request.clone()).await)?;
        Ok(())
    }

    /// All devices, in the order of their ids.
    ///
    /// # Errors
    /// Those of any call.
    pub fn devices(&self) -> Result<Vec<v1::Device>> {
        let mut devices = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListDevicesRequest { page_size: MAX_PAGE_SIZE, page_token };
            let page = self.call("cannot list devices", async |service| {
                client(service).list_devices(request.clone()).await
            })?;
            devices.extend(page.devices);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(devices);
            }
        }
    }

    /// One device.
    ///
    /// # Errors
    /// Those of any call.
    pub fn device(&self, name: &str) -> Result<v1::Device> {
        let request = v1::GetDeviceRequest { name: name.to_owned() };
        let what = format!("cannot show {name}");
        Ok(self.call(&what, async |service| client(service).get_device(request.clone()).await)?)
    }

    /// Replaces the groups that a device is in.
    ///
    /// # Errors
    /// Those of any call.
    pub fn set_device_groups(&self, name: &str, groups: &[String]) -> Result<v1::Device> {
        let request = v1::SetDeviceGroupsRequest { name: name.to_owned(), groups: groups.to_vec() };
        let what = format!("cannot set the groups of {name}");
        Ok(self.call(&what, async |service| client(service).set_device_groups(request.clone()).await)?)
    }

    /// Lets an enrolled or suspended device work.
    ///
    /// # Errors
    /// Those of any call.
    pub fn activate_device(&self, name: &str) -> Result<v1::Device> {
        let request = v1::ActivateDeviceRequest { name: name.to_owned() };
        let what = format!("cannot activate {name}");
        Ok(self.call(&what, async |service| client(service).activate_device(request.clone()).await)?)
    }

    /// Stops a device until it is activated again, or until that time.
    ///
    /// # Errors
    /// Those of any call.
    pub fn suspend_device(&self, name: &str, reason: &str, until: Option<Timestamp>) -> Result<v1::Device> {
        let end_time = until
            .map(|end| prost_types::Timestamp { seconds: end.as_second(), nanos: end.subsec_nanosecond() });
        let request = v1::SuspendDeviceRequest { name: name.to_owned(), reason: reason.to_owned(), end_time };
        let what = format!("cannot suspend {name}");
        Ok(self.call(&what, async |service| client(service).suspend_device(request.clone()).await)?)
    }

    /// The revocation list of the device CA, signed now; it calls for the next one in so many days.
    ///
    /// # Errors
    /// Those of any call.
    pub fn revocation_list(&self, days: u32) -> Result<v1::RevocationList> {
        let request = v1::GetRevocationListRequest { days };
        Ok(self.call("cannot get the revocation list", async |service| {
            client(service).get_revocation_list(request).await
        })?)
    }

    /// Stops a device for good. Once this returns, no key leaves for it.
    ///
    /// # Errors
    /// Those of any call.
    pub fn revoke_device(&self, name: &str, reason: &str) -> Result<v1::Device> {
        let request = v1::RevokeDeviceRequest { name: name.to_owned(), reason: reason.to_owned() };
        let what = format!("cannot revoke {name}");
        Ok(self.call(&what, async |service| client(service).revoke_device(request.clone()).await)?)
    }
}

fn client(service: Signed) -> DeviceServiceClient<Signed> {
    DeviceServiceClient::new(service).max_decoding_message_size(MAX_PAGE_LEN)
}
