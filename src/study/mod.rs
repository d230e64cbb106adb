//! Studies of a trained model: how its loss and accuracy change when its parameters do.
//!
//! A [`Probe`] takes loss, accuracy and gradient at any parameters, always as in evaluation: batch-norm by its running
//! statistics, no augmentation, no dropout. [`corrupt`] and [`sharpness`] say which parameters.

pub mod corrupt;
mod direction;
pub mod hessian;
pub mod interpolate;
pub mod journal;
pub mod landscape;
pub mod restore;
pub mod sharpness;
pub mod track;

pub use direction::{Direction, Draw, Entries};

use crate::data::Split;
use crate::device::Device;
use crate::error::{Error, Result, nearest};
use crate::exec::{Exec, Recording};
use crate::graph::Graph;
use crate::ops::call::{Counters, Loc};
use crate::plot::thousands;
use crate::rng::permutation;
use crate::step::{At, By, C, Division, G, ProgramId, RUNNING, Recorder, Space, W};
use crate::train::checkpoint::Vectors;
use crate::train::engine::{self, Evaluator};
use crate::train::memory;
use crate::train::records::Scores;
use serde_json::{Value, json};
use std::ops::Range;

/// Names of files and their SVG.
pub type Figures = Vec<(&'static str, String)>;

/// A kind of study, as `samcore study` and `samcore plot` know it.
pub struct StudyRow {
    /// The action of `samcore study`; its result is `NAME.json` in the folder of --out.
    pub name: &'static str,
    /// One line for the list of actions.
    pub about: &'static str,
    /// Draws the figures of a result again. None if the object is not such a result.
    pub figures: fn(&Value) -> Option<Figures>,
}

/// All studies, in the order of the help text.
pub const STUDIES: &[StudyRow] = &[
    StudyRow {
        name: "corrupt",
        about: "Measure how much accuracy corrupted parameters cost",
        figures: restore::corrupt_figures,
    },
    StudyRow {
        name: "sharpness",
        about: "Measure by how much the loss grows around the trained weights",
        figures: restore::sharpness_figures,
    },
    StudyRow {
        name: "hessian",
        about: "Measure eigenvalues, trace and spectrum of the Hessian",
        figures: hessian::figures,
    },
    StudyRow {
        name: "landscape",
        about: "Measure the loss along random directions around the trained weights",
        figures: landscape::figures,
    },
    StudyRow {
        name: "interpolate",
        about: "Measure the loss on the straight line between two trained models",
        figures: interpolate::figures,
    },
];

/// A model on a device, ready to be measured at other parameters than its own.
pub struct Probe {
    exec: Exec,
    /// Ascending by rows.
    programs: Vec<Programs>,
}

/// Programs for one size of batch.
struct Programs {
    evaluator: Evaluator,
    gradient: ProgramId,
    /// The gradient of the loss against given targets, where it was asked for.
    towards: Option<ProgramId>,
}

/// Vector of the targets that take the labels' place.
const TARGETS: &str = "targets";

/// Images of a data set that a loss is the mean over.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    pub dataset: u32,
    pub images: &'a [u32],
    /// Probabilities of the classes, a row for each image, in place of the labels.
    pub targets: Option<Vec<f32>>,
}

/// The mean loss of some images and its gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Slope {
    pub loss: f64,
    /// Laid out as the parameter vector, 0 in the padding.
    pub gradient: Vec<f32>,
}

impl Probe {
    /// Records evaluation and gradient for batches of each of `rows` images, and uploads running statistics and weights.
    /// `host` are the bytes that the study will take beside the programs, which must fit into the machine's memory too.
    ///
    /// # Errors
    /// If the model cannot be planned or the device has too little memory.
    pub fn new(
        graph: &Graph,
        device: Box<dyn Device>,
        rows: &[usize],
        vectors: &Vectors,
        host: usize,
    ) -> Result<Probe> {
        Probe::record(graph, device, rows, vectors, (host, false))
    }

    /// A probe that takes gradients against given targets too; see [`Sample::targets`].
    ///
    /// # Errors
    /// As for [`Probe::new`].
    pub fn with_targets(
        graph: &Graph,
        device: Box<dyn Device>,
        rows: &[usize],
        vectors: &Vectors,
        host: usize,
    ) -> Result<Probe> {
        Probe::record(graph, device, rows, vectors, (host, true))
    }

