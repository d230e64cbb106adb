//! `samcore train`.

use super::flags::{
    check_resumable, count, flag, given_by_flags, of_file, own_settings, path, path_flag, resolve, setting_flags,
    switch, text, without_effect,
};
use super::print;
use crate::bench::estimate;
use crate::data::{self, DataSet};
use crate::error::{Error, Kind, Result};
use crate::models;
use crate::optim::OPTIMIZERS;
use crate::output::note;
use crate::recipe::{Kind as ValueKind, NO_FILE, Overrides, RESUMABLE, Recipe, SETTINGS, Setting, Value};
use crate::study::track;
use crate::train::run_folder::RunFolder;
use crate::train::{Session, Summary, Where, resume, resume_line, shell_word, signals};
use clap::{Arg, ArgMatches, Command};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The training run that the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    /// Settings of --config or, on --resume, of the run's own config.toml, with the flags on top.
    pub given: Overrides,
    /// Folder of the run; none: a new one below `runs`.
    pub out: Option<PathBuf>,
    /// Last part of the new folder's name.
    pub name: Option<String>,
    /// Folder of the run to resume.
    pub resume: Option<PathBuf>,
    /// End after this many steps of the run; its schedule stays that of all epochs.
    pub steps: Option<u64>,
    /// Two runs, the second on labels that the first predicts.
    pub bootstrap: bool,
    pub json: bool,
    pub quiet: bool,
}

pub fn build(command: Command) -> Command {
    let own = [
        path_flag("config", "FILE", "read settings from FILE; flags override them"),
        path_flag("out", "DIR", "folder of the run, new or empty [runs/DATE-TIME-NAME]"),
        Arg::new("name")
            .long("name")
            .value_name("NAME")
            .help("end of the name of the run's folder in runs")
            .conflicts_with("out"),
        path_flag("resume", "DIR", "resume the run in DIR (or DIR/last.safetensors)")
            .conflicts_with_all(["config", "out", "name"]),
        flag("steps", STEPS, "stop after N steps (0: at the initial weights); --resume continues", None),
        switch("bootstrap", "train, relabel the images, train again: in first and second of --out")
            .conflicts_with_all(["resume", "name", "steps"]),
        switch("json", "print the result to stdout as one JSON object"),
        switch("quiet", "show no progress"),
    ];
    let optimizers = OPTIMIZERS.iter().map(|o| {
        let own = own_settings(o);
        let own =
            if own.is_empty() { own } else { format!("{:6}{}\n", "", own.replace("; ", &format!(";\n{:6}", ""))) };
        format!("  {:<12} {}\n{own}", o.name, o.paper)
    });
    command.args(own.map(|arg| arg.help_heading("Run"))).args(setting_flags()).after_help(format!(
        "Optimizers, with the settings of their own:\n{}\n\
         Values in [brackets] are the defaults, those of cnn. 'samcore info models' lists other models' own.\n\
         A later one of these overrides an earlier: the default, the model's recipe, the optimizer's\n\
         defaults, --augment, --config, the flags.",
        optimizers.collect::<String>()
    ))
}

const STEPS: ValueKind = ValueKind::Count(0, u64::MAX);

/// # Errors
/// Usage: a wrong value. Data, NoInput: a config file that cannot be read.
pub fn args(matches: &ArgMatches) -> Result<Args> {
    let resume = path(matches, "resume").map(|path| RunFolder::named(&path)).transpose()?;
    let flags = given_by_flags(matches, &[])?;
    let given = match (&resume, path(matches, "config")) {
        (Some(folder), _) => resumed(folder, resume::settings(folder).map_err(|e| hinted(e, folder))?, flags)?,
        (None, Some(file)) => of_file(&file, flags)?,
        (None, None) => flags,
    };
    let steps = count(matches, "steps", 0, u64::MAX)?;
    let [bootstrap, json, quiet] = ["bootstrap", "json", "quiet"].map(|name| matches.get_flag(name));
    Ok(Args { given, out: path(matches, "out"), name: text(matches, "name"), resume, steps, bootstrap, json, quiet })
}

