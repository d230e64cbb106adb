//! TensorBoard event files: what the records say, for those who watch their runs there.
//!
//! A file is a row of TFRecords: the payload's length in 8 bytes, the masked CRC-32C of these in 4, the payload, its masked
//! CRC-32C; all little-endian. A payload is an `Event` of TensorFlow's `event.proto`, encoded here by hand, for of its many
//! fields six are used. Readers stop at a torn record and take the next file of the folder, so a killed run does no harm.

use super::records::Appender;
use crate::error::{Error, Result};
use crate::files;
use std::fs::{self, File};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Readers know an event file by this part of its name, and read those of a folder in the order of their names.
const NAME: &str = "events.out.tfevents.";
/// The version from which on readers heed [`START`].
const FILE_VERSION: &[u8] = b"brain.Event:2";
/// `SessionLog.status`: everything of this step and later ones that came before is to be forgotten.
const START: u64 = 1;

/// An event file that grows.
pub struct Events {
    out: Appender,
    /// The messages that are nested in one another; kept so that a step allocates nothing.
    value: Vec<u8>,
    summary: Vec<u8>,
    event: Vec<u8>,
}

impl Events {
    /// Creates a file in `folder`, later than all others there. Their rows of step `next` and later no longer count: a killed run
    /// has written rows behind its last checkpoint, and does these steps again when it is resumed.
    ///
    /// # Errors
    /// CantCreate, Io: with the path.
    pub fn create(folder: &Path, next: u64) -> Result<Events> {
        fs::create_dir_all(folder).map_err(|e| Error::io("create folder", folder, &e))?;
        let path = folder.join(format!("{NAME}{:010}.{}", next_stamp(folder)?, host()));
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.map_err(|e| Error::io("create", &path, &e))?;
        let (value, summary, event) = (vec![], vec![], vec![]);
        let mut events = Events { out: Appender::new(path, file), value, summary, event };
        let now = seconds();
        events.begin(now, 0);
        message(&mut events.event, 3, FILE_VERSION);
        events.end()?;
        events.begin(now, next);
        number(&mut events.summary, 1, START);
        message(&mut events.event, 7, &events.summary);
        events.end()?;
        events.flush()?;
        Ok(events)
    }

    /// Appends values of step `step`: of each its group and name, which make the tag `group/name`.
    ///
    /// # Errors
    /// Io: with the path.
    pub fn scalars<'a>(&mut self, step: u64, values: impl Iterator<Item = (&'a str, &'a str, f32)>) -> Result<()> {
        self.begin(seconds(), step);
        for (group, name, scalar) in values {
            self.value.clear();
            key(&mut self.value, 1, LENGTH);
            varint(&mut self.value, (group.len() + 1 + name.len()) as u64);
            for part in [group, "/", name] {
                self.value.extend(part.as_bytes());
            }
            key(&mut self.value, 2, FIXED32);
            self.value.extend(scalar.to_le_bytes());
            message(&mut self.summary, 1, &self.value);
        }
        message(&mut self.event, 5, &self.summary);
        self.end()
    }

    /// Puts everything on the disk.
    ///
    /// # Errors
    /// Io: with the path.
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }

    fn begin(&mut self, wall_time: f64, step: u64) {
        self.event.clear();
        self.summary.clear();
        key(&mut self.event, 1, FIXED64);
        self.event.extend(wall_time.to_le_bytes());
        number(&mut self.event, 2, step);
    }

    fn end(&mut self) -> Result<()> {
        self.out.write(&record_head(self.event.len() as u64))?;
        self.out.write(&self.event)?;
        self.out.write(&masked_crc32c(&self.event).to_le_bytes())
    }
}

/// The number of a new file: the time in seconds, or else one more than the largest of `folder`, should the clock have been
/// set back or two files begin within a second.
fn next_stamp(folder: &Path) -> Result<u64> {
    let mut stamp = seconds() as u64;
    for entry in files::read_dir(folder).map_err(|e| Error::io("read folder", folder, &e))? {
        let name = entry.map_err(|e| Error::io("read folder", folder, &e))?.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix(NAME).and_then(|rest| rest.split('.').next()?.parse::<u64>().ok());
        stamp = stamp.max(number.map_or(0, |n| n.saturating_add(1)));
    }
    Ok(stamp)
}

/// Seconds since 1970.
fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// The machine's name as far as it is fit for a file's.
fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

