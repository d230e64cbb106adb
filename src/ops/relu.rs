//! y = max(x, 0). The gradient at 0 is 0.

use super::call::Kernel;
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::Shape;
use super::{Op, Operation, SpecAt, exactly};
use crate::error::Result;

pub struct Relu;

fn open(at: &SpecAt<'_>, i: usize) -> bool {
    at.branch.map_or(at.inputs[0][i] > 0.0, |b| b[i] != 0)
}

impl Operation for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [x] = exactly::<1>("relu", inputs)?;
        Ok(x.clone())
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        site.emit("forward", Kernel::Relu, vec![site.input(0)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        if let Some((dx, add)) = site.grad_input(0) {
            let reads = vec![site.output(), site.grad_output()];
            site.emit("backward", Kernel::ReluBackward { add }, reads, vec![dx]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        at.inputs[0].iter().enumerate().map(|(i, x)| if open(at, i) { *x } else { 0.0 }).collect()
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        vec![Some(dy.iter().enumerate().map(|(i, d)| if open(at, i) { *d } else { 0.0 }).collect())]
    }
}

pub(super) fn cases() -> Vec<Case> {
    cases_of(&[(2, &[28, 28, 32]), (3, &[7, 9, 5]), (5, &[10])])
}

pub(super) fn bench() -> Vec<Case> {
    cases_of(&[(128, &[128]), (128, &[28, 28, 32]), (32, &[32, 32, 64])])
}

fn cases_of(shapes: &[(usize, &[usize])]) -> Vec<Case> {
    shapes
        .iter()
        .map(|&(rows, shape)| {
            Case::graph(format!("{rows} x {shape:?}"), rows)
                .feed(shape, Values::AwayFromZero)
                .op(Op::Relu, &[Operand::Feed(0)])
        })
        .collect()
}
