//! Label noise: a copy of a data set in which some training labels are wrong. Test labels stay as they are.

use super::classes::occurring;
use super::{DataSet, Format, Labels, cifar, idx, load_as};
use crate::error::{Error, Kind, Result};
use crate::files::{self, read_bytes, write_atomic};
use crate::rng::{below, draw, stream};
use serde_json::json;
use std::fs;
use std::path::Path;

/// The file that tells which labels of a set were changed, beside its data.
pub const NOISE_FILE: &str = "noise.json";

/// Largest such file that is read: a million wrong labels take 10 MB.
const LARGEST: u64 = 16 << 20;

/// Label noise. Each draw is keyed by the image's number alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Probability that an image's label is replaced by a random one.
    pub rate: f64,
    pub seed: u64,
    /// Draw from all classes that occur, the right one among them (Zhang et al., 2017), so that fewer labels than `rate` are
    /// wrong; instead of from the others that occur, so that all that are drawn are wrong (symmetric noise, as in the SAM paper).
    pub all_classes: bool,
    /// The labels of CIFAR-100 that get noise; the others stay right.
    pub labels: Labels,
}

/// Record of the right labels, as [`NOISE_FILE`] holds it.
pub struct Record {
    labels: Labels,
    /// Numbers of the images, ascending, and their labels.
    original: Vec<(usize, u8)>,
}

impl Record {
    /// The record in a data set's folder, if there is one.
    ///
    /// # Errors
    /// Data: it is not as [`Noise::write`] leaves it.
    pub fn read(folder: &Path) -> Result<Option<Record>> {
        let path = folder.join(NOISE_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let wrong = || Error::data(format!("{} is not what 'samcore data noise' writes", path.display()));
        let bytes = read_bytes(&path, LARGEST)?;
        let parsed = || {
            let record: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
            let name = record["labels"].as_str()?;
            let place = Labels::NAMES.iter().position(|n| *n == name)?;
            let (images, labels) = (record["indices"].as_array()?, record["original"].as_array()?);
            let pair = |(i, label): (&serde_json::Value, &serde_json::Value)| {
                Some((usize::try_from(i.as_u64()?).ok()?, u8::try_from(label.as_u64()?).ok()?))
            };
            let original = images.iter().zip(labels).map(pair).collect::<Option<Vec<_>>>()?;
            (images.len() == labels.len()).then_some(Record { labels: Labels::ALL[place], original })
        };
        parsed().map(Some).ok_or_else(wrong)
    }

    /// The right training labels of the set that the record lies beside; None if it is of the set's other labels.
    ///
    /// # Errors
    /// Data: it is of other images or classes than the set has.
    pub fn truth(&self, set: &DataSet) -> Result<Option<Vec<u8>>> {
        if self.labels != set.labels {
            return Ok(None);
        }
        let mut truth = set.train.labels.to_vec();
        for (image, label) in &self.original {
            match truth.get_mut(*image) {
                Some(place) if usize::from(*label) < set.classes => *place = *label,
                _ => {
                    let file = set.folder.join(NOISE_FILE);
                    let message = format!("image {image} of class {label} is not of {}", set.name);
                    return Err(Error::data(format!("{}: {message}", file.display())));
                }
            }
        }
        Ok(Some(truth))
    }

    /// Puts the labels back in the content of a file of training labels; `first` is the number of its first image.
    /// Returns the number of its images.
    pub fn undo(&self, format: Format, first: usize, content: &mut [u8]) -> usize {
        let (row, place) = match format {
            Format::Idx => (1, idx::LABELS_HEADER),
            _ => (cifar::label_classes(format).len() + cifar::PIXELS, cifar::label_place(format, self.labels)),
        };
        let images = content.len().saturating_sub(place).div_ceil(row);
        for (image, label) in &self.original {
            if let Some(i) = image.checked_sub(first).filter(|i| *i < images) {
                content[place + i * row] = *label;
            }
        }
        images
    }
}

/// Result of [`Noise::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub images: usize,
    /// Labels that were drawn anew, and those of them that are another class now.
    pub drawn: usize,
    pub changed: usize,
    /// Lines on classes that have no image.
    pub missing: Vec<String>,
}

impl Noise {
    /// Returns the new label of image number `index`, one of `classes`, if one is drawn.
    pub fn draw(&self, index: u32, label: u8, classes: &[u8]) -> Option<u8> {
        let [chosen, class, ..] = draw(self.seed, stream("label-noise"), 0, index, 0);
        if f64::from(chosen) / 4_294_967_296.0 >= self.rate {
            return None;
        }
        let count = classes.len() as u32;
        let place = match self.all_classes {
            true => below(class, count) as usize,
            // The other classes in a row, with the right one left out.
            false => {
                let place = below(class, count.saturating_sub(1)) as usize;
                place + usize::from(classes.get(place).is_some_and(|class| *class >= label))
            }
        };
        classes.get(place).copied()
    }

    /// Returns for each training image the label that is drawn for it, if one is. Classes without a training image are
    /// not drawn.
    ///
    /// # Errors
    /// Data: all images are of one class.
    fn drawn(&self, labels: &[u8]) -> Result<Vec<Option<u8>>> {
        let classes = occurring(labels);
        if let [class] = classes[..] {
            let message = format!("all training images have class {class}: there is no other class for wrong labels");
            return Err(Error::data(message));
        }
        Ok((0u32..).zip(labels).map(|(i, label)| self.draw(i, *label, &classes)).collect())
    }

