//! Compiled kernels on disk, so that a second run starts at once: cubins for cards, and libraries that the emulator loads.
//!
//! They are code that runs as this user, so they are taken from nowhere but a folder of the user's own that nobody else can
//! write to. An entry's name is the hash of all that decides its content; at its end is a checksum of name and content. So
//! entries are never wrong, only missing or damaged, and several processes may write the same one.

use super::nvrtc::{self, Cubin, FLAGS, Source};
use crate::error::{Error, Kind, Result};
use crate::files::{self, Access, private, sha256_hex};
use crate::output::note;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

/// Names of the folders below the user's cache.
pub const CUBINS: &str = "cubins";
pub const EMULATOR: &str = "emulator";

/// Returns the folder for all that samcore compiles and may compile again: SAMCORE_CACHE, else `samcore` in XDG_CACHE_HOME,
/// in ~/.cache, or with the user's number in the system's folder for temporary files. It may not exist yet.
fn root(user: u32) -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(own) = variable("SAMCORE_CACHE") {
        return own;
    }
    // The XDG specification has relative paths ignored.
    let shared = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let shared = shared.or_else(|| Some(variable("HOME").filter(|path| path.is_absolute())?.join(".cache")));
    shared.map_or_else(|| std::env::temp_dir().join(format!("samcore-{user}")), |cache| cache.join("samcore"))
}

/// A folder of entries that belongs to this user alone.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    user: u32,
}

impl Cache {
    /// Returns the user's cache for [`CUBINS`] or [`EMULATOR`]. Without one that is safe, a note says why, once.
    pub fn of_user(kind: &str) -> Option<Cache> {
        static TOLD: Once = Once::new();
        let opened = user().and_then(|user| {
            let root = private::folder(&root(user), user)?;
            Cache::at(&root.join(kind))
        });
        let tell = |e: &Error| TOLD.call_once(|| note(&format!("compiled kernels are not kept: {e}")));
        opened.inspect_err(tell).ok()
    }

    /// Returns the cache in `folder`, which is made for this user alone if it is not there.
    ///
    /// # Errors
    /// Data: others could write there. CantCreate: it cannot be made. Unavailable: no /proc.
    pub fn at(folder: &Path) -> Result<Cache> {
        let user = user()?;
        Ok(Cache { folder: private::folder(folder, user)?, user })
    }

    /// Returns where the entry `name` lies, if it is sound.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(|_| self.folder.join(name))
    }

    /// Returns the content of the entry `name`: none if there is none, or it is damaged, or a stranger could have written it,
    /// which a note says.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let read = private::read(&self.folder.join(name), self.user);
        let mut bytes = read.inspect_err(|e| note(&format!("not used, compiled again: {e}"))).ok()??;
        let content = bytes.len().checked_sub(DIGITS)?;
        if checksum(name, &bytes[..content]).as_bytes() != &bytes[content..] {
            return None;
        }
        bytes.truncate(content);
        Some(bytes)
    }

    /// Keeps `content` as the entry `name`, in place of what is there; returns its path.
    ///
    /// # Errors
    /// CantCreate, Io: it cannot be written.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let bytes = [content, checksum(name, content).as_bytes()].concat();
        files::replace(&path, &bytes, &Access::Own).map(|()| path.clone()).map_err(|e| Error::io("write", &path, &e))
    }
}

fn user() -> Result<u32> {
    private::user().ok_or_else(|| Error::new(Kind::Unavailable, "there is no /proc that says whose process this is"))
}

/// Binds an entry's content to its name, so that one cannot be put in place of another.
fn checksum(name: &str, content: &[u8]) -> String {
    sha256_hex(&[name.as_bytes(), b"\0", content].concat())
}

/// Folders for one process, where it can keep nothing for the next.
static SCRATCH: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Makes a folder for files that this process needs until its end, under a name that nobody can foresee: among the system's
/// temporary files, or in `cache` where that would not be safe.
///
/// # Errors
/// CantCreate: it cannot be made. Data: others could exchange what is in it.
pub fn scratch(cache: Option<&Cache>) -> Result<PathBuf> {
    let temporary = private::new_folder(&std::env::temp_dir(), "samcore-")
        .and_then(|made| private::folder(&made, user()?).inspect_err(|_| _ = std::fs::remove_dir(&made)));
    let folder = match (temporary, cache) {
        (Err(_), Some(cache)) => private::new_folder(&cache.folder, "build-")?,
        (temporary, _) => temporary?,
    };
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).push(folder.clone());
    Ok(folder)
}

/// Removes a folder that [`scratch`] has made; a library that was loaded from it stays loaded.
pub fn remove(folder: &Path) {
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| other != folder);
    // A leftover costs space and nothing else.
    let _ = std::fs::remove_dir_all(folder);
}

/// Removes all that are left, at the end of the process.
pub fn remove_all() {
    let folders = std::mem::take(&mut *SCRATCH.lock().unwrap_or_else(PoisonError::into_inner));
    folders.iter().for_each(|folder| remove(folder));
}

