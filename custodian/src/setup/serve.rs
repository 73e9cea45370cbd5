//! `custodian serve`: parts, network, signals.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{Parts, parts::Reloadable};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    api::Api,
    config::Config,
    server::{self, ServerLimits},
    token::Token as _,
    trouble::Trouble,
};

/// Largest request for health and reflection, in bytes.
const SMALL: usize = 1_024;

/// File descriptors for everything but connections.
const OTHER_FILES: u64 = 256;

/// How long calls that were begun may take to end after the last connection.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT, then lets open calls end. `ready` is told the address once calls are answered.
///
/// `listen_on` goes before the configuration's `listen`.
pub async fn serve(
    path: &Path,
    listen_on: Option<SocketAddr>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), Trouble> {
    let config = Config::read(path)?;
    let listener = listen(listen_on.unwrap_or(config.listen)).await?;
    let address = listener.local_addr().map_err(|error| Trouble::new("cannot listen", error))?;
    // Handled from here on: a signal during the start must not kill a process that asks for a PIN.
    let (stop, hangup) = (Stop::new()?, handle(SignalKind::hangup())?);
    let mut parts = Parts::assemble(&config).await?;
    let shutdown = parts.shutdown.clone();
    let stop_on_signal = tokio::spawn(stop.cancels(shutdown.clone()));
    let reload = tokio::spawn(reload_on(hangup, path.to_owned(), parts.reloadable()));
    let routes = routes(&parts, config.reflection, &shutdown)?;
    let no_more_records = CancellationToken::new();
    let signing = tokio::spawn(Arc::clone(&parts.log).keep_signing(no_more_records.clone()));
    let streaming = parts.siem.take().map(|siem| tokio::spawn(siem.keep_sending(shutdown.clone())));
    let refresh = config.cosigners_within / 3;
    let cosigning = tokio::spawn(Arc::clone(&parts.log).keep_cosigned(refresh, shutdown.clone()));
    let no_more_checkpoints = CancellationToken::new();
    let copying = parts.copier.take().map(|copier| copier.start(no_more_checkpoints.clone())).transpose();
    let copying = copying.map_err(|error| Trouble::new("cannot copy the log", error))?;
    let api = parts.api.clone();
    tracing::info!(%address, "serving");
    ready(address);
    let served = server::serve(
        listener,
        parts.tls.subscribe(),
        Arc::clone(&parts.ledger),
        routes,
        move || api.turned_away(),
        ServerLimits { connections: connections(config.server_limits.connections), ..config.server_limits },
        shutdown,
    )
    .await;
    stop_on_signal.abort();
    reload.abort();
    // What callers that hung up had begun needs the tokens to its end.
    if !parts.api.until_idle(LAST_CALLS).await {
        tracing::warn!("some calls that nobody waits for did not end in time");
    }
    no_more_records.cancel();
    if let Err(error) = signing.await {
        tracing::error!("the last checkpoint of the log is not signed: {error}");
    }
    if let Some(streaming) = streaming
        && let Err(error) = streaming.await
    {
        tracing::error!("the stream to the SIEM did not end well: {error}");
    }
    if let Err(error) = cosigning.await {
        tracing::error!("the witnesses were not asked to the end: {error}");
    }
    no_more_checkpoints.cancel();
    if let Some(copying) = copying {
        copying.end().await;
    }
    parts.tokens.shutdown().await;
    served.map_err(|error| Trouble::new("the server stopped", error))
}

/// As many connections as were asked for and as there can be file descriptors for.
fn connections(asked: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
    let possible = usize::try_from(most.saturating_sub(OTHER_FILES).max(1)).unwrap_or(usize::MAX);
    if possible < asked {
        tracing::warn!(
            "limits.connections is {asked}, but only {possible} are possible with {most} open files"
        );
    }
    asked.min(possible)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Trouble> {
    TcpListener::bind(address).await.map_err(|error| {
        Trouble::new(format!("cannot listen on {address}"), error)
            .hint("is another custodian running? choose another address in `listen`")
    })
}

/// The services, health (of the server and of unwrapping) and, if asked for, reflection.
fn routes(parts: &Parts, reflection: bool, shutdown: &CancellationToken) -> Result<Routes, Trouble> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let token = Arc::clone(&parts.tokens);
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        type Custody = custodian_proto::v1::custody_service_server::CustodyServiceServer<Api>;
        while !shutdown.is_cancelled() {
            match token.health().trouble {
                None => reporter.set_serving::<Custody>().await,
                Some(_) => reporter.set_not_serving::<Custody>().await,
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = shutdown.cancelled() => {}
            }
        }
        reporter.set_not_serving::<Custody>().await;
    });
    // Nobody's state is asked for here: what these take must be small.
    let routes = parts.api.routes().add_service(health.max_decoding_message_size(SMALL));
    if !reflection {
        return Ok(routes);
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(custodian_proto::DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Trouble::new("cannot serve reflection", error))?
        .max_decoding_message_size(SMALL);
    Ok(routes.add_service(reflection))
}

fn handle(kind: SignalKind) -> Result<Signal, Trouble> {
    signal(kind).map_err(|error| Trouble::new("cannot handle signals", error))
}

struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Self, Trouble> {
        Ok(Self { terminate: handle(SignalKind::terminate())?, interrupt: handle(SignalKind::interrupt())? })
    }

    async fn cancels(mut self, shutdown: CancellationToken) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: open calls may end, new ones are not taken"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: open calls may end, new ones are not taken"),
        }
        shutdown.cancel();
    }
}

/// SIGHUP puts a new server certificate and new rules in force. A configuration that does not read changes nothing.
async fn reload_on(mut hangup: Signal, path: PathBuf, parts: Reloadable) {
    while hangup.recv().await.is_some() {
        match Config::read(&path).and_then(|config| parts.reload(&config)) {
            Ok(()) => {
                tracing::info!(
                    "SIGHUP: [tls], [sessions] idle and lifetime, [passwords], [budgets] and [approvals] are read again"
                )
            }
            Err(trouble) => tracing::error!("SIGHUP: nothing is changed. {trouble}"),
        }
    }
}
