//! What a run shows on stderr while it goes on; stdout stays free for data.
//!
//! On a terminal one line is redrawn in place, elsewhere a plain line is added now and then. Either way each epoch ends
//! with a row of a table. Nothing that goes wrong here stops a run: a terminal may be closed under it.

use super::records::EpochRow;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two drawings of the line: ten a second look smooth and cost nothing.
const REDRAW: Duration = Duration::from_millis(100);
/// Time between two plain lines: an hour's log stays within a few hundred.
const PLAIN_LINE: Duration = Duration::from_secs(10);
const BAR: usize = 20;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Quiet,
    /// Lines without control characters, for files and pipes.
    Plain,
    /// One line redrawn in place.
    Terminal { width: usize, colour: bool },
}

impl Style {
    /// The style that fits this process's stderr: width from COLUMNS (else 80), colour unless NO_COLOR is set.
    pub fn detect(quiet: bool) -> Style {
        Style::of(quiet, std::io::stderr().is_terminal(), |name| std::env::var(name).ok())
    }

    fn of(quiet: bool, terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Style {
        if quiet {
            return Style::Quiet;
        }
        if !terminal || variable("TERM").as_deref() == Some("dumb") {
            return Style::Plain;
        }
        let width = variable("COLUMNS").and_then(|c| c.trim().parse().ok()).filter(|w| *w > 0).unwrap_or(80);
        let colour = variable("NO_COLOR").is_none_or(|v| v.is_empty());
        Style::Terminal { width, colour }
    }
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    pub epochs: u64,
    pub steps_per_epoch: u64,
    /// Images a step.
    pub batch: u64,
    /// Steps that were done before this process began.
    pub done: u64,
}

/// The progress of one run.
pub struct Progress {
    out: Box<dyn Write + Send>,
    style: Style,
    length: Length,
    begin: Instant,
    /// Since when, and behind which step, the speed shown is measured: this epoch's training.
    mark: (Instant, u64),
    drawn: Option<Instant>,
    line_stands: bool,
    header_stands: bool,
    best: f64,
}

impl Progress {
    /// Progress on stderr, from now on.
    pub fn new(style: Style, length: Length) -> Progress {
        Progress::onto(Box::new(std::io::stderr()), style, length, Instant::now())
    }

    fn onto(out: Box<dyn Write + Send>, style: Style, length: Length, now: Instant) -> Progress {
        // Plain lines begin after their interval, a drawn line at once.
        let drawn = (style == Style::Plain).then_some(now);
        let mark = (now, length.done);
        let (line_stands, header_stands) = (false, false);
        Progress { out, style, length, begin: now, mark, drawn, line_stands, header_stands, best: f64::NEG_INFINITY }
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
        let Length { epochs, steps_per_epoch, batch, done } = self.length;
        let in_epoch = step.saturating_sub(1) % steps_per_epoch.max(1) + 1;
        let epoch = format!("epoch {}/{epochs}", step.saturating_sub(1) / steps_per_epoch.max(1) + 1);
        let share = in_epoch as f64 / steps_per_epoch.max(1) as f64;
        let speed = rate((step.saturating_sub(self.mark.1) * batch) as f64, now.duration_since(self.mark.0));
        // Unlike the speed, the time left counts evaluations and checkpoints too.
        let pace = rate(step.saturating_sub(done) as f64, now.duration_since(self.begin));
        let left = (epochs * steps_per_epoch).saturating_sub(step) as f64 / pace;
        let figures = format!(
            "{:3.0} %  loss {loss:.4}  acc {:.1} %  {speed:.0} images/s  ETA {}",
            100.0 * share,
            100.0 * accuracy,
            clock_face(left)
        );
        match self.style {
            Style::Terminal { width, colour } => {
                let bar = "=".repeat((share * BAR as f64) as usize) + ">";
                // One column stays free: at the full width some terminals wrap.
                let line = format!("{epoch} [{bar:<BAR$.BAR$}] {figures}");
                let line: String = line.chars().take(width - 1).collect();
                let line = match line.strip_prefix(epoch.as_str()) {
                    Some(rest) if colour => format!("\x1b[1m{epoch}\x1b[0m{rest}"),
                    _ => line,
                };
                self.erase();
                self.write(&line);
                self.line_stands = true;
            }
            _ => self.write(&format!("{epoch} {figures}\n")),
        }
    }

