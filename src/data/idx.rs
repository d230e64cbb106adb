//! IDX, the format of MNIST and its relatives: `00 00`, the elements' type, the rank, one big-endian u32 a dimension, then
//! the elements. Images are unsigned bytes (`00 00 08 03`); labels may be of any type of integers.

use super::Split;
use super::bytes::{Bytes, open};
use super::gzip::{MAGIC, Members};
use crate::device::alloc::fallible;
use crate::error::{Error, Kind, Result};
use crate::files::looks_like;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

/// Deflate packs at most 258 bytes into 2 bits, so that no stream unpacks to more than this many times its length.
const MAX_RATIO: u64 = 1032;

/// Dimensions of training images, training labels, test images and test labels.
pub const RANKS: [usize; 4] = [3, 1, 3, 1];

/// Bytes of a file of labels before the first label.
pub const LABELS_HEADER: usize = 8;

/// Columns of QMNIST's labels, of which the first is the class.
const QMNIST_COLUMNS: usize = 8;

/// A type of elements.
#[derive(Clone, Copy)]
struct IdxElement {
    code: u8,
    name: &'static str,
    /// Bytes of one.
    size: usize,
    integer: bool,
}

const fn element(code: u8, name: &'static str, size: usize, integer: bool) -> IdxElement {
    IdxElement { code, name, size, integer }
}

const ELEMENTS: [IdxElement; 6] = [
    element(0x08, "unsigned bytes", 1, true),
    element(0x09, "signed bytes", 1, true),
    element(0x0b, "16-bit integers", 2, true),
    element(0x0c, "32-bit integers", 4, true),
    element(0x0d, "32-bit floats", 4, false),
    element(0x0e, "64-bit floats", 8, false),
];

/// One file: its dimensions, and `dims[0] * dims[1] * ...` bytes.
pub struct Idx {
    pub dims: Vec<usize>,
    pub bytes: Bytes,
}

/// Reads an IDX file of images (`rank` 3) or of labels (`rank` 1), unpacking it if it is a gzip file.
///
/// Every dimension is at least 1 and the file is exactly as long as its header says. Labels of wider integers become bytes;
/// of QMNIST's table the first column is taken. What is not so is an error that names the file and the byte; no more memory
/// is used than the header's size plus 64 KiB, whatever the file holds.
pub fn read(path: &Path, rank: usize) -> Result<Idx> {
    let (mut file, len) = open(path)?;
    let unreadable = |e: io::Error| Error::io("read", path, &e);
    let mut head = Vec::with_capacity(MAGIC.len());
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut head).map_err(unreadable)?;
    file.rewind().map_err(unreadable)?;
    if head == MAGIC {
        return unpack(path, file, len, rank);
    }
    let map = Bytes::map(path, &file)?;
    let place = path.display().to_string();
    let header = IdxHeader::parse(&map, rank, KnownLength::Exactly(len), &place)?;
    let end = header.end();
    if map.len() < end {
        return Err(cut_off(&place, len, end));
    }
    if map.len() > end {
        return Err(too_long(&place, end));
    }
    header.take(map, rank, &place)
}

/// Bounds of a content's length while its header is read.
#[derive(Clone, Copy)]
enum KnownLength {
    Exactly(u64),
    AtMost(u64),
}

/// The bytes before the elements.
struct IdxHeader {
    element: IdxElement,
    dims: Vec<usize>,
    /// Bytes of all elements.
    len: usize,
}

impl IdxHeader {
    fn size(rank: usize) -> usize {
        4 + 4 * rank
    }

    /// Returns the end of the content.
    fn end(&self) -> usize {
        IdxHeader::size(self.dims.len()) + self.len
    }

