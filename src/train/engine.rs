//! A model, its data and its programs on a device: what training and evaluation share.

use crate::data::{DataSet, Split};
use crate::device::cuda::rungs::{Rung, Rungs};
use crate::device::cuda::{self, Emulation};
use crate::device::{Device, cpu::CpuDevice};
use crate::error::{Error, Result};
use crate::exec::{Exec, Recording};
use crate::graph::{Graph, ImageSource};
use crate::models::{self, Setup};
use crate::ops::Bootstrap;
use crate::ops::call::{Augment, Counters, Kernel};
use crate::optim::{self, Optimizer};
use crate::output::note;
use crate::recipe::{Loss, Recipe, SETTINGS, Target, Value};
use crate::step::{C, Division, EMA, EMA_RUNNING, ProgramId, RUNNING, Recorder, W};
use crate::train::checkpoint::{Opened, Remembered, Subject, Vectors, Weights};
use crate::train::groups::Groups;
use crate::train::layers::{below, frozen};
use crate::train::memory;
use crate::train::records::Scores;
use crate::train::swa::Swa;
use std::path::Path;
use std::sync::Once;

/// Numbers of the data sets on the device.
pub const TRAIN: u32 = 0;
pub const TEST: u32 = 1;
/// Training images as they are, whatever augmentation does to those of `TRAIN`: those that labels are judged by, and before
/// a run those that are labelled.
pub const JUDGED: u32 = 2;

/// Limits the threads that a recipe asks for to the CPUs that there are: more only wait for each other. Says so once.
fn limit_threads(recipe: &mut Recipe) {
    static SAID: Once = Once::new();
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    if recipe.threads > all {
        let asked = std::mem::replace(&mut recipe.threads, all);
        SAID.call_once(|| {
            note(&format!("{asked} threads were asked for; {all} are taken, as many as there are CPUs here"));
        });
    }
}

/// The device that a recipe asks for. The recipe then names it, and its threads, as they turned out to be.
///
/// # Errors
/// If this machine does not have it.
pub fn device(recipe: &mut Recipe) -> Result<Box<dyn Device>> {
    device_with(recipe, &Emulation::default())
}

/// Returns the recipe's device, a GPU or the emulator, with convolutions on one rung wherever that fits.
///
/// # Errors
/// If this machine does not have it; Usage: a CPU has no rungs.
pub fn device_on_rung(recipe: &mut Recipe, rung: Rung) -> Result<Box<dyn Device>> {
    let rungs = Rungs { forced: Some(rung), ..Rungs::default() };
    limit_threads(recipe);
    match resolved(recipe.device) {
        Target::Cuda(number) => Ok(Box::new(cuda::on_gpu(number, recipe.dtype, Some(rungs))?)),
        Target::Emu => {
            Ok(Box::new(cuda::on_emulator(&Emulation::default(), recipe.threads, recipe.dtype, Some(rungs))?))
        }
        _ => Err(Error::usage("there is nothing to tune on a CPU; give --device cuda")),
    }
}

/// Returns the recipe's device, with an emulator of these settings.
///
/// # Errors
/// If this machine does not have it.
pub fn device_with(recipe: &mut Recipe, emulation: &Emulation) -> Result<Box<dyn Device>> {
    recipe.device = resolved(recipe.device);
    limit_threads(recipe);
    let (dtype, target) = (recipe.dtype, recipe.device);
    let named = |e: Error| match e.to_string().starts_with("--") {
        true => e,
        false => e.context(format!("--device {target}")),
    };
    let device: Box<dyn Device> = match target {
        Target::Auto | Target::Cpu => {
            let device = CpuDevice::new(recipe.threads)?.with_dtype(dtype)?;
            Box::new(if recipe.exact { device.exact()? } else { device })
        }
        Target::Cuda(number) => Box::new(cuda::on_gpu(number, dtype, None).map_err(named)?),
        Target::Emu => Box::new(cuda::on_emulator(emulation, recipe.threads, dtype, None).map_err(named)?),
    };
    // The threads of a CPU: a run that began elsewhere may go on on one.
    if target == Target::Cpu {
        recipe.threads = device.threads();
    }
    Ok(device)
}

/// Returns the device that `auto` chooses on this machine.
fn resolved(target: Target) -> Target {
    match target {
        Target::Auto if cuda::ready() => Target::Cuda(0),
        Target::Auto => Target::Cpu,
        other => other,
    }
}

/// The images of `data` as a graph's source.
pub fn source(data: &DataSet, augment: Augment) -> ImageSource {
    let (h, w, c) = (data.train.h, data.train.w, data.train.c);
    ImageSource { h, w, c, classes: data.classes, mean: data.mean, std: data.std, augment }
}

