//! What can go wrong with a disk.

use std::{env, fs, os::fd::RawFd, thread, time::Duration};

use crate::{CONTROL, FILES};

/// How long a hanging call waits before it looks whether it still is to hang.
const LOOK: Duration = Duration::from_millis(10);

/// One way to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Writing: no space left on the device.
    Full,
    /// Writing: a file system that became read-only, as some do after an error.
    ReadOnly,
    /// Writing: an input/output error.
    BadWrite,
    /// Making durable: an input/output error. What was written may or may not be there.
    BadSync,
    /// Making durable: no answer, as long as this lasts.
    HungSync,
}

/// What a call is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Write,
    Sync,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Full, Self::ReadOnly, Self::BadWrite, Self::BadSync, Self::HungSync];

    /// Its name in the control file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read-only",
            Self::BadWrite => "bad-write",
            Self::BadSync => "bad-sync",
            Self::HungSync => "hung-sync",
        }
    }

    fn now() -> Option<Self> {
        let text = fs::read_to_string(env::var_os(CONTROL)?).ok()?;
        Self::ALL.into_iter().find(|fault| fault.name() == text.trim())
    }
}

/// Waits as long as this call is to hang; the error number that it is to fail with, if any.
pub(crate) fn meet(call: Call, file: RawFd) -> Option<i32> {
    loop {
        let fault = Fault::now()?;
        if !is_ours(file) {
            return None;
        }
        match (fault, call) {
            (Fault::Full, Call::Write) => return Some(libc::ENOSPC),
            (Fault::ReadOnly, Call::Write) => return Some(libc::EROFS),
            (Fault::BadWrite, Call::Write) | (Fault::BadSync, Call::Sync) => return Some(libc::EIO),
            (Fault::HungSync, Call::Sync) => thread::sleep(LOOK),
            _ => return None,
        }
    }
}

fn is_ours(file: RawFd) -> bool {
    let (Ok(path), Some(files)) = (fs::read_link(format!("/proc/self/fd/{file}")), env::var_os(FILES)) else {
        return false;
    };
    path.as_os_str().as_encoded_bytes().starts_with(files.as_encoded_bytes())
}
