//! The network and data of the tests, a run of it on the device, and the same by the interpreter.

use samcore::check::relative_error;
use samcore::device::cpu::CpuDevice;
use samcore::device::{DatasetBytes, Device};
use samcore::exec::{Exec, Recording};
use samcore::graph::{Graph, ImageSource};
use samcore::interp::{self, Inputs};
use samcore::nn;
use samcore::ops::call::{Augment, Counters, Ingest};
use samcore::ops::ingest_spec;
use samcore::ops::{Op, Tap};
use samcore::optim::Optimizer;
use samcore::rng::Draws;
use samcore::step::{Division, M, ProgramId, RUNNING, Recorder, W};
use samcore::train::checkpoint::Remembered;
use samcore::train::engine;
use std::ops::Range;

pub const ROWS: usize = 16;
pub const STEPS: usize = 3;
pub const CLASSES: usize = 5;

pub fn source() -> ImageSource {
    let augment = Augment { crop: 1, flip: true, ..Augment::default() };
    ImageSource { h: 8, w: 8, c: 2, classes: CLASSES, mean: [0.4; 4], std: [0.3; 4], augment }
}

/// conv - bn - tap - average pool - dropout - linear - cross-entropy.
pub fn network() -> Graph {
    let mut g = Graph::new();
    let batch = g.images(source());
    let h = nn::conv(&mut g, batch.images, "conv", 8, 3, 1, 1).unwrap();
    let h = nn::batch_norm(&mut g, h, "bn").unwrap();
    let h = g.op(Op::Tap(Tap::default()), &[h], "tap").unwrap();
    let h = nn::global_avg_pool(&mut g, h, "pool").unwrap();
    let h = nn::dropout(&mut g, h, "dropout", 0.2).unwrap();
    let h = nn::linear(&mut g, h, "fc", CLASSES).unwrap();
    nn::cross_entropy(&mut g, h, batch.targets, batch.weights, 0.1).unwrap();
    g
}

pub struct Data {
    pub images: Vec<u8>,
    pub labels: Vec<u8>,
}

pub fn data() -> Data {
    let mut draws = Draws::new(3, 1, 0, 0);
    let images = (0..ROWS * 128).map(|_| draws.below(256) as u8).collect();
    Data { images, labels: (0..ROWS).map(|_| draws.below(CLASSES as u32) as u8).collect() }
}

pub fn counters(step: usize) -> Counters {
    Counters { seed: 5, epoch: step as u32, dataset: 0, first: 0, rows: ROWS as u32 }
}

/// Weights, momentum and running statistics after some steps, as f64.
pub struct State {
    pub w: Vec<f64>,
    pub m: Vec<f64>,
    pub running: Vec<f64>,
}

