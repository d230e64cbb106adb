//! The checks of the table of operations.

use super::rig::Rig;
use super::{BACKWARD, COMPONENT, DIFFERENCE, FORWARD, MakeDevice, Verdict, widen};
use crate::device::{DatasetBytes, Layout};
use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::interp::{self, Inputs, Values};
use crate::ops::call::{Call, Counters, Ingest, Kernel, Loc, Memory, Role};
use crate::ops::case::{Body, Case, GraphCase, IngestCase, Operand, Values as Draw, VectorCase};
use crate::ops::value::ParamKind;
use crate::ops::{Branch, Op, Row, SpecAt, ingest_spec};
use crate::params::FileLayout;
use crate::plan::{Key, Wrt, plan};
use crate::rng::{Draws, stream};
use std::collections::HashMap;

/// Checks every case of a row of the table.
///
/// # Errors
/// If a case cannot be run at all; a wrong value is a finding, not an error.
pub fn check_row(row: &Row, device: MakeDevice<'_>, seed: u64) -> Result<Vec<Verdict>> {
    (row.cases)().iter().map(|case| check_case(case, device, seed).map_err(|e| e.context(row.name))).collect()
}

/// Checks one case.
///
/// # Errors
/// If it cannot be run at all.
pub fn check_case(case: &Case, device: MakeDevice<'_>, seed: u64) -> Result<Verdict> {
    let mut verdict = Verdict { label: case.label.clone(), ..Verdict::default() };
    match &case.body {
        Body::Graph(body) => check_graph(case, body, device, seed, &mut verdict)?,
        Body::Vector(body) => check_vector(body, device, &mut verdict)?,
        Body::Ingest(body) => check_ingest(case.rows, body, device, &mut verdict)?,
    }
    Ok(verdict)
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
    output.map(|o| (g, o)).ok_or_else(|| crate::error::Error::internal("a case without an operation"))
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

fn check_graph(case: &Case, body: &GraphCase, device: MakeDevice<'_>, seed: u64, out: &mut Verdict) -> Result<()> {
    let (g, root) = record(body)?;
    let rows = case.rows;
    let counters = Counters { seed, epoch: 2, dataset: 0, first: 3, rows: rows as u32 };
    let feeds: Vec<Vec<f32>> = body
        .feeds
        .iter()
        .enumerate()
        .map(|(i, (shape, values))| values.draw(seed, &format!("input{i}"), rows, shape.len()))
        .collect();
    let params: Vec<Vec<f32>> =
        g.params().list().iter().map(|p| param_values(p.kind, &p.name, p.len(), seed)).collect();
    let running: Vec<Vec<f32>> = g
        .statistics()
        .iter()
        .map(|s| {
            let c = s.channels;
            let draw = |name| Draw::Normal.draw(seed, name, 1, c);
            let variance = draw("var").iter().map(|v| 0.5 + v * v).collect();
            [vec![5.0; c], draw("mean"), variance].concat()
        })
        .collect();
    let taps: Vec<Vec<f32>> = match body.taps {
        true => g.taps().iter().map(|t| Draw::Normal.draw(seed, "taps", rows, g.shape(*t).len())).collect(),
        false => vec![],
    };
    let projection = match g.loss() {
        // The root of a pass is the weighted mean of the losses.
        Some(_) => {
            let weights = feeds[2].clone();
            let total: f32 = weights.iter().sum();
            weights.iter().map(|w| w / total).collect()
        }
        None => Draw::Normal.draw(seed, "projection", rows, g.shape(root).len()),
    };

    // On the device: a plan that keeps every value, then the plan that training would use.
    let wrt = Wrt { params: Some(g.all_params()), taps: body.taps, input: true };
    let root_key = if g.loss().is_some() { None } else { Some(root) };
    let base = Key { wrt, taps: body.taps, running: case.running, train: true, root: root_key, ..Key::evaluate(rows) };
    let probe = device()?;
    let kept = plan(&g, &Key { keep: true, ..base.clone() }, &*probe)?;
    let used = plan(&g, &base, &*probe)?;
    let mut rig = Rig::new(probe, &g, rows, kept.arena.max(used.arena), projection.len())?;
    let (offsets, _) = g.row_offsets(g.feeds(), rows);
    for (offset, values) in offsets.iter().zip(&feeds) {
        rig.upload(Loc { offset: *offset, ..rig.role(Role::Input) }, values)?;
    }
    for (param, values) in g.params().list().iter().zip(&params) {
        rig.upload(Loc { offset: param.offset, ..rig.role(Role::Weights) }, values)?;
    }
    for (s, values) in g.statistics().iter().zip(&running) {
        rig.upload(Loc { offset: s.offset, ..rig.role(Role::Running) }, values)?;
    }
    let (tap_offsets, _) = g.row_offsets(g.taps(), rows);
    for (offset, values) in tap_offsets.iter().zip(&taps) {
        rig.upload(Loc { offset: *offset, ..rig.role(Role::Taps) }, values)?;
    }
    rig.upload(rig.role(Role::Seed), &projection)?;
    rig.poison()?;
    rig.run(&rig.bind(&kept), &counters)?;
    let branches = device_branches(&g, rows, |v| rig.value(&kept, v))?;
    let output = rig.value(&kept, root)?;

    let inputs = Inputs {
        rows,
        params: params.iter().map(|p| widen(p)).collect(),
        feeds: feeds.iter().map(|f| widen(f)).collect(),
        running: case.running.then(|| running.iter().map(|r| widen(r)).collect()),
        taps: taps.iter().map(|t| widen(t)).collect(),
        train: true,
        counters,
        branches,
        ..Inputs::default()
    };
    let values = interp::forward(&g, &inputs);
    let seed64 = widen(&projection);
    let gradients = interp::backward(&g, &inputs, &values, root, &seed64);
    out.compare("output", &output, values.of(root), FORWARD);
    if let [_] = body.ops[..] {
        componentwise(&g, root, &inputs, &values, &output, out);
    }

    let read_all = |rig: &mut Rig| -> Result<Vec<Read>> {
        let mut all = Vec::new();
        let differentiable = if body.first_feed_only { 1 } else { feeds.len() };
        for (i, v) in g.feeds().iter().enumerate().take(differentiable) {
            let loc = Loc { offset: offsets[i], len: feeds[i].len(), ..rig.role(Role::InputGradient) };
            all.push((format!("gradient of input {i}"), rig.download(loc)?, gradients.of(*v).to_vec()));
        }
        for v in g.vars() {
            let Op::Param(p) = g.node(v).op else { continue };
            let loc = Loc { offset: g.param_of(p).offset, len: params[p].len(), ..rig.role(Role::Gradient) };
            all.push((format!("gradient of parameter {p}"), rig.download(loc)?, gradients.of(v).to_vec()));
        }
        for (i, tap) in taps.iter().enumerate() {
            let loc = Loc { offset: tap_offsets[i], len: tap.len(), ..rig.role(Role::TapsGradient) };
            all.push((format!("gradient of tap {i}"), rig.download(loc)?, gradients.taps[i].clone()));
        }
        if !case.running {
            for (i, s) in g.statistics().iter().enumerate() {
                let loc = Loc { offset: s.offset, len: 3 * s.channels, ..rig.role(Role::Statistics) };
                let norm = g.vars().filter(|v| matches!(g.node(*v).op, Op::BatchNorm(_))).nth(i);
                let expected = norm.map(|v| interp::batch_statistics(&g, &values, v)).unwrap_or_default();
                let expected = [0, 1, 2]
                    .into_iter()
                    .flat_map(|k| expected.iter().map(move |s| [s.0, s.1, s.2][k]).collect::<Vec<f64>>());
                all.push((format!("statistics {i}"), rig.download(loc)?, expected.collect()));
            }
        }
        Ok(all)
    };
    for (plan_name, plan) in [("unfused", &kept), ("", &used)] {
        rig.poison()?;
        rig.run(&rig.bind(plan), &counters)?;
        let first = read_all(&mut rig)?;
        for (what, got, expected) in &first {
            out.compare(format!("{what} {plan_name}").trim(), got, expected, BACKWARD);
        }
        rig.poison()?;
        rig.run(&rig.bind(plan), &counters)?;
        let second = read_all(&mut rig)?;
        let same = |a: &[f32], b: &[f32]| a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()));
        out.holds("bits of a second run", first.iter().zip(&second).all(|(a, b)| same(&a.1, &b.1)));
    }
    differences(&g, root, &inputs, &gradients, &seed64, body.first_feed_only, out);
    Ok(())
}