    fn record(
        graph: &Graph,
        device: Box<dyn Device>,
        rows: &[usize],
        vectors: &Vectors,
        (host, targets): (usize, bool),
    ) -> Result<Probe> {
        let mut sizes = rows.to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let mut recorder = Recorder::new(graph, &*device);
        let mut record = |rows: usize| -> Result<Programs> {
            let program = recorder.evaluation(rows)?;
            let gradient = recorder.program("gradient", Division::whole(rows), |s| {
                let pass = s.evaluate_gradient(At::of(C).running(RUNNING), By::params(), G)?;
                s.report("loss", pass.loss);
                Ok(())
            })?;
            let towards = |recorder: &mut Recorder<'_>| {
                recorder.program("gradient_towards", Division::whole(rows), |s| {
                    let given = s.vector(TARGETS, Space::Targets);
                    let at = At::of(C).running(RUNNING);
                    let pass = s.evaluate_gradient_towards(given, at, By::params(), G)?;
                    s.report("loss", pass.loss);
                    Ok(())
                })
            };
            let towards = if targets { Some(towards(&mut recorder)?) } else { None };
            Ok(Programs { evaluator: Evaluator { program, rows }, gradient, towards })
        };
        let programs = sizes.into_iter().map(&mut record).collect::<Result<_>>()?;
        let recording = Recording::of(recorder);
        let host = if device.own_memory() { 0 } else { host };
        memory::check(&*device, &recording, "--batch", rows.iter().copied().max().unwrap_or(0), host)?;
        let mut exec = Exec::new(device, recording)?;
        engine::put(&mut exec, vectors)?;
        Ok(Probe { exec, programs })
    }

    /// Gives the images of data set number `dataset`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_dataset(&mut self, dataset: u32, split: &Split) -> Result<()> {
        self.exec.set_dataset(dataset, &split.bytes())
    }

    /// Replaces the running statistics of batch-norm.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_running(&mut self, running: &[f32]) -> Result<()> {
        self.exec.upload(RUNNING, running)
    }

    /// The smallest batch that takes `count` images at once, else the largest.
    fn size(&self, count: usize) -> Result<&Programs> {
        let fits = self.programs.iter().find(|p| p.evaluator.rows >= count).or(self.programs.last());
        fits.ok_or_else(|| Error::internal("a probe without batches"))
    }

    /// Mean loss and accuracy over `images` of a data set at these weights.
    ///
    /// # Errors
    /// Those of the device.
    pub fn scores(&mut self, weights: &[f32], dataset: u32, images: &[u32]) -> Result<Scores> {
        let Evaluator { program, rows } = self.size(images.len())?.evaluator;
        self.exec.upload(W, weights)?;
        self.exec.set_order(dataset, images)?;
        Evaluator { program, rows }.run(&mut self.exec, dataset, images.len())
    }

    /// Mean loss over `images` of a data set at these weights, and its gradient, summed up in f64 in the images' order.
    ///
    /// # Errors
    /// Those of the device.
    pub fn slope(&mut self, weights: &[f32], dataset: u32, images: &[u32]) -> Result<Slope> {
        let mut sum = vec![0f64; weights.len()];
        let loss = self.add_gradient(weights, &Sample { dataset, images, targets: None }, 1.0, &mut sum)?;
        Ok(Slope { loss, gradient: sum.into_iter().map(|g| g as f32).collect() })
    }

    /// Adds `factor` times the gradient of the mean loss of `sample` at these weights to `sum`, in f64 and in the images'
    /// order; returns the loss.
    ///
    /// # Errors
    /// Those of the device. Internal: targets for a probe of [`Probe::new`].
    pub fn add_gradient(&mut self, weights: &[f32], sample: &Sample<'_>, factor: f64, sum: &mut [f64]) -> Result<f64> {
        let Sample { dataset, images, targets } = sample;
        let size = self.size(images.len())?;
        let most = size.evaluator.rows;
        let program = if targets.is_some() { size.towards } else { Some(size.gradient) };
        let program = program.ok_or_else(|| Error::internal("a probe without targets"))?;
        self.exec.upload(C, weights)?;
        self.exec.set_order(*dataset, images)?;
        let mut loss = 0.0;
        for first in (0..images.len()).step_by(most) {
            let rows = most.min(images.len() - first);
            if let Some(targets) = targets {
                let classes = targets.len() / images.len();
                let to = Loc { len: rows * classes, ..self.exec.vector(TARGETS)? };
                self.exec.upload_to(to, &targets[first * classes..][..rows * classes])?;
            }
            let counters =
                Counters { dataset: *dataset, first: first as u32, rows: rows as u32, ..Counters::default() };
            self.exec.submit(program, &counters, &[])?;
            let share = rows as f64 / images.len() as f64;
            loss += share * f64::from(self.exec.collect()?.values[0]);
            for (sum, g) in sum.iter_mut().zip(self.exec.download(G)?) {
                *sum += factor * share * f64::from(g);
            }
        }
        Ok(loss)
    }

    /// The model's own probabilities of the classes at these weights, a row for each of `images`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn probabilities(&mut self, weights: &[f32], dataset: u32, images: &[u32]) -> Result<Vec<f32>> {
        let Evaluator { program, rows } = self.size(images.len())?.evaluator;
        self.exec.upload(W, weights)?;
        self.exec.set_order(dataset, images)?;
        let mut all = Vec::new();
        Evaluator { program, rows }.logits(&mut self.exec, dataset, images.len(), |z| {
            let largest = z.iter().fold(f64::NEG_INFINITY, |most, z| most.max(f64::from(*z)));
            let powers: Vec<f64> = z.iter().map(|z| (f64::from(*z) - largest).exp()).collect();
            let total: f64 = powers.iter().sum();
            all.extend(powers.iter().map(|p| (p / total) as f32));
        })?;
        Ok(all)
    }
}

