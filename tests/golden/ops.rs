//! Single operations: the specs to f64's precision, so that what checks the devices is itself checked; then the device.

use super::fixture::{Fixture, error, widen};
use samcore::check::{Rig, Tolerance};
use samcore::device::cpu::CpuDevice;
use samcore::device::cpu::simd::Isa;
use samcore::dtype::DType;
use samcore::error::Result;
use samcore::graph::{Graph, Var};
use samcore::interp::{self, Gradients, Inputs, Values};
use samcore::ops::call::{Call, Counters, Kernel, Loc, Memory, Role};
use samcore::ops::case::Body;
use samcore::ops::value::ParamKind;
use samcore::ops::{AvgPool, BatchNorm, Bootstrap, Conv2d, CrossEntropy, Linear, MaxPool, OPS, Op, PadShortcut};
use samcore::params::FileLayout;
use samcore::plan::{Keep, Key, Wrt, everywhere, nowhere, plan};

/// Relative error of a spec: rounding of f64. Constants that samcore keeps as f32 (momentum, smoothing) are off by half a
/// unit of f32 to begin with.
const SPEC: f64 = 1e-11;
const F32_CONSTANT: f64 = 1e-7;

/// A case of the fixture as a graph, in samcore's layouts.
struct Case<'a> {
    golden: &'a Fixture,
    name: &'a str,
    graph: Graph,
    root: Var,
    rows: usize,
    /// The fed values and the parameters, by their names in the fixture.
    feeds: Vec<(&'a str, Var, Vec<f64>)>,
    params: Vec<(&'a str, Var, Vec<f64>)>,
    /// Gradient of the root's value.
    seed: Vec<f64>,
    /// Batch-norm uses its running statistics instead of moving them.
    running: bool,
}

impl<'a> Case<'a> {
    fn record(golden: &'a Fixture, name: &'a str) -> Result<Case<'a>> {
        let notes = &golden.notes[name];
        let number = |key: &str| notes[key].as_u64().unwrap() as usize;
        let (mut graph, mut feeds, mut params) = (Graph::new(), vec![], vec![]);
        let tensor = |what: &str| golden.get(&format!("{name}.{what}")).channels_last();
        let rows = golden.get(&format!("{name}.input")).shape[0];
        let mut feed = |graph: &mut Graph, what, (shape, values): (Vec<usize>, Vec<f64>)| {
            let v = graph.feed(what, &shape[1..]);
            feeds.push((what, v, values));
            v
        };
        let mut param = |graph: &mut Graph, what, kind| -> Result<Var> {
            let (shape, values) = tensor(what);
            let v = graph.param(what, &shape, kind, FileLayout::Same)?;
            params.push((what, v, values));
            Ok(v)
        };
        let x = feed(&mut graph, "input", tensor("input"));
        let mut inputs = vec![x];
        let (op, _) = name.split_once('.').unwrap();
        let op = match op {
            "conv2d" => {
                inputs.push(param(&mut graph, "weight", ParamKind::ConvWeight)?);
                Op::Conv2d(Conv2d { stride: number("stride"), pad: number("padding") })
            }
            "batch_norm" => {
                inputs.push(param(&mut graph, "weight", ParamKind::NormWeight)?);
                inputs.push(param(&mut graph, "bias", ParamKind::NormBias)?);
                let norm = BatchNorm::new(graph.shape(inputs[1]).len());
                assert_eq!(notes["eps"].as_f64().unwrap() as f32, norm.eps);
                assert_eq!(notes["momentum"].as_f64().unwrap() as f32, norm.momentum);
                Op::BatchNorm(norm)
            }
            "relu" => Op::Relu,
            "max_pool2d" => {
                Op::MaxPool(MaxPool { window: number("window"), stride: number("stride"), pad: number("padding") })
            }
            "avg_pool2d" => Op::AvgPool(AvgPool { window: number("window"), stride: number("stride") }),
            "global_avg_pool2d" => Op::AvgPool(AvgPool::GLOBAL),
            "pad_shortcut" => {
                let (stride, shift) = (number("stride"), number("shift"));
                Op::PadShortcut(PadShortcut { stride, shift, before: number("before"), after: number("after") })
            }
            "linear" => {
                let inner = graph.shape(x).len();
                inputs.push(param(&mut graph, "weight", ParamKind::LinearWeight)?);
                inputs.push(param(&mut graph, "bias", ParamKind::LinearBias { inputs: inner })?);
                Op::Linear(Linear)
            }
            "cross_entropy" => {
                inputs.push(feed(&mut graph, "target", tensor("target")));
                inputs.push(feed(&mut graph, "row weights", (vec![rows, 1], vec![1.0; rows])));
                let smoothing = notes["label_smoothing"].as_f64().unwrap() as f32;
                Op::CrossEntropy(CrossEntropy { smoothing, bootstrap: Bootstrap::None })
            }
            other => panic!("{name}: there is no operation for {other}"),
        };
        let root = graph.op(op, &inputs, "op")?;
        let seed = match graph.loss() {
            Some(_) => vec![1.0 / rows as f64; rows],
            None => tensor("grad_output").1,
        };
        let running = notes["training"].as_bool() == Some(false);
        Ok(Case { golden, name, graph, root, rows, feeds, params, seed, running })
    }

    fn tensor(&self, what: &str) -> Vec<f64> {
        self.golden.get(&format!("{}.{what}", self.name)).channels_last().1
    }

    fn is_norm(&self) -> bool {
        !self.graph.statistics().is_empty()
    }

    /// Running (batches, mean, variance) before the pass, or with "new_" after it.
    fn statistics(&self, new: &str) -> Vec<f64> {
        let buffer = |what: &str| self.tensor(&format!("{new}{what}"));
        let mean = buffer("running_mean");
        [vec![buffer("num_batches_tracked")[0]; mean.len()], mean, buffer("running_var")].concat()
    }

    /// Fails unless `got` is near the fixture's tensor.
    fn compare(&self, who: &str, what: &str, got: &[f64], limit: f64) {
        let expected = if what == "running statistics" { self.statistics("new_") } else { self.tensor(what) };
        let off = error(got, &expected);
        assert!(off <= limit, "{}: {what} of {who} is off by {off:.1e}, allowed {limit:.0e}", self.name);
    }

    /// Compares output, gradients and moved statistics of the specs.
    fn check_spec(&self) {
        let values_of = |all: &[(&str, Var, Vec<f64>)]| all.iter().map(|v| v.2.clone()).collect();
        let inputs = Inputs {
            rows: self.rows,
            params: values_of(&self.params),
            feeds: values_of(&self.feeds),
            running: self.running.then(|| vec![self.statistics("")]),
            train: true,
            ..Inputs::default()
        };
        let values = interp::forward(&self.graph, &inputs);
        let gradients = interp::backward(&self.graph, &inputs, &values, self.root, &self.seed);
        let smoothed = self.golden.notes[self.name]["label_smoothing"].as_f64().is_some_and(|s| s > 0.0);
        let limit = if smoothed { F32_CONSTANT } else { SPEC };
        if self.graph.loss().is_some() {
            self.compare("the spec", "losses", values.of(self.root), limit);
            let (_, mean, _) = interp::mean_loss(&self.graph, &values).unwrap();
            self.compare("the spec", "output", &[mean], limit);
        } else {
            self.compare("the spec", "output", values.of(self.root), limit);
        }
        for (what, got) in self.gradients(&gradients) {
            self.compare("the spec", &what, got, limit);
        }
        if self.is_norm() && !self.running {
            self.compare("the spec", "running statistics", &self.folded(&values), F32_CONSTANT);
        }
    }

    /// Names and gradients of all that PyTorch differentiates by.
    fn gradients<'g>(&self, gradients: &'g Gradients) -> Vec<(String, &'g [f64])> {
        let sources =
            self.feeds.iter().chain(&self.params).map(|(what, v, _)| (format!("grad_{what}"), gradients.of(*v)));
        sources.filter(|(what, _)| self.golden.find(&format!("{}.{what}", self.name)).is_some()).collect()
    }

    fn fold(&self) -> Kernel {
        let s = &self.graph.statistics()[0];
        Kernel::FoldStats { c: s.channels, momentum_bits: s.momentum_bits }
    }

    /// The running statistics after the pass, by the spec of the folding.
    fn folded(&self, values: &Values) -> Vec<f64> {
        let batch = interp::batch_statistics(&self.graph, values, self.root);
        let row = OPS.iter().find(|row| row.name == "fold_stats").unwrap();
        let Body::Vector(case) = &(row.cases)()[0].body else { panic!("fold_stats is a vector kernel") };
        (case.spec)(&self.fold(), &[batch, vec![0.0]], &[self.statistics("")]).remove(0)
    }

    /// Compares output, gradients and moved statistics of the device.
    fn check_device(&self, threads: usize, isa: Isa) {
        let g = &self.graph;
        let who = format!("{}, {threads} threads", isa.name());
        let device = Box::new(CpuDevice::with_isa(threads, isa).unwrap());
        let wrt = Wrt { params: Some(g.all_params()), taps: false, input: true };
        let root = if g.loss().is_some() { None } else { Some(self.root) };
        let running = if self.running { everywhere() } else { nowhere() };
        let key = Key { wrt, root, train: true, running, keep: Keep::Unfused, ..Key::evaluate(self.rows) };
        let plan = plan(g, &key, &*device).unwrap();
        let mut rig = Rig::new(device, g, self.rows, plan.arena, self.seed.len()).unwrap();
        let narrow = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let (feeds, _) = g.row_offsets(g.feeds(), self.rows);
        let inputs = feeds.iter().zip(&self.feeds).map(|(offset, f)| (*offset, f));
        let params = g.params().list().iter().zip(&self.params).map(|(p, f)| (p.offset, f));
        let places: Vec<_> = inputs
            .map(|(offset, f)| (offset, f, Role::Input, Role::InputGradient))
            .chain(params.map(|(offset, f)| (offset, f, Role::Weights, Role::Gradient)))
            .collect();
        for (offset, (_, _, values), role, _) in &places {
            rig.upload(Loc { offset: *offset, ..rig.role(*role) }, &narrow(values)).unwrap();
        }
        rig.upload(rig.role(Role::Seed), &narrow(&self.seed)).unwrap();
        if self.is_norm() {
            rig.upload(rig.role(Role::Running), &narrow(&self.statistics(""))).unwrap();
        }
        rig.poison().unwrap();
        rig.run(&rig.bind(&plan), &Counters { rows: self.rows as u32, ..Counters::default() }).unwrap();

        let scalar = |offset| Loc::new(Memory::Scalars, offset, 1);
        if g.loss().is_some() {
            self.compare(&who, "output", &widen(&rig.download(scalar(0)).unwrap()), Tolerance::of(DType::F32).forward);
        }
        let output = if g.loss().is_some() { "losses" } else { "output" };
        self.compare(&who, output, &widen(&rig.value(&plan, self.root).unwrap()), Tolerance::of(DType::F32).forward);
        for (offset, (what, _, values), _, role) in &places {
            let what = format!("grad_{what}");
            if self.golden.find(&format!("{}.{what}", self.name)).is_some() {
                let from = Loc { offset: *offset, len: values.len(), ..rig.role(*role) };
                self.compare(&who, &what, &widen(&rig.download(from).unwrap()), Tolerance::of(DType::F32).backward);
            }
        }
        if self.is_norm() {
            let len = 3 * g.statistics()[0].channels;
            let [batch, running] = [Role::Statistics, Role::Running].map(|role| Loc { len, ..rig.role(role) });
            if !self.running {
                // No pass writes the last slot: the fault is 0.
                let (reads, label) = (vec![batch, scalar(15)], "fold".to_owned());
                let call = Call { kernel: self.fold(), reads, writes: vec![running], workspace: None, label };
                rig.run(&[call], &Counters::default()).unwrap();
            }
            self.compare(
                &who,
                "running statistics",
                &widen(&rig.download(running).unwrap()),
                Tolerance::of(DType::F32).forward,
            );
        }
    }
}

#[test]
fn every_operation_is_that_of_pytorch_in_its_spec_and_on_the_device() {
    let golden = Fixture::open("ops");
    let names = golden.notes.as_object().unwrap().keys().filter(|name| *name != "versions");
    let mut checked = 0;
    for name in names {
        let case = Case::record(&golden, name).unwrap_or_else(|e| panic!("{name}: {e}"));
        case.check_spec();
        for isa in Isa::available() {
            [1, 2].into_iter().for_each(|threads| case.check_device(threads, isa));
        }
        checked += 1;
    }
    assert!(checked >= 40, "only {checked} cases");
}
