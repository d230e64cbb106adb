//! The operations: one file each, and the table [`OPS`].
//!
//! An operation has a name, infers shapes, lowers itself to device calls forward and backward, and has a spec: the naive
//! definition in f64 that a reader can check against a textbook. Every proof about operations walks [`OPS`].

pub mod call;
pub mod case;
pub mod site;
pub mod value;

mod add;
mod attack;
mod batch_norm;
mod conv2d;
mod counts;
mod cross_entropy;
mod dropout;
mod fused;
mod ingest;
mod linear;
mod pooling;
mod relu;
mod shake;
mod shapes;
mod shortcut;
mod tap;
mod vectors;

pub use batch_norm::BatchNorm;
pub use conv2d::Conv2d;
pub use cross_entropy::{Bootstrap, CrossEntropy};
pub use dropout::Dropout;
pub use ingest::{ingest_spec, mixup_spec};
pub use linear::Linear;
pub use pooling::{AvgPool, MaxPool};
pub use shake::{Shake, ShakeDrop};
pub use shortcut::PadShortcut;
pub use tap::Tap;

use crate::error::{Error, Result};
use call::Counters;
use case::Case;
use site::Site;
use value::Shape;

/// An operation of the graph, as plain data.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A trainable parameter, by its number.
    Param(usize),
    /// A value that the caller uploads, by its number.
    Feed(usize),
    /// Images, target rows and row weights of a batch; one ingest call writes the three.
    Images,
    Targets,
    Weights,
    Conv2d(Conv2d),
    BatchNorm(BatchNorm),
    Relu,
    Add,
    MaxPool(MaxPool),
    AvgPool(AvgPool),
    PadShortcut(PadShortcut),
    Linear(Linear),
    Dropout(Dropout),
    Shake(Shake),
    ShakeDrop(ShakeDrop),
    CrossEntropy(CrossEntropy),
    /// Identity; h + |h| delta where a pass carries taps.
    Tap(Tap),
}

impl Op {
    /// The operation's behaviour; None for the sources.
    pub fn operation(&self) -> Option<&dyn Operation> {
        match self {
            Op::Param(_) | Op::Feed(_) | Op::Images | Op::Targets | Op::Weights => None,
            Op::Conv2d(o) => Some(o),
            Op::BatchNorm(o) => Some(o),
            Op::Relu => Some(&relu::Relu),
            Op::Add => Some(&add::Add),
            Op::MaxPool(o) => Some(o),
            Op::AvgPool(o) => Some(o),
            Op::PadShortcut(o) => Some(o),
            Op::Linear(o) => Some(o),
            Op::Dropout(o) => Some(o),
            Op::Shake(o) => Some(o),
            Op::ShakeDrop(o) => Some(o),
            Op::CrossEntropy(o) => Some(o),
            Op::Tap(o) => Some(o),
        }
    }
}

/// The interface of an operation.
pub trait Operation {
    fn name(&self) -> &'static str;

    /// The output's shape, per sample.
    ///
    /// # Errors
    /// If the inputs do not fit; the message names the operation and the shapes.
    fn infer(&self, inputs: &[&Shape]) -> Result<Shape>;

    /// Forward flops of one sample, multiply-adds counted as two; 0 where memory traffic is all there is.
    fn flops(&self, _inputs: &[&Shape], _output: &Shape) -> u64 {
        0
    }

    /// Emits the forward calls.
    fn forward(&self, site: &mut dyn Site) -> Result<()>;

    /// Emits the calls that write the gradients which the site asks for.
    fn backward(&self, site: &mut dyn Site) -> Result<()>;

    /// The definition in f64: rows of the output.
    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64>;

    /// The gradient of `sum(dy * output)` with respect to each input, in f64; None where there is none.
    fn spec_backward(&self, at: &SpecAt<'_>, output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>>;

    /// Returns true if `spec_backward` is the derivative of `spec` in training. Where it is not, by design, `spec_backward`
    /// is the definition, and the difference quotients are those of evaluation, where it is the derivative.
    fn has_derivative(&self) -> bool {
        true
    }

    /// Terms in the sum behind one output element, for operations that are linear in each of their inputs: their rounding
    /// error is bounded elementwise by the spec of absolute values.
    fn reduction(&self, _inputs: &[&Shape]) -> Option<usize> {
        None
    }
}

/// The decisions that a piecewise operation took, when they are given instead of computed: 0 or 1 an element for ReLU, the
/// winner's index in x for a max pool.
pub type Branch = Vec<u32>;

/// Inputs and parameters at which a spec is evaluated.
pub struct SpecAt<'a> {
    pub rows: usize,
    pub inputs: Vec<&'a [f64]>,
    pub shapes: Vec<&'a Shape>,
    pub output_shape: &'a Shape,
    /// Dropout draws and the like are on.
    pub train: bool,
    /// Running (batches, mean, variance) `[3, c]` that batch-norm uses instead of the batch's own statistics.
    pub running: Option<&'a [f64]>,
    /// Perturbation of a tap, `[rows, len]`.
    pub delta: Option<&'a [f64]>,
    pub branch: Option<&'a Branch>,
    pub counters: Counters,
}

