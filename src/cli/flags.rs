//! Flags from the table of settings, and values back from flags.

use crate::data::DATASETS;
use crate::error::{Error, Result};
use crate::models::MODELS;
use crate::optim::OPTIMIZERS;
use crate::recipe::{Kind, RESUMABLE, Recipe, SETTINGS, Setting, Value, setting};
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use std::ffi::OsStr;
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
    let arg = match usual(name, kind) {
        Some(names) => arg.value_parser(Named(names)).hide_possible_values(true),
        None => arg,
    };
    match kind {
        // `--flip` alone means yes.
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        // Without this, `--rho -1` would be taken for a flag instead of a value out of range.
        Kind::Count(..) | Kind::Number(..) | Kind::Shares => arg.allow_negative_numbers(true),
        // Completion offers folders beside the names.
        Kind::Text if name == "data" => arg.value_hint(ValueHint::DirPath),
        Kind::Choice(_) | Kind::Names | Kind::Text => arg,
    }
}

/// What the value of flag `name` usually is one of.
fn usual(name: &str, kind: Kind) -> Option<Vec<&'static str>> {
    match (kind, name) {
        (Kind::Switch, _) => Some(vec!["true", "false"]),
        (Kind::Choice(names), _) => Some(names.to_vec()),
        (Kind::Text, "data") => Some(DATASETS.iter().map(|d| d.name).collect()),
        (Kind::Text, "model") => Some(MODELS.iter().map(|m| m.name).collect()),
        (Kind::Text, "opt") => Some(OPTIMIZERS.iter().map(|o| o.name).collect()),
        _ => None,
    }
}

/// Takes any text, for messages on wrong values are not clap's business; completion offers the names.
#[derive(Clone)]
pub struct Named(pub Vec<&'static str>);

impl TypedValueParser for Named {
    type Value = String;
    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> clap::error::Result<String> {
        StringValueParser::new().parse_ref(command, arg, value)
    }
    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|name| PossibleValue::new(*name))))
    }
}

/// A flag that is there or not.
pub fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// A flag that takes the path of a file or folder.
pub fn path_flag(name: &'static str, placeholder: &'static str, help: &'static str) -> Arg {
    let hint = if placeholder == "DIR" { ValueHint::DirPath } else { ValueHint::FilePath };
    let arg = Arg::new(name).long(name).value_name(placeholder).value_parser(clap::value_parser!(PathBuf));
    arg.value_hint(hint).help(help)
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
