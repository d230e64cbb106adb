//! Finds the files of a data set in the folders that people have: a set's own folder, the parent of one, torchvision's
//! `MNIST/raw`, several EMNIST sets side by side.

mod idx_names;
mod strangers;

use super::bytes::Bytes;
use super::known::no_such;
use super::{Format, cifar, idx};
use crate::error::{Error, Kind, Result, nearest};
use crate::files::{self, MAX_SETTINGS, read_text};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Depth below a folder at which its data sets are looked for: `MNIST/raw` is two folders deep.
const DEPTH: usize = 2;

/// Folders that are looked into, and names read of each below the first; a tree of images has far more.
const MAX_FOLDERS: usize = 256;
const MAX_NAMES: usize = 4096;

/// Names of files that a message lists.
const SHOWN: usize = 4;

/// The files of a data set, found by their names and not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFiles {
    /// Holds the files themselves.
    pub folder: PathBuf,
    pub format: Format,
    /// The files, those of the training images first.
    pub files: Vec<PathBuf>,
    /// The beginning of all names, such as `emnist-letters`; mostly empty.
    pub prefix: String,
}

impl DataFiles {
    /// Returns what the set is called where it is not a known one: its prefix, or its folder's name.
    pub fn name(&self) -> String {
        let name = |folder: &Path| folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        // torchvision keeps the files of MNIST in MNIST/raw.
        let parent = self.folder.parent().filter(|parent| self.folder.ends_with("raw") && parent.file_name().is_some());
        match &self.prefix[..] {
            "" => name(parent.unwrap_or(&self.folder)),
            prefix => prefix.to_string(),
        }
    }

    /// Returns what `--data` takes for this set.
    pub fn address(&self) -> PathBuf {
        if self.prefix.is_empty() { self.folder.clone() } else { self.folder.join(&self.prefix) }
    }

    /// Returns the names of classes by label that lie beside EMNIST's files: lines of a label and the codes of its characters.
    pub fn class_names(&self, classes: usize) -> Option<Vec<String>> {
        let path = self.folder.join(format!("{}-mapping.txt", self.prefix));
        let text = read_text(&path, MAX_SETTINGS).ok().filter(|_| !self.prefix.is_empty())?;
        let mut names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
        for line in text.lines() {
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
            let (label, code) = (numbers.next()??, numbers.next()??);
            let character = char::from_u32(code).filter(|c| !c.is_control())?;
            if let Some(name) = names.get_mut(label as usize) {
                *name = character.to_string();
            }
        }
        // Two classes of one name could not be told apart.
        let distinct: BTreeSet<&String> = names.iter().collect();
        (distinct.len() == names.len()).then_some(names)
    }
}

/// Finds the data set at `path`: a folder that holds one, or one alone below it; or a folder and the beginning of the
/// set's file names, as in `EMNIST/raw/emnist-letters`.
///
/// # Errors
/// NoInput: there is none, or several; the message names what is there. Data: only files of another format.
pub fn at(path: &Path) -> Result<DataFiles> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => find(path),
        Ok(_) => {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let message = format!("{} is a file; give the folder that holds it, {}", path.display(), folder.display());
            Err(Error::new(Kind::NoInput, message))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => by_prefix(path),
        Err(e) => Err(Error::io("read folder", path, &e)),
    }
}

