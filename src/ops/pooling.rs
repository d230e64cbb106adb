//! Max and average pools. A cut window at the right or lower border is left out; a max pool may pad, an average pool not.

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
    /// Pixels of padding on each side, at most half a window. They never win: a window is clipped to the image.
    pub pad: usize,
}

/// The mean of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AvgPool {
    /// Side of the window; 0 is the whole image (global average pool).
    pub window: usize,
    pub stride: usize,
}

impl AvgPool {
    /// The global average pool: one value for each channel.
    pub const GLOBAL: AvgPool = AvgPool { window: 0, stride: 1 };

    fn shape(&self, rows: usize, x: &Shape) -> PoolShape {
        let (h, w, c) = (x.0[0], x.0[1], x.0[2]);
        let (window_h, window_w) = if self.window == 0 { (h, w) } else { (self.window, self.window) };
        PoolShape { n: rows, h, w, c, window_h, window_w, stride: self.stride, pad: 0 }
    }
}

/// Index of the y-th output's window elements in x, in row order; those in the padding are left out.
fn window_of(s: &PoolShape, y: usize) -> impl Iterator<Item = usize> + use<> {
    let s = *s;
    let (c, pixel) = (y % s.c, y / s.c);
    let (ox, oy, n) = (pixel % s.out_w(), pixel / s.out_w() % s.out_h(), pixel / s.out_w() / s.out_h());
    let inside = move |y: usize, x: usize| y >= s.pad && x >= s.pad && y - s.pad < s.h && x - s.pad < s.w;
    let places = (0..s.window_h).flat_map(move |ky| (0..s.window_w).map(move |kx| (ky, kx)));
    let places = places.map(move |(ky, kx)| (oy * s.stride + ky, ox * s.stride + kx));
    let places = places.filter(move |(y, x)| inside(*y, *x));
    places.map(move |(y, x)| ((n * s.h + y - s.pad) * s.w + x - s.pad) * s.c + c)
}

impl MaxPool {
    /// Windows of `window` x `window` pixels, as far apart as they are wide, without padding.
    pub fn tiles(window: usize) -> MaxPool {
        MaxPool { window, stride: window, pad: 0 }
    }

    fn shape(&self, rows: usize, x: &Shape) -> PoolShape {
        let (h, w, c) = (x.0[0], x.0[1], x.0[2]);
        let MaxPool { window, stride, pad } = *self;
        PoolShape { n: rows, h, w, c, window_h: window, window_w: window, stride, pad }
    }

