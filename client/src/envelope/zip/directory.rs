//! The directory at the end of the archive, read strictly: every byte of the file belongs to exactly one entry, to the
//! directory or to its end record, and both headers of an entry say the same.

use super::{
    entry::{Entry, Found, Protection},
    layout::{
        AE2_CODE_LEN, CENTRAL_LEN, CENTRAL_SIGNATURE, Common, DESCRIPTOR_SIGNATURE, END_LEN, END_SIGNATURE,
        END64_LEN, END64_SIGNATURE, Extra, FLAG_DESCRIPTOR, FLAG_ENCRYPTED, Fields, LOCAL_LEN,
        LOCAL_SIGNATURE, LOCATOR_LEN, LOCATOR_SIGNATURE, MADE_ON_UNIX, METHOD_STORED,
    },
    time,
};
use crate::{
    envelope::{
        damaged,
        read_at::{ReadAt, read},
        unsupported,
    },
    error::{Error, Kind, Result},
    extract::Limits,
};

/// Longest CIPHER.KEY, in bytes: a thousand recipients.
pub(in super::super) const MAX_CIPHER_KEY_LEN: u64 = 1 << 20;

/// Most bytes that the directory may have for each of its entries, on average.
const MAX_BYTES_PER_ENTRY: u64 = 8 * 1024;

/// The directory of an archive.
pub(in super::super) struct Directory {
    /// Files, folders and links. MTD's CIPHER.KEY is not among them.
    pub(in super::super) entries: Vec<Entry>,
    /// The central headers of all, as they are in the file.
    pub(in super::super) bytes: Vec<u8>,
    /// The archive's comment.
    pub(in super::super) comment: Vec<u8>,
    /// Where each local header starts, in order, and then the directory itself.
    starts: Vec<u64>,
}

impl Directory {
    /// Reads an archive of `len` bytes whose first entry is stored, unencrypted, named `first_name`, and whose others are
    /// encrypted with AE-2. All of it is checked. Returns the first entry's content, too.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if something contradicts something else or a name is unsafe; [`Kind::Local`] if a limit is
    /// exceeded, the file cannot be read, or something in it is unknown here.
    pub(in super::super) fn read_with_first(
        source: &dyn ReadAt,
        len: u64,
        first_name: &[u8],
        limits: &Limits,
    ) -> Result<(Self, Vec<u8>)> {
        let end = End::read(source, len)?;
        let bytes = end.read_directory(source, limits.entries.saturating_add(1), 1)?;
        let mut reader = Reader::new(source, limits, end.directory_at);
        let mut fields = Fields(&bytes);
        let mut spans = Vec::new();
        let mut entries = Vec::new();
        let mut first = None;
        for _ in 0..end.entries {
            let central_at = bytes.len() - fields.0.len();
            let central = Central::read(&mut fields)?;
            let span = if first.is_none() {
                let (content, span) = reader.first(&central, first_name)?;
                first = Some(content);
                span
            } else {
                let (entry, span) = reader.sealed_entry(&central, central_at)?;
                entries.push(entry);
                span
            };
            spans.push((central.offset, span.end));
        }
        check_all_taken(&fields)?;
        check_tiling(&mut spans, end.directory_at)?;
        let first = first.ok_or_else(|| damaged("the directory is empty"))?;
        let starts = spans.into_iter().map(|(start, _)| start).chain([end.directory_at]).collect();
        Ok((Self { entries, bytes, comment: end.comment, starts }, first))
    }

