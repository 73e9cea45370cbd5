//! The promises of the MTD format, from outside: seal and extract as the command line uses them.

mod common;
mod peers;
