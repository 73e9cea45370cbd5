//! The core: what happens between a request and its answer. No network, no token library, no SQL in here.

mod denial;
mod withheld;

pub use denial::{Denial, Fault};
pub use withheld::Withheld;
