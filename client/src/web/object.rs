//! An object on the network, readable at any position.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use hyper::Uri;
use tokio::runtime::{self, Runtime};

use super::{
    connection::{Connection, Connector},
    exchange::{Answer, Version, ask},
    location::{Access, Location, http, shown},
};
use crate::{
    envelope::ReadAt,
    error::{Error, Kind, Result},
};

/// Bytes that are fetched for whoever wants fewer. Lists and headers lie close together.
const BLOCK: u64 = 32 * 1024;
/// Blocks that are kept.
const KEPT: usize = 64;
/// How often something is asked for, and how long to wait before the second time; twice as long before each further one.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// Redirections that are followed.
const HOPS: usize = 5;

/// Why a request came to nothing.
pub(super) enum Failure {
    /// It may go better the next time.
    Again(String),
    /// It will not.
    Never(Error),
}

impl Failure {
    pub(super) fn io(error: io::Error) -> Self {
        // A certificate does not become better by waiting.
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::Never(
                Error::new(
                    Kind::Local,
                    "cannot fetch the envelope",
                    format!("the server is not trusted: {tls}"),
                )
                .hint("check the name; --https-ca FILE names who else may vouch for it"),
            ),
            None => Self::Again(error.to_string()),
        }
    }

    pub(super) fn http(error: hyper::Error) -> Self {
        Self::Again(error.to_string())
    }

    pub(super) fn hinted(self, hint: &str) -> Self {
        match self {
            Self::Never(error) => Self::Never(error.hint(hint)),
            again @ Self::Again(_) => again,
        }
    }
}

/// An object, as it was when it was opened.
pub(crate) struct Object {
    runtime: Runtime,
    connector: Connector,
    location: Location,
    /// Where it really is, if the server sent us elsewhere.
    moved_to: Option<Uri>,
    version: Version,
    idle: Mutex<Vec<Connection>>,
    /// The blocks read last, by their numbers.
    blocks: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

impl Object {
    /// Finds it: asks for its first bytes.
    ///
    /// # Errors
    /// [`Kind::Local`] if it cannot be had, or not in parts.
    pub(crate) fn open(location: Location, access: &Access) -> Result<Self> {
        let cannot = |why: io::Error| Error::new(Kind::Local, "cannot fetch the envelope", why);
        // Whoever reads waits on threads of their own; this one moves the bytes.
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(cannot)?;
        let connector = Connector::new(access)?;
        let idle = Mutex::default();
        let mut moved_to = None;
        for _ in 0..=HOPS {
            let from = match &moved_to {
                Some(uri) => Uri::clone(uri),
                None => location.uri()?,
            };
            match retry(|| runtime.block_on(exchange(&connector, &idle, &from, 0..BLOCK, None)))? {
                Answer::Part(first, version) => {
                    let blocks = Mutex::new(VecDeque::from([(0, Arc::new(first))]));
                    return Ok(Self { runtime, connector, location, moved_to, version, idle, blocks });
                }
                Answer::Elsewhere(to) => {
                    moved_to = Some(follow(&from, &to)?);
                    lock(&idle).clear();
                }
            }
        }
        Err(redirected(format!("the server redirects more than {HOPS} times")))
    }

    /// Bytes of all of it.
    pub(crate) fn len(&self) -> u64 {
        self.version.len
    }

    fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let answer = retry(|| {
            let uri = match &self.moved_to {
                Some(uri) => uri.clone(),
                None => self.location.uri().map_err(Failure::Never)?,
            };
            let known = Some(&self.version);
            self.runtime.block_on(exchange(&self.connector, &self.idle, &uri, range.clone(), known))
        })?;
        match answer {
            Answer::Part(bytes, _) => Ok(bytes),
            Answer::Elsewhere(_) => Err(redirected("the server redirects in the middle of it".to_owned())),
        }
    }

