//! The records of a new archive.

use super::{
    entry::Compression,
    layout::{
        CENTRAL_LEN, CENTRAL_SIGNATURE, Common, DESCRIPTOR_SIGNATURE, END_LEN, END_SIGNATURE, END64_LEN,
        END64_SIGNATURE, EXTRA_AES, EXTRA_TIME, EXTRA_ZIP64, FLAG_DESCRIPTOR, FLAG_ENCRYPTED, FLAG_UTF8,
        LOCAL_LEN, LOCAL_SIGNATURE, LOCATOR_SIGNATURE, MADE_ON_UNIX, METHOD_AES, TYPE_FOLDER, TYPE_LINK,
        TYPE_MASK,
    },
    time,
};

/// Version 6.3 of the specification.
const MADE_BY: u16 = MADE_ON_UNIX << 8 | 63;
const NEEDED_FOR_FOLDERS: u16 = 20;
const NEEDED_FOR_AES: u16 = 51;
const NEEDED_FOR_ZIP64: u16 = 45;

/// Entries this large, and those from a stream, get room for 64-bit sizes in their local header, which is written before
/// the sealed size is known. Far enough below 4 GiB for what deflating can add.
const WIDE: u64 = 0xf000_0000;

/// An entry that is being written.
#[derive(Clone, Debug)]
pub(in super::super) struct NewEntry {
    /// With a slash at the end if it is a folder.
    pub(in super::super) name: String,
    /// With the file type.
    pub(in super::super) mode: u32,
    /// Seconds since 1970.
    pub(in super::super) modified: i64,
    /// Bytes of content.
    pub(in super::super) size: u64,
    /// Bytes in the archive.
    pub(in super::super) sealed_size: u64,
    pub(in super::super) body: Body,
    pub(in super::super) sizes: Sizes,
}

/// What is known of the content's size when the local header is first written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Sizes {
    /// The size itself.
    Known,
    /// Nothing: it comes from a stream.
    KnownAtTheEnd,
}

/// What follows the local header.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Body {
    /// Not encrypted.
    Plain { compression: Compression, crc: u32, numbers: Numbers },
    /// AE-2.
    Sealed(Compression),
}

/// Where checksum and sizes are, besides in the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Numbers {
    /// In the local header: they are known before the data is written.
    InHeader,
    /// In a data descriptor behind the data: the local header is never written again.
    Behind,
}

impl Body {
    /// Stored, not encrypted, with this CRC-32.
    pub(in super::super) fn plain(crc: u32) -> Self {
        Self::Plain { compression: Compression::Stored, crc, numbers: Numbers::InHeader }
    }

    fn numbers(self) -> Numbers {
        match self {
            Self::Plain { numbers, .. } => numbers,
            Self::Sealed(_) => Numbers::InHeader,
        }
    }
}

impl NewEntry {
    /// Whether its content is where a symbolic link points to.
    pub(in super::super) fn is_link(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_LINK
    }

    /// The header in front of the data. Its length does not depend on `sealed_size`.
    pub(in super::super) fn local_header(&self) -> Vec<u8> {
        let mut extra = Vec::new();
        let wide = self.has_wide_header();
        let (size, sealed_size) = match self.body.numbers() {
            Numbers::InHeader => (self.size, self.sealed_size),
            Numbers::Behind => (0, 0),
        };
        if wide {
            push_field(&mut extra, EXTRA_ZIP64, &[size, sealed_size].map(u64::to_le_bytes).concat());
        }
        self.push_common_extra(&mut extra);

        let mut out = Vec::with_capacity(LOCAL_LEN + self.name.len() + extra.len());
        out.extend(LOCAL_SIGNATURE.to_le_bytes());
        let (size, sealed_size) =
            if wide { (u32::MAX, u32::MAX) } else { (narrowed(size), narrowed(sealed_size)) };
        let mut common = self.common(size, sealed_size);
        if self.body.numbers() != Numbers::InHeader {
            common.crc = 0;
        }
        common.write(self.version_needed(wide), &mut out);
        push_len(&mut out, self.name.len());
        push_len(&mut out, extra.len());
        out.extend(self.name.as_bytes());
        out.extend(extra);
        out
    }

    /// What follows the data, where checksum and sizes were not known before it (§4.3.9). Empty elsewhere.
    pub(in super::super) fn descriptor(&self) -> Vec<u8> {
        let Body::Plain { crc, numbers: Numbers::Behind, .. } = self.body else {
            return Vec::new();
        };
        let mut out = [DESCRIPTOR_SIGNATURE, crc].map(u32::to_le_bytes).concat();
        for number in [self.sealed_size, self.size] {
            match self.has_wide_header() {
                true => out.extend(number.to_le_bytes()),
                false => out.extend(narrowed(number).to_le_bytes()),
            }
        }
        out
    }

