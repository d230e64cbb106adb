//! Data sets: labelled images of bytes, read from IDX files.
//!
//! A set is one of the table [`DATASETS`] by name, or any folder with the four files of an MNIST-like set.

pub mod idx;
pub mod known;

pub use idx::Bytes;
pub use known::{DATASETS, Known};

use crate::device::DatasetBytes;
use crate::error::{Error, Kind, Result};
use crate::rng::{Draws, stream};
use std::path::{Path, PathBuf};

/// The images and labels of one half of a data set.
pub struct Split {
    /// `[count, c, h, w]` as in the file.
    pub images: Bytes,
    /// `[count]`.
    pub labels: Bytes,
    pub count: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub images_path: PathBuf,
    pub labels_path: PathBuf,
}

impl Split {
    /// Bytes of one image.
    pub fn image_len(&self) -> usize {
        self.c * self.h * self.w
    }
    /// The split as devices take it.
    pub fn bytes(&self) -> DatasetBytes<'_> {
        DatasetBytes { images: &self.images, labels: &self.labels, image_len: self.image_len() }
    }
    /// The pixels of image `i`, `[c, h, w]`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * self.image_len()..][..self.image_len()]
    }
}

/// A data set in memory.
pub struct DataSet {
    /// The known set's name, or the folder's.
    pub name: String,
    pub folder: PathBuf,
    pub train: Split,
    pub test: Split,
    /// One more than the largest label of both splits, at least 2.
    pub classes: usize,
    pub class_names: Vec<String>,
    /// Of each channel over the training images scaled to 0..1; unused channels have mean 0 and deviation 1.
    pub mean: [f32; 4],
    pub std: [f32; 4],
    /// The row of [`DATASETS`] that this set was recognised as, by its name or by its files' SHA-256.
    pub known: Option<&'static Known>,
}

