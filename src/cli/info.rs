//! `samcore info`.

use super::flags::{count, flag, switch, text};
use crate::error::{Error, Result};
use crate::recipe::{Kind, Value};
use clap::{ArgMatches, Command};

/// What the command line asks to know of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// None: all models.
    pub model: Option<String>,
    pub classes: usize,
    pub channels: usize,
    /// Side of the square input in pixels.
    pub size: usize,
    pub batch: usize,
    pub json: bool,
}

/// Name, largest value, default and help of the flags that are whole numbers from 1.
const COUNTS: [(&str, u64, u64, &str); 4] = [
    ("classes", 1_000_000, 10, "number of classes"),
    ("channels", 4, 1, "channels of an image"),
    ("size", 4096, 28, "side of an image in pixels"),
    ("batch", u32::MAX as u64, 128, "images a step, for memory and cost"),
];

pub fn build(command: Command) -> Command {
    command
        .arg(flag("model", Kind::Text, "model by name [all, in short]", None))
        .args(
            COUNTS
                .map(|(name, max, default, help)| flag(name, Kind::Count(1, max), help, Some(&Value::Count(default)))),
        )
        .arg(switch("json", "write the result as one JSON object"))
}

/// # Errors
/// Usage: a wrong value.
pub fn args(matches: &ArgMatches) -> Result<Args> {
    let mut counts = [0; 4];
    for (to, (name, max, default, _)) in counts.iter_mut().zip(COUNTS) {
        *to = count(matches, name, 1, max)?.unwrap_or(default) as usize;
    }
    let [classes, channels, size, batch] = counts;
    Ok(Args { model: text(matches, "model"), classes, channels, size, batch, json: matches.get_flag("json") })
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    args(matches)?;
    Err(Error::internal("info is not built yet"))
}
