//! A case that is a small graph: run on a device, then compared with the interpreter.

use super::differences::{componentwise, differences, with_derivative};
use super::rig::Rig;
use super::{Outcome, Ready, Tolerance, Verdict, widen};
use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::interp::{self, Gradients, Inputs, Values};
use crate::ops::call::{Counters, Loc, Role};
use crate::ops::case::{Case, GraphCase, Operand, Values as Draw};
use crate::ops::value::ParamKind;
use crate::ops::{Branch, Op};
use crate::params::FileLayout;
use crate::plan::{Keep, Key, Plan, Wrt, everywhere, nowhere, plan};
use crate::rng::{Draws, stream};
use std::collections::HashMap;

/// The graph of a case and the values that it is run on.
pub(super) struct GraphRun<'a> {
    case: &'a Case,
    body: &'a GraphCase,
    dtype: DType,
    graph: Graph,
    root: Var,
    counters: Counters,
    feeds: Vec<Vec<f32>>,
    params: Vec<Vec<f32>>,
    running: Vec<Vec<f32>>,
    taps: Vec<Vec<f32>>,
    /// The gradient of the root's value.
    projection: Vec<f32>,
}

/// Results of a pass beside the output.
#[derive(Clone, Copy)]
enum Written {
    Input(usize, Var),
    Param(usize, Var),
    Tap(usize),
    Statistics(usize, Var),
}

/// Results of a case on the device.
pub(super) struct Done {
    /// The outputs of each plan, then the graph's output.
    pub(super) outcome: Outcome,
    /// The branches that each plan took.
    branches: [HashMap<Var, Branch>; 2],
}

/// Plans that a case is run by: one without fused calls, then the one that training would use.
const PLANS: [(&str, Keep); 2] = [(" unfused", Keep::Unfused), ("", Keep::Nothing)];