/// What was compared, what the device wrote, what the interpreter says.
type Read = (String, Vec<f32>, Vec<f64>);

/// The branches that the device took: ReLU masks and pool winners, read off its own values.
pub(super) fn device_branches(
    g: &Graph,
    rows: usize,
    mut value: impl FnMut(Var) -> Result<Vec<f32>>,
) -> Result<HashMap<Var, Branch>> {
    let mut branches = HashMap::new();
    for v in g.vars() {
        let node = g.node(v);
        let branch: Branch = match &node.op {
            Op::Relu => value(v)?.iter().map(|y| u32::from(*y > 0.0)).collect(),
            Op::MaxPool(pool) => {
                let x = value(node.inputs[0])?;
                pool.winners_of(rows, g.shape(node.inputs[0]), &widen(&x))
            }
            _ => continue,
        };
        branches.insert(v, branch);
    }
    Ok(branches)
}

/// Largest |error| as a share of eps sqrt(K) spec(|inputs|), for an operation that is linear in each input.
fn componentwise(g: &Graph, v: Var, inputs: &Inputs, values: &Values, got: &[f32], out: &mut Verdict) {
    let node = g.node(v);
    let shapes: Vec<_> = node.inputs.iter().map(|i| g.shape(*i)).collect();
    let Some(operation) = node.op.operation() else { return };
    let Some(terms) = operation.reduction(&shapes) else { return };
    let sizes: Vec<Vec<f64>> = node.inputs.iter().map(|i| values.of(*i).iter().map(|v| v.abs()).collect()).collect();
    let at = SpecAt {
        rows: inputs.rows,
        inputs: sizes.iter().map(|s| &s[..]).collect(),
        shapes,
        output_shape: &node.shape,
        train: inputs.train,
        running: None,
        delta: None,
        branch: None,
        counters: inputs.counters,
    };
    let bound = operation.spec(&at);
    let unit = f64::from(f32::EPSILON) * (terms as f64).sqrt();
    let share = |((got, expected), bound): ((&f32, &f64), &f64)| {
        let error = (f64::from(*got) - expected).abs();
        if error == 0.0 { 0.0 } else { error / (unit * bound) }
    };
    let worst = got.iter().zip(values.of(v)).zip(&bound).map(share);
    let worst = worst.fold(0.0, |a: f64, b| if b.is_nan() { b } else { a.max(b) });
    out.add("output, worst component", worst, COMPONENT);
}

