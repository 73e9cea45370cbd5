//! The directory at the end of the archive, read strictly: every byte of the file belongs to exactly one entry, to the
//! directory or to its end record, and both headers of an entry say the same.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{
    super::ae2,
    entry::{Entry, Found},
    layout::{
        CENTRAL_LEN, CENTRAL_SIGNATURE, Common, DESCRIPTOR_SIGNATURE, END_LEN, END_SIGNATURE, END64_LEN,
        END64_SIGNATURE, Extra, FLAG_DESCRIPTOR, FLAG_ENCRYPTED, Fields, LOCAL_LEN, LOCAL_SIGNATURE,
        LOCATOR_LEN, LOCATOR_SIGNATURE, MADE_ON_UNIX, METHOD_STORED,
    },
    time,
};
use crate::{
    envelope::{damaged, unsupported},
    error::{Error, Kind, Result},
    extract::Limits,
};

/// Longest CIPHER.KEY, in bytes: a thousand recipients.
const MAX_CIPHER_KEY_LEN: u64 = 1 << 20;

/// Most bytes that the directory may have for each of its entries, on average.
const MAX_BYTES_PER_ENTRY: u64 = 8 * 1024;

/// The directory of an archive, all of it checked.
pub(in super::super) struct Directory {
    /// The first entry's content.
    pub(in super::super) cipher_key: Vec<u8>,
    /// The others.
    pub(in super::super) entries: Vec<Entry>,
    /// The central headers of all, as they are in the file.
    pub(in super::super) bytes: Vec<u8>,
    /// The archive's comment.
    pub(in super::super) comment: Vec<u8>,
}

impl Directory {
    /// Reads the directory of a file of `len` bytes, whose first entry must be stored, unencrypted, and named
    /// `first_name`.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if something contradicts something else or a name is unsafe; [`Kind::Local`] if a limit is
    /// exceeded, the file cannot be read, or something in it is unknown here.
    pub(in super::super) fn read(file: &File, len: u64, first_name: &[u8], limits: &Limits) -> Result<Self> {
        let end = End::read(file, len)?;
        if end.entries > limits.entries.saturating_add(1) {
            return Err(too_much(format!(
                "it has {} entries, the limit is {}",
                end.entries - 1,
                limits.entries
            )));
        }
        if end.directory_len > end.entries.saturating_mul(MAX_BYTES_PER_ENTRY) {
            return Err(damaged("the directory is larger than its entries can be"));
        }
        let bytes = read(file, end.directory_at, to_usize(end.directory_len)?)?;
        let mut reader = Reader {
            file,
            limits,
            directory_at: end.directory_at,
            content: 0,
            spans: Vec::new(),
            scratch: Vec::new(),
        };

        let mut fields = Fields(&bytes);
        let mut entries = Vec::new();
        let mut cipher_key = None;
        for _ in 0..end.entries {
            let central = Central::read(&mut fields)?;
            if cipher_key.is_none() {
                cipher_key = Some(reader.cipher_key(&central, first_name)?);
            } else {
                entries.push(reader.entry(&central)?);
            }
        }
        if !fields.0.is_empty() {
            return Err(damaged("the directory holds more than its entries"));
        }
        reader.check_tiling(end.directory_at)?;
        let cipher_key = cipher_key.ok_or_else(|| damaged("the directory is empty"))?;
        Ok(Self { cipher_key, entries, bytes, comment: end.comment })
    }
}

struct Reader<'a> {
    file: &'a File,
    limits: &'a Limits,
    /// Where the directory starts: all entries lie before it.
    directory_at: u64,
    /// Bytes of content so far.
    content: u64,
    /// Start and end of each entry, headers included.
    spans: Vec<(u64, u64)>,
    /// The local header that was read last.
    scratch: Vec<u8>,
}

