//! Landlock: where the module may write, which programs it may run, which ports it may reach, whom it may signal.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::{Cage, CageConfig, Network, Programs};
use crate::token::StartError;

/// Linux 6.12: what is asked for. An older kernel does less, and that is a gap.
const ABI_WANTED: ABI = ABI::V6;

/// Devices that store nothing and are everybody's.
const HARMLESS: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Puts up the fence.
///
/// # Errors
/// If a place to write is not there.
pub(super) fn fence(config: &CageConfig, cage: &mut Cage) -> Result<(), StartError> {
    let mut places = Vec::new();
    for path in &config.write {
        places.push(open(path)?);
    }
    match restrict(config, places) {
        Ok(status) => report(config, &status, cage),
        Err(error) => cage.gaps.push(format!("files and signals are not confined: {error}")),
    }
    Ok(())
}

fn open(path: &Path) -> Result<PathBeneath<PathFd>, StartError> {
    let missing = |why: &dyn std::fmt::Display| {
        StartError::Token(format!(
            "cage.write: the module cannot write in {}: {why}. Make it, or correct the configuration",
            path.display()
        ))
    };
    let kind = path.metadata().map_err(|error| missing(&error))?;
    let write = AccessFs::from_write(ABI_WANTED);
    let access = if kind.is_dir() { write } else { write & AccessFs::from_file(ABI_WANTED) };
    PathFd::new(path).map(|place| PathBeneath::new(place, access)).map_err(|error| missing(&error))
}

fn restrict(config: &CageConfig, places: Vec<PathBeneath<PathFd>>) -> Result<Status, RulesetError> {
    let mut handled: BitFlags<AccessFs> = AccessFs::from_write(ABI_WANTED);
    if config.programs == Programs::Refused {
        handled |= AccessFs::Execute;
    }
    let mut ruleset = Ruleset::default().handle_access(handled)?.scope(Scope::from_all(ABI_WANTED))?;
    let ports = match &config.network {
        Network::None => &[],
        Network::Ports(ports) => ports.as_slice(),
        Network::Any => &[],
    };
    if config.network != Network::Any {
        ruleset = ruleset.handle_access(AccessNet::from_all(ABI_WANTED))?;
    }
    let status = ruleset
        .create()?
        .add_rules(path_beneath_rules(HARMLESS, AccessFs::from_write(ABI_WANTED)))?
        .add_rules(places.into_iter().map(Ok::<_, RulesetError>))?
        .add_rules(
            ports.iter().map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp))),
        )?
        .restrict_self()?;
    Ok(Status { ruleset: status.ruleset, landlock: status.landlock })
}

struct Status {
    ruleset: RulesetStatus,
    landlock: LandlockStatus,
}

fn report(config: &CageConfig, status: &Status, cage: &mut Cage) {
    if status.ruleset == RulesetStatus::NotEnforced {
        let why = match status.landlock {
            LandlockStatus::NotEnabled => "Landlock is off: boot with lsm=landlock,… to turn it on",
            _ => "this kernel has no Landlock (Linux 5.13)",
        };
        cage.gaps.push(format!("files and signals are not confined: {why}"));
        return;
    }
    let places: Vec<_> = config.write.iter().map(|path| path.display().to_string()).collect();
    cage.holds.push(match places[..] {
        [] => "writes no files".to_owned(),
        _ => format!("writes beneath {} only", places.join(", ")),
    });
    if let LandlockStatus::Available { effective_abi, .. } = status.landlock {
        let missing: Vec<_> = [
            (ABI::V3, "files elsewhere can be cut short"),
            (ABI::V4, "TCP ports are not confined"),
            (ABI::V6, "processes of the same user can be signalled"),
        ]
        .into_iter()
        .filter(|(abi, _)| {
            effective_abi < *abi && (*abi != ABI::V4 || matches!(config.network, Network::Ports(_)))
        })
        .map(|(_, gap)| gap)
        .collect();
        if !missing.is_empty() {
            cage.gaps
                .push(format!("{}: this kernel's Landlock is older than Linux 6.12", missing.join(", ")));
        }
    }
}