    fn has_wide_header(&self) -> bool {
        self.sizes == Sizes::KnownAtTheEnd || self.size >= WIDE
    }

    /// The header in the directory; `offset` is where the local header is.
    pub(in super::super) fn central_header(&self, offset: u64) -> Vec<u8> {
        let mut wide = Vec::new();
        for number in [self.size, self.sealed_size, offset] {
            if narrowed(number) == u32::MAX {
                wide.extend(number.to_le_bytes());
            }
        }
        let mut extra = Vec::new();
        if !wide.is_empty() {
            push_field(&mut extra, EXTRA_ZIP64, &wide);
        }
        self.push_common_extra(&mut extra);

        let is_folder = self.mode & TYPE_MASK == TYPE_FOLDER;
        let msdos_attributes: u32 = if is_folder { 0x10 } else { 0 };
        let mut out = Vec::with_capacity(CENTRAL_LEN + self.name.len() + extra.len());
        out.extend(CENTRAL_SIGNATURE.to_le_bytes());
        out.extend(MADE_BY.to_le_bytes());
        self.common(narrowed(self.size), narrowed(self.sealed_size))
            .write(self.version_needed(!wide.is_empty()), &mut out);
        push_len(&mut out, self.name.len());
        push_len(&mut out, extra.len());
        // No comment, disk 0, no internal attributes.
        out.extend([0; 6]);
        out.extend((self.mode << 16 | msdos_attributes).to_le_bytes());
        out.extend(narrowed(offset).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.extend(extra);
        out
    }

    fn common(&self, size: u32, sealed_size: u32) -> Common {
        let (time, date) = time::to_dos(self.modified);
        let (flags, method, crc) = match self.body {
            Body::Plain { compression, crc, numbers: Numbers::InHeader } => {
                (FLAG_UTF8, compression.method(), crc)
            }
            Body::Plain { compression, crc, .. } => (FLAG_UTF8 | FLAG_DESCRIPTOR, compression.method(), crc),
            Body::Sealed(_) => (FLAG_UTF8 | FLAG_ENCRYPTED, METHOD_AES, 0),
        };
        Common { flags, method, time, date, crc, sealed_size, size }
    }

    fn version_needed(&self, wide: bool) -> u16 {
        match self.body {
            Body::Sealed(_) => NEEDED_FOR_AES,
            Body::Plain { .. } if wide => NEEDED_FOR_ZIP64,
            Body::Plain { .. } => NEEDED_FOR_FOLDERS,
        }
    }

    fn push_common_extra(&self, extra: &mut Vec<u8>) {
        // The field holds 32 bits. A time beyond them is left to the MS-DOS field.
        if let Ok(seconds) = i32::try_from(self.modified) {
            let [a, b, c, d] = seconds.to_le_bytes();
            push_field(extra, EXTRA_TIME, &[1, a, b, c, d]);
        }
        if let Body::Sealed(compression) = self.body {
            let [low, high] = compression.method().to_le_bytes();
            push_field(extra, EXTRA_AES, &[2, 0, b'A', b'E', 3, low, high]);
        }
    }
}

/// What follows the directory.
pub(in super::super) fn end_of_directory(entries: u64, at: u64, len: u64, comment: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(END64_LEN + END_LEN + comment.len());
    let narrow_entries = u16::try_from(entries).unwrap_or(u16::MAX);
    if narrow_entries == u16::MAX || narrowed(len) == u32::MAX || narrowed(at) == u32::MAX {
        out.extend(END64_SIGNATURE.to_le_bytes());
        out.extend((END64_LEN as u64 - 12).to_le_bytes());
        out.extend(MADE_BY.to_le_bytes());
        out.extend(NEEDED_FOR_ZIP64.to_le_bytes());
        // Disk numbers.
        out.extend([0; 8]);
        for number in [entries, entries, len, at] {
            out.extend(number.to_le_bytes());
        }
        out.extend(LOCATOR_SIGNATURE.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend((at + len).to_le_bytes());
        out.extend(1u32.to_le_bytes());
    }
    out.extend(END_SIGNATURE.to_le_bytes());
    out.extend([0; 4]);
    out.extend(narrow_entries.to_le_bytes());
    out.extend(narrow_entries.to_le_bytes());
    out.extend(narrowed(len).to_le_bytes());
    out.extend(narrowed(at).to_le_bytes());
    push_len(&mut out, comment.len());
    out.extend(comment);
    out
}

/// `u32::MAX` stands for “see the Zip64 field”.
fn narrowed(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn push_field(extra: &mut Vec<u8>, id: u16, data: &[u8]) {
    extra.extend(id.to_le_bytes());
    push_len(extra, data.len());
    extra.extend(data);
}

/// Lengths of names (at most 4,096), extra fields and comments (tens of bytes) always fit.
fn push_len(out: &mut Vec<u8>, len: usize) {
    out.extend(u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
}