    /// Checks that `content`, of which at least the header must be there, begins a file of images or of labels.
    fn parse(content: &[u8], rank: usize, length: KnownLength, place: &str) -> Result<IdxHeader> {
        let wrong = |byte: usize, what: String| Error::data(format!("{place}, byte {byte}: {what}"));
        let [0, 0, code, found_rank, rest @ ..] = content else {
            if [0, 0, ELEMENTS[0].code].starts_with(content) {
                return Err(cut_off(place, content.len() as u64, IdxHeader::size(rank)));
            }
            return Err(wrong(0, not_idx(content, rank)));
        };
        let Some(element) = ELEMENTS.into_iter().find(|element| element.code == *code) else {
            return Err(wrong(0, not_idx(content, rank)));
        };
        let fields: Vec<[u8; 4]> =
            rest.chunks_exact(4).take(usize::from(*found_rank)).map(|d| [d[0], d[1], d[2], d[3]]).collect();
        let big: Vec<usize> = fields.iter().map(|d| u32::from_be_bytes(*d) as usize).collect();
        if fields.len() < usize::from(*found_rank) {
            misfit(element, usize::from(*found_rank), None, rank)
                .map_or(Ok(()), |(byte, what)| Err(wrong(byte, what)))?;
            return Err(cut_off(place, content.len() as u64, IdxHeader::size(usize::from(*found_rank))));
        }
        let little: Vec<usize> = fields.iter().map(|d| u32::from_le_bytes(*d) as usize).collect();
        let bytes_of = |dims: &[usize]| {
            let len = dims.iter().try_fold(element.size, |n, d| n.checked_mul(*d));
            // Room for the header too, so that no later sum overflows.
            len.filter(|n| *n < isize::MAX as usize - 64)
        };
        let fits = |dims: &[usize]| {
            let end = bytes_of(dims).map(|len| (IdxHeader::size(dims.len()) + len) as u64);
            match length {
                KnownLength::Exactly(length) => end == Some(length),
                KnownLength::AtMost(length) => end.is_some_and(|end| end <= length),
            }
        };
        if big != little && !fits(&big) && fits(&little) && little.iter().all(|d| *d > 0) {
            return Err(wrong(4, little_endian(&little)));
        }
        if let Some((byte, what)) = misfit(element, big.len(), Some(&big), rank) {
            return Err(wrong(byte, what));
        }
        if let Some(axis) = big.iter().position(|d| *d == 0) {
            let what = ["the number of items", "the height", "the width"].get(axis).unwrap_or(&"a dimension");
            return Err(wrong(4 + 4 * axis, format!("{what} is 0; a data set needs training and test images")));
        }
        match bytes_of(&big) {
            Some(len) => Ok(IdxHeader { element, dims: big, len }),
            None => Err(wrong(4, format!("the sizes {big:?} multiply to more than this machine can address"))),
        }
    }

    /// The whole content as images or as labels of one byte.
    fn take(self, content: Bytes, rank: usize, place: &str) -> Result<Idx> {
        let header = IdxHeader::size(self.dims.len());
        if self.dims.len() == rank && self.element.code == ELEMENTS[0].code {
            return Ok(Idx { dims: self.dims, bytes: content.behind(header) });
        }
        // The first of several columns is the class.
        let row = self.element.size * self.dims[1..].iter().product::<usize>();
        let mut labels = Vec::with_capacity(self.dims[0]);
        for (i, entry) in content[header..].chunks_exact(row).enumerate() {
            let value = match (self.element.code, &entry[..self.element.size]) {
                (0x09, [byte]) => i32::from(i8::from_be_bytes([*byte])),
                (_, [byte]) => i32::from(*byte),
                (_, [a, b]) => i32::from(i16::from_be_bytes([*a, *b])),
                (_, entry) => i32::from_be_bytes(entry.try_into().unwrap_or_default()),
            };
            let label = u8::try_from(value).map_err(|_| {
                let byte = header + i * row;
                let what = format!("the label of image {i} is {value}; labels go from 0 to 255");
                Error::data(format!("{place}, byte {byte}: {what}"))
            })?;
            labels.push(label);
        }
        Ok(Idx { dims: vec![labels.len()], bytes: Bytes::owned(super::noise::labels_file(&labels), LABELS_HEADER) })
    }
}

/// Describes a file that is not IDX.
fn not_idx(head: &[u8], rank: usize) -> String {
    let found: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
    let hint = match head {
        _ if head.starts_with(b"version https://git-lfs") => "; it is a Git LFS pointer: run 'git lfs pull'".into(),
        _ if looks_like(head).is_some() => {
            format!("; it looks like {}; fetch it again", looks_like(head).unwrap_or_default())
        }
        [1 | 3, 8, 0, 0, ..] => {
            "; its numbers are little-endian, and IDX has them big-endian: write them with struct.pack('>I', ...)"
                .into()
        }
        _ => String::new(),
    };
    format!("not an IDX file: it begins {}, not 00 00 08 0{rank}{hint}", found.join(" "))
}

