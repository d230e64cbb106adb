//! The binary CIFAR files: rows of one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 3 x 32 x 32 pixels.

use super::bytes::{Bytes, open};
use super::{Format, Labels, Split};
use crate::error::{Error, Kind, Result};
use crate::files::looks_like;
use std::path::{Path, PathBuf};

/// Pixels of a row: three planes of 32 x 32.
pub const PIXELS: usize = 3 * 32 * 32;

/// Classes of each label byte of a row, in their order.
pub fn label_classes(format: Format) -> &'static [usize] {
    match format {
        Format::Cifar100 => &[20, 100],
        _ => &[10],
    }
}

/// Returns the byte of a row that holds the labels that are asked for.
pub fn label_place(format: Format, labels: Labels) -> usize {
    usize::from(format == Format::Cifar100 && labels == Labels::Fine)
}

/// Maps a file and checks that it consists of whole rows with labels in range.
///
/// # Errors
/// NoInput: it is not there. Data: the byte at which it is wrong.
pub fn read(path: &Path, format: Format) -> Result<Bytes> {
    let (file, len) = open(path)?;
    let bytes = Bytes::map(path, &file)?;
    let classes = label_classes(format);
    let row = classes.len() + PIXELS;
    let place = path.display();
    let looks = || looks_like(&bytes).map_or(String::new(), |what| format!("; it looks like {what}"));
    let rest = bytes.len() % row;
    if rest != 0 {
        let number = len as usize / row;
        return Err(Error::data(format!(
            "{place} is truncated or too long: it ends at byte {len}, {rest} bytes into row {number} (rows have {row}){}; fetch \
             it again",
            looks()
        )));
    }
    for (number, start) in (0..bytes.len()).step_by(row).enumerate() {
        for (i, (label, classes)) in bytes[start..].iter().zip(classes).enumerate() {
            if usize::from(*label) >= *classes {
                let last = classes - 1;
                return Err(Error::data(format!(
                    "{place}, byte {}: the label of row {number} is {label}; labels go from 0 to {last}{}",
                    start + i,
                    looks()
                )));
            }
        }
    }
    Ok(bytes)
}

/// The images and labels of `files`, one after the other: devices want them apart, so they are copied once.
pub fn split(paths: &[PathBuf], files: &[Bytes], format: Format, labels: Labels) -> Split {
    let (skip, place) = (label_classes(format).len(), label_place(format, labels));
    let rows = || files.iter().flat_map(|file| file.chunks_exact(skip + PIXELS));
    let count = rows().count();
    let mut images = Vec::with_capacity(count * PIXELS);
    rows().for_each(|row| images.extend_from_slice(&row[skip..]));
    let labels = rows().map(|row| row[place]).collect();
    Split {
        images: Bytes::owned(images, 0),
        labels: Bytes::owned(labels, 0),
        count,
        h: 32,
        w: 32,
        c: 3,
        images_path: paths[0].clone(),
        labels_path: paths[0].clone(),
    }
}

/// Names of the files, those of the training images first.
pub fn names(format: Format) -> &'static [&'static str] {
    match format {
        Format::Cifar100 => &["train.bin", "test.bin"],
        _ => &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
            "test_batch.bin",
        ],
    }
}

/// Returns true if `folder` has at least one of the format's files.
pub fn is_in(folder: &Path, format: Format) -> bool {
    names(format).iter().any(|name| folder.join(name).exists())
}

/// Returns true if `folder` has the files of the Python version, which have the same names without an ending.
pub fn is_pickled(folder: &Path) -> bool {
    ["data_batch_1", "test_batch"].iter().any(|name| folder.join(name).is_file())
        || ["train", "test", "meta"].iter().all(|name| folder.join(name).is_file())
}

/// The error for a folder with only some of the format's files.
pub fn lacking(folder: &Path, format: Format) -> Error {
    let missing: Vec<&str> = names(format).iter().copied().filter(|name| !folder.join(name).exists()).collect();
    let message =
        format!("{} has no {}; it needs {}", folder.display(), missing.join(", no "), names(format).join(", "));
    Error::new(Kind::NoInput, message)
}

#[cfg(test)]
pub(super) mod tests;
