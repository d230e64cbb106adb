//! From a call to kernel launches. Nothing here needs a GPU: a launch is plain data, so that a test can list, compile and
//! count every variant that any call would use.

mod conv;
#[cfg(test)]
mod conv_emu_tests;
#[cfg(test)]
mod conv_tests;
mod conv_tiles;
mod conv_wgmma;
mod ingest;
mod linear;
mod loss;
mod norm;
mod operands;
mod pointwise;
mod pooling;
pub mod step;
mod vector;

use super::driver::{Grid, MapShape, Module};
use super::rungs::Rungs;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::call::{Call, Groups, Kernel};
use std::sync::Arc;

/// The card, dtype and settings that launches are chosen for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Compute capability as a number: 75, 80, 90.
    pub arch: u32,
    /// Streaming multiprocessors: how far a sum is split. Bits depend on it; they do not on anything else of the card.
    pub processors: usize,
    pub dtype: DType,
    /// The rung of the convolutions for each shape.
    pub rungs: Rungs,
}

/// One kernel launch of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    pub module: Module,
    pub kernel: &'static str,
    pub grid: Grid,
    pub args: Vec<Operand>,
}

/// An argument of a launch before addresses are known.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// Address of the call's n-th read.
    Read(usize),
    /// Address of the call's n-th write.
    Write(usize),
    /// Address this many bytes into the call's workspace.
    Work(usize),
    /// Address of the step's counters: `struct Counters` of `counters.cuh`.
    Counters,
    /// Address of the table of data sets: an array of `struct Dataset` of `counters.cuh`.
    Datasets,
    /// Address of constant words, uploaded once.
    Table(Arc<[u32]>),
    I32(i32),
    U32(u32),
    F32(f32),
    /// A tensor map over another operand that is an address.
    Map(Box<Operand>, MapShape),
}

/// Cells (of 4 bytes) of scratch that a call needs.
pub fn workspace(target: &Target, call: &Call) -> usize {
    match &call.kernel {
        Kernel::ConvForward(_) | Kernel::ConvBackwardData { .. } | Kernel::ConvBackwardWeight(_) => {
            conv::workspace(target, call)
        }
        Kernel::LinearForward(_) | Kernel::LinearBackwardData { .. } | Kernel::LinearBackwardWeight(_) => {
            linear::workspace(target, call)
        }
        Kernel::BatchStats { .. } | Kernel::NormBackwardSums(_) => norm::workspace(target, call),
        Kernel::Norm(_)
        | Kernel::Dot(_)
        | Kernel::Perturbation { .. }
        | Kernel::Largest { .. }
        | Kernel::Unscale(_) => vector::workspace(target, call),
        _ => 0,
    }
}

/// Returns the groups of the sums over pixels that a convolution writes beside its output: statistics of the output of
/// `ConvForward`, the batch-norm's sums over the output of `ConvBackwardData`. None where it writes none.
pub fn groups(target: &Target, kernel: &Kernel) -> Option<Groups> {
    conv::groups(target, kernel)
}

/// The launches that compute a call, in order.
///
/// # Errors
/// A call that no kernel is made for.
pub fn launches(target: &Target, call: &Call) -> Result<Vec<Launch>> {
    match &call.kernel {
        Kernel::Ingest(_) => ingest::launches(target, call),
        Kernel::ConvForward(_) | Kernel::ConvBackwardData { .. } | Kernel::ConvBackwardWeight(_) => {
            conv::launches(target, call)
        }
        Kernel::BatchStats { .. }
        | Kernel::MergeStats { .. }
        | Kernel::MergeSums { .. }
        | Kernel::NormApply(_)
        | Kernel::NormBackwardSums(_)
        | Kernel::NormBackwardData { .. }
        | Kernel::FoldStats { .. } => norm::launches(target, call),
        Kernel::Relu
        | Kernel::ReluBackward { .. }
        | Kernel::Add
        | Kernel::Copy { .. }
        | Kernel::Dropout { .. }
        | Kernel::MixRows(_)
        | Kernel::ScaleRows { .. }
        | Kernel::Tap { .. }
        | Kernel::TapBackward { .. }
        | Kernel::TapDelta { .. }
        | Kernel::PgdStep(_) => pointwise::launches(target, call),
        Kernel::MaxPool(_)
        | Kernel::MaxPoolBackward { .. }
        | Kernel::AvgPool(_)
        | Kernel::AvgPoolBackward { .. }
        | Kernel::PadShortcut(_)
        | Kernel::PadShortcutBackward { .. } => pooling::launches(target, call),
        Kernel::LinearForward(_) | Kernel::LinearBackwardData { .. } | Kernel::LinearBackwardWeight(_) => {
            linear::launches(target, call)
        }
        Kernel::CrossEntropy { .. } | Kernel::MeanLoss { .. } | Kernel::CrossEntropyBackward { .. } => {
            loss::launches(target, call)
        }
        Kernel::Norm(_)
        | Kernel::Dot(_)
        | Kernel::Set { .. }
        | Kernel::Perturbation { .. }
        | Kernel::Largest { .. }
        | Kernel::Unscale(_)
        | Kernel::Scalar(_)
        | Kernel::Guard
        | Kernel::Update(_) => vector::launches(target, call),
    }
}

#[cfg(test)]
mod tests;
