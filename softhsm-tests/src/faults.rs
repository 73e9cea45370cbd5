//! A token that fails as it is told: the worker loads `faulty-pkcs11` before the real module.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use faulty_pkcs11::{CONTROL_FOLDER, Control, Deed, Done, Function, REAL_MODULE};

/// What tells the faulty module before one token what to do.
///
/// The folder survives the custodian, like the configuration that names it.
pub struct Faults {
    folder: PathBuf,
    generation: AtomicU32,
}

impl Faults {
    /// Puts the faulty module before the real one of a `[[token]]` table; its control goes to `folder`.
    pub fn before(token: &mut toml::Table, folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let real = token.insert("module".into(), text(&module())).unwrap();
        let environment = token.entry("environment").or_insert_with(|| toml::Table::new().into());
        let environment = environment.as_table_mut().unwrap();
        environment.insert(REAL_MODULE.into(), real);
        environment.insert(CONTROL_FOLDER.into(), text(&folder));
        // It writes down what it did.
        if let Some(write) = token.get_mut("cage").and_then(|cage| cage.get_mut("write")) {
            write.as_array_mut().unwrap().push(text(&folder));
        }
        Self { folder, generation: AtomicU32::new(0) }
    }

    /// This goes wrong from now on, also in a worker that runs. Calls are counted anew. The number of this control.
    pub fn set(&self, control: Control) -> u32 {
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        faulty_pkcs11::put(&self.folder, &Control { generation, ..control }).unwrap();
        generation
    }

    /// Nothing goes wrong from now on.
    pub fn clear(&self) {
        self.set(Control::default());
    }

    /// What went wrong since the last [`Faults::set`].
    pub fn done(&self) -> Vec<Done> {
        let generation = self.generation.load(Ordering::SeqCst);
        self.deeds_of(generation).into_iter().map(|deed| deed.done).collect()
    }

    /// What went wrong under one control, even after the next was set: and in which process.
    pub fn deeds_of(&self, generation: u32) -> Vec<Deed> {
        faulty_pkcs11::deeds(&self.folder, generation).unwrap()
    }

    /// The workers of this token that are still there, if only as zombies, whoever their parent is.
    pub fn workers(&self) -> Vec<u32> {
        faulty_pkcs11::processes(&self.folder).unwrap()
    }

    /// How often this function, which has faults, was called since the last [`Faults::set`].
    pub fn calls(&self, function: Function) -> u64 {
        faulty_pkcs11::calls_so_far(&self.folder, self.generation.load(Ordering::SeqCst), function).unwrap()
    }
}

fn module() -> PathBuf {
    library("faulty_pkcs11")
}

/// A library built with the tests: it is a dependency of them, so cargo puts it beside them.
pub(crate) fn library(name: &str) -> PathBuf {
    let mut folder = env::current_exe().unwrap();
    folder.pop();
    if !folder.ends_with("deps") {
        folder.push("deps");
    }
    let path = folder.join(format!("lib{name}.so"));
    assert!(path.exists(), "{} is not built: cargo build --workspace", path.display());
    path
}

fn text(path: &Path) -> toml::Value {
    path.to_str().unwrap().into()
}
