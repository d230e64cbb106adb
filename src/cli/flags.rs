//! Flags from the table of settings, and values back from flags.

use crate::data::{self, DATASETS, DataSet};
use crate::error::{Error, Result};
use crate::models;
use crate::optim::{self, OPTIMIZERS, OptimizerRow};
use crate::recipe::{Kind, NO_FILE, Overrides, Recipe, SETTINGS, Setting, Target, Value, recipe_of, setting};
use crate::train::run_folder::checkpoint_of;
use crate::train::{engine, labels, resume};
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A flag for each setting. None has a default of clap's: a flag that is not given leaves the config file's value.
pub fn setting_flags() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().map(|s| flag(s.name, s.kind, s.help, Some(&default_of(s))).help_heading(s.section))
}

/// Returns the default of a setting in words. Where optimizers differ in it: "0.05; asam, sam-on 0.5; msam 0.3".
pub fn default_of(s: &Setting) -> Value {
    let general = s.get(&Recipe::default());
    let owners = OPTIMIZERS.iter().filter(|row| row.settings.contains(&s.name));
    let mut values: Vec<(Value, Vec<&str>)> = vec![];
    let mut variants = String::new();
    for row in owners {
        let value = s.get(&Recipe::of_optimizer(row).unwrap_or_default());
        match values.iter_mut().find(|(known, _)| *known == value) {
            Some((_, names)) => names.push(row.name),
            None => values.push((value, vec![row.name])),
        }
        for variant in row.variants {
            let own = variant.recipe.iter().filter(|(name, _)| *name == s.name);
            own.for_each(|(_, text)| variants += &format!("; --{} {}: {text}", variant.setting, variant.value));
        }
    }
    // The value of most optimizers comes first, without their names.
    values.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    let Some(((first, _), others)) = values.split_first() else { return general };
    if others.is_empty() && variants.is_empty() {
        return first.clone();
    }
    let others = others.iter().map(|(value, names)| format!("; {} {value}", names.join(", ")));
    Value::Text(format!("{first}{}{variants}", others.collect::<String>()))
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
        Kind::Device => " (auto, cpu, cuda, cuda:N, emu)".into(),
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
        Kind::Choice(_) | Kind::Device | Kind::Names | Kind::Rates | Kind::Text => arg,
    }
}

