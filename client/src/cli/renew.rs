//! `envelope renew`: another certificate, before the present one ends.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{
    connection::Connection,
    message::note,
    output::Style,
    view::DeviceView,
    when::{local, local_text},
};
use crate::{
    error::Result,
    interrupt::Interrupt,
    remote::{self, Renewed, expiry},
    settings::Settings,
};

/// A certificate that ends within this time is worth a word.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Get a new key and certificate for this workstation, over the present one, while it is good
#[derive(Debug, clap::Args)]
pub(super) struct RenewArgs {
    #[command(flatten)]
    style: Style,
}

#[derive(Serialize)]
struct RenewedView {
    device: DeviceView,
}

impl RenewArgs {
    /// Renews.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let settings = connection.settings()?;
        let device = match remote::renew(&settings, interrupt)? {
            Renewed::Now(device) => device,
            Renewed::Earlier => {
                note("an earlier renewal was cut off at its end; now it is complete");
                return Ok(());
            }
        };
        self.style.one(
            &RenewedView { device: DeviceView::from(&*device) },
            &[
                ("device", device.name.clone()),
                ("key SHA-256", device.spki_sha256.clone()),
                ("certificate ends", local(device.certificate_expire_time.as_ref())),
            ],
        )
    }
}

/// Says so if this workstation's certificate ends soon.
pub(super) fn remind(settings: &Settings) -> Result<()> {
    let ends = expiry(settings.cert()?)?;
    if ends.duration_since(Timestamp::now()) < SOON {
        let ends = local_text(ends, &TimeZone::system());
        note(&format!("this workstation's certificate ends {ends}: envelope renew"));
    }
    Ok(())
}
