//! Mean and M2 (sum of squared differences from the mean) of each channel of one image.

use super::simd::per_isa;

/// One block of `W` channels: a rough mean, then differences from it, which also mend the mean (the corrected two-pass
/// algorithm; Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983).
#[inline(always)]
fn channels<const W: usize>(y: &[f32], c: usize, first: usize, mean: &mut [f32], m2: &mut [f32]) {
    let scale = c as f32 / y.len() as f32;
    let mut sum = [0.0f32; W];
    for pixel in y.chunks_exact(c) {
        for (sum, v) in sum.iter_mut().zip(&pixel[first..first + W]) {
            *sum += v;
        }
    }
    let rough = sum.map(|s| s * scale);
    let (mut sum, mut squares) = ([0.0f32; W], [0.0f32; W]);
    for pixel in y.chunks_exact(c) {
        let pixel = &pixel[first..first + W];
        for i in 0..W {
            let d = pixel[i] - rough[i];
            sum[i] += d;
            squares[i] += d * d;
        }
    }
    for i in 0..W {
        mean[first + i] = rough[i] + sum[i] * scale;
        m2[first + i] = squares[i] - sum[i] * sum[i] * scale;
    }
}

#[inline(always)]
fn all_channels(y: &[f32], moments: &mut [f32]) {
    let c = moments.len() / 2;
    let (mean, m2) = moments.split_at_mut(c);
    let mut first = 0;
    while first < c {
        first += match c - first {
            32.. => {
                channels::<32>(y, c, first, mean, m2);
                32
            }
            8.. => {
                channels::<8>(y, c, first, mean, m2);
                8
            }
            _ => {
                channels::<1>(y, c, first, mean, m2);
                1
            }
        };
    }
}

per_isa! {
    /// From an image `[pixels, c]` to `moments` `[2, c]`: means, then M2.
    pub fn image_moments_f32(y: &[f32], moments: &mut [f32]) = all_channels;
}

pub fn image_moments<T: super::stored::Stored>(isa: super::simd::Isa, y: &[T], moments: &mut [f32]) {
    if let Some(y) = T::f32s(y) { image_moments_f32(isa, y, moments) } else { todo!() }
}
