//! A file key on its way from the worker.

use custodian_proto::{key::FileKey, limits::FILE_KEY_LEN};
use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{self, DecodeContext, WireType},
};
use zeroize::{Zeroize, Zeroizing};

/// The one field of [`FileKeyMessage`].
const FILE_KEY_TAG: u32 = 1;

/// A file key. Written by hand: prost decodes `bytes` through a buffer that nobody overwrites (law 9).
#[derive(Clone, PartialEq, Default)]
pub(in crate::token) struct FileKeyMessage(Zeroizing<Vec<u8>>);

impl FileKeyMessage {
    pub(in crate::token) fn new(key: &FileKey) -> Self {
        Self(Zeroizing::new(key.expose().to_vec()))
    }

    /// The key, if it is one.
    pub(in crate::token) fn into_key(mut self) -> Option<FileKey> {
        FileKey::take(&mut self.0)
    }
}

impl Message for FileKeyMessage {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::bytes::encode(FILE_KEY_TAG, &*self.0, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if (tag, wire_type) != (FILE_KEY_TAG, WireType::LengthDelimited) {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let len = usize::try_from(encoding::decode_varint(buf)?).unwrap_or(usize::MAX);
        if len != FILE_KEY_LEN || buf.remaining() < FILE_KEY_LEN {
            // No file key, and found to be none when it is taken.
            self.clear();
            buf.advance(len.min(buf.remaining()));
            return Ok(());
        }
        self.0.resize(FILE_KEY_LEN, 0);
        buf.copy_to_slice(&mut self.0);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        encoding::bytes::encoded_len(FILE_KEY_TAG, &*self.0)
    }

    fn clear(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::wire::{Answer, FromWorker, HEADER, Outcome, Report, frame};

    fn decoded(report: &[u8]) -> Option<FileKey> {
        match FromWorker::decode(report).unwrap().report {
            Some(Report::Answer(Answer { id: 5, outcome: Some(Outcome::FileKey(key)) })) => key.into_key(),
            _ => None,
        }
    }

    /// A report with an answer of these bytes, as another program would write it.
    fn report(key: &[u8]) -> Vec<u8> {
        let field = |tag: u8, bytes: &[u8]| [&[tag << 3 | 2, bytes.len() as u8], bytes].concat();
        let answer = [vec![1 << 3, 5], field(2, &field(1, key))].concat();
        field(3, &answer)
    }

    #[test]
    fn law_4_only_32_bytes_come_through_as_a_file_key() {
        let key = FileKey::new([7; 32]);
        let answer = Answer { id: 5, outcome: Some(Outcome::FileKey(FileKeyMessage::new(&key))) };
        let framed = frame(&FromWorker { report: Some(Report::Answer(answer)) });
        assert_eq!(framed[HEADER..], report(&[7; 32]));
        assert_eq!(decoded(&framed[HEADER..]).unwrap().expose(), &[7; 32]);
        for len in (0..100).filter(|len| *len != 32) {
            assert!(decoded(&report(&vec![7; len])).is_none(), "{len} bytes");
        }
    }
}
