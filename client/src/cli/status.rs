//! `custodianctl status`.

use serde::Serialize;

use super::{
    connection::Connection,
    output::Style,
    view::wrapping_name,
    when::{local, rfc3339},
};
use crate::{error::Result, interrupt::Interrupt};

/// Show how the custodian is
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    style: Style,
}

#[derive(Serialize)]
struct StatusView {
    version: String,
    start_time: Option<String>,
    record_count: u64,
    token: TokenView,
}

#[derive(Serialize)]
struct TokenView {
    label: String,
    model: String,
    serving: bool,
    trouble: String,
    worker_restarts: u32,
    wrapping: String,
    key_count: u32,
}

impl StatusArgs {
    /// Asks.
    pub(super) fn run(&self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let status = connection.connect(interrupt)?.status()?;
        let token = status.token.unwrap_or_default();
        let wrapping = wrapping_name(token.wrapping());
        let state = match (token.serving, token.trouble.as_str()) {
            (true, _) => "serving".to_owned(),
            (false, trouble) => format!("not serving: {trouble}"),
        };
        let facts = [
            ("version", status.version.clone()),
            ("running since", local(status.start_time.as_ref())),
            ("records", status.record_count.to_string()),
            ("token", format!("{} ({})", token.label, token.model)),
            ("token is", state),
            ("worker restarts", token.worker_restarts.to_string()),
            ("keys", token.key_count.to_string()),
            ("new keys", wrapping.clone()),
        ];
        let view = StatusView {
            version: status.version,
            start_time: rfc3339(status.start_time.as_ref()),
            record_count: status.record_count,
            token: TokenView {
                label: token.label,
                model: token.model,
                serving: token.serving,
                trouble: token.trouble,
                worker_restarts: token.worker_restarts,
                wrapping,
                key_count: token.key_count,
            },
        };
        self.style.one(&view, &facts)
    }
}