/// Adds to an error on a folder that holds the two runs of a bootstrap the command line that resumes them.
fn hinted(e: Error, folder: &Path) -> Error {
    let word = |path: &Path| shell_word(&path.display().to_string());
    let first = RunFolder::config_path(&folder.join("first"));
    if e.kind != Kind::NoInput || !first.is_file() {
        return e;
    }
    let line = format!("train --bootstrap --config {} --out {}", word(&first), word(folder));
    Error::new(e.kind, format!("{e}; resume what is there with: samcore {line}"))
}

/// Returns the settings of the run in `folder`, with those that `flags` may change.
///
/// # Errors
/// Usage: a flag with another value than the run began with, where that decides its course.
fn resumed(folder: &Path, settings: Overrides, flags: Overrides) -> Result<Overrides> {
    let begun = Recipe::default().with(&settings)?;
    let mut given = settings.with(flags);
    let now = Recipe::default().with(&given)?;
    if now.epochs != begun.epochs && resume::can_be_longer(&begun) {
        if now.epochs < begun.epochs {
            let message = format!("--epochs {} is fewer than the {} of this run", now.epochs, begun.epochs);
            return Err(Error::usage(format!("{message}; --steps ends it earlier")));
        }
        if now.warmup == begun.warmup {
            given.set("warmup", Value::Number(resume::longer(&begun, now.epochs).warmup));
        }
    }
    check_resumable(&begun, &Recipe::default().with(&given)?, folder)?;
    Ok(given)
}

/// Returns the recipe of the run in `out`, if there is one, with the settings of the machine that `recipe` has.
///
/// # Errors
/// CantCreate: it is in use, or a run with other settings than `recipe`.
fn run_in(out: &Path, recipe: &Recipe) -> Result<Option<Recipe>> {
    if !RunFolder::has_run(out)? {
        return Ok(None);
    }
    // That another process uses the folder is a better reason than any difference.
    drop(RunFolder::reopen(out)?);
    let mut begun = Recipe::default().with(&resume::settings(out)?)?;
    let exact =
        |s: &&Setting| ["epochs", "warmup", "dtype", "exact"].contains(&s.name) && s.get(&begun) != s.get(recipe);
    if let Some(s) = resume::changed(&begun, recipe).or_else(|| SETTINGS.iter().find(exact)) {
        let (folder, name, before, now) = (out.display(), s.name, s.get(&begun), s.get(recipe));
        let advice = format!("resume it with '--resume {folder}', or give --out another folder");
        let message = format!("{folder} holds a run with --{name} {before}, not {now}; {advice}");
        return Err(Error::new(Kind::CantCreate, message));
    }
    for s in SETTINGS.iter().filter(|s| s.section == RESUMABLE || s.name == "data") {
        s.set(&mut begun, s.get(recipe))?;
    }
    Ok(Some(begun))
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let args = args(matches)?;
    signals::install()?;
    if args.bootstrap {
        return bootstrap(&args);
    }
    let Args { given, mut out, name, mut resume, steps, json, quiet, .. } = args;
    let (mut recipe, data) = match &resume {
        // Its config.toml has every setting; a model's recipe of today has no say in it.
        Some(folder) => begun(folder, &given, matches.contains_id("data"))?,
        None => resolve(&given)?,
    };
    if let Some(begun) = out.as_deref().map_or(Ok(None), |out| run_in(out, &recipe))? {
        recipe = begun;
        resume = out.take();
    }
    if !quiet {
        without_effect(matches, &recipe, &[&recipe.opt]).iter().for_each(|line| note(line));
    }
    let summary = train(recipe, data, &Where { out, name, resume, steps, quiet })?;
    report(&summary);
    if json { print(&format!("{}\n", result(&summary))) } else { Ok(()) }
}

fn train(recipe: Recipe, data: DataSet, place: &Where) -> Result<Summary> {
    let mut session = Session::with_model(&models::find(&recipe.model)?, data, recipe, place)?;
    track::attach(&mut session)?;
    if !place.quiet {
        estimate::warn(&session);
    }
    session.run()
}