/// Finds the set in a folder whose file names begin with the last part of `path`.
fn by_prefix(path: &Path) -> Result<DataFiles> {
    let word = path.to_string_lossy();
    let (Some(folder), Some(prefix)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(no_such(&word));
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(inside) = Inside::of(folder, usize::MAX) else { return Err(no_such(&word)) };
    if let Some(group) = inside.groups.iter().find(|group| group.prefix == prefix) {
        return group.layout(folder).ok_or_else(|| group.lacking(folder))?;
    }
    // Without a folder before it, the word is rather meant as a name.
    let sets = if folder == Path::new(".") { Vec::new() } else { all(folder).unwrap_or_default() };
    let addresses: Vec<String> = sets.iter().map(|set| set.address().display().to_string()).collect();
    match nearest(&word, addresses.iter().map(String::as_str)) {
        Some(near) => {
            let message = format!("there is no data set and no folder '{word}'; did you mean '{near}'?");
            Err(Error::new(Kind::NoInput, message))
        }
        None => Err(no_such(&word)),
    }
}

/// Finds the files of one format in the folder that holds them.
///
/// # Errors
/// NoInput: one is missing.
pub fn of_format(folder: &Path, format: Format) -> Result<DataFiles> {
    let inside = Inside::of(folder, usize::MAX)?;
    match inside.complete()?.into_iter().find(|layout| layout.format == format) {
        Some(layout) => Ok(layout),
        None if format == Format::Idx => Err(inside.groups.first().unwrap_or(&Default::default()).lacking(folder)),
        None => Err(cifar::lacking(folder, format)),
    }
}

/// Finds the data set in a folder, or the only one below it.
///
/// # Errors
/// As for [`at`].
pub fn find(folder: &Path) -> Result<DataFiles> {
    let inside = Inside::of(folder, usize::MAX)?;
    let mut sets = inside.complete()?;
    if sets.is_empty() {
        sets = below(&inside)?;
    }
    match sets.len() {
        0 => Err(none_in(&inside)),
        1 => Ok(sets.remove(0)),
        _ => Err(several(folder, &sets)),
    }
}

/// Returns all data sets in a folder and below it.
///
/// # Errors
/// NoInput: the folder cannot be read.
pub fn all(folder: &Path) -> Result<Vec<DataFiles>> {
    let inside = Inside::of(folder, usize::MAX)?;
    let mut sets = inside.complete()?;
    sets.extend(below(&inside)?);
    Ok(sets)
}

/// Content of a folder, by name.
struct Inside {
    folder: PathBuf,
    /// Names of files, in order.
    files: Vec<String>,
    folders: Vec<PathBuf>,
    groups: Vec<idx_names::IdxGroup>,
}

impl Inside {
    /// Lists `folder`, up to `limit` names of it.
    fn of(folder: &Path, limit: usize) -> Result<Inside> {
        let unreadable = |e: io::Error| Error::io("read folder", folder, &e);
        let mut inside = Inside { folder: folder.into(), files: Vec::new(), folders: Vec::new(), groups: Vec::new() };
        for entry in files::read_dir(folder).map_err(unreadable)?.take(limit) {
            let path = entry.map_err(unreadable)?.path();
            // Hidden files, such as the ._ files of macOS, are no data.
            let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'))
            else {
                continue;
            };
            match path.is_dir() {
                true => inside.folders.push(path),
                false => inside.files.push(name.to_string()),
            }
        }
        inside.files.sort();
        inside.folders.sort();
        inside.groups = idx_names::groups(folder, &inside.files, &inside.folders);
        Ok(inside)
    }

    /// The sets of which every file is here. One whose names begin as MNIST's do comes before those with a prefix.
    fn complete(&self) -> Result<Vec<DataFiles>> {
        let cifar = [Format::Cifar10, Format::Cifar100].into_iter().filter_map(|format| {
            let files = cifar::names(format).iter().map(|name| self.folder.join(name)).collect::<Vec<_>>();
            let there = files.iter().all(|path| path.exists());
            there.then(|| DataFiles { folder: self.folder.clone(), format, files, prefix: String::new() })
        });
        let mut sets: Vec<DataFiles> = cifar.collect();
        for group in &self.groups {
            let Some(layout) = group.layout(&self.folder) else { continue };
            sets.push(layout?);
            if group.prefix.is_empty() {
                break;
            }
        }
        Ok(sets)
    }

    /// The error that names what is missing of a set, or what else the files are.
    fn wrong(&self) -> Option<Error> {
        if let Some(format) = [Format::Cifar10, Format::Cifar100].into_iter().find(|f| cifar::is_in(&self.folder, *f)) {
            return Some(cifar::lacking(&self.folder, format));
        }
        match self.groups.first() {
            Some(group) => Some(group.lacking(&self.folder)),
            None => strangers::error(&self.folder, &self.files),
        }
    }
}

/// Calls `visit` with what each folder below `inside` holds, the nearest first.
fn walk(inside: &Inside, visit: &mut dyn FnMut(&Inside) -> Result<()>) -> Result<()> {
    let mut level = inside.folders.clone();
    let mut seen = BTreeSet::new();
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for folder in level {
            // A link to a folder that was seen is no second set.
            let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
            if seen.len() == MAX_FOLDERS || !seen.insert(real) {
                continue;
            }
            // A folder that is closed to us hides nothing that was asked for.
            let Ok(mut inside) = Inside::of(&folder, MAX_NAMES) else { continue };
            visit(&inside)?;
            next.append(&mut inside.folders);
        }
        level = next;
    }
    Ok(())
}

