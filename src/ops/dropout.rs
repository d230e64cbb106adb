//! Dropout (Srivastava et al. 2014): in training each value is zeroed with probability p, the rest scaled by 1 / (1 - p).

use super::call::Kernel;
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::Shape;
use super::{Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};
use crate::rng::{draw, stream, unit};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub p: f32,
    /// Number of the random stream: the layer's dotted name, hashed.
    pub stream: u32,
}

impl Dropout {
    pub fn new(p: f32, name: &str) -> Dropout {
        Dropout { p, stream: stream(name) }
    }

    /// Factor of each element: 0 or 1 / (1 - p).
    fn factors(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let len = at.shapes[0].len();
        let p = self.p;
        let factor = |i: usize| {
            let (row, element) = ((i / len) as u32 + at.counters.first, i % len);
            let words = draw(at.counters.seed, self.stream, at.counters.epoch, row, (element / 4) as u32);
            let keep = !at.train || unit(words[element % 4]) >= p;
            match (at.train, keep) {
                (false, _) => 1.0,
                (true, true) => 1.0 / (1.0 - f64::from(p)),
                (true, false) => 0.0,
            }
        };
        (0..at.rows * len).map(factor).collect()
    }
}

impl Operation for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [x] = exactly::<1>("dropout", inputs)?;
        if !(0.0..1.0).contains(&self.p) {
            return Err(Error::usage(format!("dropout of {x}: p is {}, must be at least 0 and below 1", self.p)));
        }
        Ok(x.clone())
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let kernel = self.kernel(site, false);
        site.emit("forward", kernel, vec![site.input(0)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        if let Some((dx, add)) = site.grad_input(0) {
            let kernel = self.kernel(site, add);
            site.emit("backward", kernel, vec![site.grad_output()], vec![dx]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        self.factors(at).iter().zip(at.inputs[0]).map(|(f, x)| f * x).collect()
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        vec![Some(self.factors(at).iter().zip(dy).map(|(f, d)| f * d).collect())]
    }
}

impl Dropout {
    fn kernel(&self, site: &dyn Site, add: bool) -> Kernel {
        if !site.train() {
            return Kernel::Copy { add };
        }
        let (n, len, offset) = (site.rows(), site.shape().len(), site.row_offset());
        Kernel::Dropout { n, len, offset, p_bits: self.p.to_bits(), stream: self.stream, add }
    }
}

pub(super) fn cases() -> Vec<Case> {
    cases_of(&[(4, &[8, 8, 32], 0.3), (3, &[7], 0.5), (2, &[5, 3, 2], 0.0)])
}

/// Inside WRN-16-4's blocks.
pub(super) fn bench() -> Vec<Case> {
    cases_of(&[(32, &[32, 32, 64], 0.3), (32, &[8, 8, 256], 0.3)])
}

fn cases_of(shapes: &[(usize, &[usize], f32)]) -> Vec<Case> {
    shapes
        .iter()
        .map(|&(rows, shape, p)| {
            Case::graph(format!("{rows} x {shape:?}, p {p}"), rows)
                .feed(shape, Values::Normal)
                .op(Op::Dropout(Dropout::new(p, "dropout")), &[Operand::Feed(0)])
        })
        .collect()
}
