//! The JSON header, parsed strictly and only for what the format allows, so that a hostile one costs neither memory nor a panic.

use std::collections::{BTreeMap, BTreeSet};

/// The one name that is not a tensor's.
pub const METADATA: &str = "__metadata__";

const MAX_RANK: usize = 32;

/// An element type of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    I64,
    F64,
    F16,
    BF16,
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    C64,
    F8E4M3,
    F8E5M2,
    F8E8M0,
    F6E2M3,
    F6E3M2,
    F4,
}

/// Types in their order, with their names in files and the bits of an element.
const DTYPES: [(Dtype, &str, usize); 20] = [
    (Dtype::F32, "F32", 32),
    (Dtype::I64, "I64", 64),
    (Dtype::F64, "F64", 64),
    (Dtype::F16, "F16", 16),
    (Dtype::BF16, "BF16", 16),
    (Dtype::Bool, "BOOL", 8),
    (Dtype::U8, "U8", 8),
    (Dtype::I8, "I8", 8),
    (Dtype::U16, "U16", 16),
    (Dtype::I16, "I16", 16),
    (Dtype::U32, "U32", 32),
    (Dtype::I32, "I32", 32),
    (Dtype::U64, "U64", 64),
    (Dtype::C64, "C64", 64),
    (Dtype::F8E4M3, "F8_E4M3", 8),
    (Dtype::F8E5M2, "F8_E5M2", 8),
    (Dtype::F8E8M0, "F8_E8M0", 8),
    (Dtype::F6E2M3, "F6_E2M3", 6),
    (Dtype::F6E3M2, "F6_E3M2", 6),
    (Dtype::F4, "F4", 4),
];

impl Dtype {
    pub fn name(self) -> &'static str {
        DTYPES[self as usize].1
    }
    pub fn bits(self) -> usize {
        DTYPES[self as usize].2
    }
    /// Bytes of an element, rounded up.
    pub fn size(self) -> usize {
        self.bits().div_ceil(8)
    }
}

/// The header's entry of one tensor.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    start: usize,
    end: usize,
}

impl Entry {
    /// First byte and end in the data.
    pub fn range(&self) -> (usize, usize) {
        (self.start, self.end)
    }
    pub fn bytes(&self) -> usize {
        self.end - self.start
    }
    pub fn values(&self) -> usize {
        self.bytes() / self.dtype.size()
    }
}

pub struct Header {
    pub entries: Vec<Entry>,
    pub metadata: BTreeMap<String, String>,
}

/// Result whose error says what is wrong; the caller knows where.
type Outcome<T> = Result<T, String>;

/// Parses the header of a file with `data_len` bytes of data. Its tensors then cover the data exactly once.
pub fn parse(text: &[u8], data_len: u64) -> Outcome<Header> {
    let text =
        std::str::from_utf8(text).map_err(|e| format!("byte {}: the header is not UTF-8", 8 + e.valid_up_to()))?;
    let mut header = Header { entries: Vec::new(), metadata: BTreeMap::new() };
    let mut names = BTreeSet::new();
    let mut parser = Parser { text, at: 0 };
    parser.object(&mut |parser, name| {
        if !names.insert(name.clone()) {
            return Err(format!("the name '{name}' occurs twice"));
        }
        if name != METADATA {
            header.entries.push(parser.tensor(name)?);
            return Ok(());
        }
        parser.object(&mut |parser, key| {
            let value = parser.string()?;
            match header.metadata.insert(key.clone(), value) {
                Some(_) => Err(format!("the metadata '{key}' occurs twice")),
                None => Ok(()),
            }
        })
    })?;
    if parser.peek().is_some() {
        return Err(parser.unexpected("the end of the header"));
    }
    check_cover(&header.entries, data_len)?;
    Ok(header)
}

