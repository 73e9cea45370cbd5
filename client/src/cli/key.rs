//! `custodianctl key`.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use custodian_proto::{key::KeyId, limits::MAX_NONCE_LEN, v1};
use der::pem::{LineEnding, encode_string};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    attest,
    connection::Connection,
    extract::reason,
    message::note,
    output::{Style, print},
    seal::certificate as read_certificate,
    token::token_name,
    view::{KeyView, UnwrappedView, id_of},
    when::{local, parse_future},
};
use crate::{
    envelope::openpgp::armored_certificate,
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    remote::{ImportFrom, NewKey, WhichKey, full_label},
};

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// List them
    Ls {
        #[command(flatten)]
        style: Style,
    },
    /// Show one
    Show {
        /// Its label (with its version: invoices@2), id or the beginning of it
        key: WhichKey,
        #[command(flatten)]
        style: Style,
    },
    /// Print its certificate (PEM): give it to whoever seals for you
    #[command(visible_alias = "export")]
    Cert {
        /// Its label (the newest active version), id or the beginning of it
        key: WhichKey,
        /// A new file instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The OpenPGP certificate, armoured, of a key that was made for OpenPGP, or to sign with ECDSA. Its signatures are made now, and
        /// recorded
        #[arg(long)]
        openpgp: bool,
    },
    /// Generate a key pair in the token
    Create {
        /// Its label, unique: a–z, 0–9 and -
        label: String,
        /// Size of the modulus [default: 3072]
        #[arg(long, value_name = "BITS")]
        bits: Option<Bits>,
        /// What to make it for; it does nothing else
        #[arg(long = "use", value_name = "USE", default_value = "seal", conflicts_with = "openpgp")]
        usage: Use,
        /// As --use openpgp
        #[arg(long)]
        openpgp: bool,
        /// In which token, if there are several: see custodianctl token ls [default: the first that serves]
        #[arg(long, value_name = "NAME")]
        token: Option<String>,
        /// Leave it pre-active until it is activated
        #[arg(long)]
        pre_active: bool,
        /// From when it is sealed to, or signs: 2026-11-03, or how long from now: 7d. It becomes active then [default: now]
        #[arg(long, value_name = "TIME", value_parser = parse_future)]
        wrap_from: Option<Timestamp>,
        #[command(flatten)]
        ends: Ends,
        #[command(flatten)]
        style: Style,
    },
    /// Generate its next version; nothing new is sealed to the one before, which still opens what was
    Rotate {
        /// Its label
        label: String,
        /// Size of the modulus [default: as before]
        #[arg(long, value_name = "BITS")]
        bits: Option<Bits>,
        #[command(flatten)]
        ends: Ends,
        #[command(flatten)]
        style: Style,
    },
    /// Take up a key pair that was made in the token by ceremony
    Import {
        /// Its label; one that is in use gets its next version
        label: String,
        /// A certificate of the key, which senders have or will have
        #[arg(long, value_name = "FILE", required_unless_present = "id", conflicts_with = "id")]
        cert: Option<PathBuf>,
        /// The key's id, as key unused shows it; the custodian's CA certifies it
        #[arg(long, value_name = "ID")]
        id: Option<KeyId>,
        /// Leave it pre-active until it is activated
        #[arg(long)]
        pre_active: bool,
        /// Until when it unwraps [default: no end]
        #[arg(long, value_name = "TIME", value_parser = parse_future)]
        unwrap_until: Option<Timestamp>,
        #[command(flatten)]
        style: Style,
    },
    /// List the key pairs in the token that can be imported
    Unused {
        #[command(flatten)]
        style: Style,
    },
    /// Say what the token says of a key, signed with the CA's key: docs/formats/attestation.md
    Attest {
        /// Its label (with its version: invoices@2), id or the beginning of it
        key: WhichKey,
        /// Your own number, to show that the statement is new: up to 64 bytes in hex [default: 16 random bytes]
        #[arg(long, value_name = "HEX", value_parser = parse_nonce)]
        nonce: Option<Nonce>,
        /// A new file for the statement; the signature goes to FILE.sig [default: both to standard output, as JSON]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Let a pre-active key begin, or a suspended one unwrap again
    Activate {
        /// Its label (with its version: invoices@2), id or the beginning of it
        key: WhichKey,
        #[command(flatten)]
        style: Style,
    },
    /// Stop unwrapping with a key until it is activated again
    Suspend {
        /// Its label (with its version: invoices@2), id or the beginning of it
        key: WhichKey,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// End sealing to a key for good; what was sealed to it still opens
    Deactivate {
        /// Its label (with its version: invoices@2), id or the beginning of it
        key: WhichKey,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// Set until when a key unwraps
    Limit {
        /// Its label (with its version: invoices@2), id or the beginning of it
        key: WhichKey,
        /// Until when: 2026-11-03, or how long from now: 365d, 2y; or never, for no end
        #[arg(long, value_name = "TIME", value_parser = parse_limit)]
        unwrap_until: Limit,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// Stop a key for good because somebody else may have it: once this returns, no file key leaves
    Compromise {
        /// Its label (with its version: invoices@2), id or the beginning of it
        key: WhichKey,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// Destroy a key in the token, for ever: nothing sealed to it opens any more
    Destroy {
        /// Its label (with its version: invoices@2), id or the beginning of it
        key: WhichKey,
        /// Its label once more: there is no way back
        #[arg(long, value_name = "LABEL")]
        confirm: String,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// List every file key that was ever unwrapped with it
    Unwrapped {
        /// Its label (with its version: invoices@2), id or the beginning of it
        key: WhichKey,
        #[command(flatten)]
        style: Style,
    },
}

/// Bytes that nobody said before.
#[derive(Clone, Debug)]
pub(super) struct Nonce(Vec<u8>);

fn parse_nonce(text: &str) -> std::result::Result<Nonce, String> {
    let nonce = hex::decode(text).map_err(|error| error.to_string())?;
    if nonce.len() > MAX_NONCE_LEN { Err("it is longer than 64 bytes".to_owned()) } else { Ok(Nonce(nonce)) }
}

/// When a new key's periods end.
#[derive(Debug, clap::Args)]
pub(super) struct Ends {
    /// Until when it is sealed to, or signs: 2026-11-03, or how long from now: 365d, 2y [default: the custodian's]
    #[arg(long, value_name = "TIME", value_parser = parse_future)]
    wrap_until: Option<Timestamp>,
    /// Until when it unwraps [default: no end]
    #[arg(long, value_name = "TIME", value_parser = parse_future)]
    unwrap_until: Option<Timestamp>,
}

/// Until when a key unwraps; `None`: no end. A type of its own, since an option of clap is one that is not given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(Option<Timestamp>);

fn parse_limit(text: &str) -> std::result::Result<Limit, String> {
    if text == "never" { Ok(Limit(None)) } else { parse_future(text).map(|time| Limit(Some(time))) }
}

/// Modulus sizes that wrapping keys may have ([`custodian_proto::limits::MODULUS_BITS`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Bits {
    #[value(name = "2048")]
    Rsa2048,
    #[value(name = "3072")]
    Rsa3072,
    #[value(name = "4096")]
    Rsa4096,
}

/// What a key is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Use {
    /// To be sealed to (RSA-OAEP), by all formats but OpenPGP
    Seal,
    /// To be encrypted to by OpenPGP programs
    Openpgp,
    /// To be sealed to with PKCS #1 v1.5, by S/MIME programs that do not know OAEP
    Pkcs1,
    /// To sign, with RSA-PSS
    Sign,
    /// To sign, with ECDSA on P-256
    SignEcdsa,
    /// To sign timestamps (RFC 3161), with ECDSA on P-256
    Timestamp,
}

impl From<Use> for v1::KeyUse {
    fn from(usage: Use) -> Self {
        match usage {
            Use::Seal => Self::Oaep,
            Use::Openpgp => Self::Openpgp,
            Use::Pkcs1 => Self::Pkcs1,
            Use::Sign => Self::Sign,
            Use::SignEcdsa => Self::SignEcdsa,
            Use::Timestamp => Self::Timestamp,
        }
    }
}

impl Bits {
    fn count(self) -> u32 {
        match self {
            Self::Rsa2048 => 2048,
            Self::Rsa3072 => 3072,
            Self::Rsa4096 => 4096,
        }
    }
}

impl KeyCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let remote = connection.connect(interrupt)?;
        match self {
            Self::Ls { style } => {
                let keys = remote.keys()?;
                let views: Vec<_> = keys.iter().map(Listed::from).collect();
                let header =
                    ["ID", "LABEL", "STATE", "BITS", "USE", "WRAPPING", "SEALED TO UNTIL", "UNWRAPS UNTIL"];
                style.many(&views, &header, |Listed { view, key }| {
                    vec![
                        id_of(&key.name).to_owned(),
                        full_label(key),
                        view.state.to_owned(),
                        key.modulus_bits.to_string(),
                        view.usage.to_owned(),
                        view.wrapping.clone(),
                        local(key.wrap_end_time.as_ref()),
                        local(key.unwrap_end_time.as_ref()),
                    ]
                })
            }
            Self::Show { key, style } => tell(style, &remote.key(&key)?),
            Self::Cert { key, output, openpgp: false } => {
                certificate(&remote.key_to_seal_to(&key)?, output.as_deref())
            }
            Self::Cert { key, output, openpgp: true } => {
                let found = remote.key_to_seal_to(&key)?;
                let name = found.name;
                if v1::KeyUse::try_from(found.r#use) == Ok(v1::KeyUse::Sign) {
                    let why = "it signs with RSA-PSS, and OpenPGP with RSA in PKCS #1 v1.5 only";
                    let what = format!("cannot certify {name} for OpenPGP");
                    return Err(Error::new(Kind::Usage, what, why)
                        .hint("make one for ECDSA: custodianctl key create LABEL --use sign-ecdsa"));
                }
                let armoured = armored_certificate(&remote.openpgp_certificate(&name)?);
                write_certificate(&name, &armoured, output.as_deref())
            }
            Self::Create { label, bits, usage, openpgp, token, pre_active, wrap_from, ends, style } => {
                let usage = if openpgp { Use::Openpgp } else { usage }.into();
                let token = token.map(|name| token_name(&name));
                let new = NewKey { pre_active, usage, token, wrap_start: wrap_from, ..ends.new_key(bits) };
                tell(style, &remote.create_key(&label, &new)?)
            }
            Self::Rotate { label, bits, ends, style } => {
                tell(style, &remote.rotate_key(&label, &ends.new_key(bits))?)
            }
            Self::Import { label, cert, id, pre_active, unwrap_until, style } => {
                let source = match (cert, id) {
                    (Some(path), _) => ImportFrom::Certificate(read_certificate(&path)?),
                    (None, Some(id)) => ImportFrom::Key(id),
                    // The command line has one of them.
                    (None, None) => {
                        return Err(Error::new(Kind::Usage, "cannot import", "give --cert or --id"));
                    }
                };
                let new = NewKey { pre_active, unwrap_end: unwrap_until, ..NewKey::default() };
                tell(style, &remote.import_key(&label, &source, &new)?)
            }
            Self::Unused { style } => list_unused(style, &remote.unused_keys()?),
            Self::Attest { key, nonce, out } => attest::run(&remote, &key, nonce.map(|nonce| nonce.0), out),
            Self::Activate { key, style } => tell(style, &remote.activate_key(&key)?),
            Self::Suspend { key, reason, style } => tell(style, &remote.suspend_key(&key, &reason)?),
            Self::Deactivate { key, reason, style } => tell(style, &remote.deactivate_key(&key, &reason)?),
            Self::Limit { key, unwrap_until, reason, style } => {
                tell(style, &remote.limit_key(&key, unwrap_until.0, &reason)?)
            }
            Self::Compromise { key, reason, style } => {
                let compromised = remote.compromise_key(&key, &reason)?;
                let id = id_of(&compromised.name).to_owned();
                tell(style, &compromised)?;
                note(&format!("what it had unwrapped: custodianctl key unwrapped {id}"));
                Ok(())
            }
            Self::Destroy { key, confirm, reason, style } => {
                tell(style, &remote.destroy_key(&key, &confirm, &reason)?)
            }
            Self::Unwrapped { key, style } => list_unwrapped(style, &remote.unwrapped(&key)?),
        }
    }
}

impl Ends {
    fn new_key(&self, bits: Option<Bits>) -> NewKey {
        NewKey {
            modulus_bits: bits.map(Bits::count),
            wrap_end: self.wrap_until,
            unwrap_end: self.unwrap_until,
            ..NewKey::default()
        }
    }
}

/// A key with its JSON beside it.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    view: KeyView,
    #[serde(skip)]
    key: &'a v1::Key,
}

