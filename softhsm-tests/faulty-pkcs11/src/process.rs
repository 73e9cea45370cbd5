//! Which processes have the module loaded: noted when they load it, since the environment of a worker is not for others.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
    process,
};

/// The list, in the control's folder: one `PID START` a line.
const LIST: &str = "processes";

/// Notes this process down.
pub(crate) fn note_me(folder: &Path) -> io::Result<()> {
    let pid = process::id();
    let started = started(pid).ok_or_else(|| io::Error::other("/proc does not know this process"))?;
    let mut list = OpenOptions::new().create(true).append(true).open(folder.join(LIST))?;
    list.write_all(format!("{pid} {started}\n").as_bytes())
}

/// The processes that have loaded the module with this folder and are still there, if only as zombies.
pub fn processes(folder: &Path) -> io::Result<Vec<u32>> {
    let list = match fs::read_to_string(folder.join(LIST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list?,
    };
    let known = list.lines().filter_map(|line| {
        let (pid, start) = line.split_once(' ')?;
        Some((pid.parse().ok()?, start.parse().ok()?))
    });
    // Another process may have the number by now.
    Ok(known.filter(|(pid, start)| started(*pid) == Some(*start)).map(|(pid, _)| pid).collect())
}

/// When a process started, in ticks since boot (proc(5), `starttime`).
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; the second, the name, ends with the last parenthesis and may contain anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_are_gone_are_not_there() {
        let folder = tempfile::tempdir().unwrap();
        assert!(processes(folder.path()).unwrap().is_empty());
        let mut child = process::Command::new("true").spawn().unwrap();
        let (gone, start) = (child.id(), started(child.id()).unwrap());
        note_me(folder.path()).unwrap();
        let list = folder.path().join(LIST);
        // The child; and this process' number, when it was another's.
        let more = format!("{gone} {start}\n{} 1\n", process::id());
        fs::write(&list, fs::read_to_string(&list).unwrap() + &more).unwrap();
        assert!(
            processes(folder.path()).unwrap().contains(&gone),
            "it is there until somebody has waited for it"
        );
        child.wait().unwrap();
        assert_eq!(processes(folder.path()).unwrap(), [process::id()]);
    }
}