/// An error unless the tensors lie one behind the other from byte 0 to the end of the data.
fn check_cover(entries: &[Entry], data_len: u64) -> Outcome<()> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| entry.range());
    let mut covered = 0;
    for entry in order {
        let Entry { name, start, end, .. } = entry;
        if *end as u64 > data_len {
            return Err(format!(
                "tensor '{name}' ends at byte {end} of the data, which has {data_len}; is it truncated?"
            ));
        }
        if *start < covered {
            let what = "inside the tensor before it, which the format forbids";
            return Err(format!("tensor '{name}' begins at byte {start} of the data, {what}"));
        }
        if *start > covered {
            return Err(format!(
                "bytes {covered} to {start} of the data belong to no tensor, which the format forbids"
            ));
        }
        covered = *end;
    }
    match covered as u64 == data_len {
        true => Ok(()),
        false => Err(format!("bytes {covered} to {data_len} of the data belong to no tensor")),
    }
}

/// A cursor in the header.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn unexpected(&self, wanted: &str) -> String {
        format!("byte {}: the header should have {wanted} here", 8 + self.at)
    }

    /// Steps over `byte` if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Outcome<()> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(&format!("'{}'", char::from(byte)))) }
    }

    fn string(&mut self) -> Outcome<String> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a string"));
        }
        let bytes = self.text.as_bytes();
        let mut end = self.at + 1;
        while bytes.get(end).is_some_and(|b| *b != b'"') {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        // Escapes are the JSON crate's business; a missing quote makes `get` fail.
        let quoted = self.text.get(self.at..=end).ok_or_else(|| self.unexpected("a string that ends"))?;
        let string = serde_json::from_str(quoted).map_err(|_| self.unexpected("a sound string"))?;
        self.at = end + 1;
        Ok(string)
    }

    fn number(&mut self) -> Outcome<usize> {
        self.peek();
        let rest = &self.text[self.at..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = rest[..digits].parse().map_err(|_| self.unexpected("a whole number that fits 64 bits"))?;
        self.at += digits;
        Ok(number)
    }

    fn numbers(&mut self) -> Outcome<Vec<usize>> {
        self.expect(b'[')?;
        let mut numbers = Vec::new();
        while !self.take(b']') {
            if !numbers.is_empty() {
                self.expect(b',')?;
            }
            if numbers.len() == MAX_RANK {
                return Err(self.unexpected(&format!("']', as there are {MAX_RANK} numbers already")));
            }
            numbers.push(self.number()?);
        }
        Ok(numbers)
    }

    /// Calls `field` with each key; it parses the value.
    fn object(&mut self, field: &mut dyn FnMut(&mut Self, String) -> Outcome<()>) -> Outcome<()> {
        self.expect(b'{')?;
        let mut first = true;
        while !self.take(b'}') {
            if !first {
                self.expect(b',')?;
            }
            first = false;
            let key = self.string()?;
            self.expect(b':')?;
            field(self, key)?;
        }
        Ok(())
    }

    fn tensor(&mut self, name: String) -> Outcome<Entry> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        self.object(&mut |parser, key| {
            let twice = match key.as_str() {
                "dtype" => dtype.replace(parser.string()?).is_some(),
                "shape" => shape.replace(parser.numbers()?).is_some(),
                "data_offsets" => offsets.replace(parser.numbers()?).is_some(),
                _ => return Err(format!("tensor '{name}' has an unknown field '{key}'")),
            };
            if twice { Err(format!("tensor '{name}' has '{key}' twice")) } else { Ok(()) }
        })?;
        let (Some(dtype), Some(shape), Some(offsets)) = (dtype, shape, offsets) else {
            return Err(format!("tensor '{name}' needs dtype, shape and data_offsets"));
        };
        let Some((dtype, ..)) = DTYPES.iter().find(|known| known.1 == dtype) else {
            let known = DTYPES.map(|known| known.1).join(", ");
            return Err(format!("tensor '{name}' has dtype '{dtype}'; the format's are {known}"));
        };
        let [start, end] = offsets[..] else {
            return Err(format!("tensor '{name}' needs two data_offsets, not {}", offsets.len()));
        };
        let bits = shape.iter().try_fold(dtype.bits(), |bits, d| bits.checked_mul(*d));
        let len = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
        if len.is_none() || end.checked_sub(start) != len {
            let what = format!("shape {shape:?} of {} does not fit data_offsets {offsets:?}", dtype.name());
            return Err(format!("tensor '{name}': {what}"));
        }
        Ok(Entry { name, dtype: *dtype, shape, start, end })
    }
}