impl<'a> From<&'a v1::Key> for Listed<'a> {
    fn from(key: &'a v1::Key) -> Self {
        Self { view: key.into(), key }
    }
}

/// A key pair in the token.
#[derive(Serialize)]
struct UnusedView<'a> {
    name: &'a str,
    token_label: &'a str,
    modulus_bits: u32,
    uris: &'a [String],
}

fn list_unused(style: Style, found: &v1::ListUnusedKeysResponse) -> Result<()> {
    let keys = found.keys.iter().map(|key| UnusedView {
        name: &key.name,
        token_label: &key.token_label,
        modulus_bits: key.modulus_bits,
        uris: &key.uris,
    });
    style.many(&keys.collect::<Vec<_>>(), &["ID", "LABEL IN THE TOKEN", "BITS", "URI"], |key| {
        vec![
            id_of(key.name).to_owned(),
            key.token_label.to_owned(),
            key.modulus_bits.to_string(),
            key.uris.join(" "),
        ]
    })?;
    for reason in &found.unserved {
        note(&format!("not served: {reason}"));
    }
    Ok(())
}

/// A released file key with its JSON beside it.
#[derive(Serialize)]
struct Released<'a> {
    #[serde(flatten)]
    view: UnwrappedView,
    #[serde(skip)]
    unwrapped: &'a v1::Unwrapped,
}

