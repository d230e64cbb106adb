//! The shortcut without parameters of residual networks (option A of He et al. 2016): every stride-th pixel of x, with
//! channels of zeros on either side. Shake-Shake's second path (Gastaldi 2017) takes its pixels of the shifted image.

use super::call::{Kernel, ShortcutShape};
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::Shape;
use super::{Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PadShortcut {
    pub stride: usize,
    /// Pixels that x is moved right and down before; zeros come in from beyond the border.
    pub shift: usize,
    /// Channels of zeros in front of those of x, and behind them.
    pub before: usize,
    pub after: usize,
}

impl PadShortcut {
    fn shape(&self, rows: usize, x: &Shape) -> ShortcutShape {
        let PadShortcut { stride, shift, before, after } = *self;
        ShortcutShape { n: rows, h: x.0[0], w: x.0[1], c: x.0[2], stride, shift, before, after }
    }

    /// Calls `f(y index, x index)` for every element that is copied.
    fn each_copied(s: &ShortcutShape, mut f: impl FnMut(usize, usize)) {
        for n in 0..s.n {
            for (oy, ox) in (0..s.out_h()).flat_map(|oy| (0..s.out_w()).map(move |ox| (oy, ox))) {
                let pixel = (n * s.out_h() + oy) * s.out_w() + ox;
                let (iy, ix) = (oy * s.stride, ox * s.stride);
                if iy < s.shift || ix < s.shift {
                    continue;
                }
                let from = (n * s.h + iy - s.shift) * s.w + ix - s.shift;
                for c in 0..s.c {
                    f(pixel * s.out_c() + s.before + c, from * s.c + c);
                }
            }
        }
    }
}

impl Operation for PadShortcut {
    fn name(&self) -> &'static str {
        "pad_shortcut"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [x] = exactly::<1>("pad_shortcut", inputs)?;
        let (h, w, c) = x.image("pad_shortcut")?;
        if h * w * c == 0 || self.stride == 0 {
            let stride = self.stride;
            return Err(Error::usage(format!("pad_shortcut of {x}: stride {stride}; both must be at least 1")));
        }
        let s = self.shape(1, x);
        Ok(Shape(vec![s.out_h(), s.out_w(), s.out_c()]))
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let s = self.shape(site.rows(), site.input_shape(0));
        site.emit("forward", Kernel::PadShortcut(s), vec![site.input(0)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let shape = self.shape(site.rows(), site.input_shape(0));
        if let Some((dx, add)) = site.grad_input(0) {
            let kernel = Kernel::PadShortcutBackward { shape, add };
            site.emit("backward", kernel, vec![site.grad_output()], vec![dx]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let s = self.shape(at.rows, at.shapes[0]);
        let mut y = vec![0.0; s.y_len()];
        PadShortcut::each_copied(&s, |iy, ix| y[iy] = at.inputs[0][ix]);
        y
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let s = self.shape(at.rows, at.shapes[0]);
        let mut dx = vec![0.0; at.inputs[0].len()];
        PadShortcut::each_copied(&s, |iy, ix| dx[ix] += dy[iy]);
        vec![Some(dx)]
    }
}

fn case([rows, h, w, c, stride, shift, before, after]: [usize; 8]) -> Case {
    let shifted = if shift > 0 { format!(", shift {shift}") } else { String::new() };
    let label = format!("{rows}x{h}x{w}x{c}, stride {stride}{shifted}, {before} + {after} channels");
    let op = Op::PadShortcut(PadShortcut { stride, shift, before, after });
    Case::graph(label, rows).feed(&[h, w, c], Values::Normal).op(op, &[Operand::Feed(0)])
}

/// The two of ResNet-20, and of Shake-Shake 26 2x32d the shifted path between its first two stages.
pub(super) fn bench() -> Vec<Case> {
    vec![
        case([128, 32, 32, 16, 2, 0, 8, 8]),
        case([128, 16, 16, 32, 2, 0, 16, 16]),
        case([128, 32, 32, 32, 2, 1, 0, 0]),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    use Operand::{Feed, Result};
    // (rows, h, w, c, stride, shift, before, after): those of ResNet-20, odd sizes, padding on one side or none, a long
    // stride; Shake-Shake's shifted path with and without a stride, shifts by more than a stride and out of the image.
    const SHAPES: &[[usize; 8]] = &[
        [2, 32, 32, 16, 2, 0, 8, 8],
        [3, 16, 16, 32, 2, 0, 16, 16],
        [2, 7, 9, 5, 2, 0, 2, 3],
        [2, 6, 5, 3, 1, 0, 0, 4],
        [1, 8, 8, 33, 3, 0, 1, 0],
        [4, 1, 1, 10, 2, 0, 5, 5],
        [2, 16, 16, 32, 2, 1, 0, 0],
        [2, 8, 8, 16, 1, 1, 0, 0],
        [2, 7, 9, 5, 2, 1, 2, 3],
        [3, 8, 5, 3, 2, 3, 1, 0],
        [2, 1, 1, 10, 1, 1, 0, 0],
    ];
    let mut cases: Vec<Case> = SHAPES.iter().map(|shape| case(*shape)).collect();
    // x is read twice, so that one of the two gradients is added to the other.
    let beside = Case::graph("2x6x6x4, of a value and of its ReLU, added", 2)
        .feed(&[6, 6, 4], Values::AwayFromZero)
        .op(Op::PadShortcut(PadShortcut { stride: 2, shift: 1, before: 0, after: 0 }), &[Feed(0)])
        .op(Op::Relu, &[Feed(0)])
        .op(Op::PadShortcut(PadShortcut { stride: 2, shift: 0, before: 0, after: 0 }), &[Result(1)])
        .op(Op::Add, &[Result(0), Result(2)]);
    cases.push(beside);
    cases
}