/// Returns the compiled module out of `cache`, or compiles it and leaves it there. A cache that cannot be written only costs
/// the time to compile again. `driver` is the version of the driver that will load it.
///
/// # Errors
/// As for [`nvrtc::compile`].
pub fn cubin(cache: Option<&Cache>, source: &Source, arch: &str, driver: i32) -> Result<Cubin> {
    let name = format!("{}.cubin", key(source, arch, driver, nvrtc::version()?));
    if let Some(known) = cache.and_then(|cache| cache.get(&name)).and_then(|bytes| unpack(&bytes)) {
        return Ok(known);
    }
    let cubin = nvrtc::compile(source, arch)?;
    let _ = cache.is_some_and(|cache| cache.put(&name, &pack(&cubin)).is_ok());
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

/// Packs a cubin as an entry: bytes of the log, log, image.
fn pack(cubin: &Cubin) -> Vec<u8> {
    let len = (cubin.log.len() as u64).to_le_bytes();
    [&len, cubin.log.as_bytes(), &cubin.image].concat()
}

/// Returns what `pack` packed; none for anything else.
fn unpack(bytes: &[u8]) -> Option<Cubin> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (log, image) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    Some(Cubin { image: image.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TestFolder;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

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
        let folder = TestFolder::new("damage");
        let cache = Cache::at(&folder.0.join("cache")).unwrap();
        let cubin = Cubin { image: vec![1, 2, 3], log: "warning: ü".into() };
        let path = cache.put("entry", &pack(&cubin)).unwrap();
        assert_eq!(cache.path("entry"), Some(path.clone()));
        let whole = fs::read(&path).unwrap();
        assert_eq!(unpack(&cache.get("entry").unwrap()), Some(cubin));
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(cache.get("entry"), None, "{len} bytes");
            let mut flipped = whole.clone();
            flipped[len] ^= 4;
            fs::write(&path, &flipped).unwrap();
            assert_eq!(cache.get("entry"), None, "byte {len}");
        }
        fs::write(cache.folder.join("another"), &whole).unwrap();
        assert_eq!(cache.get("another"), None, "an entry under another's name");
    }

    /// Whoever can write there could have code run as this user.
    #[test]
    fn entries_that_a_stranger_could_have_written_are_not_used() {
        let folder = TestFolder::new("planted");
        let cache = Cache::at(&folder.0.join("cache")).unwrap();
        let path = cache.put("entry", b"sound").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(cache.get("entry").as_deref(), Some(&b"sound"[..]));
        mode(&path, 0o666);
        assert_eq!(cache.get("entry"), None, "writable by others");
        mode(&path, 0o600);
        fs::rename(&path, folder.0.join("moved")).unwrap();
        symlink(folder.0.join("moved"), &path).unwrap();
        assert_eq!(cache.get("entry"), None, "a link");
        cache.put("entry", b"compiled again").unwrap();
        assert_eq!(fs::read(folder.0.join("moved")).unwrap().len(), 5 + DIGITS, "a link is replaced, not followed");
        // Only root can give a file away.
        if chown(&path, Some(12345), None).is_ok() {
            assert_eq!(cache.get("entry"), None, "a stranger's");
        }
        mode(&cache.folder, 0o777);
        assert!(Cache::at(&cache.folder).is_err());
    }

    #[test]
    fn an_entry_is_used_again_repaired_and_done_without_where_it_cannot_be_written() {
        if !nvrtc::present_or_skip() {
            return;
        }
        let folder = TestFolder::new("cubins");
        let cache = Cache::at(&folder.0.join("cache")).unwrap();
        let cached = || cubin(Some(&cache), &source(), "sm_80", 13000).unwrap();
        let compiled = cached();
        let name = fs::read_dir(&cache.folder).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
        // An entry of another content shows that the second time nothing is compiled.
        let marked = Cubin { image: b"as stored".to_vec(), log: String::new() };
        cache.put(&name, &pack(&marked)).unwrap();
        assert_eq!(cached(), marked);
        fs::write(cache.folder.join(&name), b"damaged").unwrap();
        assert_eq!(cached().image, compiled.image);
        assert_eq!(unpack(&cache.get(&name).unwrap()).unwrap().image, compiled.image);

        fs::remove_dir_all(&cache.folder).unwrap();
        assert_eq!(cached().image, compiled.image, "the folder is gone");
        assert_eq!(cubin(None, &source(), "sm_80", 13000).unwrap().image, compiled.image);
    }

    #[test]
    fn threads_that_want_the_same_entry_at_once_all_get_it() {
        if !nvrtc::present_or_skip() {
            return;
        }
        let folder = TestFolder::new("race");
        let cache = Cache::at(&folder.0.join("cache")).unwrap();
        std::thread::scope(|scope| {
            let all: Vec<_> =
                (0..4).map(|_| scope.spawn(|| cubin(Some(&cache), &source(), "sm_75", 0).unwrap().image)).collect();
            let images: Vec<Vec<u8>> = all.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert!(images.iter().all(|image| *image == images[0]));
        });
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 1, "one entry, no leftovers");
    }
}