/// Trains, has the model relabel the training images, and trains anew on these labels (the bootstrap of the SAM paper). Either
/// run has a folder of its own; what is there of them already goes on.
fn bootstrap(args: &Args) -> Result<()> {
    let asked = "--bootstrap makes two runs; give --out DIR, they go to DIR/first and DIR/second";
    let out = args.out.as_ref().ok_or_else(|| Error::usage(asked))?;
    let first_folder = out.join("first");
    let first = part(args, &args.given, &first_folder)?;
    report(&first);
    let labels = first_folder.join("last.safetensors").display().to_string();
    let mut given = args.given.clone();
    given.set("relabel", Value::Text(labels));
    let second = part(args, &given, &out.join("second"))?;
    report(&second);
    if !args.json {
        return Ok(());
    }
    let mut both = result(&second);
    both["first"] = result(&first);
    print(&format!("{both}\n"))
}

/// One of the two runs, in `folder`.
fn part(args: &Args, given: &Overrides, folder: &Path) -> Result<Summary> {
    if given == &args.given && Recipe::default().with(given)?.relabel != NO_FILE {
        return Err(Error::usage("--relabel is what --bootstrap does by itself; give one of them"));
    }
    let (mut recipe, data) = resolve(given)?;
    let mut place = Where { quiet: args.quiet, ..Where::default() };
    if RunFolder::has_run(folder)? {
        let begun = Recipe::default().with(&resume::settings(folder)?)?;
        if [&begun, &recipe].iter().all(|r| r.relabel != NO_FILE) {
            // The run has its labels; where the first run lies by now does not matter.
            recipe.relabel.clone_from(&begun.relabel);
        }
        check_resumable(&begun, &recipe, folder).map_err(|e| e.context(folder.display()))?;
        place.resume = Some(folder.into());
    } else {
        place.out = Some(folder.into());
    }
    train(recipe, data, &place).map_err(|e| match e.kind {
        Kind::Interrupted => Error::new(e.kind, format!("{e}; or with both runs by the same command line again")),
        _ => e,
    })
}

/// Returns recipe and data of the run in `folder`, which is resumed; its data may have `moved` to where `given` says.
fn begun(folder: &Path, given: &Overrides, moved: bool) -> Result<(Recipe, DataSet)> {
    let recipe = Recipe::default().with(given)?;
    let data = if moved { data::load_as(&recipe.data, recipe.labels)? } else { resume::data(folder, &recipe)? };
    Ok((recipe, data))
}

/// Tells on stderr how the run ended.
fn report(s: &Summary) {
    if s.dropped > 0 {
        note(&format!("|g| was 0, or too small to divide by, in {} steps, which were not perturbed", s.dropped));
    }
    note(&ending(s));
    let best = match s.best_epoch {
        0 => String::new(),
        epoch => format!("; best by {} {:.2} % in epoch {epoch}", s.best_on, 100.0 * s.best_accuracy),
    };
    let (accuracy, folder) = (100.0 * s.test.accuracy, s.folder.display());
    note(&format!("test accuracy {accuracy:.2} %, loss {:.4}{best}; {folder}", s.test.loss));
}

/// Returns the result as one JSON object.
fn result(s: &Summary) -> serde_json::Value {
    json!({
        "folder": s.folder.display().to_string(),
        "steps": s.steps,
        "complete": s.complete(),
        "epochs": s.epochs,
        "test_loss": s.test.loss,
        "test_accuracy": s.test.accuracy,
        "noise": s.noise.map(|n| json!({"clean": n.clean, "learned": n.learned, "memorised": n.memorised})),
        "labels": s.labels.to_json(),
        "best_accuracy": s.best_accuracy,
        "best_epoch": s.best_epoch,
        "best_on": s.best_on,
        "dropped": s.dropped,
        "seconds": s.seconds,
    })
}

