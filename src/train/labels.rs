//! The labels that a run trains on: noise among them, predictions in their place, and how a model takes the wrong ones.
//!
//! Noise is drawn over all training images of the set, those that are held out included: whoever has noisy labels has no
//! clean ones to choose by. Test labels stay as they are. Predictions replace the labels of the images that are trained on
//! alone, for a model that is judged by its predecessor's predictions would be praised for its mistakes.

use super::checkpoint::{Checkpoint, Weights};
use super::engine::{self, Evaluator, JUDGED};
use super::measured::CheckpointRun;
use super::outcome::Where;
use super::records::NoiseScores;
use super::run_folder::RunFolder;
use crate::data::noise::{NOISE_FILE, Noise, Record, labels_file};
use crate::data::{Bytes, DataSet, idx};
use crate::device::DatasetBytes;
use crate::error::{Error, Kind, Result};
use crate::exec::Exec;
use crate::files::write_atomic;
use crate::output::note;
use crate::recipe::{NO_FILE, Recipe};
use serde_json::json;
use std::path::Path;

/// Counts of the labels of a run's training images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub images: usize,
    /// Labels that are not the right ones, where those are known.
    pub wrong: Option<usize>,
    pub relabelled: Option<Relabelled>,
}

/// Changes by predictions that replace labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relabelled {
    pub changed: usize,
    /// Where the right labels are known: those that were wrong before, those of them that are right now, and those that were
    /// right and are no longer.
    pub wrong_before: Option<usize>,
    pub corrected: Option<usize>,
    pub spoiled: Option<usize>,
}

impl Counts {
    /// As the result of a run and its labels.json have them.
    pub fn to_json(&self) -> serde_json::Value {
        let relabelled = self.relabelled.map(|r| {
            json!({"changed": r.changed, "wrong_before": r.wrong_before, "corrected": r.corrected, "spoiled": r.spoiled})
        });
        json!({"images": self.images, "wrong": self.wrong, "relabelled": relabelled})
    }

    /// A sentence each on relabelling and noise, if there is any.
    pub fn sentences(&self) -> Vec<String> {
        let mut told = Vec::new();
        if let Some(r) = self.relabelled {
            let known = match (r.wrong_before, r.corrected, r.spoiled) {
                (Some(wrong), Some(corrected), Some(spoiled)) => {
                    format!("; fixed {corrected} of {wrong} wrong labels, broke {spoiled} correct ones")
                }
                _ => String::new(),
            };
            told.push(format!("predictions have changed {} of {} training labels{known}", r.changed, self.images));
        }
        if let Some(wrong) = self.wrong {
            told.push(format!("{wrong} of {} training labels are wrong; test labels are clean", self.images));
        }
        told
    }
}

/// Checks that the settings of labels go together.
///
/// # Errors
/// Usage: one that does nothing by itself.
pub fn check(recipe: &Recipe) -> Result<()> {
    if recipe.noise_all && recipe.label_noise == 0.0 {
        return Err(Error::usage("--noise-all needs --label-noise, the share of labels that are drawn"));
    }
    engine::setup(recipe).map(|_| ())
}

/// The labels of a run.
pub(super) struct Labels {
    /// Right labels of all training images of the set, where it is known to have wrong ones.
    truth: Option<Vec<u8>>,
    counts: Counts,
}

