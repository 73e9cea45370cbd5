//! People: their own keys on this workstation, and certificates of others, found by e-mail address.

mod certificate;
mod find;
pub mod key_file;
mod pins;

pub use certificate::{NotGood, PersonCertificate};
pub use find::{Directory, Found, Freshness, OnChange, Recipient, recipient};
pub use pins::{Pin, Pins};

#[cfg(test)]
mod tests;