    /// Reads an archive of `len` bytes none of whose entries is encrypted. Of the entries, only their headers in the
    /// directory are read and checked: [`Directory::locate`] does the rest for those that are wanted.
    ///
    /// # Errors
    /// As [`Directory::read_with_first`].
    pub(in super::super) fn read_plain(source: &dyn ReadAt, len: u64, limits: &Limits) -> Result<Self> {
        let end = End::read(source, len)?;
        let bytes = end.read_directory(source, limits.entries, 0)?;
        let mut reader = Reader::new(source, limits, end.directory_at);
        let mut fields = Fields(&bytes);
        let mut entries = Vec::new();
        let mut starts = vec![end.directory_at];
        for _ in 0..end.entries {
            let central_at = bytes.len() - fields.0.len();
            let central = Central::read(&mut fields)?;
            let entry = central.found.check(Protection::Outside, central_at)?;
            reader.check_limits(&entry)?;
            entries.push(entry);
            starts.push(central.offset);
        }
        check_all_taken(&fields)?;
        starts.sort_unstable();
        let from_the_start = starts.first() == Some(&0) && starts.last() == Some(&end.directory_at);
        if !from_the_start || starts.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(damaged("entries overlap or leave a gap"));
        }
        Ok(Self { entries, bytes, comment: end.comment, starts })
    }

    /// Reads and checks the local header of an entry of [`Directory::read_plain`]. Returns where its data starts.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if it differs from the one in the directory, or if the entry does not end where the next one
    /// starts; [`Kind::Local`] if it cannot be read.
    pub(in super::super) fn locate(&self, source: &dyn ReadAt, entry: &Entry) -> Result<u64> {
        let central = Central::read(&mut Fields(self.bytes.get(entry.central_at..).unwrap_or_default()))?;
        let next = self.starts.partition_point(|start| *start <= central.offset);
        let span =
            check_local(source, &central, self.starts.last().copied().unwrap_or_default(), &mut Vec::new())?;
        if self.starts.get(next) != Some(&span.end) {
            return Err(central.found.damaged("overlaps another, or a gap follows it"));
        }
        Ok(span.data)
    }
}

/// Where an entry's data starts, and where the entry ends.
struct Span {
    data: u64,
    end: u64,
}

struct Reader<'a> {
    source: &'a dyn ReadAt,
    limits: &'a Limits,
    /// Where the directory starts: all entries lie before it.
    directory_at: u64,
    /// Bytes of content so far.
    content: u64,
    /// The local header that was read last.
    scratch: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn ReadAt, limits: &'a Limits, directory_at: u64) -> Self {
        Self { source, limits, directory_at, content: 0, scratch: Vec::new() }
    }

    fn first(&mut self, central: &Central<'_>, first_name: &[u8]) -> Result<(Vec<u8>, Span)> {
        let found = &central.found;
        let plain = found.common.method == METHOD_STORED
            && found.common.flags & FLAG_ENCRYPTED == 0
            && found.size == found.sealed_size
            && found.size <= MAX_CIPHER_KEY_LEN;
        if !plain || found.name != first_name || central.offset != 0 {
            return Err(damaged("the first entry is not a stored CIPHER.KEY of at most 1 MiB"));
        }
        let span = check_local(self.source, central, self.directory_at, &mut self.scratch)?;
        let content = read(self.source, span.data, to_usize(found.size)?)?;
        if crc32fast::hash(&content) != found.common.crc {
            return Err(found.damaged("does not have its checksum"));
        }
        Ok((content, span))
    }

    fn sealed_entry(&mut self, central: &Central<'_>, central_at: usize) -> Result<(Entry, Span)> {
        let mut entry = central.found.check(Protection::Ae2, central_at)?;
        self.check_limits(&entry)?;
        let span = check_local(self.source, central, self.directory_at, &mut self.scratch)?;
        if let Some(data) = &mut entry.data {
            data.at = span.data;
            let code_at = span.data + central.found.sealed_size - AE2_CODE_LEN as u64;
            self.source.fill(code_at, &mut data.code)?;
        }
        Ok((entry, span))
    }

    fn check_limits(&mut self, entry: &Entry) -> Result<()> {
        let ratio = entry.size / entry.sealed_size.max(1);
        if ratio > self.limits.ratio {
            return Err(too_much(format!(
                "“{}” would grow {ratio}-fold, the limit is {}",
                entry.path, self.limits.ratio
            )));
        }
        self.content = self.content.saturating_add(entry.size);
        if self.content > self.limits.content_bytes {
            return Err(too_much(format!(
                "up to “{}” its content has {} bytes, the limit is {}",
                entry.path, self.content, self.limits.content_bytes
            )));
        }
        Ok(())
    }
}

