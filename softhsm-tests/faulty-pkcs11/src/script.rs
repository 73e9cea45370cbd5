//! Following the control: whose turn it is, by counting calls over all processes.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{Act, Code, Control, Function, TokenLie};

/// The control, in its folder.
pub const CONTROL_FILE: &str = "control.toml";

/// Why the control cannot be followed. A fault that was ordered and does not happen would let a test pass for nothing.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A file of the folder cannot be used.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// The control is none.
    #[error("{0}: {1}")]
    Control(PathBuf, String),
}

/// One fault that happened, or was just about to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Done {
    /// In which function.
    pub function: Function,
    /// At which call of it.
    pub call: u64,
    /// What.
    pub act: Act,
}

/// One fault, and the process that had it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deed {
    /// What was done.
    #[serde(flatten)]
    pub done: Done,
    /// By which process.
    pub pid: u32,
}

/// One process's view of the control.
pub(crate) struct Script {
    folder: PathBuf,
    state: Mutex<State>,
    sessions: AtomicU32,
}

#[derive(Default)]
struct State {
    /// Held open: as long as it is, no other file gets its number.
    file: Option<File>,
    control: Control,
    /// One byte for each call.
    calls: HashMap<Function, File>,
}

impl Script {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, state: Mutex::default(), sessions: AtomicU32::new(0) }
    }

    /// Counts a call, and says what is to happen. It is written down already.
    pub(crate) fn turn(&self, function: Function) -> Result<Option<Act>, Trouble> {
        let mut state = self.current()?;
        if !state.control.faults.iter().any(|fault| fault.function == function) {
            return Ok(self.limited(&state.control.token, function));
        }
        let call = state.count(&self.folder, function)?;
        let mut faults = state.control.faults.iter();
        let Some(fault) = faults.find(|fault| fault.function == function && fault.when.includes(call)) else {
            return Ok(self.limited(&state.control.token, function));
        };
        let deed = Deed { done: Done { function, call, act: fault.act }, pid: process::id() };
        note(&self.folder, state.control.generation, &deed)?;
        Ok(Some(fault.act))
    }

    /// The real module has done it: sessions are counted.
    pub(crate) fn succeeded(&self, function: Function) {
        match function {
            Function::OpenSession => {
                self.sessions.fetch_add(1, Ordering::SeqCst);
            }
            Function::CloseSession => {
                self.sessions.fetch_sub(1, Ordering::SeqCst);
            }
            // This module is for one token at a time.
            Function::CloseAllSessions | Function::Finalize => self.sessions.store(0, Ordering::SeqCst),
            _ => {}
        }
    }

    /// What the token is to say of itself.
    pub(crate) fn token(&self) -> Result<TokenLie, Trouble> {
        Ok(self.current()?.control.token.clone())
    }

    fn limited(&self, token: &TokenLie, function: Function) -> Option<Act> {
        let most = token.max_sessions.filter(|_| function == Function::OpenSession)?;
        (self.sessions.load(Ordering::SeqCst) >= most).then_some(Act::Return(Code::CKR_SESSION_COUNT))
    }

    /// The control as it is now. That nothing changed costs one `stat`.
    fn current(&self) -> Result<MutexGuard<'_, State>, Trouble> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.folder.join(CONTROL_FILE);
        let there = match fs::metadata(&path) {
            Ok(metadata) => Some(metadata.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Trouble::File(path, error)),
        };
        let known = state.file.as_ref().map(File::metadata).transpose();
        let known = known.map_err(|error| Trouble::File(path.clone(), error))?.map(|known| known.ino());
        if there != known {
            *state = if there.is_some() { State::read(&path)? } else { State::default() };
        }
        Ok(state)
    }
}

impl State {
    fn read(path: &Path) -> Result<Self, Trouble> {
        let mut text = String::new();
        let file = File::open(path).and_then(|mut file| file.read_to_string(&mut text).map(|_| file));
        let file = file.map_err(|error| Trouble::File(path.to_owned(), error))?;
        let control =
            toml::from_str(&text).map_err(|error| Trouble::Control(path.to_owned(), error.to_string()))?;
        Ok(Self { file: Some(file), control, calls: HashMap::new() })
    }

    /// Counts one call. Appending is atomic between processes, and leaves the position behind what was appended.
    fn count(&mut self, folder: &Path, function: Function) -> Result<u64, Trouble> {
        let path = calls_path(folder, self.control.generation, function);
        let trouble = |error| Trouble::File(path.clone(), error);
        let file = match self.calls.entry(function) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(OpenOptions::new().create(true).append(true).open(&path).map_err(trouble)?)
            }
        };
        file.write_all(b".").and_then(|()| file.stream_position()).map_err(trouble)
    }
}

/// Replaces the control of this folder. Atomic: a module sees the old one or this one.
pub fn put(folder: &Path, control: &Control) -> Result<(), Trouble> {
    let path = folder.join(CONTROL_FILE);
    let text = toml::to_string(control).map_err(|error| Trouble::Control(path.clone(), error.to_string()))?;
    let aside = folder.join(format!(".{CONTROL_FILE}.new"));
    let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, &path));
    written.map_err(|error| Trouble::File(path, error))
}