    /// Index in x of each output's winner: the first largest of its window.
    pub fn winners_of(&self, rows: usize, shape_of_x: &Shape, x: &[f64]) -> Branch {
        let s = self.shape(rows, shape_of_x);
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
        let [x] = exactly::<1>("max_pool", inputs)?;
        let (h, w, c) = x.image("max_pool")?;
        let MaxPool { window, stride, pad } = *self;
        if h * w == 0 || window == 0 || stride == 0 || 2 * pad > window || window > h.min(w) + 2 * pad {
            return Err(Error::usage(format!(
                "max_pool of {x}: window {window}, stride {stride}, padding {pad} do not fit; the padding is at most half \
                 the window, the window at most the padded image"
            )));
        }
        let s = self.shape(1, x);
        Ok(Shape(vec![s.out_h(), s.out_w(), c]))
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let s = self.shape(site.rows(), site.input_shape(0));
        site.emit("forward", Kernel::MaxPool(s), vec![site.input(0)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let shape = self.shape(site.rows(), site.input_shape(0));
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
        let [x] = exactly::<1>("avg_pool", inputs)?;
        let (h, w, c) = x.image("avg_pool")?;
        let AvgPool { window, stride } = *self;
        if h * w == 0 || stride == 0 || window > h.min(w) {
            return Err(Error::usage(format!("avg_pool of {x}: window {window}, stride {stride} do not fit")));
        }
        let s = self.shape(1, x);
        Ok(Shape(vec![s.out_h(), s.out_w(), c]))
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let s = self.shape(site.rows(), site.input_shape(0));
        site.emit("forward", Kernel::AvgPool(s), vec![site.input(0)], vec![site.output()]);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let shape = self.shape(site.rows(), site.input_shape(0));
        if let Some((dx, add)) = site.grad_input(0) {
            site.emit("backward", Kernel::AvgPoolBackward { shape, add }, vec![site.grad_output()], vec![dx]);
        }
        Ok(())
    }

    fn reduction(&self, inputs: &[&Shape]) -> Option<usize> {
        Some(self.shape(1, inputs[0]).area())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let s = self.shape(at.rows, at.shapes[0]);
        let area = s.area() as f64;
        (0..s.y_len()).map(|y| window_of(&s, y).map(|i| at.inputs[0][i]).sum::<f64>() / area).collect()
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let s = self.shape(at.rows, at.shapes[0]);
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

/// Padded max pools, the last number being the padding: torchvision's stem, odd sizes, clipped on both sides at once.
const PADDED: &[[usize; 7]] = &[
    [2, 16, 16, 64, 3, 2, 1],
    [3, 7, 9, 5, 3, 2, 1],
    [2, 6, 5, 33, 4, 3, 2],
    [2, 2, 1, 7, 3, 1, 1],
    [1, 5, 8, 3, 2, 2, 1],
];
/// The pools of `cnn`.
const BENCH: &[[usize; 6]] = &[[128, 28, 28, 32, 2, 2], [128, 14, 14, 64, 2, 2]];

fn case([rows, h, w, c, window, stride]: [usize; 6], pad: usize, values: Values, op: Op) -> Case {
    let padding = if pad > 0 { format!(", pad {pad}") } else { String::new() };
    let label = format!("{rows}x{h}x{w}x{c}, window {window}, stride {stride}{padding}");
    Case::graph(label, rows).feed(&[h, w, c], values).op(op, &[Operand::Feed(0)])
}

fn max_case(shape: [usize; 6], pad: usize) -> Case {
    let [.., window, stride] = shape;
    case(shape, pad, Values::Distinct, Op::MaxPool(MaxPool { window, stride, pad }))
}

fn avg_case(shape: [usize; 6]) -> Case {
    let [.., window, stride] = shape;
    case(shape, 0, Values::Normal, Op::AvgPool(AvgPool { window, stride }))
}

fn global(rows: usize, h: usize, w: usize, c: usize) -> Case {
    let case = Case::graph(format!("{rows}x{h}x{w}x{c}, global"), rows).feed(&[h, w, c], Values::Normal);
    case.op(Op::AvgPool(AvgPool::GLOBAL), &[Operand::Feed(0)])
}

pub(super) fn max_cases() -> Vec<Case> {
    let padded = PADDED.iter().map(|&[rows, h, w, c, window, stride, pad]| ([rows, h, w, c, window, stride], pad));
    SHAPES.iter().map(|shape| (*shape, 0)).chain(padded).map(|(shape, pad)| max_case(shape, pad)).collect()
}

pub(super) fn avg_cases() -> Vec<Case> {
    let globals = [(8, 8), (7, 3)].map(|(h, w)| global(3, h, w, 64));
    SHAPES.iter().map(|shape| avg_case(*shape)).chain(globals).collect()
}

pub(super) fn max_bench() -> Vec<Case> {
    BENCH.iter().map(|shape| max_case(*shape, 0)).chain([max_case([32, 16, 16, 64, 3, 2], 1)]).collect()
}

pub(super) fn avg_bench() -> Vec<Case> {
    BENCH.iter().map(|shape| avg_case(*shape)).chain([global(32, 8, 8, 256)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_that_do_not_fit_are_refused_with_their_numbers() {
        for (h, w, window, stride, pad) in
            [(2, 9, 3, 2, 0), (4, 4, 3, 0, 1), (4, 4, 0, 1, 0), (8, 8, 3, 2, 2), (1, 1, 4, 1, 1), (0, 4, 1, 1, 0)]
        {
            let error = MaxPool { window, stride, pad }.infer(&[&Shape(vec![h, w, 5])]).unwrap_err().to_string();
            let told = format!("max_pool of {h}x{w}x5: window {window}, stride {stride}, padding {pad} do not fit");
            assert!(error.starts_with(&told), "{error}");
        }
        // torchvision's stem, down to a single pixel.
        for (side, out) in [(112, 56), (16, 8), (7, 4), (1, 1)] {
            let pooled = MaxPool { window: 3, stride: 2, pad: 1 }.infer(&[&Shape(vec![side, side, 64])]);
            assert_eq!(pooled, Ok(Shape(vec![out, out, 64])));
        }
    }
}