/// Loads the data set of a known name, or from a folder with IDX files.
///
/// A known name's files must be the originals, byte for byte. A folder may hold images of any size and up to 256 classes; if
/// its contents are those of a known set, it gets that set's constants, otherwise mean and deviation come from its images.
pub fn load(name_or_folder: &str) -> Result<DataSet> {
    if let Some(known) = Known::by_name(name_or_folder) {
        return load_folder(&known.find(&known::roots())?, Some(known));
    }
    let folder = Path::new(name_or_folder);
    match std::fs::metadata(folder) {
        Ok(meta) if meta.is_dir() => load_folder(folder, None),
        Ok(_) => Err(Error::new(Kind::NoInput, format!("{name_or_folder} is a file; give the folder that holds it"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(known::no_such(name_or_folder)),
        Err(e) => Err(Error::io("read folder", folder, &e)),
    }
}

/// Loads the four files in `folder`, which must be the originals of `expected` if that is given.
pub fn load_folder(folder: &Path, expected: Option<&'static Known>) -> Result<DataSet> {
    let train = load_split(folder, "train", expected.map(|known| (known, 0)))?;
    let test = load_split(folder, "t10k", expected.map(|known| (known, 2)))?;
    if (train.c, train.h, train.w) != (test.c, test.h, test.w) {
        return Err(Error::data(format!(
            "{} has images of {}x{}, {} of {}x{}; both splits need one size",
            train.images_path.display(),
            train.h,
            train.w,
            test.images_path.display(),
            test.h,
            test.w
        )));
    }
    let contents = [&train.images, &train.labels, &test.images, &test.labels].map(Bytes::whole_file);
    let known = expected.or_else(|| Known::by_content(contents));
    let largest = train.labels.iter().chain(test.labels.iter()).max().copied().unwrap_or(0);
    let classes = (usize::from(largest) + 1).max(2);
    let (mean, std) = known.map_or_else(|| mean_std(&train), |known| (known.mean, known.std));
    let folder_name = || folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    Ok(DataSet {
        name: known.map_or_else(folder_name, |known| known.name.into()),
        folder: folder.into(),
        classes,
        class_names: match known {
            Some(known) => known.class_names.iter().map(|name| name.to_string()).collect(),
            None => (0..classes).map(|class| class.to_string()).collect(),
        },
        train,
        test,
        mean,
        std,
        known,
    })
}

/// Loads `{prefix}-images` and `{prefix}-labels`; `expected` is a known set and the place of the images in its `files`.
fn load_split(folder: &Path, prefix: &str, expected: Option<(&Known, usize)>) -> Result<Split> {
    let images_path = locate(folder, &format!("{prefix}-images"), 3)?;
    let labels_path = locate(folder, &format!("{prefix}-labels"), 1)?;
    if let Some((known, first)) = expected {
        known.verify(first, &images_path)?;
        known.verify(first + 1, &labels_path)?;
    }
    let images = idx::read(&images_path, 3)?;
    let labels = idx::read(&labels_path, 1)?;
    let (count, h, w) = (images.dims[0], images.dims[1], images.dims[2]);
    if count != labels.dims[0] {
        return Err(Error::data(format!(
            "{} has {count} images but {} has {} labels; they must belong together",
            images_path.display(),
            labels_path.display(),
            labels.dims[0]
        )));
    }
    Ok(Split { images: images.bytes, labels: labels.bytes, count, h, w, c: 1, images_path, labels_path })
}

/// The IDX file of that stem, in any of the usual spellings; an unpacked one before a .gz.
fn locate(folder: &Path, stem: &str, rank: usize) -> Result<PathBuf> {
    let spellings = ["", ".gz"].map(|gz| ["-", "."].map(|dot| format!("{stem}{dot}idx{rank}-ubyte{gz}")));
    match spellings.iter().flatten().map(|name| folder.join(name)).find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => Err(Error::new(
            Kind::NoInput,
            format!(
                "{} has no {stem}-idx{rank}-ubyte or {stem}-idx{rank}-ubyte.gz; a data folder holds train-images, \
                 train-labels, t10k-images and t10k-labels",
                folder.display()
            ),
        )),
    }
}

/// Mean and standard deviation of each channel, of pixels scaled to 0..1. Counting the 256 values first keeps the sums exact.
fn mean_std(split: &Split) -> ([f32; 4], [f32; 4]) {
    let (mut mean, mut std) = ([0.0; 4], [1.0; 4]);
    let plane = split.h * split.w;
    for channel in 0..split.c {
        let mut counts = [0u64; 256];
        for image in split.images.chunks_exact(split.image_len()) {
            for pixel in &image[channel * plane..][..plane] {
                counts[usize::from(*pixel)] += 1;
            }
        }
        let average = |value: &dyn Fn(f64) -> f64| {
            let sum: f64 = counts.iter().enumerate().map(|(v, n)| *n as f64 * value(v as f64 / 255.0)).sum();
            sum / (split.count * plane) as f64
        };
        let m = average(&|v| v);
        let variance = average(&|v| (v - m) * (v - m));
        mean[channel] = m as f32;
        // Images that are all one grey have nothing to scale; dividing by 0 would spread NaN.
        std[channel] = if variance > 0.0 { variance.sqrt() as f32 } else { 1.0 };
    }
    (mean, std)
}

/// Splits `0..count` in what is trained on and what is held out, both ascending.
///
/// The held-out part has `fraction * count` images, rounded, drawn without replacement by `seed` alone.
pub fn validation(seed: u64, fraction: f64, count: usize) -> Result<(Vec<u32>, Vec<u32>)> {
    let held = (fraction * count as f64).round();
    // Written so that NaN fails too.
    if !(held >= 1.0 && held < count as f64) {
        return Err(Error::usage(format!(
            "a validation fraction of {fraction} leaves {held} of {count} images to validate on; \
             training and validation need at least one each"
        )));
    }
    let held = held as usize;
    let mut order: Vec<u32> = (0..count as u32).collect();
    let mut draws = Draws::new(seed, stream("validation"), 0, 0);
    for i in 0..held {
        order.swap(i, i + draws.below((count - i) as u32) as usize);
    }
    let mut rest = order.split_off(held);
    order.sort_unstable();
    rest.sort_unstable();
    Ok((rest, order))
}

#[cfg(test)]
mod tests;
