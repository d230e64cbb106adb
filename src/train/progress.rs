//! Progress of a run on stderr; stdout stays free for data.
//!
//! On a terminal one line is redrawn in place, elsewhere a plain line is added now and then. Either way each epoch ends
//! with a row of a table. Nothing that goes wrong here stops a run: a terminal may be closed under it.

use super::records::{EpochRow, NoiseScores, Scores};
use crate::output;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time between two drawings of the line: ten a second look smooth and cost nothing.
const REDRAW: Duration = Duration::from_millis(100);
/// Time between two plain lines: an hour's log stays within a few hundred.
const PLAIN_LINE: Duration = Duration::from_secs(10);
/// Most and least characters of the bar.
const BAR: usize = 20;
const SHORTEST_BAR: usize = 4;
/// Columns behind the line: the ^C that a terminal echoes must not wrap, for only one line is erased.
const FREE: usize = 3;

/// Style of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Quiet,
    /// Lines without control characters, for files and pipes.
    Plain,
    /// One line redrawn in place; without `colour` no escape sequence is written, only carriage returns and spaces.
    Terminal { width: usize, colour: bool },
}

impl Style {
    /// The style that fits this process's stderr: width from COLUMNS or the terminal (else 80), colour unless NO_COLOR
    /// is set.
    pub fn detect(quiet: bool) -> Style {
        Style::of(quiet, output::draws(), |name| std::env::var(name).ok(), terminal_width)
    }

    fn of(
        quiet: bool,
        terminal: bool,
        variable: impl Fn(&str) -> Option<String>,
        measure: impl Fn() -> Option<usize>,
    ) -> Style {
        if quiet {
            return Style::Quiet;
        }
        let plain = |term: &str| term.is_empty() || term == "dumb";
        if !terminal || variable("TERM").is_none_or(|term| plain(term.trim())) {
            return Style::Plain;
        }
        let positive = |text: String| text.trim().parse().ok().filter(|w| *w > 0);
        let width = variable("COLUMNS").and_then(positive).or_else(measure).unwrap_or(80);
        let colour = variable("NO_COLOR").is_none_or(|v| v.is_empty());
        Style::Terminal { width, colour }
    }
}

/// Columns of the terminal that stderr is, as `stty size` has them: shells keep COLUMNS to themselves, and asking the system
/// directly would take unsafe code.
fn terminal_width() -> Option<usize> {
    let terminal = output::terminal()?;
    let told = Command::new("stty").arg("size").stdin(terminal).stderr(Stdio::null()).output().ok()?;
    let columns = String::from_utf8(told.stdout).ok()?.split_whitespace().nth(1)?.parse().ok()?;
    (columns > 0).then_some(columns)
}

/// Length of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Length {
    pub epochs: u64,
    pub steps_per_epoch: u64,
    /// Images a step.
    pub batch: u64,
    /// Steps that were done before this process began.
    pub done: u64,
    /// The step that this process ends behind.
    pub last: u64,
    /// Epochs from one evaluation to the next; the last one has its own.
    pub eval_every: u64,
    /// Steps that take about as long as the evaluation after an epoch; counts until an evaluation was timed.
    pub evaluation: f64,
}

impl Length {
    /// Returns the number of evaluations behind `step`, that of its own epoch among them: those that are due, and where
    /// the run ends without one, the one of its end.
    fn evaluations(&self, step: u64) -> u64 {
        let (every, per_epoch) = (self.eval_every.max(1), self.steps_per_epoch.max(1));
        let done = step.saturating_sub(1) / per_epoch;
        let at_end = u64::from(!self.last.is_multiple_of(per_epoch * every));
        (self.last / per_epoch / every).saturating_sub(done / every) + at_end
    }
}

/// The progress of one run.
pub struct Progress {
    out: Box<dyn FnMut(&str) + Send>,
    style: Style,
    length: Length,
    begin: Instant,
    /// When the evaluation under way began; how many were timed, and how long they took.
    evaluating: Option<Instant>,
    evaluated: (u32, Duration),
    /// Since when, and behind which step, the speed shown is measured: this epoch's training.
    mark: (Instant, u64),
    drawn: Option<Instant>,
    /// Characters of the line that is drawn.
    line: usize,
    header_stands: bool,
}

