//! The folder of a comparison and of its runs: what is there already, what can be kept, and what belongs to others.

use super::plan::{Plan, Run, Share};
use super::request::{Request, course};
use crate::data::{self, DataSet};
use crate::error::{Error, Kind, Result};
use crate::files;
use crate::optim::{OPTIMIZERS, OptimizerRow};
use crate::recipe::{NO_FILE, RESUMABLE, Recipe, SETTINGS, Setting};
use crate::train::checkpoint::Checkpoint;
use crate::train::divergence::Divergence;
use crate::train::records::Metrics;
use crate::train::resume;
use crate::train::run_folder::RunFolder;
use std::path::{Path, PathBuf};

/// Holds what was asked.
pub const REQUEST: &str = "compare.toml";
/// Files that a comparison writes beside it after each run.
pub const OUTPUTS: [&str; 4] = ["table.md", "report.html", RESULTS, "curves.svg"];
pub const RESULTS: &str = "results.json";
const METRICS: &str = "metrics.csv";

/// State of a run of the plan.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Nothing is there.
    ToDo,
    /// Killed before its first checkpoint: nothing is lost by beginning anew.
    Stillborn,
    /// To be resumed by this recipe, after so many steps.
    Unfinished(Box<Recipe>, u64),
    Finished,
    /// Its loss or gradient was not finite; it is not tried again while its folder says so.
    Diverged(Divergence),
}

impl State {
    /// Returns the share of a run of `steps` that is left to do.
    pub fn left(&self, steps: u64) -> f64 {
        match self {
            State::ToDo | State::Stillborn => 1.0,
            State::Unfinished(_, done) => 1.0 - (*done as f64 / steps.max(1) as f64).min(1.0),
            State::Diverged(_) | State::Finished => 0.0,
        }
    }
    /// In a word or two.
    pub fn describe(&self) -> String {
        match self {
            State::ToDo | State::Stillborn => "to do".into(),
            State::Unfinished(_, step) => format!("to be resumed after step {step}"),
            State::Finished => "done".into(),
            State::Diverged(Divergence { step, total, .. }) => format!("diverged in step {step} of {total}"),
        }
    }
}

/// Returns the state of `run` in the folder `path`.
///
/// # Errors
/// CantCreate: something else lies there, or a run with another setting, which is named. Data: damaged files.
pub fn state(path: &Path, run: &Run, plan: &Plan) -> Result<State> {
    let foreign = |what: String| {
        let advice = "move it away, or give --out another folder";
        Error::new(Kind::CantCreate, format!("{} {what}; {advice}", path.display()))
    };
    let entries = entries(path)?;
    if entries.iter().all(|name| name.starts_with('.')) {
        return Ok(State::ToDo);
    }
    if !RunFolder::has_run(path)? {
        return Err(foreign("is not the folder of a run: it has no config.toml".into()));
    }
    let share = &plan.shares[run.share];
    let mut recorded = Recipe::default().with(&resume::settings(path)?)?;
    let last = path.join("last.safetensors");
    let checkpoint = if last.exists() { Some(Checkpoint::open(&last)?) } else { None };
    if let Some(found) = checkpoint.as_ref().and_then(|c| c.origin.content.as_ref()) {
        let differences = match run.recipe.relabel.as_str() {
            NO_FILE => run.content.differences(found),
            // Predicted labels are known once the run has begun, and are checked when it is resumed.
            _ => run.content.differences_but_train_labels(found),
        };
        if !differences.is_empty() {
            let (parts, data) = (differences.join(" and "), &run.recipe.data);
            return Err(foreign(format!("is a run with other {parts} than those of --data {data}")));
        }
        recorded.data.clone_from(&run.recipe.data);
    } else if recorded.data != run.recipe.data {
        let recorded_name = checkpoint.as_ref().map(|c| c.subject.data.as_str());
        if resume::same_place(&recorded.data, &run.recipe.data) {
            // The checkpoint has the data's path as the run had it.
        } else if plan.data.known && recorded_name == Some(&plan.data.name) {
            recorded.data.clone_from(&run.recipe.data);
        } else {
            return Err(foreign(format!("is a run with --data {}, not {}", recorded.data, run.recipe.data)));
        }
    }
    if let Some(s) = deciding(share.optimizer).find(|s| s.name != "data" && s.get(&recorded) != s.get(&run.recipe)) {
        let (name, found, asked) = (s.name, s.get(&recorded), s.get(&run.recipe));
        return Err(foreign(format!("is a run with --{name} {found}, not {asked}")));
    }
    if let Some(divergence) = Divergence::read(path)? {
        return Ok(State::Diverged(divergence));
    }
    let metrics = path.join(METRICS);
    let recorded_epochs = last_epoch(&metrics, share)?;
    let whole = recorded_epochs == share.epochs;
    match checkpoint.map(|c| c.position.step) {
        // Records alone suffice: checkpoints are large, and need not travel from machine to machine.
        None if whole => Ok(State::Finished),
        Some(step) if whole && step >= share.steps => Ok(State::Finished),
        Some(step) if step >= share.steps => {
            let message = format!("{} has lost the row of the last epoch, the run's result", metrics.display());
            let advice = format!("move {} away, and the run is made again", path.display());
            Err(Error::data(format!("{message}; {advice}")))
        }
        Some(step) => {
            for s in SETTINGS.iter().filter(|s| s.section == RESUMABLE) {
                s.set(&mut recorded, s.get(&run.recipe))?;
            }
            Ok(State::Unfinished(Box::new(recorded), step))
        }
        None if recorded_epochs > 0 || steps_told(path) => {
            Err(foreign("has records, but no checkpoint to resume from".into()))
        }
        None => Ok(State::Stillborn),
    }
}