/// Slots of a run: learning rate and so on.
pub type Slots = [(&'static str, f32)];

/// The device's state after `STEPS` steps, and its exec.
pub fn on_device(g: &Graph, optimizer: &dyn Optimizer, slots: &Slots) -> (State, Exec) {
    on_data(g, optimizer, slots, &data())
}

pub fn on_data(g: &Graph, optimizer: &dyn Optimizer, slots: &Slots, data: &Data) -> (State, Exec) {
    recorded(g, slots, data, |recorder| {
        recorder.program("step", Division::whole(ROWS), |step| optimizer.record(0, step)).unwrap()
    })
}

pub fn recorded(
    g: &Graph,
    slots: &Slots,
    data: &Data,
    record: impl FnOnce(&mut Recorder<'_>) -> ProgramId,
) -> (State, Exec) {
    in_phases(g, slots, data, |recorder| vec![record(recorder)], |_| 0)
}

/// Runs an optimizer whose step t is the recorded program number `phase(t)`.
pub fn in_phases(
    g: &Graph,
    slots: &Slots,
    data: &Data,
    record: impl FnOnce(&mut Recorder<'_>) -> Vec<ProgramId>,
    phase: impl Fn(u64) -> usize,
) -> (State, Exec) {
    let device = CpuDevice::new(2).unwrap();
    let mut recorder = Recorder::new(g, &device);
    let programs = record(&mut recorder);
    let recording = Recording::of(recorder);
    let mut exec = Exec::new(Box::new(device) as Box<dyn Device>, recording).unwrap();
    exec.set_dataset(0, &DatasetBytes { images: &data.images, labels: &data.labels, image_len: 128 }).unwrap();
    exec.set_order(0, &(0..ROWS as u32).collect::<Vec<_>>()).unwrap();
    engine::put(&mut exec, &engine::initial(g, 1, Remembered::default())).unwrap();
    for (name, value) in slots {
        exec.set_slot(name, *value).unwrap();
    }
    for step in 0..STEPS {
        exec.run(programs[phase(step as u64)], &counters(step)).unwrap();
    }
    let widen = |v: Vec<f32>| v.into_iter().map(f64::from).collect();
    let (w, m) = (widen(exec.download(W).unwrap()), widen(exec.download(M).unwrap()));
    (State { w, m, running: widen(exec.download(RUNNING).unwrap()) }, exec)
}

/// Loss and gradients of the network at weights `w` with tap perturbation `delta`, by the interpreter.
pub struct Oracle<'a> {
    pub g: &'a Graph,
    pub data: Data,
}

pub struct Loss {
    pub value: f64,
    pub gradient: Vec<f64>,
    pub tap: Vec<f64>,
    /// By the images, and the images themselves.
    pub input: Vec<f64>,
    pub images: Vec<f64>,
    /// `[3, c]`: count, mean, M2.
    pub statistics: Vec<f64>,
}

impl Oracle<'_> {
    pub fn at(&self, w: &[f64], delta: Option<&[f64]>, step: usize) -> Loss {
        self.over(0..ROWS, None, w, delta, step)
    }

    /// Computes the pass over some rows of the batch, normalised by `running` statistics if they are given.
    pub fn over(
        &self,
        rows: Range<usize>,
        running: Option<&[f64]>,
        w: &[f64],
        delta: Option<&[f64]>,
        step: usize,
    ) -> Loss {
        self.attacked(rows, running, w, delta, None, step)
    }

    /// Computes the pass at images to which `input` is added.
    pub fn attacked(
        &self,
        rows: Range<usize>,
        running: Option<&[f64]>,
        w: &[f64],
        delta: Option<&[f64]>,
        input: Option<&[f64]>,
        step: usize,
    ) -> Loss {
        // Draws are keyed by the place of a row in the whole batch.
        let counters = Counters { first: rows.start as u32, rows: rows.len() as u32, ..counters(step) };
        let augment = source().augment;
        self.loss(running, w, [delta, input], counters, augment)
    }

    /// Statistics of the whole batch at weights `w`, without augmentation.
    pub fn plain_statistics(&self, w: &[f64]) -> Vec<f64> {
        self.loss(None, w, [None, None], counters(0), Augment::default()).statistics
    }

    fn loss(
        &self,
        running: Option<&[f64]>,
        w: &[f64],
        [delta, input]: [Option<&[f64]>; 2],
        counters: Counters,
        augment: Augment,
    ) -> Loss {
        let (g, rows) = (self.g, counters.rows as usize);
        let ImageSource { h, w: width, c, classes, mean, std, .. } = source();
        let spec = Ingest { n: rows, h, w: width, c, classes, offset: 0, mean, std, augment };
        let order: Vec<u32> = (0..ROWS as u32).collect();
        let mut batch = ingest_spec(&spec, &self.data.images, &self.data.labels, &order, &counters);
        let images = batch.0.clone();
        batch.0.iter_mut().zip(input.unwrap_or_default()).for_each(|(x, d)| *x += d);
        let inputs = Inputs {
            rows,
            params: g.params().list().iter().map(|p| w[p.offset..p.offset + p.len()].to_vec()).collect(),
            batch: Some(batch),
            taps: delta.map(|d| by_tap(g, rows, d)).unwrap_or_default(),
            running: running.map(|r| vec![r.to_vec()]),
            train: true,
            counters,
            ..Inputs::default()
        };
        let values = interp::forward(g, &inputs);
        let (root, value, seed) = interp::mean_loss(g, &values).unwrap();
        let gradients = interp::backward(g, &inputs, &values, root, &seed);
        let mut gradient = vec![0.0; w.len()];
        let (mut statistics, mut by_images) = (vec![], vec![]);
        for v in g.vars() {
            match g.node(v).op {
                Op::Param(p) => {
                    let p = g.param_of(p);
                    gradient[p.offset..p.offset + p.len()].copy_from_slice(gradients.of(v));
                }
                Op::BatchNorm(_) => statistics = interp::batch_statistics(g, &values, v),
                Op::Images => by_images = gradients.of(v).to_vec(),
                _ => {}
            }
        }
        Loss { value, gradient, tap: gradients.taps.concat(), input: by_images, images, statistics }
    }
}

/// The perturbations of all taps, one after the other, by tap.
fn by_tap(g: &Graph, rows: usize, all: &[f64]) -> Vec<Vec<f64>> {
    let mut rest = all;
    let mut take = |len: usize| {
        let (one, behind) = rest.split_at(len);
        rest = behind;
        one.to_vec()
    };
    g.taps().iter().map(|tap| take(rows * g.shape(*tap).len())).collect()
}

pub fn norm(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

pub fn moved(w: &[f64], by: f64, along: &[f64]) -> Vec<f64> {
    w.iter().zip(along).map(|(w, g)| w + by * g).collect()
}

pub fn get(slots: &Slots, name: &str) -> f64 {
    slots.iter().find(|s| s.0 == name).map_or(0.0, |s| f64::from(s.1))
}

/// The base optimizer of all: clip, decay, momentum, Nesterov, as PyTorch's SGD has them.
pub fn descend(state: &mut State, g: &[f64], slots: &Slots, nesterov: bool) {
    let (lr, momentum, decay) = (get(slots, "lr"), get(slots, "momentum"), get(slots, "weight_decay"));
    let clip = get(slots, "clip");
    let factor = if clip > 0.0 { (clip / norm(g)).min(1.0) } else { 1.0 };
    for ((w, m), g) in state.w.iter_mut().zip(&mut state.m).zip(g) {
        let d = factor * g + decay * *w;
        *m = momentum * *m + d;
        *w -= lr * if nesterov { d + momentum * *m } else { *m };
    }
}

pub fn fold(state: &mut State, statistics: &[f64]) {
    let c = statistics.len() / 3;
    for j in 0..c {
        let (count, mean, m2) = (statistics[j], statistics[c + j], statistics[2 * c + j]);
        state.running[j] += 1.0;
        state.running[c + j] += 0.1 * (mean - state.running[c + j]);
        state.running[2 * c + j] += 0.1 * (m2 / (count - 1.0) - state.running[2 * c + j]);
    }
}

/// The state before the first step.
pub fn start(g: &Graph) -> State {
    let initial = engine::initial(g, 1, Remembered::default());
    let widen = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
    let w = widen(&initial.weights);
    State { m: vec![0.0; w.len()], w, running: widen(&initial.running) }
}

/// Runs a transcription for `STEPS` steps: it gets the oracle, the state, and returns gradient and statistics of a step.
pub fn by_hand(
    g: &Graph,
    slots: &Slots,
    nesterov: bool,
    mut step: impl FnMut(&Oracle<'_>, &State, usize) -> (Vec<f64>, Vec<f64>),
) -> State {
    let oracle = Oracle { g, data: data() };
    let mut state = start(g);
    for t in 0..STEPS {
        let (gradient, statistics) = step(&oracle, &state, t);
        descend(&mut state, &gradient, slots, nesterov);
        fold(&mut state, &statistics);
    }
    state
}

/// The updates of both runs must agree; comparing weights instead would hide an error behind their size.
pub fn assert_same(what: &str, g: &Graph, device: &State, hand: &State) {
    let start: Vec<f64> = g.params().init(1).into_iter().map(f64::from).collect();
    let update = |w: &[f64]| w.iter().zip(&start).map(|(w, s)| w - s).collect::<Vec<f64>>();
    let narrow = |v: &[f64]| v.iter().map(|x| *x as f32).collect::<Vec<f32>>();
    for (part, got, expected) in [
        ("update", update(&device.w), update(&hand.w)),
        ("momentum", device.m.clone(), hand.m.clone()),
        ("running statistics", device.running.clone(), hand.running.clone()),
    ] {
        let error = relative_error(&narrow(&got), &expected);
        assert!(error < 1e-5, "{what}: {part} differ by {error:.1e}");
        assert!(norm(&expected) > 0.0, "{what}: nothing moved");
    }
}