fn below(inside: &Inside) -> Result<Vec<DataFiles>> {
    let mut sets = Vec::new();
    walk(inside, &mut |inside| {
        sets.extend(inside.complete()?);
        Ok(())
    })?;
    Ok(sets)
}

/// The error for a folder without a data set: says what it holds instead.
fn none_in(inside: &Inside) -> Error {
    if let Some(e) = inside.wrong() {
        return e;
    }
    let mut found = None;
    let _ = walk(inside, &mut |below| {
        found = found.take().or_else(|| below.wrong());
        Ok(())
    });
    found.unwrap_or_else(|| {
        let place = inside.folder.display();
        let folder_name = |path: &PathBuf| format!("{}/", path.file_name().unwrap_or_default().to_string_lossy());
        let names: Vec<String> = inside.files.iter().cloned().chain(inside.folders.iter().map(folder_name)).collect();
        let holds = if names.is_empty() { "it is empty".into() } else { format!("it holds {}", listed(&names)) };
        let message = format!("{place} has no {} or other data files; {holds}; {READ}", idx_names::USUAL[0]);
        Error::new(Kind::NoInput, message)
    })
}

/// The formats that samcore reads, for messages.
const READ: &str = "samcore reads IDX files as MNIST has them (train-images-idx3-ubyte, train-labels-idx1-ubyte, \
                    t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, also .gz) and the binary files of CIFAR";

fn several(folder: &Path, sets: &[DataFiles]) -> Error {
    let addresses: Vec<String> = sets.iter().map(|set| set.address().display().to_string()).collect();
    let distinct: BTreeSet<&String> = addresses.iter().collect();
    let message = match distinct.len() == sets.len() {
        true => format!("{} holds several data sets; give one of {}", folder.display(), addresses.join(", ")),
        false => {
            let files: Vec<String> = sets.iter().map(|set| set.files[0].display().to_string()).collect();
            let what = format!("the files of several data sets lie side by side ({})", files.join(", "));
            format!("{}: {what}; move each set into a folder of its own", folder.display())
        }
    };
    Error::new(Kind::NoInput, message)
}

/// The first of some names, and how many more there are.
fn listed(names: &[String]) -> String {
    let first = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Checks that spellings of one IDX file, of which the first is read, do not contradict each other.
fn check_spellings(paths: &[PathBuf], rank: usize) -> Result<()> {
    let [first, others @ ..] = paths else { return Ok(()) };
    let content = |path: &Path| idx::read(path, rank).map(|idx| idx.bytes).ok();
    let Some(bytes) = (!others.is_empty()).then(|| content(first)).flatten() else { return Ok(()) };
    let differs = |path: &&PathBuf| content(path).is_some_and(|other: Bytes| other[..] != bytes[..]);
    match others.iter().find(differs) {
        None => Ok(()),
        Some(other) => {
            let message = format!(
                "{} and {} are the same file by name and have different contents; remove one",
                first.display(),
                other.display()
            );
            Err(Error::data(message))
        }
    }
}

#[cfg(test)]
mod tests;
