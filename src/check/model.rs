//! Whole models: loss and gradients on the device against the interpreter, which is itself checked by differences.

use super::differences::{difference_error, with_derivative};
use super::graph_case::device_branches;
use super::rig::Rig;
use super::{DIFFERENCE, MakeDevice, Tolerance, Verdict, difference, norm, widen};
use crate::device::DatasetBytes;
use crate::error::Result;
use crate::graph::Graph;
use crate::interp::{self, Inputs};
use crate::ops::call::{Counters, Ingest, Loc, Memory, Role};
use crate::ops::{Op, ingest_spec};
use crate::plan::{Keep, Key, plan};
use crate::rng::{Draws, stream};

/// A parameter's gradient is held to its own size, but at least to this share of the root mean square of all: a bias that only
/// shifts what the next batch-norm centres, as PyramidNets have, has no gradient but rounding.
const LEAST: f64 = 0.03;

/// A model to check: its graph with an image source and a loss.
pub struct ModelCheck<'a> {
    pub name: &'a str,
    pub graph: &'a Graph,
    pub rows: usize,
    pub seed: u64,
}

/// Checks loss and every parameter's gradient of a model on random images at its initial weights.
///
/// Whole models flip ReLU branches near 0, and a flipped share p of them costs about sqrt(p): the interpreter takes the
/// device's branches as given, so that what remains is arithmetic.
///
/// # Errors
/// If the model cannot be run at all.
pub fn check_model(check: &ModelCheck<'_>, device: MakeDevice<'_>) -> Result<Verdict> {
    let ModelCheck { name, graph: g, rows, seed } = *check;
    let mut out = Verdict { label: format!("{name}, {rows} rows"), ..Verdict::default() };
    let Some(source) = g.source() else { return Err(crate::error::Error::internal("a model without images")) };
    let len = source.h * source.w * source.c;
    let mut draws = Draws::new(seed, stream("check.images"), 0, 0);
    let images: Vec<u8> = (0..rows * len).map(|_| draws.below(256) as u8).collect();
    let labels: Vec<u8> = (0..rows).map(|_| draws.below(source.classes as u32) as u8).collect();
    let order: Vec<u32> = (0..rows as u32).collect();
    let counters = Counters { seed, epoch: 0, dataset: 0, first: 0, rows: rows as u32 };

    let key = Key::train(rows, g.all_params());
    let probe = device()?;
    let dtype = probe.dtype();
    let tolerance = Tolerance::of(dtype);
    let [unfused, kept, used] =
        [Keep::Unfused, Keep::Values, Keep::Nothing].map(|keep| plan(g, &Key { keep, ..key.clone() }, &*probe));
    let (unfused, kept, used) = (unfused?, kept?, used?);
    let mut rig = Rig::new(probe, g, rows, unfused.arena.max(kept.arena), 0)?;
    rig.set_dataset(&DatasetBytes { images: &images, labels: &labels, image_len: len }, &order)?;
    let mut weights = g.params().init(seed);
    for p in g.params().list().iter().filter(|p| p.kind.is_factor()) {
        weights[p.offset..p.offset + p.len()].iter_mut().for_each(|w| *w = dtype.round(*w));
    }
    rig.upload_weights(g, dtype, &weights)?;
    let branches = device_branches(g, rows, &mut rig, [&unfused, &kept], &counters)?;

    let augment = source.augment;
    let spec = Ingest {
        n: rows,
        h: source.h,
        w: source.w,
        c: source.c,
        classes: source.classes,
        offset: 0,
        mean: source.mean,
        std: source.std,
        augment,
    };
    let inputs = Inputs {
        rows,
        params: g.params().list().iter().map(|p| widen(&weights[p.offset..p.offset + p.len()])).collect(),
        batch: Some(ingest_spec(&spec, &images, &labels, &order, &counters)),
        train: true,
        counters,
        branches,
        ..Inputs::default()
    };
    let values = interp::forward(g, &inputs);
    let Some((root, loss, seed64)) = interp::mean_loss(g, &values) else { return Ok(out) };
    let gradients = interp::backward(g, &inputs, &values, root, &seed64);

    rig.poison()?;
    rig.run(&rig.bind(&used), &counters)?;
    let scalar = |rig: &mut Rig| rig.download(Loc::new(Memory::Scalars, 0, 1));
    out.compare("loss", &scalar(&mut rig)?, &[loss], tolerance.forward);
    let params: Vec<_> = g.vars().filter(|v| matches!(g.node(*v).op, Op::Param(_))).collect();
    let all: Vec<f64> = params.iter().flat_map(|v| gradients.of(*v).to_vec()).collect();
    let typical = norm(all.iter().copied()) / (all.len() as f64).sqrt();
    for v in &params {
        let Op::Param(p) = g.node(*v).op else { continue };
        let param = g.param_of(p);
        let loc = Loc { offset: param.offset, len: param.len(), ..rig.role(Role::Gradient) };
        let got = rig.download(loc)?;
        let expected = gradients.of(*v);
        let size = norm(expected.iter().copied()).max(LEAST * typical * (expected.len() as f64).sqrt());
        out.add(format!("gradient of {}", param.name), difference(&got, expected) / size, tolerance.model);
    }
    // The gradient over all parameters at once against the slope of the loss along it.
    let differentiated = with_derivative(g, &inputs);
    let gradients = match differentiated.train {
        true => gradients,
        false => interp::backward(g, &differentiated, &interp::forward(g, &differentiated), root, &seed64),
    };
    let gradient: Vec<f64> = params.iter().flat_map(|v| gradients.of(*v).to_vec()).collect();
    let along = |inputs: &mut Inputs, direction: &[f64], h: f64| {
        let targets = inputs.params.iter_mut().flatten();
        targets.zip(direction).for_each(|(t, d)| *t += h * d);
    };
    let value = |inputs: &Inputs| interp::mean_loss(g, &interp::forward(g, inputs)).map_or(f64::NAN, |l| l.1);
    let error = difference_error(&differentiated, &gradient, along, value);
    out.add("difference quotient of the loss", error, 10.0 * DIFFERENCE);
    Ok(out)
}
