//! Batch-norm (Ioffe and Szegedy, 2015) with ReLU and max-pool behind it, in one pass over x.

use super::Workers;
use super::simd::per_isa;
use super::split::{self, split};
use super::stored::Stored;
use super::strips::{lanes, lanes_mut, strips};
use crate::ops::call::NormShape;

/// Coefficients that normalise a strip of channels: y = (x - mean) * scale + bias.
///
/// Not x * scale + shift: with a mean of 1000 and a deviation of 1 that would lose three digits.
pub(super) struct Coefficients<const W: usize> {
    pub mean: [f32; W],
    /// weight / sqrt(variance + eps)
    pub scale: [f32; W],
    pub bias: [f32; W],
    /// 1 / sqrt(variance + eps)
    pub inverse: [f32; W],
    /// Values up to this one do not pass: 0 with a ReLU, else minus infinity.
    pub floor: f32,
}

impl<const W: usize> Coefficients<W> {
    #[inline(always)]
    pub fn new(first: usize, s: &NormShape, [stats, weight, bias]: [&[f32]; 3]) -> Self {
        let row = |r: usize| lanes::<W, f32>(stats, r * s.c + first);
        let (count, spread, weight) = (row(0), row(2), lanes::<W, f32>(weight, first));
        let mut out = Coefficients {
            mean: *row(1),
            scale: [0.0; W],
            bias: *lanes(bias, first),
            inverse: [0.0; W],
            floor: if s.relu { 0.0 } else { f32::NEG_INFINITY },
        };
        for k in 0..W {
            let variance = if s.running { spread[k] } else { spread[k] / count[k] };
            out.inverse[k] = 1.0 / (variance + s.eps()).sqrt();
            out.scale[k] = weight[k] * out.inverse[k];
        }
        out
    }

    /// The normalised value of channel `k` of the strip, given x - mean. Forward and backward must agree to the last bit.
    #[inline(always)]
    pub fn value(&self, k: usize, centred: f32) -> f32 {
        centred * self.scale[k] + self.bias[k]
    }
}

/// Pixels that make the coefficients of a strip worth their roots and quotients.
const PIXELS: usize = 256;

/// Images that make one job.
pub(super) fn images_a_job(s: &NormShape) -> usize {
    split::images_a_job(s.x_image()).max(PIXELS / (s.h * s.w).max(1))
}

/// y `[n, h / window, w / window, c]` = maxpool(relu(weight * (x - mean) / sqrt(variance + eps) + bias)), from
/// x `[n, h, w, c]` and `stats [3, c]`.
pub fn norm_apply<T: Stored>(
    workers: &Workers,
    s: &NormShape,
    x: &[T],
    stats: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [T],
) {
    let (x_image, y_image) = (s.x_image(), s.y_image());
    let images = images_a_job(s);
    split(workers, [(y, images * y_image)], |job, [y]| {
        let x = &x[job * images * x_image..][..y.len() / y_image * x_image];
        apply(workers.isa, s, x, [stats, weight, bias], y);
    });
}

per_isa! { fn apply<T: Stored>(s: &NormShape, x: &[T], params: [&[f32]; 3], y: &mut [T]) = apply_body; }

#[inline(always)]
fn apply_body<T: Stored>(s: &NormShape, x: &[T], params: [&[f32]; 3], y: &mut [T]) {
    for (first, width) in strips(s.c) {
        match width {
            64 => apply_strip::<64, T>(first, s, x, params, y),
            32 => apply_strip::<32, T>(first, s, x, params, y),
            16 => apply_strip::<16, T>(first, s, x, params, y),
            4 => apply_strip::<4, T>(first, s, x, params, y),
            _ => apply_strip::<1, T>(first, s, x, params, y),
        }
    }
}

#[inline(always)]
fn apply_strip<const W: usize, T: Stored>(first: usize, s: &NormShape, x: &[T], params: [&[f32]; 3], y: &mut [T]) {
    let co = Coefficients::<W>::new(first, s, params);
    match s.window {
        1 => {}
        // A constant, so that the loop over the pixels of a window is unrolled.
        2 => return pool_strip(2, first, s, x, &co, y),
        window => return pool_strip(window, first, s, x, &co, y),
    }
    for (x, y) in x.chunks_exact(s.c).zip(y.chunks_exact_mut(s.c)) {
        let (x, y) = (lanes::<W, T>(x, first), lanes_mut::<W, T>(y, first));
        for k in 0..W {
            let v = co.value(k, x[k].widen() - co.mean[k]);
            // NaN comes out, so that a fault is not hidden.
            y[k] = T::round(if co.floor >= v { co.floor } else { v });
        }
    }
}

#[inline(always)]
fn pool_strip<const W: usize, T: Stored>(
    window: usize,
    first: usize,
    s: &NormShape,
    x: &[T],
    co: &Coefficients<W>,
    y: &mut [T],
) {
    let (rows, columns) = (s.h / window, s.w / window);
    for (x, y) in x.chunks_exact(s.x_image()).zip(y.chunks_exact_mut(s.y_image())) {
        for row in 0..rows {
            for column in 0..columns {
                let start = (row * s.w + column) * window * s.c + first;
                let mut best = [co.floor; W];
                for i in 0..window * window {
                    let x = lanes::<W, T>(x, pixel(window, s, start, i));
                    for k in 0..W {
                        let v = co.value(k, x[k].widen() - co.mean[k]);
                        let larger = if v > best[k] { v } else { best[k] };
                        best[k] = if v.is_nan() { v } else { larger };
                    }
                }
                let y = lanes_mut::<W, T>(y, (row * columns + column) * s.c + first);
                for k in 0..W {
                    y[k] = T::round(best[k]);
                }
            }
        }
    }
}

/// Returns the place in its image of the `i`-th pixel (in row order) of the window that starts at `start`.
#[inline(always)]
pub(super) fn pixel(window: usize, s: &NormShape, start: usize, i: usize) -> usize {
    start + (i / window * s.w + i % window) * s.c
}
