//! The line that shows on stderr how far a download or a study has come.

use crate::output::{draw, note};
use crate::train::progress::Style;
use std::time::{Duration, Instant};

/// One line: redrawn in place on a terminal, elsewhere written anew now and then.
pub struct Meter {
    style: Style,
    begun: Instant,
    shown: Option<Instant>,
    /// Characters of the line that is on the terminal.
    drawn: usize,
}

impl Meter {
    pub fn new(style: Style) -> Meter {
        Meter { style, begun: Instant::now(), shown: None, drawn: 0 }
    }

    /// Returns the seconds since it began.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Returns true if the line that is shown, or the beginning where there is none yet, is old enough for another.
    pub fn is_due(&self) -> bool {
        let every = match self.style {
            Style::Quiet => return false,
            Style::Plain => Duration::from_secs(10),
            Style::Terminal { .. } => Duration::from_millis(200),
        };
        self.shown.unwrap_or(self.begun).elapsed() >= every
    }

    /// Shows `line` in place of the one before.
    pub fn show(&mut self, line: &str) {
        match self.style {
            Style::Quiet => return,
            Style::Plain => note(line),
            Style::Terminal { width, .. } => {
                self.erase();
                let line: String = line.chars().take(width.saturating_sub(1)).collect();
                draw(&line);
                self.drawn = line.chars().count();
            }
        }
        self.shown = Some(Instant::now());
    }

    /// Wipes the line from a terminal.
    pub fn erase(&mut self) {
        match self.style {
            _ if self.drawn == 0 => {}
            Style::Terminal { colour: true, .. } => draw("\r\x1b[K"),
            // No escape sequence: spaces over the line.
            _ => draw(&format!("\r{:1$}\r", "", self.drawn)),
        }
        self.drawn = 0;
    }

    /// Leaves the line on a terminal, and begins another one.
    pub fn keep(&mut self) {
        if self.drawn > 0 {
            note("");
        }
        self.drawn = 0;
    }
}
