//! Files as a whole: writing one so that a crash never leaves half of it, reading a text of bounded size, SHA-256, and what a
//! stranger's first bytes say.

pub mod private;

use crate::error::{Error, Kind, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{Builder, ScopedJoinHandle};

/// Links that are followed one after the other; Linux follows as many.
const MOST_LINKS: usize = 40;
/// Characters of a file's name that its temporary file has too, which must not be too long for a file system.
const NAME_PART: usize = 48;

/// Writes `bytes` to `path` so that at every moment the path holds either the whole old file or the whole new one, which keeps
/// the old one's permissions.
///
/// A link stays, and what it leads to is written. What is there and is no regular file (a device, a FIFO, an open descriptor
/// such as /dev/stdout) is opened and written; a reader that has left it is no error.
///
/// # Errors
/// CantCreate, Io: it cannot be written; a regular file is then as it was. Usage: the path ends in no file name.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: io::Error| Error::io("write", path, &e);
    match Place::of(path)? {
        Place::File(target) => {
            let access = fs::metadata(&target).map_or(Access::Usual, Access::Like);
            replace(&target, bytes, &access).map_err(failed)
        }
        Place::Stream => match OpenOptions::new().append(true).open(path).and_then(|mut to| to.write_all(bytes)) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(failed(e)),
            _ => Ok(()),
        },
    }
}

/// Checks that a file can be written at `path` later, before work is done for it.
///
/// # Errors
/// CantCreate: it is a folder, lies in none, or is a link that must not be followed. Usage: the path ends in no file name.
pub fn check_place(path: &Path) -> Result<()> {
    let refuse = |message: String| Err(Error::new(Kind::CantCreate, message));
    if path.is_dir() {
        return refuse(format!("{} is a folder; give the name of a file", path.display()));
    }
    let Place::File(target) = Place::of(path)? else { return Ok(()) };
    match folder_of(&target) {
        folder if folder.is_dir() => Ok(()),
        folder => refuse(format!("there is no folder {}", folder.display())),
    }
}

/// Returns the path that `path` leads to through symbolic links, even if nothing is there yet; itself if it is no link.
///
/// # Errors
/// As for [`write_atomic`].
pub fn target(path: &Path) -> Result<PathBuf> {
    match follow(path).map_err(|e| Error::io("write", path, &e))? {
        (Place::File(target), _) => Ok(target),
        (Place::Stream, _) => Ok(path.to_path_buf()),
    }
}

/// Way of writing to a path.
enum Place {
    /// A regular file, there or not, which is replaced: its path without links.
    File(PathBuf),
    /// Something else, which is opened and written.
    Stream,
}

impl Place {
    fn of(path: &Path) -> Result<Place> {
        if path.file_name().is_none() {
            return Err(Error::usage(format!("cannot write {}: the path ends in no file name", path.display())));
        }
        let found = follow(path).and_then(|(place, is_folder)| match is_folder {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => Ok(place),
        });
        found.map_err(|e| Error::io("write", path, &e))
    }
}

/// Follows the links at the end of `path`; true with a folder.
fn follow(path: &Path) -> io::Result<(Place, bool)> {
    let mut at = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        let found = match fs::symlink_metadata(&at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Place::File(at), false)),
            found => found?,
        };
        if !found.is_symlink() {
            let place = if found.is_file() || found.is_dir() { Place::File(at) } else { Place::Stream };
            return Ok((place, found.is_dir()));
        }
        let folder = folder_of(&at).canonicalize()?;
        // The links in /proc/self/fd, to which /dev/stdout and /dev/fd lead, are descriptors. Their text is no path.
        if folder.starts_with("/proc") {
            return Ok((Place::Stream, false));
        }
        // As Linux does with fs.protected_symlinks: in /tmp, a stranger's link could lead to a file of ours.
        let within = fs::metadata(&folder)?;
        if private::is_shared(&within) && found.uid() != within.uid() && Some(found.uid()) != private::user() {
            let what = format!("{} is a link of another user in a folder that everybody may write to", at.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        at = folder.join(fs::read_link(&at)?);
    }
    Err(io::Error::other(format!("more than {MOST_LINKS} links, one behind the other")))
}

/// Who may read and write a file that is made.
pub(crate) enum Access {
    /// As this process makes files.
    Usual,
    /// This user alone.
    Own,
    /// As with a file that it replaces.
    Like(fs::Metadata),
}

/// Replaces the file at `path`, or makes it; a link there would be replaced too.
///
/// The bytes go to a temporary file in the same folder (a rename works only within one file system), reach the disk, and take
/// the name in one step; then the folder reaches the disk too, or a power cut could undo the rename. On failure the temporary
/// file is removed and the old file stays as it was.
pub(crate) fn replace(path: &Path, bytes: &[u8], access: &Access) -> io::Result<()> {
    let folder = folder_of(path);
    // The leading dot keeps a leftover out of listings. Where others may write, nobody can foresee the name and plant a file.
    let name: String = path.file_name().unwrap_or_default().to_string_lossy().chars().take(NAME_PART).collect();
    let temporary = folder.join(format!(".{name}.{:016x}.tmp", random()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    if !matches!(access, Access::Usual) {
        // Not for a moment may more people read it than in the end.
        options.mode(0o600);
    }
    let mut file = options.open(&temporary)?;
    if let Access::Like(old) = access {
        // A file system without owners or permissions has none to keep.
        let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        let _ = file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777));
    }
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if let Err(e) = written {
        // Nothing more can be done if this fails as well; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    match File::open(folder).and_then(|f| f.sync_all()) {
        // Some network file systems cannot sync a folder; the file itself is safe by then.
        Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Err(e),
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

/// Returns the folder that `path` lies in.
/// Lists a folder. Unlike opening a file, the standard library does not try this again when a signal interrupts it, as may
/// happen on network file systems.
///
/// # Errors
/// As for [`std::fs::read_dir`].
pub fn read_dir(path: &Path) -> io::Result<fs::ReadDir> {
    loop {
        match fs::read_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            listed => return listed,
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns a number that other users cannot foresee, from the keys that the system gives to hash tables.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Makes a write beyond the limit of `ulimit -f` an error like that of a full disk; the system would end the process.
///
/// # Errors
/// Unavailable: the system refuses a handler.
pub fn outlive_size_limit() -> Result<()> {
    let unread = Arc::new(AtomicBool::new(false));
    let registered = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, unread);
    registered.map(|_| ()).map_err(|e| Error::new(Kind::Unavailable, format!("cannot handle SIGXFSZ: {e}")))
}

/// Returns `work` of each item in their order, computed by a thread each; by this one where the system has no more threads.
pub fn in_threads<T: Copy + Send, R: Send>(items: &[T], work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let start = |&item: &T| Builder::new().spawn_scoped(scope, move || work(item)).map_err(|_| item);
        let started: Vec<_> = items.iter().map(start).collect();
        let end = |thread: std::result::Result<ScopedJoinHandle<'_, R>, T>| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(item) => work(item),
        };
        started.into_iter().map(end).collect()
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

/// Returns what a file that begins with `head` seems to be, for the message when something else was expected.
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
pub struct TestFolder(pub PathBuf);

#[cfg(test)]
impl TestFolder {
    pub fn new(name: &str) -> TestFolder {
        use std::sync::atomic::{AtomicU64, Ordering};

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
pub(crate) mod tests;
