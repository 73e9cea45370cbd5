//! From an e-mail address to the certificate to seal to: the custodian is asked, what it says is checked, and compared with
//! what was remembered.

use std::time::SystemTime;

use custodian_proto::email::Email;
use jiff::{SignedDuration, Timestamp};

use super::{NotGood, PersonCertificate, Pin, Pins};
use crate::error::{Error, Kind, Result};

/// Who knows certificates of people.
pub trait Directory {
    /// The certificates to encrypt to of whoever has this address, newest first.
    fn find(&self, email: &Email) -> Result<Found>;
}

/// What a directory said. All in DER.
#[derive(Clone, Default, Debug)]
pub struct Found {
    /// Certificates, newest first.
    pub certificates: Vec<Vec<u8>>,
    /// The CA that issued them.
    pub issuer: Vec<u8>,
    /// That CA's revocation list.
    pub list: Vec<u8>,
}

/// What to do if an address has another certificate than it had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnChange {
    /// Tell it and stop.
    Refuse,
    /// Take the new one, and remember it.
    Accept,
}

/// How long what the custodian said is good while nobody can ask it.
#[derive(Clone, Copy, Debug)]
pub struct Freshness(pub SignedDuration);

/// Whom to seal to.
#[derive(Debug)]
pub struct Recipient {
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// What a person should know.
    pub remarks: Vec<String>,
}

/// Finds the certificate of an address.
///
/// The first one is remembered. From then on its key is used for as long as it is good; another one only if `on_change`
/// says so. If the custodian cannot be reached, the remembered one is used while it is fresh.
///
/// # Errors
/// [`Kind::Refused`] if there is none, or another one; [`Kind::Unreachable`]; [`Kind::Integrity`] if the custodian shows one
/// that is not good; and those of the directory.
pub fn recipient(
    email: &Email,
    directory: &dyn Directory,
    pins: &Pins,
    on_change: OnChange,
    freshness: Freshness,
    now: Timestamp,
) -> Result<Recipient> {
    let pin = pins.get(email)?;
    let found = match directory.find(email) {
        Ok(found) => found,
        Err(error) if error.kind == Kind::Unreachable => {
            return match pin {
                Some(pin) => offline(&pin, freshness, now, error),
                None => Err(error),
            };
        }
        Err(error) => return Err(error),
    };
    let good = good(email, &found, now)?;
    let Some(newest) = good.first() else {
        return Err(Error::new(
            Kind::Refused,
            cannot(email),
            "this address has no certificate to encrypt to",
        )
        .hint("its owner gets one with: envelope certificate request --use encrypt"));
    };
    let Some(pin) = pin else {
        let pin = pinned(email, newest, &found, now, now);
        pins.keep(&pin)?;
        let remark = format!("{email}: first use of {}; it is remembered", described(newest));
        return Ok(Recipient { certificate: pin.certificate, remarks: vec![remark] });
    };
    let before = PersonCertificate::read(&pin.certificate).map_err(|why| not_good(email, &why))?;
    let same_ca = pin.issuer == found.issuer;
    let same_key = good.iter().find(|one| one.key_id() == before.key_id()).filter(|_| same_ca);
    match (same_key, on_change) {
        (Some(same), OnChange::Refuse) => {
            pins.keep(&pinned(email, same, &found, pin.first_used, now))?;
            let newer = newest.key_id() != same.key_id();
            let remarks = newer.then(|| {
                format!(
                    "{email} has a newer one, too: {}; --accept-new-certificate takes it",
                    described(newest)
                )
            });
            Ok(Recipient { certificate: same.der().to_vec(), remarks: remarks.into_iter().collect() })
        }
        (Some(same), OnChange::Accept) if same.key_id() == newest.key_id() => {
            pins.keep(&pinned(email, same, &found, pin.first_used, now))?;
            Ok(Recipient { certificate: same.der().to_vec(), remarks: Vec::new() })
        }
        (_, OnChange::Accept) => {
            pins.keep(&pinned(email, newest, &found, now, now))?;
            let remark = format!("{email}: {} takes the place of {}", described(newest), described(&before));
            Ok(Recipient { certificate: newest.der().to_vec(), remarks: vec![remark] })
        }
        (None, OnChange::Refuse) => {
            let ca = if same_ca { "" } else { ", and another CA issued it" };
            let why = format!(
                "it was {} since {}, and now is {}{ca}",
                described(&before),
                pin.first_used.strftime("%Y-%m-%d"),
                described(newest)
            );
            Err(Error::new(Kind::Refused, format!("{email} has another certificate than before"), why)
                .hint("ask its owner whether that is right, on another way than e-mail; then --accept-new-certificate"))
        }
    }
}

/// Those that are good, in the order given. One that is not may stand beside them; nothing but such is an alarm.
fn good(email: &Email, found: &Found, now: Timestamp) -> Result<Vec<PersonCertificate>> {
    let (mut good, mut flaw) = (Vec::new(), None);
    for der in &found.certificates {
        let checked = PersonCertificate::read(der).and_then(|one| {
            one.check(email, &found.issuer, std::slice::from_ref(&found.list), SystemTime::from(now))
                .map(|()| one)
        });
        match checked {
            Ok(one) => good.push(one),
            Err(why) => flaw = flaw.or(Some(why)),
        }
    }
    match flaw {
        Some(why) if good.is_empty() => Err(not_good(email, &why)),
        _ => Ok(good),
    }
}

/// Nobody can be asked.
fn offline(pin: &Pin, Freshness(fresh): Freshness, now: Timestamp, unreachable: Error) -> Result<Recipient> {
    let age = now.duration_since(pin.asked);
    // From a clock that was set back nothing follows.
    if age > fresh || age < -SignedDuration::from_hours(1) {
        let days = fresh.as_hours() / 24;
        let why = format!(
            "{}; and it was last asked for {} at {}, which is not within {days} days",
            unreachable.why, pin.email, pin.asked
        );
        return Err(Error { why, ..unreachable });
    }
    let certificate = PersonCertificate::read(&pin.certificate).map_err(|why| not_good(&pin.email, &why))?;
    let lists = std::slice::from_ref(&pin.list);
    let checked = certificate.check(&pin.email, &pin.issuer, lists, SystemTime::from(now));
    checked.map_err(|why| not_good(&pin.email, &why))?;
    let remark = format!(
        "{}: the custodian cannot be reached; {} was good at {}",
        pin.email,
        described(&certificate),
        pin.asked.strftime("%Y-%m-%d %H:%M")
    );
    Ok(Recipient { certificate: certificate.der().to_vec(), remarks: vec![remark] })
}

fn pinned(
    email: &Email,
    certificate: &PersonCertificate,
    found: &Found,
    first_used: Timestamp,
    asked: Timestamp,
) -> Pin {
    Pin {
        email: email.clone(),
        certificate: certificate.der().to_vec(),
        issuer: found.issuer.clone(),
        list: found.list.clone(),
        first_used,
        asked,
    }
}

/// For people who compare.
fn described(certificate: &PersonCertificate) -> String {
    let level = certificate.level().map(|level| format!(", {level}")).unwrap_or_default();
    format!("the key {} (certificate {}{level})", certificate.key_id(), certificate.serial())
}

fn cannot(email: &Email) -> String {
    format!("cannot seal to {email}")
}

fn not_good(email: &Email, why: &NotGood) -> Error {
    Error::new(Kind::Integrity, cannot(email), format!("its certificate is not good: {why}"))
        .hint("ask its owner for another one, or tell the administrators")
}