/// `count` of the `of` images of a split (0: all), drawn by `seed`, in the order of the draw.
pub fn some_images(seed: u64, count: usize, of: usize) -> Vec<u32> {
    let count = if count == 0 { of } else { count.min(of) };
    let mut images = permutation(seed, 0, of);
    images.truncate(count);
    images
}

/// Returns `count` of `images` (0: all), drawn by `seed`, in the order of the draw.
pub fn some_of(seed: u64, count: usize, images: &[u32]) -> Vec<u32> {
    some_images(seed, count, images.len()).into_iter().map(|i| images[i as usize]).collect()
}

/// Parameters that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub name: String,
    /// Places in the parameter vector, without its padding.
    pub places: Vec<Range<usize>>,
}

impl Layer {
    /// All parameters of the model.
    pub fn whole(graph: &Graph) -> Layer {
        let places = graph.params().list().iter().map(|p| p.offset..p.offset + p.len()).collect();
        Layer { name: "all".into(), places }
    }

    /// The layers of a model, in forward order: parameters whose dotted names agree in their first `depth` parts, the last
    /// part (`weight`, `bias`) not among them. A depth beyond the deepest name gives each layer by itself.
    pub fn all(graph: &Graph, depth: usize) -> Vec<Layer> {
        let mut layers: Vec<Layer> = Vec::new();
        for p in graph.params().list() {
            let module = p.name.rsplit_once('.').map_or(p.name.as_str(), |(module, _)| module);
            let name = module.split('.').take(depth.max(1)).collect::<Vec<_>>().join(".");
            let place = p.offset..p.offset + p.len();
            match layers.iter_mut().find(|layer| layer.name == name) {
                Some(layer) => layer.places.push(place),
                None => layers.push(Layer { name, places: vec![place] }),
            }
        }
        layers
    }

    /// Returns the layers that are named, in the order of `layers`; all if no name is given.
    ///
    /// # Errors
    /// Usage: there is no layer of that name.
    pub fn named(layers: Vec<Layer>, names: &[String]) -> Result<Vec<Layer>> {
        if let Some(unknown) = names.iter().find(|name| !layers.iter().any(|layer| layer.name == **name)) {
            let known: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
            let hint = match nearest(unknown, known.iter().copied()) {
                Some(name) => format!("did you mean '{name}'?"),
                None => format!("at this --depth there are: {}", known.join(", ")),
            };
            return Err(Error::usage(format!("--layers {unknown}: the model has no layer of that name; {hint}")));
        }
        Ok(layers.into_iter().filter(|layer| names.is_empty() || names.contains(&layer.name)).collect())
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.places.iter().map(Range::len).sum()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The place of each of its parameters, ascending.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.places.iter().flat_map(Clone::clone)
    }
}

/// Euclidean norm, summed up in f64.
pub fn norm(v: &[f32]) -> f64 {
    v.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
}

/// Subject of a study, for titles and results.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    pub checkpoint: String,
    pub model: String,
    pub data: String,
    /// Steps of training.
    pub step: u64,
    /// Classes of the data; 0 where they are not known.
    pub classes: usize,
    /// "raw" or "average".
    pub weights: &'static str,
    /// The measured training images, and their labels.
    pub training_images: Value,
    pub device: String,
}

impl Source {
    /// Returns the sentence that figures begin their notes with.
    fn caption(&self) -> String {
        let weights = if self.weights == "average" { ", averaged weights" } else { "" };
        format!("Checkpoint {}, step {}{weights}.", self.checkpoint, thousands(self.step))
    }

    fn to_json(&self) -> Value {
        let Source { checkpoint, model, data, step, classes, weights, training_images, device } = self;
        let version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SAMCORE_COMMIT"), ")");
        json!({
            "checkpoint": checkpoint, "model": model, "data": data, "step": step, "classes": classes, "weights": weights,
            "training_images": training_images, "device": device, "samcore": version,
        })
    }
}

/// A field of a CSV file; what is not there is empty.
fn field(value: Option<f64>) -> String {
    value.filter(|v| v.is_finite()).map_or_else(String::new, |v| v.to_string())
}
