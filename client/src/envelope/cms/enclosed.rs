//! A message that is signed as a whole: a SignedData with the encrypted message in it (RFC 8551 §3.7).

use std::fs::File;

use super::{
    ber::{OBJECT_IDENTIFIER, Reader, Run, SEQUENCE, content_of},
    text::Text,
};
use crate::{
    envelope::{ReadAt, binary::Binary, damaged, start_of, unsupported},
    error::Result,
    signed::SignedData,
};

/// 1.2.840.113549.1.7.2, without tag and length.
const SIGNED_DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// The message inside.
pub(super) struct Enclosed<'f> {
    pub(super) signed: SignedData,
    content: Joined<'f>,
    /// What the content was decoded to, if it is text: mail programs put text into each other.
    decoded: Option<(File, u64)>,
}

/// The content of a SignedData: runs of bytes in a file, as one.
pub(super) struct Joined<'f> {
    binary: Binary<'f>,
    /// Where each run starts in the content, and the run.
    runs: Vec<(u64, Run)>,
    len: u64,
}

/// Whether this is a SignedData.
pub(super) fn is_signed(binary: &Binary<'_>) -> bool {
    let mut reader = Reader::new(binary.file(), binary.len());
    let mut small = 1024;
    reader
        .enter(SEQUENCE)
        .and_then(|()| reader.element(&mut small))
        .is_ok_and(|der| der.first() == Some(&OBJECT_IDENTIFIER) && content_of(&der) == SIGNED_DATA)
}

impl<'f> Enclosed<'f> {
    pub(super) fn read(binary: Binary<'f>) -> Result<Self> {
        let signed = SignedData::read(binary.file(), binary.len())?;
        let runs = signed
            .content_runs()
            .ok_or_else(|| unsupported("it is only a signature, of something that is somewhere else"))?;
        let mut len = 0;
        let runs = runs
            .iter()
            .map(|run| {
                len += run.len;
                (len - run.len, *run)
            })
            .collect();
        let content = Joined { binary, runs, len };
        let start = start_of(&content, content.len)?;
        let decoded = match Text::detect(&start) {
            Some(text) => {
                let file = text.decode(&content, content.len)?;
                let len = file
                    .metadata()
                    .map_err(|why| crate::output::failed("cannot read a temporary file", &why))?
                    .len();
                Some((file, len))
            }
            None => None,
        };
        Ok(Self { signed, content, decoded })
    }

    /// What is signed, and how long it is.
    pub(super) fn content(&self) -> (&dyn ReadAt, u64) {
        (&self.content, self.content.len)
    }

    /// The message inside, in binary.
    pub(super) fn message(&self) -> (&dyn ReadAt, u64) {
        match &self.decoded {
            Some((file, len)) => (file, *len),
            None => self.content(),
        }
    }
}

impl ReadAt for Joined<'_> {
    fn fill(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let cut_off = || damaged("it is cut off");
        let mut at = at;
        let mut rest = buffer;
        while !rest.is_empty() {
            let index = self.runs.partition_point(|(start, _)| *start <= at).checked_sub(1);
            let (start, run) = index.and_then(|index| self.runs.get(index)).ok_or_else(cut_off)?;
            let offset = at - start;
            let here = run.len.checked_sub(offset).filter(|here| *here > 0).ok_or_else(cut_off)?;
            let take = usize::try_from(here).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            self.binary.file().fill(run.at + offset, now)?;
            at += take as u64;
            rest = later;
        }
        Ok(())
    }
}
