//! Records of a run: metrics.csv with a row for each epoch, steps.jsonl with an object for each step, and on request the
//! same for TensorBoard.
//!
//! A run that was stopped and resumed writes the same bytes as one that was not, but for the columns that tell time.

mod kept;

pub use kept::Kept;

use super::run_folder::RunFolder;
use super::tensorboard::Events;
use crate::error::{Error, Result};
use crate::files::{MAX_RECORDS, read_text};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Mean loss and share of right answers over a set of images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    pub loss: f64,
    /// 0 to 1.
    pub accuracy: f64,
}

/// A model's predictions on training images whose labels are known to be right or wrong: shares from 0 to 1, as in an
/// evaluation, without augmentation. None where there are no such images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NoiseScores {
    /// Share of the images with right labels that are predicted so.
    pub clean: Option<f64>,
    /// Share of the images with wrong labels that are predicted as their right class.
    pub learned: Option<f64>,
    /// Share of the same images that are predicted as their wrong labels say.
    pub memorised: Option<f64>,
}

/// Columns of a run beside those of all runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// It holds images out.
    pub validation: bool,
    /// Some of its labels are known to be wrong.
    pub noise: bool,
    /// It waits for AutoAugment.
    pub waited: bool,
    /// Its training loss is not plain cross-entropy.
    pub loss_kind: bool,
}

/// Figures at the end of an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EpochRow {
    /// From 1.
    pub epoch: u32,
    /// Steps done since the run began.
    pub step: u64,
    /// Over the epoch's steps, as they went; the loss is the one that is trained with.
    pub train: Scores,
    /// Kind of the training loss, by [`Recipe::loss_kind`](crate::recipe::Recipe::loss_kind); empty for cross-entropy.
    pub loss_kind: String,
    /// Over the images held out, if there are any; the loss is plain cross-entropy, as that of `test`.
    pub validation: Option<Scores>,
    /// None where the epoch ended without an evaluation; then there are no other scores of an evaluation either.
    pub test: Option<Scores>,
    /// If some labels are known to be wrong.
    pub noise: Option<NoiseScores>,
    /// Learning rate of the epoch's last step.
    pub lr: f32,
    /// 2-norm of the gradient at w, the mean over the epoch's steps.
    pub grad_norm: f32,
    /// By how much the loss rose from w to w + rho g/|g|, on average; `None` for optimizers that do not look.
    pub sharpness_gain: Option<f32>,
    /// Training and evaluation together.
    pub seconds: f64,
    /// Seconds of waiting for images that AutoAugment had not finished; `None` in runs without it.
    pub waited: Option<f64>,
    /// Images a second of training alone.
    pub images_per_s: f64,
    /// Columns of its run.
    pub extras: Extras,
}

/// Figures of a step; nothing that depends on time, machine or number of threads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepRow<'a> {
    /// From 1.
    pub step: u64,
    /// From 1.
    pub epoch: u32,
    /// Mean over the batch.
    pub loss: f32,
    /// Right answers in the batch.
    pub hits: u32,
    pub lr: f32,
    pub grad_norm: f32,
    /// Figures of the optimizer, such as "sharpness_gain". Names are plain words, in the same order each step.
    pub scalars: &'a [(&'static str, f32)],
}

/// A column of metrics.csv.
pub struct Column {
    pub name: &'static str,
    /// Returns true if a run has it.
    pub there: fn(Extras) -> bool,
    pub text: fn(&EpochRow) -> String,
}

const fn column(name: &'static str, text: fn(&EpochRow) -> String) -> Column {
    Column { name, there: |_| true, text }
}

const fn validation(name: &'static str, text: fn(&EpochRow) -> String) -> Column {
    Column { name, there: |extras| extras.validation, text }
}

const fn noise(name: &'static str, text: fn(&EpochRow) -> String) -> Column {
    Column { name, there: |extras| extras.noise, text }
}

/// Six decimals tell one image in a million from none.
fn fixed(value: f64) -> String {
    format!("{value:.6}")
}

fn evaluated(scores: Option<Scores>, of: fn(Scores) -> f64) -> String {
    scores.map_or_else(String::new, |scores| fixed(of(scores)))
}

fn share(row: &EpochRow, of: fn(&NoiseScores) -> Option<f64>) -> String {
    row.noise.as_ref().and_then(of).map_or_else(String::new, fixed)
}

/// The one column of words. It says what `train_loss` is in runs that train with another loss than cross-entropy.
pub const LOSS_KIND: &str = "train_loss_kind";

