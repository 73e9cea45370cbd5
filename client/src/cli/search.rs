//! Which records `custodianctl audit` reads, from where, and how far they are to be believed.

use std::{collections::VecDeque, path::PathBuf};

use custodian_proto::{key::KeyId, v1};
use jiff::Timestamp;

use super::{
    connection::Connection,
    log::Quiet,
    message::note,
    view::{device_name, user_name},
    when::{parse_instant, to_proto},
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    log::{Source, read_log_key, search},
    remote::{WhichKey, audit::Order},
};

/// Which records: those that fit everything given.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArgs {
    /// anna or users/anna
    #[arg(long = "user", value_name = "ID")]
    pub(super) of_user: Option<String>,
    /// laptop-7 or devices/laptop-7
    #[arg(long, value_name = "ID")]
    pub(super) device: Option<String>,
    /// A key's id, the beginning of it, or its label
    #[arg(long = "key", value_name = "KEY")]
    pub(super) of_key: Option<WhichKey>,
    /// SHA-256 of the wrapped key, as envelope inspect shows it: it names the file
    #[arg(long, value_name = "HEX")]
    pub(super) file_sha256: Option<String>,
    /// OK, a refusal's code such as DEVICE_REVOKED, or !OK for all that was not allowed
    #[arg(long, value_name = "CODE")]
    pub(super) outcome: Option<String>,
    /// Unwrap, Login, RevokeDevice …
    #[arg(long, value_name = "NAME")]
    pub(super) operation: Option<String>,
    /// Only attempts to break the glass: asked for, approved, done
    #[arg(long = "break-glass")]
    pub(super) of_break_glass: bool,
    /// From this time on: 2026-11-03T14:05:00Z, 2026-11-03, or how long ago: 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    pub(super) since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    pub(super) until: Option<Timestamp>,
}

impl FilterArgs {
    /// The filter. `find` finds the id of a key that is not given in full.
    pub(super) fn filter(self, find: impl FnOnce(&WhichKey) -> Result<KeyId>) -> Result<v1::RecordFilter> {
        let key = self.of_key.as_ref().map(find).transpose()?;
        Ok(v1::RecordFilter {
            user: self.of_user.as_deref().map(user_name).unwrap_or_default(),
            device: self.device.as_deref().map(device_name).unwrap_or_default(),
            key: key.map(|key| key.resource_name()).unwrap_or_default(),
            wrapped_key_sha256: self.file_sha256.unwrap_or_default().to_ascii_lowercase(),
            operation: self.operation.unwrap_or_default(),
            outcome: self.outcome.unwrap_or_default(),
            break_glass: self.of_break_glass,
            start_time: self.since.map(to_proto),
            end_time: self.until.map(to_proto),
        })
    }
}

/// Where records are read from. By default the custodian's index finds them; what it finds is shown as it was logged.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Proof")]
pub(super) struct ProofArgs {
    /// Read and check the whole log, and search in what was logged: an index could leave out records
    #[arg(long)]
    proven: bool,
    /// With --proven: search this export or second place, offline
    #[arg(long, value_name = "FOLDER", requires = "proven")]
    folder: Option<PathBuf>,
    /// With --proven: the log's public key, the custodian's keys/log.pub
    #[arg(long, value_name = "FILE", env = "CUSTODIAN_LOG_KEY")]
    log_key: Option<PathBuf>,
}

impl ProofArgs {
    /// Hands every record that matches to `found`, oldest first unless it is proven in another order: `order` and `limit` are
    /// what is needed at most. Returns whether more match.
    pub(super) fn read(
        &self,
        (connection, interrupt): (&Connection, &Interrupt),
        filter: FilterArgs,
        (order, limit): (Order, usize),
        mut found: impl FnMut(v1::Record) -> Result<()>,
    ) -> Result<bool> {
        if !self.proven {
            let remote = connection.connect(interrupt)?;
            let filter = filter.filter(|key| remote.key_id(key))?;
            return remote.each_record(&filter, order, limit, &mut found);
        }
        let key = self.log_key.as_deref().ok_or_else(|| {
            Error::new(Kind::Usage, "cannot prove records", "the log's public key is not given")
                .hint("--log-key FILE: the custodian's keys/log.pub")
        })?;
        let key = read_log_key(key)?;
        let remote;
        let (source, filter) = match &self.folder {
            Some(folder) => (Source::Folder(folder), filter.filter(whole_id)?),
            None => {
                remote = connection.connect(interrupt)?;
                let filter = filter.filter(|key| remote.key_id(key))?;
                (Source::Custodian(&remote), filter)
            }
        };
        // Nothing is shown before all of it is proven.
        let (mut kept, mut more) = (VecDeque::new(), false);
        let keep = &mut |record| {
            match order {
                Order::OldestFirst if kept.len() < limit => kept.push_back(record),
                Order::NewestFirst => {
                    kept.push_front(record);
                    more |= kept.len() > limit;
                    kept.truncate(limit);
                }
                Order::OldestFirst => more = true,
            }
            Ok(())
        };
        let proven = search(source, &key, None, &filter, &Quiet(interrupt), keep)?;
        kept.into_iter().try_for_each(found)?;
        note(&format!("proven: these are all among the {} signed records", proven.checkpoint.size));
        Ok(more)
    }
}

fn whole_id(key: &WhichKey) -> Result<KeyId> {
    match key {
        WhichKey::Id(id) => Ok(*id),
        WhichKey::Like(like) => Err(Error::new(
            Kind::Usage,
            format!("cannot find the key {like:?}"),
            "offline there are no labels",
        )
        .hint("give the key's whole id, as records have it")),
    }
}
