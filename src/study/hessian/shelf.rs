//! Vectors of an unfinished study on disk: its journal has numbers, this file has what is too long for it.

use crate::error::{Error, Result};
use flate2::Crc;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file of f32, or nothing where the study is not kept.
#[derive(Debug, Default)]
pub struct Shelf(Option<(File, PathBuf)>);

impl Shelf {
    /// Opens or creates `path`.
    ///
    /// # Errors
    /// CantCreate, Io: the file cannot be written.
    pub fn open(path: &Path) -> Result<Shelf> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        Ok(Shelf(Some((file.map_err(|e| Error::io("write", path, &e))?, path.to_path_buf()))))
    }

    /// Writes `vector` from element `at` on; returns its checksum, for [`Shelf::get`].
    ///
    /// # Errors
    /// Io: the file cannot be written.
    pub fn put(&mut self, at: usize, vector: &[f32]) -> Result<f64> {
        let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
        if let Some((file, path)) = &mut self.0 {
            let written = file.seek(SeekFrom::Start(4 * at as u64)).and_then(|_| file.write_all(&bytes));
            written.map_err(|e| Error::io("write", path, &e))?;
        }
        Ok(checksum(&bytes))
    }

    /// Reads the vector of `len` elements from element `at` on.
    ///
    /// # Errors
    /// Data: it is not there, or is not the one of that checksum.
    pub fn get(&mut self, at: usize, len: usize, sum: f64) -> Result<Vec<f32>> {
        let Some((file, path)) = &mut self.0 else {
            return Err(Error::internal("vectors of a study that is not kept"));
        };
        let mut bytes = vec![0; 4 * len];
        let read = file.seek(SeekFrom::Start(4 * at as u64)).and_then(|_| file.read_exact(&mut bytes));
        if read.is_err() || checksum(&bytes) != sum {
            let folder = path.parent().unwrap_or(path).display();
            let message =
                format!("{} lacks a vector that the journal names; remove {folder} to begin anew", path.display());
            return Err(Error::data(message));
        }
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

fn checksum(bytes: &[u8]) -> f64 {
    let mut crc = Crc::new();
    crc.update(bytes);
    f64::from(crc.sum())
}
