//! Room for calls without a session: logins, enrolments, and attempts of the revoked.

use super::{Caller, DeviceId, DeviceState, Floodgate, PeerKind, SpkiHash};

/// Calls a minute of one device or certificate.
const EACH: u32 = 60;

/// Calls a minute of all self-signed certificates, which cost nothing; and of all that the device CA issued once but that
/// belong to no active device.
const ALL: u32 = 1_200;

/// A gate for each kind of peer. So none takes the room of another: whoever floods one keeps no active device from signing in.
pub struct Strangers {
    newcomers: Floodgate<SpkiHash>,
    stopped: Floodgate<SpkiHash>,
    /// By id: a new certificate brings no more room. Not bounded in all: there are as many as administrators let in.
    active: Floodgate<DeviceId>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            newcomers: Floodgate::new(EACH, ALL),
            stopped: Floodgate::new(EACH, ALL),
            active: Floodgate::new(EACH, u32::MAX),
        }
    }
}

impl Strangers {
    /// Counts a call of a caller without a session. Whether it is let in.
    pub fn admit(&self, caller: &Caller) -> bool {
        let certificate = &caller.peer.certificate;
        match (certificate.kind, &caller.device) {
            (PeerKind::Newcomer, _) => self.newcomers.admit(certificate.spki),
            (PeerKind::Device, Some(device)) if device.state == DeviceState::Active => {
                self.active.admit(device.id.clone())
            }
            (PeerKind::Device, _) => self.stopped.admit(certificate.spki),
        }
    }

    /// Begins a new minute. How many calls the old one turned away unrecorded.
    pub fn roll(&self) -> u64 {
        self.newcomers.roll() + self.stopped.roll() + self.active.roll()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        authority::{Device, Peer, PeerCertificate},
        ledger::contract::world,
    };

    fn caller(kind: PeerKind, spki: u32, device: Option<Device>) -> Caller {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&spki.to_be_bytes());
        let (spki, sha256) = (SpkiHash(hash), hash);
        let (not_before, not_after) = (world::ago(60), world::ahead(60));
        let certificate = PeerCertificate { spki, sha256, not_before, not_after, kind };
        let peer = Peer { ip: Ipv4Addr::LOCALHOST.into(), certificate };
        Caller { peer, device, session: None, user: None, policy: 0 }
    }

    fn device(id: &str, state: DeviceState) -> Option<Device> {
        Some(Device { state, ..world::device(id, 1) })
    }

    #[test]
    fn no_flood_of_strangers_keeps_an_active_device_from_signing_in() {
        let strangers = Strangers::default();
        let flood = |kind, device: Option<Device>| {
            (0..10_000).filter(|number| strangers.admit(&caller(kind, *number, device.clone()))).count()
        };
        assert_eq!(flood(PeerKind::Newcomer, None), ALL as usize);
        assert_eq!(flood(PeerKind::Device, None), 1_200);
        assert_eq!(flood(PeerKind::Device, device("laptop-9", DeviceState::Revoked)), 0);
        for number in 0..2_000 {
            let id = format!("laptop-{number}");
            assert!(strangers.admit(&caller(PeerKind::Device, 1, device(&id, DeviceState::Active))), "{id}");
        }
        assert_eq!(strangers.roll(), 8_800 + 8_800 + 10_000);
    }

    #[test]
    fn a_new_certificate_brings_a_device_no_more_room() {
        let strangers = Strangers::default();
        let active = device("laptop-1", DeviceState::Active);
        let calls = (0..200).filter(|key| strangers.admit(&caller(PeerKind::Device, *key, active.clone())));
        assert_eq!(calls.count(), EACH as usize);
        strangers.roll();
        assert!(strangers.admit(&caller(PeerKind::Device, 1, active)));
    }
}
