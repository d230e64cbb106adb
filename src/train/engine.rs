//! A model, its data and its programs on a device: what training and evaluation share.

use crate::data::DataSet;
use crate::device::{Device, cpu::CpuDevice};
use crate::error::{Error, Result};
use crate::exec::{Exec, Recording};
use crate::graph::{Graph, ImageSource};
use crate::models;
use crate::ops::call::{Augment, Counters};
use crate::recipe::{Recipe, Target};
use crate::step::{C, ProgramId, RUNNING, Recorder, W};
use crate::train::checkpoint::{Subject, Vectors};
use crate::train::records::Scores;

/// Numbers of the data sets on the device.
pub const TRAIN: u32 = 0;
pub const TEST: u32 = 1;

/// The device that a recipe asks for.
///
/// # Errors
/// If this machine does not have it.
pub fn device(recipe: &Recipe) -> Result<CpuDevice> {
    match recipe.device {
        // A GPU will come first here, where there is one.
        Target::Auto | Target::Cpu => CpuDevice::new(recipe.threads),
    }
}

/// The images of `data` as a graph's source.
pub fn source(data: &DataSet, augment: Augment) -> ImageSource {
    let (h, w, c) = (data.train.h, data.train.w, data.train.c);
    ImageSource { h, w, c, classes: data.classes, mean: data.mean, std: data.std, augment }
}

/// What a checkpoint says of a model on `source`, the images of `data`.
pub fn subject(model: &str, data: &DataSet, source: &ImageSource) -> Subject {
    let ImageSource { h, w, c, classes, mean, std, .. } = *source;
    // What --data takes: a folder's bare name would find nothing.
    let data = data.known.map_or_else(|| data.folder.display().to_string(), |known| known.name.into());
    Subject { model: model.into(), data, h, w, c, classes, mean, std }
}

/// The model of a data set that names none.
pub fn default_model(data: &DataSet) -> Result<&'static str> {
    match (data.train.h, data.train.w, data.train.c) {
        (28, 28, 1) => Ok("cnn"),
        (h, w, c) => Err(Error::usage(format!(
            "no model is chosen by itself for {h}x{w}x{c} images; give --model, one of: {}",
            models::MODELS.iter().map(|m| m.name).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// Runs evaluation programs on an `Exec`.
pub struct Evaluator {
    pub program: ProgramId,
    /// Rows of a batch; the last one is padded with rows of weight 0.
    pub rows: usize,
}

impl Evaluator {
    /// Mean loss and accuracy over `count` images of data set `dataset`, in its present order.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&self, exec: &mut Exec, dataset: u32, count: usize) -> Result<Scores> {
        let (mut loss, mut hits, mut total) = (0.0, 0.0, 0.0);
        for first in (0..count).step_by(self.rows) {
            let rows = self.rows.min(count - first) as u32;
            let counters = Counters { dataset, first: first as u32, rows, ..Counters::default() };
            exec.run(self.program, &counters)?;
            let mut read = |name: &str| -> Result<f64> {
                let scalar = exec.program(self.program).reports.iter().find(|r| r.0 == name).map(|r| r.1);
                let scalar = scalar.ok_or_else(|| Error::internal(format!("an evaluation without '{name}'")))?;
                Ok(f64::from(exec.read(scalar)?))
            };
            let weight = read("weight")?;
            loss += read("loss")? * weight;
            hits += read("hits")?;
            total += weight;
        }
        Ok(Scores { loss: loss / total, accuracy: hits / total })
    }
}

/// An `Exec` that can only evaluate a model at given weights.
///
/// # Errors
/// If the model cannot be planned or the device has too little memory.
pub fn evaluation_only(graph: &Graph, device: CpuDevice, rows: usize, vectors: &Vectors) -> Result<(Exec, Evaluator)> {
    let mut recorder = Recorder::new(graph, &device);
    let program = recorder.evaluation(rows)?;
    let recording = Recording::of(recorder);
    let mut exec = Exec::new(Box::new(device) as Box<dyn Device>, recording)?;
    put(&mut exec, vectors)?;
    Ok((exec, Evaluator { program, rows }))
}

/// Uploads weights (to the master and the compute copy), running statistics and the optimizer's vectors.
///
/// # Errors
/// Those of the device.
pub fn put(exec: &mut Exec, vectors: &Vectors) -> Result<()> {
    exec.upload(W, &vectors.weights)?;
    exec.upload(C, &vectors.weights)?;
    exec.upload(RUNNING, &vectors.running)?;
    for (name, values) in &vectors.optimizer {
        exec.upload_to(exec.vector(name)?, values)?;
    }
    Ok(())
}

/// The same vectors back from the device; `optimizer` names those that the optimizer remembers.
///
/// # Errors
/// Those of the device.
pub fn take(exec: &mut Exec, optimizer: &[&str]) -> Result<Vectors> {
    let (weights, running) = (exec.download(W)?, exec.download(RUNNING)?);
    let optimizer = optimizer
        .iter()
        .map(|name| Ok((name.to_string(), exec.download_from(exec.vector(name)?)?)))
        .collect::<Result<_>>()?;
    Ok(Vectors { weights, running, optimizer })
}

/// Weights and statistics before the first step: variance 1, everything else of batch-norm 0.
pub fn initial(graph: &Graph, seed: u64, optimizer: &[&str]) -> Vectors {
    let mut running = vec![0.0; graph.statistics_len()];
    for s in graph.statistics() {
        running[s.offset + 2 * s.channels..][..s.channels].fill(1.0);
    }
    let zeros = || vec![0.0; graph.params().vector_len()];
    let optimizer = optimizer.iter().map(|name| (name.to_string(), zeros())).collect();
    Vectors { weights: graph.params().init(seed), running, optimizer }
}
