//! The measured parts of a checkpoint's run: the weights that it was evaluated by, the images and labels that it trained on.

use super::checkpoint::{Opened, Weights};
use super::labels;
use super::opening;
use super::origin::Content;
use super::run_folder::RunFolder;
use crate::data::{Bytes, DataSet};
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Choice of training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subset {
    /// The images that the run trained on.
    Run,
    /// All of the data set.
    All,
}

/// Choice of training labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelsOf {
    /// The labels that the run trained on, with noise and predictions.
    Run,
    /// The right ones, as far as they are known.
    Clean,
}

impl LabelsOf {
    /// Names as flags and results have them.
    pub const NAMES: [(&'static str, LabelsOf); 2] = [("run", LabelsOf::Run), ("clean", LabelsOf::Clean)];
}

/// Wanted training images and labels; None is the run's own where the run is known and the data are its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub subset: Option<Subset>,
    pub labels: Option<LabelsOf>,
}

/// The run that wrote a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointRun {
    file: PathBuf,
    folder: PathBuf,
    /// The run's settings, or why they are not known.
    recipe: std::result::Result<Recipe, String>,
    /// What the run's data hold, where the file says so.
    content: Option<Content>,
}

/// Weights that were taken from a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub average: bool,
    /// The setting that made the average, where the run is known: "ema" or "swa".
    pub by: Option<&'static str>,
    /// The file has the other ones too.
    pub both: bool,
}

impl Taken {
    /// Returns a line for the terminal; None where the run made no average.
    pub fn sentence(&self) -> Option<String> {
        let by = self.by.map_or_else(String::new, |by| format!(" ({by})"));
        match (self.average, self.both) {
            (true, true) => Some(format!("weights: the running average{by}; --weights raw takes the others")),
            (true, false) => Some(format!("weights: the running average{by}")),
            (false, true) => {
                Some(format!("weights: raw; the run was evaluated by its running average{by}, --weights average"))
            }
            (false, false) => None,
        }
    }

    /// Returns "raw" or "average".
    pub fn name(&self) -> &'static str {
        if self.average { "average" } else { "raw" }
    }
}

/// Training images of a data set, as they are to be measured; the set has their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Numbers of the images that are trained on, and of those held out, ascending.
    pub train: Vec<u32>,
    pub held_out: Vec<u32>,
    subset: Subset,
    /// "run", "clean", or "files": as they are in the files.
    labels: &'static str,
    /// Right labels of all training images, where the set is known to have wrong ones.
    truth: Option<Vec<u8>>,
    /// Why the images are not the run's own, where that was not asked for.
    reason: Option<String>,
}

impl Images {
    fn wrong(&self, data: &DataSet, images: &[u32]) -> Option<usize> {
        let truth = self.truth.as_deref()?;
        Some(images.iter().map(|i| *i as usize).filter(|i| data.train.labels[*i] != truth[*i]).count())
    }

    /// Returns why the images are not the run's own, where that was not asked for.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Returns a line for the terminal on `images`, which are some of these and called `what`.
    pub fn sentence(&self, data: &DataSet, images: &[u32], what: &str) -> String {
        let count = data.train.count;
        let which = match self.subset {
            Subset::Run => format!("{what}: {} of the run's own, of {count} in the data set", images.len()),
            Subset::All => format!("{what}: {} of all {count} in the data set", images.len()),
        };
        let labels = match self.labels {
            "run" => "as the run trained on them",
            "clean" => "clean",
            _ => "as in the files",
        };
        let wrong = match self.wrong(data, images) {
            Some(0) | None => String::new(),
            Some(wrong) => format!(", {wrong} of them wrong"),
        };
        let reason = self.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("{which}; labels {labels}{wrong}{reason}")
    }

    /// Returns the same for results.
    pub fn to_json(&self, data: &DataSet, images: &[u32]) -> Value {
        let subset = if self.subset == Subset::Run { "run" } else { "all" };
        json!({
            "subset": subset, "images": images.len(), "labels": self.labels,
            "wrong_labels": self.wrong(data, images), "reason": self.reason,
        })
    }
}

