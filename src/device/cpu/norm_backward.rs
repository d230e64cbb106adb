//! Backward of batch-norm with ReLU and max-pool, in two passes over x: the sums over the batch, then dx.
//!
//! Nothing is stored but x and the statistics: which values the ReLU let through and which the pool took is worked out anew,
//! by the arithmetic of the forward.

use super::Workers;
use super::norm::{Coefficients, place};
use super::norm_stats::{Lanes, WIDTH};
use super::simd::per_isa;
use super::split::{images_a_job, split};
use crate::ops::call::NormShape;

// In the loops over channels below all loads and stores are unconditional. A load that depends on who won becomes a branch
// for each channel (three times slower), and a store that keeps the old value a masked one (ten times slower with AVX2).

/// Scratch of [`norm_backward_sums`], in elements: both sums of each job.
pub fn norm_backward_sums_workspace(s: &NormShape) -> usize {
    s.n.div_ceil(images_a_job(s.h * s.w * s.c)) * 2 * s.c
}

/// dweight `[c]` = sum of d * (x - mean) / sqrt(variance + eps) and dbias `[c]` = sum of d, with d being
/// dy `[n, h / window, w / window, c]` brought back through pool and ReLU.
#[allow(clippy::too_many_arguments)]
pub fn norm_backward_sums(
    workers: &Workers,
    s: &NormShape,
    x: &[f32],
    stats: &[f32],
    weight: &[f32],
    bias: &[f32],
    dy: &[f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
    work: &mut [f32],
) {
    let (x_image, y_image) = (s.x_image(), s.y_image());
    let images = images_a_job(x_image);
    let params = [stats, weight, bias];
    let partials = &mut work[..norm_backward_sums_workspace(s)];
    split(workers, [(&mut *partials, 2 * s.c)], |job, [partial]| {
        let (start, end) = (job * images, ((job + 1) * images).min(s.n));
        let (x, dy) = (&x[start * x_image..end * x_image], &dy[start * y_image..end * y_image]);
        sums(workers.isa, s, x, params, dy, partial);
    });
    split(workers, [(dweight, WIDTH), (dbias, WIDTH)], |job, [dweight, dbias]| {
        merge_sums(workers.isa, s, job * WIDTH, params, partials, dweight, dbias);
    });
}

per_isa! { fn sums(s: &NormShape, x: &[f32], params: [&[f32]; 3], dy: &[f32], partial: &mut [f32]) = sums_body; }

#[inline(always)]
fn sums_body(s: &NormShape, x: &[f32], params: [&[f32]; 3], dy: &[f32], partial: &mut [f32]) {
    for first in (0..s.c).step_by(WIDTH) {
        match (s.window, (s.c - first).min(WIDTH)) {
            (1, 64) => sums_block(1, 64, first, s, x, params, dy, partial),
            (1, 32) => sums_block(1, 32, first, s, x, params, dy, partial),
            (1, 16) => sums_block(1, 16, first, s, x, params, dy, partial),
            (2, 64) => sums_block(2, 64, first, s, x, params, dy, partial),
            (2, 32) => sums_block(2, 32, first, s, x, params, dy, partial),
            (window, width) => sums_block(window, width, first, s, x, params, dy, partial),
        }
    }
}

/// Sum of d, then sum of d * (x - mean).
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn sums_block(
    window: usize,
    width: usize,
    first: usize,
    s: &NormShape,
    x: &[f32],
    params: [&[f32]; 3],
    dy: &[f32],
    partial: &mut [f32],
) {
    let co = Coefficients::new(width, first, s, params);
    let (mut sum, mut product) = ([0f32; WIDTH], [0f32; WIDTH]);
    let mut pooled = dy.chunks_exact(s.c);
    for x in x.chunks_exact(s.h * s.w * s.c) {
        for row in 0..s.h / window {
            for (column, dy) in (0..s.w / window).zip(&mut pooled) {
                let dy = &dy[first..first + width];
                let pixel = |at: usize| &x[place(window, s, row, column, at) + first..][..width];
                if window == 1 {
                    let x = pixel(0);
                    for k in 0..width {
                        let d = keep(co.value(k, x[k]) > co.floor, dy[k]);
                        sum[k] += d;
                        product[k] += d * (x[k] - co.mean[k]);
                    }
                    continue;
                }
                let (best, centred) = winners(window, width, &co, pixel, |_, centred| centred, 0.0);
                for k in 0..width {
                    let d = keep(best[k] > co.floor, dy[k]);
                    sum[k] += d;
                    product[k] += d * centred[k];
                }
            }
        }
    }
    partial[first..first + width].copy_from_slice(&sum[..width]);
    partial[s.c + first..s.c + first + width].copy_from_slice(&product[..width]);
}

/// `v` or 0, `v` being loaded in any case.
#[inline(always)]
fn keep(condition: bool, v: f32) -> f32 {
    if condition { v } else { 0.0 }
}

/// Of each channel of a window the largest value, and `note(pixel, x - mean)` of the first pixel that holds it; the floor
/// and `nobody` where no value is above the floor.
#[inline(always)]
fn winners<'a>(
    window: usize,
    width: usize,
    co: &Coefficients,
    pixel: impl Fn(usize) -> &'a [f32],
    note: impl Fn(usize, f32) -> f32,
    nobody: f32,
) -> (Lanes, Lanes) {
    let (mut best, mut old, mut new) = ([co.floor; WIDTH], [nobody; WIDTH], [nobody; WIDTH]);
    for at in 0..window * window {
        let x = &pixel(at)[..width];
        for k in 0..width {
            let centred = x[k] - co.mean[k];
            let v = centred * co.scale[k] + co.bias[k];
            let (noted, held, largest) = (note(at, centred), old[k], best[k]);
            new[k] = if v > largest { noted } else { held };
            best[k] = if v > largest { v } else { largest };
        }
        std::mem::swap(&mut old, &mut new);
    }
    (best, old)
}

