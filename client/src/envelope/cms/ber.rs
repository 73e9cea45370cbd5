//! BER (X.690) as far as CMS needs it: elements of definite and of indefinite length, read in order from bytes that do not
//! fit into memory. What is small is handed over in DER.

use crate::{
    envelope::{ReadAt, damaged},
    error::Result,
};

/// Most elements in each other. A message that needs a tenth of it would be a strange one.
const MAX_DEPTH: usize = 32;
/// Bytes that are read at once to find headers.
const WINDOW: u64 = 64 * 1024;
/// Longest header: a tag, the number of length bytes, eight of them.
const MAX_HEADER: u64 = 10;

/// The bit of a tag that says: made of other elements.
const CONSTRUCTED: u8 = 0x20;
/// The bits of a tag that are all set if its number stands elsewhere. CMS has no such tags.
const LONG_TAG: u8 = 0x1f;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The tag `[number]` of an element that is not made of others.
pub(crate) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// The tag `[number]` of an element that is made of others.
pub(crate) const fn context_constructed(number: u8) -> u8 {
    context(number) | CONSTRUCTED
}

/// Writes the head of an element in DER.
pub(crate) fn write_head(der: &mut Vec<u8>, tag: u8, len: u64) {
    der.push(tag);
    if len < 0x80 {
        der.push(len as u8);
        return;
    }
    let bytes = len.to_be_bytes();
    let used = &bytes[len.leading_zeros() as usize / 8..];
    der.push(0x80 | used.len() as u8);
    der.extend(used);
}

/// An element in DER.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = Vec::with_capacity(content.len() + MAX_HEADER as usize);
    write_head(&mut der, tag, content.len() as u64);
    der.extend(content);
    der
}

/// The content of an element in DER, as this file writes it.
pub(crate) fn content_of(der: &[u8]) -> &[u8] {
    let head = match der.get(1) {
        Some(len @ 0x80..) => 2 + usize::from(len & 0x7f),
        _ => 2,
    };
    der.get(head..).unwrap_or_default()
}

/// A run of bytes in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) at: u64,
    pub(crate) len: u64,
}

#[derive(Clone, Copy)]
struct Head {
    tag: u8,
    /// `None`: two zero bytes mark the end.
    len: Option<u64>,
}

/// An element that was entered.
#[derive(Clone, Copy)]
struct Open {
    /// Where it ends; `None`: where two zero bytes stand.
    end: Option<u64>,
    /// What is in it ends here at the latest.
    limit: u64,
}

/// A place in a message.
#[derive(Clone)]
pub(crate) struct Reader<'f> {
    source: &'f dyn ReadAt,
    at: u64,
    len: u64,
    open: Vec<Open>,
    /// The bytes from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
}

impl<'f> Reader<'f> {
    /// At the start of `len` bytes.
    pub(crate) fn new(source: &'f dyn ReadAt, len: u64) -> Self {
        Self { source, at: 0, len, open: Vec::new(), window: Vec::new(), window_at: 0 }
    }

    /// The tag of the next element here, `None` after the last one.
    pub(crate) fn next_tag(&mut self) -> Result<Option<u8>> {
        if self.is_at_end()? { Ok(None) } else { Ok(Some(self.bytes(self.at, 1)?[0])) }
    }

    /// Steps into the next element, which must have this tag.
    pub(crate) fn enter(&mut self, tag: u8) -> Result<()> {
        if self.next_tag()? != Some(tag) {
            return Err(no_cms());
        }
        let head = self.head()?;
        self.push(head)
    }

    /// Steps out of an element, after its last part.
    pub(crate) fn leave(&mut self) -> Result<()> {
        if !self.is_at_end()? {
            return Err(no_cms());
        }
        if let Some(Open { end: None, .. }) = self.open.pop() {
            self.at += 2;
        }
        Ok(())
    }

    /// Checks that nothing stands behind the message.
    pub(crate) fn finish(self) -> Result<()> {
        if self.at == self.len { Ok(()) } else { Err(damaged("something stands behind its end")) }
    }

    /// The next element, whatever it is, in DER. `budget` is how many bytes it may have, and is charged.
    pub(crate) fn element(&mut self, budget: &mut u64) -> Result<Vec<u8>> {
        let mut der = Vec::new();
        self.element_into(&mut der, budget)?;
        Ok(der)
    }