/// The columns of metrics.csv in order.
#[rustfmt::skip]
pub const COLUMNS: &[Column] = &[
    column("epoch", |r| r.epoch.to_string()),
    column("step", |r| r.step.to_string()),
    column("train_loss", |r| fixed(r.train.loss)),
    Column { name: LOSS_KIND, there: |extras| extras.loss_kind, text: |r| r.loss_kind.clone() },
    column("train_accuracy", |r| fixed(r.train.accuracy)),
    validation("val_loss", |r| evaluated(r.validation, |s| s.loss)),
    validation("val_accuracy", |r| evaluated(r.validation, |s| s.accuracy)),
    column("test_loss", |r| evaluated(r.test, |s| s.loss)),
    column("test_accuracy", |r| evaluated(r.test, |s| s.accuracy)),
    noise("clean_accuracy", |r| share(r, |n| n.clean)),
    noise("learned", |r| share(r, |n| n.learned)),
    noise("memorised", |r| share(r, |n| n.memorised)),
    column("lr", |r| r.lr.to_string()),
    column("grad_norm", |r| r.grad_norm.to_string()),
    column("sharpness_gain", |r| r.sharpness_gain.map_or_else(String::new, |g| g.to_string())),
    column("seconds", |r| format!("{:.3}", r.seconds)),
    column("images_per_s", |r| format!("{:.1}", r.images_per_s)),
    Column {
        name: "waited",
        there: |extras| extras.waited,
        text: |r| r.waited.map_or_else(String::new, |w| format!("{w:.3}")),
    },
];

fn columns(extras: Extras) -> impl Iterator<Item = &'static Column> {
    COLUMNS.iter().filter(move |c| (c.there)(extras))
}

fn csv_line(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\n"
}

/// A file that only grows; its writes are buffered until `flush`.
pub(super) struct Appender {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Appender {
    pub(super) fn new(path: PathBuf, file: File) -> Appender {
        Appender { path, file: BufWriter::new(file) }
    }
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, &e))
    }
    pub(super) fn flush(&mut self) -> Result<()> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        synced.map_err(|e| Error::io("write", &self.path, &e))
    }
}

/// The record files of a run, open for appending.
pub struct Records {
    metrics: Appender,
    steps: Appender,
    events: Option<Events>,
    extras: Extras,
    line: String,
}

impl Records {
    /// Empty records in a new run's folder.
    ///
    /// # Errors
    /// CantCreate or Io, with the path.
    pub fn create(folder: &RunFolder, extras: Extras) -> Result<Records> {
        let header = csv_line(columns(extras).map(|c| c.name.to_string()));
        let metrics = start(folder.metrics(), &header)?;
        let steps = start(folder.steps(), "")?;
        Ok(Records { metrics, steps, events: None, extras, line: String::new() })
    }

    /// Returns the columns of the run beside those of all runs.
    pub fn extras(&self) -> Extras {
        self.extras
    }

    /// Has all later rows written to a new TensorBoard event file as well; the first of them is of step `next`.
    ///
    /// # Errors
    /// CantCreate or Io, with the path.
    pub fn also_for_tensorboard(&mut self, folder: &RunFolder, next: u64) -> Result<()> {
        self.events = Some(Events::create(&folder.tensorboard(), next)?);
        Ok(())
    }

    /// Appends a row to metrics.csv.
    pub fn epoch(&mut self, row: &EpochRow) -> Result<()> {
        let line = csv_line(columns(self.extras).map(|c| (c.text)(row)));
        self.metrics.write(line.as_bytes())?;
        let Some(events) = &mut self.events else { return Ok(()) };
        let scores = [("train", Some(row.train)), ("val", row.validation), ("test", row.test)];
        let scores = scores.iter().filter_map(|(group, scores)| Some((*group, scores.as_ref()?)));
        let values =
            scores.flat_map(|(group, s)| [(group, "loss", s.loss as f32), (group, "accuracy", s.accuracy as f32)]);
        let noise = row.noise.unwrap_or_default();
        let noise = [("clean", noise.clean), ("learned", noise.learned), ("memorised", noise.memorised)];
        let noise = noise.into_iter().filter_map(|(name, share)| Some(("noise", name, share? as f32)));
        let values = values.chain(noise);
        events.scalars(row.step, values.chain([("speed", "images_per_s", row.images_per_s as f32)]))
    }

    /// Appends an object to steps.jsonl. A number that is not finite is written as null, for JSON has no other word.
    pub fn step(&mut self, row: &StepRow<'_>) -> Result<()> {
        self.line.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.line, "{{\"step\":{},\"epoch\":{},\"hits\":{}", row.step, row.epoch, row.hits);
        let own = [("loss", row.loss), ("lr", row.lr), ("grad_norm", row.grad_norm)];
        for (name, value) in own.iter().chain(row.scalars) {
            // The debug form is the shortest that reads back to the same f32.
            let _ = match value.is_finite() {
                true => write!(self.line, ",\"{name}\":{value:?}"),
                false => write!(self.line, ",\"{name}\":null"),
            };
        }
        self.line.push_str("}\n");
        self.steps.write(self.line.as_bytes())?;
        let Some(events) = &mut self.events else { return Ok(()) };
        events.scalars(row.step, own.iter().chain(row.scalars).map(|(name, value)| ("step", *name, *value)))
    }

    /// Puts all rows on the disk. A checkpoint must not get there before the rows that lead to it.
    pub fn flush(&mut self) -> Result<()> {
        self.metrics.flush()?;
        self.steps.flush()?;
        self.events.as_mut().map_or(Ok(()), Events::flush)
    }
}