/// Checks the local header against the central one.
fn check_local(
    source: &dyn ReadAt,
    central: &Central<'_>,
    directory_at: u64,
    scratch: &mut Vec<u8>,
) -> Result<Span> {
    let found = &central.found;
    let differs = || found.damaged("has two headers that differ");
    if central.offset >= directory_at {
        return Err(found.damaged("lies outside the archive"));
    }
    let mut fixed = [0; LOCAL_LEN];
    source.fill(central.offset, &mut fixed)?;
    let mut fields = Fields(&fixed);
    let signature = fields.u32();
    let local = Common::read(&mut fields).ok_or_else(differs)?;
    let (Some(name_len), Some(extra_len)) = (fields.u16(), fields.u16()) else { return Err(differs()) };
    if signature != Some(LOCAL_SIGNATURE) || usize::from(name_len) != found.name.len() {
        return Err(differs());
    }

    scratch.resize(usize::from(name_len) + usize::from(extra_len), 0);
    source.fill(central.offset + LOCAL_LEN as u64, scratch)?;
    let (name, extra) = scratch.split_at(name_len.into());
    let extra = Extra::read(extra).ok_or_else(differs)?;
    let mut wide = Fields(extra.zip64.unwrap_or_default());
    let size = widened(local.size, &mut wide).ok_or_else(differs)?;
    let sealed_size = widened(local.sealed_size, &mut wide).ok_or_else(differs)?;

    let described = local.flags & FLAG_DESCRIPTOR != 0;
    let numbers = (local.crc, sealed_size, size);
    let same_numbers =
        numbers == (found.common.crc, found.sealed_size, found.size) || described && numbers == (0, 0, 0);
    let same_rest = (local.flags, local.method, local.time, local.date)
        == (found.common.flags, found.common.method, found.common.time, found.common.date);
    if !same_numbers || !same_rest || name != found.name || extra.aes != found.aes {
        return Err(differs());
    }

    let start = central.offset + (LOCAL_LEN + scratch.len()) as u64;
    let end = start.checked_add(found.sealed_size).ok_or_else(differs)?;
    let end = if described { check_descriptor(source, found, end)? } else { end };
    Ok(Span { data: start, end })
}

