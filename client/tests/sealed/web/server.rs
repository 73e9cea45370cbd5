//! A web server for tests: objects in parts, and everything that can go wrong with them.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What is served.
pub(crate) trait Content: Send + Sync + 'static {
    fn len(&self) -> u64;
    fn read(&self, range: Range<u64>) -> Vec<u8>;
}

impl Content for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read(&self, range: Range<u64>) -> Vec<u8> {
        self[range.start as usize..range.end as usize].to_vec()
    }
}

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing does.
    None,
    Status(u16),
    Redirect(String),
    /// The connection ends in the middle of the body.
    Short,
    /// It ends before the head.
    Close,
    /// All of it, as if nobody had asked for a part.
    Whole,
    /// Another version from now on.
    Change,
    /// Without ETag and time.
    Unversioned,
    Compressed,
    /// Another part than was asked for.
    Elsewhere,
}

struct State {
    content: Box<dyn Content>,
    /// Bytes of bodies.
    served: AtomicU64,
    requests: Mutex<Vec<String>>,
    faults: Mutex<VecDeque<Fault>>,
    version: AtomicU64,
}

/// A running server. Its threads end with the process.
pub(crate) struct Server {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
}

impl Server {
    pub(crate) fn start(content: impl Content) -> Self {
        Self::listen(content, None)
    }

    pub(crate) fn start_tls(content: impl Content, tls: ServerConfig) -> Self {
        Self::listen(content, Some(Arc::new(tls)))
    }

    fn listen(content: impl Content, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(State {
            content: Box::new(content),
            served: AtomicU64::new(0),
            requests: Mutex::default(),
            faults: Mutex::default(),
            version: AtomicU64::new(1),
        });
        let served = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, tls, stream) = (Arc::clone(&served), tls.clone(), stream.expect("a connection"));
                // How a connection ends is the client's affair.
                thread::spawn(move || match tls {
                    None => serve(stream.try_clone().expect("cloned"), stream, &state),
                    Some(tls) => {
                        let session = ServerConnection::new(tls).expect("a session");
                        serve_tls(StreamOwned::new(session, stream), &state)
                    }
                });
            }
        });
        Self { address, scheme, state }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}/{path}", self.scheme, self.address.port())
    }

    pub(crate) fn served(&self) -> u64 {
        self.state.served.load(Ordering::SeqCst)
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().expect("lock").clone()
    }

    /// What goes wrong with the next requests, in this order.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.faults.lock().expect("lock").extend(faults);
    }
}

fn serve(input: TcpStream, mut output: TcpStream, state: &State) {
    let mut input = BufReader::new(input);
    while let Some(head) = head(&mut input) {
        if answer(&head, &mut output, state).is_none() {
            return;
        }
    }
}

fn serve_tls(mut stream: StreamOwned<ServerConnection, TcpStream>, state: &State) {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            head.push(byte[0].into());
        }
        if answer(&head, &mut stream, state).is_none() {
            return;
        }
    }
}

fn head(input: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if input.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// `None`: the connection ends.
fn answer(head: &str, output: &mut impl Write, state: &State) -> Option<()> {
    state.requests.lock().expect("lock").push(head.to_owned());
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    };
    let len = state.content.len();
    let fault = state.faults.lock().expect("lock").pop_front();
    if let Some(Fault::Change) = &fault {
        state.version.fetch_add(1, Ordering::SeqCst);
    }
    let etag = format!("\"v{}\"", state.version.load(Ordering::SeqCst));
    let asked = header("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse::<u64>().ok()?..len.min(last.parse::<u64>().ok()? + 1))
    });
    let same = header("if-range").is_none_or(|known| known == etag);
    let mut more = format!("ETag: {etag}\r\n");
    match &fault {
        Some(Fault::Status(status)) => {
            write!(output, "HTTP/1.1 {status} Odd\r\nContent-Length: 0\r\n\r\n").ok()?;
            return Some(());
        }
        Some(Fault::Redirect(to)) => {
            write!(output, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").ok()?;
            return Some(());
        }
        Some(Fault::Close) => return None,
        Some(Fault::Unversioned) => more.clear(),
        Some(Fault::Compressed) => more += "Content-Encoding: gzip\r\n",
        _ => {}
    }
    let range = match (asked, &fault) {
        (Some(range), None | Some(Fault::None | Fault::Short | Fault::Unversioned | Fault::Compressed))
            if same =>
        {
            range
        }
        (Some(range), Some(Fault::Change)) if same => range,
        (Some(range), Some(Fault::Elsewhere)) => range.start..range.end - 1,
        _ => {
            write!(output, "HTTP/1.1 200 OK\r\n{more}Content-Length: {len}\r\n\r\n").ok()?;
            return None;
        }
    };
    let body = state.content.read(range.clone());
    let (first, last) = (range.start, range.end - 1);
    more += &format!("Content-Range: bytes {first}-{last}/{len}\r\nContent-Length: {}\r\n", body.len());
    write!(output, "HTTP/1.1 206 Partial Content\r\n{more}\r\n").ok()?;
    let sent = if matches!(fault, Some(Fault::Short)) { body.len() / 2 } else { body.len() };
    output.write_all(&body[..sent]).ok()?;
    output.flush().ok()?;
    state.served.fetch_add(sent as u64, Ordering::SeqCst);
    (sent == body.len()).then_some(())
}
