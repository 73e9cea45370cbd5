//! `custodianctl device`.

use std::{
    fs::Permissions,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;
use custodian_proto::v1;
use der::pem::{LineEnding, encode_string};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    connection::Connection,
    extract::reason,
    message::note,
    output::Style,
    view::{DeviceView, device_name, id_of},
    when::{local, parse_duration, parse_future, rfc3339},
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
};

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
    /// Take an invitation back: its code is void
    Uninvite {
        /// laptop-7 or devices/laptop-7
        id: String,
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
    /// Replace the groups that a device is in, for policies to ask for
    Groups {
        /// laptop-7 or devices/laptop-7
        id: String,
        /// A group: a–z, 0–9 and -. None: in no group
        groups: Vec<String>,
        #[command(flatten)]
        style: Style,
    },
    /// Stop a device until it is activated again, or until a time
    Suspend {
        /// laptop-7 or devices/laptop-7
        id: String,
        /// When it ends by itself: RFC 3339, a local date or time, or how long from now: 12h, 14d. [default: never]
        #[arg(long, value_name = "TIME", value_parser = parse_future)]
        until: Option<Timestamp>,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// Write the certificate revocation list of the device CA, for others who take device certificates
    Crl {
        /// Where to; replaced if it is there; - for standard output
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
        /// In PEM instead of DER
        #[arg(long)]
        pem: bool,
        /// In how many days it calls for the next one, at most 90
        #[arg(long, value_name = "N", default_value_t = 7)]
        days: u32,
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
            Self::Uninvite { id } => {
                let name = device_name(&id);
                remote.withdraw_invitation(id_of(&name))?;
                note(&format!("the invitation of {name} is void"));
                Ok(())
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
            Self::Groups { id, groups, style } => {
                tell(style, &remote.set_device_groups(&device_name(&id), &groups)?)
            }
            Self::Suspend { id, until, reason, style } => {
                tell(style, &remote.suspend_device(&device_name(&id), &reason, until)?)
            }
            Self::Crl { out, pem, days } => {
                let list = remote.revocation_list(days)?;
                write_list(&out, &list.crl, if pem { Form::Pem } else { Form::Der })?;
                let next = local(list.next_update_time.as_ref());
                note(&format!("revocation list {}, the next one is due {next}", list.number));
                Ok(())
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
            ("groups", device.groups.join(", ")),
            ("key SHA-256", device.spki_sha256.clone()),
            ("certificate SHA-256", device.certificate_sha256.clone()),
            ("certificate ends", local(device.certificate_expire_time.as_ref())),
            ("enrolled", local(device.enroll_time.as_ref())),
            ("changed", local(device.update_time.as_ref())),
            ("suspended until", local(device.suspend_end_time.as_ref())),
            ("ended", device.stopped.as_ref().map(ended).unwrap_or_default()),
        ],
    )
}

fn ended(stopped: &v1::Stopped) -> String {
    let millis = stopped.duration_us.div_ceil(1_000);
    format!("{} sessions, {} streams; it held within {millis} ms", stopped.sessions, stopped.streams)
}

/// How a revocation list is written.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Der,
    Pem,
}

/// Whoever reads the file meanwhile has the old list or the new one.
pub(super) fn write_list(out: &Path, der: &[u8], form: Form) -> Result<()> {
    let cannot = |error: &dyn std::fmt::Display| {
        Error::new(Kind::Local, format!("cannot write {}", out.display()), error)
    };
    let content = match form {
        Form::Pem => {
            encode_string("X509 CRL", LineEnding::LF, der).map_err(|error| cannot(&error))?.into_bytes()
        }
        Form::Der => der.to_vec(),
    };
    if out == Path::new("-") {
        return io::stdout().lock().write_all(&content).map_err(|error| cannot(&error));
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| cannot(&error))?;
    let written = file
        .write_all(&content)
        .and_then(|()| file.as_file().set_permissions(Permissions::from_mode(0o644)))
        .and_then(|()| file.as_file().sync_all());
    written.map_err(|error| cannot(&error))?;
    file.persist(out).map(drop).map_err(|error| cannot(&error))
}
