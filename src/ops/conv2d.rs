//! 2-D convolution (cross-correlation, as the field uses the word) without bias: x `[h, w, ci]`, weight `[co, k, k, ci]`.

use super::call::{ConvShape, Kernel};
use super::case::{Case, Operand, Values};
use super::site::Site;
use super::value::{ParamKind, Shape};
use super::{Op, Operation, SpecAt, exactly};
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    pub stride: usize,
    /// Zeros on each side.
    pub pad: usize,
}

impl Conv2d {
    fn shape(&self, rows: usize, x: &Shape, weight: &Shape) -> ConvShape {
        ConvShape {
            n: rows,
            h: x.0[0],
            w: x.0[1],
            ci: x.0[2],
            co: weight.0[0],
            k: weight.0[1],
            stride: self.stride,
            pad: self.pad,
        }
    }

    /// Calls `f(y index, x index, weight index)` for every product of the sum that defines the convolution.
    pub fn each_product(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
        for n in 0..s.n {
            for oy in 0..s.out_h() {
                for ox in 0..s.out_w() {
                    for (ky, kx) in (0..s.k).flat_map(|ky| (0..s.k).map(move |kx| (ky, kx))) {
                        let (y, x) = (oy * s.stride + ky, ox * s.stride + kx);
                        if y < s.pad || x < s.pad || y - s.pad >= s.h || x - s.pad >= s.w {
                            continue;
                        }
                        let pixel = (n * s.h + y - s.pad) * s.w + x - s.pad;
                        for o in 0..s.co {
                            let at = ((n * s.out_h() + oy) * s.out_w() + ox) * s.co + o;
                            for i in 0..s.ci {
                                f(at, pixel * s.ci + i, ((o * s.k + ky) * s.k + kx) * s.ci + i);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Operation for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Shape> {
        let [x, weight] = exactly::<2>("conv2d", inputs)?;
        let (h, w, ci) = x.image("conv2d")?;
        let &[co, kh, kw, wi] = &weight.0[..] else {
            return Err(Error::usage(format!("conv2d needs a weight of shape co x k x k x ci, got {weight}")));
        };
        if kh != kw || wi != ci || self.stride == 0 {
            return Err(Error::usage(format!(
                "conv2d of {x} with weight {weight}, stride {}: the kernel must be square, its last dimension the {ci} \
                 input channels, the stride at least 1",
                self.stride
            )));
        }
        if h + 2 * self.pad < kh || w + 2 * self.pad < kw {
            return Err(Error::usage(format!("conv2d: kernel {kh}x{kw} is larger than {x} padded by {}", self.pad)));
        }
        let s = self.shape(1, x, weight);
        Ok(Shape(vec![s.out_h(), s.out_w(), co]))
    }

    fn flops(&self, inputs: &[&Shape], _output: &Shape) -> u64 {
        self.shape(1, inputs[0], inputs[1]).flops()
    }

    fn reduction(&self, inputs: &[&Shape]) -> Option<usize> {
        Some(inputs[1].len() / inputs[1].0[0])
    }

    fn forward(&self, site: &mut dyn Site) -> Result<()> {
        let s = self.shape(site.rows(), site.input_shape(0), site.input_shape(1));
        let mut writes = vec![site.output()];
        writes.extend(site.partial_statistics(s.co, Kernel::ConvForward(s)));
        let mut reads = vec![site.input(0), site.input(1)];
        reads.extend(site.summand());
        site.emit("forward", Kernel::ConvForward(s), reads, writes);
        Ok(())
    }

    fn backward(&self, site: &mut dyn Site) -> Result<()> {
        let shape = self.shape(site.rows(), site.input_shape(0), site.input_shape(1));
        let dy = site.grad_output();
        if let Some(dw) = site.grad_input_written(1) {
            site.emit("backward_weight", Kernel::ConvBackwardWeight(shape), vec![site.input(0), dy], vec![dw]);
        }
        if let Some((dx, add)) = site.grad_input(0) {
            let kernel = |norm| Kernel::ConvBackwardData { shape, add, norm };
            let mut reads = vec![dy, site.input(1)];
            match site.norm_behind(&|norm| kernel(Some(norm))) {
                None => site.emit("backward_data", kernel(None), reads, vec![dx]),
                Some(norm) => {
                    reads.extend(norm.reads);
                    site.emit("backward_data", kernel(Some(norm.shape)), reads, vec![dx, norm.sums]);
                }
            }
        }
        Ok(())
    }

    fn spec(&self, at: &SpecAt<'_>) -> Vec<f64> {
        let s = self.shape(at.rows, at.shapes[0], at.shapes[1]);
        let mut y = vec![0.0; s.y_len()];
        Conv2d::each_product(&s, |iy, ix, iw| y[iy] += at.inputs[0][ix] * at.inputs[1][iw]);
        y
    }

    fn spec_backward(&self, at: &SpecAt<'_>, _output: &[f64], dy: &[f64]) -> Vec<Option<Vec<f64>>> {
        let s = self.shape(at.rows, at.shapes[0], at.shapes[1]);
        let (mut dx, mut dw) = (vec![0.0; s.x_len()], vec![0.0; s.weight_len()]);
        Conv2d::each_product(&s, |iy, ix, iw| {
            dx[ix] += dy[iy] * at.inputs[1][iw];
            dw[iw] += dy[iy] * at.inputs[0][ix];
        });
        vec![Some(dx), Some(dw)]
    }
}

pub(super) fn cases() -> Vec<Case> {
    // (rows, h, w, ci, co, k, stride, pad): the layers of `cnn`, WideResNet's strided and 1x1 ones, and odd sizes.
    const SHAPES: &[[usize; 8]] = &[
        [2, 28, 28, 1, 32, 3, 1, 1],
        [2, 28, 28, 32, 32, 3, 1, 1],
        [3, 14, 14, 32, 64, 3, 1, 1],
        [2, 14, 14, 64, 64, 3, 1, 1],
        [2, 16, 16, 3, 16, 3, 1, 1],
        [2, 16, 16, 16, 32, 3, 2, 1],
        [2, 16, 16, 16, 32, 1, 2, 0],
        [2, 8, 8, 32, 48, 1, 1, 0],
        [3, 7, 9, 5, 10, 3, 1, 1],
        [2, 9, 7, 3, 7, 5, 2, 2],
        [1, 13, 5, 2, 33, 5, 3, 0],
        [2, 8, 8, 4, 6, 7, 1, 3],
        [1, 3, 3, 1, 1, 3, 1, 0],
        [8, 4, 4, 24, 40, 3, 1, 1],
        [9, 6, 5, 10, 7, 3, 2, 1],
        // Widths of WRN-28-10, which have kernels of their own on a GPU.
        [3, 8, 8, 160, 160, 3, 1, 1],
        [2, 8, 8, 64, 160, 1, 1, 0],
    ];
    SHAPES.iter().map(case).collect()
}

/// The layers of `cnn`, then those of WRN-16-4.
pub(super) fn bench() -> Vec<Case> {
    const SHAPES: &[[usize; 8]] = &[
        [128, 28, 28, 1, 32, 3, 1, 1],
        [128, 28, 28, 32, 32, 3, 1, 1],
        [128, 14, 14, 32, 64, 3, 1, 1],
        [128, 14, 14, 64, 64, 3, 1, 1],
        [32, 32, 32, 3, 16, 3, 1, 1],
        [32, 32, 32, 16, 64, 3, 1, 1],
        [32, 32, 32, 16, 64, 1, 1, 0],
        [32, 32, 32, 64, 64, 3, 1, 1],
        [32, 32, 32, 64, 128, 3, 2, 1],
        [32, 32, 32, 64, 128, 1, 2, 0],
        [32, 16, 16, 128, 128, 3, 1, 1],
        [32, 16, 16, 128, 256, 3, 2, 1],
        [32, 16, 16, 128, 256, 1, 2, 0],
        [32, 8, 8, 256, 256, 3, 1, 1],
    ];
    SHAPES.iter().map(case).collect()
}

fn case(&[rows, h, w, ci, co, k, stride, pad]: &[usize; 8]) -> Case {
    let label = format!("{rows}x{h}x{w}x{ci} -> {co}, {k}x{k}, stride {stride}, pad {pad}");
    Case::graph(label, rows)
        .feed(&[h, w, ci], Values::Normal)
        .param(&[co, k, k, ci], ParamKind::ConvWeight)
        .op(Op::Conv2d(Conv2d { stride, pad }), &[Operand::Feed(0), Operand::Param(0)])
}