/// One line on how far the run has come.
fn ending(s: &Summary) -> String {
    let Summary { steps, total, .. } = *s;
    match (s.complete(), steps > s.before) {
        (true, true) => format!("done: {steps} steps in {:.0} s", s.seconds),
        (true, false) => {
            format!("nothing left to do: all {steps} steps were done before; to train longer: {}", s.way_on)
        }
        (false, true) => {
            let line = resume_line(&s.folder);
            format!("ended after step {steps} of {total}, as --steps asked; resume with: {line}")
        }
        (false, false) if steps == 0 => {
            format!("the initial weights are saved, as --steps 0 asked; resume with: {}", resume_line(&s.folder))
        }
        (false, false) => format!("nothing to do: step {steps} of {total} was done before; give more --steps or none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::default_of;
    use crate::files::TestFolder;
    use crate::recipe::tests::other_value;
    use crate::recipe::{Kind, SETTINGS};

    fn parse(words: &[&str]) -> Result<Args> {
        let words = ["samcore", "train"].iter().chain(words);
        let matches = crate::cli::command().try_get_matches_from(words).unwrap();
        args(matches.subcommand().unwrap().1)
    }

    /// Returns the defaults with the settings of `words`.
    fn recipe(words: &[&str]) -> Recipe {
        Recipe::default().with(&parse(words).unwrap().given).unwrap()
    }

    #[test]
    fn each_setting_survives_the_way_through_its_flag() {
        for s in SETTINGS {
            let mut expected = Recipe::default();
            s.set(&mut expected, other_value(s)).unwrap();
            let (flag, value) = (format!("--{}", s.name), other_value(s).to_string());
            assert_eq!(recipe(&[&flag, &value]), expected, "{}", s.name);
            assert_eq!(recipe(&[&format!("{flag}={value}")]), expected, "{}", s.name);
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_flag() {
        for s in SETTINGS {
            let wrong = match s.kind {
                Kind::Text => " ",
                Kind::Names | Kind::Rates => "a,,b",
                _ => "-1",
            };
            let e = parse(&[&format!("--{}={wrong}", s.name)]).unwrap_err();
            assert_eq!(e.to_string(), format!("--{} must be {}, not '{wrong}'", s.name, s.kind));
            assert_eq!(e.exit_code(), 2);
        }
        assert_eq!(parse(&["--rho", "-1"]).unwrap_err().to_string(), "--rho must be a number of at least 0, not '-1'");
        assert!(parse(&["--steps", "x"]).unwrap_err().to_string().starts_with("--steps must be a whole number from 0"));
    }

    #[test]
    fn switches_may_stand_alone_and_the_last_of_a_flag_counts() {
        let recipe = recipe(&["--flip=false", "--nesterov", "false", "--lr", "1", "--flip", "--lr", "2"]);
        assert_eq!((recipe.flip, recipe.nesterov, recipe.lr), (true, false, 2.0));
    }

    #[test]
    fn flags_override_the_config_file() {
        let scratch = TestFolder::new("config");
        let file = scratch.0.join("my.toml");
        std::fs::write(&file, "lr = 0.5\nopt = \"sam\"\n").unwrap();
        let recipe = recipe(&["--lr", "0.25", "--config", file.to_str().unwrap()]);
        assert_eq!(recipe, Recipe { lr: 0.25, opt: "sam".into(), ..Recipe::default() });
    }

    #[test]
    fn a_resumed_run_keeps_its_settings_but_those_of_the_machine() {
        let scratch = TestFolder::new("resumed");
        let begun = Recipe { lr: 0.3, epochs: 3, ..Recipe::default() };
        std::fs::write(scratch.0.join("config.toml"), begun.to_toml()).unwrap();
        let folder = scratch.0.to_str().unwrap();
        let words = ["--resume", folder, "--threads", "1", "--lr", "0.3"];
        assert_eq!(recipe(&words), Recipe { threads: 1, ..begun });
        assert_eq!(parse(&words).unwrap().resume, Some(scratch.0.clone()));
        let e = parse(&["--resume", folder, "--epochs", "9"]).unwrap_err();
        let message = "--epochs cannot change on --resume: this run began with 3, and its learning rates or averages";
        assert!(e.to_string().starts_with(message), "{e}");
    }

    #[test]
    fn help_gives_each_setting_with_section_names_allowed_and_default() {
        let mut command = crate::cli::command();
        let help = command.find_subcommand_mut("train").unwrap().render_help().to_string();
        assert_eq!(help.lines().find(|line| line.chars().count() > 100), None, "too wide");
        for s in SETTINGS {
            assert!(help.contains(&format!("{}:\n", s.section)), "{}", s.section);
            let line = help.lines().find(|line| line.contains(&format!("--{} ", s.name))).unwrap_or_default();
            assert!(line.contains(s.help), "{} is not explained: {line}", s.name);
            assert!(line.ends_with(&format!("[{}]", default_of(s))), "{} has no default: {line}", s.name);
            if let (Kind::Choice(names), Value::Text(_)) = (s.kind, s.get(&Recipe::default())) {
                assert!(line.contains(&names.join(", ")), "{line}");
            }
        }
    }
}
