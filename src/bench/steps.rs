//! Whole steps on one batch of random images: an optimizer's program or the evaluation, replayed as training does it.

use super::limits::Limits;
use super::{Spread, process, rounded, timed};
use crate::device::{DatasetBytes, Device};
use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::exec::{Exec, Recording};
use crate::graph::{Graph, ImageSource};
use crate::models::{self, Model};
use crate::ops::call::{Augment, Call, Counters};
use crate::optim::{self, Optimizer};
use crate::recipe::Recipe;
use crate::rng::{Draws, stream};
use crate::step::{At, By, C, Division, FAULT, FIRST_LOSS_SCALE, G, LOSS_SCALE, ProgramId, Recorder, Step};
use crate::train::checkpoint::{Remembered, Vectors};
use crate::train::engine::{self, Evaluator, TRAIN};
use crate::train::memory;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Untimed steps: the first ones meet cold caches and memory that the system has not handed out yet.
pub(super) const WARM_UP: usize = 3;
/// Rounds that the timed steps are divided into; their medians show how the machine drifted meanwhile.
const ROUNDS: u32 = 5;

/// The work of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A step of the optimizer of that name.
    Train(String),
    /// Forward and backward of one batch: loss and gradient, and nothing moves.
    Gradient,
    /// Forward with running statistics.
    Evaluate,
}

impl Task {
    /// The optimizer's name, "gradient" or "eval".
    pub fn name(&self) -> &str {
        match self {
            Task::Train(opt) => opt,
            Task::Gradient => "gradient",
            Task::Evaluate => "eval",
        }
    }

    /// Returns its cost in forward passes of the batch: a gradient counts three, one by activations or the input alone two.
    ///
    /// # Errors
    /// Usage: an unknown optimizer.
    fn passes(&self) -> Result<f64> {
        Ok(match self {
            Task::Train(opt) => {
                let row = optim::find(opt)?;
                let gradients = (row.gradients)(&Recipe::of_optimizer(row)?.options());
                // Where activations are perturbed, only the last gradient is one by the weights.
                if row.taps { 2.0 * (gradients - 1.0) + 3.0 } else { 3.0 * gradients }
            }
            Task::Gradient => 3.0,
            Task::Evaluate => 1.0,
        })
    }
}

/// A model and a step to be timed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    pub model: String,
    pub task: Task,
    pub batch: usize,
    pub dtype: DType,
}

impl Work {
    /// "step cnn sam, batch 128, f32"
    pub fn name(&self) -> String {
        format!("step {} {}, batch {}, {}", self.model, self.task.name(), self.batch, self.dtype.name())
    }

    /// Checks that all names are known.
    ///
    /// # Errors
    /// Usage: the first one that is not, with the nearest that is.
    pub fn check(&self) -> Result<()> {
        models::find(&self.model)?;
        self.task.passes().map(|_| ())
    }

    /// The model on the images that it is timed with.
    pub(super) fn graph(&self) -> Result<Graph> {
        let model = models::find(&self.model)?;
        let taps = match &self.task {
            Task::Train(opt) => optim::find(opt)?.taps,
            Task::Gradient | Task::Evaluate => false,
        };
        models::classifier(&model, &source(&model), &models::Setup { taps, ..models::Setup::default() })
    }
}

/// Times of the steps of one work.
#[derive(Clone, Debug)]
pub struct StepTimes {
    pub work: Work,
    /// Seconds of each timed step.
    pub seconds: Spread,
    pub steps: usize,
    /// Median seconds a step of each round.
    pub rounds: Vec<f64>,
    pub warm_up_seconds: f64,
    /// Forward, one image; a step counts three times that for each gradient by the weights, as the peers count it.
    pub forward_flops: u64,
    pub step_flops: f64,
    /// Most memory in use from before the plan was made, in bytes; None where the system does not tell.
    pub peak_rss: Option<u64>,
    pub arena_bytes: usize,
    pub vector_bytes: usize,
    /// The device's description of itself, and its instruction set.
    pub device: String,
    pub instructions: String,
    pub threads: usize,
}

impl StepTimes {
    pub fn images_per_s(&self) -> Spread {
        self.seconds.rates(self.work.batch as f64)
    }
    pub fn gflops(&self) -> f64 {
        self.step_flops / self.seconds.median / 1e9
    }
    /// Returns the share of the multiply-add limit that the steps reach.
    pub fn share(&self, limits: &Limits) -> f64 {
        self.gflops() / limits.fma.max
    }

