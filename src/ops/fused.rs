//! Fused calls. Their spec is the composition of their parts: the case is a graph that the planner fuses, and the
//! interpreter runs it unfused.

use super::case::{Case, Operand, Values};
use super::value::ParamKind;
use super::{BatchNorm, Conv2d, MaxPool, Op};

/// conv -> batch-norm -> ReLU, twice, so that the second convolution's gradient passes through the first's fused calls.
fn block(label: String, rows: usize, [h, w, ci, co]: [usize; 4], pool: bool) -> Case {
    use Operand::{Feed, Param, Result};
    let conv = || Op::Conv2d(Conv2d { stride: 1, pad: 1 });
    let norm = || Op::BatchNorm(BatchNorm::new(co));
    let mut case = Case::graph(label, rows)
        .feed(&[h, w, ci], Values::Normal)
        .param(&[co, 3, 3, ci], ParamKind::ConvWeight)
        .param(&[co], ParamKind::NormWeight)
        .param(&[co], ParamKind::NormBias)
        .param(&[co, 3, 3, co], ParamKind::ConvWeight)
        .param(&[co], ParamKind::NormWeight)
        .param(&[co], ParamKind::NormBias)
        .op(conv(), &[Feed(0), Param(0)])
        .op(norm(), &[Result(0), Param(1), Param(2)])
        .op(Op::Relu, &[Result(1)])
        .op(conv(), &[Result(2), Param(3)])
        .op(norm(), &[Result(3), Param(4), Param(5)])
        .op(Op::Relu, &[Result(4)]);
    if pool {
        case = case.op(Op::MaxPool(MaxPool::tiles(2)), &[Result(5)]);
    }
    case
}

const SHAPES: [(usize, [usize; 4]); 4] =
    [(2, [20, 20, 1, 32]), (3, [6, 6, 16, 64]), (2, [7, 9, 3, 10]), (4, [5, 5, 2, 33])];

fn cases(pool: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, shape) in SHAPES {
        for running in [false, true] {
            let statistics = if running { "running" } else { "batch" };
            let label = format!("{rows} x {shape:?}, {statistics} statistics");
            cases.push(Case { running, ..block(label, rows, shape, pool) });
        }
    }
    cases
}

pub(super) fn relu_cases() -> Vec<Case> {
    cases(false)
}

pub(super) fn pool_cases() -> Vec<Case> {
    cases(true)
}

/// The inside of WRN-16-4's blocks.
pub(super) fn relu_bench() -> Vec<Case> {
    [[32, 32, 64, 64], [16, 16, 128, 128], [8, 8, 256, 256]]
        .map(|shape| block(format!("32 x {shape:?}"), 32, shape, false))
        .into()
}

/// The two halves of `cnn`.
pub(super) fn pool_bench() -> Vec<Case> {
    [[28, 28, 1, 32], [14, 14, 32, 64]].map(|shape| block(format!("128 x {shape:?}"), 128, shape, true)).into()
}
