//! IDX, the format of MNIST and its relatives: a magic number `00 00 08 rank`, one big-endian u32 a dimension, then bytes.

use super::Split;
use super::bytes::{Bytes, open};
use crate::device::alloc::fallible;
use crate::error::{Error, Kind, Result};
use crate::files::looks_like;
use flate2::bufread::GzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

/// Deflate packs at most 258 bytes into 2 bits, so that no stream unpacks to more than this many times its length.
const MAX_RATIO: u64 = 1032;

/// Dimensions of training images, training labels, test images and test labels.
pub const RANKS: [usize; 4] = [3, 1, 3, 1];

/// Bytes of a file of labels before the first label.
pub const LABELS_HEADER: usize = 8;

/// One file: its dimensions, and `dims[0] * dims[1] * ...` bytes.
pub struct Idx {
    pub dims: Vec<usize>,
    pub bytes: Bytes,
}

/// Reads an IDX file of unsigned bytes with `rank` dimensions, unpacking it if its name ends in `.gz`.
///
/// Every dimension is at least 1 and the file is exactly as long as its header says. What is not so is an error that names
/// the file and the byte; no more memory is used than the header's size plus 64 KiB, whatever the file holds.
pub fn read(path: &Path, rank: usize) -> Result<Idx> {
    let (file, len) = open(path)?;
    if path.extension().is_some_and(|e| e == "gz") {
        return unpack(path, file, len, rank);
    }
    let map = Bytes::map(path, &file)?;
    let header = 4 + 4 * rank;
    let place = path.display().to_string();
    let (dims, len) = parse_header(&map[..map.len().min(header)], rank, &place)?;
    let end = header + len;
    if map.len() < end {
        return Err(cut_off(&place, map.len() as u64, end));
    }
    if map.len() > end {
        return Err(goes_on(&place, end));
    }
    Ok(Idx { dims, bytes: map.behind(header) })
}

/// Checks the header and returns the dimensions and the number of bytes that follow. `head` is shorter if the file is.
fn parse_header(head: &[u8], rank: usize, place: &str) -> Result<(Vec<usize>, usize)> {
    let wrong = |byte: usize, what: String| Error::data(format!("{place}, byte {byte}: {what}"));
    let expected = [0, 0, 8, rank as u8];
    if !head.starts_with(&expected[..head.len().min(4)]) {
        let found: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
        let hint = match head {
            _ if looks_like(head).is_some() => format!("; it looks like {}", looks_like(head).unwrap_or_default()),
            [0, 0, 8, 1, ..] => "; this is a file of labels, not of images".into(),
            [0, 0, 8, 3, ..] => "; this is a file of images, not of labels".into(),
            [0, 0, 8, r, ..] => format!("; this file has {r} dimensions, not {rank}"),
            [0, 0, 9 | 11..=14, ..] => "; only unsigned bytes (type 08) are read, not wider numbers".into(),
            _ => String::new(),
        };
        return Err(wrong(0, format!("not an IDX file: it begins {}, not 00 00 08 0{rank}{hint}", found.join(" "))));
    }
    if head.len() < 4 + 4 * rank {
        return Err(cut_off(place, head.len() as u64, 4 + 4 * rank));
    }
    let dims: Vec<usize> =
        head[4..].chunks_exact(4).map(|d| u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize).collect();
    if let Some(axis) = dims.iter().position(|d| *d == 0) {
        let what = ["the number of items", "the height", "the width"].get(axis).unwrap_or(&"a dimension");
        return Err(wrong(4 + 4 * axis, format!("{what} is 0")));
    }
    // Room for the header too, so that no later sum overflows.
    let len = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n < isize::MAX as usize - 64);
    match len {
        Some(len) => Ok((dims, len)),
        None => Err(wrong(4, format!("the sizes {dims:?} multiply to more than this machine can address"))),
    }
}

fn cut_off(place: &str, len: u64, end: usize) -> Error {
    Error::data(format!("{place} is truncated: it ends at byte {len} of {end}; fetch it again"))
}

fn goes_on(place: &str, end: usize) -> Error {
    Error::data(format!("{place} is too long: it goes on after byte {end}, where its header says it ends"))
}

