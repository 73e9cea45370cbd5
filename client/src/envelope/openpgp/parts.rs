//! Writing a packet whose length is not known before its end: in parts (RFC 9580 §4.2.1.4).

use std::io::{self, Write};

use custodian_proto::openpgp;

/// Bytes of a part: 2 to the power of this.
const PART: u8 = 20;

/// The body of a packet. What fits into one part becomes a packet with a length.
pub(super) struct Parts<W> {
    out: W,
    tag: Option<u8>,
    pending: Vec<u8>,
}

impl<W: Write> Parts<W> {
    pub(super) fn new(out: W, tag: u8) -> Self {
        Self { out, tag: Some(tag), pending: Vec::with_capacity(1 << PART) }
    }

    fn write_tag(&mut self) -> io::Result<()> {
        match self.tag.take() {
            Some(tag) => self.out.write_all(&[0xc0 | tag]),
            None => Ok(()),
        }
    }

    /// Writes the last part, and gives back what was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write_tag()?;
        self.out.write_all(&openpgp::length(self.pending.len()))?;
        self.out.write_all(&self.pending)?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Parts<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.len() == 1 << PART {
            self.write_tag()?;
            self.out.write_all(&[224 | PART])?;
            self.out.write_all(&self.pending)?;
            self.pending.clear();
        }
        let bytes = bytes.get(..bytes.len().min((1 << PART) - self.pending.len())).unwrap_or_default();
        self.pending.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::envelope::openpgp::packet::{Head, LITERAL, StreamBody};

    #[test]
    fn what_was_written_in_parts_is_read_as_one() {
        for len in [0, 1, 191, 192, 8_384, 1 << 20, (1 << 20) + 1, 3 << 20, (3 << 20) + 5] {
            let mut parts = Parts::new(Vec::new(), LITERAL);
            parts.write_all(&vec![7; len]).expect("written");
            let packet = parts.finish().expect("written");
            let mut stream = packet.as_slice();
            let head = Head::read(&mut stream).expect("a head").expect("a packet");
            let mut read = Vec::new();
            StreamBody::new(&mut stream, head).read_to_end(&mut read).expect("read");
            assert_eq!((head.tag, read.len(), stream.len()), (LITERAL, len, 0));
        }
    }
}
