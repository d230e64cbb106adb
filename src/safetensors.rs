//! Safetensors, the weight files of Hugging Face: 8 bytes of header length, a JSON header, then the tensors back to back.
//!
//! Unlike a pickle, such a file holds data only and can be checked whole before a byte of it is believed. What is written
//! here loads with Python's `safetensors.torch.load_file`, and its files load here.

mod header;

use crate::error::{Error, Kind, Result};
use crate::files::{looks_like, write_atomic};
use header::{Dtype, Header};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::Path;

// Tensors are copied as they lie in memory, and the format is little-endian.
const _: () = assert!(cfg!(target_endian = "little"));

/// More than 100,000 tensors fit; a longer header is taken for damage, as it bounds what parsing may allocate.
const MAX_HEADER: u64 = 16 << 20;

/// A named array in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Data,
}

/// The values of a tensor. BF16, F16 and F64 become f32 when read.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Data {
    pub fn len(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::I64(values) => values.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn dtype(&self) -> Dtype {
        match self {
            Data::F32(_) => Dtype::F32,
            Data::I64(_) => Dtype::I64,
        }
    }
    fn as_bytes(&self) -> &[u8] {
        match self {
            Data::F32(values) => bytemuck::cast_slice(values),
            Data::I64(values) => bytemuck::cast_slice(values),
        }
    }
}

/// Free text about the tensors. Python's loader wants `format` to be "pt", so writing adds that where it is not set.
pub type Metadata = BTreeMap<String, String>;

/// The content of a file; tensors in the order of its header.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    pub tensors: Vec<Tensor>,
    pub metadata: Metadata,
}

impl Contents {
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// Writes a file that is at every moment either the old one or the whole new one. Same arguments, same bytes.
pub fn write(path: &Path, tensors: &[Tensor], metadata: &Metadata) -> Result<()> {
    write_atomic(path, &to_bytes(tensors, metadata)?)
}

/// The bytes of a file. The header lists the tensors in the order given; their data is laid out widest element first, so that
/// each tensor is aligned for its type in a file that is mapped.
///
/// Errors (kind Internal): a name used twice or reserved, a shape that does not fit its data.
pub fn to_bytes(tensors: &[Tensor], metadata: &Metadata) -> Result<Vec<u8>> {
    let mut names = BTreeSet::new();
    for Tensor { name, shape, data } in tensors {
        let wrong = |what: String| Err(Error::internal(format!("safetensors: cannot write tensor '{name}': {what}")));
        if name == header::METADATA || !names.insert(name) {
            return wrong("its name is reserved or used twice".into());
        }
        if shape.iter().product::<usize>() != data.len() {
            return wrong(format!("shape {shape:?} does not fit {} values", data.len()));
        }
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| std::cmp::Reverse(tensor.data.dtype().size()));
    let mut ends = BTreeMap::new();
    let mut total = 0;
    for tensor in &order {
        total += tensor.data.as_bytes().len();
        ends.insert(&tensor.name, total);
    }

    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut metadata = metadata.clone();
    metadata.entry("format".into()).or_insert("pt".into());
    let notes: Vec<String> = metadata.iter().map(|(key, value)| format!("{}:{}", quoted(key), quoted(value))).collect();
    let mut fields = vec![format!("{}:{{{}}}", quoted(header::METADATA), notes.join(","))];
    for tensor in tensors {
        let end = ends[&tensor.name];
        let start = end - tensor.data.as_bytes().len();
        let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
        let (name, dtype, shape) = (quoted(&tensor.name), tensor.data.dtype().name(), shape.join(","));
        fields.push(format!(r#"{name}:{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{start},{end}]}}"#));
    }
    let mut text = format!("{{{}}}", fields.join(","));
    // Spaces up to a multiple of 8 keep the data aligned.
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    if text.len() as u64 > MAX_HEADER {
        return Err(Error::internal(format!("safetensors: a header of {} bytes is too long", text.len())));
    }

    let mut bytes = Vec::with_capacity(8 + text.len() + total);
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
    order.iter().for_each(|tensor| bytes.extend(tensor.data.as_bytes()));
    Ok(bytes)
}

/// Reads and checks a whole file.
pub fn read(path: &Path) -> Result<Contents> {
    let (mut file, len) = open(path)?;
    read_from(&mut file, len, &path.display().to_string())
}

/// Reads the metadata of a file, and nothing behind its header.
///
/// # Errors
/// NoInput: it cannot be read. Data: the header is wrong.
pub fn metadata(path: &Path) -> Result<Metadata> {
    let (mut file, len) = open(path)?;
    Ok(read_header(&mut file, len, &path.display().to_string())?.metadata)
}

/// Opens a file, and returns its length too.
fn open(path: &Path) -> Result<(std::fs::File, u64)> {
    let unreadable = |e: io::Error| Error::io("read", path, &e);
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Error::new(Kind::NoInput, format!("cannot read {}: it is not a file", path.display())));
    }
    Ok((std::fs::File::open(path).map_err(unreadable)?, meta.len()))
}

/// Reads a file of `len` bytes from a stream; `place` is its name for errors.
///
/// Nothing is allocated before the header is known to agree with `len`, so a damaged file costs no more memory than a sound
/// one of its size (twice that for BF16 and F16, which become f32).
pub fn read_from(from: &mut dyn Read, len: u64, place: &str) -> Result<Contents> {
    let broken = |e: io::Error| Error::new(Kind::Io, format!("cannot read {place}: {e}"));
    let Header { entries, metadata } = read_header(from, len, place)?;

    // The data comes in the order of its offsets, the result in that of the header.
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|i| entries[*i].range());
    let mut values = vec![Data::I64(Vec::new()); entries.len()];
    for i in order {
        values[i] = read_values(from, entries[i].dtype, entries[i].values()).map_err(broken)?;
    }
    let tensors = entries.into_iter().zip(values).map(|(e, data)| Tensor { name: e.name, shape: e.shape, data });
    Ok(Contents { tensors: tensors.collect(), metadata })
}

