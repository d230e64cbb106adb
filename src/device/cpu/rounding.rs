//! What low precision asks for. The CPU computes in f32 and never runs these in training: they are here as the reference
//! that other devices are compared with, in plain loops on one thread.

use std::ops::Range;

/// |c - w|, and the cosine of c - w and g, over `ranges`; the cosine is 0 where either is 0.
pub fn perturbation(ranges: &[Range<usize>], w: &[f32], c: &[f32], g: &[f32], out: [&mut f32; 2]) {
    let [mut moved, mut along, mut size] = [0f64; 3];
    for i in ranges.iter().flat_map(Clone::clone) {
        let (e, g) = (f64::from(c[i]) - f64::from(w[i]), f64::from(g[i]));
        moved += e * e;
        along += e * g;
        size += g * g;
    }
    let [norm, cosine] = out;
    *norm = moved.sqrt() as f32;
    *cosine = if moved > 0.0 && size > 0.0 { (along / (moved * size).sqrt()) as f32 } else { 0.0 };
}

/// g /= scale over `ranges`; `overflow` = 1 where a quotient is not finite.
pub fn unscale(ranges: &[Range<usize>], scale: f32, g: &mut [f32], overflow: &mut f32) {
    for i in ranges.iter().flat_map(Clone::clone) {
        g[i] /= scale;
        if !g[i].is_finite() {
            *overflow = 1.0;
        }
    }
}
