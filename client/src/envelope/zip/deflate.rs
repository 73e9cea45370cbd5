//! Whether compression pays, and how a file is deflated on all cores.
//!
//! Pieces of a file are deflated apart from each other. Each but the last ends with an empty stored block, which brings it
//! to a whole byte; so the pieces in a row are one deflate stream.

use flate2::{Compress, Compression as Level, FlushCompress, Status};

use super::entry::Compression;
use crate::error::{Error, Kind, Result};

/// Measured: higher levels cost much more time than they save space.
const LEVEL: u32 = 3;
/// How many samples tell whether a large content is worth compressing, and their length in bytes.
const SAMPLES: u64 = 8;
const SAMPLE_LEN: u64 = 16 * 1024;

/// Where a piece stands in its stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Place {
    Inside,
    Last,
}

/// A compressor that is used again and again: setting one up costs more than a small file.
pub(in super::super) struct Deflater(Compress);

impl Default for Deflater {
    fn default() -> Self {
        Self(Compress::new(Level::new(LEVEL), false))
    }
}

impl Deflater {
    /// Deflates one piece.
    pub(in super::super) fn deflate(&mut self, piece: &[u8], place: Place) -> Result<Vec<u8>> {
        let flush = match place {
            Place::Inside => FlushCompress::Sync,
            Place::Last => FlushCompress::Finish,
        };
        self.0.reset();
        let mut out = Vec::with_capacity(piece.len() + piece.len() / 64 + 1024);
        loop {
            let taken = usize::try_from(self.0.total_in()).map_err(failed)?;
            let status = self.0.compress_vec(&piece[taken..], &mut out, flush).map_err(failed)?;
            let all_taken = self.0.total_in() == piece.len() as u64;
            let done = match place {
                Place::Inside => all_taken && out.len() < out.capacity(),
                Place::Last => status == Status::StreamEnd,
            };
            if done {
                return Ok(out);
            }
            out.reserve(64 * 1024);
        }
    }

    /// Deflates content; `None` if it is better stored.
    pub(in super::super) fn deflate_if_it_pays(&mut self, content: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.choose_of(content)? {
            Compression::Stored => Ok(None),
            Compression::Deflated => {
                let deflated = self.deflate(content, Place::Last)?;
                Ok(Some(deflated).filter(|deflated| pays(content.len() as u64, deflated.len() as u64)))
            }
        }
    }

    /// Tells from samples whether this content is worth deflating.
    pub(in super::super) fn choose_of(&mut self, content: &[u8]) -> Result<Compression> {
        self.choose(content.len() as u64, |at, sample| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            sample.copy_from_slice(&content[at..at + sample.len()]);
            Ok(())
        })
    }

    /// Tells from samples whether content of this size is worth deflating. `read` fills a buffer from a position.
    pub(in super::super) fn choose(
        &mut self,
        size: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<Compression> {
        if size <= SAMPLES * SAMPLE_LEN {
            return Ok(Compression::Deflated);
        }
        let mut sample = [0; SAMPLE_LEN as usize];
        let mut deflated = 0;
        for n in 0..SAMPLES {
            read((size - SAMPLE_LEN) / (SAMPLES - 1) * n, &mut sample)?;
            deflated += self.deflate(&sample, Place::Last)?.len() as u64;
        }
        Ok(if pays(SAMPLES * SAMPLE_LEN, deflated) { Compression::Deflated } else { Compression::Stored })
    }
}

/// Below 5 % gain the time of every reader is worth more.
fn pays(size: u64, deflated: u64) -> bool {
    deflated <= size - size / 20 && deflated < size
}

fn failed(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Local, "cannot compress", why)
}