per_isa! {
    fn merge_sums(
        s: &NormShape,
        first: usize,
        params: [&[f32]; 3],
        partials: &[f32],
        dweight: &mut [f32],
        dbias: &mut [f32],
    ) = merge_sums_body;
}

#[inline(always)]
fn merge_sums_body(
    s: &NormShape,
    first: usize,
    params: [&[f32]; 3],
    partials: &[f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let width = dbias.len();
    let co = Coefficients::new(width, first, s, params);
    let (mut sum, mut product) = ([0f64; WIDTH], [0f64; WIDTH]);
    for partial in partials.chunks_exact(2 * s.c) {
        let (part_sum, part_product) = (&partial[first..][..width], &partial[s.c + first..][..width]);
        for k in 0..width {
            sum[k] += f64::from(part_sum[k]);
            product[k] += f64::from(part_product[k]);
        }
    }
    for k in 0..width {
        dbias[k] = sum[k] as f32;
        dweight[k] = (product[k] * f64::from(co.inverse[k])) as f32;
    }
}

/// dx `[n, h, w, c]` = (or, with `add`, +=) scale * (d - dbias / count - xhat * dweight / count), or scale * d where the
/// statistics are running ones and so do not depend on x. d and the two sums are those of [`norm_backward_sums`]; pixels
/// that no window covers have d = 0.
#[allow(clippy::too_many_arguments)]
pub fn norm_backward_data(
    workers: &Workers,
    s: &NormShape,
    add: bool,
    x: &[f32],
    stats: &[f32],
    weight: &[f32],
    bias: &[f32],
    dy: &[f32],
    dweight: &[f32],
    dbias: &[f32],
    dx: &mut [f32],
) {
    let (x_image, y_image) = (s.x_image(), s.y_image());
    let images = images_a_job(x_image);
    split(workers, [(dx, images * x_image)], |job, [dx]| {
        let x = &x[job * images * x_image..][..dx.len()];
        let dy = &dy[job * images * y_image..][..dx.len() / x_image * y_image];
        data(workers.isa, s, add, x, [stats, weight, bias], dy, [dweight, dbias], dx);
    });
}

per_isa! {
    fn data(
        s: &NormShape,
        add: bool,
        x: &[f32],
        params: [&[f32]; 3],
        dy: &[f32],
        sums: [&[f32]; 2],
        dx: &mut [f32],
    ) = data_body;
}

#[inline(always)]
fn data_body(s: &NormShape, add: bool, x: &[f32], params: [&[f32]; 3], dy: &[f32], sums: [&[f32]; 2], dx: &mut [f32]) {
    for first in (0..s.c).step_by(WIDTH) {
        let width = (s.c - first).min(WIDTH);
        let slope = Slope::new(width, first, s, add, params, sums);
        match (s.window, width) {
            (1, 64) => data_block(1, 64, first, s, x, &slope, dy, dx),
            (1, 32) => data_block(1, 32, first, s, x, &slope, dy, dx),
            (1, 16) => data_block(1, 16, first, s, x, &slope, dy, dx),
            (2, 64) => data_block(2, 64, first, s, x, &slope, dy, dx),
            (2, 32) => data_block(2, 32, first, s, x, &slope, dy, dx),
            (window, width) => data_block(window, width, first, s, x, &slope, dy, dx),
        }
    }
}

/// dx = scale * d + level + lean * (x - mean)
struct Slope {
    co: Coefficients,
    level: Lanes,
    lean: Lanes,
    add: bool,
}

impl Slope {
    #[inline(always)]
    fn new(
        width: usize,
        first: usize,
        s: &NormShape,
        add: bool,
        params: [&[f32]; 3],
        [dweight, dbias]: [&[f32]; 2],
    ) -> Slope {
        let co = Coefficients::new(width, first, s, params);
        let (mut level, mut lean) = ([0f32; WIDTH], [0f32; WIDTH]);
        if !s.running {
            for k in 0..width {
                let share = co.scale[k] / params[0][first + k]; // scale / count
                level[k] = -share * dbias[first + k];
                lean[k] = -share * co.inverse[k] * dweight[first + k];
            }
        }
        Slope { co, level, lean, add }
    }

    #[inline(always)]
    fn write(&self, width: usize, x: &[f32], d: &Lanes, dx: &mut [f32]) {
        let (x, dx) = (&x[..width], &mut dx[..width]);
        let value = |k: usize| self.co.scale[k] * d[k] + self.level[k] + self.lean[k] * (x[k] - self.co.mean[k]);
        if self.add {
            dx.iter_mut().enumerate().for_each(|(k, dx)| *dx += value(k));
        } else {
            dx.iter_mut().enumerate().for_each(|(k, dx)| *dx = value(k));
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn data_block(
    window: usize,
    width: usize,
    first: usize,
    s: &NormShape,
    x: &[f32],
    slope: &Slope,
    dy: &[f32],
    dx: &mut [f32],
) {
    let image = s.h * s.w * s.c;
    let co = &slope.co;
    let mut d = [0f32; WIDTH];
    let mut pooled = dy.chunks_exact(s.c);
    for (x, dx) in x.chunks_exact(image).zip(dx.chunks_exact_mut(image)) {
        for row in 0..s.h / window {
            for (column, dy) in (0..s.w / window).zip(&mut pooled) {
                let start = |at: usize| place(window, s, row, column, at) + first;
                let dy = &dy[first..first + width];
                let pixel = |at: usize| &x[start(at)..][..width];
                if window == 1 {
                    let x = pixel(0);
                    for k in 0..width {
                        d[k] = keep(co.value(k, x[k]) > co.floor, dy[k]);
                    }
                    slope.write(width, x, &d, &mut dx[start(0)..]);
                    continue;
                }
                // A copy on the stack, as loads of dy itself would be made conditional in the loop below.
                let mut lanes = [0f32; WIDTH];
                lanes[..width].copy_from_slice(dy);
                let (_, won) = winners(window, width, co, pixel, |at, _| at as f32, -1.0);
                for at in 0..window * window {
                    let x = pixel(at);
                    for k in 0..width {
                        d[k] = keep(won[k] == at as f32, lanes[k]);
                    }
                    slope.write(width, x, &d, &mut dx[start(at)..]);
                }
            }
        }
        let (covered_rows, covered_columns) = (s.h / window * window, s.w / window * window);
        for row in 0..s.h {
            for column in if row < covered_rows { covered_columns..s.w } else { 0..s.w } {
                let start = (row * s.w + column) * s.c + first;
                slope.write(width, &x[start..], &[0.0; WIDTH], &mut dx[start..]);
            }
        }
    }
}

#[cfg(test)]
#[path = "norm_tests.rs"]
mod tests;

pub fn image_sums<T: super::stored::Stored>(
    _: super::simd::Isa,
    _: &NormShape,
    _: &[T],
    _: [&[f32]; 3],
    _: &[T],
    _: &mut [f32],
) {
    todo!()
}
pub fn merge_partial_sums(_: &Workers, _: usize, _: usize, _: &[f32], _: &mut [f32], _: &mut [f32]) {
    todo!()
}
