//! `custodianctl status`.

use custodian_proto::v1;
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
    /// All together.
    token: TokenView,
    tokens: Vec<TokenView>,
    log: LogView,
    siem: Option<SiemView>,
}

#[derive(Serialize)]
struct SiemView {
    received: u64,
    trouble: String,
}

#[derive(Serialize)]
struct LogView {
    name: String,
    checkpoint_size: u64,
    checkpoint_time: Option<String>,
    trouble: String,
    copy: Option<CopyView>,
    witnesses: Vec<WitnessView>,
}

#[derive(Serialize)]
struct WitnessView {
    name: String,
    checkpoint_size: u64,
    cosign_time: Option<String>,
    trouble: String,
}

/// The second place.
#[derive(Serialize)]
struct CopyView {
    record_count: u64,
    trouble: String,
}

#[derive(Serialize)]
struct TokenView {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    drained: bool,
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
        let log = status.log.unwrap_or_default();
        let signed = match log.trouble.as_str() {
            "" => format!("{} records", log.checkpoint_size),
            trouble => format!("{} records only: {trouble}", log.checkpoint_size),
        };
        let wrapping = wrapping_name(token.wrapping());
        let mut facts = vec![
            ("version", status.version.clone()),
            ("running since", local(status.start_time.as_ref())),
            ("records", status.record_count.to_string()),
            ("log", log.name.clone()),
            ("signed for", signed),
            ("second place", log.copy.as_ref().map(second_place).unwrap_or_default()),
            ("token", format!("{} ({})", token.label, token.model)),
            ("token is", state(&token)),
            ("worker restarts", token.worker_restarts.to_string()),
            ("keys", token.key_count.to_string()),
            ("new keys", wrapping),
        ];
        if status.tokens.len() > 1 {
            facts.extend(status.tokens.iter().map(|one| ("", format!("{} is {}", one.name, state(one)))));
        }
        facts.extend(log.witnesses.iter().map(|witness| ("witness", witness_state(witness))));
        facts.extend(status.siem.iter().map(|siem| ("SIEM", siem_state(siem))));
        let view = StatusView {
            version: status.version,
            start_time: rfc3339(status.start_time.as_ref()),
            record_count: status.record_count,
            token: token.into(),
            tokens: status.tokens.into_iter().map(TokenView::from).collect(),
            siem: status.siem.map(|siem| SiemView { received: siem.received, trouble: siem.trouble }),
            log: LogView {
                name: log.name,
                checkpoint_size: log.checkpoint_size,
                checkpoint_time: rfc3339(log.checkpoint_time.as_ref()),
                trouble: log.trouble,
                witnesses: log.witnesses.into_iter().map(WitnessView::from).collect(),
                copy: log
                    .copy
                    .map(|copy| CopyView { record_count: copy.record_count, trouble: copy.trouble }),
            },
        };
        self.style.one(&view, &facts)
    }
}

fn siem_state(siem: &v1::SiemStatus) -> String {
    match siem.trouble.as_str() {
        "" => format!("has received {} records", siem.received),
        trouble => format!("has received {} records; now: {trouble}", siem.received),
    }
}

fn second_place(copy: &v1::LogCopyStatus) -> String {
    match copy.trouble.as_str() {
        "" => format!("{} records", copy.record_count),
        trouble => format!("{} records only: {trouble}", copy.record_count),
    }
}

fn witness_state(witness: &v1::WitnessStatus) -> String {
    let when = match &witness.cosign_time {
        Some(time) => format!("cosigned {} records at {}", witness.checkpoint_size, local(Some(time))),
        None => "has cosigned nothing yet".to_owned(),
    };
    match witness.trouble.as_str() {
        "" => format!("{} {when}", witness.name),
        trouble => format!("{} {when}; now: {trouble}", witness.name),
    }
}

impl From<v1::WitnessStatus> for WitnessView {
    fn from(witness: v1::WitnessStatus) -> Self {
        Self {
            cosign_time: rfc3339(witness.cosign_time.as_ref()),
            name: witness.name,
            checkpoint_size: witness.checkpoint_size,
            trouble: witness.trouble,
        }
    }
}

fn state(token: &v1::TokenStatus) -> String {
    match (token.drained, token.serving) {
        (true, _) => "drained".to_owned(),
        (false, true) => "serving".to_owned(),
        (false, false) => format!("not serving: {}", token.trouble),
    }
}

impl From<v1::TokenStatus> for TokenView {
    fn from(token: v1::TokenStatus) -> Self {
        Self {
            wrapping: wrapping_name(token.wrapping()),
            name: token.name,
            drained: token.drained,
            label: token.label,
            model: token.model,
            serving: token.serving,
            trouble: token.trouble,
            worker_restarts: token.worker_restarts,
            key_count: token.key_count,
        }
    }
}
