//! Whom the worker runs as.

use std::fs;

use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::token::StartError;

/// An account of this machine.
#[derive(PartialEq, Eq, Debug)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Becomes this user, if one is given. Says who the worker is now.
///
/// Reads `/etc/passwd` and `/etc/group`: users that a directory service knows have to be in there, too.
pub(super) fn assume(user: Option<&str>) -> Result<String, StartError> {
    let fail = |why: String| StartError::Token(format!("cage.user: {why}"));
    let now = geteuid();
    let Some(user) = user else {
        return Ok(match now {
            Uid::ROOT => "root without capabilities".to_owned(),
            uid => format!("uid {}", uid.as_raw()),
        });
    };
    let read =
        |path: &str| fs::read_to_string(path).map_err(|error| fail(format!("cannot read {path}: {error}")));
    let account = Account::find(user, &read("/etc/passwd")?, &read("/etc/group")?).ok_or_else(|| {
        fail(format!("there is no user {user:?} in /etc/passwd: create it, or correct the name"))
    })?;
    let said = format!("user {} (uid {})", account.name, account.uid);
    if account.uid == now.as_raw() {
        return Ok(said);
    }
    if !now.is_root() {
        return Err(fail(format!(
            "the custodian runs as uid {}, and only root can run the token worker as {user:?}. Start it as root, or \
             leave cage.user out",
            now.as_raw()
        )));
    }
    account.assume().map_err(|error| fail(format!("cannot become {user:?}: {error}")))?;
    Ok(said)
}

impl Account {
    fn find(user: &str, passwd: &str, group: &str) -> Option<Self> {
        let mut entries = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let entry = entries.find(|entry| entry.len() >= 4 && (entry[0] == user || entry[2] == user))?;
        let (name, gid) = (entry[0], entry[3].parse().ok()?);
        let member_of = |line: &str| {
            let fields: Vec<_> = line.split(':').collect();
            let [_, _, number, members] = fields[..] else { return None };
            members.split(',').any(|member| member == name).then(|| number.parse().ok())?
        };
        let mut groups: Vec<u32> = group.lines().filter_map(member_of).collect();
        groups.push(gid);
        groups.sort_unstable();
        groups.dedup();
        Some(Self { name: name.to_owned(), uid: entry[2].parse().ok()?, gid, groups })
    }

    /// For this thread, which is the only one yet.
    fn assume(&self) -> rustix::io::Result<()> {
        let groups: Vec<_> = self.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_or_number_with_all_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n\nhsm:x:990:980::/:/usr/sbin/nologin\n";
        let group = "root:x:0:\nsofthsm:x:970:other,hsm\nhsm:x:980:hsm\nnot:x:960:hsmx\n";
        let hsm = Account { name: "hsm".to_owned(), uid: 990, gid: 980, groups: vec![970, 980] };
        assert_eq!(Account::find("hsm", passwd, group).as_ref(), Some(&hsm));
        assert_eq!(Account::find("990", passwd, group), Some(hsm));
        for nobody in ["hs", "", "980", "x"] {
            assert_eq!(Account::find(nobody, passwd, group), None, "{nobody:?}");
        }
    }
}
