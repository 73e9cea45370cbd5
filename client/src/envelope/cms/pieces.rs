//! The encrypted content in pieces of one length, however the message cuts it.

use super::{
    ber::{Octets, Run},
    gcm::PIECE,
    header::Content,
};
use crate::{
    envelope::{ReadAt, damaged},
    error::Result,
};

/// One piece of the encrypted content.
pub(super) struct Piece {
    /// Where it stands in the content: a multiple of [`PIECE`].
    pub(super) position: u64,
    bytes: Bytes,
}

enum Bytes {
    /// They stand together in the message.
    Here(Run),
    /// They stood in several places, and were read.
    Read(Vec<u8>),
}

impl Piece {
    /// Its bytes, in a buffer that may have been used before.
    pub(super) fn read<'b>(self, source: &dyn ReadAt, buffer: &'b mut Vec<u8>) -> Result<&'b mut [u8]> {
        match self.bytes {
            Bytes::Here(run) => {
                buffer.resize(usize::try_from(run.len).unwrap_or_default(), 0);
                source.fill(run.at, buffer)?;
            }
            Bytes::Read(bytes) => *buffer = bytes,
        }
        Ok(buffer)
    }
}

/// All pieces, in their order. The last one may be shorter than [`PIECE`].
pub(super) struct Pieces<'f> {
    octets: Octets<'f>,
    /// What is left of a run.
    run: Run,
    position: u64,
    len: u64,
}

impl<'f> Pieces<'f> {
    /// Of this content.
    pub(super) fn new(content: Content<'f>) -> Self {
        Self { octets: content.octets, run: Run { at: 0, len: 0 }, position: 0, len: content.len }
    }

    fn step(&mut self) -> Result<Option<Piece>> {
        let wanted = PIECE.min(self.len - self.position);
        if wanted == 0 {
            return Ok(None);
        }
        let position = self.position;
        self.position += wanted;
        if self.run.len == 0 {
            self.run = self.next_run()?;
        }
        if self.run.len >= wanted {
            return Ok(Some(Piece { position, bytes: Bytes::Here(self.take(wanted)) }));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or_default());
        loop {
            let run = self.take(wanted - bytes.len() as u64);
            self.octets.copy(run, &mut bytes)?;
            if bytes.len() as u64 == wanted {
                return Ok(Some(Piece { position, bytes: Bytes::Read(bytes) }));
            }
            self.run = self.next_run()?;
        }
    }

    fn take(&mut self, wanted: u64) -> Run {
        let taken = Run { at: self.run.at, len: self.run.len.min(wanted) };
        self.run = Run { at: taken.at + taken.len, len: self.run.len - taken.len };
        taken
    }

    fn next_run(&mut self) -> Result<Run> {
        self.octets.next_run()?.ok_or_else(|| damaged("it changed while it was read"))
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            // Nothing sensible comes after a failure.
            self.position = self.len;
        }
        step.transpose()
    }
}