    /// Returns the labels of all training images, newly drawn ones among them.
    ///
    /// # Errors
    /// Data: all images are of one class.
    pub fn labels(&self, labels: &[u8]) -> Result<Vec<u8>> {
        let drawn = self.drawn(labels)?;
        Ok(drawn.iter().zip(labels).map(|(new, label)| new.unwrap_or(*label)).collect())
    }

    /// Writes the noisy copy of a data set into the folder `to`, which must be new or empty.
    ///
    /// # Errors
    /// As for [`load_as`]; CantCreate: `to` holds something, or cannot be written.
    pub fn write(&self, name_or_folder: &str, to: &Path) -> Result<Written> {
        let set = load_as(name_or_folder, self.labels)?;
        let taken = files::read_dir(to).map(|mut entries| entries.next().is_some()).unwrap_or(to.exists());
        if taken {
            let message = format!("{} is there already; give --out a new folder", to.display());
            return Err(Error::new(Kind::CantCreate, message));
        }
        // A link stays, and the folder that it leads to is made.
        let to = &files::target(to)?;
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = to.file_name().ok_or_else(|| Error::usage(format!("{} is no name for a folder", to.display())))?;
        fs::create_dir_all(parent).map_err(|e| Error::io("create folder", parent, &e))?;
        remove_leftovers(parent, &name.to_string_lossy());
        let part = parent.join(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
        let written = self.write_files(&set, &part).and_then(|written| {
            // A rename replaces an empty folder, and nothing else.
            fs::rename(&part, to).map_err(|e| Error::io("create", to, &e))?;
            Ok(written)
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&part);
        }
        written
    }

    fn write_files(&self, set: &DataSet, to: &Path) -> Result<Written> {
        let classes = set.classes;
        let drawn = self.drawn(&set.train.labels).map_err(|e| e.context(set.folder.display()))?;
        fs::create_dir(to).map_err(|e| Error::io("create folder", to, &e))?;
        let mut rest = drawn.iter();
        for (i, path) in set.files.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let noisy = match set.format {
                Format::Idx => (i == 1).then(|| self.labels(&set.train.labels)).transpose()?.map(|l| labels_file(&l)),
                Format::Cifar10 | Format::Cifar100 if i < set.format.training_files() => {
                    let mut rows = fs::read(path).map_err(|e| Error::io("read", path, &e))?;
                    let row = cifar::label_classes(set.format).len() + cifar::PIXELS;
                    let place = cifar::label_place(set.format, self.labels);
                    for (row, new) in rows.chunks_exact_mut(row).zip(&mut rest) {
                        row[place] = new.unwrap_or(row[place]);
                    }
                    Some(rows)
                }
                Format::Cifar10 | Format::Cifar100 => None,
            };
            match noisy {
                Some(content) => write_atomic(&to.join(name.trim_end_matches(".gz")), &content)?,
                None => {
                    let copy = to.join(&*name);
                    fs::copy(path, &copy).map_err(|e| Error::io("write", &copy, &e))?;
                }
            }
        }
        let changed: Vec<(usize, u8)> = drawn
            .iter()
            .zip(set.train.labels.iter())
            .enumerate()
            .filter(|(_, (new, label))| new.is_some_and(|new| new != **label))
            .map(|(i, (_, label))| (i, *label))
            .collect();
        let all: Vec<u32> = (0..set.train.count as u32).collect();
        let written = Written {
            images: drawn.len(),
            drawn: drawn.iter().flatten().count(),
            changed: changed.len(),
            missing: set.missing_classes(&all),
        };
        let (indices, original): (Vec<usize>, Vec<u8>) = changed.into_iter().unzip();
        let record = json!({
            "source": set.folder.display().to_string(),
            "data": set.name,
            "rate": self.rate,
            "seed": self.seed,
            "convention": if self.all_classes { "all-classes" } else { "symmetric" },
            "labels": Labels::NAMES[self.labels as usize],
            "classes": classes,
            "images": written.images,
            "drawn": written.drawn,
            "changed": written.changed,
            "indices": indices,
            "original": original,
        });
        write_atomic(&to.join(NOISE_FILE), format!("{record}\n").as_bytes())?;
        Ok(written)
    }
}

/// An IDX file of labels.
pub fn labels_file(labels: &[u8]) -> Vec<u8> {
    let mut content = vec![0, 0, 8, 1];
    content.extend((labels.len() as u32).to_be_bytes());
    content.extend(labels);
    content
}

/// Removes the unfinished copies that processes which were killed have left for the folder `name` in `parent`.
fn remove_leftovers(parent: &Path, name: &str) {
    // Without this folder nobody can be asked which processes are alive.
    let processes = Path::new("/proc");
    let Ok(entries) = files::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|_| processes.join("self").exists()) {
        let own = entry.file_name();
        let process = own.to_str().and_then(|own| own.strip_prefix(&format!(".{name}."))?.strip_suffix(".part"));
        let Some(process) = process.filter(|id| id.parse::<u32>().is_ok()) else { continue };
        if !processes.join(process).exists() {
            // What cannot be removed is only untidy.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
