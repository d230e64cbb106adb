//! A place where all-layer margins perturb an activation (Wei & Ma 2020): identity, or h + |h| delta where a pass carries
//! taps, |h| being the 2-norm of one sample's whole activation. The perturbation is differentiated through |h| as well.

use super::call::Kernel;
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::Shape;
use super::{Op, Operation, SpecAt, exactly};
use crate::error::Result;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tap {
    /// Number among the graph's taps; the graph fills it in.
    pub(crate) index: usize,
}

fn norm(h: &[f64]) -> f64 {
    h.iter().map(|v| v * v).sum::<f64>().sqrt()
}

impl Tap {
    /// The gradient of `sum(dy * output)` with respect to the perturbation.
    pub fn spec_delta(at: &SpecAt<'_>, dy: &[f64]) -> Vec<f64> {
        let len = at.shapes[0].len();
        let rows = at.inputs[0].chunks(len).zip(dy.chunks(len));
        rows.flat_map(|(h, d)| d.iter().map(|d| d * norm(h)).collect::<Vec<f64>>()).collect()
    }
}

impl Operation for Tap {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [h] = exactly::<1>("tap", inputs)?;
        Ok(h.clone())
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let (n, len) = (site.rows(), site.shape().len());
        let (kernel, reads) = match site.tap_delta(self.index) {
            Some(delta) => (Kernel::Tap { n, len }, vec![site.input(0), delta]),
            None => (Kernel::Copy { add: false }, vec![site.input(0)]),
        };
        site.emit("forward", kernel, reads, vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let (n, len) = (site.rows(), site.shape().len());
        let dy = site.grad_output();
        if let Some(ddelta) = site.tap_gradient(self.index) {
            site.emit("backward_delta", Kernel::TapDelta { n, len }, vec![site.input(0), dy], vec![ddelta]);
        }
        let delta = site.tap_delta(self.index);
        if delta.is_none() && site.alias_grad_input(0) {
            return Ok(());
        }
        if let Some((dh, add)) = site.grad_input(0) {
            let (kernel, reads) = match delta {
                Some(delta) => (Kernel::TapBackward { n, len, add }, vec![site.input(0), delta, dy]),
                None => (Kernel::Copy { add }, vec![dy]),
            };
            site.emit("backward", kernel, reads, vec![dh]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let Some(delta) = at.delta else { return at.inputs[0].to_vec() };
        let len = at.shapes[0].len();
        let rows = at.inputs[0].chunks(len).zip(delta.chunks(len));
        rows.flat_map(|(h, delta)| {
            let size = norm(h);
            h.iter().zip(delta).map(|(h, d)| h + size * d).collect::<Vec<f64>>()
        })
        .collect()
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let Some(delta) = at.delta else { return vec![Some(dy.to_vec())] };
        let len = at.shapes[0].len();
        let rows = at.inputs[0].chunks(len).zip(delta.chunks(len)).zip(dy.chunks(len));
        let gradient = rows.flat_map(|((h, delta), dy)| {
            let size = norm(h);
            let along = if size > 0.0 { dy.iter().zip(delta).map(|(a, b)| a * b).sum::<f64>() / size } else { 0.0 };
            h.iter().zip(dy).map(|(h, d)| d + along * h).collect::<Vec<f64>>()
        });
        vec![Some(gradient.collect())]
    }
}

pub(super) fn cases() -> Vec<Case> {
    let tap = || Op::Tap(Tap::default());
    let of = |label: &str, rows, shape: &[usize], values| Case::graph(label, rows).feed(shape, values);
    vec![
        of("3 x [6, 5, 16], perturbed", 3, &[6, 5, 16], Values::Normal).op(tap(), &[Operand::Feed(0)]).with_taps(),
        of("2 x [9], perturbed, |h| = 0", 2, &[9], Values::Zero).op(tap(), &[Operand::Feed(0)]).with_taps(),
        of("2 x [33], two taps in a row", 2, &[33], Values::AwayFromZero)
            .op(tap(), &[Operand::Feed(0)])
            .op(Op::Relu, &[Operand::Result(0)])
            .op(tap(), &[Operand::Result(1)])
            .with_taps(),
        of("2 x [4, 4, 8], not perturbed: identity", 2, &[4, 4, 8], Values::Normal).op(tap(), &[Operand::Feed(0)]),
    ]
}

/// Behind the first convolutions of WRN-16-4.
pub(super) fn bench() -> Vec<Case> {
    let case = Case::graph("32 x [32, 32, 64], perturbed", 32).feed(&[32, 32, 64], Values::Normal);
    vec![case.op(Op::Tap(Tap::default()), &[Operand::Feed(0)]).with_taps()]
}
