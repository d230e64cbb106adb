//! Getting a known data set from its authors: download, compare, unpack, and only then give it its name.

mod download;
pub mod unpack;

pub use download::{Patience, Progress};

use super::bytes::{Bytes, open};
use super::known::{Archive, Known, Packing};
use super::{Format, idx};
use crate::error::{Error, Kind, Result};
use crate::files;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// Source and destination of a set.
pub struct Order<'a> {
    pub known: &'a Known,
    /// Address of the folder with the archives; none: those of the table, one after the other.
    pub url: Option<&'a str>,
    /// Data root in which the set's folder is made. Archives wait there too, under their own names.
    pub out: &'a Path,
    pub patience: Patience,
}

/// Result of an order.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The folder was complete before.
    Complete(PathBuf),
    /// The folder was made, or completed.
    Fetched(PathBuf),
}

/// Fetches a data set; `tell` hears how far a download has come.
///
/// An archive that lies in `out` already is used without a download, and stays. A download that broke off goes on where it
/// ended. The set's folder gets its name when every file in it is the original, byte for byte; files that are there are
/// never replaced.
///
/// # Errors
/// Unavailable: no network, or the server does not have it; the message says how to do without. Data: what came, or an archive
/// or file that is there, is not the original. CantCreate: the folder cannot be written, or another fetch is at work in it.
pub fn fetch(order: &Order<'_>, tell: &mut dyn FnMut(&Progress<'_>)) -> Result<Outcome> {
    let Order { known, out, .. } = *order;
    let folder = out.join(known.folder);
    let missing = missing(known, &folder)?;
    if missing.is_empty() {
        // A fetch that was killed after its last file had its place may have left something, which no other uses meanwhile.
        if let Ok(_lock) = lock(out) {
            remove_own(known, out);
        }
        return Ok(Outcome::Complete(folder));
    }
    fs::create_dir_all(out).map_err(|e| Error::io("create folder", out, &e))?;
    let _lock = lock(out)?;
    let needed = |archive: &&Archive| match archive.packing {
        Packing::Gz => missing.iter().any(|i| archive.name.strip_suffix(".gz") == Some(known.files[*i].name)),
        Packing::TarGz => true,
    };
    let archives: Vec<&Archive> = known.archives.iter().filter(needed).collect();
    let mut packed = Vec::new();
    for archive in &archives {
        let path = out.join(archive.name);
        if path.exists() {
            check_archive(archive, &path)?;
            packed.push((*archive, path));
            continue;
        }
        let path = part_of(archive, out);
        download_from_any(order, archive, &path, tell).map_err(|e| match e.kind {
            Kind::Unavailable => by_hand(order, &archives, &e),
            _ => e,
        })?;
        packed.push((*archive, path));
    }
    let unpacked = unpacked_in(known, out);
    let placed = unpack_all(known, &packed, &unpacked, &missing).and_then(|()| place(&unpacked, &folder));
    // A second run would begin with the same removal; the first error is the one to tell.
    let _ = fs::remove_dir_all(&unpacked);
    placed?;
    remove_own(known, out);
    Ok(Outcome::Fetched(folder))
}

/// Returns where a download of `archive` lies until its files have their places. It never gets the archive's own name, so that
/// an archive of that name is one that somebody has put there.
fn part_of(archive: &Archive, out: &Path) -> PathBuf {
    out.join(format!("{}.part", archive.name))
}

/// Returns the folder that archives are unpacked into.
fn unpacked_in(known: &Known, out: &Path) -> PathBuf {
    out.join(format!(".{}.part", known.folder))
}

/// Removes what fetches of this set have made beside its folder, those that were killed among them. What cannot be removed
/// costs space and nothing else.
fn remove_own(known: &Known, out: &Path) {
    let _ = fs::remove_dir_all(unpacked_in(known, out));
    for archive in known.archives {
        let _ = fs::remove_file(part_of(archive, out));
    }
}

