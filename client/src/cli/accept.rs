//! Who is accepted as a sender: the flags over the settings.

use std::path::PathBuf;

use custodian_proto::key::KeyId;

use crate::{
    error::{Error, Kind, Result},
    settings::Settings,
    signed::{Accept, AcceptTable, Choice},
};

/// Who is accepted, instead of what the settings say.
#[derive(Debug, clap::Args)]
pub(super) struct AcceptArgs {
    /// Accept only what this signer signed: a certificate (X.509 in PEM or DER; OpenPGP), or the id of an X.509 certificate's
    /// key. May be repeated. Without it, the settings say who is accepted ([accept])
    #[arg(long, value_name = "CERT|KEYID")]
    accept_from: Vec<String>,
    /// Accept what is not signed, too. A signature that is there must be right all the same
    #[arg(long)]
    accept_unsigned: bool,
}

impl AcceptArgs {
    /// Whose signatures count.
    pub(super) fn accept(&self, settings: &Settings) -> Result<Accept> {
        let of_flags = !self.accept_from.is_empty() || self.accept_unsigned;
        let mut table = match &settings.accept {
            Some(table) if table.by_administrator && of_flags => {
                return Err(Error::new(
                    Kind::Usage,
                    "cannot choose who is accepted",
                    "the administrator of this machine settled it ([accept] in /etc/custodian/client.toml)",
                )
                .hint("leave --accept-from and --accept-unsigned out"));
            }
            Some(table) if self.accept_from.is_empty() => table.clone(),
            None if self.accept_from.is_empty() => return Ok(Accept::Anything),
            _ => AcceptTable::default(),
        };
        for from in &self.accept_from {
            match from.strip_prefix("keys/").unwrap_or(from).parse::<KeyId>() {
                Ok(key) => table.keys.push(key.to_string()),
                Err(_) => table.certificates.push(PathBuf::from(from)),
            }
        }
        if self.accept_unsigned {
            table.unsigned = Choice::Allow;
        }
        Accept::load(&table)
    }
}
