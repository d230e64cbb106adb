//! Before the first step: which images are trained on, and the folder of a new run or of one that is resumed.

use super::checkpoint::{Checkpoint, Opened, Position, Remembered, Subject, Vectors};
use super::init::{self, Init};
use super::origin::Content;
use super::outcome::Where;
use super::records::{Extras, Kept, Records};
use super::resume::DATA_FOLDER;
use super::run_folder::RunFolder;
use super::{engine, environment, labels, resume};
use crate::data::augment::AutoAugment;
use crate::data::{self, DataSet};
use crate::error::{Error, Kind, Result};
use crate::files::{MAX_JSON, read_bytes, write_atomic};
use crate::graph::Graph;
use crate::recipe::{NO_FILE, Padding, Recipe};
use std::path::Path;

/// Images to train on and images held out, by their numbers in the training split. Where only some of its images are used,
/// both parts are of these.
///
/// # Errors
/// If either part is too small, the recipe's batch or crop does not fit the images, or settings of labels do not belong
/// together.
pub(crate) fn orders(recipe: &Recipe, data: &DataSet) -> Result<(Vec<u32>, Vec<u32>)> {
    labels::check(recipe)?;
    let used = match recipe.train_images {
        0 => (0..data.train.count as u32).collect(),
        images => data::subset(recipe.seed, images, data.train.count)?,
    };
    let (train, held_out) = match recipe.val_fraction {
        0.0 => (used, vec![]),
        share => {
            let numbers = |places: Vec<u32>| places.into_iter().map(|i| used[i as usize]).collect::<Vec<u32>>();
            let (train, held_out) = data::validation(recipe.seed, share, used.len())?;
            (numbers(train), numbers(held_out))
        }
    };
    if recipe.batch > train.len() {
        let (batch, images) = (recipe.batch, train.len());
        return Err(Error::usage(format!(
            "--batch {batch} is more than the {images} training images of {}",
            data.name
        )));
    }
    if recipe.mixup > 0.0 && recipe.batch == 1 {
        return Err(Error::usage("--mixup mixes the images of a batch; --batch 1 has one"));
    }
    if recipe.autoaugment {
        AutoAugment::new(data, recipe.seed)?;
    }
    if recipe.crop_padding == Padding::Reflect && recipe.crop >= data.train.h.min(data.train.w) {
        return Err(Error::usage(format!("--crop {} mirrors more than the image has", recipe.crop)));
    }
    Ok((train, held_out))
}

/// Returns the vectors that a run begins with: initial weights, or those of the file that `recipe` names, with a report on it.
///
/// # Errors
/// Those of [`init::load`].
pub(crate) fn beginning(recipe: &Recipe, graph: &Graph, remembered: Remembered) -> Result<(Vectors, Option<Init>)> {
    let mut vectors = engine::initial(graph, recipe.seed, remembered);
    if recipe.init == NO_FILE {
        return Ok((vectors, None));
    }
    let init = init::load(recipe.init.as_ref(), graph, &mut vectors)?;
    Ok((vectors, Some(init)))
}

/// A run, as its folder tells of it.
pub(super) struct About<'a> {
    pub recipe: &'a Recipe,
    pub data: &'a DataSet,
    pub content: &'a Content,
    /// Instruction set of the device.
    pub isa: &'a str,
    pub extras: Extras,
    pub steps_per_epoch: u64,
}

/// The folder of a new run, with its config and environment, and empty records.
///
/// # Errors
/// If the folder cannot be used; nothing in it is then touched.
pub(super) fn begin(about: &About<'_>, place: &Where, init: Option<&Init>) -> Result<(RunFolder, Records)> {
    let recipe = about.recipe;
    let name = place.name.clone().unwrap_or_else(|| format!("{}-{}", recipe.opt, recipe.model));
    let folder = RunFolder::create("runs".as_ref(), &name, place.out.as_deref())?;
    write_atomic(&folder.config(), recipe.to_toml().as_bytes())?;
    let records = furnish(&folder, about, init)?;
    Ok((folder, records))
}

/// The environment and empty records of a run that has done no step.
fn furnish(folder: &RunFolder, about: &About<'_>, init: Option<&Init>) -> Result<Records> {
    let mut environment = environment::environment(about.isa, about.recipe.threads);
    // Absolute, so that the run can be resumed from any folder.
    let data = about.data.folder.canonicalize().unwrap_or_else(|_| about.data.folder.clone());
    environment[DATA_FOLDER] = data.display().to_string().into();
    if let Some(init) = init {
        environment["init"] = init.origin();
        write_atomic(&folder.init(), format!("{:#}\n", init.to_json()).as_bytes())?;
    }
    write_atomic(&folder.environment(), format!("{environment:#}\n").as_bytes())?;
    Records::create(folder, about.extras)
}

/// A run as its folder holds it.
pub(super) struct Resumed {
    pub folder: RunFolder,
    pub records: Records,
    pub position: Position,
    pub vectors: Vectors,
    /// The subject of its later checkpoints.
    pub subject: Subject,
    /// The instruction set that the run began with, if its environment says.
    pub isa: Option<String>,
    /// Losses, and their consequences.
    pub notes: Vec<String>,
}

