//! Random weights of residual branches, drawn for each image: Shake-Shake (Gastaldi, "Shake-Shake regularization", 2017)
//! mixes two branches, ShakeDrop (Yamada et al., "ShakeDrop Regularization for Deep Residual Learning", 2018) scales one.
//!
//! Backward draws for itself, so that in training neither has a derivative: `spec_backward` is the definition.
//! Draws are keyed by (seed, layer, epoch, position in the order), so all passes of one step draw the same a, b and d: both
//! gradients of SAM are those of one random network, however the batch is split into groups.

use super::call::{Kernel, RowFactors};
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::Shape;
use super::{Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};
use crate::rng::{draw, stream, unit};

/// Words of a row's draw: a of forward, b of backward, and what decides about d.
const FORWARD: usize = 0;
const BACKWARD: usize = 1;

/// y = a x1 + (1 - a) x2 with a uniform in [0, 1) for each image; in evaluation a is 0.5. Its backward is
/// dx1 = b dy, dx2 = (1 - b) dy with b drawn independently; in evaluation b is 0.5 as well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shake {
    /// Number of the random stream: the layer's dotted name, hashed.
    pub stream: u32,
}

/// y = (d + a - d a) x with d = 1 at probability p, else 0, and a uniform in [-1, 1), for each image; in evaluation
/// y = p x, the expectation. Its backward is dx = (d + b - d b) dy with the same d and b uniform in [0, 1); in evaluation
/// dx = p dy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShakeDrop {
    /// Probability that the branch stays as it is.
    pub p: f32,
    /// As in [`Shake`].
    pub stream: u32,
}

/// The three draws of a row, each uniform in [0, 1).
fn draws(at: &SpecAt<'_>, stream: u32, row: usize) -> [f64; 3] {
    let words = draw(at.counters.seed, stream, at.counters.epoch, at.counters.first + row as u32, 0);
    [0, 1, 2].map(|i| f64::from(unit(words[i])))
}

/// Each row of `values` times what `factor` gives for its number.
fn scaled(rows: usize, values: &[f64], factor: impl Fn(usize) -> f64) -> Vec<f64> {
    let len = values.len() / rows;
    values.iter().enumerate().map(|(i, v)| factor(i / len) * v).collect()
}

/// Factors of the rows that `site` has: `base + slope u`, but 1 at probability `one`.
fn factors(site: &dyn Site, stream: u32, word: usize, [base, slope, one]: [f32; 3]) -> RowFactors {
    RowFactors { n: site.rows(), len: site.shape().len(), offset: site.row_offset(), stream, word, base, slope, one }
}

impl Shake {
    pub fn new(name: &str) -> Shake {
        Shake { stream: stream(name) }
    }

    /// Factors of the first input's rows, or with `rest` of the second's.
    fn factors(&self, site: &dyn Site, word: usize, rest: bool) -> RowFactors {
        let terms = match (site.train(), rest) {
            (false, _) => [0.5, 0.0, 0.0],
            (true, false) => [0.0, 1.0, 0.0],
            (true, true) => [1.0, -1.0, 0.0],
        };
        factors(site, self.stream, word, terms)
    }

    fn share(&self, at: &SpecAt<'_>, row: usize, word: usize) -> f64 {
        if at.train { draws(at, self.stream, row)[word] } else { 0.5 }
    }
}