/// Returns the usual values of flag `name`.
fn usual(name: &str, kind: Kind) -> Option<Vec<&'static str>> {
    match (kind, name) {
        (Kind::Switch, _) => Some(vec!["true", "false"]),
        (Kind::Choice(names), _) => Some(names.to_vec()),
        (Kind::Device, _) => Some(Target::NAMES.to_vec()),
        (Kind::Text, "data") => Some(DATASETS.iter().map(|d| d.name).collect()),
        (Kind::Text, "model") => Some(models::names().collect()),
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

/// Returns the settings of a config file with those of the flags on top. Where the flags choose another optimizer, the file's
/// settings of its own optimizer do not count.
///
/// # Errors
/// Data, NoInput: the file cannot be read.
pub fn of_file(file: &Path, flags: Overrides) -> Result<Overrides> {
    let file = Overrides::read(file)?;
    let file = if flags.get("opt").is_some_and(|opt| file.get("opt") != Some(opt)) { file.chosen()? } else { file };
    Ok(file.with(flags))
}

/// The settings that `row` alone or few others have, with the values it has them at: "--rho 0.5 --eta 0.01".
pub fn own_settings(row: &OptimizerRow) -> String {
    let recipe = Recipe::of_optimizer(row).unwrap_or_default();
    let own = SETTINGS.iter().filter(|s| row.settings.contains(&s.name));
    let own = own.map(|s| format!("--{} {}", s.name, s.get(&recipe))).collect::<Vec<_>>().join(" ");
    let variants = row.variants.iter().map(|variant| {
        let values = variant.recipe.iter().map(|(name, value)| format!(" --{name} {value}"));
        format!("; with --{} {}:{}", variant.setting, variant.value, values.collect::<String>())
    });
    own + &variants.collect::<String>()
}

/// Returns a line for each flag on the command line that changes nothing of runs of `optimizers`: other optimizers' own
/// settings, and --swa-lr without --swa in `recipe`.
pub fn without_effect(matches: &ArgMatches, recipe: &Recipe, optimizers: &[&str]) -> Vec<String> {
    let mut told = vec![];
    let flags = SETTINGS.iter().filter(|s| matches.try_contains_id(s.name).is_ok_and(|given| given));
    for s in flags {
        let owners = OPTIMIZERS.iter().filter(|o| o.settings.contains(&s.name));
        let owners: Vec<&str> = owners.map(|o| o.name).collect();
        if !owners.is_empty() && !owners.iter().any(|owner| optimizers.contains(owner)) {
            let (owners, not) = (owners.join(", "), optimizers.join(", "));
            told.push(format!("--{} changes nothing: it is a setting of {owners}, not of {not}", s.name));
        }
        if s.name == "swa-lr" && recipe.swa == 0.0 {
            told.push("--swa-lr changes nothing without --swa".into());
        }
    }
    told
}

/// Returns the settings that the flags of [`setting_flags`] give; the command lacks the flags that are named in `but`.
///
/// # Errors
/// Usage: a flag's value is wrong.
pub fn given_by_flags(matches: &ArgMatches, but: &[&str]) -> Result<Overrides> {
    let mut given = Overrides::default();
    for s in SETTINGS.iter().filter(|s| !but.contains(&s.name)) {
        if let Some(value) = value(matches, s.name, s.kind)? {
            given.set(s.name, value);
        }
    }
    with_checkpoints(given)
}

/// Replaces the folders of runs among the files that settings name by the checkpoints in them.
///
/// # Errors
/// NoInput: a folder without a checkpoint.
fn with_checkpoints(mut given: Overrides) -> Result<Overrides> {
    for name in ["init", "relabel"] {
        let Some(Value::Text(path)) = given.get(name).filter(|value| **value != Value::Text(NO_FILE.into())) else {
            continue;
        };
        let checkpoint = checkpoint_of(Path::new(path)).map_err(|e| e.context(format!("--{name}")))?;
        given.set(name, Value::Text(checkpoint.display().to_string()));
    }
    Ok(given)
}

/// The recipe of a new run for which the user has `given` some settings, and its data.
///
/// Of each setting the last one counts: its default, the model's own recipe, the optimizer's, the preset of augmentation
/// that is given, the config file, the flags. The model is the one given, else the data set decides; the recipe has its
/// name. For a run that goes on, this is not asked: its config.toml has every setting.
///
/// # Errors
/// Usage: there is no such optimizer or model, or the data set decides for none. Those of loading the data.
pub fn resolve(given: &Overrides) -> Result<(Recipe, DataSet)> {
    let given = &with_checkpoints(given.clone())?;
    let recipe = Recipe::default().with(given)?;
    // Reports a wrong name, or settings that do not go together, before the data are read.
    let own = Overrides::of_optimizer(optim::find(&recipe.opt)?, given)?;
    Recipe::default().with(&own)?.with(given)?.check_together()?;
    check_whole(&recipe)?;
    labels::check(&recipe)?;
    let named = if recipe.model == "auto" { None } else { Some(models::find(&recipe.model)?) };
    let data = data::load_as(&recipe.data, recipe.labels)?;
    let model = match named {
        Some(model) => model,
        None => models::find(engine::default_model([data.train.h, data.train.w, data.train.c], engine::gpu(&recipe))?)?,
    };
    Ok((recipe_of(&model, given, data.format)?, data))
}

/// Checks that an optimizer which perturbs activations gets the batch as a whole.
///
/// # Errors
/// Usage: it would be divided; or there is no such optimizer.
fn check_whole(recipe: &Recipe) -> Result<()> {
    let row = optim::find(&recipe.opt)?;
    let divided = match (recipe.accumulate, recipe.m) {
        (2.., _) => Some(("accumulate", recipe.accumulate)),
        (_, 1..) => Some(("m", recipe.m)),
        _ => None,
    };
    match divided.filter(|_| row.taps) {
        None => Ok(()),
        Some((flag, parts)) => Err(Error::usage(format!(
            "--{flag} {parts} divides the batch, and {} perturbs the activations of a whole one; leave --{flag} out",
            row.name
        ))),
    }
}

/// Checks that `recipe` has the values of `begun`, of the run in `folder`, wherever they decide the course of a run.
///
/// # Errors
/// Usage: a setting that cannot change when a run is resumed.
pub fn check_resumable(begun: &Recipe, recipe: &Recipe, folder: &Path) -> Result<()> {
    let Some(s) = resume::changed(begun, recipe) else { return Ok(()) };
    let (name, value) = (s.name, s.get(begun));
    let way_out = match name {
        "epochs" => {
            let way = resume::way_to_train_longer(begun, folder);
            format!(", and its learning rates or averages depend on that; train longer from its weights: {way}")
        }
        _ => "; start a new one".into(),
    };
    Err(Error::usage(format!("--{name} cannot change on --resume: this run began with {value}{way_out}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Format;

    #[test]
    fn a_models_recipe_stands_between_the_defaults_and_what_is_given() {
        let wide = models::find("wrn-16-4").unwrap();
        let given = Overrides::parse(&[("lr", "0.02"), ("crop", "0"), ("model", "auto")]).unwrap();
        let recipe = recipe_of(&wide, &given, Format::Cifar10).unwrap();
        assert_eq!((recipe.model.as_str(), recipe.lr, recipe.crop), ("wrn-16-4", 0.02, 0), "given");
        assert_eq!((recipe.epochs, recipe.warmup), (200, 0.0), "the model's own");
        assert_eq!((recipe.seed, recipe.eval_batch), (0, 512), "the defaults");
        let small = models::find("cnn").unwrap();
        let expected = Recipe { model: "cnn".into(), ..Recipe::default() };
        let recipe = recipe_of(&small, &Overrides::default(), Format::Idx);
        assert_eq!(recipe, Ok(expected), "the defaults are those of cnn");
    }

    #[test]
    fn a_preset_of_augmentation_stands_below_what_is_given_and_above_the_models_recipe() {
        let wide = models::find("wrn-16-4").unwrap();
        let given = Overrides::parse(&[("flip", "false"), ("augment", "aa")]).unwrap();
        let recipe = recipe_of(&wide, &given, Format::Cifar100).unwrap();
        assert_eq!((recipe.crop, recipe.flip, recipe.cutout, recipe.autoaugment), (4, false, 8, true));
        let begun = Overrides::from_toml(&recipe.to_toml(), "config.toml").unwrap();
        assert_eq!(recipe_of(&wide, &begun, Format::Cifar100), Ok(recipe), "a config has the values that came of it");
        let none = begun.with(Overrides::parse(&[("augment", "none")]).unwrap());
        let recipe = recipe_of(&wide, &none, Format::Cifar100).unwrap();
        assert_eq!((recipe.crop, recipe.flip, recipe.cutout, recipe.autoaugment), (0, false, 0, false));
    }

    #[test]
    fn a_whole_config_leaves_nothing_to_the_models_recipe() {
        let begun = Recipe { model: "wrn-10-1".into(), epochs: 3, ..Recipe::default() };
        let given = Overrides::from_toml(&begun.to_toml(), "config.toml").unwrap();
        assert_eq!(recipe_of(&models::find("wrn-10-1").unwrap(), &given, Format::Cifar10), Ok(begun));
    }
}