fn list_unwrapped(style: Style, unwrapped: &[v1::Unwrapped]) -> Result<()> {
    let listed: Vec<_> =
        unwrapped.iter().map(|unwrapped| Released { view: unwrapped.into(), unwrapped }).collect();
    let header =
        ["SEQ", "TIME", "USER", "DEVICE", "FILE (CLAIMED)", "REASON (CLAIMED)", "WRAPPED KEY SHA-256"];
    style.many(&listed, &header, |Released { view, unwrapped }| {
        let claims = view.claims.as_ref();
        vec![
            view.sequence.to_string(),
            local(unwrapped.time.as_ref()),
            id_of(&view.user).to_owned(),
            id_of(&view.device).to_owned(),
            claims.map(|claims| claims.file_name.clone()).unwrap_or_default(),
            claims.map(|claims| claims.reason.clone()).unwrap_or_default(),
            view.wrapped_key_sha256.clone(),
        ]
    })
}

fn tell(style: Style, key: &v1::Key) -> Result<()> {
    let view = KeyView::from(key);
    let signs = key.wrapping() == v1::KeyWrapping::Unspecified;
    let unwraps = match &key.unwrap_end_time {
        _ if signs => String::new(),
        Some(end) => format!("until {}", local(Some(end))),
        None => "without end".to_owned(),
    };
    let modulus = match key.modulus_bits {
        0 => "none: it is on the curve P-256".to_owned(),
        bits => format!("{bits} bits"),
    };
    let (from, until) =
        if signs { ("signs from", "signs until") } else { ("sealed to from", "sealed to until") };
    style.one(
        &view,
        &[
            ("key", key.name.clone()),
            ("label", full_label(key)),
            ("state", view.state.to_owned()),
            ("modulus", modulus),
            ("made to", view.usage.to_owned()),
            ("wrapping", view.wrapping.clone()),
            ("OpenPGP fingerprint", view.openpgp_fingerprint.clone().unwrap_or_default()),
            (from, local(key.wrap_start_time.as_ref())),
            (until, local(key.wrap_end_time.as_ref())),
            ("unwraps", unwraps),
            ("created", local(key.create_time.as_ref())),
            ("changed", local(key.update_time.as_ref())),
            ("reason", key.reason.clone()),
            ("in the token", key.uris.join(" ")),
        ],
    )
}

