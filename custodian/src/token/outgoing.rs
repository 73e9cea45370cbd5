//! Orders on their way to a worker: written by whoever has one, as long as the socket takes them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    net::unix::OwnedWriteHalf,
    sync::mpsc::{self, error::TrySendError},
};
use zeroize::Zeroizing;

/// One order, framed. Overwritten when it is dropped.
pub(super) type Frame = Zeroizing<Vec<u8>>;

/// The sending end. No other thread has to wake for an order unless the socket is full.
pub(super) struct Outgoing {
    queue: mpsc::Sender<Frame>,
    socket: Arc<Mutex<Socket>>,
}

/// Writes what the socket did not take at once.
pub(super) struct Rest {
    queue: mpsc::Receiver<Frame>,
    socket: Arc<Mutex<Socket>>,
    writer: Arc<OwnedWriteHalf>,
}

/// Locked for as long as somebody writes at once.
struct Socket {
    /// `None`: closed.
    writer: Option<Arc<OwnedWriteHalf>>,
    /// Frames that are queued and not yet written. While there are any, every further one goes behind them.
    waiting: usize,
}

/// Why an order was not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// The worker is gone.
    Gone,
    /// Too many wait to be written.
    Full,
}

/// The two ends of the way to a worker; up to `capacity` frames wait for a socket that is full.
pub(super) fn outgoing(writer: OwnedWriteHalf, capacity: usize) -> (Outgoing, Rest) {
    let writer = Arc::new(writer);
    let socket = Arc::new(Mutex::new(Socket { writer: Some(Arc::clone(&writer)), waiting: 0 }));
    let (sender, receiver) = mpsc::channel(capacity);
    let rest = Rest { queue: receiver, socket: Arc::clone(&socket), writer };
    (Outgoing { queue: sender, socket }, rest)
}

impl Outgoing {
    /// Sends a frame, whole and in order. Does not wait.
    pub(super) fn send(&self, mut frame: Frame) -> Result<(), NotTaken> {
        let mut socket = lock(&self.socket);
        let Some(writer) = &socket.writer else { return Err(NotTaken::Gone) };
        if socket.waiting == 0 {
            match writer.try_write(&frame) {
                Ok(len) if len == frame.len() => return Ok(()),
                Ok(len) => frame = Zeroizing::new(frame[len..].to_vec()),
                // A full socket is waited for by the rest, and a broken one is noticed there.
                Err(_) => {}
            }
        }
        self.queue.try_send(frame).map_err(|error| match error {
            TrySendError::Closed(_) => NotTaken::Gone,
            TrySendError::Full(_) => NotTaken::Full,
        })?;
        socket.waiting += 1;
        Ok(())
    }

    /// Lets go of the socket: once the rest does, too, the worker reads its end.
    pub(super) fn close(&self) {
        lock(&self.socket).writer = None;
    }
}

impl Rest {
    /// Writes what is queued, whenever the socket takes it. Ends only with a reason.
    pub(super) async fn write(mut self) -> String {
        while let Some(frame) = self.queue.recv().await {
            let mut left = &frame[..];
            while !left.is_empty() {
                let written = match self.writer.writable().await {
                    Ok(()) => self.writer.try_write(left),
                    Err(error) => Err(error),
                };
                match written {
                    Ok(len) => left = &left[len..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return format!("it takes no more orders: {error}"),
                }
            }
            lock(&self.socket).waiting -= 1;
        }
        "nobody needs it".to_owned()
    }
}

fn lock(socket: &Mutex<Socket>) -> MutexGuard<'_, Socket> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::UnixStream};

    use super::*;

    const CAPACITY: usize = 64;

    fn frame(number: usize) -> Frame {
        Zeroizing::new(vec![number as u8; 4_000 + number])
    }

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_though_the_socket_fills_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_reader, writer) = ours.into_split();
        writer.writable().await.unwrap();
        let (outgoing, rest) = outgoing(writer, CAPACITY);
        let mut sent = Vec::new();
        // Until the socket and the queue are full.
        while let Ok(()) = outgoing.send(frame(sent.len())) {
            sent.push(frame(sent.len()));
        }
        assert!(sent.len() > CAPACITY, "the socket took nothing at once");
        assert!(matches!(outgoing.send(frame(0)), Err(NotTaken::Full)));
        let writing = tokio::spawn(rest.write());
        let mut theirs = theirs;
        for round in 0..2 {
            for frame in &sent {
                let mut arrived = vec![0; frame.len()];
                theirs.read_exact(&mut arrived).await.unwrap();
                assert_eq!(arrived, **frame);
            }
            if round == 0 {
                // One by one, now that there is room.
                for frame in &sent {
                    while let Err(NotTaken::Full) = outgoing.send(frame.clone()) {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        drop(theirs);
        while outgoing.send(frame(1)).is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(writing.await.unwrap().contains("it takes no more orders"));
    }
}
