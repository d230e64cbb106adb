//! Destination and end of a run, and its last message when it ended early.

use super::divergence::Divergence;
use super::labels::Counts;
use super::records::{NoiseScores, Scores};
use super::run_folder::RunFolder;
use crate::error::{Error, Kind};
use std::path::{Path, PathBuf};

/// Options of a run beside its recipe: its folder, and when it ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Where {
    /// Folder of the run; None: a new one below `runs`.
    pub out: Option<PathBuf>,
    /// Last part of the new folder's name.
    pub name: Option<String>,
    /// Folder of the run to resume.
    pub resume: Option<PathBuf>,
    /// End after this many steps of the run.
    pub steps: Option<u64>,
    pub quiet: bool,
}

/// Result of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub folder: PathBuf,
    /// Steps done since the run began.
    pub steps: u64,
    /// Steps of the whole recipe.
    pub total: u64,
    /// The part of `steps` that earlier processes did.
    pub before: u64,
    /// Epochs that are complete.
    pub epochs: u64,
    pub test: Scores,
    /// Scores on wrong labels, if some are known.
    pub noise: Option<NoiseScores>,
    pub labels: Counts,
    /// 0 while no epoch is complete, as is the epoch.
    pub best_accuracy: f64,
    pub best_epoch: u64,
    /// "validation" or "test": what `best` was chosen on.
    pub best_on: &'static str,
    /// Steps whose perturbation was left out because |g| was 0, or too small to divide by.
    pub dropped: u64,
    /// Seconds of this process.
    pub seconds: f64,
    /// The command line that trains it for longer than its recipe says.
    pub way_on: String,
}

impl Summary {
    /// Returns true if all steps of the recipe are done.
    pub fn complete(&self) -> bool {
        self.steps == self.total
    }
}

/// The command line that goes on with the run in `folder`, ready to be pasted into a shell.
pub fn resume_line(folder: &Path) -> String {
    format!("samcore train --resume {}", shell_word(&folder.display().to_string()))
}

/// `text` as one word of a shell's line, in quotes where it needs them.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    if text.chars().any(char::is_control) {
        // Bash, zsh and ksh read such words; no terminal is given the characters themselves.
        let escaped = |c: char| match c {
            '\'' | '\\' => format!("\\{c}"),
            c if c.is_control() => c.to_string().bytes().map(|byte| format!("\\x{byte:02x}")).collect(),
            c => c.to_string(),
        };
        return format!("$'{}'", text.chars().map(escaped).collect::<String>());
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `signal` has ended the run in `folder` after `step` of `total` steps; the newest checkpoint is of step `kept`.
pub(super) fn interrupted(signal: &str, step: u64, kept: u64, total: u64, folder: &Path) -> Error {
    let line = resume_line(folder);
    let saved = match kept {
        _ if kept == step => "saved".to_owned(),
        _ => format!("whose loss is not finite, so that the checkpoint of step {kept} stays"),
    };
    let message = format!("stopped by {signal} after step {step} of {total}, {saved}; resume with: {line}");
    Error::new(Kind::Interrupted, message)
}

/// `what` was not finite at `divergence` in a run of rate `lr`; the newest checkpoint is of step `kept`.
pub(super) fn not_finite(what: &str, divergence: &Divergence, kept: u64, folder: &RunFolder, lr: f64) -> Error {
    let Divergence { step, total, culprit } = divergence;
    let config = shell_word(&folder.config().display().to_string());
    let message = format!(
        "{what} not finite in step {step} of {total}, {culprit}; {} keeps the weights of step {kept}. Resuming ends the \
         same way; begin another run with a smaller --lr, longer --warmup or --clip, such as: samcore train --config \
         {config} --lr {}",
        folder.last().display(),
        (lr / 10.0) as f32,
    );
    Error::new(Kind::NotFinite, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_resumes_survives_a_shell() {
        for (folder, word) in [
            ("runs/2026-07-12-sam", "runs/2026-07-12-sam"),
            ("my runs/$x", "'my runs/$x'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("a\u{1b}[2J\n'b", r"$'a\x1b[2J\x0a\'b'"),
        ] {
            assert_eq!(resume_line(Path::new(folder)), format!("samcore train --resume {word}"));
        }
    }
}
