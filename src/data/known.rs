//! The data sets that samcore knows by name: where they lie, what identifies them, where they come from.

mod table;

pub use table::DATASETS;

use super::{Format, layout};
use crate::error::{Error, Kind, Result, nearest};
use crate::files::{in_threads, sha256_hex};
use std::path::{Path, PathBuf};

/// One data set with a name.
pub struct Known {
    pub name: &'static str,
    pub about: &'static str,
    /// Folder under one of the [`roots`].
    pub folder: &'static str,
    pub format: Format,
    pub class_names: &'static [&'static str],
    /// Names of the coarse classes, for sets that have two labels an image.
    pub coarse_names: &'static [&'static str],
    /// Mean of each channel over the training images scaled to 0..1; unused channels have mean 0 and deviation 1.
    pub mean: [f32; 4],
    pub std: [f32; 4],
    /// The files, those of the training images first.
    pub files: &'static [KnownFile],
    /// Addresses of folders with the archives, each with a slash at its end, in the order in which they are tried.
    pub urls: &'static [&'static str],
    pub archives: &'static [Archive],
}

/// One original file, as it is when unpacked.
pub struct KnownFile {
    pub name: &'static str,
    pub id: Identity,
}

/// Identity of an original file.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub len: u64,
    pub sha256: &'static str,
}

/// A packed file that the authors offer.
#[derive(Clone, Copy, Debug)]
pub struct Archive {
    pub name: &'static str,
    pub id: Identity,
    pub packing: Packing,
}

/// Content of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// `.gz`: the one file that bears the archive's name without the ending.
    Gz,
    /// `.tar.gz`: all files, below the set's folder.
    TarGz,
}

impl Identity {
    /// Returns how a file of this length and SHA-256 differs from the original, if it does.
    pub fn differs(&self, len: u64, sha256: &str) -> Option<String> {
        match (len == self.len, sha256 == self.sha256) {
            (false, _) => Some(format!("it has {len} bytes instead of {}", self.len)),
            (true, false) => Some(format!("its SHA-256 is {sha256} instead of {}", self.sha256)),
            (true, true) => None,
        }
    }
}

impl Known {
    pub fn by_name(name: &str) -> Option<&'static Known> {
        DATASETS.iter().find(|known| known.name == name)
    }

    /// Its folder under the first of `roots` that has all its files, or else under the first that has the folder.
    ///
    /// # Errors
    /// NoInput: no root has it; the message says where it was looked for and how to get it.
    pub fn find(&self, roots: &[PathBuf]) -> Result<PathBuf> {
        let places: Vec<PathBuf> = roots.iter().map(|root| root.join(self.folder)).collect();
        let complete = |place: &&PathBuf| layout::of_format(place, self.format).is_ok();
        if let Some(found) = places.iter().find(complete).or_else(|| places.iter().find(|place| place.is_dir())) {
            return Ok(found.clone());
        }
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        let message = format!(
            "data set {} is not there; looked in {}; get it with 'samcore data fetch {}', or set SAMCORE_DATA to the folder \
             that holds {}/",
            self.name,
            places.join(", "),
            self.name,
            self.folder
        );
        Err(Error::new(Kind::NoInput, message))
    }

    /// Returns how unpacked `content` differs from that of original file number `which`, if it does.
    pub fn differs(&self, which: usize, content: &[u8]) -> Option<String> {
        let id = &self.files[which].id;
        // A file of another length need not be hashed.
        let sha256 = if content.len() as u64 == id.len { sha256_hex(content) } else { String::new() };
        id.differs(content.len() as u64, &sha256)
    }

    /// Checks that unpacked `content` is that of original file number `which`; `path` is its source.
    ///
    /// # Errors
    /// Data: it is another file.
    pub fn check(&self, which: usize, path: &Path, content: &[u8]) -> Result<()> {
        self.differs(which, content).map_or(Ok(()), |found| {
            let way_out = "fetch it again, or give the folder instead of the name to use it as it is";
            Err(Error::data(format!("{} is not the file of {}: {found}; {way_out}", path.display(), self.name)))
        })
    }
}

/// The known data set that some files are.
#[derive(Clone, Copy)]
pub struct Recognised {
    /// All files are the originals of this one.
    pub known: Option<&'static Known>,
    /// The constants and class names of this one hold: it has the same training images, or the same format.
    pub like: Option<&'static Known>,
}

/// Recognises a set by the SHA-256 of its unpacked files; `paths` and `contents` are in the order of [`Known::files`].
///
/// # Errors
/// Data: the files are not those of `expected`, if that is given.
pub fn recognise(
    format: Format,
    expected: Option<&'static Known>,
    paths: &[PathBuf],
    contents: &[&[u8]],
) -> Result<Recognised> {
    let candidates = || DATASETS.iter().filter(|known| known.format == format);
    let by_format = candidates().find(|_| format != Format::Idx);
    // Lengths first: a stranger's data is then not hashed at all.
    let candidate = expected.or_else(|| candidates().find(|known| known.files[0].id.len == contents[0].len() as u64));
    let Some(known) = candidate else { return Ok(Recognised { known: None, like: by_format }) };
    // CIFAR-10 has 184 MB to be hashed, half a second on one old core.
    let numbered: Vec<(usize, &[u8])> = contents.iter().copied().enumerate().collect();
    let checked: Vec<Result<()>> = in_threads(&numbered, |(i, content)| known.check(i, &paths[i], content));
    let same_images = checked[0].is_ok();
    match checked.into_iter().collect::<Result<()>>() {
        Ok(()) => Ok(Recognised { known: Some(known), like: Some(known) }),
        Err(e) if expected.is_some() => Err(e),
        Err(_) => Ok(Recognised { known: None, like: by_format.or(same_images.then_some(known)) }),
    }
}

/// The error for a word that is neither a known name nor a folder.
pub fn no_such(word: &str) -> Error {
    let names: Vec<&str> = DATASETS.iter().map(|known| known.name).collect();
    let hint = match nearest(word, names.iter().copied()) {
        Some(name) => format!("did you mean '{name}'?"),
        None => format!("known data sets: {}", names.join(", ")),
    };
    Error::new(Kind::NoInput, format!("there is no data set and no folder '{word}'; {hint}"))
}

/// Returns the folders in which known data sets are looked for, in order: `$SAMCORE_DATA`; `./data`; the user's own data folder;
/// the `data` folder beside an ancestor of the program, which finds a repository's data from `target/release/samcore` wherever it
/// is started; and that of the source from which the program was built, if it is still there, by which an installed program
/// finds Fashion-MNIST.
pub fn roots() -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.ancestors().skip(1).map(|folder| folder.join("data"));
    let source = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data"));
    let found = beside.chain([source]).filter(|folder| folder.is_dir());
    let mut roots = Vec::new();
    for root in named_root().into_iter().chain([PathBuf::from("data")]).chain(users_root()).chain(found) {
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots
}

/// Returns the folder into which `samcore data fetch` puts sets without --out: `$SAMCORE_DATA`; or `./data` if it exists; or the
/// user's own data folder, so that a set is found from every folder.
pub fn home() -> PathBuf {
    let here = PathBuf::from("data");
    named_root().or_else(|| here.is_dir().then(|| here.clone())).or_else(users_root).unwrap_or(here)
}

/// `$XDG_DATA_HOME/samcore`, by default `~/.local/share/samcore`.
fn users_root() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("samcore"))
}

fn named_root() -> Option<PathBuf> {
    std::env::var_os("SAMCORE_DATA").filter(|v| !v.is_empty()).map(PathBuf::from)
}
