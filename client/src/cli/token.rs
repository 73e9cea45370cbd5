//! `custodianctl token`.

use clap::Subcommand;
use custodian_proto::v1;
use serde::Serialize;

use super::{
    connection::Connection,
    extract::reason,
    output::Style,
    view::{id_of, wrapping_name},
    when::{local, rfc3339},
};
use crate::{error::Result, interrupt::Interrupt, remote::IfLast};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// List them: what serves, what is drained, what is under way
    Ls {
        #[command(flatten)]
        style: Style,
    },
    /// Take one out of service for maintenance: it gets no operations, also after a restart, until it is resumed
    Drain {
        /// Its name in the configuration
        name: String,
        /// Why; recorded
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: String,
        /// Even if no other token serves a key of it: nobody can use that key then
        #[arg(long)]
        even_if_last: bool,
        #[command(flatten)]
        style: Style,
    },
    /// Put a drained one into service again
    Resume {
        /// Its name in the configuration
        name: String,
        #[command(flatten)]
        style: Style,
    },
}

#[derive(Serialize)]
struct TokenView {
    name: String,
    state: &'static str,
    trouble: String,
    uri: String,
    label: String,
    model: String,
    wrapping: String,
    keys: Vec<String>,
    workers: u32,
    serving_workers: u32,
    worker_restarts: u32,
    under_way: u32,
    drain_reason: String,
    drain_time: Option<String>,
}

impl TokenCommand {
    pub(super) fn run(self, connection: &Connection, interrupt: &Interrupt) -> Result<()> {
        let remote = connection.connect(interrupt)?;
        match self {
            Self::Ls { style } => {
                let tokens = remote.tokens()?;
                let views: Vec<_> = tokens.iter().map(TokenView::from).collect();
                let header = ["NAME", "STATE", "KEYS", "WORKERS", "RESTARTS", "UNDER WAY", "LABEL", "WHY"];
                style.many(&views, &header, |token| {
                    vec![
                        id_of(&token.name).to_owned(),
                        token.state.to_owned(),
                        token.keys.len().to_string(),
                        format!("{} of {}", token.serving_workers, token.workers),
                        token.worker_restarts.to_string(),
                        token.under_way.to_string(),
                        token.label.clone(),
                        if token.drain_reason.is_empty() { &token.trouble } else { &token.drain_reason }
                            .clone(),
                    ]
                })
            }
            Self::Drain { name, reason, even_if_last, style } => {
                let if_last = if even_if_last { IfLast::DrainAllTheSame } else { IfLast::Refuse };
                tell(style, &remote.drain_token(&token_name(&name), &reason, if_last)?)
            }
            Self::Resume { name, style } => tell(style, &remote.resume_token(&token_name(&name))?),
        }
    }
}

/// `hsm-1` or `tokens/hsm-1` → `tokens/hsm-1`.
pub(super) fn token_name(text: &str) -> String {
    format!("tokens/{}", text.strip_prefix("tokens/").unwrap_or(text))
}

fn tell(style: Style, token: &v1::Token) -> Result<()> {
    let view = TokenView::from(token);
    let next = match token.state() {
        v1::TokenState::Drained => "nothing is under way on it: maintenance may begin",
        v1::TokenState::Draining => "wait until custodianctl token ls says drained",
        _ => "",
    };
    style.one(
        &view,
        &[
            ("token", token.name.clone()),
            ("state", view.state.to_owned()),
            ("trouble", token.trouble.clone()),
            ("uri", token.uri.clone()),
            ("model", token.model.clone()),
            ("keys", token.keys.len().to_string()),
            ("workers", format!("{} of {} serve", token.serving_worker_count, token.worker_count)),
            ("under way", token.under_way.to_string()),
            ("drained since", local(token.drain_time.as_ref())),
            ("reason", token.drain_reason.clone()),
            ("next", next.to_owned()),
        ],
    )
}

impl From<&v1::Token> for TokenView {
    fn from(token: &v1::Token) -> Self {
        Self {
            name: token.name.clone(),
            state: match token.state() {
                v1::TokenState::Serving => "serving",
                v1::TokenState::Away => "away",
                v1::TokenState::Draining => "draining",
                v1::TokenState::Drained => "drained",
                v1::TokenState::Unspecified => "unknown",
            },
            trouble: token.trouble.clone(),
            uri: token.uri.clone(),
            label: token.label.clone(),
            model: token.model.clone(),
            wrapping: wrapping_name(token.wrapping()),
            keys: token.keys.clone(),
            workers: token.worker_count,
            serving_workers: token.serving_worker_count,
            worker_restarts: token.worker_restarts,
            under_way: token.under_way,
            drain_reason: token.drain_reason.clone(),
            drain_time: rfc3339(token.drain_time.as_ref()),
        }
    }
}
