//! `custodian serve`: parts, network, signals.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{Parts, parts::load_tls};
use crate::{api::Api, config::Config, server, token::Token as _, trouble::Trouble};

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
    let parts = Parts::assemble(&config).await?;
    let shutdown = parts.shutdown.clone();
    let stop_on_signal = tokio::spawn(stop_on_signal(shutdown.clone())?);
    let reload =
        tokio::spawn(reload_on_signal(path.to_owned(), parts.tls.clone(), Arc::clone(&parts.custodian))?);
    let routes = routes(&parts, config.reflection, &shutdown)?;
    tracing::info!(%address, "serving");
    ready(address);
    let served = server::serve(
        listener,
        parts.tls.subscribe(),
        Arc::clone(&parts.ledger),
        routes,
        config.server_limits,
        shutdown,
    )
    .await;
    stop_on_signal.abort();
    reload.abort();
    parts.token.shutdown().await;
    served.map_err(|error| Trouble::new("the server stopped", error))
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
    let token = Arc::clone(&parts.token);
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
    let routes = parts.api.routes().add_service(health);
    if !reflection {
        return Ok(routes);
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(custodian_proto::DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Trouble::new("cannot serve reflection", error))?;
    Ok(routes.add_service(reflection))
}

fn stop_on_signal(shutdown: CancellationToken) -> Result<impl Future<Output = ()>, Trouble> {
    let handler = |kind| signal(kind).map_err(|error| Trouble::new("cannot handle signals", error));
    let (mut terminate, mut interrupt) =
        (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: open calls may end, new ones are not taken"),
            _ = interrupt.recv() => tracing::info!("SIGINT: open calls may end, new ones are not taken"),
        }
        shutdown.cancel();
    })
}

/// SIGHUP puts new certificates and rules in force. A configuration that does not read changes nothing.
fn reload_on_signal(
    path: std::path::PathBuf,
    tls: tokio::sync::watch::Sender<Arc<server::Tls>>,
    custodian: Arc<crate::custody::Custodian>,
) -> Result<impl Future<Output = ()>, Trouble> {
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| Trouble::new("cannot handle signals", error))?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            match Config::read(&path).and_then(|config| Ok((load_tls(&config)?, config.rules))) {
                Ok((new, rules)) => {
                    tls.send_replace(Arc::new(new));
                    custodian.authority().set_rules(rules);
                    tracing::info!("SIGHUP: certificates, [sessions] and [budget] are read again");
                }
                Err(trouble) => tracing::error!("SIGHUP: nothing is changed. {trouble}"),
            }
        }
    })
}