/// Opens the run in the folder `path`, which must be of `subject`, with its records cut back to the checkpoint. One that was
/// killed before its first checkpoint begins. All is checked before anything is written.
///
/// # Errors
/// If it is no run's folder, in use, or its files do not belong together.
pub(super) fn resume(
    path: &Path,
    about: &About<'_>,
    graph: &Graph,
    subject: Subject,
    remembered: Remembered,
) -> Result<Resumed> {
    let folder = RunFolder::reopen(path)?;
    let file = folder.last();
    if !file.exists() {
        return begin_again(folder, about, graph, subject, remembered);
    }
    let opened = Checkpoint::open(&file)?;
    let recorded = opened.recipe(&file)?;
    if let Some(recorded) = &recorded {
        resume::check_course(recorded, about.recipe, path)?;
    }
    let subject = subject_of(&opened, recorded.as_ref(), subject, about, path)?;
    let vectors = opened.vectors(graph, remembered, &file)?;
    let mut position = opened.position;
    let epochs = about.recipe.epochs;
    let total = about.steps_per_epoch * epochs as u64;
    if position.step > total {
        let (step, file) = (position.step, file.display());
        return Err(Error::usage(format!("--epochs {epochs} are {total} steps, fewer than the {step} of {file}")));
    }
    let kept = Kept::read(&folder, about.extras, position.step)?;
    let mut notes = kept.losses(about.steps_per_epoch);
    if let Some(loss) = best_lost(&folder, &position)? {
        let left = position.step < total;
        let follows = if left { "the best of the epochs that are left takes its place" } else { "no epoch is left" };
        notes.push(format!("{loss}; {follows}"));
        if left {
            (position.best_accuracy, position.best_epoch) = (0.0, 0);
        }
    }
    notes.extend(update_config(&folder, about.recipe)?);
    let environment = read_bytes(&folder.environment(), MAX_JSON).ok();
    let environment = environment.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let isa = environment.and_then(|e| Some(e.get("instructions")?.as_str()?.to_owned()));
    Ok(Resumed { records: kept.open()?, folder, position, vectors, subject, isa, notes })
}

/// Begins the run in `folder`, which has no checkpoint, unless it has done steps that are lost.
fn begin_again(
    folder: RunFolder,
    about: &About<'_>,
    graph: &Graph,
    subject: Subject,
    remembered: Remembered,
) -> Result<Resumed> {
    let done = folder.best().exists() || folder.curves().exists();
    if done || Kept::read(&folder, about.extras, u64::MAX).map_or(true, |kept| kept.any()) {
        let (folder, config) = (folder.path().display(), folder.config());
        let lost = format!("{folder} has no checkpoint to resume, although the run has done steps");
        let message = format!("{lost}; start another one with --config {}", config.display());
        return Err(Error::new(Kind::NoInput, message));
    }
    let (vectors, init) = beginning(about.recipe, graph, remembered)?;
    let notes = vec![format!("{} holds no step of a run yet, so it begins at step 1", folder.path().display())];
    update_config(&folder, about.recipe)?;
    let records = furnish(&folder, about, init.as_ref())?;
    Ok(Resumed { folder, records, position: Position::default(), vectors, subject, isa: None, notes })
}

/// Returns the subject of a run's later checkpoints: that of the one that was `opened` unless its data have another name.
///
/// # Errors
/// Data: the model, the images or the labels are others.
fn subject_of(
    opened: &Opened,
    recorded: Option<&Recipe>,
    subject: Subject,
    about: &About<'_>,
    path: &Path,
) -> Result<Subject> {
    let other = |subject: &Subject| {
        let (found, file) = (&opened.subject, RunFolder::last_in(path));
        Error::data(format!("{} is of {found}, but the run is of {subject}", file.display()))
    };
    let before = &opened.subject;
    let Some(content) = &opened.origin.content else {
        return if *before == subject { Ok(subject) } else { Err(other(&subject)) };
    };
    let shape = |s: &Subject| (s.model.clone(), s.h, s.w, s.c);
    if shape(before) != shape(&subject) {
        return Err(other(&subject));
    }
    resume::check_content(content, about.content, about.data, path)?;
    let kept = Subject { data: before.data.clone(), ..subject.clone() };
    if kept != *before {
        return Err(other(&subject));
    }
    Ok(if recorded.is_some_and(|r| r.data == about.recipe.data) { kept } else { subject })
}

/// Returns what is wrong with the best checkpoint of a run at `position`, if it should have one.
///
/// # Errors
/// NoInput, Io: whether it is sound cannot be found out. That is no reason to give it up.
fn best_lost(folder: &RunFolder, position: &Position) -> Result<Option<String>> {
    let (best, epoch) = (folder.best(), position.best_epoch);
    if epoch == 0 {
        return Ok(None);
    }
    let (path, percent) = (best.display(), 100.0 * position.best_accuracy);
    let loss = match Checkpoint::open(&best) {
        // Where the run was killed before its next checkpoint, the best may be of a later epoch, which is done again.
        Ok(found) if found.position.best_epoch >= epoch => return Ok(None),
        Ok(found) => format!("{path} is of epoch {}, not of epoch {epoch}", found.position.best_epoch),
        Err(_) if best.try_exists().is_ok_and(|there| !there) => {
            format!("{path}, of epoch {epoch} with {percent:.2} %, is missing")
        }
        Err(e) if e.kind == Kind::Data => e.to_string(),
        Err(e) => return Err(Error::new(e.kind, format!("{e}; without this file the run can be resumed too"))),
    };
    Ok(Some(loss))
}

/// Writes config.toml where it is lost or has another place of the data or length of the run than `recipe`.
fn update_config(folder: &RunFolder, recipe: &Recipe) -> Result<Option<String>> {
    let config = folder.config();
    if !config.exists() {
        write_atomic(&config, recipe.to_toml().as_bytes())?;
        let what = "was lost and is restored from the checkpoint; settings of the machine have their defaults";
        return Ok(Some(format!("{} {what}", config.display())));
    }
    let before = Recipe::read(&config)?;
    let Recipe { data, epochs, warmup, .. } = recipe.clone();
    let now = Recipe { data, epochs, warmup, ..before.clone() };
    if now != before {
        write_atomic(&config, now.to_toml().as_bytes())?;
    }
    Ok(None)
}