/// A data descriptor follows the data of an entry that was written in one go. Returns where it ends.
fn check_descriptor(source: &dyn ReadAt, found: &Found<'_>, at: u64) -> Result<u64> {
    let wide = [
        found.common.crc.to_le_bytes().as_slice(),
        &found.sealed_size.to_le_bytes(),
        &found.size.to_le_bytes(),
    ]
    .concat();
    let mut forms = vec![wide];
    if let (Ok(sealed_size), Ok(size)) = (u32::try_from(found.sealed_size), u32::try_from(found.size)) {
        forms.push([found.common.crc, sealed_size, size].map(u32::to_le_bytes).concat());
    }
    for form in forms {
        for form in [[DESCRIPTOR_SIGNATURE.to_le_bytes().as_slice(), &form].concat(), form.clone()] {
            match read(source, at, form.len()) {
                Ok(bytes) if bytes == form => return Ok(at + form.len() as u64),
                // Another form may be shorter.
                Ok(_) | Err(Error { kind: Kind::Integrity, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Err(found.damaged("is not followed by its data descriptor"))
}

/// Entries that overlap, or bytes that belong to none, are how one archive shows different content to different
/// programs.
fn check_tiling(spans: &mut [(u64, u64)], directory_at: u64) -> Result<()> {
    spans.sort_unstable();
    let mut expected = 0;
    for (start, end) in &*spans {
        if *start != expected {
            return Err(damaged(format!("entries overlap or leave a gap at byte {expected}")));
        }
        expected = *end;
    }
    if expected != directory_at {
        return Err(damaged(format!("entries overlap or leave a gap at byte {expected}")));
    }
    Ok(())
}

fn check_all_taken(fields: &Fields<'_>) -> Result<()> {
    if fields.0.is_empty() { Ok(()) } else { Err(damaged("the directory holds more than its entries")) }
}

/// A central header.
struct Central<'a> {
    found: Found<'a>,
    /// Where the local header is.
    offset: u64,
}

impl<'a> Central<'a> {
    fn read(fields: &mut Fields<'a>) -> Result<Self> {
        Self::parse(fields).ok_or_else(|| damaged("the directory does not hold what it announces"))?
    }

    fn parse(fields: &mut Fields<'a>) -> Option<Result<Self>> {
        let mut fixed = Fields(fields.take(CENTRAL_LEN)?);
        if fixed.u32()? != CENTRAL_SIGNATURE {
            return None;
        }
        let made_by = fixed.u16()?;
        let common = Common::read(&mut fixed)?;
        let (name_len, extra_len, comment_len) = (fixed.u16()?, fixed.u16()?, fixed.u16()?);
        let disk = fixed.u16()?;
        let _internal_attributes = fixed.u16()?;
        let external_attributes = fixed.u32()?;
        let offset = fixed.u32()?;
        let name = fields.take(name_len.into())?;
        let extra = Extra::read(fields.take(extra_len.into())?)?;
        fields.take(comment_len.into())?;
        if disk != 0 {
            return Some(Err(unsupported("it is part of a set of several files")));
        }

        let mut wide = Fields(extra.zip64.unwrap_or_default());
        let size = widened(common.size, &mut wide)?;
        let sealed_size = widened(common.sealed_size, &mut wide)?;
        let offset = widened(offset, &mut wide)?;
        let found = Found {
            name,
            common,
            aes: extra.aes,
            size,
            sealed_size,
            modified: extra.modified.or_else(|| time::from_dos(common.time, common.date)),
            // Some programs claim Unix and leave the mode empty.
            mode: Some(external_attributes >> 16).filter(|mode| made_by >> 8 == MADE_ON_UNIX && *mode != 0),
        };
        Some(Ok(Self { found, offset }))
    }
}

/// The end of the directory (§4.3.16), and its Zip64 twin if there is one (§4.3.14).
struct End {
    entries: u64,
    directory_at: u64,
    directory_len: u64,
    comment: Vec<u8>,
}

impl End {
    /// The bytes of the directory, if it has at most so many entries, of which `besides` are none of the sender's.
    fn read_directory(&self, source: &dyn ReadAt, most: u64, besides: u64) -> Result<Vec<u8>> {
        if self.entries > most {
            let (entries, limit) = (self.entries - besides, most - besides);
            return Err(too_much(format!("it has {entries} entries, the limit is {limit}")));
        }
        if self.directory_len > self.entries.saturating_mul(MAX_BYTES_PER_ENTRY) {
            return Err(damaged("the directory is larger than its entries can be"));
        }
        read(source, self.directory_at, to_usize(self.directory_len)?)
    }

    fn read(source: &dyn ReadAt, len: u64) -> Result<Self> {
        let tail_len = len.min((END_LEN + usize::from(u16::MAX)) as u64);
        let tail = read(source, len - tail_len, to_usize(tail_len)?)?;
        let cut_off = || damaged("the end of the archive is missing");
        let in_tail = (0..=tail.len().checked_sub(END_LEN).ok_or_else(cut_off)?)
            .rev()
            .find(|at| tail[*at..].starts_with(&END_SIGNATURE.to_le_bytes()))
            .ok_or_else(cut_off)?;
        let at = len - tail_len + in_tail as u64;
        let (end, narrow) =
            Self::parse(&tail[in_tail..]).ok_or_else(|| damaged("the end record makes no sense"))?;
        let (end, end_at) = if narrow { (end, at) } else { Self::read_64(source, at, end)? };
        if end.directory_at.checked_add(end.directory_len) != Some(end_at) {
            return Err(damaged("the directory is not where it should be"));
        }
        Ok(end)
    }

    /// `true` if all its numbers fit.
    fn parse(bytes: &[u8]) -> Option<(Self, bool)> {
        let mut fields = Fields(bytes);
        fields.u32()?;
        if (fields.u16()?, fields.u16()?) != (0, 0) {
            return None;
        }
        let (entries_here, entries) = (fields.u16()?, fields.u16()?);
        let (directory_len, directory_at) = (fields.u32()?, fields.u32()?);
        let comment_len = fields.u16()?;
        let all_there = fields.0.len() == usize::from(comment_len) && entries_here == entries;
        let narrow = entries != u16::MAX && directory_len != u32::MAX && directory_at != u32::MAX;
        let end = Self {
            entries: entries.into(),
            directory_at: directory_at.into(),
            directory_len: directory_len.into(),
            comment: fields.0.to_vec(),
        };
        all_there.then_some((end, narrow))
    }

    /// The Zip64 records stand between the directory and the end record at `at`.
    fn read_64(source: &dyn ReadAt, at: u64, narrow: Self) -> Result<(Self, u64)> {
        let nonsense = || damaged("the Zip64 end record makes no sense");
        let end64_at = at.checked_sub((END64_LEN + LOCATOR_LEN) as u64).ok_or_else(nonsense)?;
        let bytes = read(source, end64_at, END64_LEN + LOCATOR_LEN)?;
        let end = Self::parse_64(&bytes, end64_at, narrow).ok_or_else(nonsense)?;
        Ok((end, end64_at))
    }

    fn parse_64(bytes: &[u8], end64_at: u64, narrow: Self) -> Option<Self> {
        let mut fields = Fields(bytes);
        let is_end64 = fields.u32()? == END64_SIGNATURE && fields.u64()? == (END64_LEN - 12) as u64;
        let (_made_by, _needed) = (fields.u16()?, fields.u16()?);
        let one_disk = (fields.u32()?, fields.u32()?) == (0, 0);
        let (entries_here, entries) = (fields.u64()?, fields.u64()?);
        let (directory_len, directory_at) = (fields.u64()?, fields.u64()?);
        let is_locator =
            fields.u32()? == LOCATOR_SIGNATURE && fields.u32()? == 0 && fields.u64()? == end64_at;
        let one_more_disk = fields.u32()? == 1;
        let agrees = |wide: u64, narrow: u64, unknown: u64| narrow == unknown || narrow == wide;
        let sound = is_end64
            && one_disk
            && entries_here == entries
            && is_locator
            && one_more_disk
            && agrees(entries, narrow.entries, u16::MAX.into())
            && agrees(directory_len, narrow.directory_len, u32::MAX.into())
            && agrees(directory_at, narrow.directory_at, u32::MAX.into());
        sound.then_some(Self { entries, directory_at, directory_len, comment: narrow.comment })
    }
}

/// A number of a header, or the next one of its Zip64 field if it did not fit (§4.5.3).
fn widened(narrow: u32, wide: &mut Fields<'_>) -> Option<u64> {
    if narrow == u32::MAX { wide.u64() } else { Some(narrow.into()) }
}

fn to_usize(len: u64) -> Result<usize> {
    usize::try_from(len).map_err(|_| unsupported("it is too large for this machine"))
}

fn too_much(why: String) -> Error {
    Error::new(Kind::Local, "the envelope holds too much", why)
        .hint("nothing was released; if you trust its sender, raise the limit")
}