/// The spec's own gradient against central differences of the spec, input by input, along a direction near the gradient.
fn differences(
    g: &Graph,
    root: Var,
    inputs: &Inputs,
    gradients: &interp::Gradients,
    seed: &[f64],
    first_feed_only: bool,
    out: &mut Verdict,
) {
    let value =
        |inputs: &Inputs| -> f64 { interp::forward(g, inputs).of(root).iter().zip(seed).map(|(y, s)| y * s).sum() };
    let feeds = if first_feed_only { 1 } else { inputs.feeds.len() };
    let sources = g.vars().filter(|v| match g.node(*v).op {
        Op::Feed(i) => i < feeds,
        Op::Param(_) => true,
        _ => false,
    });
    for v in sources {
        let gradient = gradients.of(v);
        let along = |inputs: &mut Inputs, direction: &[f64], h: f64| {
            let target = match g.node(v).op {
                Op::Feed(i) => &mut inputs.feeds[i],
                Op::Param(p) => &mut inputs.params[p],
                _ => return,
            };
            target.iter_mut().zip(direction).for_each(|(t, d)| *t += h * d);
        };
        let what = format!("difference quotient of {}", g.node(v).name);
        out.add(what, difference_error(inputs, gradient, along, value), DIFFERENCE);
    }
    for (i, gradient) in gradients.taps.iter().enumerate().filter(|_| !inputs.taps.is_empty()) {
        let along = |inputs: &mut Inputs, direction: &[f64], h: f64| {
            inputs.taps[i].iter_mut().zip(direction).for_each(|(t, d)| *t += h * d);
        };
        out.add(
            format!("difference quotient of tap {i}"),
            difference_error(inputs, gradient, along, value),
            DIFFERENCE,
        );
    }
}

/// Relative error of the slope that `gradient` predicts along a direction near itself.
pub(super) fn difference_error(
    inputs: &Inputs,
    gradient: &[f64],
    along: impl Fn(&mut Inputs, &[f64], f64),
    value: impl Fn(&Inputs) -> f64,
) -> f64 {
    let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    let mut draws = Draws::new(5, stream("direction"), 0, 0);
    let spread = size.max(1e-300) / (gradient.len() as f64).sqrt();
    // Mostly random, so that a wrong component cannot hide, yet with a slope far from 0.
    let direction: Vec<f64> = gradient.iter().map(|g| (g + 2.0 * spread * draws.normal()) / size.max(1e-300)).collect();
    let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
    let h = 1e-5;
    let mut shifted = inputs.clone();
    along(&mut shifted, &direction, h);
    let above = value(&shifted);
    along(&mut shifted, &direction, -2.0 * h);
    let below = value(&shifted);
    let measured = (above - below) / (2.0 * h);
    (measured - slope).abs() / slope.abs().max(1e-9)
}

