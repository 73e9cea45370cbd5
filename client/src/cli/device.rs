//! `custodianctl device`.

use std::time::Duration;

use clap::Subcommand;
use custodian_proto::v1;
use serde::Serialize;

use super::{
    connection::Connection,
    extract::reason,
    output::Style,
    view::{DeviceView, device_name, id_of},
    when::{local, parse_duration, rfc3339},
};
use crate::{error::Result, interrupt::Interrupt};

#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// Make a one-time code with which a workstation can enrol
    Invite {
        /// Its id: a–z, 0–9 and -
        id: String,
        /// How long the code is good for, at most 30d [default: 24h]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        ttl: Option<Duration>,
        #[command(flatten)]
        style: Style,
    },
    /// List them
    Ls {
        #[command(flatten)]
        style: Style,
    },
    /// Show one
    Show {
        /// laptop-7 or devices/laptop-7
        id: String,
        #[command(flatten)]
        style: Style,
    },
    /// Let an enrolled or suspended device work
    Activate {
        /// laptop-7 or devices/laptop-7
        id: String,
        #[command(flatten)]
        style: Style,
    },
    /// Stop a device until it is activated again
    Suspend {
        /// laptop-7 or devices/laptop-7
        id: String,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// Stop a device for good: once this returns, no key leaves for it
    Revoke {
        /// laptop-7 or devices/laptop-7
        id: String,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
}

#[derive(Serialize)]
struct InvitationView {
    device: String,
    code: String,
    expire_time: Option<String>,
}

impl DeviceCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let remote = connection.connect(interrupt)?;
        match self {
            Self::Invite { id, ttl, style } => {
                let name = device_name(&id);
                let invitation = remote.invite_device(id_of(&name), ttl)?;
                let expires = local(invitation.expire_time.as_ref());
                let view = InvitationView {
                    device: name.clone(),
                    code: invitation.code,
                    expire_time: rfc3339(invitation.expire_time.as_ref()),
                };
                let next = "on that workstation: envelope enroll".to_owned();
                let code = view.code.clone();
                style.one(&view, &[("device", name), ("code", code), ("good until", expires), ("next", next)])
            }
            Self::Ls { style } => {
                let devices = remote.devices()?;
                let views: Vec<_> = devices.iter().map(Listed::from).collect();
                style.many(&views, &["ID", "STATE", "CERTIFICATE ENDS", "CHANGED", "REASON"], |listed| {
                    let Listed { view, device } = listed;
                    vec![
                        id_of(&device.name).to_owned(),
                        view.state.to_owned(),
                        local(device.certificate_expire_time.as_ref()),
                        local(device.update_time.as_ref()),
                        device.reason.clone(),
                    ]
                })
            }
            Self::Show { id, style } => tell(style, &remote.device(&device_name(&id))?),
            Self::Activate { id, style } => tell(style, &remote.activate_device(&device_name(&id))?),
            Self::Suspend { id, reason, style } => {
                tell(style, &remote.suspend_device(&device_name(&id), &reason)?)
            }
            Self::Revoke { id, reason, style } => {
                tell(style, &remote.revoke_device(&device_name(&id), &reason)?)
            }
        }
    }
}

/// A device with its JSON beside it.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    view: DeviceView,
    #[serde(skip)]
    device: &'a v1::Device,
}

impl<'a> From<&'a v1::Device> for Listed<'a> {
    fn from(device: &'a v1::Device) -> Self {
        Self { view: device.into(), device }
    }
}

fn tell(style: Style, device: &v1::Device) -> Result<()> {
    let view = DeviceView::from(device);
    style.one(
        &view,
        &[
            ("device", device.name.clone()),
            ("state", view.state.to_owned()),
            ("reason", device.reason.clone()),
            ("key SHA-256", device.spki_sha256.clone()),
            ("certificate SHA-256", device.certificate_sha256.clone()),
            ("certificate ends", local(device.certificate_expire_time.as_ref())),
            ("enrolled", local(device.enroll_time.as_ref())),
            ("changed", local(device.update_time.as_ref())),
        ],
    )
}
