//! Before the first step: which images are trained on, and the folder of a new run or of one that goes on.

use super::checkpoint::{Checkpoint, Position, Remembered, Subject, Vectors};
use super::init::{self, Init};
use super::outcome::Where;
use super::records::{Extras, Records};
use super::run_folder::RunFolder;
use super::{engine, environment, labels};
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

/// What a run begins with: initial weights, or what the file that `recipe` names has of them, with what that was.
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

/// The folder of a new run, with its config and environment, and empty records.
///
/// # Errors
/// If the folder cannot be used; nothing in it is then touched.
pub(super) fn begin(
    recipe: &Recipe,
    place: &Where,
    isa: &str,
    extras: Extras,
    init: Option<&Init>,
) -> Result<(RunFolder, Records)> {
    let name = place.name.clone().unwrap_or_else(|| format!("{}-{}", recipe.opt, recipe.model));
    let folder = RunFolder::create("runs".as_ref(), &name, place.out.as_deref())?;
    write_atomic(&folder.config(), recipe.to_toml().as_bytes())?;
    let records = furnish(&folder, recipe, isa, extras, init)?;
    Ok((folder, records))
}

/// The environment and empty records of a run that has done no step.
fn furnish(folder: &RunFolder, recipe: &Recipe, isa: &str, extras: Extras, init: Option<&Init>) -> Result<Records> {
    let mut environment = environment::environment(isa, recipe.threads);
    if let Some(init) = init {
        environment["init"] = init.origin();
        write_atomic(&folder.init(), format!("{:#}\n", init.to_json()).as_bytes())?;
    }
    write_atomic(&folder.environment(), format!("{environment:#}\n").as_bytes())?;
    Records::create(folder, extras)
}

/// A run as its folder holds it.
pub(super) struct Resumed {
    pub folder: RunFolder,
    pub records: Records,
    pub position: Position,
    pub vectors: Vectors,
    /// The instruction set that the run began with, if its environment says.
    pub isa: Option<String>,
}

/// The run of `recipe` in the folder `path`, which must be of `subject`, with its records cut back to the checkpoint. One
/// that was killed before its first checkpoint begins.
///
/// # Errors
/// If it is no run's folder, in use, or its files do not belong together.
pub(super) fn go_on(
    path: &Path,
    recipe: &Recipe,
    graph: &Graph,
    subject: &Subject,
    remembered: Remembered,
    isa: &str,
    extras: Extras,
) -> Result<Resumed> {
    let folder = RunFolder::reopen(path)?;
    let file = folder.last();
    if !file.exists() && std::fs::metadata(folder.steps()).map_or(true, |steps| steps.len() == 0) {
        let (vectors, init) = beginning(recipe, graph, remembered)?;
        let records = furnish(&folder, recipe, isa, extras, init.as_ref())?;
        return Ok(Resumed { folder, records, position: Position::default(), vectors, isa: None });
    }
    if !file.exists() {
        let (folder, config) = (path.display(), folder.config());
        let message =
            format!("{folder} has no checkpoint to go on from; begin anew with --config {}", config.display());
        return Err(Error::new(Kind::NoInput, message));
    }
    let opened = Checkpoint::open(&file)?;
    if opened.subject != *subject {
        let (found, file) = (&opened.subject, file.display());
        return Err(Error::data(format!("{file} is of {found}, but the run is of {subject}")));
    }
    let vectors = opened.vectors(graph, remembered, &file)?;
    let position = opened.position;
    let (records, last) = Records::resume(&folder, extras, position.step)?;
    if last < position.step {
        let (step, path) = (position.step, folder.steps());
        let message = format!("{} ends at step {last}, the checkpoint is of {step}", path.display());
        return Err(Error::data(message));
    }
    let environment = read_bytes(&folder.environment(), MAX_JSON).ok();
    let environment = environment.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let isa = environment.and_then(|e| Some(e.get("instructions")?.as_str()?.to_owned()));
    Ok(Resumed { folder, records, position, vectors, isa })
}
