//! The worker's cage: what a PKCS#11 module may do to the rest of the machine.
//!
//! It closes before the module is loaded: no code of the module ever runs outside. It cannot be opened again. What the
//! kernel does not allow is a gap, and said, never silent.

mod account;
mod calls;
mod files;
mod wire;

use std::{fmt, io, path::PathBuf};

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs},
};

pub(super) use wire::{CageMessage, CageSetup};

use super::StartError;

/// What a module needs beyond reading files and speaking to local (Unix) sockets. By default: nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CageConfig {
    /// Whom the worker becomes if the custodian was started as root: a name or number of `/etc/passwd`. It must be able
    /// to read what the module reads. The PIN is read before.
    pub user: Option<String>,
    /// Files and folders in which the module may write: where it keeps keys, logs and locks, and devices it opens.
    pub write: Vec<PathBuf>,
    /// Which network the module may use.
    pub network: Network,
    /// Whether the module may run programs. They are in the same cage.
    pub programs: Programs,
}

/// Which network a module may use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Network {
    /// None.
    #[default]
    None,
    /// TCP connections to these ports of any host. No UDP, so no DNS: the module's configuration names hosts by address.
    Ports(Vec<u16>),
    /// Any.
    Any,
}

/// Whether a module may run programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Programs {
    /// It may not.
    #[default]
    Refused,
    /// It may.
    Allowed,
}

/// A cage that has closed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cage {
    /// What it keeps the module to: `no network`.
    pub holds: Vec<String>,
    /// What it cannot do on this machine, and what would help.
    pub gaps: Vec<String>,
}

impl fmt::Display for Cage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.holds.join(", "))?;
        self.gaps.iter().try_for_each(|gap| write!(f, "; BUT {gap}"))
    }
}

impl Cage {
    /// Closes around this thread and all that it starts.
    ///
    /// # Errors
    /// If what was configured is not there or cannot be: a user, a place to write.
    pub(super) fn close(config: &CageConfig) -> Result<Self, StartError> {
        let mut cage = Self::default();
        // The limit first: raising it takes a privilege.
        cage.lock_memory();
        cage.holds.insert(0, account::assume(config.user.as_deref())?);
        cage.check("privileges", "are kept", drop_privileges());
        match config.programs {
            Programs::Refused => cage.holds.push("no programs".to_owned()),
            Programs::Allowed => cage.holds.push("programs, in the same cage".to_owned()),
        }
        cage.holds.push(match &config.network {
            Network::None => "no network".to_owned(),
            Network::Ports(ports) => {
                let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                format!("network: TCP to port {} only", ports.join(", "))
            }
            Network::Any => "any network".to_owned(),
        });
        files::fence(config, &mut cage)?;
        // Last: it forbids what the others need.
        cage.check("system calls", "are not filtered", calls::filter(&config.network, config.programs));
        Ok(cage)
    }

    /// The cage may be to blame when a module does not do what it should.
    pub(super) fn explain(&self, failure: &impl fmt::Display) -> String {
        format!("{failure}. (The module's cage: {self}. If it needs more: docs/operations.md, \"The cage\")")
    }

    /// The same for a start.
    pub(super) fn blame(&self, error: StartError) -> StartError {
        match error {
            StartError::Token(why) => StartError::Token(self.explain(&why)),
            other => other,
        }
    }

    fn lock_memory(&mut self) {
        let limit = getrlimit(Resource::Memlock);
        let raised = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
        if raised.is_err() {
            // A limit that is reached later makes the module fail somewhere in the middle.
            let kib = limit.maximum.unwrap_or_default() / 1024;
            self.gaps.push(format!(
                "memory is not locked, and could be swapped out: RLIMIT_MEMLOCK is {kib} KiB (systemd: \
                 LimitMEMLOCK=infinity)"
            ));
            return;
        }
        // On fault: what is reserved and never used need not be there.
        let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        match mlockall(flags) {
            Ok(()) => self.holds.push("memory locked".to_owned()),
            Err(error) => self.gaps.push(format!("memory is not locked, and could be swapped out: {error}")),
        }
    }

    fn check(&mut self, what: &str, how: &str, done: io::Result<()>) {
        if let Err(error) = done {
            self.gaps.push(format!("{what} {how}: {error}"));
        }
    }
}

fn drop_privileges() -> io::Result<()> {
    // From here on no program that is run can give any back.
    set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}