impl CheckpointRun {
    /// Returns the run of the checkpoint `file`. Its settings are those that the file records; of an older file, those of
    /// the config.toml beside it.
    pub fn of(file: &Path, opened: &Opened) -> CheckpointRun {
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let beside = || match RunFolder::config_of(&folder) {
            Err(_) => Err("it records no settings, and no config.toml of its run lies beside it".to_owned()),
            Ok(config) => match Recipe::read(&config) {
                Ok(recipe) if recipe.model == opened.subject.model => Ok(recipe),
                Ok(recipe) => Err(format!("{} is of a run of {}", config.display(), recipe.model)),
                Err(e) => Err(e.to_string()),
            },
        };
        let recipe = match opened.recipe(file) {
            Ok(Some(recipe)) => Ok(recipe),
            Ok(None) => beside(),
            Err(e) => Err(e.to_string()),
        };
        CheckpointRun { file: file.to_path_buf(), folder, recipe, content: opened.origin.content.clone() }
    }

    /// Returns which weights of the file are taken where `weights` are asked for.
    ///
    /// # Errors
    /// Usage: the file does not have them.
    pub fn taken(&self, opened: &Opened, weights: Weights) -> Result<Taken> {
        let by = self.recipe.as_ref().ok().and_then(|recipe| match (recipe.ema > 0.0, recipe.swa > 0.0) {
            (true, _) => Some("ema"),
            (_, true) => Some("swa"),
            _ => None,
        });
        let both = opened.has_average();
        // A file of weights alone holds what its run was evaluated by.
        let average = if both { weights != Weights::Raw } else { by.is_some() };
        let file = self.file.display();
        match weights {
            Weights::Raw if average => Err(Error::usage(format!(
                "--weights raw: {file} holds the running average alone; give last.safetensors of the same run"
            ))),
            Weights::Average if !average => {
                Err(Error::usage(format!("--weights average: {file} has no running average of its weights")))
            }
            _ => Ok(Taken { average, by: by.filter(|_| average || both), both }),
        }
    }

    /// Gives the training images in `data` the labels that are asked for and returns which images these are. The data are
    /// the run's own if their content is; `same_name` decides for a file that does not record it.
    ///
    /// # Errors
    /// Usage: the run's own are asked for and the run is not known. Data, NoInput: labels or a record of noise cannot be
    /// used, or those of the run cannot be had from this data.
    pub fn images(&self, data: &mut DataSet, same_name: bool, wanted: Wanted) -> Result<Images> {
        let content = self.content.as_ref();
        let own = content.map_or(same_name, |own| own.differences_but_train_labels(&Content::of(data)).is_empty());
        let asked = |what: &str, reason: &str| {
            let message = format!("--{what} run: the run of {} is not known: {reason}", self.file.display());
            Err(Error::usage(message))
        };
        let known = self.recipe.as_ref().map_err(String::as_str);
        let by_default = known.is_ok() && own;
        let subset = wanted.subset.unwrap_or(if by_default { Subset::Run } else { Subset::All });
        let labels = wanted.labels.or(by_default.then_some(LabelsOf::Run));
        let all = || ((0..data.train.count as u32).collect(), vec![]);
        let (train, held_out) = match (subset, known) {
            (Subset::All, _) => all(),
            (Subset::Run, Ok(recipe)) => opening::orders(recipe, data)?,
            (Subset::Run, Err(reason)) => return asked("subset", reason),
        };
        let mut relabelled = false;
        let (truth, labels) = match (labels, known) {
            (Some(LabelsOf::Run), Ok(recipe)) => {
                let files = data.train.labels.to_vec();
                let truth = labels::of_run(data, recipe, &self.folder)?;
                relabelled =
                    own && content.is_some_and(|content| *content != content.with_train_labels(&data.train.labels));
                match (relabelled, wanted.labels) {
                    (false, _) => (truth, "run"),
                    (true, Some(_)) => {
                        let message = "has other training labels than those that the run trained on";
                        return Err(Error::data(format!("--labels run: {} {message}", data.name)));
                    }
                    (true, None) => {
                        data.train.labels = Bytes::owned(files, 0);
                        (labels::recorded(data)?, "files")
                    }
                }
            }
            (Some(LabelsOf::Run), Err(reason)) => return asked("labels", reason),
            (Some(LabelsOf::Clean), _) => (labels::clean(data)?, "clean"),
            (None, _) => (labels::recorded(data)?, "files"),
        };
        let reason = match known {
            _ if wanted.subset.is_some() && wanted.labels.is_some() => None,
            Err(reason) => Some(reason.to_owned()),
            Ok(_) if !own => Some(format!("{} is not the data that the run trained on", data.name)),
            Ok(_) if relabelled => Some(format!("{} has other training labels than the run's", data.name)),
            Ok(_) => None,
        };
        Ok(Images { train, held_out, subset, labels, truth, reason })
    }
}