impl<'a> GraphRun<'a> {
    /// The values that a device stores in low precision are drawn as it stores them.
    pub(super) fn new(case: &'a Case, body: &'a GraphCase, seed: u64, dtype: DType) -> Result<GraphRun<'a>> {
        let (graph, root) = record(body)?;
        let rows = case.rows;
        let low = |v: Var| graph.element(v, DType::Bf16) != Element::F32;
        let rounded = |low: bool, mut values: Vec<f32>| {
            values.iter_mut().filter(|_| low).for_each(|v| *v = dtype.round(*v));
            values
        };
        let drawn = body.feeds.iter().enumerate().zip(graph.feeds());
        let feeds: Vec<Vec<f32>> = drawn
            .map(|((i, (shape, values)), v)| {
                rounded(low(*v), values.draw(seed, &format!("input{i}"), rows, shape.len()))
            })
            .collect();
        let params = graph.params().list().iter();
        let params =
            params.map(|p| rounded(p.kind.is_factor(), param_values(p.kind, &p.name, p.len(), seed))).collect();
        let statistics = |c: usize| {
            let draw = |name| Draw::Normal.draw(seed, name, 1, c);
            let variance = draw("var").iter().map(|v| 0.5 + v * v).collect();
            [vec![5.0; c], draw("mean"), variance].concat()
        };
        let running = graph.statistics().iter().map(|s| statistics(s.channels)).collect();
        let taps = match body.taps {
            true => graph.taps().iter().map(|t| Draw::Normal.draw(seed, "taps", rows, graph.shape(*t).len())).collect(),
            false => vec![],
        };
        let projection = match graph.loss() {
            // The root of a pass is the weighted mean of the losses.
            Some(_) => {
                let total: f32 = feeds[2].iter().sum();
                feeds[2].iter().map(|w| w / total).collect()
            }
            None => rounded(low(root), Draw::Normal.draw(seed, "projection", rows, graph.shape(root).len())),
        };
        let counters = Counters { seed, epoch: 2, dataset: 0, first: 3, rows: rows as u32 };
        Ok(GraphRun { case, body, dtype, graph, root, counters, feeds, params, running, taps, projection })
    }

    /// Feeds that a gradient is asked for: targets and weights have none.
    fn differentiable(&self) -> usize {
        if self.body.first_feed_only { 1 } else { self.feeds.len() }
    }

    fn written(&self) -> Vec<Written> {
        let g = &self.graph;
        let inputs = g.feeds().iter().enumerate().take(self.differentiable()).map(|(i, v)| Written::Input(i, *v));
        let params = g.vars().filter_map(|v| match g.node(v).op {
            Op::Param(p) => Some(Written::Param(p, v)),
            _ => None,
        });
        let norms = g.vars().filter(|v| matches!(g.node(*v).op, Op::BatchNorm(_)) && !self.case.running);
        let taps = (0..self.taps.len()).map(Written::Tap);
        let statistics = norms.enumerate().map(|(i, v)| Written::Statistics(i, v));
        inputs.chain(params).chain(taps).chain(statistics).collect()
    }

    /// Forward and all gradients, as training would plan them.
    fn key(&self) -> Key {
        let g = &self.graph;
        let wrt = Wrt { params: Some(g.all_params()), taps: self.body.taps, input: true };
        let root = if g.loss().is_some() { None } else { Some(self.root) };
        let (taps, running) = (self.body.taps, self.case.running);
        let running = if running { everywhere() } else { nowhere() };
        Key { wrt, taps, running, train: !self.body.evaluate, root, ..Key::evaluate(self.case.rows) }
    }

    /// A rig with the case's values on it.
    fn rig(&self, device: Box<dyn Device>, arena: usize) -> Result<Rig> {
        let mut rig = Rig::new(device, &self.graph, self.case.rows, arena, self.projection.len())?;
        self.upload(&mut rig)?;
        Ok(rig)
    }

    /// The case on `device`, with the calls of the plan that training would use.
    pub(super) fn ready(&self, device: Box<dyn Device>) -> Result<Ready> {
        let used = plan(&self.graph, &self.key(), &*device)?;
        let rig = self.rig(device, used.arena)?;
        let calls = rig.bind(&used);
        Ok(Ready { rig, calls, counters: self.counters })
    }

    /// Runs the case on a fresh device: memory poisoned with NaN first, by both plans, each twice.
    pub(super) fn run(&self, device: Box<dyn Device>) -> Result<Done> {
        let (g, rows) = (&self.graph, self.case.rows);
        let of = |keep| plan(g, &Key { keep, ..self.key() }, &*device);
        let (unfused, kept, used) = (of(Keep::Unfused)?, of(Keep::Values)?, of(Keep::Nothing)?);
        let mut rig = self.rig(device, unfused.arena.max(kept.arena))?;

        let mut outcome = Outcome::default();
        let mut twice = |rig: &mut Rig, plan: &Plan| -> Result<()> {
            let calls = rig.bind(plan);
            let mut run = || -> Result<Vec<Vec<f32>>> {
                rig.poison()?;
                rig.run(&calls, &self.counters)?;
                self.written().into_iter().map(|w| rig.download(self.place(rig, w))).collect()
            };
            outcome.add(run()?, &run()?);
            outcome.stays_within &= rig.untouched_beside(&calls)?;
            Ok(())
        };
        twice(&mut rig, &unfused)?;
        let output = rig.value(&unfused, self.root)?;
        twice(&mut rig, &used)?;
        outcome.values.push(output);
        let mut branches = |plans: [&Plan; 2]| device_branches(g, rows, &mut rig, plans, &self.counters);
        let branches = [branches([&unfused, &unfused])?, branches([&unfused, &kept])?];
        Ok(Done { outcome, branches })
    }

    fn upload(&self, rig: &mut Rig) -> Result<()> {
        let (g, rows) = (&self.graph, self.case.rows);
        let inputs = g.row_offsets(g.feeds(), rows).0.into_iter().zip(&self.feeds).map(|p| (Role::Input, p));
        let running = g.statistics().iter().map(|s| s.offset).zip(&self.running).map(|p| (Role::Running, p));
        let taps = g.row_offsets(g.taps(), rows).0.into_iter().zip(&self.taps).map(|p| (Role::Taps, p));
        let seed = std::iter::once((Role::Seed, (0, &self.projection)));
        let mut weights = vec![0.0; g.params().vector_len()];
        for (p, values) in g.params().list().iter().zip(&self.params) {
            weights[p.offset..p.offset + p.len()].copy_from_slice(values);
        }
        rig.upload_weights(g, self.dtype, &weights)?;
        for (role, (offset, values)) in inputs.chain(running).chain(taps).chain(seed) {
            rig.upload(Loc { offset, ..rig.role(role) }, values)?;
        }
        Ok(())
    }

    fn place(&self, rig: &Rig, written: Written) -> Loc {
        let (g, rows) = (&self.graph, self.case.rows);
        let (role, offset, len) = match written {
            Written::Input(i, _) => (Role::InputGradient, g.row_offsets(g.feeds(), rows).0[i], self.feeds[i].len()),
            Written::Param(p, _) => (Role::Gradient, g.param_of(p).offset, self.params[p].len()),
            Written::Tap(i) => (Role::TapsGradient, g.row_offsets(g.taps(), rows).0[i], self.taps[i].len()),
            Written::Statistics(i, _) => (Role::Statistics, g.statistics()[i].offset, 3 * g.statistics()[i].channels),
        };
        Loc { offset, len, ..rig.role(role) }
    }

    /// Name of a written value, and what the interpreter has for it.
    fn expected(&self, written: Written, values: &Values, gradients: &Gradients) -> (String, Vec<f64>) {
        match written {
            Written::Input(i, v) => (format!("gradient of input {i}"), gradients.of(v).to_vec()),
            Written::Param(p, v) => (format!("gradient of parameter {p}"), gradients.of(v).to_vec()),
            Written::Tap(i) => (format!("gradient of tap {i}"), gradients.taps[i].clone()),
            Written::Statistics(i, v) => (format!("statistics {i}"), interp::batch_statistics(&self.graph, values, v)),
        }
    }

    /// Compares what the device wrote with the interpreter, and the interpreter's gradients with differences.
    pub(super) fn compare(&self, done: &Done, out: &mut Verdict) {
        let wide = |all: &[Vec<f32>]| -> Vec<Vec<f64>> { all.iter().map(|v| widen(v)).collect() };
        let inputs = Inputs {
            rows: self.case.rows,
            params: wide(&self.params),
            feeds: wide(&self.feeds),
            running: self.case.running.then(|| wide(&self.running)),
            taps: wide(&self.taps),
            train: !self.body.evaluate,
            counters: self.counters,
            ..Inputs::default()
        };
        let inputs = done.branches.clone().map(|branches| Inputs { branches, ..inputs.clone() });
        let (g, root, seed) = (&self.graph, self.root, widen(&self.projection));
        let tolerance = Tolerance::of(self.dtype);
        let mut got = done.outcome.values.iter();
        let mut next = || got.next().map_or(&[][..], |v| v);
        for ((plan, _), inputs) in PLANS.iter().zip(&inputs) {
            let values = interp::forward(g, inputs);
            let gradients = interp::backward(g, inputs, &values, root, &seed);
            for written in self.written() {
                let (what, expected) = self.expected(written, &values, &gradients);
                out.compare(format!("{what}{plan}"), next(), &expected, tolerance.backward);
            }
        }
        let inputs = &inputs[0];
        let values = interp::forward(g, inputs);
        let output = next();
        out.compare("output", output, values.of(root), tolerance.forward);
        if let [_] = self.body.ops[..] {
            componentwise(g, root, self.dtype, inputs, &values, output, out);
        }
        differences(g, root, &with_derivative(g, inputs), &seed, self.differentiable(), out);
    }
}

