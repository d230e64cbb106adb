//! Softmax cross-entropy of logits `[classes]` with target rows `[classes]`; one loss a sample.
//!
//! loss = - sum_k t_k log softmax(z)_k with t smoothed to (1 - s) t + s / classes (Szegedy et al. 2016). As the root of a
//! pass it is averaged over the rows' weights; its gradient is then weight / sum(weights) * (softmax(z) sum(t) - t).

use super::call::Kernel;
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::Shape;
use super::{Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    pub smoothing: f32,
}

impl CrossEntropy {
    fn target(&self, t: f64, classes: usize) -> f64 {
        let s = f64::from(self.smoothing);
        (1.0 - s) * t + s / classes as f64
    }
}

fn log_sum_exp(z: &[f64]) -> f64 {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
}

impl Operation for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [logits, targets, weights] = exactly::<3>("cross_entropy", inputs)?;
        if logits.0.len() != 1 || logits != targets || weights.len() != 1 {
            return Err(Error::usage(format!(
                "cross_entropy of logits {logits}, targets {targets}, weights {weights}: logits and targets must be rows \
                 of one length, weights one value a row"
            )));
        }
        if !(0.0..1.0).contains(&self.smoothing) {
            return Err(Error::usage(format!("cross_entropy: smoothing {} must be in [0, 1)", self.smoothing)));
        }
        Ok(Shape(vec![1]))
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let (n, classes) = (site.rows(), site.input_shape(0).len());
        let kernel = Kernel::CrossEntropy { n, classes, smoothing_bits: self.smoothing.to_bits() };
        let (losses, hits) = (site.output(), site.temp(n));
        site.emit("forward", kernel, vec![site.input(0), site.input(1)], vec![losses, hits]);
        let outcome = site.outcome();
        site.emit("mean", Kernel::MeanLoss { n }, vec![losses, hits, site.input(2)], vec![outcome]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let (n, classes) = (site.rows(), site.input_shape(0).len());
        let kernel = Kernel::CrossEntropyBackward { n, classes, smoothing_bits: self.smoothing.to_bits() };
        if let Some(dz) = site.grad_input_written(0) {
            let mut reads = vec![site.input(0), site.input(1), site.input(2)];
            reads.extend(site.loss_scale());
            site.emit("backward", kernel, reads, vec![dz]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let k = at.shapes[0].len();
        let rows = at.inputs[0].chunks(k).zip(at.inputs[1].chunks(k));
        rows.map(|(z, t)| {
            let lse = log_sum_exp(z);
            z.iter().zip(t).map(|(z, t)| self.target(*t, k) * (lse - z)).sum()
        })
        .collect()
    }

    /// The gradient of `sum(dy * losses)`; with dy = weights / sum(weights) this is what the device computes.
    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let k = at.shapes[0].len();
        let rows = at.inputs[0].chunks(k).zip(at.inputs[1].chunks(k)).zip(dy);
        let gradient = rows.flat_map(|((z, t), d)| {
            let lse = log_sum_exp(z);
            let mass: f64 = t.iter().map(|t| self.target(*t, k)).sum();
            let row: Vec<f64> =
                z.iter().zip(t).map(|(z, t)| d * ((z - lse).exp() * mass - self.target(*t, k))).collect();
            row
        });
        vec![Some(gradient.collect()), None, None]
    }
}

pub(super) fn cases() -> Vec<Case> {
    use Values::{LargeLogits, Logits, OneHot, Simplex};
    cases_of(&[
        (8, 10, 0.0, Logits, OneHot),
        (5, 10, 0.1, Logits, OneHot),
        (7, 100, 0.1, Logits, Simplex),
        (4, 10, 0.0, LargeLogits, OneHot),
        (1, 2, 0.0, Logits, OneHot),
        (3, 17, 0.2, Values::Zero, OneHot),
    ])
}

pub(super) fn bench() -> Vec<Case> {
    cases_of(&[(128, 10, 0.1, Values::Logits, Values::OneHot), (128, 100, 0.1, Values::Logits, Values::OneHot)])
}

fn cases_of(list: &[(usize, usize, f32, Values, Values)]) -> Vec<Case> {
    let case = |&(rows, k, smoothing, logits, targets): &(usize, usize, f32, Values, Values)| {
        Case::graph(format!("{rows} x {k}, smoothing {smoothing}, {logits:?}, {targets:?}"), rows)
            .feed(&[k], logits)
            .feed(&[k], targets)
            .feed(&[1], Values::RowWeights)
            .first_feed_only()
            .op(Op::CrossEntropy(CrossEntropy { smoothing }), &[Operand::Feed(0), Operand::Feed(1), Operand::Feed(2)])
    };
    list.iter().map(case).collect()
}
