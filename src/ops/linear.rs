//! y = x wᵀ + b over the flattened input: x any shape of `inputs` elements, weight `[outputs, inputs]`, bias `[outputs]`.

use super::call::{Kernel, LinearShape};
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::{ParamKind, Shape};
use super::{Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linear;

fn shape(rows: usize, weight: &Shape) -> LinearShape {
    LinearShape { n: rows, inputs: weight.0[1], outputs: weight.0[0] }
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [x, weight, bias] = exactly::<3>("linear", inputs)?;
        match weight.0[..] {
            [o, i] if i == x.len() && bias.0 == [o] => Ok(Shape(vec![o])),
            _ => Err(Error::usage(format!(
                "linear of {x} ({} values) with weight {weight} and bias {bias}: weight must be outputs x inputs, bias \
                 outputs",
                x.len()
            ))),
        }
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        2 * inputs[1].len() as u64
    }

    fn reduction(&self, inputs: &[&Shape]) -> Option<usize> {
        Some(inputs[1].0[1] + 1)
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let s = shape(site.rows(), site.input_shape(1));
        let reads = vec![site.input(0), site.input(1), site.input(2)];
        site.emit("forward", Kernel::LinearForward(s), reads, vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let shape = shape(site.rows(), site.input_shape(1));
        let dy = site.grad_output();
        let (dw, db) = (site.grad_input_written(1), site.grad_input_written(2));
        if dw.is_some() || db.is_some() {
            let dw = dw.unwrap_or_else(|| site.temp(shape.inputs * shape.outputs));
            let db = db.unwrap_or_else(|| site.temp(shape.outputs));
            let kernel = Kernel::LinearBackwardWeight(shape);
            site.emit("backward_weight", kernel, vec![site.input(0), dy], vec![dw, db]);
        }
        if let Some((dx, add)) = site.grad_input(0) {
            let reads = vec![dy, site.input(1)];
            site.emit("backward_data", Kernel::LinearBackwardData { shape, add }, reads, vec![dx]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let LinearShape { n, inputs, outputs } = shape(at.rows, at.shapes[1]);
        let row = |i: usize, o: usize| {
            let (x, w) = (&at.inputs[0][i * inputs..][..inputs], &at.inputs[1][o * inputs..][..inputs]);
            at.inputs[2][o] + x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>()
        };
        (0..n).flat_map(|i| (0..outputs).map(move |o| (i, o))).map(|(i, o)| row(i, o)).collect()
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let LinearShape { n, inputs, outputs } = shape(at.rows, at.shapes[1]);
        let (x, w) = (at.inputs[0], at.inputs[1]);
        let (mut dx, mut dw, mut db) = (vec![0.0; n * inputs], vec![0.0; outputs * inputs], vec![0.0; outputs]);
        for i in 0..n {
            for o in 0..outputs {
                let d = dy[i * outputs + o];
                db[o] += d;
                for k in 0..inputs {
                    dx[i * inputs + k] += d * w[o * inputs + k];
                    dw[o * inputs + k] += d * x[i * inputs + k];
                }
            }
        }
        vec![Some(dx), Some(dw), Some(db)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    cases_of(&[(8, &[7, 7, 64], 128), (32, &[128], 10), (5, &[3, 3, 7], 33), (1, &[17], 1), (3, &[1], 100)])
}

pub(super) fn bench() -> Vec<Case> {
    cases_of(&[(128, &[7, 7, 64], 128), (128, &[128], 10), (32, &[256], 10)])
}

fn cases_of(shapes: &[(usize, &[usize], usize)]) -> Vec<Case> {
    shapes
        .iter()
        .map(|&(rows, shape, outputs)| {
            let inputs = shape.iter().product();
            Case::graph(format!("{rows} x {shape:?} -> {outputs}"), rows)
                .feed(shape, Values::Normal)
                .param(&[outputs, inputs], ParamKind::LinearWeight)
                .param(&[outputs], ParamKind::LinearBias { inputs })
                .op(Op::Linear(Linear), &[Operand::Feed(0), Operand::Param(0), Operand::Param(1)])
        })
        .collect()
}