    fn element_into(&mut self, der: &mut Vec<u8>, budget: &mut u64) -> Result<()> {
        let head = self.head()?;
        charge(budget, 2)?;
        if let (Some(len), 0) = (head.len, head.tag & CONSTRUCTED) {
            charge(budget, len)?;
            write_head(der, head.tag, len);
            let start = der.len();
            der.resize(start + usize::try_from(len).map_err(|_| no_cms())?, 0);
            self.source.fill(self.at, &mut der[start..])?;
            self.at += len;
            return Ok(());
        }
        self.push(head)?;
        let mut content = Vec::new();
        let mut tag = head.tag;
        match tag {
            // DER has it in one piece.
            CONSTRUCTED_OCTETS => {
                tag = OCTET_STRING;
                while self.next_tag()?.is_some() {
                    let part = self.element(budget)?;
                    if part.first() != Some(&OCTET_STRING) {
                        return Err(no_cms());
                    }
                    content.extend(content_of(&part));
                }
            }
            // DER has it in order.
            SET => {
                let mut parts = Vec::new();
                while self.next_tag()?.is_some() {
                    parts.push(self.element(budget)?);
                }
                parts.sort_unstable();
                content = parts.concat();
            }
            _ => {
                while self.next_tag()?.is_some() {
                    self.element_into(&mut content, budget)?;
                }
            }
        }
        self.leave()?;
        write_head(der, tag, content.len() as u64);
        der.append(&mut content);
        Ok(())
    }

    /// Steps over the next element.
    pub(crate) fn skip(&mut self) -> Result<()> {
        let head = self.head()?;
        if let Some(len) = head.len {
            self.at += len;
            return Ok(());
        }
        self.push(head)?;
        while self.next_tag()?.is_some() {
            self.skip()?;
        }
        self.leave()
    }

    /// Steps into an octet string that has the tag `[number]`, in one piece or in many.
    pub(crate) fn octets(self, number: u8) -> Result<Octets<'f>> {
        self.octets_tagged(context(number))
    }

    /// Steps into an octet string, in one piece or in many.
    pub(crate) fn octet_string(self) -> Result<Octets<'f>> {
        self.octets_tagged(OCTET_STRING)
    }

    fn octets_tagged(mut self, tag: u8) -> Result<Octets<'f>> {
        let base = self.open.len();
        let head = self.head()?;
        let whole = match (head.tag, head.len) {
            (found, Some(len)) if found == tag => {
                self.at += len;
                Some(Run { at: self.at - len, len })
            }
            (found, _) if found == tag | CONSTRUCTED => {
                self.push(head)?;
                None
            }
            _ => return Err(no_cms()),
        };
        Ok(Octets { reader: self, base, whole })
    }

    fn push(&mut self, head: Head) -> Result<()> {
        if self.open.len() >= MAX_DEPTH {
            return Err(damaged(format!("more than {MAX_DEPTH} elements are in each other")));
        }
        let end = head.len.map(|len| self.at + len);
        self.open.push(Open { end, limit: end.unwrap_or_else(|| self.limit()) });
        Ok(())
    }

    fn head(&mut self) -> Result<Head> {
        let limit = self.limit();
        let start = self.bytes(self.at, MAX_HEADER.min(limit.saturating_sub(self.at)))?;
        let (&[tag, first], more) = start.split_first_chunk().ok_or_else(cut_off)?;
        if tag & LONG_TAG == LONG_TAG {
            return Err(no_cms());
        }
        let (len, used) = match first {
            ..0x80 => (Some(first.into()), 0),
            0x80 if tag & CONSTRUCTED != 0 => (None, 0),
            0x81..=0x88 => {
                let used = usize::from(first & 0x7f);
                let bytes = more.get(..used).ok_or_else(cut_off)?;
                (Some(bytes.iter().fold(0, |len, byte| len << 8 | u64::from(*byte))), used as u64)
            }
            _ => return Err(no_cms()),
        };
        self.at += 2 + used;
        if len.is_some_and(|len| len > limit - self.at) {
            return Err(cut_off());
        }
        Ok(Head { tag, len })
    }

    /// Where everything here ends at the latest.
    fn limit(&self) -> u64 {
        self.open.last().map_or(self.len, |open| open.limit)
    }

    fn is_at_end(&mut self) -> Result<bool> {
        match self.open.last().copied() {
            None => Ok(self.at == self.len),
            Some(Open { end: Some(end), .. }) => Ok(self.at == end),
            Some(Open { end: None, limit }) => {
                if limit - self.at < 2 {
                    return Err(cut_off());
                }
                Ok(self.bytes(self.at, 2)? == [0, 0])
            }
        }
    }

    /// At most [`WINDOW`] bytes.
    fn bytes(&mut self, at: u64, len: u64) -> Result<&[u8]> {
        if len > self.len.saturating_sub(at) {
            return Err(cut_off());
        }
        if at < self.window_at || at + len > self.window_at + self.window.len() as u64 {
            self.window.resize(WINDOW.min(self.len - at) as usize, 0);
            self.source.fill(at, &mut self.window).inspect_err(|_| self.window.clear())?;
            self.window_at = at;
        }
        let start = (at - self.window_at) as usize;
        Ok(&self.window[start..start + len as usize])
    }
}

const CONSTRUCTED_OCTETS: u8 = OCTET_STRING | CONSTRUCTED;

/// The bytes of an octet string, as runs in the file.
#[derive(Clone)]
pub(crate) struct Octets<'f> {
    reader: Reader<'f>,
    /// How many elements were open before it.
    base: usize,
    /// All of it, if it is in one piece.
    whole: Option<Run>,
}

