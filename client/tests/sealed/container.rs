//! The outer ZIP of a `sealed` envelope, put together by hand: written apart from the product, after `docs/formats/sealed.md`.
//! The fuzz targets use it, too.

/// The outer ZIP around these two contents.
pub(crate) fn container(key: &[u8], data: &[u8]) -> Vec<u8> {
    let (key_crc, data_crc) = (crc32fast::hash(key), crc32fast::hash(data));
    let common = |version: u16, flags: u16, crc: u32, size: u32, name: &str, extra: u16| {
        let mut out = Vec::new();
        [version, flags, 0, 0, 0x21].iter().for_each(|number| out.extend(number.to_le_bytes()));
        [crc, size, size].iter().for_each(|number| out.extend(number.to_le_bytes()));
        [name.len() as u16, extra].iter().for_each(|len| out.extend(len.to_le_bytes()));
        out
    };
    let (first, second) = ("CIPHER.KEY", "SEALED.DATA");
    let mut out = b"PK\x03\x04".to_vec();
    out.extend(common(20, 0x800, key_crc, key.len() as u32, first, 0));
    out.extend(first.as_bytes());
    out.extend(key);
    let second_at = out.len() as u32;
    out.extend(b"PK\x03\x04");
    out.extend(common(45, 0x808, 0, u32::MAX, second, 20));
    out.extend(second.as_bytes());
    out.extend([1, 0, 16, 0]);
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"PK\x07\x08");
    out.extend(data_crc.to_le_bytes());
    (0..2).for_each(|_| out.extend((data.len() as u64).to_le_bytes()));
    let directory_at = out.len() as u32;
    for (name, flags, crc, size, at) in
        [(first, 0x800, key_crc, key.len(), 0), (second, 0x808, data_crc, data.len(), second_at)]
    {
        out.extend(b"PK\x01\x02");
        out.extend([63, 3]);
        out.extend(common(20, flags, crc, size as u32, name, 0));
        out.extend([0; 6]);
        out.extend((0o100_644u32 << 16).to_le_bytes());
        out.extend(at.to_le_bytes());
        out.extend(name.as_bytes());
    }
    let directory_len = out.len() as u32 - directory_at;
    out.extend(b"PK\x05\x06\0\0\0\0\x02\0\x02\0");
    out.extend(directory_len.to_le_bytes());
    out.extend(directory_at.to_le_bytes());
    out.extend([0; 2]);
    out
}
