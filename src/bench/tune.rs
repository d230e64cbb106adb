//! Search for the fastest kernel of each convolution of a model: the table that the device picks rungs from.

use super::{Spread, repeat, rounded};
use crate::check::ready;
use crate::device::Device;
use crate::device::cuda::rungs::{Pass, RUNGS, Rung, Rungs};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::Graph;
use crate::models;
use crate::ops::call::{Augment, ConvShape, Kernel};
use crate::ops::case::{Case, Operand, Values};
use crate::ops::value::ParamKind;
use crate::ops::{Conv2d, Op};
use serde_json::{Value, json};
use std::time::Duration;

/// Images that the kernels are timed on; the table holds for any batch.
const BATCH: usize = 128;

/// One product on one rung.
#[derive(Clone, Debug)]
pub struct Timed {
    /// Its key in the table.
    pub key: String,
    pub rung: Rung,
    pub seconds: Spread,
    pub flops: u64,
}

impl Timed {
    pub fn gflops(&self) -> f64 {
        self.flops as f64 / self.seconds.median / 1e9
    }
    pub fn to_json(&self) -> Value {
        json!({
            "name": format!("{}, {}", self.key, self.rung.name()),
            "ms": self.seconds.times(1e3).to_json(),
            "gflops": rounded(self.gflops()),
        })
    }
}

/// Makes a device that takes a rung wherever it can be taken.
pub type OnRung<'a> = &'a dyn Fn(Rung, DType) -> Result<Box<dyn Device>>;

/// Times every rung on every convolution of the models, reports each result, and returns the table of the fastest.
///
/// # Errors
/// Unknown models; those of the device.
pub fn tune(
    names: &[String],
    dtypes: &[DType],
    device: OnRung<'_>,
    budget: Duration,
    tell: &mut dyn FnMut(&Timed),
) -> Result<Rungs> {
    let mut table = Rungs::default();
    let mut shapes: Vec<ConvShape> = Vec::new();
    for name in names {
        let model = models::find(name)?;
        let graph = models::to_check(&model, Augment::default(), 0.0)?;
        shapes.extend(convolutions(&graph).into_iter().filter(|s| !shapes.contains(s)).collect::<Vec<_>>());
    }
    shapes.dedup();
    for (shape, dtype) in shapes.iter().flat_map(|s| dtypes.iter().map(move |d| (s, *d))) {
        let mut best: Vec<(Pass, f64)> = Vec::new();
        for &(_, rung, ..) in RUNGS {
            let device = device(rung, dtype)?;
            let mut ready = ready(&case(shape), device, 0)?;
            for i in 0..ready.calls().len() {
                let Some(pass) = pass(&ready.calls()[i].kernel) else {
                    ready.run(i)?;
                    continue;
                };
                let seconds = Spread::of(&repeat(budget / 10, || ready.time(i))?);
                let key = Rungs::key(pass, shape, dtype);
                tell(&Timed { key: key.clone(), rung, seconds, flops: shape.flops() });
                // The lower rung stays where a higher one is no faster: that shape may fall back to it.
                let before = best.iter().find(|b| b.0 == pass).map_or(f64::INFINITY, |b| b.1);
                if seconds.median < 0.99 * before {
                    best.retain(|b| b.0 != pass);
                    best.push((pass, seconds.median));
                    table.table.insert(key, rung);
                }
            }
        }
    }
    Ok(table)
}

fn pass(kernel: &Kernel) -> Option<Pass> {
    match kernel {
        Kernel::ConvForward(_) => Some(Pass::Forward),
        Kernel::ConvBackwardData { .. } => Some(Pass::BackwardData),
        Kernel::ConvBackwardWeight(_) => Some(Pass::BackwardWeight),
        _ => None,
    }
}

/// The shapes of all convolutions of a graph, each once.
fn convolutions(graph: &Graph) -> Vec<ConvShape> {
    let mut shapes = Vec::new();
    for v in graph.vars() {
        let node = graph.node(v);
        let Op::Conv2d(Conv2d { stride, pad }) = node.op else { continue };
        let (x, weight) = (graph.shape(node.inputs[0]), graph.shape(node.inputs[1]));
        let (&[h, w, ci], &[co, k, ..]) = (&x.0[..], &weight.0[..]) else { continue };
        let shape = ConvShape { n: BATCH, h, w, ci, co, k, stride, pad };
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

fn case(s: &ConvShape) -> Case {
    Case::graph("tune", s.n)
        .feed(&[s.h, s.w, s.ci], Values::Normal)
        .param(&[s.co, s.k, s.k, s.ci], ParamKind::ConvWeight)
        .op(Op::Conv2d(Conv2d { stride: s.stride, pad: s.pad }), &[Operand::Feed(0), Operand::Param(0)])
}
