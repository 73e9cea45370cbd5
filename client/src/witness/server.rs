//! The HTTP of tlog-witness: `POST …/add-checkpoint`.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use custodian_proto::tlog::witness::{ADD_CHECKPOINT, MAX_REQUEST_LEN, SIZE_TYPE};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{Answer, Witness};

/// Connections at once.
const CONNECTIONS: usize = 256;

/// A connection that says nothing for this long is closed; so is one that does not finish a request.
const PATIENCE: Duration = Duration::from_secs(30);

/// After an error of accepting, which is of the machine: out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers until `ended`. `ready` is told the address; `say` is told what an operator should know.
///
/// # Errors
/// If it cannot listen there.
pub async fn serve(
    witness: Arc<Witness>,
    listen: SocketAddr,
    ready: impl FnOnce(SocketAddr),
    say: impl Fn(&str) + Send + Sync + 'static,
    ended: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    ready(listener.local_addr()?);
    let (places, say) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(say));
    tokio::pin!(ended);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut ended => return Ok(()),
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Beyond the limit, connections are closed at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (witness, say) = (Arc::clone(&witness), Arc::clone(&say));
        tokio::spawn(async move {
            let _place = place;
            connection(stream, peer, witness, say).await;
        });
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    witness: Arc<Witness>,
    say: Arc<impl Fn(&str) + Send + Sync + 'static>,
) {
    let service = service_fn(|request| {
        let (witness, say) = (Arc::clone(&witness), Arc::clone(&say));
        async move { Ok::<_, Infallible>(answer(request, peer, witness, say).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 * 1024);
    // How a stranger's connection ends is nobody's business.
    http.serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    witness: Arc<Witness>,
    say: Arc<impl Fn(&str) + Send + Sync>,
) -> Response<Full<Bytes>> {
    if request.uri().path().rsplit('/').next() != Some(ADD_CHECKPOINT) {
        return respond(StatusCode::NOT_FOUND, "there is only add-checkpoint here\n".to_owned());
    }
    if request.method() != Method::POST {
        return respond(StatusCode::METHOD_NOT_ALLOWED, "POST it\n".to_owned());
    }
    let body = Limited::new(request.into_body(), MAX_REQUEST_LEN).collect();
    let Ok(Ok(body)) = tokio::time::timeout(PATIENCE, body).await else {
        return respond(StatusCode::BAD_REQUEST, "it is too long, or did not come in time\n".to_owned());
    };
    let Ok(text) = String::from_utf8(body.to_bytes().to_vec()) else {
        return respond(StatusCode::BAD_REQUEST, "it is no text\n".to_owned());
    };
    // Writes a file durably.
    let considered = tokio::task::spawn_blocking(move || witness.add(&text, Timestamp::now())).await;
    let considered = considered.unwrap_or_else(|error| Answer::Failed(error.to_string()));
    let (status, text) = match considered {
        Answer::Cosigned(line) => (StatusCode::OK, line),
        Answer::Malformed(why) => (StatusCode::BAD_REQUEST, why + "\n"),
        Answer::NotSigned(why) => (StatusCode::FORBIDDEN, why + "\n"),
        Answer::UnknownLog(why) => (StatusCode::NOT_FOUND, why + "\n"),
        Answer::Conflict(size) => return conflict(size),
        Answer::Split(size, evidence) => {
            say(&format!(
                "THE LOG SIGNED TWO TREES of {size} entries. {peer} sent the other one; {evidence}"
            ));
            return conflict(size);
        }
        Answer::NotConsistent(why, evidence) => {
            say(&format!(
                "{peer} sent a signed checkpoint, and no proof that it begins with what was signed before: {why}; {evidence}"
            ));
            (StatusCode::UNPROCESSABLE_ENTITY, why + "\n")
        }
        Answer::Failed(why) => {
            say(&format!("a checkpoint is not cosigned: {why}"));
            (StatusCode::INTERNAL_SERVER_ERROR, "the witness cannot remember it now\n".to_owned())
        }
    };
    respond(status, text)
}

fn conflict(size: u64) -> Response<Full<Bytes>> {
    let mut response = respond(StatusCode::CONFLICT, format!("{size}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(SIZE_TYPE));
    response
}

fn respond(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