impl Operation for Shake {
    fn name(&self) -> &'static str {
        "shake"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [a, b] = exactly::<2>("shake", inputs)?;
        if a != b {
            return Err(Error::usage(format!("shake of {a} and {b}: the shapes must be equal")));
        }
        Ok(a.clone())
    }

    fn has_derivative(&self) -> bool {
        false
    }

    fn reduction(&self, _inputs: &[&Shape]) -> Option<usize> {
        Some(2)
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let kernel = Kernel::MixRows(self.factors(site, FORWARD, false));
        site.emit("forward", kernel, vec![site.input(0), site.input(1)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        for i in 0..2 {
            if let Some((dx, add)) = site.grad_input(i) {
                let factors = self.factors(site, BACKWARD, i == 1);
                site.emit("backward", Kernel::ScaleRows { factors, add }, vec![site.grad_output()], vec![dx]);
            }
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let first = scaled(at.rows, at.inputs[0], |row| self.share(at, row, FORWARD));
        let second = scaled(at.rows, at.inputs[1], |row| 1.0 - self.share(at, row, FORWARD));
        first.iter().zip(second).map(|(a, b)| a + b).collect()
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let first = scaled(at.rows, dy, |row| self.share(at, row, BACKWARD));
        let second = scaled(at.rows, dy, |row| 1.0 - self.share(at, row, BACKWARD));
        vec![Some(first), Some(second)]
    }
}

impl ShakeDrop {
    pub fn new(p: f32, name: &str) -> ShakeDrop {
        ShakeDrop { p, stream: stream(name) }
    }

    fn kernel(&self, site: &dyn Site, word: usize, add: bool) -> Kernel {
        let terms = match (site.train(), word) {
            (false, _) => [self.p, 0.0, 0.0],
            (true, FORWARD) => [-1.0, 2.0, self.p],
            (true, _) => [0.0, 1.0, self.p],
        };
        Kernel::ScaleRows { factors: factors(site, self.stream, word, terms), add }
    }

    /// d + v - d v, where v is a or b.
    fn factor(&self, at: &SpecAt<'_>, row: usize, word: usize) -> f64 {
        let p = f64::from(self.p);
        if !at.train {
            return p;
        }
        let [a, b, chance] = draws(at, self.stream, row);
        let d = if chance < p { 1.0 } else { 0.0 };
        let v = if word == FORWARD { 2.0 * a - 1.0 } else { b };
        d + v - d * v
    }
}

impl Operation for ShakeDrop {
    fn name(&self) -> &'static str {
        "shake_drop"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [x] = exactly::<1>("shake_drop", inputs)?;
        if !(self.p > 0.0 && self.p <= 1.0) {
            return Err(Error::usage(format!("shake_drop of {x}: p is {}, must be above 0 and at most 1", self.p)));
        }
        Ok(x.clone())
    }

    fn has_derivative(&self) -> bool {
        false
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let kernel = self.kernel(site, FORWARD, false);
        site.emit("forward", kernel, vec![site.input(0)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        if let Some((dx, add)) = site.grad_input(0) {
            let kernel = self.kernel(site, BACKWARD, add);
            site.emit("backward", kernel, vec![site.grad_output()], vec![dx]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        scaled(at.rows, at.inputs[0], |row| self.factor(at, row, FORWARD))
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        vec![Some(scaled(at.rows, dy, |row| self.factor(at, row, BACKWARD)))]
    }
}

/// Two branches of one shape.
fn shake_case(rows: usize, shape: &[usize]) -> Case {
    Case::graph(format!("{rows} x {shape:?}"), rows)
        .feed(shape, Values::Normal)
        .feed(shape, Values::Normal)
        .op(Op::Shake(Shake::new("shake")), &[Operand::Feed(0), Operand::Feed(1)])
}

fn drop_case(rows: usize, shape: &[usize], p: f32) -> Case {
    Case::graph(format!("{rows} x {shape:?}, p {p}"), rows)
        .feed(shape, Values::Normal)
        .op(Op::ShakeDrop(ShakeDrop::new(p, "shake_drop")), &[Operand::Feed(0)])
}

pub(super) fn shake_cases() -> Vec<Case> {
    use Operand::{Feed, Result};
    let shake = |name: &str| Op::Shake(Shake::new(name));
    vec![
        shake_case(4, &[8, 8, 32]),
        shake_case(33, &[7]),
        shake_case(5, &[5, 3, 3]),
        shake_case(4, &[6, 6, 8]).evaluated(),
        Case::graph("3 x [9], a value shaken with itself", 3)
            .feed(&[9], Values::Normal)
            .op(shake("shake"), &[Feed(0), Feed(0)]),
        // Both gradients of each are added to what is there; the second layer has draws of its own.
        Case::graph("6 x [5, 3, 10], residual: s = x + shake(x, relu(x)), s + shake(s, relu(s))", 6)
            .feed(&[5, 3, 10], Values::AwayFromZero)
            .op(Op::Relu, &[Feed(0)])
            .op(shake("first"), &[Feed(0), Result(0)])
            .op(Op::Add, &[Feed(0), Result(1)])
            .op(Op::Relu, &[Result(2)])
            .op(shake("second"), &[Result(2), Result(3)])
            .op(Op::Add, &[Result(2), Result(4)]),
    ]
}

pub(super) fn drop_cases() -> Vec<Case> {
    use Operand::{Feed, Result};
    vec![
        drop_case(8, &[8, 8, 32], 0.5),
        drop_case(33, &[7], 0.75),
        drop_case(3, &[5, 3, 3], 1.0),
        drop_case(4, &[6, 6, 8], 0.75).evaluated(),
        Case::graph("16 x [5, 3, 10], residual: x + drop(x)", 16)
            .feed(&[5, 3, 10], Values::Normal)
            .op(Op::ShakeDrop(ShakeDrop::new(0.5, "shake_drop")), &[Feed(0)])
            .op(Op::Add, &[Feed(0), Result(0)]),
    ]
}

/// The first and the last stage of Shake-Shake 26 2x32d.
pub(super) fn shake_bench() -> Vec<Case> {
    vec![shake_case(128, &[32, 32, 32]), shake_case(128, &[8, 8, 128])]
}

/// The second and the last stage of a PyramidNet-110 of alpha 270, half-way up.
pub(super) fn drop_bench() -> Vec<Case> {
    vec![drop_case(128, &[16, 16, 151], 0.75), drop_case(128, &[8, 8, 286], 0.5)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::call::Counters;

    const ROWS: usize = 20_000;

    /// Factors of forward and backward of rows that hold a 1, by the spec.
    fn factors_of(operation: &dyn Operation, counters: Counters, train: bool) -> [Vec<f64>; 2] {
        let shape = Shape(vec![1]);
        let (ones, zeros) = (vec![1.0; ROWS], vec![0.0; ROWS]);
        let at = SpecAt {
            rows: ROWS,
            inputs: vec![&ones, &zeros],
            shapes: vec![&shape, &shape],
            output_shape: &shape,
            train,
            running: None,
            delta: None,
            branch: None,
            counters,
        };
        let backward = operation.spec_backward(&at, &[], &ones).swap_remove(0);
        [operation.spec(&at), backward.unwrap_or_default()]
    }

    fn mean(values: impl Iterator<Item = f64>) -> f64 {
        values.sum::<f64>() / ROWS as f64
    }

    #[test]
    fn the_draws_have_the_distributions_of_the_papers_and_those_of_backward_are_independent() {
        let (shake, drop) = (Shake::new("s"), ShakeDrop::new(0.75, "d"));
        let counters = Counters { seed: 3, epoch: 2, first: 640, ..Counters::default() };
        let [a, b] = factors_of(&shake, counters, true);
        for v in [&a, &b] {
            let (m, m2) = (mean(v.iter().copied()), mean(v.iter().map(|v| v * v)));
            assert!((m - 0.5).abs() < 0.01 && (m2 - 1.0 / 3.0).abs() < 0.01, "{m} {m2}");
        }
        let covariance = mean(a.iter().zip(&b).map(|(a, b)| (a - 0.5) * (b - 0.5)));
        assert!(covariance.abs() < 0.002, "{covariance}");

        let [forward, backward] = factors_of(&drop, counters, true);
        let kept = |v: &&f64| **v == 1.0;
        let share = forward.iter().filter(kept).count() as f64 / ROWS as f64;
        assert!((share - 0.75).abs() < 0.01, "{share}");
        // The same d in both; else a is in [-1, 1) and b in [0, 1).
        assert!(forward.iter().zip(&backward).all(|(f, b)| (*f == 1.0) == (*b == 1.0)));
        assert!(forward.iter().any(|v| *v < -0.9) && forward.iter().all(|v| (-1.0..=1.0).contains(v)));
        assert!(backward.iter().all(|v| (0.0..=1.0).contains(v)));
        // Evaluation uses the expectation.
        let expected = mean(forward.iter().copied());
        assert!((expected - 0.75).abs() < 0.01, "{expected}");
        assert!(factors_of(&drop, counters, false).iter().flatten().all(|v| *v == 0.75));
        assert!(factors_of(&shake, counters, false).iter().flatten().all(|v| *v == 0.5));
    }

    #[test]
    fn wrong_inputs_are_refused_with_their_shapes() {
        let (a, b) = (Shape(vec![4, 4, 2]), Shape(vec![4, 4, 3]));
        let error = Shake::new("s").infer(&[&a, &b]).unwrap_err().to_string();
        assert_eq!(error, "shake of 4x4x2 and 4x4x3: the shapes must be equal");
        for p in [0.0, -0.5, 1.5, f32::NAN] {
            let error = ShakeDrop::new(p, "d").infer(&[&a]).unwrap_err().to_string();
            assert_eq!(error, format!("shake_drop of 4x4x2: p is {p}, must be above 0 and at most 1"));
        }
    }
}
