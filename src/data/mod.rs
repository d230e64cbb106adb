//! Data sets: labelled images of bytes, read from IDX files or from CIFAR's binary files.
//!
//! A set is one of the table [`DATASETS`] by name, or any folder with files of one of the formats.

pub mod augment;
mod bytes;
mod cifar;
pub mod classes;
pub mod fetch;
mod gzip;
pub mod idx;
pub mod known;
pub mod layout;
pub mod noise;
pub mod verify;

pub use bytes::Bytes;
pub use known::{DATASETS, Known};

use crate::device::DatasetBytes;
use crate::error::{Error, Result};
use crate::rng::{Draws, stream};
use known::{Recognised, recognise};
use layout::DataFiles;
use std::path::{Path, PathBuf};

/// File format of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Two files for each half, as MNIST has them: images and labels.
    Idx,
    /// `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`.
    Cifar10,
    /// `train.bin` and `test.bin`, with a coarse and a fine label an image.
    Cifar100,
}

/// Choice of CIFAR-100's labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// 100 classes; the only labels of other sets.
    Fine,
    /// 20 classes.
    Coarse,
}

impl Labels {
    pub const ALL: [Labels; 2] = [Labels::Fine, Labels::Coarse];
    /// Names as flags and config.toml have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 2] = ["fine", "coarse"];
}

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
    /// Holds the files themselves.
    pub folder: PathBuf,
    /// The files, those of the training images first.
    pub files: Vec<PathBuf>,
    pub format: Format,
    pub labels: Labels,
    pub train: Split,
    pub test: Split,
    /// As many as the format says; of IDX files one more than the largest label of both splits, at least 2.
    pub classes: usize,
    pub class_names: Vec<String>,
    /// Mean of each channel over the training images scaled to 0..1; unused channels have mean 0 and deviation 1.
    pub mean: [f32; 4],
    pub std: [f32; 4],
    /// The row of [`DATASETS`] that this set was recognised as, by its name or by its files' SHA-256.
    pub known: Option<&'static Known>,
}

impl DataSet {
    /// Returns lines on classes that have no image, or none among the training images numbered `train`.
    pub fn missing_classes(&self, train: &[u32]) -> Vec<String> {
        let train = classes::counts(self.classes, train.iter().map(|i| self.train.labels[*i as usize]));
        let test = classes::counts(self.classes, self.test.labels.iter().copied());
        classes::missing(&train, &test, &self.class_names)
    }
}

impl Format {
    /// Returns true if file number `which` holds training labels.
    pub fn has_training_labels(self, which: usize) -> bool {
        if self == Format::Idx { which == 1 } else { which < self.training_files() }
    }

    /// Returns how many of the files are those of the training images.
    pub fn training_files(self) -> usize {
        match self {
            Format::Idx => 2,
            Format::Cifar10 => 5,
            Format::Cifar100 => 1,
        }
    }
}

/// Loads the data set of a known name, or from a folder, with its fine labels.
///
/// # Errors
/// As for [`load_as`].
pub fn load(name_or_folder: &str) -> Result<DataSet> {
    load_as(name_or_folder, Labels::Fine)
}

/// Loads the data set of a known name, or from a folder with IDX or CIFAR files.
///
/// A known name's files must be the originals, byte for byte. A folder may hold any images of its format, in up to 256
/// classes of IDX files. If it is in CIFAR's format, or its training images are those of a known set, it gets that set's
/// constants and class names; otherwise mean and deviation come from its images.
///
/// # Errors
/// NoInput: it is not there. Data: a file is not what it should be. Usage: coarse labels of a set that has none.
pub fn load_as(name_or_folder: &str, labels: Labels) -> Result<DataSet> {
    let (layout, known) = place(name_or_folder)?;
    load_from(layout, labels, known)
}

/// The labels of a data set that a model of `classes` classes has learned: the coarse ones where there are as many.
///
/// # Errors
/// As for [`place`].
pub fn labels_for(name_or_folder: &str, classes: usize) -> Result<Labels> {
    let format = place(name_or_folder)?.0.format;
    let coarse = cifar::label_classes(format)[cifar::label_place(format, Labels::Coarse)];
    Ok(if format == Format::Cifar100 && classes == coarse { Labels::Coarse } else { Labels::Fine })
}

/// Finds the files of a data set, and the known set if it was named.
///
/// # Errors
/// As for [`layout::at`] and [`Known::find`].
pub fn place(name_or_folder: &str) -> Result<(DataFiles, Option<&'static Known>)> {
    match Known::by_name(name_or_folder) {
        Some(known) => Ok((layout::of_format(&known.find(&known::roots())?, known.format)?, Some(known))),
        None => Ok((layout::at(Path::new(name_or_folder))?, None)),
    }
}

