//! Max and average pools without padding. A cut window at the right or lower border is left out.

use super::call::{Kernel, PoolShape};
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::Shape;
use super::{Branch, Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};

/// The largest value of each window; its gradient goes to the first largest, in row order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool {
    pub window: usize,
    pub stride: usize,
}

/// The mean of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AvgPool {
    /// Side of the window; 0 stands for the whole image (global average pool).
    pub window: usize,
    pub stride: usize,
}

impl AvgPool {
    /// One value a channel.
    pub const GLOBAL: AvgPool = AvgPool { window: 0, stride: 1 };
}

/// Geometry of a pool over `rows` images; window 0 is the whole image.
fn shape(window: usize, stride: usize, rows: usize, x: &Shape) -> PoolShape {
    let (h, w, c) = (x.0[0], x.0[1], x.0[2]);
    let (window_h, window_w) = if window == 0 { (h, w) } else { (window, window) };
    PoolShape { n: rows, h, w, c, window_h, window_w, stride }
}

fn infer(op: &str, window: usize, stride: usize, inputs: &[&Shape]) -> Result<Shape> {
    let [x] = exactly::<1>(op, inputs)?;
    let (h, w, c) = x.image(op)?;
    if h * w == 0 || stride == 0 || window > h || window > w {
        return Err(Error::usage(format!("{op} of {x}: window {window}, stride {stride} do not fit")));
    }
    let s = shape(window, stride, 1, x);
    Ok(Shape(vec![s.out_h(), s.out_w(), c]))
}

/// Index of the y-th output's window elements in x, in row order.
fn window_of(s: &PoolShape, y: usize) -> impl Iterator<Item = usize> + use<> {
    let s = *s;
    let (c, pixel) = (y % s.c, y / s.c);
    let (ox, oy, n) = (pixel % s.out_w(), pixel / s.out_w() % s.out_h(), pixel / s.out_w() / s.out_h());
    let at = move |ky: usize, kx: usize| ((n * s.h + oy * s.stride + ky) * s.w + ox * s.stride + kx) * s.c + c;
    (0..s.window_h).flat_map(move |ky| (0..s.window_w).map(move |kx| at(ky, kx)))
}

impl MaxPool {
    /// Index in x of each output's winner: the first largest of its window.
    pub fn winners_of(&self, rows: usize, shape_of_x: &Shape, x: &[f64]) -> Branch {
        let s = shape(self.window, self.stride, rows, shape_of_x);
        let winner = |y| window_of(&s, y).reduce(|best, i| if x[i] > x[best] { i } else { best });
        (0..s.y_len()).map(|y| winner(y).unwrap_or(0) as u32).collect()
    }

    fn winners(&self, at: &SpecAt<'_>) -> Branch {
        at.branch.cloned().unwrap_or_else(|| self.winners_of(at.rows, at.shapes[0], at.inputs[0]))
    }
}

impl Operation for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        infer("max_pool", self.window, self.stride, inputs)
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let s = shape(self.window, self.stride, site.rows(), site.input_shape(0));
        site.emit("forward", Kernel::MaxPool(s), vec![site.input(0)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let shape = shape(self.window, self.stride, site.rows(), site.input_shape(0));
        if let Some((dx, add)) = site.grad_input(0) {
            let reads = vec![site.input(0), site.grad_output()];
            site.emit("backward", Kernel::MaxPoolBackward { shape, add }, reads, vec![dx]);
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        self.winners(at).into_iter().map(|i| at.inputs[0][i as usize]).collect()
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let mut dx = vec![0.0; at.inputs[0].len()];
        for (i, d) in self.winners(at).into_iter().zip(dy) {
            dx[i as usize] += d;
        }
        vec![Some(dx)]
    }
}

impl Operation for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        infer("avg_pool", self.window, self.stride, inputs)
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let s = shape(self.window, self.stride, site.rows(), site.input_shape(0));
        site.emit("forward", Kernel::AvgPool(s), vec![site.input(0)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let shape = shape(self.window, self.stride, site.rows(), site.input_shape(0));
        if let Some((dx, add)) = site.grad_input(0) {
            site.emit("backward", Kernel::AvgPoolBackward { shape, add }, vec![site.grad_output()], vec![dx]);
        }
        Ok(())
    }

    fn reduction(&self, inputs: &[&Shape]) -> Option<usize> {
        Some(shape(self.window, self.stride, 1, inputs[0]).area())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let s = shape(self.window, self.stride, at.rows, at.shapes[0]);
        let area = s.area() as f64;
        (0..s.y_len()).map(|y| window_of(&s, y).map(|i| at.inputs[0][i]).sum::<f64>() / area).collect()
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let s = shape(self.window, self.stride, at.rows, at.shapes[0]);
        let area = s.area() as f64;
        let mut dx = vec![0.0; at.inputs[0].len()];
        for (y, d) in dy.iter().enumerate() {
            window_of(&s, y).for_each(|i| dx[i] += d / area);
        }
        vec![Some(dx)]
    }
}

// (rows, h, w, c, window, stride)
const SHAPES: &[[usize; 6]] = &[
    [2, 28, 28, 32, 2, 2],
    [3, 14, 14, 64, 2, 2],
    [2, 7, 9, 5, 2, 2],
    [2, 9, 8, 3, 3, 2],
    [1, 5, 5, 10, 3, 1],
    [2, 8, 8, 33, 4, 4],
];

fn cases_of(values: Values, op: fn(usize, usize) -> Op) -> Vec<Case> {
    SHAPES
        .iter()
        .map(|&[rows, h, w, c, window, stride]| {
            let label = format!("{rows}x{h}x{w}x{c}, window {window}, stride {stride}");
            Case::graph(label, rows).feed(&[h, w, c], values).op(op(window, stride), &[Operand::Feed(0)])
        })
        .collect()
}

pub(super) fn max_cases() -> Vec<Case> {
    cases_of(Values::Distinct, |window, stride| Op::MaxPool(MaxPool { window, stride }))
}

pub(super) fn avg_cases() -> Vec<Case> {
    let mut cases = cases_of(Values::Normal, |window, stride| Op::AvgPool(AvgPool { window, stride }));
    for (h, w) in [(8, 8), (7, 3)] {
        let global = Case::graph(format!("3x{h}x{w}x64, global"), 3).feed(&[h, w, 64], Values::Normal);
        cases.push(global.op(Op::AvgPool(AvgPool::GLOBAL), &[Operand::Feed(0)]));
    }
    cases
}
