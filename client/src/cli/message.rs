//! The end of a command: its message and its exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use super::text::printable;
use crate::error::{Error, Kind, Result};

/// Tells how a command ended.
pub(super) fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

/// Passwords, file keys and plaintext pass through this process.
pub(super) fn no_core_dumps() -> Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        // A kernel that pipes core dumps to a program does not look at the limit.
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(|why| Error::new(Kind::Local, "cannot turn core dumps off", why))
}

/// Tells of a failure on standard error.
pub(super) fn tell(error: &Error) {
    note(&describe(error));
}

/// Writes a line to standard error. Nobody is left to hear about it if that fails.
pub(super) fn note(line: &str) {
    writeln!(io::stderr().lock(), "{line}").ok();
}

fn describe(error: &Error) -> String {
    let mut text = format!("error: {}: {}", printable(&error.what), printable(&error.why));
    if !error.hint.is_empty() {
        text.push_str("\n  try: ");
        text.push_str(&printable(&error.hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn an_error_is_two_lines_whatever_is_in_it() {
        let error = Error::new(Kind::Refused, "cannot open a\nb", "no\x1b[2J").hint("try\nthis");
        let text = describe(&error);
        assert_eq!(text, "error: cannot open a\\u{a}b: no\\u{1b}[2J\n  try: try\\u{a}this");
        assert!(!describe(&Error::new(Kind::Local, "a", "b")).contains("try"));
    }
}
