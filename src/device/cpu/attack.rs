//! A step of projected gradient descent on normalised images.

use super::Workers;
use super::simd::per_isa;
use super::split::{CHUNK, split};
use crate::ops::call::Pixels;

/// delta moves by rate / std in the sign of g, stays within radius / std, and x + delta stays the image of pixels from 0 to 1;
/// all `[n, h, w, c]`.
pub fn pgd_step(workers: &Workers, p: &Pixels, x: &[f32], g: &[f32], [radius, rate]: [f32; 2], delta: &mut [f32]) {
    // Whole pixels to a job.
    let part = CHUNK / p.c * p.c;
    split(workers, [(delta, part)], |job, [delta]| {
        let (x, g) = (&x[job * part..][..delta.len()], &g[job * part..][..delta.len()]);
        pgd_run(workers.isa, p, x, g, [radius, rate], delta);
    });
}

per_isa! { fn pgd_run(p: &Pixels, x: &[f32], g: &[f32], sizes: [f32; 2], delta: &mut [f32]) = pgd_body; }

#[inline(always)]
fn pgd_body(p: &Pixels, x: &[f32], g: &[f32], [radius, rate]: [f32; 2], delta: &mut [f32]) {
    let pixels = x.chunks_exact(p.c).zip(g.chunks_exact(p.c)).zip(delta.chunks_exact_mut(p.c));
    for ((x, g), delta) in pixels {
        for channel in 0..p.c {
            let (mean, std, x, g) = (p.mean[channel], p.std[channel], x[channel], g[channel]);
            let sign = if g > 0.0 {
                1.0
            } else if g < 0.0 {
                -1.0
            } else {
                0.0
            };
            let most = radius / std;
            let moved = (delta[channel] + rate / std * sign).max(-most).min(most);
            delta[channel] = moved.max((0.0 - mean) / std - x).min((1.0 - mean) / std - x);
        }
    }
}