/// Returns the setup of the recipe's model.
///
/// # Errors
/// Usage: an unknown optimizer, beta without a loss that has it.
pub fn setup(recipe: &Recipe) -> Result<Setup> {
    let taps = optim::find(&recipe.opt)?.taps;
    let share = |usual: f64| (if recipe.beta > 0.0 { recipe.beta } else { usual }) as f32;
    let bootstrap = match recipe.loss {
        Loss::CrossEntropy if recipe.beta > 0.0 => {
            return Err(Error::usage(
                "--beta is for --loss reed-soft and reed-hard; leave it out, or give one of them",
            ));
        }
        Loss::CrossEntropy => Bootstrap::None,
        // The shares that Reed et al. found best.
        Loss::ReedSoft => Bootstrap::soft(share(0.95)),
        Loss::ReedHard => Bootstrap::hard(share(0.8)),
    };
    Ok(Setup { dropout: recipe.dropout as f32, smoothing: recipe.label_smoothing as f32, bootstrap, taps })
}

/// Returns a checkpoint's description of a model on `source`, the images of `data`.
pub fn subject(model: &str, data: &DataSet, source: &ImageSource) -> Subject {
    let ImageSource { h, w, c, classes, mean, std, .. } = *source;
    // A path that --data takes: a folder's bare name would find nothing.
    let data = data.known.map_or_else(|| data.folder.display().to_string(), |known| known.name.into());
    Subject { model: model.into(), data, h, w, c, classes, mean, std }
}

/// Returns true if the device that a recipe asks for is a GPU.
pub fn gpu(recipe: &Recipe) -> bool {
    matches!(resolved(recipe.device), Target::Cuda(_))
}

