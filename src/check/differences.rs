//! The specs themselves: their rounding bound for a device, and their gradients against central differences.

use super::{COMPONENT, DIFFERENCE, Verdict};
use crate::dtype::{DType, Element};
use crate::graph::{Graph, Var};
use crate::interp::{self, Inputs, Values};
use crate::ops::{Op, SpecAt};
use crate::rng::{Draws, stream};

/// Largest |error| as a share of eps sqrt(K) spec(|inputs|), for an operation that is linear in each input.
///
/// The rounding of a result that is stored in low precision does not count as error; tf32's factors are rounded already.
pub(super) fn componentwise(
    g: &Graph,
    v: Var,
    dtype: DType,
    inputs: &Inputs,
    values: &Values,
    got: &[f32],
    out: &mut Verdict,
) {
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
    // Half a unit in the last place, and a little for a sum that falls on the other side of a tie.
    let stored = match g.element(v, dtype) {
        Element::F32 => 0.0,
        Element::Bf16 => 1.01 / 256.0,
        Element::F16 => 1.01 / 2048.0,
    };
    let unit = f64::from(f32::EPSILON) * (terms as f64).sqrt();
    let share = |((got, expected), bound): ((&f32, &f64), &f64)| {
        let error = ((f64::from(*got) - expected).abs() - stored * expected.abs()).max(0.0);
        let error = if got.is_nan() { f64::NAN } else { error };
        if error == 0.0 { 0.0 } else { error / (unit * bound) }
    };
    let worst = got.iter().zip(values.of(v)).zip(&bound).map(share);
    // Written so that a NaN stays.
    let worst = worst.fold(0.0, |a: f64, b| if a.is_nan() || b <= a { a } else { b });
    out.add("output, worst component", worst, COMPONENT);
}

/// The inputs on which the specs are differentiated: as they are, or as in evaluation where an operation has no derivative in
/// training.
pub(super) fn with_derivative(g: &Graph, inputs: &Inputs) -> Inputs {
    let derivative = g.vars().all(|v| g.node(v).op.operation().is_none_or(|o| o.has_derivative()));
    Inputs { train: inputs.train && derivative, ..inputs.clone() }
}

/// The spec's own gradient against central differences of the spec, input by input, along a direction near the gradient;
/// of the fed values the first `feeds`.
pub(super) fn differences(g: &Graph, root: Var, inputs: &Inputs, seed: &[f64], feeds: usize, out: &mut Verdict) {
    let gradients = interp::backward(g, inputs, &interp::forward(g, inputs), root, seed);
    let value =
        |inputs: &Inputs| -> f64 { interp::forward(g, inputs).of(root).iter().zip(seed).map(|(y, s)| y * s).sum() };
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
