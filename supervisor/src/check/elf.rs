//! Whether this machine can execute a file: the header of a program against our own.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the header of a 64-bit program.
const HEADER: usize = 64;
/// Program headers looked through for the loader.
const SEGMENTS_MAX: u16 = 64;
/// Longest path of a loader. Unit: bytes.
const LOADER_MAX: u64 = 4096;
const PT_INTERP: u32 = 3;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Says what keeps a file from being executed, in words that follow its name.
///
/// # Errors
/// Not a program, of another machine, or without its loader.
pub(super) fn examine(path: &Path) -> Result<(), String> {
    let header = header(path)?;
    if header.get(..2) == Some(b"#!") {
        return Ok(());
    }
    if header.get(..4) != Some(b"\x7fELF") {
        return Err("is not a program".into());
    }
    let own = header_of_self()?;
    // Class and byte order, then the machine.
    if header.get(4..6) != own.get(4..6) || header.get(18..20) != own.get(18..20) {
        return Err("is a program for another machine".into());
    }
    match loader(path, &header) {
        Some(loader) if !Path::new(&loader).exists() => Err(format!("needs the loader {loader}, which is missing")),
        _ => Ok(()),
    }
}

fn header(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    file.take(HEADER as u64).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    Ok(bytes)
}

fn header_of_self() -> Result<Vec<u8>, String> {
    header(Path::new("/proc/self/exe"))
}

/// Path in the segment `PT_INTERP`; `None`: static, or 32-bit, or torn.
fn loader(path: &Path, header: &[u8]) -> Option<String> {
    if header.get(4) != Some(&2) {
        return None;
    }
    let file = File::open(path).ok()?;
    let (offset, size) = (u64::from_le_bytes(number(header, 32)?), u64::from(u16::from_le_bytes(number(header, 54)?)));
    let count = u16::from_le_bytes(number(header, 56)?).min(SEGMENTS_MAX);
    for index in 0..u64::from(count) {
        let mut segment = [0u8; 56];
        file.read_exact_at(&mut segment, offset.checked_add(index * size)?).ok()?;
        if u32::from_le_bytes(number(&segment, 0)?) == PT_INTERP {
            let (at, len) = (u64::from_le_bytes(number(&segment, 8)?), u64::from_le_bytes(number(&segment, 32)?));
            let mut bytes = vec![0u8; usize::try_from(len.min(LOADER_MAX)).ok()?];
            file.read_exact_at(&mut bytes, at).ok()?;
            let text = bytes.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn tells_programs_from_others() {
        let own = fs::read("/proc/self/exe").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        assert_eq!(examine(Path::new("/proc/self/exe")), Ok(()));
        assert_eq!(examine(&write("script", b"#!/bin/sh\n")), Ok(()));
        assert_eq!(examine(&write("text", b"hello")).unwrap_err(), "is not a program");
        let mut other = own.get(..HEADER).unwrap().to_vec();
        other[18] ^= 0x5a;
        assert_eq!(examine(&write("other", &other)).unwrap_err(), "is a program for another machine");
        let old = loader(Path::new("/proc/self/exe"), &header_of_self().unwrap()).unwrap();
        let at = own.windows(old.len()).position(|w| w == old.as_bytes()).unwrap();
        let mut lost = own;
        lost[at + 1] = b'X';
        assert!(examine(&write("lost", &lost)).unwrap_err().contains("which is missing"));
    }
}
