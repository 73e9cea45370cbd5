//! The byte layout of ZIP records (APPNOTE §4.3, §4.5): numbers are little-endian.

/// §4.3.7
pub(super) const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
/// §4.3.12
pub(super) const CENTRAL_SIGNATURE: u32 = 0x0201_4b50;
/// §4.3.16
pub(super) const END_SIGNATURE: u32 = 0x0605_4b50;
/// §4.3.14
pub(super) const END64_SIGNATURE: u32 = 0x0606_4b50;
/// §4.3.15
pub(super) const LOCATOR_SIGNATURE: u32 = 0x0706_4b50;
/// §4.3.9.3
pub(super) const DESCRIPTOR_SIGNATURE: u32 = 0x0807_4b50;

pub(super) const LOCAL_LEN: usize = 30;
pub(super) const CENTRAL_LEN: usize = 46;
pub(super) const END_LEN: usize = 22;
pub(super) const END64_LEN: usize = 56;
pub(super) const LOCATOR_LEN: usize = 20;

pub(super) const FLAG_ENCRYPTED: u16 = 1;
pub(super) const FLAG_DESCRIPTOR: u16 = 1 << 3;
pub(super) const FLAG_UTF8: u16 = 1 << 11;
/// Encrypted, two bits of compression level, descriptor, UTF-8.
pub(super) const KNOWN_FLAGS: u16 = FLAG_ENCRYPTED | 0b110 | FLAG_DESCRIPTOR | FLAG_UTF8;

pub(super) const METHOD_STORED: u16 = 0;
pub(super) const METHOD_DEFLATED: u16 = 8;
pub(super) const METHOD_AES: u16 = 99;

pub(super) const EXTRA_ZIP64: u16 = 0x0001;
pub(super) const EXTRA_NTFS: u16 = 0x000a;
pub(super) const EXTRA_TIME: u16 = 0x5455;
pub(super) const EXTRA_AES: u16 = 0x9901;

/// Bytes of AE-2's authentication code, at the end of an entry's data.
pub(in super::super) const AE2_CODE_LEN: usize = 10;
/// AE-2's authentication code.
pub(in super::super) type Ae2Code = [u8; AE2_CODE_LEN];
/// Bytes that AE-2 adds to content: salt, verifier and code.
pub(in super::super) const AE2_OVERHEAD: u64 = 16 + 2 + AE2_CODE_LEN as u64;

/// The upper byte of “version made by”: external attributes hold a Unix mode.
pub(super) const MADE_ON_UNIX: u16 = 3;

/// The file types of a Unix mode.
pub(super) const TYPE_MASK: u32 = 0o170_000;
pub(super) const TYPE_FILE: u32 = 0o100_000;
pub(super) const TYPE_FOLDER: u32 = 0o040_000;
pub(super) const TYPE_LINK: u32 = 0o120_000;

/// Whether a file starts with the local header of an unencrypted, stored entry of this name.
pub(in super::super) fn starts_with_local(start: &[u8], name: &[u8]) -> bool {
    let mut fields = Fields(start);
    let signature = fields.u32();
    let header = Common::read(&mut fields);
    let lengths = (fields.u16(), fields.u16());
    signature == Some(LOCAL_SIGNATURE)
        && header.is_some_and(|header| header.method == METHOD_STORED)
        && lengths.0 == u16::try_from(name.len()).ok()
        && fields.take(name.len()) == Some(name)
}

/// Reads one field after another.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

/// The fields that local and central header have in common, but for “version needed”.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Common {
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) time: u16,
    pub(super) date: u16,
    pub(super) crc: u32,
    pub(super) sealed_size: u32,
    pub(super) size: u32,
}

impl Common {
    /// Reads them, with “version needed” in front.
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u16()?;
        Some(Self {
            flags: fields.u16()?,
            method: fields.u16()?,
            time: fields.u16()?,
            date: fields.u16()?,
            crc: fields.u32()?,
            sealed_size: fields.u32()?,
            size: fields.u32()?,
        })
    }

    /// Writes them.
    pub(super) fn write(&self, version_needed: u16, out: &mut Vec<u8>) {
        for number in [version_needed, self.flags, self.method, self.time, self.date] {
            out.extend(number.to_le_bytes());
        }
        for number in [self.crc, self.sealed_size, self.size] {
            out.extend(number.to_le_bytes());
        }
    }
}

/// The extra fields of a header that matter here.
#[derive(Default)]
pub(super) struct Extra<'a> {
    /// Zip64: the numbers that did not fit.
    pub(super) zip64: Option<&'a [u8]>,
    /// AE-x: vendor version, vendor, strength, actual method.
    pub(super) aes: Option<&'a [u8]>,
    /// Modification time, seconds since 1970.
    pub(super) modified: Option<i64>,
}

impl<'a> Extra<'a> {
    /// Reads all of them. `None` if they do not fit together.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut extra = Self::default();
        let mut fields = Fields(bytes);
        while !fields.0.is_empty() {
            let id = fields.u16()?;
            let len = fields.u16()?;
            let data = fields.take(len.into())?;
            match id {
                EXTRA_ZIP64 if extra.zip64.replace(data).is_some() => return None,
                EXTRA_AES if extra.aes.replace(data).is_some() => return None,
                EXTRA_TIME => extra.modified = unix_time(data).or(extra.modified),
                EXTRA_NTFS => extra.modified = extra.modified.or_else(|| ntfs_time(data)),
                _ => {}
            }
        }
        Some(extra)
    }
}

/// The extended timestamp: flags, then the modification time if bit 0 is set.
fn unix_time(data: &[u8]) -> Option<i64> {
    let mut fields = Fields(data);
    let has_modified = fields.take(1)?[0] & 1 == 1;
    let seconds = has_modified.then(|| fields.u32()).flatten()?;
    Some(seconds.cast_signed().into())
}

/// NTFS times: four reserved bytes, tag 1, length 24, modification time in 100 ns since 1601.
fn ntfs_time(data: &[u8]) -> Option<i64> {
    let mut fields = Fields(data);
    fields.u32()?;
    if (fields.u16()?, fields.u16()?) != (1, 24) {
        return None;
    }
    let ticks = fields.u64()?;
    Some(i64::try_from(ticks / 10_000_000).ok()? - 11_644_473_600)
}
