//! Checks of a resumed run: the settings that decide its course, and the content of its data, wherever they are now, must be
//! those that it began with.

use super::checkpoint::Checkpoint;
use super::origin::{Content, Origin};
use super::run_folder::RunFolder;
use crate::data::{self, DataSet};
use crate::error::{Error, Kind, Result};
use crate::files::{MAX_JSON, read_bytes};
use crate::optim::schedule::Shape;
use crate::recipe::{Overrides, RESUMABLE, Recipe, SETTINGS, Setting};
use crate::safetensors;
use std::path::Path;

/// Key of env.json for the folder that the data lay in when the run began.
pub(super) const DATA_FOLDER: &str = "data_folder";

/// Returns the settings of the run in `folder`: those of its config.toml, or where that is lost, of its checkpoint.
///
/// # Errors
/// NoInput: not a run's folder. Data: config.toml cannot be read, or is not what the checkpoint was made with.
pub fn settings(folder: &Path) -> Result<Overrides> {
    let last = RunFolder::last_in(folder);
    if let Some(config) = RunFolder::config_in(folder)? {
        let own = Overrides::read(&config)?;
        check_unedited(folder, &Recipe::default().with(&own)?)?;
        return Ok(own);
    }
    if !last.exists() {
        return RunFolder::config_of(folder).and_then(|config| Overrides::read(&config));
    }
    Checkpoint::open(&last)?.origin.overrides(&last)?.ok_or_else(|| {
        let what = "has no config.toml, and its checkpoint is of a version that recorded no settings";
        let message = format!("{} {what}; write a config.toml with the settings of the run", folder.display());
        Error::new(Kind::NoInput, message)
    })
}

/// Checks that the settings in config.toml are those that the checkpoint beside it was made with.
fn check_unedited(folder: &Path, recipe: &Recipe) -> Result<()> {
    let last = RunFolder::last_in(folder);
    // A damaged checkpoint is reported when it is opened.
    let Ok(metadata) = safetensors::metadata(&last) else { return Ok(()) };
    let difference = match Origin::read(&metadata).recipe(&last) {
        Ok(None) => return Ok(()),
        Ok(Some(recorded)) => check_course(&recorded, recipe, folder),
        Err(e) => Err(e),
    };
    // The header alone is no proof: a flipped bit in it is damage, not an edited config.toml.
    if difference.is_err() {
        Checkpoint::open(&last)?;
    }
    difference
}

/// Checks that `recipe`, of the config.toml in `folder`, has the course of `recorded`, of the checkpoint there.
///
/// # Errors
/// Data: the first setting that differs, with both values.
pub(super) fn check_course(recorded: &Recipe, recipe: &Recipe, folder: &Path) -> Result<()> {
    let Some(s) = changed(recorded, recipe) else { return Ok(()) };
    let [before, now] = [recorded, recipe].map(|r| s.to_toml(r).trim_end().to_owned());
    let (config, last) = (RunFolder::config_path(folder), RunFolder::last_in(folder));
    let (config, last) = (config.display(), last.display());
    Err(Error::data(format!(
        "{config} has {now}, but {last} was made with {before}; put that back, or start another run with --config {config}"
    )))
}

/// Returns the first setting in which `now` has another course than `begun`.
///
/// Data are not compared here, for their content decides; files to begin with may be spelt otherwise; and a run may become
/// longer where [`can_be_longer`].
pub fn changed(begun: &Recipe, now: &Recipe) -> Option<&'static Setting> {
    let longer = can_be_longer(begun) && same_warmup(begun, now);
    let differs = |s: &&Setting| {
        let equal = s.get(begun) == s.get(now);
        match s.name {
            "data" => false,
            "epochs" | "warmup" if longer => false,
            "init" => !equal && !same_place(&begun.init, &now.init),
            "relabel" => !equal && !same_place(&begun.relabel, &now.relabel),
            _ => !equal && s.section != RESUMABLE,
        }
    };
    let first = SETTINGS.iter().filter(|s| ["model", "opt"].contains(&s.name));
    first.chain(SETTINGS).find(differs)
}

/// Returns whether a run of `recipe` can be given more epochs: what its steps so far did does not depend on how many there
/// are. Warm-up is a share of the run, and keeps its length.
pub fn can_be_longer(recipe: &Recipe) -> bool {
    recipe.schedule == Shape::Constant && recipe.swa == 0.0 && recipe.rho_warmup == 0.0
}

/// Returns the recipe with `epochs` in all, whose warm-up lasts as long as before.
pub fn longer(recipe: &Recipe, epochs: usize) -> Recipe {
    Recipe { epochs, warmup: recipe.warmup * recipe.epochs as f64 / epochs as f64, ..recipe.clone() }
}

fn same_warmup(a: &Recipe, b: &Recipe) -> bool {
    let [a, b] = [a, b].map(|r| r.warmup * r.epochs as f64);
    (a - b).abs() <= 1e-9 * a.max(b)
}

