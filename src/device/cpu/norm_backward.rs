//! Backward of batch-norm with ReLU and max-pool, in two passes over x: the sums over the batch, then dx.
//!
//! Only x and the statistics are stored: which values the ReLU let through and which the pool took is computed again, by the
//! arithmetic of the forward pass.

use super::Workers;
use super::norm::{Coefficients, images_a_job, pixel};
use super::simd::per_isa;
use super::split::split;
use super::stored::Stored;
use super::strips::{ahead, lanes, lanes_mut, prefetch, strips};
use crate::ops::call::NormShape;

// In the loops over channels below all loads and stores are unconditional. A load that depends on who won becomes a branch
// for each channel (three times slower), and a store that keeps the old value a masked one (ten times slower with AVX2).

/// Channels that one job merges.
const MERGED: usize = 64;

/// Scratch of [`norm_backward_sums`], in elements: both sums of each job.
pub fn norm_backward_sums_workspace(s: &NormShape) -> usize {
    s.n.div_ceil(images_a_job(s)) * 2 * s.c
}

/// dweight `[c]` = sum of d * (x - mean) / sqrt(variance + eps) and dbias `[c]` = sum of d, with d being
/// dy `[n, h / window, w / window, c]` brought back through pool and ReLU.
#[allow(clippy::too_many_arguments)]
pub fn norm_backward_sums<T: Stored>(
    workers: &Workers,
    s: &NormShape,
    x: &[T],
    stats: &[f32],
    weight: &[f32],
    bias: &[f32],
    dy: &[T],
    dweight: &mut [f32],
    dbias: &mut [f32],
    work: &mut [f32],
) {
    let (x_image, y_image) = (s.x_image(), s.y_image());
    let images = images_a_job(s);
    let partials = &mut work[..norm_backward_sums_workspace(s)];
    split(workers, [(&mut *partials, 2 * s.c)], |job, [partial]| {
        let (start, end) = (job * images, ((job + 1) * images).min(s.n));
        let (x, dy) = (&x[start * x_image..end * x_image], &dy[start * y_image..end * y_image]);
        image_sums(workers.isa, s, x, [stats, weight, bias], dy, partial);
    });
    merge_partial_sums(workers, s.n.div_ceil(images), s.c, partials, dweight, dbias);
}

per_isa! {
    /// The sums of [`norm_backward_sums`] over the images in x and dy alone, however many `s` counts: `partial` `[2, c]` is
    /// the share in dweight, then in dbias. `params` are statistics, weight, bias.
    pub fn image_sums<T: Stored>(s: &NormShape, x: &[T], params: [&[f32]; 3], dy: &[T], partial: &mut [f32])
        = sums_body;
}

#[inline(always)]
fn sums_body<T: Stored>(s: &NormShape, x: &[T], params: [&[f32]; 3], dy: &[T], partial: &mut [f32]) {
    for (first, width) in strips(s.c) {
        match width {
            64 => sums_strip::<64, T>(first, s, x, params, dy, partial),
            32 => sums_strip::<32, T>(first, s, x, params, dy, partial),
            16 => sums_strip::<16, T>(first, s, x, params, dy, partial),
            4 => sums_strip::<4, T>(first, s, x, params, dy, partial),
            _ => sums_strip::<1, T>(first, s, x, params, dy, partial),
        }
    }
}

