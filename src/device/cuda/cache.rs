//! Compiled kernels on disk, so that a second run starts at once.
//!
//! An entry's name is the hash of all that decides its content; its content carries a checksum. So entries are never wrong,
//! only missing or damaged, and several processes may write the same one.

use super::nvrtc::{self, Cubin, FLAGS, Source};
use crate::error::Result;
use crate::files::{sha256_hex, write_atomic};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The folder for all that samcore compiles and may compile again: SAMCORE_CACHE, else `samcore` in XDG_CACHE_HOME, in
/// ~/.cache, or with the user's number in the system's folder for temporary files. It may not exist yet.
pub fn root() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(own) = std::env::var_os("SAMCORE_CACHE").filter(|v| !v.is_empty()) {
        return own.into();
    }
    // The XDG specification has relative paths ignored.
    let shared = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let shared = shared.or_else(|| Some(variable("HOME").filter(|path| path.is_absolute())?.join(".cache")));
    shared.map_or_else(temporary, |cache| cache.join("samcore"))
}

/// A folder of this user's, for a user without a home.
fn temporary() -> PathBuf {
    let user = std::fs::metadata("/proc/self").map_or_else(|_| "user".to_owned(), |m| m.uid().to_string());
    std::env::temp_dir().join(format!("samcore-{user}"))
}

/// The folder of compiled kernels below [`root`].
pub fn folder() -> PathBuf {
    root().join("cubins")
}

/// The compiled module out of `folder`, or compiled now and left there. A folder that cannot be written only costs the time to
/// compile again. `driver` is the version of the driver that will load it.
///
/// # Errors
/// Those of [`nvrtc::compile`].
pub fn cubin(folder: &Path, source: &Source, arch: &str, driver: i32) -> Result<Cubin> {
    let path = folder.join(format!("{}.cubin", key(source, arch, driver, nvrtc::version()?)));
    if let Some(known) = std::fs::read(&path).ok().and_then(|bytes| unpack(&bytes)) {
        return Ok(known);
    }
    let cubin = nvrtc::compile(source, arch)?;
    let _ = std::fs::create_dir_all(folder).is_ok_and(|()| write_atomic(&path, &pack(&cubin)).is_ok());
    Ok(cubin)
}

/// SHA-256 of all that decides what is compiled.
fn key(source: &Source, arch: &str, driver: i32, (major, minor): (i32, i32)) -> String {
    let mut all = Vec::new();
    // With its length in front, no part can pass for the end of another.
    let mut part = |text: &str| {
        all.extend((text.len() as u64).to_le_bytes());
        all.extend(text.as_bytes());
    };
    part(&format!("{arch} NVRTC {major}.{minor} driver {driver} {}", FLAGS.join(" ")));
    part(&source.name);
    part(&source.text);
    for (name, value) in &source.defines {
        part(&format!("-D{name}={value}"));
    }
    for (name, text) in &source.headers {
        part(name);
        part(text);
    }
    sha256_hex(&all)
}

/// Digits of a SHA-256.
const DIGITS: usize = 64;

/// Checksum of the rest, bytes of the log, log, image.
fn pack(cubin: &Cubin) -> Vec<u8> {
    let mut rest = (cubin.log.len() as u64).to_le_bytes().to_vec();
    rest.extend(cubin.log.as_bytes());
    rest.extend(&cubin.image);
    let mut bytes = sha256_hex(&rest).into_bytes();
    bytes.extend(rest);
    bytes
}

/// What `pack` packed, unless it is damaged.
fn unpack(bytes: &[u8]) -> Option<Cubin> {
    let (checksum, rest) = bytes.split_at_checked(DIGITS)?;
    if sha256_hex(rest).as_bytes() != checksum {
        return None;
    }
    let (len, rest) = rest.split_first_chunk()?;
    let (log, image) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    Some(Cubin { image: image.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TestFolder;
    use std::fs;

    fn source() -> Source {
        let text = "extern \"C\" __global__ void one(float* x) { x[threadIdx.x] = STEP; }".to_owned();
        let headers = vec![("a.cuh".to_owned(), "int a;".to_owned())];
        Source { name: "one.cu".into(), text, headers, defines: vec![("STEP", "1.0f".into())] }
    }

    #[test]
    fn whatever_decides_the_code_decides_the_name() {
        let usual = key(&source(), "sm_80", 13000, (13, 0));
        type Change = fn(&mut Source);
        let changes: [(&str, Change); 6] = [
            ("name", |s| s.name.push('x')),
            ("text", |s| s.text.push(' ')),
            ("a header", |s| s.headers[0].1.push(' ')),
            ("a macro's value", |s| s.defines[0].1 = "2.0f".into()),
            ("one macro more", |s| s.defines.push(("MORE", "1".into()))),
            ("where a text ends", |s| {
                s.headers[0] = ("a.cu".into(), "hint a;".into());
            }),
        ];
        for (what, change) in changes {
            let mut changed = source();
            change(&mut changed);
            assert_ne!(key(&changed, "sm_80", 13000, (13, 0)), usual, "{what}");
        }
        assert_ne!(key(&source(), "sm_90a", 13000, (13, 0)), usual, "architecture");
        assert_ne!(key(&source(), "sm_80", 12080, (13, 0)), usual, "driver");
        assert_ne!(key(&source(), "sm_80", 13000, (12, 9)), usual, "compiler");
    }

    #[test]
    fn damage_of_any_byte_or_length_is_noticed() {
        let cubin = Cubin { image: vec![1, 2, 3], log: "warning: ü".into() };
        let whole = pack(&cubin);
        assert_eq!(unpack(&whole), Some(cubin));
        for len in 0..whole.len() {
            assert_eq!(unpack(&whole[..len]), None, "{len} bytes");
            let mut flipped = whole.clone();
            flipped[len] ^= 4;
            assert_eq!(unpack(&flipped), None, "byte {len}");
        }
    }

    #[test]
    fn an_entry_is_used_again_repaired_and_done_without_where_it_cannot_be_written() {
        if !nvrtc::present_or_skip() {
            return;
        }
        let folder = TestFolder::new("cubins");
        let cached = || cubin(&folder.0, &source(), "sm_80", 13000).unwrap();
        let compiled = cached();
        let file = fs::read_dir(&folder.0).unwrap().next().unwrap().unwrap().path();
        // An entry of another content shows that the second time nothing is compiled.
        let marked = Cubin { image: b"as stored".to_vec(), log: String::new() };
        fs::write(&file, pack(&marked)).unwrap();
        assert_eq!(cached(), marked);
        fs::write(&file, b"damaged").unwrap();
        assert_eq!(cached().image, compiled.image);
        assert_eq!(unpack(&fs::read(&file).unwrap()).unwrap().image, compiled.image);

        let occupied = folder.0.join("a file");
        fs::write(&occupied, "").unwrap();
        assert_eq!(cubin(&occupied.join("below"), &source(), "sm_80", 13000).unwrap().image, compiled.image);
    }

    #[test]
    fn threads_that_want_the_same_entry_at_once_all_get_it() {
        if !nvrtc::present_or_skip() {
            return;
        }
        let folder = TestFolder::new("race");
        std::thread::scope(|scope| {
            let all: Vec<_> =
                (0..4).map(|_| scope.spawn(|| cubin(&folder.0, &source(), "sm_75", 0).unwrap().image)).collect();
            let images: Vec<Vec<u8>> = all.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert!(images.iter().all(|image| *image == images[0]));
        });
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "one entry, no leftovers");
    }
}