/// Reads a packed file; its errors speak of the unpacked content unless they say "packed byte".
fn unpack(path: &Path, file: File, packed: u64, rank: usize) -> Result<Idx> {
    let place = format!("{} (unpacked)", path.display());
    let mut reader = BufReader::new(file);
    let head = reader.fill_buf().map_err(|e| Error::io("read", path, &e))?;
    if !head.starts_with(b"\x1f\x8b") {
        let hint = match looks_like(head) {
            Some(what) => format!("it looks like {what}"),
            None if head.starts_with(&[0, 0, 8]) => "it is unpacked already, so take .gz off its name".into(),
            None => "fetch it again".into(),
        };
        return Err(Error::data(format!("{}, byte 0: not a gzip file; {hint}", path.display())));
    }
    let mut gz = GzDecoder::new(reader);
    let header = 4 + 4 * rank;
    let mut content = Vec::with_capacity(header);
    more(&mut gz, path, header, &mut content)?;
    let (dims, len) = parse_header(&content, rank, &place)?;
    let end = header + len;
    if end as u64 > packed.saturating_mul(MAX_RATIO) {
        let what = format!("its header promises {len} bytes, more than {packed} packed bytes can hold");
        return Err(Error::data(format!("{place}, byte 4: {what}; fetch it again")));
    }
    fallible(|| content.try_reserve_exact(len)).map_err(|_| {
        Error::new(Kind::Unavailable, format!("{place}: no memory for the {len} bytes that its header promises"))
    })?;
    more(&mut gz, path, len, &mut content)?;
    if content.len() < end {
        return Err(cut_off(&place, content.len() as u64, end));
    }
    // One byte past the end tells an honest file, whose checksum is compared here, from one that unpacks without limit.
    let mut past = Vec::new();
    more(&mut gz, path, 1, &mut past)?;
    if !past.is_empty() {
        return Err(goes_on(&place, end));
    }
    let reader = gz.get_mut();
    let rest = reader.fill_buf().map_err(|e| Error::io("read", path, &e))?;
    if !rest.is_empty() {
        let byte = reader.stream_position().map_err(|e| Error::io("read", path, &e))?;
        let what = "the gzip stream ends here, but the file goes on";
        return Err(Error::data(format!("{}, packed byte {byte}: {what}; fetch it again", path.display())));
    }
    Ok(Idx { dims, bytes: Bytes::owned(content, header) })
}

/// Appends the next `count` unpacked bytes, fewer only where the content ends.
fn more(gz: &mut GzDecoder<BufReader<File>>, path: &Path, count: usize, to: &mut Vec<u8>) -> Result<()> {
    let Err(e) = gz.by_ref().take(count as u64).read_to_end(to) else { return Ok(()) };
    let what = match e.kind() {
        io::ErrorKind::UnexpectedEof => "the gzip stream is cut off".to_string(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => format!("the gzip stream is damaged ({e})"),
        _ => return Err(Error::io("read", path, &e)),
    };
    let byte = gz.get_mut().stream_position().unwrap_or(0);
    Err(Error::data(format!("{}, packed byte {byte}: {what}; fetch it again", path.display())))
}

/// The images of one half of a data set and their labels, from a file each.
///
/// # Errors
/// As for [`read`]; Data: their numbers disagree.
pub fn read_split(images_path: &Path, labels_path: &Path) -> Result<Split> {
    let (images, labels) = (read(images_path, 3)?, read(labels_path, 1)?);
    let (count, h, w) = (images.dims[0], images.dims[1], images.dims[2]);
    if count != labels.dims[0] {
        return Err(Error::data(format!(
            "{} has {count} images but {} has {} labels; they must belong together",
            images_path.display(),
            labels_path.display(),
            labels.dims[0]
        )));
    }
    let (images_path, labels_path) = (images_path.into(), labels_path.into());
    Ok(Split { images: images.bytes, labels: labels.bytes, count, h, w, c: 1, images_path, labels_path })
}

/// Training images, training labels, test images and test labels in `folder`.
///
/// # Errors
/// NoInput: one is missing.
pub fn locate_all(folder: &Path) -> Result<Vec<PathBuf>> {
    let stems = ["train-images", "train-labels", "t10k-images", "t10k-labels"];
    stems.iter().zip(RANKS).map(|(stem, rank)| locate(folder, stem, rank)).collect()
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
                 train-labels, t10k-images and t10k-labels, or the binary files of CIFAR",
                folder.display()
            ),
        )),
    }
}
