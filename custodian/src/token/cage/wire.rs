//! How the supervisor orders a cage, and the worker tells what became of it.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
};

use prost::Message;

use super::{Cage, CageConfig, Network, Programs};

/// Supervisor to worker.
#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct CageSetup {
    #[prost(string, optional, tag = "1")]
    user: Option<String>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    write: Vec<Vec<u8>>,
    #[prost(uint32, repeated, tag = "3")]
    ports: Vec<u32>,
    #[prost(bool, tag = "4")]
    any_network: bool,
    #[prost(bool, tag = "5")]
    programs: bool,
}

/// Worker to supervisor.
#[derive(Clone, PartialEq, Message)]
pub(in crate::token) struct CageMessage {
    #[prost(string, repeated, tag = "1")]
    holds: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    gaps: Vec<String>,
}

impl From<&CageConfig> for CageSetup {
    fn from(config: &CageConfig) -> Self {
        let ports = match &config.network {
            Network::Ports(ports) => ports.iter().map(|port| u32::from(*port)).collect(),
            Network::None | Network::Any => Vec::new(),
        };
        Self {
            user: config.user.clone(),
            write: config.write.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect(),
            ports,
            any_network: config.network == Network::Any,
            programs: config.programs == Programs::Allowed,
        }
    }
}

impl From<CageSetup> for CageConfig {
    fn from(setup: CageSetup) -> Self {
        let ports: Vec<u16> = setup.ports.into_iter().filter_map(|port| port.try_into().ok()).collect();
        Self {
            user: setup.user,
            write: setup.write.into_iter().map(|path| PathBuf::from(OsString::from_vec(path))).collect(),
            network: match (setup.any_network, &ports[..]) {
                (true, _) => Network::Any,
                (false, []) => Network::None,
                (false, _) => Network::Ports(ports),
            },
            programs: if setup.programs { Programs::Allowed } else { Programs::Refused },
        }
    }
}

impl From<&Cage> for CageMessage {
    fn from(cage: &Cage) -> Self {
        Self { holds: cage.holds.clone(), gaps: cage.gaps.clone() }
    }
}

impl From<CageMessage> for Cage {
    fn from(message: CageMessage) -> Self {
        Self { holds: message.holds, gaps: message.gaps }
    }
}