impl Progress {
    /// Progress on stderr, from now on.
    pub fn new(style: Style, length: Length) -> Progress {
        Progress::onto(Box::new(output::draw), style, length, Instant::now())
    }

    fn onto(out: Box<dyn FnMut(&str) + Send>, style: Style, length: Length, now: Instant) -> Progress {
        // Plain lines begin after their interval, a drawn line at once.
        let drawn = (style == Style::Plain).then_some(now);
        let mark = (now, length.done);
        let (evaluating, evaluated) = (None, (0, Duration::ZERO));
        Progress { out, style, length, begin: now, evaluating, evaluated, mark, drawn, line: 0, header_stands: false }
    }

    /// `step` steps are done since the run began; `loss` and `accuracy` (0 to 1) are the epoch's means so far.
    pub fn step(&mut self, step: u64, loss: f64, accuracy: f64) {
        self.step_at(Instant::now(), step, loss, accuracy);
    }

    fn step_at(&mut self, now: Instant, step: u64, loss: f64, accuracy: f64) {
        let interval = match self.style {
            Style::Quiet => return,
            Style::Plain => PLAIN_LINE,
            Style::Terminal { .. } => REDRAW,
        };
        if self.drawn.is_some_and(|before| now.duration_since(before) < interval) {
            return;
        }
        self.drawn = Some(now);
        let Length { steps_per_epoch, batch, .. } = self.length;
        let in_epoch = step.saturating_sub(1) % steps_per_epoch.max(1) + 1;
        let share = in_epoch as f64 / steps_per_epoch.max(1) as f64;
        let speed = rate((step.saturating_sub(self.mark.1) * batch) as f64, now.duration_since(self.mark.0));
        let (percent, accuracy) = (format!("{:3.0} %", 100.0 * share), format!("acc {:.1} %", 100.0 * accuracy));
        let (loss, speed) = (format!("loss {loss:.4}"), format!("{speed:.0} images/s"));
        let left = format!("ETA {}", clock_face(self.seconds_left(now, step)));
        let epoch = self.epoch_of(step);
        let Style::Terminal { width, .. } = self.style else {
            return self.write(&format!("{epoch} {percent}  {loss}  {accuracy}  {speed}  {left}\n"));
        };
        let mut figures = vec![percent, loss, accuracy, speed, left];
        let length = |figures: &[String]| epoch.chars().count() + 1 + figures.join("  ").chars().count();
        let room = width.saturating_sub(FREE);
        if length(&figures) > room {
            figures.remove(3);
        }
        let bar = match room.saturating_sub(length(&figures) + 3).min(BAR) {
            long if long >= SHORTEST_BAR => {
                let done = "=".repeat((share * long as f64) as usize) + ">";
                format!("[{done:<long$.long$}] ")
            }
            _ => String::new(),
        };
        self.draw(&epoch, &format!(" {bar}{}", figures.join("  ")));
    }

    /// The seconds that are left behind `step`: of steps, and of evaluations.
    fn seconds_left(&self, now: Instant, step: u64) -> f64 {
        let Length { done, last, evaluation, .. } = self.length;
        let (count, evaluating) = self.evaluated;
        // Checkpoints count as a part of steps.
        let training = now.duration_since(self.begin).saturating_sub(evaluating).as_secs_f64();
        let a_step = training / step.saturating_sub(done) as f64;
        let an_evaluation = if count > 0 { evaluating.as_secs_f64() / f64::from(count) } else { evaluation * a_step };
        let evaluations = self.length.evaluations(step);
        last.saturating_sub(step) as f64 * a_step + evaluations as f64 * an_evaluation
    }

    /// The steps up to `step` are done, and an evaluation begins.
    pub fn evaluating(&mut self, step: u64) {
        self.evaluating_at(Instant::now(), step);
    }

    fn evaluating_at(&mut self, now: Instant, step: u64) {
        // The first of several evaluations, on held-out images and on test images.
        self.evaluating.get_or_insert(now);
        let epoch = self.epoch_of(step);
        self.draw(&epoch, "  evaluating");
    }