    fn block(&self, number: u64) -> Result<Arc<Vec<u8>>> {
        let mut blocks = lock(&self.blocks);
        if let Some(at) = blocks.iter().position(|(known, _)| *known == number)
            && let Some(found) = blocks.remove(at)
        {
            let bytes = Arc::clone(&found.1);
            blocks.push_back(found);
            return Ok(bytes);
        }
        // Held meanwhile: others mostly want the same one.
        let start = number * BLOCK;
        let bytes = Arc::new(self.fetch(start..(start + BLOCK).min(self.len()))?);
        if blocks.len() == KEPT {
            blocks.pop_front();
        }
        blocks.push_back((number, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

impl ReadAt for Object {
    fn fill(&self, mut at: u64, mut buffer: &mut [u8]) -> Result<()> {
        if at.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len()) {
            return Err(crate::envelope::damaged("it is cut off"));
        }
        if buffer.len() as u64 >= BLOCK {
            buffer.copy_from_slice(&self.fetch(at..at + buffer.len() as u64)?);
            return Ok(());
        }
        while !buffer.is_empty() {
            let block = self.block(at / BLOCK)?;
            let from = block.get(usize::try_from(at % BLOCK).unwrap_or(usize::MAX)..).unwrap_or_default();
            let len = from.len().min(buffer.len());
            if len == 0 {
                return Err(crate::envelope::damaged("it is cut off"));
            }
            let (now, later) = buffer.split_at_mut(len);
            now.copy_from_slice(&from[..len]);
            (at, buffer) = (at + len as u64, later);
        }
        Ok(())
    }
}

/// Asks over a connection that is left from before, if one still works, or over a new one.
async fn exchange(
    connector: &Connector,
    idle: &Mutex<Vec<Connection>>,
    uri: &Uri,
    range: Range<u64>,
    known: Option<&Version>,
) -> std::result::Result<Answer, Failure> {
    loop {
        let left = lock(idle).pop();
        let is_new = left.is_none();
        let mut connection = match left {
            Some(connection) => connection,
            None => connector.connect(uri).await?,
        };
        if connection.ready().await.is_err() && !is_new {
            // Closed meanwhile.
            continue;
        }
        match ask(&mut connection, uri, range.clone(), known).await {
            Ok(answer) => {
                if matches!(answer, Answer::Part(..)) && !connection.is_closed() {
                    lock(idle).push(connection);
                }
                return Ok(answer);
            }
            // A server may close a connection just when it is used again: that says nothing about the object.
            Err(Failure::Again(_)) if !is_new => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// Tries again what may go better the next time.
fn retry<T>(mut ask: impl FnMut() -> std::result::Result<T, Failure>) -> Result<T> {
    let mut tried = 1;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(Failure::Never(error)) => return Err(error),
            Err(Failure::Again(why)) if tried == TRIES => {
                return Err(Error::new(
                    Kind::Local,
                    "cannot fetch the envelope",
                    format!("{why} ({TRIES} tries)"),
                )
                .hint("check the address and the network, and try again"));
            }
            Err(Failure::Again(_)) => {
                thread::sleep(PAUSE * 2u32.pow(tried - 1));
                tried += 1;
            }
        }
    }
}

/// Where a redirection leads: nowhere that is less protected.
fn follow(from: &Uri, to: &str) -> Result<Uri> {
    let absolute = if to.starts_with('/') && !to.starts_with("//") {
        let scheme = from.scheme_str().unwrap_or("https");
        format!("{scheme}://{}{to}", from.authority().map(|it| it.as_str()).unwrap_or_default())
    } else {
        to.to_owned()
    };
    let uri = http(&absolute)
        .map_err(|_| redirected("the server redirects to something that is no https:// URL".to_owned()))?;
    match (from.scheme_str(), uri.scheme_str()) {
        (Some("https"), Some("http")) => Err(redirected(format!(
            "the server redirects from https:// to {}, which is not encrypted",
            shown(&uri)
        ))),
        _ => Ok(uri),
    }
}

fn redirected(why: String) -> Error {
    Error::new(Kind::Local, "cannot fetch the envelope", why)
        .hint("find out where it really is, and give that URL")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in them is half-changed if a thread panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_never_lead_to_less_protection() {
        let from = |text: &str| text.parse::<Uri>().expect("URL");
        let https = from("https://a.example/x?y");
        assert_eq!(follow(&https, "/z").expect("followed"), "https://a.example/z");
        assert_eq!(follow(&https, "https://b.example/z").expect("followed"), "https://b.example/z");
        assert!(follow(&https, "http://a.example/z").expect_err("refused").why.contains("not encrypted"));
        let http = from("http://localhost/x");
        assert_eq!(follow(&http, "https://b.example/z").expect("followed"), "https://b.example/z");
        for odd in ["file:///etc/passwd", "ftp://a/b", "//evil", "javascript:x", ""] {
            assert!(follow(&https, odd).is_err(), "{odd}");
        }
    }
}
