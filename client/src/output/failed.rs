//! What a person can do when the system says no.

use std::io;

use rustix::io::Errno;

use crate::error::{Error, Kind};

/// A failed system call, with the next thing to try.
pub(crate) fn failed(what: impl Into<String>, why: &io::Error) -> Error {
    if Errno::from_io_error(why) == Some(Errno::LOOP) {
        return Error::new(Kind::Local, what, "it is a symbolic link now, and links are not followed");
    }
    let hint = match why.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: make room or choose another folder; nothing was left behind"
        }
        io::ErrorKind::FileTooLarge => "the file is larger than is allowed here; choose another folder",
        io::ErrorKind::ReadOnlyFilesystem => "this file system is read-only: choose another folder",
        io::ErrorKind::PermissionDenied => "check the permissions, or choose another folder",
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::BrokenPipe => "whoever read the output went away",
        _ => "",
    };
    Error::new(Kind::Local, what, why).hint(hint)
}