/// Wire types of Protocol Buffers.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

fn key(to: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(to, field << 3 | wire_type);
}

/// Writes seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn number(to: &mut Vec<u8>, field: u64, value: u64) {
    key(to, field, VARINT);
    varint(to, value);
}

fn message(to: &mut Vec<u8>, field: u64, payload: &[u8]) {
    key(to, field, LENGTH);
    varint(to, payload.len() as u64);
    to.extend(payload);
}

/// Returns the header of a payload of `len` bytes.
fn record_head(len: u64) -> [u8; 12] {
    let mut head = [0; 12];
    head[..8].copy_from_slice(&len.to_le_bytes());
    let check = masked_crc32c(&head[..8]);
    head[8..].copy_from_slice(&check.to_le_bytes());
    head
}

/// TFRecord's mask: a CRC over bytes that hold CRCs themselves would be a poor check.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// CRC-32C (Castagnoli), reflected, as in iSCSI (RFC 3720, appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!0, |crc: u32, byte| TABLE[(crc as u8 ^ byte) as usize] ^ crc >> 8)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::files::TestFolder;

    /// RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
    #[test]
    fn the_checksum_is_that_of_the_standard() {
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        for (bytes, crc) in [
            (&[0; 32][..], 0x8A91_36AA),
            (&[0xFF; 32], 0x62A8_AB43),
            (&rising, 0x46DD_794E),
            (&falling, 0x113F_DB5C),
            (b"123456789", 0xE306_9283),
            (b"", 0),
        ] {
            assert_eq!(crc32c(bytes), crc, "{bytes:?}");
        }
    }

    /// The first bytes of every event file that TensorFlow writes: 24 bytes follow, a wall time and "brain.Event:2".
    #[test]
    fn records_are_framed_as_tensorflow_frames_them() {
        assert_eq!(record_head(24), [0x18, 0, 0, 0, 0, 0, 0, 0, 0xA3, 0x7F, 0x4B, 0x22]);
    }

    #[test]
    fn events_have_the_bytes_of_their_protocol_buffers() {
        let scratch = TestFolder::new("events");
        let mut events = Events::create(&scratch.0, 300).unwrap();
        events.scalars(300, [("step", "loss", 0.5)].into_iter()).unwrap();
        events.flush().unwrap();
        let file = fs::read_dir(&scratch.0).unwrap().next().unwrap().unwrap().path();
        let bytes = fs::read(file).unwrap();
        // Every payload without its wall time of 8 bytes, which stands behind the first key.
        let (mut payloads, mut rest) = (vec![], &bytes[..]);
        while !rest.is_empty() {
            let len = u64::from_le_bytes(rest[..8].try_into().unwrap());
            let (record, behind) = rest.split_at(16 + len as usize);
            let payload = &record[12..record.len() - 4];
            assert_eq!(record[..12], record_head(len));
            assert_eq!(record[record.len() - 4..], masked_crc32c(payload).to_le_bytes());
            let time = f64::from_le_bytes(payload[1..9].try_into().unwrap());
            assert!(payload[0] == 0x09 && (seconds() - time).abs() < 60.0, "{payload:?}");
            payloads.push(payload[9..].to_vec());
            rest = behind;
        }
        assert_eq!(payloads[0], *b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(payloads[1], *b"\x10\xac\x02\x3a\x02\x08\x01");
        assert_eq!(payloads[2], *b"\x10\xac\x02\x2a\x12\x0a\x10\x0a\x09step/loss\x15\0\0\0\x3f");
        assert_eq!(payloads.len(), 3);
    }

    #[test]
    fn a_later_file_has_a_later_name_whatever_the_clock_says() {
        let scratch = TestFolder::new("later");
        fs::write(scratch.0.join("events.out.tfevents.9999999990.other"), "").unwrap();
        for _ in 0..3 {
            Events::create(&scratch.0, 1).unwrap();
        }
        let mut names: Vec<String> =
            fs::read_dir(&scratch.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        for (name, second) in names.iter().zip(9_999_999_990u64..) {
            assert!(name.starts_with(&format!("{NAME}{second}.")), "{names:?}");
        }
        assert_eq!(names.len(), 4);
        fs::write(scratch.0.join("file"), "").unwrap();
        let refused = Events::create(&scratch.0.join("file"), 1).err().unwrap();
        assert_eq!(refused.kind, Kind::CantCreate, "{refused}");
    }
}