/// Sum of d * (x - mean) over the deviation, then sum of d.
#[inline(always)]
fn sums_strip<const W: usize, T: Stored>(
    first: usize,
    s: &NormShape,
    x: &[T],
    params: [&[f32]; 3],
    dy: &[T],
    partial: &mut [f32],
) {
    let co = Coefficients::<W>::new(first, s, params);
    let (mut product, mut sum) = ([0f32; W], [0f32; W]);
    if s.window == 1 {
        let ahead = ahead::<W, T>(s.c);
        for (x, dy) in x.chunks_exact(s.c).zip(dy.chunks_exact(s.c)) {
            let (x, dy) = (lanes::<W, T>(x, first), lanes::<W, T>(dy, first));
            prefetch(x, ahead);
            prefetch(dy, ahead);
            for k in 0..W {
                let centred = x[k].widen() - co.mean[k];
                let d = keep(co.value(k, centred) > co.floor, dy[k].widen());
                sum[k] += d;
                product[k] += d * centred;
            }
        }
    } else if s.window == 2 {
        // A constant, so that the loops over the pixels of a window are unrolled.
        pool_sums(2, first, s, x, &co, dy, &mut product, &mut sum);
    } else {
        pool_sums(s.window, first, s, x, &co, dy, &mut product, &mut sum);
    }
    let (weight, bias) = partial.split_at_mut(s.c);
    let (weight, bias) = (lanes_mut::<W, f32>(weight, first), lanes_mut::<W, f32>(bias, first));
    for k in 0..W {
        weight[k] = product[k] * co.inverse[k];
        bias[k] = sum[k];
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn pool_sums<const W: usize, T: Stored>(
    window: usize,
    first: usize,
    s: &NormShape,
    x: &[T],
    co: &Coefficients<W>,
    dy: &[T],
    product: &mut [f32; W],
    sum: &mut [f32; W],
) {
    let (rows, columns) = (s.h / window, s.w / window);
    for (x, dy) in x.chunks_exact(s.x_image()).zip(dy.chunks_exact(s.y_image())) {
        for row in 0..rows {
            for column in 0..columns {
                let start = (row * s.w + column) * window * s.c + first;
                let (mut best, mut won) = ([co.floor; W], [0f32; W]);
                for i in 0..window * window {
                    let x = lanes::<W, T>(x, pixel(window, s, start, i));
                    for k in 0..W {
                        let centred = x[k].widen() - co.mean[k];
                        let (v, held) = (compared::<T>(co.value(k, centred)), won[k]);
                        won[k] = if v > best[k] { centred } else { held };
                        best[k] = if v > best[k] { v } else { best[k] };
                    }
                }
                let dy = lanes::<W, T>(dy, (row * columns + column) * s.c + first);
                for k in 0..W {
                    let d = keep(best[k] > co.floor, dy[k].widen());
                    sum[k] += d;
                    product[k] += d * won[k];
                }
            }
        }
    }
}

/// `v` or 0, `v` being loaded in any case.
#[inline(always)]
fn keep(condition: bool, v: f32) -> f32 {
    if condition { v } else { 0.0 }
}

/// Values of a window are compared as they would be stored, so that a pool of stored values has the same winners.
#[inline(always)]
fn compared<T: Stored>(v: f32) -> f32 {
    T::round(v).widen()
}

/// dweight `[c]` and dbias `[c]` from the partial sums `[groups, 2, c]` of [`image_sums`].
pub fn merge_partial_sums(
    workers: &Workers,
    groups: usize,
    c: usize,
    partials: &[f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let partials = &partials[..groups * 2 * c];
    split(workers, [(dweight, MERGED), (dbias, MERGED)], |job, [dweight, dbias]| {
        merge(workers.isa, c, job * MERGED, partials, dweight, dbias);
    });
}

per_isa! {
    fn merge(c: usize, first: usize, partials: &[f32], dweight: &mut [f32], dbias: &mut [f32]) = merge_body;
}

#[inline(always)]
fn merge_body(c: usize, first: usize, partials: &[f32], dweight: &mut [f32], dbias: &mut [f32]) {
    let width = dbias.len();
    let (mut product, mut sum) = ([0f64; MERGED], [0f64; MERGED]);
    for partial in partials.chunks_exact(2 * c) {
        let (weight, bias) = (&partial[first..][..width], &partial[c + first..][..width]);
        for k in 0..width {
            product[k] += f64::from(weight[k]);
            sum[k] += f64::from(bias[k]);
        }
    }
    for k in 0..width {
        dweight[k] = product[k] as f32;
        dbias[k] = sum[k] as f32;
    }
}

/// dx `[n, h, w, c]` = (or, with `add`, +=) scale * (d - dbias / count - xhat * dweight / count), or scale * d where the
/// statistics are running ones and so do not depend on x. d and the two sums are those of [`norm_backward_sums`]; pixels
/// that no window covers have d = 0.
#[allow(clippy::too_many_arguments)]
pub fn norm_backward_data<T: Stored>(
    workers: &Workers,
    s: &NormShape,
    add: bool,
    x: &[T],
    stats: &[f32],
    weight: &[f32],
    bias: &[f32],
    dy: &[T],
    dweight: &[f32],
    dbias: &[f32],
    dx: &mut [T],
) {
    let (x_image, y_image) = (s.x_image(), s.y_image());
    let images = images_a_job(s);
    split(workers, [(dx, images * x_image)], |job, [dx]| {
        let x = &x[job * images * x_image..][..dx.len()];
        let dy = &dy[job * images * y_image..][..dx.len() / x_image * y_image];
        let (params, sums) = ([stats, weight, bias], [dweight, dbias]);
        if add {
            add_data(workers.isa, s, x, params, dy, sums, dx);
        } else {
            write_data(workers.isa, s, x, params, dy, sums, dx);
        }
    });
}

per_isa! {
    fn write_data<T: Stored>(s: &NormShape, x: &[T], params: [&[f32]; 3], dy: &[T], sums: [&[f32]; 2], dx: &mut [T])
        = data_body::<false, T>;
}

per_isa! {
    fn add_data<T: Stored>(s: &NormShape, x: &[T], params: [&[f32]; 3], dy: &[T], sums: [&[f32]; 2], dx: &mut [T])
        = data_body::<true, T>;
}

#[inline(always)]
fn data_body<const ADD: bool, T: Stored>(
    s: &NormShape,
    x: &[T],
    params: [&[f32]; 3],
    dy: &[T],
    sums: [&[f32]; 2],
    dx: &mut [T],
) {
    for (first, width) in strips(s.c) {
        match width {
            64 => Slope::<64, ADD>::new(first, s, params, sums).strip(first, s, x, dy, dx),
            32 => Slope::<32, ADD>::new(first, s, params, sums).strip(first, s, x, dy, dx),
            16 => Slope::<16, ADD>::new(first, s, params, sums).strip(first, s, x, dy, dx),
            4 => Slope::<4, ADD>::new(first, s, params, sums).strip(first, s, x, dy, dx),
            _ => Slope::<1, ADD>::new(first, s, params, sums).strip(first, s, x, dy, dx),
        }
    }
}

/// dx = (or, with `ADD`, +=) scale * d + level + lean * (x - mean)
struct Slope<const W: usize, const ADD: bool> {
    co: Coefficients<W>,
    level: [f32; W],
    lean: [f32; W],
}

impl<const W: usize, const ADD: bool> Slope<W, ADD> {
    #[inline(always)]
    fn new(first: usize, s: &NormShape, params: [&[f32]; 3], [dweight, dbias]: [&[f32]; 2]) -> Self {
        let co = Coefficients::<W>::new(first, s, params);
        let (mut level, mut lean) = ([0f32; W], [0f32; W]);
        if !s.running {
            let count = lanes::<W, f32>(params[0], first);
            let (dweight, dbias) = (lanes::<W, f32>(dweight, first), lanes::<W, f32>(dbias, first));
            for k in 0..W {
                let share = co.scale[k] / count[k];
                level[k] = -share * dbias[k];
                lean[k] = -share * co.inverse[k] * dweight[k];
            }
        }
        Slope { co, level, lean }
    }

    /// Returns the new value of dx where it was `before`.
    #[inline(always)]
    fn step<T: Stored>(&self, k: usize, d: f32, centred: f32, before: T) -> T {
        let value = self.co.scale[k] * d + self.level[k] + self.lean[k] * centred;
        T::round(if ADD { before.widen() + value } else { value })
    }

    #[inline(always)]
    fn strip<T: Stored>(&self, first: usize, s: &NormShape, x: &[T], dy: &[T], dx: &mut [T]) {
        if s.window > 1 {
            for (i, (x, dx)) in x.chunks_exact(s.x_image()).zip(dx.chunks_exact_mut(s.x_image())).enumerate() {
                let dy = &dy[i * s.y_image()..][..s.y_image()];
                // A constant, so that the loops over the pixels of a window are unrolled.
                match s.window {
                    2 => self.pool_image(2, first, s, x, dy, dx),
                    window => self.pool_image(window, first, s, x, dy, dx),
                }
            }
            return;
        }
        let ahead = ahead::<W, T>(s.c);
        for ((x, dy), dx) in x.chunks_exact(s.c).zip(dy.chunks_exact(s.c)).zip(dx.chunks_exact_mut(s.c)) {
            let (x, dy, dx) = (lanes::<W, T>(x, first), lanes::<W, T>(dy, first), lanes_mut::<W, T>(dx, first));
            prefetch(x, ahead);
            prefetch(dy, ahead);
            for k in 0..W {
                let centred = x[k].widen() - self.co.mean[k];
                let d = keep(self.co.value(k, centred) > self.co.floor, dy[k].widen());
                dx[k] = self.step(k, d, centred, dx[k]);
            }
        }
    }

    #[inline(always)]
    fn pool_image<T: Stored>(&self, window: usize, first: usize, s: &NormShape, x: &[T], dy: &[T], dx: &mut [T]) {
        let co = &self.co;
        let (rows, columns) = (s.h / window, s.w / window);
        for row in 0..rows {
            for column in 0..columns {
                let start = (row * s.w + column) * window * s.c + first;
                let (mut best, mut won) = ([co.floor; W], [-1f32; W]);
                for i in 0..window * window {
                    let x = lanes::<W, T>(x, pixel(window, s, start, i));
                    prefetch(x, window * s.w * s.c);
                    for k in 0..W {
                        let v = compared::<T>(co.value(k, x[k].widen() - co.mean[k]));
                        let held = won[k];
                        won[k] = if v > best[k] { i as f32 } else { held };
                        best[k] = if v > best[k] { v } else { best[k] };
                    }
                }
                let dy = lanes::<W, T>(dy, (row * columns + column) * s.c + first);
                for i in 0..window * window {
                    let at = pixel(window, s, start, i);
                    let (x, dx) = (lanes::<W, T>(x, at), lanes_mut::<W, T>(dx, at));
                    for k in 0..W {
                        let d = keep(won[k] == i as f32, dy[k].widen());
                        dx[k] = self.step(k, d, x[k].widen() - co.mean[k], dx[k]);
                    }
                }
            }
        }
        for row in 0..s.h {
            for column in if row < rows * window { columns * window..s.w } else { 0..s.w } {
                let at = (row * s.w + column) * s.c + first;
                let (x, dx) = (lanes::<W, T>(x, at), lanes_mut::<W, T>(dx, at));
                for k in 0..W {
                    dx[k] = self.step(k, 0.0, x[k].widen() - co.mean[k], dx[k]);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "norm_tests.rs"]
mod tests;