    /// The result with the keys of the peers' scripts, and more.
    pub fn to_json(&self, limits: &Limits) -> Value {
        let Work { model, batch, dtype, .. } = &self.work;
        let rounds: Vec<f64> = self.rounds.iter().map(|seconds| rounded(*batch as f64 / seconds)).collect();
        json!({
            "name": self.work.name(),
            "images_per_s": self.images_per_s().to_json(),
            "images_per_s_of_rounds": rounds,
            "steps_per_s": self.seconds.rates(1.0).to_json(),
            "ms_per_step": rounded(1e3 * self.seconds.median),
            "steps": self.steps,
            "warmup_s": rounded(self.warm_up_seconds),
            "forward_flops_per_image": self.forward_flops,
            "gflops": rounded(self.gflops()),
            "share_of_fma": rounded(self.share(limits)),
            "peak_rss_bytes": self.peak_rss,
            "arena_bytes": self.arena_bytes,
            "vector_bytes": self.vector_bytes,
            "config": {
                "peer": "samcore",
                "version": env!("CARGO_PKG_VERSION"),
                "model": model,
                "opt": self.work.task.name(),
                "batch": batch,
                "threads": self.threads,
                "dtype": dtype.name(),
                "device": self.device,
                "instructions": self.instructions,
            },
        })
    }
}

/// Images of the kind that a model is usually trained on, not augmented: grey 28x28 for `cnn`, coloured 32x32 for others.
fn source(model: &Model) -> ImageSource {
    let [h, w, c] = model.images;
    ImageSource { h, w, c, classes: 10, mean: [0.286; 4], std: [0.353; 4], augment: Augment::default() }
}

/// An optimizer that takes the gradient and goes nowhere with it.
struct Stand;

impl Optimizer for Stand {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let pass = s.pass(At::of(C), By::params(), s.all(), G)?;
        s.report("loss", pass.loss);
        Ok(())
    }
}

/// Steps that are ready to be run.
pub(super) struct Steps {
    exec: Exec,
    run: Run,
    counters: Counters,
    recipe: Recipe,
}

enum Run {
    Train { optimizer: Box<dyn Optimizer>, programs: Vec<ProgramId>, step: u64 },
    Evaluate(Evaluator),
}

impl Steps {
    /// # Errors
    /// Unknown names; a model that does not fit its images; too little memory.
    pub(super) fn new(work: &Work, graph: &Graph, device: Box<dyn Device>) -> Result<Steps> {
        let recipe = match &work.task {
            Task::Train(opt) => Recipe::of_optimizer(optim::find(opt)?)?,
            _ => Recipe::default(),
        };
        let train = |device: Box<dyn Device>, name: &str, optimizer: Box<dyn Optimizer>| {
            let mut recorder = Recorder::new(graph, &*device);
            let batch = Division::whole(work.batch);
            let programs: Vec<ProgramId> = (0..optimizer.phases())
                .map(|phase| recorder.program(name, batch, |step| optimizer.record(phase, step)))
                .collect::<Result<_>>()?;
            let recording = Recording::of(recorder);
            memory::check(&*device, &recording, "--batch", work.batch, 0)?;
            Ok((Exec::new(device, recording)?, Run::Train { optimizer, programs, step: 0 }))
        };
        let initial = engine::initial(graph, 0, Remembered::default());
        let (mut exec, run) = match &work.task {
            Task::Evaluate => {
                let (exec, evaluator) = engine::evaluation_only(graph, device, ("--batch", work.batch), &initial)?;
                (exec, Run::Evaluate(evaluator))
            }
            Task::Gradient => train(device, "gradient", Box::new(Stand))?,
            Task::Train(opt) => {
                let row = optim::find(opt)?;
                train(device, row.name, (row.build)(&recipe.options()))?
            }
        };
        let image_len = graph.source().map_or(0, |s| s.h * s.w * s.c);
        let mut draws = Draws::new(0, stream("bench.images"), 0, 0);
        let images: Vec<u8> = (0..work.batch * image_len).map(|_| draws.below(256) as u8).collect();
        let labels: Vec<u8> = (0..work.batch).map(|_| draws.below(10) as u8).collect();
        exec.set_dataset(TRAIN, &DatasetBytes { images: &images, labels: &labels, image_len })?;
        exec.set_order(TRAIN, &(0..work.batch as u32).collect::<Vec<_>>())?;
        let counters = Counters { dataset: TRAIN, rows: work.batch as u32, ..Counters::default() };
        let mut steps = Steps { exec, run, counters, recipe };
        steps.begin(&initial)?;
        Ok(steps)
    }

    /// Begins at these vectors, with settings at their defaults and no fault.
    fn begin(&mut self, at: &Vectors) -> Result<()> {
        engine::put(&mut self.exec, at)?;
        engine::set_numbers(&mut self.exec, &self.recipe)?;
        self.exec.set_slot(LOSS_SCALE, FIRST_LOSS_SCALE)?;
        self.exec.set_slot(FAULT, 0.0)
    }

