//! The names that IDX files go by: `train-images-idx3-ubyte`, `train-images.idx3-ubyte`, `emnist-letters-test-labels-idx1-ubyte`,
//! `qmnist-train-labels-idx2-int`, each also with `.gz`.

use super::{DataFiles, check_spellings, listed};
use crate::data::{Format, idx};
use crate::error::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// MNIST's own names, in the order of [`idx::RANKS`].
pub const USUAL: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

const SEPARATORS: [char; 3] = ['-', '.', '_'];

/// The part of a set that a file is, by its name.
#[derive(Debug, PartialEq, Eq)]
pub struct IdxPart {
    /// Before `train` or `test`, without the separator.
    pub prefix: String,
    /// Place in [`USUAL`].
    pub place: usize,
    pub packed: bool,
}

/// Returns the part that a file of this name is, if it is named like an IDX file.
pub fn part(name: &str) -> Option<IdxPart> {
    let stem = name.strip_suffix(".gz").unwrap_or(name);
    let words: Vec<&str> = stem.split(SEPARATORS).collect();
    let is_end = |word: &&str| ["idx", "idx1", "idx2", "idx3", "idx4", "ubyte", "int"].contains(word);
    for (at, pair) in words.windows(2).enumerate() {
        let half = match pair[0] {
            "train" => 0,
            "t10k" | "test" => 2,
            _ => continue,
        };
        let place = match pair[1] {
            "images" => half,
            "labels" => half + 1,
            _ => continue,
        };
        let end = &words[at + 2..];
        if end.is_empty() || !end.iter().all(is_end) {
            return None;
        }
        let before = words[..at].iter().map(|word| word.len() + 1).sum::<usize>().saturating_sub(1);
        return Some(IdxPart { prefix: stem[..before].to_string(), place, packed: stem.len() < name.len() });
    }
    None
}

/// IDX files whose names begin alike.
#[derive(Default)]
pub struct IdxGroup {
    pub prefix: String,
    /// By place in [`USUAL`]: every spelling that is there, the one that is read first.
    spellings: [Vec<PathBuf>; 4],
}

/// Sorts the IDX files of a folder into sets, the one without a prefix first.
pub fn groups(folder: &Path, files: &[String], folders: &[PathBuf]) -> Vec<IdxGroup> {
    // Unpacked files before packed ones, then MNIST's own names.
    type Key = (bool, bool, String);
    let mut found: BTreeMap<String, [Vec<(Key, PathBuf)>; 4]> = BTreeMap::new();
    let mut add = |name: &str, path: PathBuf| {
        if let Some(part) = part(name) {
            let key = (part.packed, !name.contains(USUAL[part.place]), name.to_string());
            found.entry(part.prefix).or_default()[part.place].push((key, path));
        }
    };
    files.iter().for_each(|name| add(name, folder.join(name)));
    for path in folders {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Kaggle packs each file into a folder of its own name.
        let within = path.join(&*name);
        add(&name, if within.is_file() { within } else { path.clone() });
    }
    let sorted = |mut spellings: Vec<(Key, PathBuf)>| {
        spellings.sort();
        spellings.into_iter().map(|(_, path)| path).collect()
    };
    found.into_iter().map(|(prefix, places)| IdxGroup { prefix, spellings: places.map(sorted) }).collect()
}

impl IdxGroup {
    /// Returns the set if all four files are there; an error if two spellings of a file have different contents.
    pub fn layout(&self, folder: &Path) -> Option<Result<DataFiles>> {
        let files: Vec<PathBuf> = self.spellings.iter().filter_map(|paths| paths.first().cloned()).collect();
        if files.len() < USUAL.len() {
            return None;
        }
        let checked = self.spellings.iter().zip(idx::RANKS).try_for_each(|(paths, rank)| check_spellings(paths, rank));
        let prefix = self.prefix.clone();
        Some(checked.map(|()| DataFiles { folder: folder.into(), format: Format::Idx, files, prefix }))
    }

    /// The error for a set with files missing.
    pub fn lacking(&self, folder: &Path) -> Error {
        let separator = if self.prefix.is_empty() { "" } else { "-" };
        let places = self.spellings.iter().zip(USUAL);
        let missing: Vec<String> = places
            .filter(|(paths, _)| paths.is_empty())
            .map(|(_, name)| format!("{}{separator}{name}", self.prefix))
            .collect();
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let there: Vec<String> = self.spellings.iter().filter_map(|paths| paths.first().map(name)).collect();
        let holds = if there.is_empty() { String::new() } else { format!("; it holds {}", listed(&there)) };
        let message = format!("{} has no {} (or .gz){holds}", folder.display(), missing.join(", no "));
        Error::new(Kind::NoInput, message)
    }
}