/// Loads the files in `folder` with their fine labels, which must be the originals of `expected` if that is given.
///
/// # Errors
/// As for [`load_as`].
pub fn load_folder(folder: &Path, expected: Option<&'static Known>) -> Result<DataSet> {
    load_from(layout::find(folder)?, Labels::Fine, expected)
}

fn load_from(layout: DataFiles, labels: Labels, expected: Option<&'static Known>) -> Result<DataSet> {
    let format = layout.format;
    if labels == Labels::Coarse && format != Format::Cifar100 {
        let message = "--labels coarse is for CIFAR-100, whose images have two labels each";
        return Err(Error::usage(format!("{message}; those of {} have one", layout.folder.display())));
    }
    let paths = &layout.files;
    let (train, test, Recognised { known, like }) = match format {
        Format::Idx => idx_halves(paths, expected)?,
        Format::Cifar10 | Format::Cifar100 => cifar_halves(paths, format, labels, expected)?,
    };
    let classes = match format {
        Format::Idx => {
            let largest = train.labels.iter().chain(test.labels.iter()).max().copied().unwrap_or(0);
            (usize::from(largest) + 1).max(2)
        }
        Format::Cifar10 | Format::Cifar100 => cifar::label_classes(format)[cifar::label_place(format, labels)],
    };
    let (mean, std) = like.map_or_else(|| mean_std(&train), |known| (known.mean, known.std));
    let names = like.map(|known| if labels == Labels::Fine { known.class_names } else { known.coarse_names });
    let numbers = || (0..classes).map(|class| class.to_string()).collect();
    Ok(DataSet {
        name: known.map_or_else(|| layout.name(), |known| known.name.into()),
        format,
        labels,
        classes,
        class_names: match names.filter(|names| names.len() == classes) {
            Some(names) => names.iter().map(|name| name.to_string()).collect(),
            None => layout.class_names(classes).unwrap_or_else(numbers),
        },
        folder: layout.folder,
        files: layout.files,
        train,
        test,
        mean,
        std,
        known,
    })
}

/// The training and the test half out of IDX files.
fn idx_halves(paths: &[PathBuf], expected: Option<&'static Known>) -> Result<(Split, Split, Recognised)> {
    let (train, test) = (idx::read_split(&paths[0], &paths[1])?, idx::read_split(&paths[2], &paths[3])?);
    if (train.h, train.w) != (test.h, test.w) {
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
    let recognised = recognise(Format::Idx, expected, paths, &contents)?;
    Ok((train, test, recognised))
}

/// The training and the test half out of CIFAR files.
fn cifar_halves(
    paths: &[PathBuf],
    format: Format,
    labels: Labels,
    expected: Option<&'static Known>,
) -> Result<(Split, Split, Recognised)> {
    let files: Vec<Bytes> = paths.iter().map(|path| cifar::read(path, format)).collect::<Result<_>>()?;
    let contents: Vec<&[u8]> = files.iter().map(Bytes::whole_file).collect();
    let recognised = recognise(format, expected, paths, &contents)?;
    let n = format.training_files();
    let half = |range: std::ops::Range<usize>| cifar::split(&paths[range.clone()], &files[range], format, labels);
    Ok((half(0..n), half(n..files.len()), recognised))
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
    Ok(drawn(seed, "validation", held as usize, count))
}

/// `images` of `0..count`, ascending, drawn without replacement by `seed` alone.
///
/// # Errors
/// Usage: there are not so many.
pub fn subset(seed: u64, images: usize, count: usize) -> Result<Vec<u32>> {
    if images > count {
        return Err(Error::usage(format!(
            "--train-images {images} is more than the {count} training images there are"
        )));
    }
    Ok(drawn(seed, "train-images", images, count).1)
}

/// Draws `taken` of `0..count` without replacement; returns the rest and the drawn ones, both ascending.
fn drawn(seed: u64, name: &str, taken: usize, count: usize) -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..count as u32).collect();
    let mut draws = Draws::new(seed, stream(name), 0, 0);
    for i in 0..taken {
        order.swap(i, i + draws.below((count - i) as u32) as usize);
    }
    let mut rest = order.split_off(taken);
    order.sort_unstable();
    rest.sort_unstable();
    (rest, order)
}

#[cfg(test)]
mod tests;