    /// Resets everything that steps move to its first value.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn begin_again(&mut self, graph: &Graph) -> Result<()> {
        self.begin(&engine::initial(graph, 0, Remembered { optimizer: &["momentum"], average: false }))
    }

    /// The program of the steps; of an optimizer with several kinds of steps, the first.
    fn program(&self) -> ProgramId {
        match &self.run {
            Run::Evaluate(evaluator) => evaluator.program,
            Run::Train { programs, .. } => programs[0],
        }
    }

    /// The calls of a step, in order.
    pub(super) fn calls(&self) -> &[Call] {
        &self.exec.program(self.program()).calls
    }

    /// Runs one step call by call; returns the seconds of each.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn time_calls(&mut self) -> Result<Vec<f64>> {
        let program = self.program();
        (0..self.calls().len()).map(|call| self.exec.time(program, call, &self.counters)).collect()
    }

    /// Steps that are timed together: on a GPU so many that the host is never waited for, on the CPU one.
    pub(super) fn together(&self) -> usize {
        match self.exec.depth(self.program()) {
            1 => 1,
            depth => 4 * depth,
        }
    }

    /// `count` steps, and what the training loop reads of each.
    pub(super) fn steps(&mut self, count: usize) -> Result<()> {
        let exec = &mut self.exec;
        match &mut self.run {
            Run::Evaluate(evaluator) => {
                (0..count).try_for_each(|_| evaluator.run(exec, TRAIN, self.counters.rows as usize).map(|_| ()))
            }
            Run::Train { optimizer, programs, step } => {
                let depth = exec.depth(programs[0]);
                // A tenth of the usual rate: one batch over and over must not run away, and its size costs no time.
                let lr = 0.1 * self.recipe.lr as f32;
                let start = |exec: &mut Exec, _| {
                    let program = programs[optimizer.phase(*step)];
                    *step += 1;
                    exec.submit(program, &self.counters, &[("lr", lr)])
                };
                exec.replay(count, depth, start, |report| match report.fault {
                    false => Ok(()),
                    true => Err(Error::new(Kind::NotFinite, "a step of the benchmark is not finite")),
                })
            }
        }
    }
}

/// Times steps for about `budget`, at least one a round, after some that are not timed.
///
/// # Errors
/// Unknown names; a model that does not fit its images; too little memory.
pub fn time_steps(work: &Work, device: Box<dyn Device>, budget: Duration) -> Result<StepTimes> {
    work.check()?;
    let peak_is_own = process::reset_peak();
    let (instructions, threads, description) = (device.instructions(), device.threads(), device.describe());
    let graph = work.graph()?;
    let mut steps = Steps::new(work, &graph, device)?;
    let together = steps.together();
    let warm_up_seconds = timed(|| steps.steps(WARM_UP.max(together)))?;
    let (mut all, mut rounds) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let first = all.len();
        while all.len() == first || begun.elapsed() < budget / ROUNDS {
            all.push(timed(|| steps.steps(together))? / together as f64);
        }
        rounds.push(Spread::of(&all[first..]).median);
    }
    let layout = steps.exec.layout();
    Ok(StepTimes {
        work: work.clone(),
        seconds: Spread::of(&all),
        steps: all.len() * together,
        rounds,
        warm_up_seconds,
        forward_flops: graph.flops(),
        step_flops: graph.flops() as f64 * work.task.passes()? * work.batch as f64,
        peak_rss: process::peak_rss_bytes().filter(|_| peak_is_own),
        arena_bytes: 4 * layout.arena,
        vector_bytes: 4 * layout.vectors.iter().sum::<usize>(),
        device: description,
        instructions,
        threads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;

    fn work(model: &str, task: Task) -> Work {
        Work { model: model.into(), task, batch: 4, dtype: DType::F32 }
    }

    #[test]
    fn unknown_names_are_told_before_anything_is_measured() {
        for (work, message) in [
            (work("cnm", Task::Train("sam".into())), "unknown model 'cnm'; did you mean 'cnn'?"),
            (work("cnn", Task::Train("sag".into())), "unknown optimizer 'sag'; did you mean 'sam'?"),
        ] {
            assert_eq!(work.check().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn steps_of_every_optimizer_a_gradient_and_an_evaluation_are_timed_as_the_peers_count_them() {
        let limits = Limits::example();
        let forward = 37_383_680.0;
        let passes = |row: &optim::OptimizerRow| {
            let gradients = (row.gradients)(&Recipe::of_optimizer(row).unwrap().options());
            if row.taps { 2.0 * gradients + 1.0 } else { 3.0 * gradients }
        };
        let opts = optim::OPTIMIZERS.iter().map(|row| (Task::Train(row.name.into()), passes(row)));
        for (task, passes) in opts.chain([(Task::Gradient, 3.0), (Task::Evaluate, 1.0)]) {
            let name = task.name().to_owned();
            let work = work("cnn", task);
            let times = time_steps(&work, Box::new(CpuDevice::new(2).unwrap()), Duration::ZERO).unwrap();
            assert_eq!((times.steps, times.rounds.len()), (5, 5));
            assert!((times.step_flops / (4.0 * passes * forward) - 1.0).abs() < 1e-12, "{name}");
            assert!(times.arena_bytes > 0 && times.vector_bytes >= 4 * 468_010, "{times:?}");
            let json = times.to_json(&limits);
            let rates = &json["images_per_s"];
            assert!(rates["min"].as_f64() <= rates["median"].as_f64() && rates["max"].as_f64() > Some(0.0), "{json}");
            assert_eq!(json["config"]["opt"], name);
        }
    }
}
