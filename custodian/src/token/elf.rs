//! What a file is made for, read before it is loaded: the loader says of a library for another machine that there is no
//! such file.

use std::{fs::File, io::Read, path::Path};

/// The part of the ELF header that is the same for 32 and 64 bits, up to `e_machine`.
const HEADER: usize = 20;

/// `e_type` of a shared library.
const SHARED: u16 = 3;

struct Header {
    /// `EI_CLASS` and `EI_DATA`: word size and byte order.
    layout: [u8; 2],
    kind: u16,
    machine: u16,
}

/// Whether the file is a shared library for the machine that this program runs on. `Err` says what it is instead.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let theirs = Header::read(path)?.ok_or("it is no shared library")?;
    // Without /proc nothing can be compared: then the loader has the word.
    let Ok(Some(ours)) = Header::read(Path::new("/proc/self/exe")) else { return Ok(()) };
    if theirs.layout != ours.layout || theirs.machine != ours.machine {
        return Err(format!("it is made for {}, and this is {}", theirs.name(), ours.name()));
    }
    if theirs.kind != SHARED {
        return Err("it is no shared library but a program or a part of one".to_owned());
    }
    Ok(())
}

impl Header {
    /// `Ok(None)` if the file is not in the ELF format.
    fn read(path: &Path) -> Result<Option<Self>, String> {
        let unreadable = |error| format!("it cannot be read: {error}");
        let mut bytes = Vec::with_capacity(HEADER);
        let file = File::open(path).map_err(unreadable)?;
        file.take(HEADER as u64).read_to_end(&mut bytes).map_err(unreadable)?;
        let Ok(bytes) = <[u8; HEADER]>::try_from(bytes) else { return Ok(None) };
        if bytes[..4] != *b"\x7fELF" {
            return Ok(None);
        }
        let number = |at: usize| {
            let two = [bytes[at], bytes[at + 1]];
            if bytes[5] == 2 { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) }
        };
        Ok(Some(Self { layout: [bytes[4], bytes[5]], kind: number(16), machine: number(18) }))
    }

    fn name(&self) -> String {
        let machine = match self.machine {
            3 => "x86",
            21 => "ppc64",
            22 => "s390",
            40 => "arm",
            62 => "x86-64",
            183 => "aarch64",
            243 => "riscv",
            _ => return format!("machine {} (e_machine of its ELF header)", self.machine),
        };
        match self.layout[0] {
            1 => format!("{machine}, 32 bits"),
            _ => format!("{machine}, 64 bits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_told_apart_before_they_are_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("module.so");
        let ours = fs::read("/proc/self/exe").unwrap();
        let mut cases = vec![
            (b"".to_vec(), "no shared library"),
            (b"\x7fELF".to_vec(), "no shared library"),
            (b"#!/bin/sh\necho this is a script\n".to_vec(), "no shared library"),
        ];
        let with = |at: usize, value: u8| {
            let mut bytes = ours[..HEADER].to_vec();
            bytes[at] = value;
            bytes
        };
        cases.push((with(18, 183), "made for aarch64"));
        cases.push((with(18, 250), "made for machine 250"));
        cases.push((with(4, 1), "32 bits"));
        cases.push((with(16, 1), "a part of one"));
        for (bytes, part) in cases {
            fs::write(&file, bytes).unwrap();
            let why = check(&file).unwrap_err();
            assert!(why.contains(part), "{part:?} in {why}");
        }
        fs::write(&file, with(16, 3)).unwrap();
        assert_eq!(check(&file), Ok(()));
        assert!(check(&folder.path().join("none")).unwrap_err().contains("cannot be read"));
    }
}