    /// "epoch 3/8", the one of step `step`.
    fn epoch_of(&self, step: u64) -> String {
        let Length { epochs, steps_per_epoch, .. } = self.length;
        format!("epoch {}/{epochs}", step.saturating_sub(1) / steps_per_epoch.max(1) + 1)
    }

    /// Redraws the line, on terminals only.
    fn draw(&mut self, epoch: &str, rest: &str) {
        let Style::Terminal { width, colour } = self.style else { return };
        let line: String = format!("{epoch}{rest}").chars().take(width.saturating_sub(FREE)).collect();
        let line = match line.strip_prefix(epoch) {
            Some(rest) if colour => format!("\x1b[1m{epoch}\x1b[0m{rest}"),
            _ => line,
        };
        let length = line.chars().count();
        self.erase();
        // Without automatic wrapping, for the window may have become narrower since.
        self.write(&if colour { format!("\x1b[?7l{line}\x1b[?7h") } else { line });
        self.line = length;
    }

    /// The epoch of `row` is over, its evaluation included; `best` if it is the best one so far.
    pub fn epoch(&mut self, row: &EpochRow, best: bool) {
        self.fit();
        self.epoch_at(Instant::now(), row, best);
    }

    /// Takes the terminal's width as it is now; a table of another width has a header of its own.
    fn fit(&mut self) {
        let Style::Terminal { width: before, .. } = self.style else { return };
        let now = Style::detect(false);
        if let Style::Terminal { width, .. } = now
            && width != before
        {
            (self.style, self.header_stands) = (now, false);
        }
    }

    fn epoch_at(&mut self, now: Instant, row: &EpochRow, best: bool) {
        if let Some(begun) = self.evaluating.take() {
            self.evaluated.0 += 1;
            self.evaluated.1 += now.duration_since(begun);
        }
        self.mark = (now, row.step);
        let (width, colour) = match self.style {
            Style::Terminal { width, colour } => (width, colour),
            _ => (usize::MAX, false),
        };
        let (cells, gap) = cells_within(width, row);
        if !self.header_stands {
            let titles: Vec<String> = cells.iter().map(|c| format!("{:>1$}", c.title(row), c.width(row))).collect();
            self.line(&titles.join(gap));
            self.header_stands = true;
        }
        let chosen_on = if row.validation.is_some() { "val acc" } else { "test acc" };
        let texts = cells.iter().map(|c| match format!("{:>1$}", (c.text)(row), c.width(row)) {
            text if colour && best && c.title == chosen_on => format!("\x1b[32m{text}\x1b[0m"),
            text => text,
        });
        self.line(&texts.collect::<Vec<_>>().join(gap));
    }

    /// A line of its own, above the one that is redrawn.
    pub fn note(&mut self, line: &str) {
        self.line(&output::printable(line));
    }

    fn line(&mut self, line: &str) {
        if self.style != Style::Quiet {
            self.erase();
            self.write(&format!("{line}\n"));
        }
    }

    fn erase(&mut self) {
        match (std::mem::take(&mut self.line), self.style) {
            (0, _) => {}
            (_, Style::Terminal { colour: true, .. }) => self.write("\r\x1b[2K"),
            (length, _) => self.write(&format!("\r{}\r", " ".repeat(length))),
        }
    }

    fn write(&mut self, text: &str) {
        (self.out)(text);
    }
}

/// Leaves a clean line for whatever is printed next, an error perhaps.
impl Drop for Progress {
    fn drop(&mut self) {
        self.erase();
    }
}

/// A cell of an epoch's row; one without text is left out.
struct Cell {
    title: &'static str,
    width: usize,
    /// Where the terminal is too narrow, the cell with the least weight leaves first.
    weight: usize,
    text: fn(&EpochRow) -> String,
}

impl Cell {
    /// Returns the title, which names the training loss where it is not cross-entropy.
    fn title(&self, row: &EpochRow) -> String {
        match self.title {
            TRAIN_LOSS if !row.loss_kind.is_empty() => format!("{} loss", row.loss_kind),
            title => title.to_owned(),
        }
    }

    fn width(&self, row: &EpochRow) -> usize {
        self.width.max(self.title(row).len())
    }
}

const TRAIN_LOSS: &str = "train loss";