/// The settings that decide the course of a run of `optimizer`: not those of the machine, nor other optimizers' own.
fn deciding(optimizer: &'static OptimizerRow) -> impl Iterator<Item = &'static Setting> {
    let owned = move |name: &str, by: &OptimizerRow| by.settings.contains(&name);
    let others = move |s: &Setting| OPTIMIZERS.iter().any(|o| owned(s.name, o)) && !owned(s.name, optimizer);
    let seed = SETTINGS.iter().filter(|s| s.name == "opt" || s.name == "seed");
    seed.chain(course().filter(move |s| !others(s)))
}

/// Returns the last epoch of `share` that the metrics.csv at `path` has a row of, from 1; 0 if there is none. The rows of earlier
/// epochs may be lost.
fn last_epoch(path: &Path, share: &Share) -> Result<usize> {
    // Its first line reaches the disk with the first checkpoint.
    if !std::fs::metadata(path).is_ok_and(|m| m.len() > 0) {
        return Ok(0);
    }
    let steps = Metrics::read(path)?.column("step").unwrap_or_default();
    let per_epoch = share.steps / share.epochs as u64;
    let epoch_of = |step: &Option<f64>| (1..=share.epochs).find(|e| *step == Some((per_epoch * *e as u64) as f64));
    let epochs: Option<Vec<usize>> = steps.iter().map(epoch_of).collect();
    let Some(epochs) = epochs.filter(|epochs| epochs.is_sorted_by(|a, b| a < b)) else {
        let expected = format!("{} epochs of {per_epoch} steps", share.epochs);
        return Err(Error::data(format!("{} has other rows than a run of {expected}", path.display())));
    };
    Ok(epochs.last().copied().unwrap_or(0))
}

/// Returns true if the run in `path` has recorded a step.
fn steps_told(path: &Path) -> bool {
    std::fs::metadata(path.join("steps.jsonl")).is_ok_and(|m| m.len() > 0)
}

/// Empties the folder of a stillborn run.
///
/// # Errors
/// CantCreate: a process is just beginning it. Io: a file cannot be removed.
pub fn clear(path: &Path) -> Result<()> {
    let held = RunFolder::reopen(path)?;
    // The config goes last: while it is there, the folder is known for what it is.
    for file in [held.environment(), held.metrics(), held.steps(), held.config()] {
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &file, &e)),
            _ => {}
        }
    }
    Ok(())
}

