//! Files of formats that are not read, told by their names: what they are, and what to do.

use super::listed;
use crate::data::{DATASETS, cifar};
use crate::error::{Error, Kind};
use std::path::Path;

/// Python that writes an array as an IDX file.
pub const TO_IDX: &str = "open(NAME, 'wb').write(bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>u4').tobytes() + \
                          a.astype('u1').tobytes())";

/// A kind of files by the ends of their names.
struct Stranger {
    ends: &'static [&'static str],
    what: &'static str,
    /// Steps before the images can be written as IDX files.
    first: &'static str,
}

const STRANGERS: &[Stranger] = &[
    Stranger { ends: &[".npz"], what: "NumPy archives", first: "load them with np.load" },
    Stranger { ends: &[".npy"], what: "NumPy arrays", first: "load them with np.load" },
    Stranger { ends: &[".csv", ".tsv"], what: "tables as text", first: "load them with np.loadtxt or pandas" },
    Stranger { ends: &[".parquet", ".arrow"], what: "Arrow tables", first: "load them with pandas or datasets" },
    Stranger { ends: &[".mat"], what: "MATLAB files", first: "load them with scipy.io.loadmat" },
    Stranger { ends: &[".h5", ".hdf5"], what: "HDF5 files", first: "load them with h5py" },
    Stranger { ends: &[".pt", ".pth"], what: "PyTorch tensors", first: "load them with torch.load" },
    Stranger { ends: &[".pkl", ".pickle"], what: "Python pickles", first: "load them with pickle" },
    Stranger {
        ends: &[".png", ".jpg", ".jpeg", ".JPG", ".JPEG", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"],
        what: "image files",
        first: "load them with PIL as grey images of one size",
    },
    Stranger { ends: &["_X.bin", "_y.bin"], what: "STL-10's files", first: "load them with np.fromfile" },
];

const ARCHIVES: &[&str] = &[".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".xz", ".7z", ".bz2", ".rar"];

/// The error for a folder with `files` of another format; None where none is recognised.
pub fn error(folder: &Path, files: &[String]) -> Option<Error> {
    let place = folder.display();
    if cifar::is_pickled(folder) {
        let way_out = "get the binary version: samcore data fetch cifar-10 (or cifar-100)";
        let message = format!("{place} holds the Python version of CIFAR (pickles), which is not read; {way_out}");
        return Some(Error::data(message));
    }
    let ending = |ends: &'static [&'static str]| -> Vec<String> {
        files.iter().filter(|name| ends.iter().any(|end| name.ends_with(end))).cloned().collect()
    };
    for known in DATASETS {
        // All of them, as one alone may be another set's.
        if known.archives.iter().all(|archive| files.iter().any(|name| name == archive.name)) {
            let way_out = format!("samcore data fetch {} --out {place} unpacks them", known.name);
            let message = format!("{place} holds the archives of {}; {way_out}", known.name);
            return Some(Error::new(Kind::NoInput, message));
        }
    }
    for stranger in STRANGERS {
        let found = ending(stranger.ends);
        if !found.is_empty() {
            let what = format!("holds {} ({}), which are not read", stranger.what, listed(&found));
            let way_out = format!("{} and write each array a as an IDX file: {TO_IDX}", stranger.first);
            return Some(Error::data(format!("{place} {what}; {way_out}")));
        }
    }
    let archives = ending(ARCHIVES);
    (!archives.is_empty()).then(|| {
        let message = format!("{place} holds archives ({}); unpack them there", listed(&archives));
        Error::new(Kind::NoInput, message)
    })
}
