//! Layers: functions from value to value that declare their parameters under a dotted name.

use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::ops::value::ParamKind;
use crate::ops::{
    AvgPool, BatchNorm, Bootstrap, Conv2d, CrossEntropy, Dropout, Linear, MaxPool, Op, PadShortcut, Shake, ShakeDrop,
    Tap,
};
use crate::params::FileLayout;

/// Convolution without bias to `co` channels: k x k, zero padding `pad`. Parameter `name.weight`.
///
/// # Errors
/// If `x` is not an image or the kernel does not fit.
pub fn conv(g: &mut Graph, x: Var, name: &str, co: usize, k: usize, stride: usize, pad: usize) -> Result<Var> {
    let (_, _, ci) = g.shape(x).image(name)?;
    let weight = g.param(&format!("{name}.weight"), &[co, k, k, ci], ParamKind::ConvWeight, FileLayout::ConvOihw)?;
    g.op(Op::Conv2d(Conv2d { stride, pad }), &[x, weight], name)
}

/// Batch normalisation over the last dimension. Parameters `name.weight`, `name.bias`; statistics `name.running_mean`,
/// `name.running_var`.
///
/// # Errors
/// If a parameter's name is taken.
pub fn batch_norm(g: &mut Graph, x: Var, name: &str) -> Result<Var> {
    let c = g.shape(x).0.last().copied().unwrap_or(0);
    let weight = g.param(&format!("{name}.weight"), &[c], ParamKind::NormWeight, FileLayout::Same)?;
    let bias = g.param(&format!("{name}.bias"), &[c], ParamKind::NormBias, FileLayout::Same)?;
    g.op(Op::BatchNorm(BatchNorm::new(c)), &[x, weight, bias], name)
}

/// max(x, 0).
///
/// # Errors
/// None in practice; the shape always fits.
pub fn relu(g: &mut Graph, x: Var, name: &str) -> Result<Var> {
    g.op(Op::Relu, &[x], name)
}

/// Sum of two values of one shape.
///
/// # Errors
/// If the shapes differ.
pub fn add(g: &mut Graph, a: Var, b: Var, name: &str) -> Result<Var> {
    g.op(Op::Add, &[a, b], name)
}

/// Fully connected layer over the flattened input. Parameters `name.weight`, `name.bias`.
///
/// # Errors
/// If a parameter's name is taken.
pub fn linear(g: &mut Graph, x: Var, name: &str, outputs: usize) -> Result<Var> {
    let inputs = g.shape(x).len();
    linear_with(g, x, name, outputs, ParamKind::LinearBias { inputs })
}

/// Records a linear layer whose bias begins at 0.
///
/// # Errors
/// If a parameter's name is taken.
pub fn linear_zero_bias(g: &mut Graph, x: Var, name: &str, outputs: usize) -> Result<Var> {
    linear_with(g, x, name, outputs, ParamKind::ZeroBias)
}

fn linear_with(g: &mut Graph, x: Var, name: &str, outputs: usize, bias: ParamKind) -> Result<Var> {
    let shape = g.shape(x).clone();
    let inputs = shape.len();
    let layout = match shape.0[..] {
        [h, w, c] if h * w > 1 => FileLayout::LinearChw { h, w, c },
        _ => FileLayout::Same,
    };
    let weight = g.param(&format!("{name}.weight"), &[outputs, inputs], ParamKind::LinearWeight, layout)?;
    let bias = g.param(&format!("{name}.bias"), &[outputs], bias, FileLayout::Same)?;
    g.op(Op::Linear(Linear), &[x, weight, bias], name)
}

/// Largest value of each `window` x `window` square.
///
/// # Errors
/// If the window does not fit.
pub fn max_pool(g: &mut Graph, x: Var, name: &str, window: usize) -> Result<Var> {
    g.op(Op::MaxPool(MaxPool::tiles(window)), &[x], name)
}

/// Largest value of windows that may overlap or reach into padding, which never wins.
///
/// # Errors
/// If the pool does not fit.
pub fn max_pool_of(g: &mut Graph, x: Var, name: &str, pool: MaxPool) -> Result<Var> {
    g.op(Op::MaxPool(pool), &[x], name)
}

/// Every stride-th pixel, of the image moved by a shift, between channels of zeros: a residual block's shortcut without parameters.
///
/// # Errors
/// If `x` is not an image.
pub fn pad_shortcut(g: &mut Graph, x: Var, name: &str, shortcut: PadShortcut) -> Result<Var> {
    g.op(Op::PadShortcut(shortcut), &[x], name)
}

/// Mean of each window.
///
/// # Errors
/// If the window does not fit.
pub fn avg_pool(g: &mut Graph, x: Var, name: &str, pool: AvgPool) -> Result<Var> {
    g.op(Op::AvgPool(pool), &[x], name)
}

/// Mean of the whole image, one value a channel.
///
/// # Errors
/// If `x` is not an image.
pub fn global_avg_pool(g: &mut Graph, x: Var, name: &str) -> Result<Var> {
    g.op(Op::AvgPool(AvgPool::GLOBAL), &[x], name)
}

/// Zeroes a share `p` of the values in training; nothing is recorded where `p` is 0.
///
/// # Errors
/// If `p` is not in [0, 1).
pub fn dropout(g: &mut Graph, x: Var, name: &str, p: f32) -> Result<Var> {
    if p == 0.0 { Ok(x) } else { g.op(Op::Dropout(Dropout::new(p, name)), &[x], name) }
}

/// Marks an activation that all-layer margins perturb; records nothing unless `on`.
///
/// # Errors
/// None in practice; the shape always fits.
pub fn tap(g: &mut Graph, x: Var, name: &str, on: bool) -> Result<Var> {
    if on { g.op(Op::Tap(Tap::default()), &[x], name) } else { Ok(x) }
}

/// Two branches of one shape, mixed at random for each image in training, half and half in evaluation (Shake-Shake).
///
/// # Errors
/// If the shapes differ.
pub fn shake(g: &mut Graph, a: Var, b: Var, name: &str) -> Result<Var> {
    g.op(Op::Shake(Shake::new(name)), &[a, b], name)
}

/// A branch that in training stays as it is with probability `p` and else is scaled at random, for each image (ShakeDrop).
///
/// # Errors
/// If `p` is not in (0, 1].
pub fn shake_drop(g: &mut Graph, x: Var, name: &str, p: f32) -> Result<Var> {
    g.op(Op::ShakeDrop(ShakeDrop::new(p, name)), &[x], name)
}

/// Softmax cross-entropy with target rows: the loss of the graph.
///
/// # Errors
/// If logits and targets differ in length.
pub fn cross_entropy(g: &mut Graph, logits: Var, targets: Var, weights: Var, smoothing: f32) -> Result<Var> {
    let bootstrap = Bootstrap::None;
    g.op(Op::CrossEntropy(CrossEntropy { smoothing, bootstrap }), &[logits, targets, weights], "loss")
}