/// Most bytes of a line that are read at once: a damaged file may have no other line.
const LONGEST_LINE: u64 = 1 << 16;

/// The names in the first line of the file; None where it has none.
fn header(path: &Path) -> Option<Vec<String>> {
    let mut line = String::new();
    BufReader::new(File::open(path).ok()?).take(LONGEST_LINE).read_line(&mut line).ok()?;
    let names = line.strip_suffix('\n')?;
    Some(names.split(',').map(String::from).collect())
}

fn start(path: PathBuf, header: &str) -> Result<Appender> {
    let file = File::create(&path).map_err(|e| Error::io("create", &path, &e))?;
    let mut appender = Appender::new(path, file);
    appender.write(header.as_bytes())?;
    Ok(appender)
}

/// Most points of a curve through all steps.
const CURVE_POINTS: usize = 2000;

/// Returns step and learning rate of the rows of a steps.jsonl, of a long one about every n-th. A file that cannot be read
/// and lines without both numbers are left out: a figure is no reason to stop.
pub fn rates(path: &Path) -> Vec<(f64, f64)> {
    points(path, |line| Some((number(line, "\"step\":")?, number(line, "\"lr\":")?)))
}

/// The eigenvalues of a step that was tracked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tracked {
    pub step: f64,
    /// Its learning rate.
    pub rate: f64,
    /// The largest and the smallest eigenvalue at the weights before it.
    pub most: f64,
    pub least: f64,
}

/// Returns the eigenvalues in the rows of a steps.jsonl, with as much patience as [`rates`].
pub fn tracked(path: &Path) -> Vec<Tracked> {
    points(path, |line| {
        let [step, rate] = ["\"step\":", "\"lr\":"].map(|key| number(line, key));
        let [most, least] = ["\"lambda_max\":", "\"lambda_min\":"].map(|key| number(line, key));
        Some(Tracked { step: step?, rate: rate?, most: most?, least: least? })
    })
}

/// The number behind `key` in a line that `Records::step` wrote.
fn number(line: &str, key: &str) -> Option<f64> {
    let (_, rest) = line.split_once(key)?;
    rest[..rest.find([',', '}'])?].parse().ok()
}

/// What `point` reads of each line of a file; of many, about every n-th.
fn points<T>(path: &Path, point: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let Ok(file) = File::open(path) else { return vec![] };
    let (mut reader, mut line, mut points) = (BufReader::new(file), String::new(), Vec::new());
    while let Ok(1..) = reader.by_ref().take(LONGEST_LINE).read_line(&mut line) {
        points.extend(point(&line));
        line.clear();
    }
    let every = points.len().div_ceil(CURVE_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last).map(|(_, point)| point).collect()
}

/// The numbers of a metrics.csv.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    pub columns: Vec<String>,
    /// A cell for each column; `None` where it is empty or holds a word.
    pub rows: Vec<Vec<Option<f64>>>,
}

impl Metrics {
    /// Reads the file; a last line without its end, of a run that is going on, is left out.
    ///
    /// # Errors
    /// NoInput: no such file. Data: no header, a row of another length or a cell that is no number, with the line.
    pub fn read(path: &Path) -> Result<Metrics> {
        let text = read_text(path, MAX_RECORDS)?;
        let wrong = |line: usize, what: &str| Error::data(format!("{} line {line}: {what}", path.display()));
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).zip(1..);
        let (header, _) = lines.next().ok_or_else(|| wrong(1, "there is no header"))?;
        let columns: Vec<String> = header.split(',').map(String::from).collect();
        let mut rows = Vec::new();
        for (line, number) in lines {
            let words = |column: usize| columns.get(column).is_some_and(|name| name == LOSS_KIND);
            let cells = line.split(',').enumerate().map(|(column, cell)| match cell {
                "" => Ok(None),
                _ if words(column) => Ok(None),
                _ => cell.parse().map(Some).map_err(|_| wrong(number, &format!("'{cell}' is not a number"))),
            });
            let row: Vec<Option<f64>> = cells.collect::<Result<_>>()?;
            if row.len() != columns.len() {
                return Err(wrong(number, &format!("{} cells below {} columns", row.len(), columns.len())));
            }
            rows.push(row);
        }
        Ok(Metrics { columns, rows })
    }

    /// The cells below `name`; `None` if there is no such column.
    pub fn column(&self, name: &str) -> Option<Vec<Option<f64>>> {
        let index = self.columns.iter().position(|c| c == name)?;
        Some(self.rows.iter().map(|row| row[index]).collect())
    }
}

#[cfg(test)]
mod tests;
