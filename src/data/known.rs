//! The table of data sets that samcore knows by name: where they lie, what identifies them, and their constants.

use crate::error::{Error, Kind, Result, nearest};
use crate::files::{sha256_hex, sha256_stream};
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

/// One data set with a name.
pub struct Known {
    pub name: &'static str,
    pub about: &'static str,
    /// Folder under a data root (`$SAMCORE_DATA`, `./data`, `data` beside the program).
    pub folder: &'static str,
    pub class_names: &'static [&'static str],
    /// Of each channel over the training images scaled to 0..1; unused channels have mean 0 and deviation 1.
    pub mean: [f32; 4],
    pub std: [f32; 4],
    /// Training images, training labels, test images, test labels.
    pub files: [KnownFile; 4],
}

/// One original file, plain and as the .gz that its authors offer.
pub struct KnownFile {
    pub plain: Identity,
    pub gz: Identity,
}

/// What a file must be to be the original.
pub struct Identity {
    pub len: u64,
    pub sha256: &'static str,
}

const fn id(len: u64, sha256: &'static str) -> Identity {
    Identity { len, sha256 }
}

/// All data sets that have a name.
pub const DATASETS: &[Known] = &[Known {
    name: "fashion-mnist",
    about: "70,000 grey 28x28 images of clothes in 10 classes (Xiao, Rasul and Vollgraf, 2017)",
    folder: "fashion-mnist",
    class_names: &[
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
    mean: [0.2860, 0.0, 0.0, 0.0],
    std: [0.3530, 1.0, 1.0, 1.0],
    files: [
        KnownFile {
            plain: id(47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
            gz: id(26_202_446, "f46450982819e161325683178a5324fc64e606fb3758c65c6ca7dcc91aa489fd"),
        },
        KnownFile {
            plain: id(60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            gz: id(29_491, "bee2410e017aef275ad0716cfa389481fe80dd89f974536e863d982da161f14c"),
        },
        KnownFile {
            plain: id(7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
            gz: id(4_385_785, "55ec2dd7358c56fba81678bf2cd00a44de07bae64c342921600298a2b5eb517d"),
        },
        KnownFile {
            plain: id(10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
            gz: id(5_125, "bad34aa92450454a281e4959ab5a22f03213e21212f4261dadf52e42fa6cd580"),
        },
    ],
}];

impl Known {
    pub fn by_name(name: &str) -> Option<&'static Known> {
        DATASETS.iter().find(|known| known.name == name)
    }

    /// The data set whose unpacked files have exactly these contents (in the order of `files`).
    pub fn by_content(contents: [&[u8]; 4]) -> Option<&'static Known> {
        let same = |known: &&Known| {
            let mut pairs = known.files.iter().zip(contents);
            // Lengths first: a stranger's data is then not hashed at all.
            pairs.clone().all(|(file, bytes)| file.plain.len == bytes.len() as u64)
                && pairs.all(|(file, bytes)| file.plain.sha256 == sha256_hex(bytes))
        };
        DATASETS.iter().find(same)
    }

    /// Its folder under the first of `roots` that has it.
    pub fn find(&self, roots: &[PathBuf]) -> Result<PathBuf> {
        let places: Vec<PathBuf> = roots.iter().map(|root| root.join(self.folder)).collect();
        if let Some(found) = places.iter().find(|place| place.is_dir()) {
            return Ok(found.clone());
        }
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        let message = format!(
            "data set {} is not there; looked in {}; set SAMCORE_DATA to the folder that holds {}/",
            self.name,
            places.join(", "),
            self.folder
        );
        Err(Error::new(Kind::NoInput, message))
    }

    /// An error unless the file at `path` is original file number `which`.
    pub fn verify(&self, which: usize, path: &Path) -> Result<()> {
        let file = &self.files[which];
        let original = if path.extension() == Some(OsStr::new("gz")) { &file.gz } else { &file.plain };
        let unreadable = |e: std::io::Error| Error::io("read", path, &e);
        let mut opened = File::open(path).map_err(unreadable)?;
        let len = opened.metadata().map_err(unreadable)?.len();
        let found = if len != original.len {
            format!("it has {len} bytes instead of {}", original.len)
        } else {
            let sha256 = sha256_stream(&mut opened).map_err(unreadable)?;
            if sha256 == original.sha256 {
                return Ok(());
            }
            format!("its SHA-256 is {sha256} instead of {}", original.sha256)
        };
        let way_out = "fetch it again, or give the folder instead of the name to use it as it is";
        Err(Error::data(format!("{} is not the file of {}: {found}; {way_out}", path.display(), self.name)))
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

/// Where known data sets are looked for, in this order: `$SAMCORE_DATA`, `./data`, and the `data` folder beside an ancestor of
/// the program, which finds a repository's data from `target/release/samcore` wherever it is started.
pub fn roots() -> Vec<PathBuf> {
    let named = std::env::var_os("SAMCORE_DATA").filter(|v| !v.is_empty()).map(PathBuf::from);
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.ancestors().skip(1).map(|folder| folder.join("data"));
    named.into_iter().chain([PathBuf::from("data")]).chain(beside.filter(|folder| folder.is_dir())).collect()
}
