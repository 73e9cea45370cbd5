//! The custodian.

fn main() {}