/// The byte and the reason if elements of this type and rank are neither images (wanted where `rank` is 3) nor labels.
fn misfit(element: IdxElement, found: usize, dims: Option<&[usize]>, rank: usize) -> Option<(usize, String)> {
    let sizes = dims.map_or(String::new(), |dims| format!(" ({})", by(dims)));
    let IdxElement { code, name, integer, .. } = element;
    match (rank, found) {
        (3, 1) | (3, 2) if dims.is_some_and(|dims| is_labels(&dims[1..])) => {
            Some((0, format!("it begins 00 00 {code:02x} {found:02x}; this is a file of labels, not of images")))
        }
        (3, 2) => {
            let way_out = "pixels in a row must be given a height and a width, as numpy's reshape does";
            Some((3, format!("this file has 2 dimensions{sizes}, not 3 (images, height, width); {way_out}")))
        }
        (3, 3) if code != ELEMENTS[0].code => {
            let way_out = "scale the pixels to 0..255 and write them as unsigned bytes";
            Some((
                2,
                format!("its pixels are {name} (type {code:02x}); only unsigned bytes (type 08) are read; {way_out}"),
            ))
        }
        (3, 3) => None,
        (3, 4) => {
            let way_out = "images in colour are read from CIFAR's binary files alone";
            Some((3, format!("this file has 4 dimensions{sizes}, not 3 (images, height, width); {way_out}")))
        }
        (1, 3) => Some((0, format!("it begins 00 00 {code:02x} 03; this is a file of images, not of labels"))),
        (1, 1) | (1, 2) if dims.is_none_or(|dims| is_labels(&dims[1..])) => {
            let what = format!("its labels are {name} (type {code:02x}); only integers are read");
            (!integer).then_some((2, what))
        }
        _ => {
            let wanted = if rank == 3 { "3 (images, height, width)" } else { "1 (labels)" };
            Some((3, format!("this file has {found} dimensions{sizes}, not {wanted}")))
        }
    }
}

/// Returns true if dimensions after the first are those of labels.
fn is_labels(columns: &[usize]) -> bool {
    matches!(columns, [] | [1] | [QMNIST_COLUMNS])
}

/// "256x28x28".
fn by(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

fn little_endian(dims: &[usize]) -> String {
    format!(
        "its sizes are little-endian ({}), and IDX has them big-endian: write them with struct.pack('>I', ...)",
        by(dims)
    )
}

fn cut_off(place: &str, len: u64, end: usize) -> Error {
    Error::data(format!("{place} is truncated: it ends at byte {len} of {end}; fetch it again"))
}

fn too_long(place: &str, end: usize) -> Error {
    Error::data(format!(
        "{place} is too long: there is more after byte {end}, where its header says it ends; fetch it again"
    ))
}

/// Reads a packed file; its errors speak of the unpacked content unless they say "packed byte".
fn unpack(path: &Path, file: File, packed: u64, rank: usize) -> Result<Idx> {
    let place = format!("{} (unpacked)", path.display());
    let mut gz = Members::new(file);
    let mut content = Vec::with_capacity(64);
    more(&mut gz, path, 4, &mut content)?;
    if content.starts_with(MAGIC) {
        let way_out = "it was packed twice; unpack it once with gunzip";
        return Err(Error::data(format!("{place}, byte 0: this is a gzip file again; {way_out}")));
    }
    let dims = content.get(3).map_or(0, |rank| 4 * usize::from(*rank));
    more(&mut gz, path, dims, &mut content)?;
    let limit = packed.saturating_mul(MAX_RATIO);
    let header = IdxHeader::parse(&content, rank, KnownLength::AtMost(limit), &place)?;
    let (len, end) = (header.len, header.end());
    if end as u64 > limit {
        let what = format!("its header promises {len} bytes, more than {packed} packed bytes can hold");
        return Err(Error::data(format!("{place}, byte 4: {what}; fetch it again")));
    }
    fallible(|| content.try_reserve_exact(len)).map_err(|_| {
        Error::new(Kind::Unavailable, format!("{place}: no memory for the {len} bytes that its header promises"))
    })?;
    more(&mut gz, path, len, &mut content)?;
    if content.len() < end {
        // Little-endian sizes show only now, when the length is known.
        IdxHeader::parse(&content, rank, KnownLength::Exactly(content.len() as u64), &place)?;
        return Err(cut_off(&place, content.len() as u64, end));
    }
    // One byte past the end tells an honest file, whose checksum is compared here, from one that unpacks without limit.
    let mut past = Vec::new();
    more(&mut gz, path, 1, &mut past)?;
    if !past.is_empty() {
        return Err(too_long(&place, end));
    }
    header.take(Bytes::owned(content, 0), rank, &place)
}

/// Appends the next `count` unpacked bytes, fewer only where the content ends.
fn more(gz: &mut Members, path: &Path, count: usize, to: &mut Vec<u8>) -> Result<()> {
    let Err(e) = gz.by_ref().take(count as u64).read_to_end(to) else { return Ok(()) };
    let what = match e.kind() {
        _ if gz.junk => "the gzip stream ends here, but the file does not".to_string(),
        io::ErrorKind::UnexpectedEof => "the gzip stream is cut off".to_string(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => format!("the gzip stream is damaged ({e})"),
        _ => return Err(Error::io("read", path, &e)),
    };
    let byte = gz.position();
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
