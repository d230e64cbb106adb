//! Is a data set what it should be? File by file, and the labels by class.

use super::known::Known;
use super::noise::{NOISE_FILE, Record};
use super::{Bytes, DATASETS, Format, Labels, Split, cifar, classes, idx, load_from, place};
use crate::error::{Error, Result};
use crate::files::sha256_hex;
use std::path::{Path, PathBuf};

/// Verdict on a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The known set's file, byte for byte.
    Original,
    /// The known set's file, but for the labels that the record of noise lists.
    Noisy,
    /// Sound, but not that of the known set.
    Different,
    /// Sound, and there is no known set to compare it with.
    Sound,
    /// Not readable as a file of its format; the error says why.
    Damaged(Error),
}

/// One file of a set.
pub struct FileReport {
    pub path: PathBuf,
    /// Bytes and SHA-256 of the unpacked content; 0 and empty where it is damaged.
    pub len: usize,
    pub sha256: String,
    pub verdict: Verdict,
}

/// Images of each class in one half of a set.
pub struct HalfReport {
    pub name: &'static str,
    pub size: [usize; 3],
    pub counts: Vec<usize>,
}

/// All that [`verify`] found.
pub struct Report {
    pub folder: PathBuf,
    /// The known set that the files were compared with.
    pub known: Option<&'static Known>,
    pub files: Vec<FileReport>,
    /// Empty where a file is damaged.
    pub halves: Vec<HalfReport>,
    pub class_names: Vec<String>,
    /// Lines on classes that have no image, or none among the training images.
    pub missing: Vec<String>,
    /// Description of the set, or the error in it.
    pub conclusion: Result<String>,
}

/// Reads all files of a set, compares them with the originals, and counts its labels.
///
/// # Errors
/// NoInput: there is no such set, or a file is missing. What is wrong with the files themselves stands in the report.
pub fn verify(name_or_folder: &str) -> Result<Report> {
    let (layout, named) = place(name_or_folder)?;
    let (folder, format, paths) = (layout.folder.clone(), layout.format, layout.files.clone());
    let contents: Vec<Result<Bytes>> = paths.iter().enumerate().map(|(i, p)| read(format, i, p)).collect();
    let same_format = || DATASETS.iter().filter(|known| known.format == format);
    let known = named.or_else(|| match (format, &contents[0]) {
        (Format::Idx, Ok(images)) => same_format().find(|k| k.files[0].id.len == images.whole_file().len() as u64),
        (Format::Idx, Err(_)) => None,
        _ => same_format().next(),
    });
    let noise = Record::read(&folder)?;
    let mut first_image = 0;
    let mut files = Vec::new();
    for (i, (path, content)) in paths.into_iter().zip(contents).enumerate() {
        let record = noise.as_ref().filter(|_| format.has_training_labels(i));
        let restored = record.zip(content.as_ref().ok()).map(|(record, bytes)| {
            let mut restored = bytes.whole_file().to_vec();
            first_image += record.undo(format, first_image, &mut restored);
            restored
        });
        files.push(examine(known, i, path, content, restored));
    }
    let damage = files.iter().find_map(|file| match &file.verdict {
        Verdict::Damaged(e) => Some(e.clone()),
        _ => None,
    });
    let loaded = damage.map_or_else(|| load_from(layout, Labels::Fine, None), Err);
    let (halves, class_names, missing, conclusion) = match loaded {
        Err(e) => (Vec::new(), Vec::new(), Vec::new(), Err(e)),
        Ok(set) => {
            let half = |name, split: &Split| {
                let counts = classes::counts(set.classes, split.labels.iter().copied());
                HalfReport { name, size: [split.h, split.w, split.c], counts }
            };
            let halves = vec![half("train", &set.train), half("test", &set.test)];
            let missing = classes::missing(&halves[0].counts, &halves[1].counts, &set.class_names);
            (halves, set.class_names, missing, conclude(&folder, named.is_some(), known, noise.is_some(), &files))
        }
    };
    Ok(Report { folder, known, files, halves, class_names, missing, conclusion })
}

/// The content of file number `which`, if it is one of its format.
fn read(format: Format, which: usize, path: &Path) -> Result<Bytes> {
    match format {
        Format::Idx => Ok(idx::read(path, idx::RANKS[which])?.bytes),
        Format::Cifar10 | Format::Cifar100 => cifar::read(path, format),
    }
}

/// Compares file number `which` with the original; `restored` is its content with right labels, if some are noisy.
fn examine(
    known: Option<&Known>,
    which: usize,
    path: PathBuf,
    content: Result<Bytes>,
    restored: Option<Vec<u8>>,
) -> FileReport {
    let bytes = match content {
        Ok(bytes) => bytes,
        Err(e) => return FileReport { path, len: 0, sha256: String::new(), verdict: Verdict::Damaged(e) },
    };
    let (len, sha256) = (bytes.whole_file().len(), sha256_hex(bytes.whole_file()));
    let verdict = match known {
        None => Verdict::Sound,
        Some(known) if known.files[which].id.differs(len as u64, &sha256).is_none() => Verdict::Original,
        Some(known) if restored.is_some_and(|content| known.differs(which, &content).is_none()) => Verdict::Noisy,
        Some(_) => Verdict::Different,
    };
    FileReport { path, len, sha256, verdict }
}

/// Describes sound files as a set. A set with some files of a known set and some others counts as damaged.
fn conclude(folder: &Path, named: bool, known: Option<&Known>, noise: bool, files: &[FileReport]) -> Result<String> {
    let noise = if noise { format!("; training labels are noisy, as {NOISE_FILE} says") } else { String::new() };
    let Some(known) = known else {
        return Ok(format!("sound; no known data set{noise}"));
    };
    let are = |verdict: Verdict| files.iter().filter(move |file| file.verdict == verdict);
    let (same, noisy, all) = (are(Verdict::Original).count(), are(Verdict::Noisy).count(), files.len());
    if same == all {
        return Ok(format!("the original files of {}", known.name));
    }
    if same + noisy == all && !named {
        return Ok(format!("the original files of {}, but for labels{noise}", known.name));
    }
    if same + noisy == 0 && !named {
        return Ok(format!("sound, but not the files of {}; their origin is unknown{noise}", known.name));
    }
    let others: Vec<_> =
        files.iter().filter(|f| f.verdict != Verdict::Original).filter_map(|f| f.path.file_name()).collect();
    let others = others.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(", ");
    let what = format!("{same} of {all} files are those of {}, but not {others}", known.name);
    Err(Error::data(format!("{}: {what}; move it away and fetch it again", folder.display())))
}
