//! `samcore study`.

mod corrupt;
mod hessian;
mod interpolate;
mod landscape;
mod options;
mod second;
mod sharpness;

use super::eval::Loaded;
use super::flags::{flag, flag_like, path_flag, switch, value};
use super::{Subcommand, run_action, subcommands};
use crate::error::{Error, Result};
use crate::output::printable;
use crate::recipe::{Kind, Value};
use crate::study::STUDIES;
use crate::train::measured::Images;
use clap::{ArgMatches, Command};

/// The actions of `samcore study`, in the order of its help text.
pub const ACTIONS: &[Subcommand] = &[
    Subcommand { name: STUDIES[0].name, about: STUDIES[0].about, build: corrupt::build, run: corrupt::run },
    Subcommand { name: STUDIES[1].name, about: STUDIES[1].about, build: sharpness::build, run: sharpness::run },
    Subcommand { name: STUDIES[2].name, about: STUDIES[2].about, build: hessian::build, run: hessian::run },
    Subcommand { name: STUDIES[3].name, about: STUDIES[3].about, build: landscape::build, run: landscape::run },
    Subcommand { name: STUDIES[4].name, about: STUDIES[4].about, build: interpolate::build, run: interpolate::run },
];

/// Most images, seeds and the like that a flag takes.
const MOST: u64 = 1 << 32;

pub fn build(command: Command) -> Command {
    command.subcommands(subcommands(ACTIONS))
}

/// # Errors
/// Usage: no action is named; those of the action.
pub fn run(matches: &ArgMatches) -> Result<()> {
    run_action("study", ACTIONS, matches)
}

fn listed(default: &str) -> Value {
    Value::Names(default.split(',').map(str::to_owned).collect())
}

/// A flag that takes several values with commas between them.
fn list(name: &'static str, placeholder: &'static str, help: &str, default: &str) -> clap::Arg {
    flag(name, Kind::Names, help, Some(&listed(default))).value_name(placeholder).allow_negative_numbers(true)
}

fn number(default: u64) -> Option<Value> {
    Some(Value::Count(default))
}

/// The flags behind every action.
fn outputs(command: Command) -> Command {
    command.args([
        flag_like("seed", "seed"),
        path_flag("csv", "FILE", "write every measured point as CSV too"),
        path_flag("out", "DIR", "write CSV, JSON and figures to files in DIR"),
        switch("json", "write the result as one JSON object"),
        switch("quiet", "show no progress"),
    ])
}

/// The words of a list flag, or of its default.
///
/// # Errors
/// Usage: an empty word.
fn words(matches: &ArgMatches, name: &str, default: &str) -> Result<Vec<String>> {
    match value(matches, name, Kind::Names)?.unwrap_or_else(|| listed(default)) {
        Value::Names(words) if !words.is_empty() => Ok(words),
        _ => Err(Error::usage(format!("--{name} must have at least one value"))),
    }
}

/// A grid of radii: ascending, none below 0.
///
/// # Errors
/// Usage: it is none.
fn grid(matches: &ArgMatches, name: &str, default: &str) -> Result<Vec<f64>> {
    let words = words(matches, name, default)?;
    let read = |word: &String| word.parse::<f64>().ok().filter(|x| *x >= 0.0 && (*x as f32).is_finite());
    let grid = words.iter().map(read).collect::<Option<Vec<f64>>>();
    grid.filter(|grid| grid.windows(2).all(|pair| pair[0] < pair[1])).ok_or_else(|| {
        Error::usage(format!("--{name} must be ascending numbers of at least 0, not '{}'", words.join(",")))
    })
}

fn choice(matches: &ArgMatches, name: &str, kind: Kind) -> Result<Option<String>> {
    Ok(match value(matches, name, kind)? {
        Some(Value::Text(word)) => Some(word),
        _ => None,
    })
}

/// Returns the one of `all` that the flag names; the first where it is not given.
fn one_of<T: Copy + Default>(matches: &ArgMatches, name: &str, kind: Kind, names: &[&str], all: &[T]) -> Result<T> {
    let word = choice(matches, name, kind)?;
    let found = word.and_then(|word| names.iter().position(|n| *n == word));
    Ok(found.map_or_else(T::default, |i| all[i]))
}

/// The lines above the tables: which weights, and which training images with which labels.
fn about(loaded: &Loaded, images: &Images, measured: &[u32]) -> String {
    let weights = loaded.taken.sentence().map_or_else(String::new, |line| line + "\n");
    format!("{weights}{}\n", printable(&images.sentence(&loaded.data, measured, "training images")))
}