/// Reads the header of a file of `len` bytes, and checks that it agrees with that length.
fn read_header(from: &mut dyn Read, len: u64, place: &str) -> Result<Header> {
    let broken = |e: io::Error| Error::new(Kind::Io, format!("cannot read {place}: {e}"));
    let wrong = |what: String| Error::data(format!("{place} is not a sound safetensors file: {what}"));
    if len < 10 {
        return Err(wrong(format!("{len} bytes are too few for the length of a header and a header; fetch it again")));
    }
    let mut head = [0; 10];
    from.read_exact(&mut head).map_err(broken)?;
    let header_len = u64::from_le_bytes(head[..8].try_into().unwrap_or_default());
    if header_len < 2 || header_len > (len - 8).min(MAX_HEADER) || head[8] != b'{' {
        if let Some(what) = looks_like(&head) {
            let pickled = head.starts_with(b"PK") || head[0] == 0x80;
            return Err(wrong(format!("it looks like {what}{}", if pickled { CONVERT } else { "" })));
        }
        let what = format!("bytes 0 to 7 give a header of {header_len} bytes that begins with {:#04x}", head[8]);
        let limit = format!("a file of {len} bytes has at most {}, and it begins with '{{'", (len - 8).min(MAX_HEADER));
        return Err(wrong(format!("{what}; {limit}; fetch it again")));
    }
    let mut text = vec![0; header_len as usize];
    text[..2].copy_from_slice(&head[8..]);
    from.read_exact(&mut text[2..]).map_err(broken)?;
    header::parse(&text, len - 8 - header_len).map_err(wrong)
}

const CONVERT: &str = "; save it anew in Python: safetensors.torch.save_file(torch.load(FILE), NEW_FILE)";

/// Reads `count` elements.
fn read_values(from: &mut dyn Read, dtype: Dtype, count: usize) -> io::Result<Data> {
    if dtype == Dtype::I64 {
        let mut values = vec![0i64; count];
        from.read_exact(bytemuck::cast_slice_mut(&mut values))?;
        return Ok(Data::I64(values));
    }
    let mut values = vec![0f32; count];
    if dtype == Dtype::F32 {
        from.read_exact(bytemuck::cast_slice_mut(&mut values))?;
        return Ok(Data::F32(values));
    }
    // Other widths pass through a small buffer.
    let mut buffer = [0u8; 4096];
    for piece in values.chunks_mut(buffer.len() / dtype.size()) {
        let bytes = &mut buffer[..piece.len() * dtype.size()];
        from.read_exact(bytes)?;
        for (value, b) in piece.iter_mut().zip(bytes.chunks_exact(dtype.size())) {
            *value = match dtype {
                Dtype::F64 => f64::from_le_bytes(b.try_into().unwrap_or_default()) as f32,
                Dtype::F16 => f16_to_f32(u16::from_le_bytes([b[0], b[1]])),
                _ => f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16),
            };
        }
    }
    Ok(Data::F32(values))
}

/// IEEE half precision: 1 sign, 5 exponent and 10 fraction bits.
fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let fraction = u32::from(half & 0x3FF);
    let magnitude = match half >> 10 & 31 {
        0 => (fraction as f32 / 16_777_216.0).to_bits(),
        31 => 0xFF << 23 | fraction << 13,
        exponent => (u32::from(exponent) + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests;