/// How often this function was called under the control of this generation. Only functions with faults are counted.
pub fn calls_so_far(folder: &Path, generation: u32, function: Function) -> Result<u64, Trouble> {
    let path = calls_path(folder, generation, function);
    match fs::metadata(&path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Trouble::File(path, error)),
    }
}

/// The faults that happened under the control of this generation, in order.
pub fn deeds(folder: &Path, generation: u32) -> Result<Vec<Deed>, Trouble> {
    let path = deeds_path(folder, generation);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Trouble::File(path, error)),
    };
    let deeds = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    deeds.map_err(|error| Trouble::Control(path, error.to_string()))
}

/// Writes a deed down, in one piece.
fn note(folder: &Path, generation: u32, deed: &Deed) -> Result<(), Trouble> {
    let path = deeds_path(folder, generation);
    let mut line =
        serde_json::to_string(deed).map_err(|error| Trouble::Control(path.clone(), error.to_string()))?;
    line.push('\n');
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|error| Trouble::File(path, error))
}

fn calls_path(folder: &Path, generation: u32, function: Function) -> PathBuf {
    folder.join(format!("calls.{generation}.{}", function.name()))
}

fn deeds_path(folder: &Path, generation: u32) -> PathBuf {
    folder.join(format!("deeds.{generation}"))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::When;

    const DECRYPT: Function = Function::Decrypt;

    fn control(generation: u32, when: When, act: Act) -> Control {
        Control { generation, ..Control::default() }.fault(DECRYPT, when, act)
    }

    #[test]
    fn without_a_control_nothing_goes_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let script = Script::new(folder.path().to_owned());
        assert_eq!(script.turn(DECRYPT).unwrap(), None);
        assert_eq!(script.token().unwrap(), TokenLie::default());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn calls_are_counted_over_threads_and_processes() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), &control(1, When::Calls { from: 100, to: Some(102) }, Act::Hang)).unwrap();
        // What one process has, another has too: a script of its own.
        let scripts = [(); 4].map(|()| Script::new(folder.path().to_owned()));
        let fired: usize = thread::scope(|scope| {
            let threads: Vec<_> = (scripts.iter().cycle().take(8))
                .map(|script| {
                    scope.spawn(|| (0..50).filter(|_| script.turn(DECRYPT).unwrap().is_some()).count())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(fired, 3);
        assert_eq!(calls_so_far(folder.path(), 1, DECRYPT).unwrap(), 400);
        let mut calls: Vec<_> = deeds(folder.path(), 1).unwrap().iter().map(|deed| deed.done.call).collect();
        calls.sort_unstable();
        assert_eq!(calls, [100, 101, 102]);
    }

    #[test]
    fn a_new_control_holds_from_the_next_call_on_and_counts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let script = Script::new(folder.path().to_owned());
        for generation in 1..=20 {
            put(folder.path(), &control(generation, When::Call(2), Act::DelayMs(generation.into()))).unwrap();
            assert_eq!(script.turn(DECRYPT).unwrap(), None);
            assert_eq!(script.turn(DECRYPT).unwrap(), Some(Act::DelayMs(generation.into())));
            assert_eq!(script.turn(DECRYPT).unwrap(), None);
        }
        put(folder.path(), &Control { generation: 21, ..Control::default() }).unwrap();
        assert_eq!(script.turn(DECRYPT).unwrap(), None);
        fs::remove_file(folder.path().join(CONTROL_FILE)).unwrap();
        assert_eq!(script.turn(DECRYPT).unwrap(), None);
    }

    #[test]
    fn a_control_that_is_none_is_an_error_and_never_no_fault() {
        let folder = tempfile::tempdir().unwrap();
        let script = Script::new(folder.path().to_owned());
        for nonsense in ["fault = 1", "unknown = true", "[[fault]]\nfunction = \"C_None\"\nwhen = \"every\""]
        {
            let aside = folder.path().join("aside");
            fs::write(&aside, nonsense).unwrap();
            fs::rename(&aside, folder.path().join(CONTROL_FILE)).unwrap();
            assert!(matches!(script.turn(DECRYPT), Err(Trouble::Control(..))), "{nonsense}");
        }
    }

    #[test]
    fn the_limit_of_sessions_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let token = TokenLie { max_sessions: Some(2), ..TokenLie::default() };
        put(folder.path(), &Control::default().token(token)).unwrap();
        let script = Script::new(folder.path().to_owned());
        let open = || {
            let act = script.turn(Function::OpenSession).unwrap();
            if act.is_none() {
                script.succeeded(Function::OpenSession);
            }
            act
        };
        let full = Some(Act::Return(Code::CKR_SESSION_COUNT));
        assert_eq!([open(), open(), open()], [None, None, full]);
        script.succeeded(Function::CloseSession);
        assert_eq!([open(), open()], [None, full]);
        script.succeeded(Function::Finalize);
        assert_eq!([open(), open(), open()], [None, None, full]);
    }
}
