//! How many unwraps a second a custodian can do, what ends first, and what to buy: a model of queues, and a simulation that
//! checks it. `docs/scaling.md` has its results.
//!
//! An unwrap passes these stations, in this order: the processor of the node (TLS, session, policy, permit, record), the token,
//! the commit that makes its record durable, and a second place for the records if there is one. Requests arrive by chance, as
//! from many people who do not know of each other (Poisson).

mod inputs;
mod queues;
mod simulation;
mod tables;

pub use inputs::{Input, Inputs};
pub use queues::{Commits, Servers};
pub use simulation::{Sojourns, arrivals, through_commits, through_servers};
pub use tables::tables;