/// Downloads `archive` to `part` from the first address that has the original.
fn download_from_any(
    order: &Order<'_>,
    archive: &Archive,
    part: &Path,
    tell: &mut dyn FnMut(&Progress<'_>),
) -> Result<()> {
    let addresses = order.url.map_or_else(|| order.known.urls.to_vec(), |url| vec![url]);
    let mut causes: Vec<Error> = Vec::new();
    for address in addresses {
        let url = format!("{}/{}", address.trim_end_matches('/'), archive.name);
        match download::download(archive, &url, part, order.patience, tell) {
            Ok(()) => return Ok(()),
            // Another address may have what this one has not, or has in another version.
            Err(e) if matches!(e.kind, Kind::Unavailable | Kind::Data) => causes.push(e),
            Err(e) => return Err(e),
        }
    }
    let kind = if causes.iter().any(|e| e.kind == Kind::Unavailable) { Kind::Unavailable } else { Kind::Data };
    let texts: Vec<String> = causes.iter().map(Error::to_string).collect();
    Err(Error::new(kind, texts.join("; ")))
}

/// Numbers of the set's files that `folder` lacks.
fn missing(known: &Known, folder: &Path) -> Result<Vec<usize>> {
    let mut missing = Vec::new();
    for (i, file) in known.files.iter().enumerate() {
        let spellings = match known.format {
            Format::Idx => vec![folder.join(file.name), folder.join(format!("{}.gz", file.name))],
            Format::Cifar10 | Format::Cifar100 => vec![folder.join(file.name)],
        };
        let Some(path) = spellings.into_iter().find(|path| path.exists()) else {
            missing.push(i);
            continue;
        };
        let content = match known.format {
            Format::Idx => idx::read(&path, idx::RANKS[i]).map(|idx| idx.bytes),
            Format::Cifar10 | Format::Cifar100 => open(&path).and_then(|(file, _)| Bytes::map(&path, &file)),
        };
        let differs = content.map_or_else(|e| Some(e.to_string()), |bytes| known.differs(i, bytes.whole_file()));
        if let Some(found) = differs {
            let stays = "fetch replaces no files, so move it away or give another --out";
            return Err(Error::data(format!("{} is there, but not the original: {found}; {stays}", path.display())));
        }
    }
    Ok(missing)
}

/// Keeps a second fetch from writing into the same folder; the system lets go when this one ends, however it ends.
fn lock(folder: &Path) -> Result<File> {
    let opened = File::open(folder).map_err(|e| Error::io("open", folder, &e))?;
    match opened.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let message = format!("another fetch is at work in {}; wait until it is done", folder.display());
            Err(Error::new(Kind::CantCreate, message))
        }
        // Some file systems have no locks; two fetches would then spoil each other's download, which its SHA-256 shows.
        _ => Ok(opened),
    }
}

/// Checks a file that somebody has put in place of a download.
fn check_archive(archive: &Archive, path: &Path) -> Result<()> {
    let found = download::identity(path)?;
    archive.id.differs(found.0, &found.1).map_or(Ok(()), |found| {
        Err(Error::data(format!("{} is not the original: {found}; move it away and fetch again", path.display())))
    })
}

/// The error for a set that cannot be downloaded: why, and how to do without.
fn by_hand(order: &Order<'_>, archives: &[&Archive], cause: &Error) -> Error {
    let Order { known, out, .. } = *order;
    let wanted: Vec<String> = archives
        .iter()
        .filter(|archive| !out.join(archive.name).exists())
        .map(|archive| format!("{} ({} bytes, SHA-256 {})", archive.name, archive.id.len, archive.id.sha256))
        .collect();
    let (name, url, out) = (known.name, known.urls.first().copied().unwrap_or_default(), out.display());
    let message = format!(
        "{cause}; without a network, get {} from {url} by other means, put it into {out}, and run 'samcore data fetch {name}' \
         again",
        wanted.join(", ")
    );
    Error::new(Kind::Unavailable, message)
}

/// Unpacks the files that are missing into the new folder `to`, each compared with the original.
fn unpack_all(known: &Known, archives: &[(&Archive, PathBuf)], to: &Path, missing: &[usize]) -> Result<()> {
    if to.exists() {
        // Left by a fetch that was killed while it unpacked.
        fs::remove_dir_all(to).map_err(|e| Error::io("remove folder", to, &e))?;
    }
    fs::create_dir(to).map_err(|e| Error::io("create folder", to, &e))?;
    for (archive, path) in archives {
        match archive.packing {
            Packing::Gz => unpack::gz(known, archive, path, to)?,
            Packing::TarGz => unpack::tar_gz(known, path, to, missing)?,
        }
    }
    match missing.iter().map(|i| known.files[*i].name).find(|name| !to.join(name).exists()) {
        Some(name) => Err(Error::data(format!("the archives of {} hold no {name}", known.name))),
        None => Ok(()),
    }
}

/// Gives the unpacked files their place: the whole folder at once, or the files that an existing folder lacks.
fn place(unpacked: &Path, folder: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("create", folder, &e);
    if !folder.exists() {
        return fs::rename(unpacked, folder).map_err(failed);
    }
    for entry in files::read_dir(unpacked).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        fs::rename(entry.path(), folder.join(entry.file_name())).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
