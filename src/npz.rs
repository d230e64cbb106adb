//! Arrays for NumPy: the `.npz` that `numpy.load` reads, a zip archive of `.npy` files without compression.
//!
//! Formats: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html> (version 1.0) and PKWARE's APPNOTE.TXT.

use crate::error::{Error, Result};
use crate::files::write_atomic;
use flate2::Crc;
use std::path::Path;

/// An array in C order.
pub struct Array {
    name: String,
    npy: Vec<u8>,
}

impl Array {
    /// An array of f64.
    ///
    /// # Errors
    /// Internal: `shape` does not have as many places as there are values.
    pub fn f64(name: &str, shape: &[usize], values: &[f64]) -> Result<Array> {
        Array::new(name, "<f8", shape, values.len(), values.iter().flat_map(|v| v.to_le_bytes()))
    }

    /// An array of f32.
    ///
    /// # Errors
    /// Internal: `shape` does not have as many places as there are values.
    pub fn f32(name: &str, shape: &[usize], values: &[f32]) -> Result<Array> {
        Array::new(name, "<f4", shape, values.len(), values.iter().flat_map(|v| v.to_le_bytes()))
    }

    fn new(name: &str, dtype: &str, shape: &[usize], count: usize, bytes: impl Iterator<Item = u8>) -> Result<Array> {
        if shape.iter().product::<usize>() != count {
            return Err(Error::internal(format!("array {name} has {count} values, not {shape:?}")));
        }
        // A tuple of one has a comma in Python.
        let shape: String = shape.iter().map(|n| format!("{n},")).collect();
        let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
        // Magic, version, length and header fill a multiple of 64 bytes, the last of which is a newline.
        let padding = 63 - (10 + header.len()) % 64;
        header.extend(std::iter::repeat_n(' ', padding));
        header.push('\n');
        let mut npy = b"\x93NUMPY\x01\x00".to_vec();
        npy.extend((header.len() as u16).to_le_bytes());
        npy.extend(header.as_bytes());
        npy.extend(bytes);
        Ok(Array { name: format!("{name}.npy"), npy })
    }
}

/// Writes the arrays to `path`, whole or not at all.
///
/// # Errors
/// Usage: they take 4 GiB or more, which this format cannot hold. CantCreate, Io: the file cannot be written.
pub fn write(path: &Path, arrays: &[Array]) -> Result<()> {
    write_atomic(path, &archive(arrays)?)
}

/// Returns the archive's bytes; the same for the same arrays.
///
/// # Errors
/// Usage: they take 4 GiB or more.
pub fn archive(arrays: &[Array]) -> Result<Vec<u8>> {
    let size: usize = arrays.iter().map(|a| a.npy.len() + 2 * a.name.len() + 76).sum();
    if size >= u32::MAX as usize {
        return Err(Error::usage(format!("the arrays take {size} bytes; an .npz file holds less than 4 GiB")));
    }
    let (mut file, mut directory) = (Vec::with_capacity(size), Vec::new());
    for array in arrays {
        let mut crc = Crc::new();
        crc.update(&array.npy);
        let length = (array.npy.len() as u32).to_le_bytes();
        // What the local header and the directory share: version 2.0, no flags, stored, midnight of 1980-01-01, sizes.
        let mut shared = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        shared.extend(crc.sum().to_le_bytes());
        shared.extend([length, length].concat());
        shared.extend((array.name.len() as u16).to_le_bytes());
        shared.extend([0, 0]);
        let offset = file.len() as u32;
        file.extend(b"PK\x03\x04");
        file.extend(&shared);
        file.extend(array.name.as_bytes());
        file.extend(&array.npy);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&shared);
        // No comment, first disk, no attributes.
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(array.name.as_bytes());
    }
    let (start, length, count) = (file.len() as u32, directory.len() as u32, arrays.len() as u16);
    file.extend(directory);
    file.extend(b"PK\x05\x06\x00\x00\x00\x00");
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend([length.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0, 0]);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_formats() {
        let array = Array::f64("losses", &[2, 1], &[1.5, -2.0]).unwrap();
        assert_eq!(array.npy.len(), 128 + 16);
        assert_eq!(&array.npy[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(array.npy[10..].starts_with(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2,1,), }"));
        assert_eq!((array.npy[127], &array.npy[128..136]), (b'\n', &1.5f64.to_le_bytes()[..]));
        let file = archive(&[array, Array::f32("rho", &[], &[0.05]).unwrap()]).unwrap();
        assert!(file.starts_with(b"PK\x03\x04\x14\x00\x00\x00\x00\x00\x00\x00\x21\x00"));
        // The end of the directory: two entries, 56 + 53 bytes of them, behind both files.
        let end = &file[file.len() - 22..];
        let directory = u32::from_le_bytes(end[16..20].try_into().unwrap()) as usize;
        assert_eq!((&end[8..12], &end[12..16]), (&[2, 0, 2, 0][..], &(56u32 + 53).to_le_bytes()[..]));
        assert_eq!(directory + 56 + 53 + 22, file.len());
        assert_eq!(&file[directory..directory + 4], b"PK\x01\x02");
    }

    #[test]
    fn a_wrong_shape_is_refused() {
        assert!(Array::f32("x", &[3], &[0.0; 4]).is_err());
    }
}
