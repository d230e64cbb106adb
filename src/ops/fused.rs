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

/// The pre-activation block of wide ResNets, and the batch-norm behind it: both of its convolutions read a batch-norm, the
/// second writes the sum with the shortcut. With other sizes than its input's the shortcut is a convolution as well.
fn residual(label: String, rows: usize, [h, w, ci, co, stride]: [usize; 5]) -> Case {
    use Operand::{Feed, Param, Result};
    let conv = |stride, pad| Op::Conv2d(Conv2d { stride, pad });
    let norm = |channels| Op::BatchNorm(BatchNorm::new(channels));
    let project = ci != co || stride != 1;
    let mut case = Case::graph(label, rows)
        .feed(&[h, w, ci], Values::Normal)
        .param(&[ci], ParamKind::NormWeight)
        .param(&[ci], ParamKind::NormBias)
        .param(&[co, 3, 3, ci], ParamKind::ConvWeight)
        .param(&[co], ParamKind::NormWeight)
        .param(&[co], ParamKind::NormBias)
        .param(&[co, 3, 3, co], ParamKind::ConvWeight)
        .param(&[co], ParamKind::NormWeight)
        .param(&[co], ParamKind::NormBias)
        .op(norm(ci), &[Feed(0), Param(0), Param(1)])
        .op(Op::Relu, &[Result(0)])
        .op(conv(stride, 1), &[Result(1), Param(2)])
        .op(norm(co), &[Result(2), Param(3), Param(4)])
        .op(Op::Relu, &[Result(3)])
        .op(conv(1, 1), &[Result(4), Param(5)]);
    case = match project {
        true => case
            .param(&[co, 1, 1, ci], ParamKind::ConvWeight)
            .op(conv(stride, 0), &[Result(1), Param(8)])
            .op(Op::Add, &[Result(5), Result(6)]),
        false => case.op(Op::Add, &[Result(5), Feed(0)]),
    };
    let sum = if project { 7 } else { 6 };
    case.op(norm(co), &[Result(sum), Param(6), Param(7)]).op(Op::Relu, &[Result(sum + 1)])
}

pub(super) fn residual_cases() -> Vec<Case> {
    const SHAPES: [(usize, [usize; 5]); 5] = [
        (3, [6, 6, 16, 16, 1]),
        (2, [7, 9, 10, 10, 1]),
        (4, [8, 8, 16, 32, 2]),
        (8, [5, 5, 3, 7, 1]),
        (2, [8, 8, 64, 64, 1]),
    ];
    let mut cases = Vec::new();
    for (rows, shape) in SHAPES {
        for running in [false, true] {
            let statistics = if running { "running" } else { "batch" };
            let label = format!("{rows} x {shape:?}, {statistics} statistics");
            cases.push(Case { running, ..residual(label, rows, shape) });
        }
    }
    cases
}

/// The blocks of WRN-16-4 that begin its second and third group.
pub(super) fn residual_bench() -> Vec<Case> {
    [[32, 32, 64, 128, 2], [16, 16, 128, 128, 1], [8, 8, 256, 256, 1]]
        .map(|shape| residual(format!("32 x {shape:?}"), 32, shape))
        .into()
}
