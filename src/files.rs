//! Files as a whole: writing one so that a crash never leaves half of it, reading a text of bounded size, SHA-256, and what a
//! stranger's first bytes say.

use crate::error::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes `bytes` to `path` so that at every moment the path holds either the whole old file or the whole new one.
///
/// The bytes go to a temporary file in the same folder (a rename works only within one file system), reach the disk, and take
/// the name in one step; then the folder reaches the disk too, or a power cut could undo the rename. On failure the temporary
/// file is removed and the old file stays as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(Error::usage(format!("cannot write {}: the path ends in no file name", path.display())));
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Process and count keep two writers apart; the leading dot keeps a leftover out of listings.
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.{}.tmp", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed)));
    let temporary = folder.join(temporary);
    let failed = |e: io::Error| Error::io("write", path, &e);

    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(failed)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if let Err(e) = written {
        // Nothing more can be done if this fails as well; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(failed(e));
    }
    match File::open(folder).and_then(|f| f.sync_all()) {
        // Some network file systems cannot sync a folder; the file itself is safe by then.
        Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Err(failed(e)),
        _ => Ok(()),
    }
}

/// Most bytes of a file of settings: config.toml, compare.toml. A whole one has 3 KB.
pub const MAX_SETTINGS: u64 = 1 << 20;
/// Most bytes of a JSON file that samcore wrote about a run or a machine.
pub const MAX_JSON: u64 = 64 << 20;
/// Most bytes of a metrics.csv: a row an epoch, so more than a million epochs.
pub const MAX_RECORDS: u64 = 256 << 20;
/// Most bytes of a source file of a kernel, its includes expanded.
pub const MAX_SOURCE: u64 = 64 << 20;

/// Returns the bytes of the file at `path`. Reading ends behind `most` bytes, so /dev/zero or a stream without an end costs
/// no more than that.
///
/// # Errors
/// NoInput, Io: the file cannot be read. Data: it is larger than `most` bytes.
pub fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let failed = |e: io::Error| Error::io("read", path, &e);
    let file = File::open(path).map_err(failed)?;
    let too_large = |size: &str| {
        let limit = if most >= 1 << 20 { format!("{} MiB", most >> 20) } else { format!("{most} bytes") };
        Error::data(format!(
            "{} is {size}, and at most {limit} are expected here; is it the right file?",
            path.display()
        ))
    };
    let found = file.metadata().map_err(failed)?;
    // Folders, devices and pipes have no size that says anything.
    let size = if found.is_file() { found.len() } else { 0 };
    if size > most {
        return Err(too_large(&format!("{size} bytes long")));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // One byte more than allowed tells a stream that is too long from one that just fits.
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most { Err(too_large("too long, or has no end")) } else { Ok(bytes) }
}

/// Returns the text of the file at `path`, which is at most `most` bytes long.
///
/// # Errors
/// As for [`read_bytes`]. Data: it is no UTF-8 text, with the first wrong byte.
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_bytes(path, most)?).map_err(|e| {
        let (at, bytes) = (e.utf8_error().valid_up_to(), e.as_bytes());
        let kind = looks_like(bytes).map_or(String::new(), |what| format!("; it is {what}"));
        Error::data(format!("{}: byte {at} is not UTF-8 text{kind}", path.display()))
    })
}

/// SHA-256 as 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of the rest of a stream, read in pieces of 64 KiB.
pub fn sha256_stream(from: &mut dyn Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(n) => hash.update(&piece[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What a file that begins with `head` seems to be, for the message when it is not what was expected.
pub fn looks_like(head: &[u8]) -> Option<&'static str> {
    const SIGNS: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "a gzip file"),
        (b"PK\x03\x04", "a zip archive (torch.save and numpy.savez write these)"),
        (b"\x80\x02", "a Python pickle"),
        (b"\x80\x03", "a Python pickle"),
        (b"\x80\x04", "a Python pickle"),
        (b"\x80\x05", "a Python pickle"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"version https://git-lfs", "a Git LFS pointer whose file was not fetched"),
        (b"<!DOCTYPE", "a web page"),
        (b"<!doctype", "a web page"),
        (b"<html", "a web page"),
        (b"<?xml", "an XML error page"),
    ];
    SIGNS.iter().find(|(sign, _)| head.starts_with(sign)).map(|(_, what)| *what)
}

/// A folder of its own for one test, removed at the end.
#[cfg(test)]
pub struct TestFolder(pub std::path::PathBuf);

#[cfg(test)]
impl TestFolder {
    pub fn new(name: &str) -> TestFolder {
        static FOLDERS: AtomicU64 = AtomicU64::new(0);
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("samcore-{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        TestFolder(folder)
    }
}

#[cfg(test)]
impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let folder = TestFolder::new("replace");
        let path = folder.0.join("weights");
        for bytes in [&b"a long first version"[..], b"short", b""] {
            write_atomic(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(names(&folder.0), ["weights"]);
        }
    }

    #[test]
    fn a_failed_write_keeps_what_was_there_and_says_which_file() {
        let folder = TestFolder::new("failed");
        let occupied = folder.0.join("occupied");
        fs::create_dir_all(occupied.join("child")).unwrap();
        let e = write_atomic(&occupied, b"x").unwrap_err();
        assert!(e.to_string().contains("occupied"), "{e}");
        assert_eq!(names(&folder.0), ["occupied"]);
        assert_eq!(names(&occupied), ["child"]);

        let e = write_atomic(&folder.0.join("no/such/folder"), b"x").unwrap_err();
        assert_eq!(e.kind, Kind::CantCreate, "{e}");
        assert_eq!(write_atomic(Path::new("/"), b"x").unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn a_text_is_read_up_to_its_limit_and_no_further() {
        let folder = TestFolder::new("limit");
        let path = folder.0.join("text");
        fs::write(&path, "sixteen bytes ok").unwrap();
        assert_eq!(read_text(&path, 16).unwrap(), "sixteen bytes ok");
        let long = read_text(&path, 15).unwrap_err();
        assert!(
            long.kind == Kind::Data && long.to_string().contains("text is 16 bytes long, and at most 15"),
            "{long}"
        );
        fs::write(&path, b"lr =\xff").unwrap();
        assert!(read_text(&path, 16).unwrap_err().to_string().ends_with("text: byte 4 is not UTF-8 text"));
        assert_eq!(read_text(&folder.0, 16).unwrap_err().kind, Kind::NoInput);
        // Devices and pipes have no size to look at first.
        let endless = read_text(Path::new("/dev/zero"), 1 << 20).unwrap_err();
        assert!(endless.kind == Kind::Data && endless.to_string().contains("at most 1 MiB are expected"), "{endless}");
    }

    /// FIPS 180-4's example "abc", and its one-million-'a' message through the stream.
    #[test]
    fn sha256_matches_the_standard() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), abc);
        let million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(sha256_stream(&mut &vec![b'a'; 1_000_000][..]).unwrap(), million);
    }
}
