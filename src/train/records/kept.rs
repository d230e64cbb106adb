//! The records of a run that is resumed: how far they reach up to its checkpoint, and cutting off what is behind that.

use super::{Appender, Extras, LONGEST_LINE, LOSS_KIND, Records, columns, csv_line, start};
use crate::error::{Error, Result};
use crate::train::run_folder::RunFolder;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Content of both record files up to a checkpoint. Nothing is changed before [`Kept::open`].
pub struct Kept {
    metrics: Part,
    steps: Part,
    extras: Extras,
    /// Step of the checkpoint.
    step: u64,
}

/// The beginning of a record file, up to its last whole row of a step that is not behind the checkpoint.
struct Part {
    path: PathBuf,
    header: String,
    /// In bytes; 0 where not even the header is whole.
    length: u64,
    /// Step of its last row; 0 if there is none.
    last: u64,
}

impl Kept {
    /// Reads the records in `folder` up to step `step`.
    ///
    /// # Errors
    /// Data: a line that is not a record, with file and line. NoInput: a file cannot be read.
    pub fn read(folder: &RunFolder, mut extras: Extras, step: u64) -> Result<Kept> {
        // Runs of earlier versions have no such column.
        extras.loss_kind &= super::header(&folder.metrics()).is_none_or(|names| names.iter().any(|n| n == LOSS_KIND));
        let header = csv_line(columns(extras).map(|c| c.name.to_string()));
        let metrics = Part::read(folder.metrics(), header, step, step_of_metrics)?;
        let steps = Part::read(folder.steps(), String::new(), step, step_of_object)?;
        Ok(Kept { metrics, steps, extras, step })
    }

    /// Returns the step of the last row of steps.jsonl.
    pub fn last(&self) -> u64 {
        self.steps.last
    }

    /// Returns whether there is any row.
    pub fn any(&self) -> bool {
        self.steps.last > 0 || self.metrics.last > 0
    }

    /// Returns a sentence for each file that lacks its last rows, in a run of `per_epoch` steps an epoch.
    pub fn losses(&self, per_epoch: u64) -> Vec<String> {
        let epochs = |step: u64| step / per_epoch.max(1);
        [
            self.steps.loss(("step", "steps"), self.steps.last, self.step),
            self.metrics.loss(("epoch", "epochs"), epochs(self.metrics.last), epochs(self.step)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Cuts off later rows and a torn last line, and opens the files for appending.
    ///
    /// # Errors
    /// CantCreate or Io, with the path.
    pub fn open(self) -> Result<Records> {
        let (metrics, steps) = (self.metrics.open()?, self.steps.open()?);
        Ok(Records { metrics, steps, events: None, extras: self.extras, line: String::new() })
    }
}

impl Part {
    fn read(path: PathBuf, header: String, step: u64, step_of: fn(&str) -> Option<u64>) -> Result<Part> {
        let mut part = Part { path, header, length: 0, last: 0 };
        let Part { path, header, length, last } = &mut part;
        let failed = |e: std::io::Error| Error::io("read", path, &e);
        let file = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(part),
            other => other.map_err(failed)?,
        };
        let (mut reader, mut bytes) = (BufReader::new(file), Vec::new());
        for number in 1.. {
            bytes.clear();
            let size = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes).map_err(failed)? as u64;
            // The last line may be torn; only a file of something else has such a long one.
            let line = match bytes.strip_suffix(b"\n") {
                None if size < LONGEST_LINE => break,
                None => "a line without an end",
                Some(line) => std::str::from_utf8(line).unwrap_or_default(),
            };
            let (at, way) = (format!("{} line {number}", path.display()), "restore the file, or move it away");
            let shown: String = line.chars().take(200).collect();
            if number > 1 || header.is_empty() {
                let broken = || Error::data(format!("{at} is not a record: {shown}; {way} to resume without it"));
                let row = step_of(line).ok_or_else(broken)?;
                if row > step {
                    break;
                }
                *last = row;
            } else if line != header.trim_end() {
                let expected = header.trim_end();
                return Err(Error::data(format!("{at} should be {expected}, not {shown}; {way} to resume without it")));
            }
            *length += size;
        }
        Ok(part)
    }

    /// Returns a sentence if rows `last + 1` to `expected` are missing; `what` is a row's name, and that of several.
    fn loss(&self, what: (&str, &str), last: u64, expected: u64) -> Option<String> {
        let path = self.path.display();
        let rows = match expected.checked_sub(last)? {
            0 => return None,
            1 => format!("{} {expected}", what.0),
            _ => format!("{} {} to {expected}", what.1, last + 1),
        };
        Some(format!("{path} has lost {rows}, which the checkpoint includes; it continues behind them"))
    }

    fn open(self) -> Result<Appender> {
        if self.length == 0 {
            return start(self.path, &self.header);
        }
        let failed = |e: std::io::Error| Error::io("write", &self.path, &e);
        let mut file = File::options().write(true).open(&self.path).map_err(failed)?;
        file.set_len(self.length).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok(Appender::new(self.path, file))
    }
}

fn step_of_metrics(line: &str) -> Option<u64> {
    line.split(',').nth(1)?.parse().ok()
}

fn step_of_object(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64()
}
