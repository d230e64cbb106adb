//! Flags from the table of settings, and values back from flags.

use crate::error::{Error, Result};
use crate::recipe::{Kind, RESUMABLE, Recipe, SETTINGS, Setting, Value, setting};
use clap::{Arg, ArgAction, ArgMatches};
use std::path::PathBuf;

/// A flag for each setting. None has a default of clap's: a flag that is not given leaves the config file's value.
pub fn setting_flags() -> impl Iterator<Item = Arg> {
    let defaults = Recipe::default();
    SETTINGS.iter().map(move |s| flag(s.name, s.kind, s.help, Some(&s.get(&defaults))).help_heading(s.section))
}

/// The flag of setting `name` in a command that is not about a whole recipe, perhaps under another name.
///
/// # Panics
/// If there is no such setting: a mistake in this program that its tests find.
pub fn flag_like(name: &'static str, like: &str) -> Arg {
    match setting(like) {
        Ok(s) => flag(name, s.kind, s.help, Some(&s.get(&Recipe::default()))),
        Err(e) => panic!("{e}"),
    }
}

/// A flag that takes a value of `kind`; help gives the names allowed and the default.
pub fn flag(name: &'static str, kind: Kind, help: &str, default: Option<&Value>) -> Arg {
    let names = match kind {
        Kind::Choice(names) => format!(" ({})", names.join(", ")),
        _ => String::new(),
    };
    let default = default.map_or(String::new(), |v| format!(" [{v}]"));
    let arg = Arg::new(name).long(name).value_name(kind.placeholder()).help(format!("{help}{names}{default}"));
    match kind {
        // `--flip` alone means yes.
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        // Without this, `--rho -1` would be taken for a flag instead of a value out of range.
        Kind::Count(..) | Kind::Number(..) | Kind::Shares => arg.allow_negative_numbers(true),
        Kind::Choice(_) | Kind::Names | Kind::Text => arg,
    }
}

/// A flag that is there or not.
pub fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// A flag that takes the path of a file or folder.
pub fn path_flag(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(placeholder).value_parser(clap::value_parser!(PathBuf)).help(help)
}

pub fn path(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    matches.get_one::<PathBuf>(name).cloned()
}

pub fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

/// The value of flag `name` as one of `kind`, if it was given.
///
/// # Errors
/// Usage: "--batch must be a whole number from 1 to 64, not '0'".
pub fn value(matches: &ArgMatches, name: &str, kind: Kind) -> Result<Option<Value>> {
    let Some(text) = matches.get_one::<String>(name) else { return Ok(None) };
    kind.parse(text).map(Some).map_err(|e| Error::usage(format!("--{name} {e}")))
}

/// The whole number that flag `name` gives, if any.
///
/// # Errors
/// Usage: not a whole number from `min` to `max`.
pub fn count(matches: &ArgMatches, name: &str, min: u64, max: u64) -> Result<Option<u64>> {
    Ok(match value(matches, name, Kind::Count(min, max))? {
        Some(Value::Count(v)) => Some(v),
        _ => None,
    })
}

/// Overrides setting `like` of `recipe` by flag `name`, if it was given.
///
/// # Errors
/// Usage: a value of the wrong kind or out of range, with flag and range.
pub fn apply(matches: &ArgMatches, name: &str, like: &str, recipe: &mut Recipe) -> Result<()> {
    let s = setting(like)?;
    match value(matches, name, s.kind)? {
        Some(value) => s.set(recipe, value),
        None => Ok(()),
    }
}

/// Overrides what the flags of [`setting_flags`] give.
///
/// # Errors
/// Usage: as for [`apply`].
pub fn apply_all(matches: &ArgMatches, recipe: &mut Recipe) -> Result<()> {
    SETTINGS.iter().try_for_each(|s| apply(matches, s.name, s.name, recipe))
}

/// That `recipe` has the values of `begun` wherever they decide the course of a run.
///
/// # Errors
/// Usage: a setting that cannot change when a run is resumed.
pub fn check_resumable(begun: &Recipe, recipe: &Recipe) -> Result<()> {
    let fixed = |s: &&Setting| s.section != RESUMABLE && s.get(begun) != s.get(recipe);
    SETTINGS.iter().find(fixed).map_or(Ok(()), |s| {
        let (name, value) = (s.name, s.get(begun));
        Err(Error::usage(format!("--{name} cannot change on --resume: this run began with {value}; start a new one")))
    })
}
