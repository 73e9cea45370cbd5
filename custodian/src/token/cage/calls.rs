//! seccomp: system calls that no PKCS#11 module has a reason to make. They fail with EPERM.

use std::{collections::BTreeMap, env, io};

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use super::{Network, Programs};

/// Other processes' memory, the kernel, mounts, namespaces, keyrings; and ways around the other rules: io_uring makes
/// sockets of its own, and Landlock does not know modes and owners.
const REFUSED: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_personality,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Refused unless programs may be run.
const EXECUTION: &[c_long] = &[libc::SYS_execve, libc::SYS_execveat];

/// The bits of a `clone` that make namespaces.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Types of Internet sockets other than streams.
const NO_STREAM: [libc::c_int; 6] =
    [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_RDM, libc::SOCK_SEQPACKET, libc::SOCK_DCCP, SOCK_PACKET];

/// Obsolete, and still a way to raw packets (packet(7)).
const SOCK_PACKET: libc::c_int = 10;

/// The bits of a socket's type that are its type.
const TYPE_MASK: u64 = 0xf;

/// x86-64 has every system call a second time, and some under numbers of their own (x32).
#[cfg(target_arch = "x86_64")]
mod x32 {
    pub(super) const BIT: libc::c_long = 0x4000_0000;
    pub(super) const EXECUTION: &[libc::c_long] = &[BIT | 520, BIT | 545];
    /// ptrace, kexec_load, process_vm_readv, process_vm_writev
    pub(super) const REFUSED: &[libc::c_long] = &[BIT | 521, BIT | 528, BIT | 539, BIT | 540];
}

/// The rules for each system call; any that matches refuses. None at all: always refused.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Puts the filter in force for this thread and all that it starts.
pub(super) fn filter(network: &Network, programs: Programs) -> io::Result<()> {
    let refused = refused(network, programs).map_err(io::Error::other)?;
    // Its flags are in memory, where a filter cannot see them. Callers fall back to `clone` if it is not there.
    let unseen = in_both_numbers([(libc::SYS_clone3, Vec::new())].into());
    install(unseen, libc::ENOSYS)?;
    install(refused, libc::EPERM)
}

fn install(rules: Rules, error: libc::c_int) -> io::Result<()> {
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    let arch = env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).map_err(io::Error::other)?;
    let program: BpfProgram = filter.try_into().map_err(io::Error::other)?;
    apply_filter(&program).map_err(io::Error::other)
}

fn refused(network: &Network, programs: Programs) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    if programs == Programs::Refused {
        rules.extend(EXECUTION.iter().map(|call| (*call, Vec::new())));
    }
    let namespaces = NAMESPACES.map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        rule([(0, SeccompCmpOp::MaskedEq(flag), flag)])
    });
    rules.insert(libc::SYS_clone, namespaces.into_iter().collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_socket, sockets(network)?);
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "nothing to add"))]
    let mut rules = in_both_numbers(rules);
    #[cfg(target_arch = "x86_64")]
    {
        rules.extend(x32::REFUSED.iter().map(|call| (*call, Vec::new())));
        if programs == Programs::Refused {
            rules.extend(x32::EXECUTION.iter().map(|call| (*call, Vec::new())));
        }
    }
    Ok(rules)
}

/// Which sockets are refused: `socket(family, type, protocol)`.
fn sockets(network: &Network) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let internet = [libc::AF_INET, libc::AF_INET6];
    let families: Vec<libc::c_int> = match network {
        Network::None => vec![libc::AF_UNIX],
        Network::Ports(_) => [libc::AF_UNIX].into_iter().chain(internet).collect(),
        // The C library asks by netlink which addresses there are.
        Network::Any => [libc::AF_UNIX, libc::AF_NETLINK].into_iter().chain(internet).collect(),
    };
    let number = |n: libc::c_int| u64::from(n.unsigned_abs());
    let mut rules = vec![rule(families.iter().map(|family| (0, SeccompCmpOp::Ne, number(*family))))?];
    if matches!(network, Network::Ports(_)) {
        for family in internet.map(number) {
            for kind in NO_STREAM.map(number) {
                let mask = SeccompCmpOp::MaskedEq(TYPE_MASK);
                rules.push(rule([(0, SeccompCmpOp::Eq, family), (1, mask, kind)])?);
            }
            // Landlock confines the ports of TCP, not of SCTP or MPTCP.
            rules.push(rule([
                (0, SeccompCmpOp::Eq, family),
                (2, SeccompCmpOp::Ne, number(libc::IPPROTO_IP)),
                (2, SeccompCmpOp::Ne, number(libc::IPPROTO_TCP)),
            ])?);
        }
    }
    Ok(rules)
}

/// All of these hold: argument, comparison, value. Arguments are looked at as the kernel does: 32 bits.
fn rule(
    conditions: impl IntoIterator<Item = (u8, SeccompCmpOp, u64)>,
) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = conditions
        .into_iter()
        .map(|(argument, compare, value)| {
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)
        })
        .collect::<Result<_, _>>()?;
    SeccompRule::new(conditions)
}

#[cfg(target_arch = "x86_64")]
fn in_both_numbers(rules: Rules) -> Rules {
    rules.into_iter().flat_map(|(call, rules)| [(call, rules.clone()), (call | x32::BIT, rules)]).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn in_both_numbers(rules: Rules) -> Rules {
    rules
}
