//! Law 11: every parser of bytes from outside as a plain function. Whatever it is given, it must neither panic, nor take
//! long, nor much memory. `README.md` beside tells how to run it.

mod client;
mod log;
mod pack;
mod server;

/// A parser: anything may be given to it.
pub type Target = fn(&[u8]);

/// All targets, each by the name of its folder of seeds.
pub const TARGETS: [(&str, Target); 27] = [
    ("mtd", client::envelope),
    ("sealed", client::envelope),
    ("sealed_inside", client::sealed_inside),
    ("cipher_key", client::cipher_key),
    ("cms", client::envelope),
    ("smime", client::envelope),
    ("openpgp", client::envelope),
    ("signature", client::signature),
    ("timestamp", client::timestamp),
    ("recipient", client::recipient),
    ("openpgp_recipient", client::openpgp_recipient),
    ("openpgp_signature", client::openpgp_signature),
    ("openpgp_signer", client::openpgp_signer),
    ("openpgp_key", client::openpgp_key),
    ("signer_key", client::signer_key),
    ("person", client::person),
    ("certificates", client::certificates),
    ("approval", client::approval),
    ("checkpoint", log::checkpoint),
    ("tiles", log::tiles),
    ("proofs", log::proofs),
    ("timestamp_query", server::timestamp_query),
    ("csr", server::csr),
    ("certificate", server::certificate),
    ("worker", server::worker),
    ("pkcs11_uri", server::pkcs11_uri),
    ("settings", server::settings),
];

/// Runs the target of this name. Fails if there is none.
pub fn run(name: &str, bytes: &[u8]) {
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => target(bytes),
        None => panic!("there is no target {name}"),
    }
}
