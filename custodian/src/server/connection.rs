//! One accepted connection, as tonic sees it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::Places;
use crate::authority::Peer;

/// RFC 9113 §3.4: what an HTTP/2 client sends first.
pub(super) const PREFACE_LEN: usize = 24;

/// A connection whose peer has proved its key.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    /// Read already, and still to be handed on: the last `unread` bytes.
    preface: [u8; PREFACE_LEN],
    unread: usize,
    peer: Peer,
    _places: Places,
}

impl Connection {
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        preface: [u8; PREFACE_LEN],
        peer: Peer,
        places: Places,
    ) -> Self {
        Self { stream, preface, unread: PREFACE_LEN, peer, _places: places }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread == 0 {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let start = PREFACE_LEN - self.unread;
        let taken = self.unread.min(buf.remaining());
        buf.put_slice(&self.preface[start..start + taken]);
        self.unread -= taken;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