/// The request of the comparison in `path`.
///
/// # Errors
/// NoInput: not the folder of a comparison. Data: the file is not what was written.
pub fn request_of(path: &Path) -> Result<Request> {
    let file = path.join(REQUEST);
    if file.is_file() {
        return Request::read(&file).map(|(request, _)| request);
    }
    let message = format!("{} is not the folder of a comparison: it has no {REQUEST}", path.display());
    Err(Error::new(Kind::NoInput, message))
}

/// Checks that `plan` may use the folder `path`: it is new, or was begun by an equal request, or holds nothing but runs.
///
/// # Errors
/// CantCreate: what speaks against it.
pub fn check(path: &Path, plan: &Plan) -> Result<()> {
    let entries = entries(path)?;
    let is_run = |name: &str| RunFolder::has_run(&path.join(name)).unwrap_or(false);
    if entries.iter().any(|name| name == REQUEST) {
        // A request that never came to a run, such as one with a wrong learning rate, binds nobody.
        let begun = entries.iter().any(|name| is_run(name));
        return if begun { plan.request.check_same(&request_of(path)?, path, Kind::CantCreate) } else { Ok(()) };
    }
    let planned = |name: &str| plan.runs.iter().any(|run| run.name == name);
    let own = |name: &str| OUTPUTS.contains(&name) || name.starts_with('.');
    match entries.iter().find(|name| !planned(name) && !own(name) && !is_run(name)) {
        Some(name) => {
            let message = format!("{} holds {name}, which is no run; give --out another folder", path.display());
            Err(Error::new(Kind::CantCreate, message))
        }
        None => Ok(()),
    }
}

