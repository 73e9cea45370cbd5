//! A PKCS#11 module that stands before a real one and fails as it is told.
//!
//! | environment | |
//! |---|---|
//! | `FAULTY_MODULE` | path of the real module |
//! | `FAULTY_CONTROL` | a folder; its file [`CONTROL_FILE`] is a [`Control`] in TOML, read again when it is replaced |
//!
//! Calls are counted in files of that folder, so that a worker and the one that replaces it count together: "the third
//! C_Decrypt" happens once, even if it ends the process. What was done is written there, too, before it is done.
//!
//! Out of scope: a wrong plaintext. Nobody but the token could tell it from the right one.

mod code;
mod control;
mod function;
mod module;
mod process;
mod script;

pub use code::{Code, UnknownCode};
pub use control::{Act, Control, Fault, TokenFlag, TokenLie, When};
pub use function::{Function, UnknownFunction};
pub use process::processes;
pub use script::{CONTROL_FILE, Deed, Done, Trouble, calls_so_far, deeds, put};

/// The environment variable with the path of the real module.
pub const REAL_MODULE: &str = "FAULTY_MODULE";

/// The environment variable with the folder that tells what to do.
pub const CONTROL_FOLDER: &str = "FAULTY_CONTROL";