    /// The epoch of `row` is over, its evaluation included.
    pub fn epoch(&mut self, row: &EpochRow) {
        self.epoch_at(Instant::now(), row);
    }

    fn epoch_at(&mut self, now: Instant, row: &EpochRow) {
        self.mark = (now, row.step);
        let shown = || CELLS.iter().filter(|c| row.validation.is_some() || !c.0.starts_with("val"));
        if !self.header_stands {
            let titles: Vec<String> = shown().map(|(title, width, _)| format!("{title:>width$}")).collect();
            self.note(&titles.join("  "));
            self.header_stands = true;
        }
        let better = row.test.accuracy > self.best;
        self.best = self.best.max(row.test.accuracy);
        let colour = matches!(self.style, Style::Terminal { colour: true, .. });
        let cells: Vec<String> = shown()
            .map(|(title, width, text)| match format!("{:>width$}", text(row)) {
                best if colour && better && *title == "test acc" => format!("\x1b[32m{best}\x1b[0m"),
                cell => cell,
            })
            .collect();
        self.note(&cells.join("  "));
    }

    /// A line of its own, above the one that is redrawn.
    pub fn note(&mut self, line: &str) {
        if self.style != Style::Quiet {
            self.erase();
            self.write(&format!("{line}\n"));
        }
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.line_stands) {
            self.write("\r\x1b[2K");
        }
    }

    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

/// Leaves a clean line for whatever is printed next, an error perhaps.
impl Drop for Progress {
    fn drop(&mut self) {
        self.erase();
    }
}

/// A cell of an epoch's row: title, width, text. Titles that begin with "val" are for runs with a validation split.
type Cell = (&'static str, usize, fn(&EpochRow) -> String);

#[rustfmt::skip]
const CELLS: &[Cell] = &[
    ("epoch", 5, |r| r.epoch.to_string()),
    ("train loss", 10, |r| format!("{:.4}", r.train.loss)),
    ("train acc", 9, |r| percent(r.train.accuracy)),
    ("val loss", 8, |r| r.validation.map_or_else(String::new, |v| format!("{:.4}", v.loss))),
    ("val acc", 7, |r| r.validation.map_or_else(String::new, |v| percent(v.accuracy))),
    ("test loss", 9, |r| format!("{:.4}", r.test.loss)),
    ("test acc", 8, |r| percent(r.test.accuracy)),
    ("lr", 7, |r| short(r.lr)),
    ("gain", 7, |r| r.sharpness_gain.map_or_else(|| "-".into(), short)),
    ("time", 7, |r| clock_face(r.seconds)),
    ("images/s", 8, |r| format!("{:.0}", r.images_per_s)),
];

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

/// `m:ss` or `h:mm:ss`; `-` where it cannot be told.
fn clock_face(seconds: f64) -> String {
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
mod tests {
    use super::*;
    use crate::train::records::Scores;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What a run of 2 epochs of 50 steps shows, a step every 200 ms and a second for each evaluation.
    fn shown(style: Style, validation: bool) -> String {
        let (screen, begin) = (Screen::default(), Instant::now());
        let length = Length { epochs: 2, steps_per_epoch: 50, batch: 10, done: 0 };
        let mut progress = Progress::onto(Box::new(screen.clone()), style, length, begin);
        let mut now = begin;
        for step in 1..=100 {
            now += Duration::from_millis(200);
            progress.step_at(now, step, 0.5, 0.889);
            progress.step_at(now + Duration::from_millis(99), step, 0.4, 0.9);
            if step % 50 == 0 {
                now += Duration::from_secs(1);
                let test = Scores { loss: 0.25, accuracy: 0.91 };
                let row =
                    EpochRow { epoch: (step / 50) as u32, step, test, seconds: 11.0, lr: 0.1, ..EpochRow::default() };
                progress.epoch_at(now, &EpochRow { validation: validation.then_some(test), ..row });
            }
        }
        drop(progress);
        String::from_utf8(screen.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_terminal_has_one_line_redrawn_and_a_table_of_epochs() {
        let text = shown(Style::Terminal { width: 200, colour: false }, false);
        let drawn: Vec<&str> = text.split("\r\x1b[2K").collect();
        assert_eq!(drawn[0], "epoch 1/2 [>                   ]   2 %  loss 0.5000  acc 88.9 %  50 images/s  ETA 0:20");
        assert_eq!(drawn[24], "epoch 1/2 [==========>         ]  50 %  loss 0.5000  acc 88.9 %  50 images/s  ETA 0:15");
        let rows = "epoch  train loss  train acc  test loss  test acc       lr     gain     time  images/s\n    \
                    1      0.0000     0.00 %     0.2500   91.00 %   0.1000        -     0:11         0\n";
        assert_eq!(drawn[50].split("epoch 2/2").next(), Some(rows));
        assert!(
            drawn[50].contains("epoch 2/2 [>    ") && drawn[50].contains(" 50 images/s  ETA 0:11"),
            "{}",
            drawn[50]
        );
        assert_eq!(drawn.len(), 101, "once a step, then the last row");
        assert!(!text.contains("\x1b[1m"));
    }

    #[test]
    fn lines_keep_to_the_width_and_colours_do_not_count() {
        for width in [1, 5, 12, 40, 80] {
            let text =
                shown(Style::Terminal { width, colour: true }, true).replace("\x1b[1m", "").replace("\x1b[0m", "");
            let lines = text.split("\r\x1b[2K").map(|part| part.rsplit('\n').next().unwrap());
            assert!(lines.clone().all(|line| line.chars().count() < width), "{width}");
            assert_eq!(lines.map(|line| line.chars().count()).max(), Some(width - 1));
        }
    }

    #[test]
    fn without_a_terminal_lines_are_plain_and_few() {
        let text = shown(Style::Plain, true);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "epoch 1/2 100 %  loss 0.5000  acc 88.9 %  50 images/s  ETA 0:10");
        assert!(lines[1].contains("val loss  val acc  test loss"), "{text}");
        assert_eq!((lines.len(), lines[1].len()), (5, lines[2].len()), "{text}");
        assert_eq!(shown(Style::Quiet, true), "");
    }

    #[test]
    fn the_style_follows_terminal_and_environment() {
        for (quiet, terminal, variables, style) in [
            (true, true, vec![], Style::Quiet),
            (false, false, vec![("COLUMNS", "120")], Style::Plain),
            (false, true, vec![("TERM", "dumb")], Style::Plain),
            (false, true, vec![("COLUMNS", "120")], Style::Terminal { width: 120, colour: true }),
            (false, true, vec![("COLUMNS", "x"), ("NO_COLOR", "1")], Style::Terminal { width: 80, colour: false }),
            (false, true, vec![("COLUMNS", "0"), ("NO_COLOR", "")], Style::Terminal { width: 80, colour: true }),
        ] {
            let variable = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_string());
            assert_eq!(Style::of(quiet, terminal, variable), style);
        }
    }

    #[test]
    fn times_and_numbers_stay_within_their_cells() {
        for (seconds, face) in [(0.4, "0:00"), (312.0, "5:12"), (3599.7, "1:00:00"), (86_400.0, "24:00:00")] {
            assert_eq!(clock_face(seconds), face);
        }
        assert_eq!([f64::NAN, f64::INFINITY].map(clock_face), ["-", "-"]);
        for value in [0.0, 1e-30, 1.2e-4, 1e-3, 0.1, 99.99, 1e4, f32::MAX, f32::NAN] {
            assert!(short(value).len() <= 7, "{}", short(value));
        }
    }
}