impl Reader<'_> {
    fn cipher_key(&mut self, central: &Central<'_>, first_name: &[u8]) -> Result<Vec<u8>> {
        let found = &central.found;
        let plain = found.common.method == METHOD_STORED
            && found.common.flags & FLAG_ENCRYPTED == 0
            && found.size == found.sealed_size
            && found.size <= MAX_CIPHER_KEY_LEN;
        if !plain || found.name != first_name || central.offset != 0 {
            return Err(damaged("the first entry is not a stored CIPHER.KEY of at most 1 MiB"));
        }
        let at = self.check_local(central)?;
        let content = read(self.file, at, to_usize(found.size)?)?;
        let mut crc = flate2::Crc::new();
        crc.update(&content);
        if crc.sum() != found.common.crc {
            return Err(found.damaged("does not have its checksum"));
        }
        Ok(content)
    }

    fn entry(&mut self, central: &Central<'_>) -> Result<Entry> {
        let mut entry = central.found.check()?;
        self.check_limits(&entry)?;
        let at = self.check_local(central)?;
        if let Some(data) = &mut entry.data {
            data.at = at;
            read_into(self.file, at + central.found.sealed_size - ae2::CODE_LEN as u64, &mut data.code)?;
        }
        Ok(entry)
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

    /// Checks the local header against the central one. Returns where the data starts.
    fn check_local(&mut self, central: &Central<'_>) -> Result<u64> {
        let found = &central.found;
        let differs = || found.damaged("has two headers that differ");
        if central.offset >= self.directory_at {
            return Err(found.damaged("lies outside the archive"));
        }
        let mut fixed = [0; LOCAL_LEN];
        read_into(self.file, central.offset, &mut fixed)?;
        let mut fields = Fields(&fixed);
        let signature = fields.u32();
        let local = Common::read(&mut fields).ok_or_else(differs)?;
        let (Some(name_len), Some(extra_len)) = (fields.u16(), fields.u16()) else { return Err(differs()) };
        if signature != Some(LOCAL_SIGNATURE) || usize::from(name_len) != found.name.len() {
            return Err(differs());
        }

        self.scratch.resize(usize::from(name_len) + usize::from(extra_len), 0);
        read_into(self.file, central.offset + LOCAL_LEN as u64, &mut self.scratch)?;
        let (name, extra) = self.scratch.split_at(name_len.into());
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

        let start = central.offset + (LOCAL_LEN + self.scratch.len()) as u64;
        let end = start.checked_add(found.sealed_size).ok_or_else(differs)?;
        let end = if described { self.check_descriptor(found, end)? } else { end };
        self.spans.push((central.offset, end));
        Ok(start)
    }

    /// A data descriptor follows the data of an entry that was written in one go. Returns where it ends.
    fn check_descriptor(&self, found: &Found<'_>, at: u64) -> Result<u64> {
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
                if read(self.file, at, form.len()).is_ok_and(|bytes| bytes == form) {
                    return Ok(at + form.len() as u64);
                }
            }
        }
        Err(found.damaged("is not followed by its data descriptor"))
    }

    /// Entries that overlap, or bytes that belong to none, are how one archive shows different content to different
    /// programs.
    fn check_tiling(&mut self, directory_at: u64) -> Result<()> {
        self.spans.sort_unstable();
        let mut expected = 0;
        for (start, end) in &self.spans {
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
    fn read(file: &File, len: u64) -> Result<Self> {
        let tail_len = len.min((END_LEN + usize::from(u16::MAX)) as u64);
        let tail = read(file, len - tail_len, to_usize(tail_len)?)?;
        let cut_off = || damaged("the end of the archive is missing");
        let in_tail = (0..=tail.len().checked_sub(END_LEN).ok_or_else(cut_off)?)
            .rev()
            .find(|at| tail[*at..].starts_with(&END_SIGNATURE.to_le_bytes()))
            .ok_or_else(cut_off)?;
        let at = len - tail_len + in_tail as u64;
        let (end, narrow) =
            Self::parse(&tail[in_tail..]).ok_or_else(|| damaged("the end record makes no sense"))?;
        let (end, end_at) = if narrow { (end, at) } else { Self::read_64(file, at, end)? };
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
    fn read_64(file: &File, at: u64, narrow: Self) -> Result<(Self, u64)> {
        let nonsense = || damaged("the Zip64 end record makes no sense");
        let end64_at = at.checked_sub((END64_LEN + LOCATOR_LEN) as u64).ok_or_else(nonsense)?;
        let bytes = read(file, end64_at, END64_LEN + LOCATOR_LEN)?;
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

fn read(file: &File, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    read_into(file, at, &mut bytes)?;
    Ok(bytes)
}

fn read_into(file: &File, at: u64, bytes: &mut [u8]) -> Result<()> {
    file.read_exact_at(bytes, at).map_err(|why| match why.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => Error::new(Kind::Local, "cannot read the envelope", why),
    })
}

fn too_much(why: String) -> Error {
    Error::new(Kind::Local, "the envelope holds too much", why)
        .hint("nothing was released; if you trust its sender, raise the limit")
}