fn check_vector(body: &VectorCase, device: MakeDevice<'_>, out: &mut Verdict) -> Result<()> {
    let reads64: Vec<Vec<f64>> = body.reads.iter().map(|v| widen(v)).collect();
    let writes64: Vec<Vec<f64>> = body.writes.iter().map(|v| widen(v)).collect();
    let expected = (body.spec)(&body.kernel, &reads64, &writes64);
    // Single values are scalars, everything else a vector; a shared operand is uploaded once, as written.
    let all: Vec<&Vec<f32>> = body.reads.iter().chain(&body.writes).collect();
    let mut layout = Layout { scalars: 16, ..Layout::default() };
    let mut scalars = 0;
    let mut places: Vec<Loc> = Vec::new();
    for values in &all {
        let len = values.len();
        places.push(if len == 1 {
            scalars += 1;
            Loc { memory: Memory::Scalars, offset: scalars - 1, len }
        } else {
            layout.vectors.push(len);
            Loc { memory: Memory::Vector(layout.vectors.len() as u16 - 1), offset: 0, len }
        });
    }
    let (mut reads, writes) = (places[..body.reads.len()].to_vec(), places[body.reads.len()..].to_vec());
    for (read, write) in &body.shared {
        reads[*read] = writes[*write];
    }
    let mut call = Call { kernel: body.kernel.clone(), reads, writes, workspace: None, label: "check".into() };
    let device = device()?;
    layout.arena = device.workspace(&call);
    if layout.arena > 0 {
        call.workspace = Some(Loc { memory: Memory::Arena, offset: 0, len: layout.arena });
    }
    let mut rig = Rig::with_layout(device, layout)?;
    let mut runs: Vec<Vec<Vec<f32>>> = Vec::new();
    for _ in 0..2 {
        for (place, values) in places.iter().zip(&all) {
            rig.upload(*place, values)?;
        }
        if let Some(work) = call.workspace {
            rig.upload(work, &vec![f32::NAN; work.len])?;
        }
        rig.run(std::slice::from_ref(&call), &Counters::default())?;
        runs.push(call.writes.iter().map(|w| rig.download(*w)).collect::<Result<_>>()?);
    }
    for (i, (got, expected)) in runs[0].iter().zip(&expected).enumerate() {
        out.compare(format!("output {i}"), got, expected, FORWARD);
    }
    out.holds("bits of a second run", runs[0] == runs[1]);
    Ok(())
}

fn check_ingest(rows: usize, body: &IngestCase, device: MakeDevice<'_>, out: &mut Verdict) -> Result<()> {
    let IngestCase { h, w, c, images: count, augment, counters } = *body;
    let mut draws = Draws::new(9, stream("bytes"), 0, 0);
    let images: Vec<u8> = (0..count * h * w * c).map(|_| draws.below(256) as u8).collect();
    let labels: Vec<u8> = (0..count).map(|_| draws.below(10) as u8).collect();
    let order = crate::rng::permutation(4, 0, count);
    let spec = Ingest {
        n: rows,
        h,
        w,
        c,
        classes: 10,
        offset: 0,
        mean: [0.286, 0.4, 0.5, 0.6],
        std: [0.353, 0.3, 0.25, 0.2],
        augment,
    };
    let (x, targets, weights) = ingest_spec(&spec, &images, &labels, &order, &counters);
    let lens = [rows * h * w * c, rows * 10, rows];
    let layout = Layout { arena: 0, vectors: lens.to_vec(), scalars: 16 };
    let mut rig = Rig::with_layout(device()?, layout)?;
    rig.set_dataset(&DatasetBytes { images: &images, labels: &labels, image_len: h * w * c }, &order)?;
    let writes: Vec<Loc> = (0..3).map(|i| rig.vector(i)).collect();
    for write in &writes {
        rig.upload(*write, &vec![f32::NAN; write.len])?;
    }
    let call = Call {
        kernel: Kernel::Ingest(spec),
        reads: vec![],
        writes: writes.clone(),
        workspace: None,
        label: "check".into(),
    };
    rig.run(std::slice::from_ref(&call), &counters)?;
    for ((what, expected), write) in [("images", x), ("targets", targets), ("weights", weights)].iter().zip(writes) {
        out.compare(*what, &rig.download(write)?, expected, FORWARD);
    }
    Ok(())
}