impl Labels {
    /// Gives the training images in `data` the labels that `recipe` asks for. Of a run that goes on, predictions are those
    /// that its folder holds.
    ///
    /// # Errors
    /// Usage: noise on top of noise. Data, NoInput: a record of noise, a checkpoint or labels that cannot be used.
    pub fn settle(data: &mut DataSet, recipe: &Recipe, order: &[u32], place: &Where) -> Result<Labels> {
        let truth = add_noise(data, recipe)?;
        let wrong = |labels: &[u8]| {
            let truth = truth.as_deref()?;
            Some(order.iter().filter(|i| labels[**i as usize] != truth[**i as usize]).count())
        };
        let mut counts = Counts { images: order.len(), wrong: wrong(&data.train.labels), relabelled: None };
        if recipe.relabel != NO_FILE {
            let new = match &place.resume {
                Some(folder) if RunFolder::labels_in(folder).exists() => stored(&RunFolder::labels_in(folder), data)?,
                Some(folder) if RunFolder::has_begun(folder) => {
                    let file = RunFolder::labels_in(folder);
                    let message = format!("{}, the labels that the run began with, is missing", file.display());
                    return Err(Error::new(Kind::NoInput, message));
                }
                _ => predicted(Path::new(&recipe.relabel), recipe, data, order)?,
            };
            let count = |of: &dyn Fn(u8, u8, usize) -> bool| {
                order.iter().map(|i| *i as usize).filter(|i| of(data.train.labels[*i], new[*i], *i)).count()
            };
            let known = truth.as_deref();
            counts.relabelled = Some(Relabelled {
                changed: count(&|old, new, _| old != new),
                wrong_before: counts.wrong,
                corrected: known.map(|right| count(&|old, new, i| old != right[i] && new == right[i])),
                spoiled: known.map(|right| count(&|old, new, i| old == right[i] && new != right[i])),
            });
            counts.wrong = wrong(&new);
            data.train.labels = Bytes::owned(new, 0);
        }
        Ok(Labels { truth, counts })
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns true if the run is evaluated on right and wrong labels.
    pub fn noisy(&self) -> bool {
        self.truth.is_some()
    }

    /// Writes into the folder of a new run what it cannot do without later: predicted labels, for the checkpoint may go.
    ///
    /// # Errors
    /// CantCreate, Io: with the path.
    pub fn keep(&self, data: &DataSet, folder: &RunFolder) -> Result<()> {
        if self.counts.relabelled.is_some() {
            write_atomic(&folder.labels(), &labels_file(&data.train.labels))?;
        }
        if self.counts.relabelled.is_some() || self.noisy() {
            write_atomic(&folder.label_counts(), format!("{}\n", self.counts.to_json()).as_bytes())?;
        }
        Ok(())
    }

    /// Uploads what wrong labels are judged by, if there are any: bytes of its own, for those of the training set may be
    /// augmented where they lie.
    ///
    /// # Errors
    /// Those of the device.
    pub fn judge(&self, exec: &mut Exec, data: &DataSet, order: &[u32]) -> Result<Option<Judge>> {
        let Some(truth) = &self.truth else { return Ok(None) };
        let given = &data.train.labels;
        let (wrong, clean): (Vec<usize>, Vec<usize>) =
            order.iter().map(|i| *i as usize).partition(|i| given[*i] != truth[*i]);
        let images: Vec<u8> =
            clean.iter().chain(&wrong).chain(&wrong).flat_map(|i| data.train.image(*i)).copied().collect();
        let right = clean.iter().chain(&wrong).map(|i| truth[*i]);
        let labels: Vec<u8> = right.chain(wrong.iter().map(|i| given[*i])).collect();
        let image_len = data.train.image_len();
        exec.set_dataset(JUDGED, &DatasetBytes { images: &images, labels: &labels, image_len })?;
        Ok(Some(Judge { clean: clean.len(), wrong: wrong.len() }))
    }

    /// Images that [`Judge`] has on the device.
    pub fn judged(&self) -> usize {
        self.counts.images + self.counts.wrong.unwrap_or(0)
    }
}

/// Tells how a model takes wrong labels, by data set [`JUDGED`]: the images with right labels, those with wrong ones under
/// their right labels, and these once more under the wrong ones.
pub(super) struct Judge {
    clean: usize,
    wrong: usize,
}

impl Judge {
    /// # Errors
    /// Those of the device.
    pub fn scores(&self, exec: &mut Exec, evaluator: &Evaluator) -> Result<NoiseScores> {
        let mut share = |first: usize, count: usize| {
            if count == 0 {
                return Ok(None);
            }
            exec.set_order(JUDGED, &(first as u32..(first + count) as u32).collect::<Vec<u32>>())?;
            Ok(Some(evaluator.run(exec, JUDGED, count)?.accuracy))
        };
        Ok(NoiseScores {
            clean: share(0, self.clean)?,
            learned: share(self.clean, self.wrong)?,
            memorised: share(self.clean + self.wrong, self.wrong)?,
        })
    }
}

/// Gives the training images in `data` the labels that the run of `recipe` in `folder` trained on, and returns the right ones
/// where some are known to be wrong.
///
/// # Errors
/// NoInput: predicted labels are missing. Data: they or a record of noise cannot be used.
pub(super) fn of_run(data: &mut DataSet, recipe: &Recipe, folder: &Path) -> Result<Option<Vec<u8>>> {
    let truth = add_noise(data, recipe)?;
    if recipe.relabel != NO_FILE {
        let file = RunFolder::labels_in(folder);
        if !file.exists() {
            let message = format!("{}, the labels that the run trained on, is missing", file.display());
            return Err(Error::new(Kind::NoInput, format!("{message}; --labels clean takes those of the data set")));
        }
        data.train.labels = Bytes::owned(stored(&file, data)?, 0);
    }
    Ok(truth)
}

/// Returns the right labels of all training images where the set's record lists wrong ones.
///
/// # Errors
/// Data: the record cannot be used.
pub(super) fn recorded(data: &DataSet) -> Result<Option<Vec<u8>>> {
    Record::read(&data.folder)?.map_or(Ok(None), |record| record.truth(data))
}

/// Gives the training images in `data` their right labels, as far as they are known, and returns them where the files have
/// wrong ones.
///
/// # Errors
/// Data: the set's record of noise cannot be used.
pub(super) fn clean(data: &mut DataSet) -> Result<Option<Vec<u8>>> {
    let truth = recorded(data)?;
    if let Some(labels) = &truth {
        data.train.labels = Bytes::owned(labels.clone(), 0);
    }
    Ok(truth)
}

/// Adds the noise that is asked for to the training labels, and returns the right ones where there is noise: that, or what
/// the set's record tells.
fn add_noise(data: &mut DataSet, recipe: &Recipe) -> Result<Option<Vec<u8>>> {
    let recorded = recorded(data)?;
    if recipe.label_noise == 0.0 {
        return Ok(recorded);
    }
    if recorded.is_some() {
        let folder = data.folder.display();
        let message = format!("--label-noise: {folder} has noisy labels already, as its {NOISE_FILE} says");
        return Err(Error::usage(format!("{message}; give the set that it was made of, or leave the flag out")));
    }
    let Some(noisy) = noisy(data, recipe)? else { return Ok(recorded) };
    let truth = data.train.labels.to_vec();
    data.train.labels = Bytes::owned(noisy, 0);
    Ok(Some(truth))
}

/// Returns the training labels of `data` with the noise that `recipe` asks for, if it asks for any.
///
/// # Errors
/// Data: all images are of one class.
pub fn noisy(data: &DataSet, recipe: &Recipe) -> Result<Option<Vec<u8>>> {
    let Recipe { label_noise: rate, noise_all: all_classes, seed, .. } = *recipe;
    let noise = Noise { rate, seed, all_classes, labels: data.labels };
    match rate > 0.0 {
        true => noise.labels(&data.train.labels).map(Some).map_err(|e| e.context("--label-noise")),
        false => Ok(None),
    }
}

/// The labels of all training images, those in `order` replaced by what the model in `file` predicts.
fn predicted(file: &Path, recipe: &Recipe, data: &DataSet, order: &[u32]) -> Result<Vec<u8>> {
    let named = |e: Error| e.context("--relabel");
    let opened = Checkpoint::open(file).map_err(named)?;
    let (graph, vectors) = engine::restore(&opened, file, data, &data.train, Weights::Evaluated).map_err(named)?;
    if opened.subject.classes != data.classes {
        let (classes, model) = (data.classes, opened.subject.classes);
        let message = format!("{} predicts {model} classes, {} has {classes}", file.display(), data.name);
        return Err(named(Error::data(message)));
    }
    if CheckpointRun::of(file, &opened).taken(&opened, Weights::Evaluated).map_err(named)?.average {
        note(&format!("--relabel: predictions are those of the running average in {}", file.display()));
    }
    let device = engine::device(&mut recipe.clone())?;
    let (mut exec, evaluator) = engine::evaluation_only(&graph, device, ("--eval-batch", recipe.eval_batch), &vectors)?;
    exec.set_dataset(JUDGED, &data.train.bytes())?;
    exec.set_order(JUDGED, order)?;
    let mut labels = data.train.labels.to_vec();
    let classes = evaluator.predictions(&mut exec, JUDGED, order.len())?;
    for (i, class) in order.iter().zip(classes) {
        let unsure = || Error::data(format!("--relabel: the logits of {} are not finite", file.display()));
        labels[*i as usize] = class.and_then(|class| u8::try_from(class).ok()).ok_or_else(unsure)?;
    }
    Ok(labels)
}

/// The labels that a run began with.
fn stored(file: &Path, data: &DataSet) -> Result<Vec<u8>> {
    let labels = idx::read(file, 1)?.bytes.to_vec();
    if labels.len() != data.train.count || labels.iter().any(|label| usize::from(*label) >= data.classes) {
        let (count, classes) = (data.train.count, data.classes);
        let message = format!("{} is not of {count} labels of {classes} classes, as {} has", file.display(), data.name);
        return Err(Error::data(message));
    }
    Ok(labels)
}