impl<'f> Octets<'f> {
    /// The next run, none of them empty; `None` after the last one.
    pub(crate) fn next_run(&mut self) -> Result<Option<Run>> {
        if let Some(whole) = self.whole.take().filter(|whole| whole.len > 0) {
            return Ok(Some(whole));
        }
        while self.reader.open.len() > self.base {
            if self.reader.is_at_end()? {
                self.reader.leave()?;
                continue;
            }
            let head = self.reader.head()?;
            match (head.tag, head.len) {
                (OCTET_STRING, Some(0)) => {}
                (OCTET_STRING, Some(len)) => {
                    let at = self.reader.at;
                    self.reader.at += len;
                    return Ok(Some(Run { at, len }));
                }
                (CONSTRUCTED_OCTETS, _) => self.reader.push(head)?,
                _ => return Err(no_cms()),
            }
        }
        Ok(None)
    }

    /// Appends the bytes of a run.
    pub(crate) fn copy(&mut self, mut run: Run, to: &mut Vec<u8>) -> Result<()> {
        while run.len > 0 {
            let len = run.len.min(WINDOW);
            to.extend(self.reader.bytes(run.at, len)?);
            (run.at, run.len) = (run.at + len, run.len - len);
        }
        Ok(())
    }

    /// What stands behind it, after the last run.
    pub(crate) fn behind(self) -> Reader<'f> {
        self.reader
    }
}

fn charge(budget: &mut u64, bytes: u64) -> Result<()> {
    *budget = budget.checked_sub(bytes).ok_or_else(|| damaged("a part of it that is small is large here"))?;
    Ok(())
}

/// What every departure from the structure of a CMS message is told as.
pub(crate) fn no_cms() -> crate::error::Error {
    damaged("it starts like a CMS message, but is none")
}

fn cut_off() -> crate::error::Error {
    damaged("it is cut off")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn der_of(ber: &[u8]) -> Result<Vec<u8>> {
        let mut reader = Reader::new(&ber, ber.len() as u64);
        let der = reader.element(&mut 1_000)?;
        reader.finish()?;
        Ok(der)
    }

    #[test]
    fn ber_becomes_der() {
        for (ber, der) in [
            ("0500", "0500"),
            // A length longer than it need be.
            ("02820001ff", "0201ff"),
            // Indefinite length.
            ("30800500020107000 0", "30050500020107"),
            // An octet string in pieces of pieces.
            ("248004010124800401020401030000 0000", "0403010203"),
            // A set out of order.
            ("3106020102020101", "3106020101020102"),
        ] {
            let ber = hex::decode(ber.replace(' ', "")).expect("hex");
            assert_eq!(der_of(&ber).map(hex::encode).as_deref(), Ok(der));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for ber in [
            "",
            "30",
            "3001",
            "0402ff",
            "3080",
            "308000",
            "30800500",
            "0480ff0000",
            "3003040200",
            "24020500",
            "1f0100",
            "04ff00",
            "04890000000000000000 01",
            "300204ff",
            "05000500",
            // A definite length that ends inside of its part.
            "3003 0402 0000",
        ] {
            let ber = hex::decode(ber.replace(' ', "")).expect("hex");
            assert!(der_of(&ber).is_err(), "{}", hex::encode(ber));
        }
        assert!(der_of(&[0x30, 0x80].repeat(100)).is_err());
        let mut deep = vec![0x05, 0];
        (0..MAX_DEPTH).for_each(|_| deep = element(SEQUENCE, &deep));
        assert!(der_of(&deep).is_ok());
        assert!(der_of(&element(SEQUENCE, &deep)).is_err());
        assert!(der_of(&element(OCTET_STRING, &[0; 1_000])).is_err(), "beyond the budget");
    }

    fn octets_of(ber: &[u8]) -> Result<Vec<u8>> {
        let mut octets = Reader::new(&ber, ber.len() as u64).octets(0)?;
        let mut found = Vec::new();
        while let Some(run) = octets.next_run()? {
            octets.copy(run, &mut found)?;
        }
        octets.behind().finish()?;
        Ok(found)
    }

    #[test]
    fn an_octet_string_is_its_runs() {
        for ber in ["80030102 03", "a0070401010402 0203", "a0800401012480040102040103000 00000"] {
            let ber = hex::decode(ber.replace(' ', "")).expect("hex");
            assert_eq!(octets_of(&ber).as_deref(), Ok(&[1, 2, 3][..]));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (der_of(&bytes).is_ok(), octets_of(&bytes).is_ok());
            Reader::new(&bytes.as_slice(), bytes.len() as u64).skip().ok();
        }

        #[test]
        fn der_stays_as_it_is(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let content: Vec<u8> = parts.iter().flat_map(|part| element(OCTET_STRING, part)).collect();
            let der = element(SEQUENCE, &content);
            prop_assert_eq!(der_of(&der).expect("DER"), der);
        }
    }
}
