//! Mean and M2 (sum of squared differences from the mean) of each channel of one image.

use super::simd::per_isa;
use super::stored::Stored;
use super::strips::{ahead, lanes, prefetch, strips};

/// Pixels that are summed before they are merged.
const BLOCK: usize = 64;
/// Pixels whose mean the first block is compared with.
const HEAD: usize = 16;

per_isa! {
    /// From an image `[pixels, c]` to `moments` `[2, c]`: means, then M2, of the values as stored.
    pub fn image_moments<T: Stored>(y: &[T], moments: &mut [f32]) = all_channels;
}

#[inline(always)]
fn all_channels<T: Stored>(y: &[T], moments: &mut [f32]) {
    let c = moments.len() / 2;
    for (first, width) in strips(c) {
        match width {
            64 => strip::<64, T>(y, c, first, moments),
            32 => strip::<32, T>(y, c, first, moments),
            16 => strip::<16, T>(y, c, first, moments),
            4 => strip::<4, T>(y, c, first, moments),
            _ => strip::<1, T>(y, c, first, moments),
        }
    }
}

/// A block of pixels at a time, in one visit: sums of differences from the mean of the pixels before it, merged into theirs
/// by Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983. A block that lies far from the mean
/// before it loses digits of its own M2, but no more than its distance adds to the whole.
#[inline(always)]
fn strip<const W: usize, T: Stored>(y: &[T], c: usize, first: usize, moments: &mut [f32]) {
    // The mean is `origin` + `mean`, so that merging does not round it where it is large.
    let (mut origin, mut mean, mut m2) = ([0f32; W], [0f32; W], [0f32; W]);
    let head = &y[..y.len().min(HEAD * c)];
    for pixel in head.chunks_exact(c) {
        let y = lanes::<W, T>(pixel, first);
        for k in 0..W {
            origin[k] += y[k].widen();
        }
    }
    for origin in &mut origin {
        *origin *= c as f32 / head.len() as f32;
    }
    let ahead = ahead::<W, T>(c);
    let mut before = 0.0;
    for block in y.chunks(BLOCK * c) {
        let (mut center, mut sum, mut squares) = ([0f32; W], [0f32; W], [0f32; W]);
        for k in 0..W {
            center[k] = origin[k] + mean[k];
        }
        for pixel in block.chunks_exact(c) {
            let y = lanes::<W, T>(pixel, first);
            prefetch(y, ahead);
            for k in 0..W {
                let d = y[k].widen() - center[k];
                sum[k] += d;
                squares[k] += d * d;
            }
        }
        let count = (block.len() / c) as f32;
        let (inverse, share) = (1.0 / count, count / (before + count));
        for k in 0..W {
            let shift = sum[k] * inverse;
            let within = squares[k] - sum[k] * shift;
            let d = (center[k] - origin[k]) + shift - mean[k];
            mean[k] += d * share;
            // Rounding can leave less than nothing of a constant. NaN stays, so that a fault is not hidden.
            m2[k] += if within < 0.0 { 0.0 } else { within } + d * d * (before * share);
        }
        before += count;
    }
    for k in 0..W {
        moments[first + k] = origin[k] + mean[k];
        moments[c + first + k] = m2[k];
    }
}
