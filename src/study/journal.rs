//! The journal of a study: measurements as they are made, in a file, so that the same command goes on after a stop.
//!
//! The first line identifies the study (what is measured, with which settings); each further line is a key and its values.
//! Values are written in the shortest decimal form that reads back to the same bits.

use crate::error::{Error, Kind, Result};
use crate::files::read_text;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Largest journal that is read back, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// How far a study has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    pub done: usize,
    pub total: usize,
    /// Seconds that the rest will take, from the measurements of this process.
    pub seconds_left: f64,
}

/// Hears about each measurement; an error ends the study, whose journal then holds what is done.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress) -> Result<()>;

/// Measurements of a study, by key.
pub struct Journal<'a> {
    /// None: the study is not kept.
    file: Option<(File, PathBuf)>,
    kept: HashMap<String, Vec<f64>>,
    on_progress: OnProgress<'a>,
    begun: Instant,
    done: usize,
    /// Measurements of `done` that this process made itself.
    made: usize,
    total: usize,
}

impl<'a> Journal<'a> {
    /// A journal in memory alone, for a study of `total` measurements.
    pub fn in_memory(total: usize, on_progress: OnProgress<'a>) -> Journal<'a> {
        Journal { file: None, kept: HashMap::new(), on_progress, begun: Instant::now(), done: 0, made: 0, total }
    }

    /// Opens or creates the journal `path` of the study that `identity` describes.
    ///
    /// # Errors
    /// CantCreate: there is the journal of another study, or the file cannot be written. Data: it is damaged.
    pub fn open(path: &Path, identity: &Value, total: usize, on_progress: OnProgress<'a>) -> Result<Journal<'a>> {
        let mut journal = Journal::in_memory(total, on_progress);
        let first = identity.to_string();
        let text = if path.exists() { read_text(path, MAX_BYTES)? } else { String::new() };
        // What a kill has left of the last line is made again.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut lines = whole.lines();
        match lines.next() {
            Some(line) if line == first => {}
            Some(line) => return Err(other_study(path, line, identity)),
            None => {}
        }
        for (number, line) in lines.enumerate() {
            let (key, values) = parse(line).ok_or_else(|| {
                let place = format!("{} line {}", path.display(), number + 2);
                Error::data(format!("{place} is not a measurement; remove the file to begin the study anew"))
            })?;
            journal.kept.insert(key.to_owned(), values);
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let mut file = file.map_err(|e| Error::io("write", path, &e))?;
        let begin = |file: &mut File| {
            use std::io::Seek;
            file.set_len(whole.len() as u64)?;
            file.seek(std::io::SeekFrom::End(0))?;
            if whole.is_empty() { file.write_all(format!("{first}\n").as_bytes()) } else { Ok(()) }
        };
        begin(&mut file).map_err(|e| Error::io("write", path, &e))?;
        journal.file = Some((file, path.to_path_buf()));
        Ok(journal)
    }

    /// Returns the values kept under `key`, or else those that `measure` returns, and keeps them. Counts as one measurement.
    ///
    /// # Errors
    /// Those of `measure` and of the progress. Io: the journal cannot be written.
    pub fn measure(&mut self, key: &str, measure: impl FnOnce() -> Result<Vec<f64>>) -> Result<Vec<f64>> {
        let values = match self.kept.get(key) {
            Some(values) => values.clone(),
            None => {
                let values = measure()?;
                self.keep(key, &values)?;
                self.made += 1;
                values
            }
        };
        self.done += 1;
        let left = self.total.saturating_sub(self.done);
        let seconds_left = self.begun.elapsed().as_secs_f64() / self.made.max(1) as f64 * left as f64;
        (self.on_progress)(Progress { done: self.done, total: self.total, seconds_left })?;
        Ok(values)
    }

    /// Whether values are kept under `key`.
    pub fn has(&self, key: &str) -> bool {
        self.kept.contains_key(key)
    }

    fn keep(&mut self, key: &str, values: &[f64]) -> Result<()> {
        if let Some((file, path)) = &mut self.file {
            let mut line = key.to_owned();
            for value in values {
                let _ = write!(line, " {value}");
            }
            line.push('\n');
            file.write_all(line.as_bytes()).map_err(|e| Error::io("write", path, &e))?;
        }
        self.kept.insert(key.to_owned(), values.to_vec());
        Ok(())
    }
}

/// Returns key and values of a line; keys have no spaces.
fn parse(line: &str) -> Option<(&str, Vec<f64>)> {
    let mut words = line.split(' ');
    let key = words.next().filter(|key| !key.is_empty())?;
    Some((key, words.map(|word| word.parse().ok()).collect::<Option<_>>()?))
}

/// Returns the refusal of a journal whose first line is `line`, with the first thing that differs.
fn other_study(path: &Path, line: &str, identity: &Value) -> Error {
    let begun: Value = serde_json::from_str(line).unwrap_or_default();
    let differs = |(key, value): (&String, &Value)| (begun[key] != *value).then(|| (key.clone(), value.clone()));
    let which = identity.as_object().into_iter().flatten().find_map(differs);
    let which = match which {
        Some((key, value)) => format!("{key} is {} there and {value} here", begun[&key]),
        None => "its first line is of another version or damaged".to_owned(),
    };
    let message = format!("{} belongs to another unfinished study: {which}; give another --out", path.display());
    Error::new(Kind::CantCreate, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TestFolder;
    use serde_json::json;
    use std::fs;

    fn values(i: usize) -> Vec<f64> {
        vec![1.0 / (i as f64 + 3.0), f64::NAN, f64::INFINITY, -0.0, 5e-324]
    }

    fn bits(v: &[f64]) -> Vec<u64> {
        v.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn a_stopped_study_goes_on_with_the_same_bits_and_measures_nothing_twice() {
        let folder = TestFolder::new("journal");
        let path = folder.0.join("j");
        let identity = json!({"study": "test", "rho": 0.1});
        let mut stop = |p: Progress| match p.done {
            3 => Err(Error::new(Kind::Interrupted, "stopped")),
            _ => Ok(()),
        };
        let mut journal = Journal::open(&path, &identity, 5, &mut stop).unwrap();
        let mut all = || -> Result<()> {
            for i in 0..5 {
                journal.measure(&format!("m{i}"), || Ok(values(i)))?;
            }
            Ok(())
        };
        assert_eq!(all().unwrap_err().kind, Kind::Interrupted);
        // A kill within the next line.
        let mut text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4);
        text.push_str("m3 0.1");
        fs::write(&path, &text).unwrap();
        let mut seen = vec![];
        let mut told = |p: Progress| {
            seen.push(p.done);
            Ok(())
        };
        let mut journal = Journal::open(&path, &identity, 5, &mut told).unwrap();
        let mut made = vec![];
        for i in 0..5 {
            let got = journal.measure(&format!("m{i}"), || {
                made.push(i);
                Ok(values(i))
            });
            assert_eq!(bits(&got.unwrap()), bits(&values(i)));
        }
        assert_eq!((made, seen), (vec![3, 4], vec![1, 2, 3, 4, 5]));
    }

    #[test]
    fn another_studys_journal_and_a_damaged_one_are_refused_and_left_alone() {
        let folder = TestFolder::new("journal-other");
        let path = folder.0.join("j");
        let mut told = |_: Progress| Ok(());
        drop(Journal::open(&path, &json!({"study": "test", "rho": 0.1}), 1, &mut told).unwrap());
        let before = fs::read(&path).unwrap();
        let e = Journal::open(&path, &json!({"study": "test", "rho": 0.2}), 1, &mut told).err().unwrap();
        assert_eq!(e.kind, Kind::CantCreate);
        assert!(e.to_string().contains("rho is 0.1 there and 0.2 here; give another --out"), "{e}");
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::write(&path, "{\"study\":\"test\"}\nm0 0.1\nm1 0.x\n").unwrap();
        let e = Journal::open(&path, &json!({"study": "test"}), 1, &mut told).err().unwrap();
        assert!(e.to_string().contains("line 3 is not a measurement"), "{e}");
    }
}
