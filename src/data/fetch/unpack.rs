//! Files out of archives: only those whose names we know, only so long as the originals are, never a path of the archive's.

use crate::data::known::{Archive, Known, KnownFile};
use crate::error::{Error, Result};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

/// Bytes that a tar archive may hold besides the set's own files: headers, padding, a read-me.
const BESIDES: u64 = 16 << 20;

/// Unpacks the one file of `archive`, which lies at `path`, into the folder `to`.
///
/// # Errors
/// Data: it is damaged or not the original.
pub fn gz(known: &Known, archive: &Archive, path: &Path, to: &Path) -> Result<()> {
    let name = archive.name.strip_suffix(".gz");
    let file = known.files.iter().find(|file| Some(file.name) == name);
    let file = file.ok_or_else(|| Error::internal(format!("archive {} holds no file of its set", archive.name)))?;
    copy(&mut GzDecoder::new(open(path)?), file, path, to)
}

/// Unpacks the files numbered `wanted` out of the archive at `path` into the folder `to`. Other entries are passed over, links
/// and paths that lead elsewhere among them.
///
/// # Errors
/// Data: it is damaged, a file is in it twice, is a link, or is not the original.
pub fn tar_gz(known: &Known, path: &Path, to: &Path, wanted: &[usize]) -> Result<()> {
    let bound = BESIDES + known.files.iter().map(|file| file.id.len).sum::<u64>();
    let mut archive = tar::Archive::new(GzDecoder::new(open(path)?).take(bound));
    let damaged = |e: std::io::Error| Error::data(format!("{}: {e}; fetch it again", path.display()));
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path_bytes().into_owned();
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        let is_named = |i: &&usize| name == format!("{}/{}", known.folder, known.files[**i].name).as_bytes();
        let Some(i) = wanted.iter().find(is_named) else { continue };
        let file = &known.files[*i];
        if !entry.header().entry_type().is_file() {
            return Err(Error::data(format!("{}: {} is a link or the like, not a file", path.display(), file.name)));
        }
        copy(&mut entry, file, path, to)?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<BufReader<File>> {
    File::open(path).map(BufReader::new).map_err(|e| Error::io("read", path, &e))
}

/// Writes `from` as `file` in the folder `to`; `archive` is where it comes from. No more than the file's length is written.
fn copy(from: &mut dyn Read, file: &KnownFile, archive: &Path, to: &Path) -> Result<()> {
    let path = to.join(file.name);
    let unwritable = |e: std::io::Error| Error::io("write", &path, &e);
    let wrong = |what: String| Error::data(format!("{}: {} is wrong: {what}", archive.display(), file.name));
    let mut written = File::create_new(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => wrong("it is there twice".into()),
        _ => unwritable(e),
    })?;
    let (mut len, mut hash, mut piece) = (0, Sha256::new(), vec![0; 1 << 16]);
    loop {
        let count = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(wrong(format!("{e} after {len} bytes"))),
        };
        len += count as u64;
        if len > file.id.len {
            return Err(wrong(format!("it is longer than {} bytes", file.id.len)));
        }
        hash.update(&piece[..count]);
        written.write_all(&piece[..count]).map_err(unwritable)?;
    }
    let sha256: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    file.id.differs(len, &sha256).map_or(Ok(()), |what| Err(wrong(what)))?;
    written.sync_all().map_err(unwritable)
}