const fn cell(title: &'static str, width: usize, weight: usize, text: fn(&EpochRow) -> String) -> Cell {
    Cell { title, width, weight, text }
}

#[rustfmt::skip]
const CELLS: &[Cell] = &[
    cell("epoch", 5, 15, |r| r.epoch.to_string()),
    cell(TRAIN_LOSS, 10, 6, |r| format!("{:.4}", r.train.loss)),
    cell("train acc", 9, 10, |r| percent(r.train.accuracy)),
    cell("val loss", 8, 7, |r| validation(r, |v| format!("{:.4}", v.loss))),
    cell("val acc", 8, 13, |r| validation(r, |v| percent(v.accuracy))),
    cell("test loss", 9, 8, |r| r.test.map_or_else(not_evaluated, |t| format!("{:.4}", t.loss))),
    cell("test acc", 8, 14, |r| r.test.map_or_else(not_evaluated, |t| percent(t.accuracy))),
    cell("clean", 8, 9, |r| share(r, |n| n.clean)),
    cell("learned", 8, 12, |r| share(r, |n| n.learned)),
    cell("memorised", 9, 11, |r| share(r, |n| n.memorised)),
    cell("lr", 7, 3, |r| short(r.lr)),
    cell("|g|", 7, 4, |r| short(r.grad_norm)),
    cell("gain", 7, 5, |r| r.sharpness_gain.map_or_else(String::new, short)),
    cell("time", 7, 2, |r| clock_face(r.seconds)),
    // Shows where training waits for AutoAugment.
    cell("waited", 7, 0, |r| r.waited.map_or_else(String::new, |w| format!("{w:.2} s"))),
    cell("images/s", 8, 1, |r| format!("{:.0}", r.images_per_s)),
];

/// The cells of `row` that have something to tell and fit into `width` columns, and what stands between them: two spaces,
/// or one where that keeps a cell.
fn cells_within(width: usize, row: &EpochRow) -> (Vec<&'static Cell>, &'static str) {
    let mut cells: Vec<&Cell> = CELLS.iter().filter(|c| !(c.text)(row).is_empty()).collect();
    let fits = |cells: &[&Cell], gap: &str| {
        let widths: usize = cells.iter().map(|c| c.width(row) + gap.len()).sum();
        widths - gap.len() <= width
    };
    loop {
        for gap in ["  ", " "] {
            if cells.len() <= 1 || fits(&cells, gap) {
                return (cells, gap);
            }
        }
        let least = cells.iter().map(|c| c.weight).min();
        cells.retain(|c| Some(c.weight) != least);
    }
}

/// A score on the images held out; empty in runs without them.
fn validation(row: &EpochRow, text: fn(Scores) -> String) -> String {
    match row.validation {
        Some(scores) => text(scores),
        None if row.extras.validation && row.test.is_none() => not_evaluated(),
        None => String::new(),
    }
}

/// A share of the training images whose labels are known to be right, or wrong; empty in runs that know of none.
fn share(row: &EpochRow, of: fn(&NoiseScores) -> Option<f64>) -> String {
    match &row.noise {
        Some(noise) => of(noise).map_or_else(String::new, percent),
        None if row.extras.noise && row.test.is_none() => not_evaluated(),
        None => String::new(),
    }
}

/// Stands in the place of a score of an epoch without an evaluation.
fn not_evaluated() -> String {
    "–".into()
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// At most seven characters, for any size of a positive number.
fn short(value: f32) -> String {
    if value == 0.0 || (1e-3..1e2).contains(&value) { format!("{value:.4}") } else { format!("{value:.1e}") }
}

fn rate(count: f64, time: Duration) -> f64 {
    count / time.as_secs_f64().max(1e-9)
}

/// Returns a time as `m:ss` or `h:mm:ss`; `-` if it is not known.
pub(crate) fn clock_face(seconds: f64) -> String {
    // Four weeks are more than any run here takes, and more than an early guess is worth.
    if !seconds.is_finite() || seconds > 28.0 * 86_400.0 {
        return "-".into();
    }
    let s = seconds.round() as u64;
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        hours => format!("{hours}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

#[cfg(test)]
mod tests;