/// Returns how to train the run of `recipe` in `folder` for longer than its settings say.
pub fn way_to_train_longer(recipe: &Recipe, folder: &Path) -> String {
    let word = |path: &Path| super::shell_word(&path.display().to_string());
    if can_be_longer(recipe) {
        return format!("samcore train --resume {} --epochs N", word(folder));
    }
    let (config, last) = (RunFolder::config_path(folder), RunFolder::last_in(folder));
    format!("samcore train --config {} --init {} --epochs N --out NEW", word(&config), word(&last))
}

/// Returns whether two paths lead to one file or folder.
pub fn same_place(a: &str, b: &str) -> bool {
    matches!((Path::new(a).canonicalize(), Path::new(b).canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Loads the data of the run in `folder`, whose recipe is `recipe`: from where that says, or else from the folder that held
/// them when the run began.
///
/// # Errors
/// NoInput: they are in neither place. Data: their files are wrong.
pub fn data(folder: &Path, recipe: &Recipe) -> Result<DataSet> {
    let here = data::load_as(&recipe.data, recipe.labels);
    let before = data_before(folder);
    let Some(before) = before.filter(|before| !here.as_ref().is_ok_and(|data| same_folder(data, before))) else {
        return here.map_err(moved);
    };
    let content = safetensors::metadata(&RunFolder::last_in(folder)).ok().and_then(|m| Origin::read(&m).content);
    let fits = |data: &DataSet| match &content {
        Some(content) => content.differences_but_train_labels(&Content::of(data)).is_empty(),
        None => false,
    };
    match (here, data::load_as(&before, recipe.labels)) {
        // The folder that the program is started in decides where the names of known sets are found.
        (Err(_), Ok(there)) => Ok(there),
        (Ok(here), Ok(there)) if !fits(&here) && fits(&there) => Ok(there),
        (here, _) => here.map_err(moved),
    }
}

/// Returns the folder of the data that the run in `folder` began with, if its environment says.
pub fn data_before(folder: &Path) -> Option<String> {
    let environment = read_bytes(&RunFolder::environment_in(folder), MAX_JSON).ok()?;
    let environment = serde_json::from_slice::<serde_json::Value>(&environment).ok()?;
    Some(environment.get(DATA_FOLDER)?.as_str()?.to_owned())
}

fn same_folder(data: &DataSet, path: &str) -> bool {
    same_place(&data.folder.display().to_string(), path)
}

/// The error for data that are not where they were, with the way to give their new place.
pub fn moved(e: Error) -> Error {
    if e.kind != Kind::NoInput {
        return e;
    }
    Error::new(e.kind, format!("{e}; if the data have moved, add --data DIR"))
}

/// Checks that `data`, whose content is `now`, are those that the run in `folder` was trained on.
///
/// # Errors
/// Data: which parts differ.
pub(super) fn check_content(begun: &Content, now: &Content, data: &DataSet, folder: &Path) -> Result<()> {
    let differences = begun.differences(now);
    if differences.is_empty() {
        return Ok(());
    }
    let labels = RunFolder::labels_in(folder);
    let place = match labels.exists() && differences == ["training labels"] {
        true => labels,
        false => data.folder.clone(),
    };
    Err(Error::data(format!(
        "{} has other {} than the run in {} was trained with (their SHA-256 differs); give the folder of its data by \
         --data DIR, or start another run",
        place.display(),
        differences.join(" and "),
        folder.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::tests::other_value;

    #[test]
    fn every_setting_that_decides_the_course_is_found_changed() {
        for s in SETTINGS {
            let mut now = Recipe::default();
            s.set(&mut now, other_value(s)).unwrap();
            let expected = (s.section != RESUMABLE && s.name != "data").then_some(s.name);
            assert_eq!(changed(&Recipe::default(), &now).map(|s| s.name), expected, "{}", s.name);
        }
    }

    #[test]
    fn only_a_constant_rate_lets_a_run_become_longer_and_its_warmup_keeps_its_length() {
        let constant = Recipe { schedule: Shape::Constant, warmup: 0.3, epochs: 4, ..Recipe::default() };
        let more = longer(&constant, 9);
        assert_eq!(more.epochs, 9);
        assert_eq!(changed(&constant, &more).map(|s| s.name), None);
        let (before, after) = (constant.schedule(), more.schedule());
        for step in 0..40 {
            assert_eq!(before.lr(step, 40), after.lr(step, 90), "step {step}");
        }
        let unscaled = Recipe { epochs: 9, ..constant.clone() };
        assert_eq!(changed(&constant, &unscaled).map(|s| s.name), Some("epochs"), "its warm-up would be longer");
        for other in [
            Recipe { swa: 0.5, ..constant.clone() },
            Recipe { rho_warmup: 0.5, ..constant.clone() },
            Recipe { schedule: Shape::Step, ..constant.clone() },
            Recipe { schedule: Shape::Cosine, warmup: 0.0, ..constant },
        ] {
            assert!(changed(&other, &longer(&other, 9)).is_some());
        }
    }

    #[test]
    fn paths_that_are_spelt_otherwise_are_one_place() {
        assert!(same_place("src/../src", "./src") && !same_place("src", "tests") && !same_place("no", "no"));
        let [a, b] = ["Cargo.toml", "./Cargo.toml"].map(|file| Recipe { init: file.into(), ..Recipe::default() });
        assert!(changed(&a, &b).is_none());
    }
}
