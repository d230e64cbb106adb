//! The bytes of data files: a memory map of a plain one, memory for what was unpacked or taken apart.

use crate::error::{Error, Kind, Result};
use memmap2::Mmap;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The values of a data file, behind a header that may be empty.
pub struct Bytes {
    store: Store,
    header: usize,
}

enum Store {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    /// All of `content` from byte `header` on.
    pub fn owned(content: Vec<u8>, header: usize) -> Bytes {
        Bytes { store: Store::Owned(content), header }
    }

    /// The whole of an opened file, which must not be empty.
    ///
    /// # Errors
    /// Io: it cannot be mapped.
    pub fn map(path: &Path, file: &File) -> Result<Bytes> {
        #[allow(unsafe_code)]
        // SAFETY: the map is only read. A data file that another process shortens while we run is beyond what a reader can
        // guard against (SIGBUS); the price of a copy would be the data set's size in memory for each run on a machine.
        let map = unsafe { Mmap::map(file) }.map_err(|e| Error::io("read", path, &e))?;
        Ok(Bytes { store: Store::Mapped(map), header: 0 })
    }

    /// Returns the bytes behind the first `header`, which are no values.
    pub fn behind(self, header: usize) -> Bytes {
        Bytes { header, ..self }
    }

    /// The unpacked file with its header.
    pub fn whole_file(&self) -> &[u8] {
        match &self.store {
            Store::Mapped(map) => map,
            Store::Owned(vec) => vec,
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.whole_file()[self.header..]
    }
}

/// Opens a data file and tells its length, which is at least 1.
///
/// # Errors
/// NoInput: it is not there, not readable or not a file. Data: it is empty.
pub fn open(path: &Path) -> Result<(File, u64)> {
    let unreadable = |e: io::Error| Error::io("read", path, &e);
    // Asked before opening, because opening a pipe would wait for a writer.
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Error::new(Kind::NoInput, format!("cannot read {}: it is not a file", path.display())));
    }
    if meta.len() == 0 {
        return Err(Error::data(format!("{} is empty; fetch it again", path.display())));
    }
    Ok((File::open(path).map_err(unreadable)?, meta.len()))
}