/// The model for images `[h, w, c]` where none is named: of CIFAR's size the WRN that papers use on a GPU, on a CPU one
/// of a thirteenth of its parameters.
///
/// # Errors
/// Usage: no model is made for images of that size; the message names those there are.
pub fn default_model(images: [usize; 3], gpu: bool) -> Result<&'static str> {
    match (images, gpu) {
        ([28, 28, 1], _) => Ok("cnn"),
        ([32, 32, 3], true) => Ok("wrn-28-10"),
        ([32, 32, 3], false) => Ok("wrn-16-4"),
        ([h, w, c], _) => Err(Error::usage(format!(
            "no model is chosen by itself for {h}x{w}x{c} images; give --model, one of: {}",
            models::MODELS.iter().map(|m| m.name).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// The recorded programs of a training run.
pub struct Programs {
    pub optimizer: Box<dyn Optimizer>,
    /// A step, one for each phase of the optimizer.
    pub steps: Vec<ProgramId>,
    pub evaluator: Evaluator,
    /// The evaluation of the weights themselves, whatever the run averages: it tries them before they are saved.
    pub trial: ProgramId,
    /// The average of weights, where the run has one.
    pub swa: Option<Swa>,
    pub remembered: Remembered,
    /// Parameters with learning rates of their own.
    pub groups: Groups,
}

impl Programs {
    /// Floating-point operations of a step, on average over the optimizer's phases, and of the evaluation of an image; `of` gives
    /// those of a program.
    pub fn flops(&self, of: impl Fn(ProgramId) -> u64) -> (f64, f64) {
        let steps = self.steps.iter().enumerate().map(|(phase, id)| self.optimizer.share(phase) * of(*id) as f64);
        (steps.sum(), of(self.evaluator.program) as f64 / self.evaluator.rows as f64)
    }
}

/// Records the steps and the evaluation that `recipe` asks for.
///
/// # Errors
/// Usage: an unknown optimizer, a batch that does not divide as asked, layers to freeze or with rates of their own that
/// the model does not have.
pub fn record(recorder: &mut Recorder<'_>, graph: &Graph, recipe: &Recipe) -> Result<Programs> {
    let row = optim::find(&recipe.opt)?;
    if row.taps && graph.taps().is_empty() {
        return Err(Error::usage(format!(
            "--opt {} perturbs activations behind convolutions, and model {} marks none; take one of 'samcore info models'",
            row.name, recipe.model
        )));
    }
    let m = if row.settings.contains(&"m") { recipe.m } else { 0 };
    let division = Division::of(recipe.batch, m, recipe.accumulate)?;
    if !recipe.freeze.is_empty() {
        let frozen = check_frozen(graph, &recipe.freeze)?;
        recorder.freeze(|p| frozen.iter().any(|layer| below(&p.name, layer)));
    }
    let groups = Groups::of(recipe, graph)?;
    recorder.rates(|p| groups.group(p))?;
    let optimizer = (row.build)(&recipe.options());
    #[cfg(feature = "mistakes")]
    let optimizer = optim::mistakes::applied(&recipe.mistake, row, optimizer, &recipe.options())?;
    if recipe.l2_in_loss {
        recorder.decay_in_loss()?;
    }
    let each_step = recipe.ema > 0.0;
    let record = |phase| {
        recorder.program(row.name, division, |step| {
            optimizer.record(phase, step)?;
            if each_step { step.average() } else { Ok(()) }
        })
    };
    let steps = (0..optimizer.phases()).map(record).collect::<Result<_>>()?;
    let swa = if recipe.swa > 0.0 { Some(Swa::record(recorder, recipe.batch)?) } else { None };
    let average = each_step || swa.is_some();
    let rows = recipe.eval_batch;
    let trial = recorder.evaluation(rows)?;
    let program = if average { recorder.evaluation_of_average(rows)? } else { trial };
    let remembered = Remembered { optimizer: row.state, average };
    Ok(Programs { optimizer, steps, evaluator: Evaluator { program, rows }, trial, swa, remembered, groups })
}

/// The layers that --freeze names.
///
/// # Errors
/// Usage: a prefix that no parameter has; or nothing is left to train.
fn check_frozen(graph: &Graph, prefixes: &[String]) -> Result<Vec<String>> {
    let layers = frozen(graph, prefixes)?;
    if graph.params().list().iter().all(|p| layers.iter().any(|layer| below(&p.name, layer))) {
        return Err(Error::usage(format!("--freeze {} leaves no parameter to train", prefixes.join(","))));
    }
    Ok(layers)
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
        let [loss_at, hits_at, weight_at] = ["loss", "hits", "weight"].map(|name| {
            let reports = &exec.program(self.program).reports;
            reports
                .iter()
                .position(|r| r.0 == name)
                .ok_or_else(|| Error::internal(format!("an evaluation without '{name}'")))
        });
        let (loss_at, hits_at, weight_at) = (loss_at?, hits_at?, weight_at?);
        let (mut loss, mut hits, mut total) = (0.0, 0.0, 0.0);
        let start = |exec: &mut Exec, batch: usize| {
            let first = batch * self.rows;
            let rows = self.rows.min(count - first) as u32;
            let counters = Counters { dataset, first: first as u32, rows, ..Counters::default() };
            exec.submit(self.program, &counters, &[])
        };
        exec.replay(count.div_ceil(self.rows), exec.depth(self.program), start, |report| {
            let weight = f64::from(report.values[weight_at]);
            loss += f64::from(report.values[loss_at]) * weight;
            hits += f64::from(report.values[hits_at]);
            total += weight;
            Ok(())
        })?;
        Ok(Scores { loss: loss / total, accuracy: hits / total })
    }

    /// The class of the first largest logit of each of `count` images of data set `dataset`, in its present order; None where
    /// a logit is not finite.
    ///
    /// # Errors
    /// Those of the device.
    pub fn predictions(&self, exec: &mut Exec, dataset: u32, count: usize) -> Result<Vec<Option<usize>>> {
        let mut predictions = Vec::with_capacity(count);
        self.logits(exec, dataset, count, |z| {
            let largest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            predictions.push(z.iter().position(|v| *v == largest).filter(|_| z.iter().all(|v| v.is_finite())));
        })?;
        Ok(predictions)
    }

    /// Gives the logits of each of `count` images of data set `dataset`, in its present order, to `each`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn logits(&self, exec: &mut Exec, dataset: u32, count: usize, mut each: impl FnMut(&[f32])) -> Result<()> {
        let calls = &exec.program(self.program).calls;
        let last = calls.iter().position(|call| matches!(call.kernel, Kernel::CrossEntropy { .. }));
        let last = last.ok_or_else(|| Error::internal("an evaluation without a loss"))?;
        let logits = calls[last].reads[0];
        // Nothing may have taken the place of the logits when the program ends.
        let mut later = calls[last + 1..].iter().flat_map(|call| call.writes.iter().chain(&call.workspace));
        if later.any(|loc| loc.overlaps(&logits)) {
            return Err(Error::internal("an evaluation that writes over its logits"));
        }
        let classes = logits.len / self.rows;
        for first in (0..count).step_by(self.rows) {
            let rows = self.rows.min(count - first);
            let counters = Counters { dataset, first: first as u32, rows: rows as u32, ..Counters::default() };
            exec.submit(self.program, &counters, &[])?;
            exec.collect()?;
            exec.download_from(logits)?.chunks(classes).take(rows).for_each(&mut each);
        }
        Ok(())
    }
}

/// Returns the model of a checkpoint that was read from `file`, for images of `split` of `data`, with the weights and
/// statistics that `weights` names.
///
/// # Errors
/// Data: it is of other images or fewer classes, of an unknown model, or does not hold what the model needs.
pub fn restore(
    opened: &Opened,
    file: &Path,
    data: &DataSet,
    split: &Split,
    weights: Weights,
) -> Result<(Graph, Vectors)> {
    let of = &opened.subject;
    if (split.h, split.w, split.c) != (of.h, of.w, of.c) || data.classes > of.classes {
        return Err(Error::data(format!(
            "{} is for {}x{}x{} images of {} classes, {} has {}x{}x{} of {}",
            file.display(),
            of.h,
            of.w,
            of.c,
            of.classes,
            data.name,
            split.h,
            split.w,
            split.c,
            data.classes
        )));
    }
    // Images are normalised as the model has seen them in training, whatever data set they come from.
    let source = ImageSource { classes: of.classes, mean: of.mean, std: of.std, ..source(data, Augment::default()) };
    let named = |e: Error| Error::data(format!("{}: {e}", file.display()));
    let model = models::find(&of.model).map_err(named)?;
    let graph = models::classifier(&model, &source, &Setup::default()).map_err(named)?;
    let vectors = opened.model(&graph, weights, file)?;
    Ok((graph, vectors))
}

/// An `Exec` that can only evaluate a model at given weights.
///
/// # Errors
/// If the model cannot be planned or the device has too little memory.
pub fn evaluation_only(
    graph: &Graph,
    device: Box<dyn Device>,
    batch: (&str, usize),
    vectors: &Vectors,
) -> Result<(Exec, Evaluator)> {
    let (flag, rows) = batch;
    let mut recorder = Recorder::new(graph, &*device);
    let program = recorder.evaluation(rows)?;
    let recording = Recording::of(recorder);
    memory::check(&*device, &recording, flag, rows, 0)?;
    let mut exec = Exec::new(device, recording)?;
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
    if let Some((weights, running)) = &vectors.average {
        exec.upload_to(exec.vector(EMA)?, weights)?;
        exec.upload_to(exec.vector(EMA_RUNNING)?, running)?;
    }
    Ok(())
}

/// Sets the slots of all settings that are numbers: each has the slot of its own name, in programs that use it. The
/// learning rate is set anew each step.
///
/// # Errors
/// Those of the device.
pub fn set_numbers(exec: &mut Exec, recipe: &Recipe) -> Result<()> {
    for setting in SETTINGS {
        if let Value::Number(value) = setting.get(recipe) {
            exec.set_slot(&setting.key(), value as f32)?;
        }
    }
    Ok(())
}

/// Downloads the vectors from the device.
///
/// # Errors
/// Those of the device.
pub fn take(exec: &mut Exec, remembered: Remembered) -> Result<Vectors> {
    let mut named = |name: &str| exec.download_from(exec.vector(name)?);
    let optimizer =
        remembered.optimizer.iter().map(|name| Ok((name.to_string(), named(name)?))).collect::<Result<_>>()?;
    let average = if remembered.average { Some((named(EMA)?, named(EMA_RUNNING)?)) } else { None };
    Ok(Vectors { weights: exec.download(W)?, running: exec.download(RUNNING)?, optimizer, average })
}

/// Weights and statistics before the first step: variance 1, everything else of batch-norm 0. Averages start from them.
pub fn initial(graph: &Graph, seed: u64, remembered: Remembered) -> Vectors {
    let mut running = vec![0.0; graph.statistics_len()];
    for s in graph.statistics() {
        running[s.offset + 2 * s.channels..][..s.channels].fill(1.0);
    }
    let zeros = || vec![0.0; graph.params().vector_len()];
    let optimizer = remembered.optimizer.iter().map(|name| (name.to_string(), zeros())).collect();
    let weights = graph.params().init(seed);
    let average = remembered.average.then(|| (weights.clone(), running.clone()));
    Vectors { weights, running, optimizer, average }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_decide_for_a_model_that_is_made_for_them() {
        for (images, gpu, name) in [
            ([28, 28, 1], false, "cnn"),
            ([28, 28, 1], true, "cnn"),
            ([32, 32, 3], false, "wrn-16-4"),
            ([32, 32, 3], true, "wrn-28-10"),
        ] {
            assert_eq!(default_model(images, gpu), Ok(name));
            assert_eq!(models::find(name).unwrap().images, images);
        }
        let error = default_model([96, 96, 3], true).unwrap_err().to_string();
        assert!(
            error.starts_with("no model is chosen by itself for 96x96x3 images; give --model, one of: cnn, wrn-D-K,")
        );
    }
}
