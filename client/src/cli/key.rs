//! `custodianctl key`.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use custodian_proto::v1;
use der::pem::{LineEnding, encode_string};

use super::{
    connection::Connection,
    extract::reason,
    output::{Style, print},
    view::{KeyView, id_of},
    when::local,
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    remote::WhichKey,
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
        /// Its id, the beginning of it, or its label
        key: WhichKey,
        #[command(flatten)]
        style: Style,
    },
    /// Print its certificate (PEM): give it to whoever seals for you
    Cert {
        /// Its id, the beginning of it, or its label
        key: WhichKey,
        /// A new file instead of standard output
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Generate an RSA key pair in the token
    Create {
        /// Its label, unique: a–z, 0–9 and -
        label: String,
        /// Size of the modulus [default: 3072]
        #[arg(long, value_name = "BITS")]
        bits: Option<Bits>,
        #[command(flatten)]
        style: Style,
    },
    /// Stop unwrapping with a key until it is activated again
    Suspend {
        /// Its id, the beginning of it, or its label
        key: WhichKey,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        style: Style,
    },
    /// Let a suspended key unwrap again
    Activate {
        /// Its id, the beginning of it, or its label
        key: WhichKey,
        #[command(flatten)]
        style: Style,
    },
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
                let views: Vec<_> = keys.iter().map(KeyView::from).collect();
                style.many(&views, &["ID", "LABEL", "STATE", "BITS", "WRAPPING"], |key| {
                    vec![
                        id_of(&key.name).to_owned(),
                        key.label.clone(),
                        key.state.to_owned(),
                        key.modulus_bits.to_string(),
                        key.wrapping.clone(),
                    ]
                })
            }
            Self::Show { key, style } => tell(style, &remote.key(&key)?),
            Self::Cert { key, output } => certificate(&remote.key(&key)?, output.as_deref()),
            Self::Create { label, bits, style } => {
                tell(style, &remote.create_key(&label, bits.map(Bits::count))?)
            }
            Self::Suspend { key, reason, style } => tell(style, &remote.suspend_key(&key, &reason)?),
            Self::Activate { key, style } => tell(style, &remote.activate_key(&key)?),
        }
    }
}

fn tell(style: Style, key: &v1::Key) -> Result<()> {
    let view = KeyView::from(key);
    style.one(
        &view,
        &[
            ("key", key.name.clone()),
            ("label", key.label.clone()),
            ("state", view.state.to_owned()),
            ("modulus", format!("{} bits", key.modulus_bits)),
            ("wrapping", view.wrapping.clone()),
            ("created", local(key.create_time.as_ref())),
        ],
    )
}

fn certificate(key: &v1::Key, output: Option<&Path>) -> Result<()> {
    let what = format!("cannot write the certificate of {}", key.name);
    let pem = encode_string("CERTIFICATE", LineEnding::LF, &key.certificate)
        .map_err(|error| Error::new(Kind::Local, &*what, error))?;
    let Some(path) = output else { return print(&pem).map(drop) };
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(pem.as_bytes()));
    written.map_err(|error| {
        let failed = Error::new(Kind::Local, what, format!("{}: {error}", path.display()));
        if error.kind() == io::ErrorKind::AlreadyExists {
            failed.hint("nothing is overwritten: give another name")
        } else {
            failed
        }
    })
}
