//! Diagnostics of low precision: how much of a perturbation survives rounding.

use super::Workers;
use super::cast::{Place, places};
use super::simd::per_isa;
use super::stored::Stored;
use super::vector::{sums, sums_workspace};
use crate::ops::call::Cast;
use std::ops::Range;

/// Scratch of [`perturbation`], in cells.
pub fn perturbation_workspace(ranges: &[Range<usize>]) -> usize {
    sums_workspace(ranges, 3)
}

/// Returns |c - w| and the cosine of c - w and g over `ranges`; the cosine is 0 where either is 0. `cast` is c's storage.
pub fn perturbation(
    workers: &Workers,
    (ranges, cast): (&[Range<usize>], Option<&Cast>),
    w: &[f32],
    c: &[f32],
    g: &[f32],
    out: [&mut f32; 2],
    work: &mut [f32],
) {
    let [moved, along, size] = sums(workers, ranges, work, |range, sums| {
        for (r, c) in places(c, cast, range) {
            let (w, g) = (&w[r.clone()], &g[r]);
            match c {
                Place::Wide(c) => perturbation_run(workers.isa, w, c, g, sums),
                Place::Low(c) => perturbation_run(workers.isa, w, c, g, sums),
            }
        }
    });
    let [norm, cosine] = out;
    *norm = moved.sqrt() as f32;
    *cosine = if moved > 0.0 && size > 0.0 { (along / (moved * size).sqrt()) as f32 } else { 0.0 };
}

per_isa! { fn perturbation_run<T: Stored>(w: &[f32], c: &[T], g: &[f32], sums: &mut [f64; 3]) = perturbation_body; }

/// Adds to the sums of (c - w)^2, (c - w) g and g^2, with 16 running sums of each.
#[inline(always)]
fn perturbation_body<T: Stored>(w: &[f32], c: &[T], g: &[f32], sums: &mut [f64; 3]) {
    const LANES: usize = 16;
    let mut lanes = [[0f64; LANES]; 3];
    let mut add = |k: usize, w: f32, c: T, g: f32| {
        let (e, g) = (f64::from(c.widen()) - f64::from(w), f64::from(g));
        lanes[0][k] += e * e;
        lanes[1][k] += e * g;
        lanes[2][k] += g * g;
    };
    let (w, c, g) = (w.chunks_exact(LANES), c.chunks_exact(LANES), g.chunks_exact(LANES));
    let rest = w.remainder().iter().zip(c.remainder()).zip(g.remainder());
    rest.enumerate().for_each(|(k, ((w, c), g))| add(k, *w, *c, *g));
    for ((w, c), g) in w.zip(c).zip(g) {
        (0..LANES).for_each(|k| add(k, w[k], c[k], g[k]));
    }
    sums.iter_mut().zip(lanes).for_each(|(sum, lanes)| *sum += lanes.iter().sum::<f64>());
}

/// g /= scale over `ranges`; `overflow` = 1 where a quotient is not finite. In plain loops on one thread: only f16 scales
/// its loss, which no CPU computes in, and this is the reference that other devices are compared with.
pub fn unscale(ranges: &[Range<usize>], scale: f32, g: &mut [f32], overflow: &mut f32) {
    for i in ranges.iter().flat_map(Clone::clone) {
        g[i] /= scale;
        if !g[i].is_finite() {
            *overflow = 1.0;
        }
    }
}
