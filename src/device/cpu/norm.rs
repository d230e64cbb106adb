//! Batch-norm (Ioffe and Szegedy, 2015) with ReLU and max-pool behind it, in one pass over x.

use super::Workers;
use super::norm_stats::{Lanes, WIDTH};
use super::simd::per_isa;
use super::split::{images_a_job, split};
use crate::ops::call::NormShape;

/// What a block of channels needs to be normalised: y = (x - mean) * scale + bias.
///
/// Not x * scale + shift: with a mean of 1000 and a deviation of 1 that would lose three digits.
pub(super) struct Coefficients {
    pub mean: Lanes,
    /// weight / sqrt(variance + eps)
    pub scale: Lanes,
    pub bias: Lanes,
    /// 1 / sqrt(variance + eps)
    pub inverse: Lanes,
    /// Values up to this one do not pass: 0 with a ReLU, else minus infinity.
    pub floor: f32,
}

impl Coefficients {
    #[inline(always)]
    pub fn new(width: usize, first: usize, s: &NormShape, [stats, weight, bias]: [&[f32]; 3]) -> Coefficients {
        let mut out = Coefficients {
            mean: [0.0; WIDTH],
            scale: [0.0; WIDTH],
            bias: [0.0; WIDTH],
            inverse: [0.0; WIDTH],
            floor: if s.relu { 0.0 } else { f32::NEG_INFINITY },
        };
        let row = |r: usize| &stats[r * s.c + first..][..width];
        let (count, mean, spread, weight, bias) = (row(0), row(1), row(2), &weight[first..], &bias[first..]);
        for k in 0..width {
            let variance = if s.running { spread[k] } else { spread[k] / count[k] };
            out.mean[k] = mean[k];
            out.inverse[k] = 1.0 / (variance + s.eps()).sqrt();
            out.scale[k] = weight[k] * out.inverse[k];
            out.bias[k] = bias[k];
        }
        out
    }

    /// The normalised value of channel `k` of the block.
    #[inline(always)]
    pub fn value(&self, k: usize, x: f32) -> f32 {
        (x - self.mean[k]) * self.scale[k] + self.bias[k]
    }

    /// The largest value of each channel in a pool window, given its pixels; `floor` if none is larger.
    #[inline(always)]
    pub fn largest<'a>(&self, window: usize, width: usize, pixel: impl Fn(usize) -> &'a [f32]) -> Lanes {
        let mut best = [self.floor; WIDTH];
        for at in 0..window * window {
            let x = &pixel(at)[..width];
            for k in 0..width {
                let v = self.value(k, x[k]);
                let larger = if v > best[k] { v } else { best[k] };
                // NaN comes out, so that a fault is not hidden.
                best[k] = if v.is_nan() { v } else { larger };
            }
        }
        best
    }
}

/// y `[n, h / window, w / window, c]` = maxpool(relu(weight * (x - mean) / sqrt(variance + eps) + bias)), from
/// x `[n, h, w, c]` and `stats [3, c]`.
pub fn norm_apply(
    workers: &Workers,
    s: &NormShape,
    x: &[f32],
    stats: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    let (x_image, y_image) = (s.x_image(), s.y_image());
    let images = images_a_job(x_image);
    split(workers, [(y, images * y_image)], |job, [y]| {
        let x = &x[job * images * x_image..][..y.len() / y_image * x_image];
        apply(workers.isa, s, x, [stats, weight, bias], y);
    });
}

per_isa! { fn apply(s: &NormShape, x: &[f32], params: [&[f32]; 3], y: &mut [f32]) = apply_body; }

#[inline(always)]
fn apply_body(s: &NormShape, x: &[f32], params: [&[f32]; 3], y: &mut [f32]) {
    for first in (0..s.c).step_by(WIDTH) {
        // Widths and windows of the models in use are constants, so that the loops over them are unrolled.
        match (s.window, (s.c - first).min(WIDTH)) {
            (1, 64) => apply_block(1, 64, first, s, x, params, y),
            (1, 32) => apply_block(1, 32, first, s, x, params, y),
            (1, 16) => apply_block(1, 16, first, s, x, params, y),
            (2, 64) => apply_block(2, 64, first, s, x, params, y),
            (2, 32) => apply_block(2, 32, first, s, x, params, y),
            (window, width) => apply_block(window, width, first, s, x, params, y),
        }
    }
}

#[inline(always)]
fn apply_block(
    window: usize,
    width: usize,
    first: usize,
    s: &NormShape,
    x: &[f32],
    params: [&[f32]; 3],
    y: &mut [f32],
) {
    let co = Coefficients::new(width, first, s, params);
    let mut pooled = y.chunks_exact_mut(s.c);
    for x in x.chunks_exact(s.h * s.w * s.c) {
        for row in 0..s.h / window {
            for (column, y) in (0..s.w / window).zip(&mut pooled) {
                let best = co.largest(window, width, |at| &x[place(window, s, row, column, at) + first..]);
                y[first..first + width].copy_from_slice(&best[..width]);
            }
        }
    }
}

/// Where in its image the `at`-th pixel (in row order) of a pool window starts.
#[inline(always)]
pub(super) fn place(window: usize, s: &NormShape, row: usize, column: usize, at: usize) -> usize {
    ((row * window + at / window) * s.w + column * window + at % window) * s.c
}