fn certificate(key: &v1::Key, output: Option<&Path>) -> Result<()> {
    if key.r#use() == v1::KeyUse::Openpgp {
        let why = "the key was made for OpenPGP, and nothing but OpenPGP can be sealed to it";
        return Err(Error::new(Kind::Usage, format!("cannot print the certificate of {}", key.name), why)
            .hint("give --openpgp, too"));
    }
    let pem = encode_string("CERTIFICATE", LineEnding::LF, &key.certificate).map_err(|error| {
        Error::new(Kind::Local, format!("cannot write the certificate of {}", key.name), error)
    })?;
    write_certificate(&key.name, &pem, output)
}

fn write_certificate(of_key: &str, text: &str, output: Option<&Path>) -> Result<()> {
    let Some(path) = output else { return print(text).map(drop) };
    write_new(path, text.as_bytes(), format!("cannot write the certificate of {of_key}"))
}

/// Writes a file that must not exist yet.
pub(super) fn write_new(path: &Path, content: &[u8], what: String) -> Result<()> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(content));
    written.map_err(|error| {
        let failed = Error::new(Kind::Local, what, format!("{}: {error}", path.display()));
        if error.kind() == io::ErrorKind::AlreadyExists {
            failed.hint("nothing is overwritten: give another name")
        } else {
            failed
        }
    })
}
