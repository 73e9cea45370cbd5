//! What the tests stand on: a custodian of their own, in processes of its own, on a token of its own.
//!
//! A panic in here is a failed test.

mod dev;
mod dice;
mod disk;
mod faults;
mod load;
mod programs;
pub mod scaling;
mod schedule;
mod wire;

pub use dev::{Dev, Person, Start, without_budgets};
pub use dice::Dice;
pub use disk::Disk;
pub use faults::Faults;
pub use faulty_disk::Fault as DiskFault;
pub use faulty_pkcs11::{Act, Code, Control, Deed, Done, Function, TokenFlag, TokenLie, When};
pub use load::{Load, Unwrapped};
pub use programs::{Ran, bin, run, run_with_input};
pub use schedule::Schedule;
pub use wire::{BatchAnswers, Channel, Identity, Released, Wire, reason, sealed_key, unwrap_request};