/// One line of the table of operations.
pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    /// Shapes, strides, odd sizes and input distributions that the row is checked with.
    pub cases: fn() -> Vec<Case>,
    /// Cases of the benchmark: sizes that occur in `cnn` at batch 128 and in WRN-16-4 at batch 32.
    pub bench: fn() -> Vec<Case>,
}

const fn row(name: &'static str, about: &'static str, cases: fn() -> Vec<Case>, bench: fn() -> Vec<Case>) -> Row {
    Row { name, about, cases, bench }
}

/// Every operation, fused call and vector kernel that samcore has.
pub const OPS: &[Row] = &[
    row("conv2d", "2-D convolution, any kernel, stride and zero padding", conv2d::cases, conv2d::bench),
    row("batch_norm", "batch normalisation, batch or running statistics", batch_norm::cases, batch_norm::bench),
    row("relu", "max(x, 0)", relu::cases, relu::bench),
    row("add", "sum of two values, and fan-out", add::cases, add::bench),
    row("max_pool", "largest value of each window", pooling::max_cases, pooling::max_bench),
    row("avg_pool", "mean of each window, or of the whole image", pooling::avg_cases, pooling::avg_bench),
    row("pad_shortcut", "every n-th pixel, with channels of zeros", shortcut::cases, shortcut::bench),
    row("linear", "x wᵀ + b", linear::cases, linear::bench),
    row("dropout", "zeroes a share p, scales the rest", dropout::cases, dropout::bench),
    row("shake", "two branches mixed at random (Shake-Shake)", shake::shake_cases, shake::shake_bench),
    row("shake_drop", "a branch scaled at random (ShakeDrop)", shake::drop_cases, shake::drop_bench),
    row("cross_entropy", "softmax cross-entropy over target rows", cross_entropy::cases, cross_entropy::bench),
    row("tap", "h + |h| delta (all-layer margins)", tap::cases, tap::bench),
    row("conv_norm_relu", "convolution, batch-norm and ReLU as fused calls", fused::relu_cases, fused::relu_bench),
    row("conv_norm_relu_pool", "the same with a max pool behind", fused::pool_cases, fused::pool_bench),
    row("residual_block", "a wide ResNet's block as fused calls", fused::residual_cases, fused::residual_bench),
    row("ingest", "bytes to normalised, augmented images", ingest::cases, ingest::bench),
    row("pgd_step", "a step of an attack on images", attack::cases, attack::bench),
    row("norm", "2-norm of a masked vector", vectors::norm_cases, vectors::norm_bench),
    row("dot", "inner product of masked vectors", vectors::dot_cases, vectors::dot_bench),
    row("set", "masked sum of scaled vectors (SAM's perturbation)", vectors::set_cases, vectors::set_bench),
    row("perturbation", "what rounding leaves of it", vectors::perturbation_cases, vectors::perturbation_bench),
    row("largest", "n entries of largest magnitude, the rest 0", vectors::largest_cases, vectors::largest_bench),
    row("unscale", "gradient of a scaled loss", vectors::unscale_cases, vectors::unscale_bench),
    row("update", "clip, momentum, Nesterov, decay, descend, cast", vectors::update_cases, vectors::update_bench),
    row("fold_stats", "batch statistics into running ones", vectors::fold_cases, vectors::fold_bench),
];

/// The inputs of an operation that takes exactly `N`.
///
/// # Errors
/// With the operation's name and the number it got.
pub fn exactly<'a, const N: usize>(op: &str, inputs: &[&'a Shape]) -> Result<[&'a Shape; N]> {
    inputs.try_into().map_err(|_| Error::usage(format!("{op} takes {N} inputs, got {}", inputs.len())))
}
