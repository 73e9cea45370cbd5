//! One connection: dialled with our TLS, used from synchronous code.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, runtime, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

use super::{
    status::{self, Failure},
    tls::{Trouble, TroubleSlot, Watched},
};
use crate::{
    error::{Error, Kind, Result},
    interrupt::Interrupt,
    settings::Address,
};

/// Longest wait for TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one answer. An RSA-4096 key pair in a slow token takes most of it.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent connection is asked for a sign of life this often, so that a tail notices a dead custodian.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A connection to a custodian.
pub(super) struct Wire {
    // Dropped first: the connection's tasks live in the runtime.
    channel: Channel,
    runtime: Background,
    address: Address,
    trouble: TroubleSlot,
    interrupt: Interrupt,
}

impl Wire {
    /// Dials.
    pub(super) fn open(address: Address, tls: Arc<ClientConfig>, interrupt: Interrupt) -> Result<Self> {
        let what = "cannot connect to the custodian";
        let local = |error: &dyn std::fmt::Display| Error::new(Kind::Local, what, error);
        // A worker thread of its own: several threads may wait for answers on the same connection.
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("remote")
            .enable_all()
            .build()
            .map_err(|error| local(&error))?;
        let runtime = Background(Some(runtime));
        let name = ServerName::try_from(address.host().to_owned()).map_err(|error| {
            Error::new(Kind::Usage, what, format!("{address}: {error}")).hint("check CUSTODIAN_ADDR")
        })?;
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .map_err(|error| local(&error))?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .keep_alive_timeout(CONNECT_TIMEOUT);

        let trouble = TroubleSlot::default();
        let dialler = tower::service_fn({
            let (address, trouble) = (address.clone(), trouble.clone());
            move |_| {
                let (address, trouble) = (address.clone(), trouble.clone());
                let (tls, name) = (TlsConnector::from(tls.clone()), name.clone());
                async move {
                    trouble.clear();
                    let dialled = timeout(CONNECT_TIMEOUT, dial(&address, &tls, name)).await;
                    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
                    let stream =
                        dialled.unwrap_or_else(|_| Err(late())).inspect_err(|error| trouble.note(error))?;
                    Ok::<_, io::Error>(TokioIo::new(Watched::new(stream, trouble)))
                }
            }
        });
        let connected = runtime.wait_for(what, async {
            tokio::select! {
                connected = endpoint.connect_with_connector(dialler) => connected.map_err(|error| {
                    match trouble.last() {
                        Some(trouble) => trouble.error(what, &address),
                        None => Trouble::Unreachable(innermost(&error)).error(what, &address),
                    }
                }),
                () = interrupt.wait() => Err(interrupted(what)),
            }
        });
        Ok(Self { channel: connected?, runtime, address, trouble, interrupt })
    }

    /// Makes one call and waits for its answer. `what` is what failed if it does: `cannot list devices`.
    pub(super) fn ask<T>(
        &self,
        what: &str,
        call: impl AsyncFn(Channel) -> std::result::Result<Response<T>, Status>,
    ) -> std::result::Result<T, Failure> {
        self.runtime.wait_for(what, async {
            tokio::select! {
                answer = timeout(CALL_TIMEOUT, call(self.channel.clone())) => match answer {
                    Ok(Ok(response)) => Ok(response.into_inner()),
                    Ok(Err(status)) => Err(self.failure(what, &status)),
                    Err(_) => Err(self.late(what).into()),
                },
                () = self.interrupt.wait() => Err(interrupted(what).into()),
            }
        })
    }

    /// Waits this long, or until Ctrl-C.
    pub(super) fn pause(&self, what: &str, pause: Duration) -> Result<()> {
        self.runtime.wait_for(what, async {
            tokio::select! {
                () = tokio::time::sleep(pause) => Ok(()),
                () = self.interrupt.wait() => Err(interrupted(what)),
            }
        })
    }

    /// Waits for the next message of a stream, however long it takes. `None` once the stream has ended.
    pub(super) fn next<T>(
        &self,
        what: &str,
        stream: &mut tonic::Streaming<T>,
    ) -> std::result::Result<Option<T>, Failure> {
        self.runtime.wait_for(what, async {
            tokio::select! {
                // First: a stream that never runs dry must not drown Ctrl-C.
                biased;
                () = self.interrupt.wait() => Err(interrupted(what).into()),
                message = stream.message() => message.map_err(|status| self.failure(what, &status)),
            }
        })
    }

    /// Waits for the next message of a stream, as long as for one answer. `None` once the stream has ended.
    pub(super) fn next_in_time<T>(
        &self,
        what: &str,
        stream: &mut tonic::Streaming<T>,
    ) -> std::result::Result<Option<T>, Failure> {
        self.runtime.wait_for(what, async {
            tokio::select! {
                () = self.interrupt.wait() => Err(interrupted(what).into()),
                message = timeout(CALL_TIMEOUT, stream.message()) => match message {
                    Ok(message) => message.map_err(|status| self.failure(what, &status)),
                    Err(_) => Err(self.late(what).into()),
                },
            }
        })
    }

    fn late(&self, what: &str) -> Error {
        let late = Trouble::Unreachable(format!("no answer within {} s", CALL_TIMEOUT.as_secs()));
        late.error(what, &self.address)
    }

    fn failure(&self, what: &str, status: &Status) -> Failure {
        // A status without details was made on this side, of a broken connection: the connection knows why.
        match self.trouble.last() {
            Some(trouble) if status.details().is_empty() => trouble.error(what, &self.address).into(),
            _ if status.source().is_some() && status.details().is_empty() => {
                Trouble::Unreachable(innermost(status)).error(what, &self.address).into()
            }
            _ => status::failure(what, status),
        }
    }
}

/// A runtime that is not waited for when we are done: a name server that does not answer must not hold up Ctrl-C.
struct Background(Option<runtime::Runtime>);

impl Background {
    fn wait_for<T, E: From<Error>>(
        &self,
        what: &str,
        job: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, E> {
        match &self.0 {
            Some(runtime) => runtime.block_on(job),
            None => Err(Error::new(Kind::Local, what, "the connection is closed").into()),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn dial(
    address: &Address,
    tls: &TlsConnector,
    name: ServerName<'static>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect((address.host(), address.port())).await?;
    tcp.set_nodelay(true)?;
    tls.connect(name, tcp).await
}

fn interrupted(what: &str) -> Error {
    Error::new(Kind::Interrupted, what, "interrupted")
}

/// The first cause: the outer layers say no more than `transport error`.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
