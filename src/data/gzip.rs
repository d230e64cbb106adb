//! Gzip files as gzip(1) reads them: members one after the other, then at most zeros (padding of tapes and blocks).

use flate2::bufread::GzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};

/// The first bytes of every member.
pub const MAGIC: &[u8] = b"\x1f\x8b";

/// The unpacked content of all members of a file.
pub struct Members {
    /// None after the last.
    member: Option<GzDecoder<BufReader<File>>>,
    /// Packed bytes where reading ended.
    end: u64,
    /// Set where bytes follow that are neither a member nor zeros.
    pub junk: bool,
}

impl Members {
    pub fn new(file: File) -> Members {
        Members { member: Some(GzDecoder::new(BufReader::new(file))), end: 0, junk: false }
    }

    /// Returns how many packed bytes have been taken.
    pub fn position(&mut self) -> u64 {
        match &mut self.member {
            Some(member) => member.get_mut().stream_position().unwrap_or(0),
            None => self.end,
        }
    }

    /// Steps to the member after the one that has ended, if there is one.
    fn next(&mut self, mut reader: BufReader<File>) -> io::Result<()> {
        self.end = reader.stream_position()?;
        match reader.fill_buf()?.first() {
            None => return Ok(()),
            Some(byte) if *byte == MAGIC[0] => {
                self.member = Some(GzDecoder::new(reader));
                return Ok(());
            }
            _ => {}
        }
        loop {
            let piece = reader.fill_buf()?;
            if piece.is_empty() {
                return Ok(());
            }
            if piece.iter().any(|byte| *byte != 0) {
                self.junk = true;
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            let zeros = piece.len();
            reader.consume(zeros);
        }
    }
}

impl Read for Members {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            match member.read(buffer)? {
                0 => {
                    if let Some(ended) = self.member.take() {
                        self.next(ended.into_inner())?;
                    }
                }
                count => return Ok(count),
            }
        }
        Ok(0)
    }
}