/// Records the case's graph; the output is the last operation.
fn record(body: &GraphCase) -> Result<(Graph, Var)> {
    let mut g = Graph::new();
    let feeds: Vec<Var> = body.feeds.iter().enumerate().map(|(i, f)| g.feed(&format!("input{i}"), &f.0.0)).collect();
    let mut params = Vec::new();
    for (i, (shape, kind)) in body.params.iter().enumerate() {
        params.push(g.param(&format!("param{i}"), &shape.0, *kind, FileLayout::Same)?);
    }
    let mut results: Vec<Var> = Vec::new();
    for (i, (op, operands)) in body.ops.iter().enumerate() {
        let inputs: Vec<Var> = operands
            .iter()
            .map(|o| match *o {
                Operand::Feed(i) => feeds[i],
                Operand::Param(i) => params[i],
                Operand::Result(i) => results[i],
            })
            .collect();
        results.push(g.op(op.clone(), &inputs, &format!("op{i}"))?);
    }
    let output = results.last().copied();
    output.map(|o| (g, o)).ok_or_else(|| Error::internal("a case without an operation"))
}

/// Values of parameters that make a check sharp: scales away from 0 and 1, shifts away from 0.
fn param_values(kind: ParamKind, name: &str, len: usize, seed: u64) -> Vec<f32> {
    let mut d = Draws::new(seed, stream(name), 1, 0);
    match kind {
        ParamKind::NormWeight => (0..len).map(|_| d.uniform(0.5, 1.5) as f32).collect(),
        ParamKind::NormBias => (0..len).map(|_| (0.2 * d.normal()) as f32).collect(),
        _ => (0..len).map(|_| (0.3 * d.normal()) as f32).collect(),
    }
}

/// The branches that the device takes, ReLU masks and pool winners, read off its own values: those of the second plan, and
/// of the first, which keeps all, where the second does not write a value by itself.
///
/// In low precision the two may differ where a value that was rounded the other way falls on the other side of 0.
pub(super) fn device_branches(
    g: &Graph,
    rows: usize,
    rig: &mut Rig,
    plans: [&Plan; 2],
    counters: &Counters,
) -> Result<HashMap<Var, Branch>> {
    let mut values: Vec<Vec<f32>> = vec![vec![]; g.vars().count()];
    let read = |v: &Var| match &g.node(*v).op {
        Op::Relu => Some(*v),
        Op::MaxPool(_) => Some(g.node(*v).inputs[0]),
        _ => None,
    };
    for plan in plans {
        rig.poison()?;
        rig.run(&rig.bind(plan), counters)?;
        for v in g.vars().filter_map(|v| read(&v)) {
            let found = rig.value(plan, v)?;
            if !found.is_empty() {
                values[v.0 as usize] = found;
            }
        }
    }
    let value = |v: Var| -> Result<&Vec<f32>> { Ok(&values[v.0 as usize]) };
    let mut branches = HashMap::new();
    for v in g.vars() {
        let node = g.node(v);
        let branch: Branch = match &node.op {
            Op::Relu => value(v)?.iter().map(|y| u32::from(*y > 0.0)).collect(),
            Op::MaxPool(pool) => {
                let x = value(node.inputs[0])?;
                pool.winners_of(rows, g.shape(node.inputs[0]), &widen(x))
            }
            _ => continue,
        };
        branches.insert(v, branch);
    }
    Ok(branches)
}