/// Returns the names in the folder `path`, sorted; none if it is not there.
///
/// # Errors
/// NoInput: it cannot be read.
pub fn entries(path: &Path) -> Result<Vec<String>> {
    let failed = |e: std::io::Error| Error::io("read folder", path, &e);
    let listing = match files::read_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(failed)?,
    };
    let name =
        |e: std::io::Result<std::fs::DirEntry>| Ok(e.map_err(failed)?.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = listing.map(name).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The states of all runs of `plan` in `folder`, if there is one.
///
/// # Errors
/// As for [`state`].
pub fn states(folder: Option<&PathBuf>, plan: &Plan) -> Result<Vec<State>> {
    let of = |run: &Run| folder.map_or(Ok(State::ToDo), |folder| state(&folder.join(&run.name), run, plan));
    plan.runs.iter().map(of).collect()
}

/// Loads the data of the comparison in `path`: from where `recipe` says, or else from where its runs had them, which `recipe` then
/// says.
///
/// # Errors
/// NoInput: they are in neither place. Data: their files are wrong.
pub fn data(path: &Path, recipe: &mut Recipe) -> Result<DataSet> {
    let here = data::load_as(&recipe.data, recipe.labels);
    if here.as_ref().is_err_and(|e| e.kind == Kind::NoInput) {
        for before in entries(path)?.iter().filter_map(|name| resume::data_before(&path.join(name))) {
            if let Ok(there) = data::load_as(&before, recipe.labels) {
                recipe.data = before;
                return Ok(there);
            }
        }
    }
    here.map_err(resume::moved)
}

/// Checks the file of --init if there are runs that begin with it.
///
/// # Errors
/// Those of reading it.
pub fn check_init(plan: &Plan, states: &[State]) -> Result<()> {
    let to_begin = states.iter().any(|state| matches!(state, State::ToDo | State::Stillborn));
    if to_begin { plan.init.clone() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{fabricate, plan};
    use super::*;
    use crate::files::TestFolder;
    use crate::models;
    use crate::train::checkpoint::{Position, Remembered};
    use crate::train::engine;
    use crate::train::origin::Origin;
    use std::fs;

    /// A checkpoint of `run` after `step` steps.
    fn save(folder: &Path, run: &Run, step: u64) {
        let data = crate::data::load("fashion-mnist").unwrap();
        let source = engine::source(&data, run.recipe.augment());
        let graph = models::classifier(&models::find("cnn").unwrap(), &source, &models::Setup::default()).unwrap();
        let subject = engine::subject("cnn", &data, &source);
        let vectors = engine::initial(&graph, 0, Remembered { optimizer: &["momentum"], average: false });
        let position = Position { step, ..Position::default() };
        let origin = Origin::of(&run.recipe, None);
        Checkpoint { subject, position, origin, vectors }
            .write(&graph, &folder.join("last.safetensors"), false)
            .unwrap();
    }

    fn edit(path: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    #[track_caller]
    fn refused(result: Result<impl std::fmt::Debug>, kind: Kind, message: &str) {
        let e = result.unwrap_err();
        assert!(e.kind == kind && e.to_string().contains(message), "{e}");
    }

    #[test]
    fn finished_unfinished_and_stillborn_runs_are_told_apart() {
        let scratch = TestFolder::new("states");
        let plan = plan(&["sgd", "sam"], 1);
        let sam = &plan.runs[1];
        let path = scratch.0.join(&sam.name);
        let now = || state(&path, sam, &plan);
        assert_eq!(now(), Ok(State::ToDo));
        fs::create_dir(&path).unwrap();
        fs::write(path.join(".lock"), "").unwrap();
        fs::write(path.join(".config.toml.7.0.tmp"), "lr").unwrap();
        assert_eq!(now(), Ok(State::ToDo));
        // Killed before its first checkpoint: metrics.csv is still empty.
        fs::write(path.join("config.toml"), sam.recipe.to_toml()).unwrap();
        fs::write(path.join("metrics.csv"), "").unwrap();
        assert_eq!(now(), Ok(State::Stillborn));
        clear(&path).unwrap();
        assert_eq!(now(), Ok(State::ToDo));

        // Records alone make a finished run; a checkpoint that is older than they are says that the end was not saved.
        fs::remove_dir_all(&path).unwrap();
        fabricate(&scratch.0, &plan, 1, 3, 0.9);
        assert_eq!(now(), Ok(State::Finished));
        save(&path, sam, 2 * 468);
        assert_eq!(now(), Ok(State::Unfinished(Box::new(sam.recipe.clone()), 936)));
        save(&path, sam, 3 * 468);
        assert_eq!(now(), Ok(State::Finished));
        // Rows of earlier epochs may be lost, that of the last is the run's result.
        let metrics = fs::read_to_string(path.join("metrics.csv")).unwrap();
        let lines: Vec<&str> = metrics.lines().collect();
        fs::write(path.join("metrics.csv"), format!("{}\n{}\n", lines[0], lines[3])).unwrap();
        assert_eq!(now(), Ok(State::Finished));
        fs::write(path.join("metrics.csv"), format!("{}\n{}\n", lines[0], lines[2])).unwrap();
        refused(now(), Kind::Data, "metrics.csv has lost the row of the last epoch");
        fs::write(path.join("metrics.csv"), &metrics).unwrap();
        edit(&path.join("metrics.csv"), "\n3,1404,", "\n3,1405,");
        refused(now(), Kind::Data, "metrics.csv has other rows than a run of 3 epochs of 468 steps");

        // A run that is resumed keeps the device and threads of this machine, not those it began on.
        fs::remove_dir_all(&path).unwrap();
        fabricate(&scratch.0, &plan, 1, 1, 0.9);
        refused(now(), Kind::CantCreate, "sam-seed0 has records, but no checkpoint to resume from");
        save(&path, sam, 500);
        edit(&path.join("config.toml"), "threads = 0", "threads = 9");
        assert_eq!(now(), Ok(State::Unfinished(Box::new(sam.recipe.clone()), 500)));
        fs::write(path.join("last.safetensors"), "torn").unwrap();
        refused(now(), Kind::Data, "last.safetensors");
    }

    #[test]
    fn runs_with_equal_settings_are_taken_and_others_named() {
        let scratch = TestFolder::new("equality");
        let plan = plan(&["sgd", "sam"], 1);
        for (i, from, to, difference) in [
            (0, "threads = 0", "threads = 3", None),
            (0, "checkpoint_every = 1", "checkpoint_every = 9", None),
            // SGD has no use for rho, SAM has.
            (0, "rho = 0.05", "rho = 0.7", None),
            (1, "rho = 0.05", "rho = 0.7", Some("--rho 0.7, not 0.05")),
            // As a version that did not have the setting wrote it.
            (1, "clip = 0.0\n", "", None),
            (1, "momentum = 0.9", "momentum = 0.8", Some("--momentum 0.8, not 0.9")),
            (1, "seed = 0", "seed = 1", Some("--seed 1, not 0")),
            (0, "epochs = 6", "epochs = 3", Some("--epochs 3, not 6")),
            (0, "opt = \"sgd\"", "opt = \"sam\"", Some("--opt sam, not sgd")),
            (0, "model = \"cnn\"", "model = \"mlp\"", Some("--model mlp, not cnn")),
            (0, "data = \"fashion-mnist\"", "data = \"elsewhere\"", Some("--data elsewhere, not fashion-mnist")),
        ] {
            let run = &plan.runs[i];
            let path = scratch.0.join(&run.name);
            let _ = fs::remove_dir_all(&path);
            fabricate(&scratch.0, &plan, i, run.recipe.epochs as u32, 0.9);
            edit(&path.join("config.toml"), from, to);
            match difference {
                None => assert_eq!(state(&path, run, &plan), Ok(State::Finished), "{to}"),
                Some(message) => refused(state(&path, run, &plan), Kind::CantCreate, message),
            }
        }
        // The last one again, with a checkpoint that says that these were the known set's images.
        let path = scratch.0.join("sgd-seed0");
        save(&path, &plan.runs[0], plan.shares[0].steps);
        assert_eq!(state(&path, &plan.runs[0], &plan), Ok(State::Finished));
        // A lost config.toml is known from the checkpoint.
        fs::remove_file(path.join("config.toml")).unwrap();
        assert_eq!(state(&path, &plan.runs[0], &plan), Ok(State::Finished));
        fs::remove_file(path.join("last.safetensors")).unwrap();
        refused(state(&path, &plan.runs[0], &plan), Kind::CantCreate, "is not the folder of a run");
    }

    #[test]
    fn a_folder_of_other_things_or_of_another_comparison_is_refused() {
        let scratch = TestFolder::new("foreign");
        let plan = plan(&["sgd", "sam"], 1);
        let path = scratch.0.join("comparison");
        assert_eq!(check(&path, &plan), Ok(()));
        fabricate(&path, &plan, 1, 3, 0.9);
        fs::write(path.join("table.md"), "").unwrap();
        assert_eq!(check(&path, &plan), Ok(()), "runs that train has made");
        fs::write(path.join("notes.txt"), "").unwrap();
        refused(check(&path, &plan), Kind::CantCreate, "comparison holds notes.txt, which is no run");
        refused(request_of(&path), Kind::NoInput, "it has no compare.toml");

        let mut other = plan.request.clone();
        other.recipe.lr = 0.3;
        fs::write(path.join(REQUEST), other.to_toml()).unwrap();
        refused(check(&path, &plan), Kind::CantCreate, "holds a comparison with --lr 0.3, not 0.1; give another");
        fs::write(path.join(REQUEST), plan.request.to_toml()).unwrap();
        assert_eq!((check(&path, &plan), request_of(&path)), (Ok(()), Ok(plan.request.clone())));
        // A request that never came to a run binds nobody.
        fs::write(path.join(REQUEST), other.to_toml()).unwrap();
        fs::remove_dir_all(path.join("sam-seed0")).unwrap();
        assert_eq!(check(&path, &plan), Ok(()));
    }
}
