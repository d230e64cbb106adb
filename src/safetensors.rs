//! Safetensors, the weight files of Hugging Face: 8 bytes of header length, a JSON header, then the tensors back to back.
//!
//! Unlike a pickle, such a file holds data only and can be checked whole before a byte of it is believed. What is written
//! here loads with Python's `safetensors.torch.load_file`, and its files load here.

mod header;

use crate::error::{Error, Kind, Result};
use crate::files::{looks_like, write_atomic};
use header::{Dtype, Entry, Header};
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

/// The values of a tensor. BF16, F16 and F64 become f32 when read, and a single integer of any type i64.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    F32(Vec<f32>),
    I64(Vec<i64>),
    /// Values of the other types, of which only the type's name and their number are kept: no model has a use for them.
    Other(&'static str, usize),
}

impl Data {
    pub fn len(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::I64(values) => values.len(),
            Data::Other(_, len) => *len,
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Returns the type as files name it.
    pub fn dtype(&self) -> &'static str {
        match self {
            Data::F32(_) => Dtype::F32.name(),
            Data::I64(_) => Dtype::I64.name(),
            Data::Other(name, _) => name,
        }
    }
    /// Returns the values as they lie in memory and in a file; nothing of the types that are not kept.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Data::F32(values) => bytemuck::cast_slice(values),
            Data::I64(values) => bytemuck::cast_slice(values),
            Data::Other(..) => &[],
        }
    }
    /// Bytes that the start of the values is a multiple of.
    fn alignment(&self) -> usize {
        if matches!(self, Data::I64(_)) { 8 } else { 4 }
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
        if matches!(data, Data::Other(..)) {
            return wrong(format!("its values of type {} were not kept", data.dtype()));
        }
        if shape.iter().product::<usize>() != data.len() {
            return wrong(format!("shape {shape:?} does not fit {} values", data.len()));
        }
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| std::cmp::Reverse(tensor.data.alignment()));
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
        let (name, dtype, shape) = (quoted(&tensor.name), tensor.data.dtype(), shape.join(","));
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
        values[i] = read_values(from, &entries[i]).map_err(broken)?;
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
        let mut more = Vec::from(head);
        from.take(256).read_to_end(&mut more).map_err(broken)?;
        if let Some(what) = looks_like(&more) {
            return Err(wrong(stranger(&more, what)));
        }
        if more.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
            return Err(wrong(format!("it is a text{WEIGHTS}")));
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

const WEIGHTS: &str = "; the weights of a run are in best.safetensors and last.safetensors of its folder";

/// The command that saves what torch.save wrote as safetensors: a state dict, alone or under one of the usual names in a
/// checkpoint, from any device.
pub const FROM_TORCH: &str = "python -c \"import sys, torch; from safetensors.torch import save_file; \
    d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); \
    d = next((d[k] for k in ('state_dict', 'model_state_dict', 'model', 'net', 'module') if isinstance(d.get(k), dict)), d); \
    save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])\"";

/// The command that saves what numpy.savez wrote as safetensors.
pub const FROM_NUMPY: &str = "python -c \"import sys, numpy as np; from safetensors.numpy import save_file; \
    save_file({k: np.array(v) for k, v in np.load(sys.argv[1]).items()}, sys.argv[2])\"";

/// Says what to do with a file that begins with `head` and looks like `what`.
fn stranger(head: &[u8], what: &str) -> String {
    // numpy.savez stores arrays as NAME.npy; the name of an archive's first file stands at byte 30.
    let name_len = usize::from(head.get(26).copied().unwrap_or(0));
    let first = head.get(30..30 + name_len).unwrap_or_default();
    match head {
        [b'P', b'K', ..] if first.ends_with(b".npy") => {
            format!("it is an archive of numpy.savez; convert it with {FROM_NUMPY} FILE.npz NEW.safetensors")
        }
        [b'P', b'K', ..] if first.ends_with(b"/data.pkl") || first.ends_with(b"/byteorder") => {
            format!("it is a file of torch.save; convert it with {FROM_TORCH} FILE NEW.safetensors")
        }
        [0x80, ..] => {
            format!("it looks like {what}; if torch.save wrote it, convert it with {FROM_TORCH} FILE NEW.safetensors")
        }
        _ if head.starts_with(b"version https://git-lfs") => "it is a Git LFS pointer: run 'git lfs pull'".into(),
        _ => format!("it looks like {what}"),
    }
}

/// Reads the values of one tensor.
fn read_values(from: &mut dyn Read, entry: &Entry) -> io::Result<Data> {
    let (dtype, count) = (entry.dtype, entry.values());
    match dtype {
        Dtype::I64 => {
            let mut values = vec![0i64; count];
            from.read_exact(bytemuck::cast_slice_mut(&mut values))?;
            Ok(Data::I64(values))
        }
        Dtype::F32 => {
            let mut values = vec![0f32; count];
            from.read_exact(bytemuck::cast_slice_mut(&mut values))?;
            Ok(Data::F32(values))
        }
        Dtype::F64 | Dtype::F16 | Dtype::BF16 => read_floats(from, dtype, count),
        Dtype::U8 | Dtype::I8 | Dtype::U16 | Dtype::I16 | Dtype::U32 | Dtype::I32 | Dtype::U64 if count == 1 => {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes[..dtype.size()])?;
            let unsigned = i64::try_from(u64::from_le_bytes(bytes)).unwrap_or(i64::MAX);
            let value = match dtype {
                Dtype::I8 => i64::from(unsigned as i8),
                Dtype::I16 => i64::from(unsigned as i16),
                Dtype::I32 => i64::from(unsigned as i32),
                _ => unsigned,
            };
            Ok(Data::I64(vec![value]))
        }
        _ => {
            let len = entry.bytes() as u64;
            match io::copy(&mut from.take(len), &mut io::sink())? {
                read if read == len => Ok(Data::Other(dtype.name(), entry.shape.iter().product())),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// Reads `count` floats of 8 or 2 bytes as f32, through a small buffer.
fn read_floats(from: &mut dyn Read, dtype: Dtype, count: usize) -> io::Result<Data> {
    let mut values = vec![0f32; count];
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
