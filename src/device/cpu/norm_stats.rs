//! Batch-norm's statistics: mean and M2 (sum of squared differences from the mean) of each channel.
//!
//! Never a sum of squares less a squared sum, which loses all digits where the mean is large. Images are merged in f64, in
//! order, by the formula of Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for computing sample
//! variances", 1979) for groups of equal size.

use super::Workers;
use super::moments::image_moments;
use super::simd::per_isa;
use super::split::{images_a_job, split};
use super::stored::Stored;

/// Channels worked on at once.
pub(super) const WIDTH: usize = 64;

/// Scratch of [`batch_stats`], in elements.
pub fn batch_stats_workspace(n: usize, c: usize) -> usize {
    2 * n * c
}

/// Statistics `[3, c]` (count, mean, M2) of `x [n, pixels, c]`, of the values as stored.
pub fn batch_stats<T: Stored>(
    workers: &Workers,
    (n, pixels, c): (usize, usize, usize),
    x: &[T],
    stats: &mut [f32],
    work: &mut [f32],
) {
    let partials = &mut work[..batch_stats_workspace(n, c)];
    let images = images_a_job(pixels * c);
    split(workers, [(&mut *partials, images * 2 * c)], |job, [partials]| {
        let x = x[job * images * pixels * c..].chunks_exact(pixels * c);
        for (x, moments) in x.zip(partials.chunks_exact_mut(2 * c)) {
            image_moments(workers.isa, x, moments);
        }
    });
    merge_stats(workers, (n, pixels, c), partials, stats);
}

/// Statistics `[3, c]` from partial ones `[n, 2, c]` (mean and M2), each of `pixels` values a channel.
pub fn merge_stats(workers: &Workers, (n, pixels, c): (usize, usize, usize), partials: &[f32], stats: &mut [f32]) {
    let partials = &partials[..2 * n * c];
    let (count, rest) = stats.split_at_mut(c);
    let (mean, m2) = rest.split_at_mut(c);
    split(workers, [(count, WIDTH), (mean, WIDTH), (m2, WIDTH)], |job, [count, mean, m2]| {
        count.fill((n * pixels) as f32);
        merge_block(workers.isa, job * WIDTH, pixels as f64, partials, mean, m2, c);
    });
}

per_isa! {
    fn merge_block(first: usize, pixels: f64, partials: &[f32], mean: &mut [f32], m2: &mut [f32], c: usize)
        = merge_block_body;
}

#[inline(always)]
fn merge_block_body(first: usize, pixels: f64, partials: &[f32], mean: &mut [f32], m2: &mut [f32], c: usize) {
    let width = mean.len();
    let n = (partials.len() / (2 * c)) as f64;
    let (mut middle, mut sum) = ([0f64; WIDTH], [0f64; WIDTH]);
    for partial in partials.chunks_exact(2 * c) {
        let image_mean = &partial[first..][..width];
        for k in 0..width {
            middle[k] += f64::from(image_mean[k]);
        }
    }
    for value in &mut middle[..width] {
        *value /= n;
    }
    for partial in partials.chunks_exact(2 * c) {
        let (image_mean, image_m2) = (&partial[first..][..width], &partial[c + first..][..width]);
        for k in 0..width {
            let d = f64::from(image_mean[k]) - middle[k];
            sum[k] += f64::from(image_m2[k]) + pixels * (d * d);
        }
    }
    for k in 0..width {
        mean[k] = middle[k] as f32;
        m2[k] = sum[k] as f32;
    }
}

/// Moves `running [3, c]` (batches, mean, variance) by `momentum` towards a batch's `stats [3, c]` (count, mean, M2), with
/// the unbiased variance M2 / (count - 1); nothing where `fault` is not 0.
pub fn fold_stats(c: usize, momentum: f32, stats: &[f32], fault: f32, running: &mut [f32]) {
    if fault != 0.0 {
        return;
    }
    for k in 0..c {
        let (count, mean, m2) = (stats[k], stats[c + k], stats[2 * c + k]);
        // A single value per channel has no variance; the estimate is then 0, not 0 / 0.
        let variance = m2 / (count - 1.0).max(1.0);
        running[k] += 1.0;
        running[c + k] += momentum * (mean - running[c + k]);
        running[2 * c + k] += momentum * (variance - running[2 * c + k]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    /// Count, mean and M2 of each channel by their definitions.
    fn naive(x: &[f32], c: usize) -> Vec<f64> {
        let count = (x.len() / c) as f64;
        let channel = |k: usize| x.iter().skip(k).step_by(c).map(|v| f64::from(*v));
        let means: Vec<f64> = (0..c).map(|k| channel(k).sum::<f64>() / count).collect();
        let m2 = (0..c).map(|k| channel(k).map(|v| (v - means[k]).powi(2)).sum());
        [vec![count; c], means.clone(), m2.collect()].concat()
    }

    #[test]
    fn statistics_hold_for_any_channel_count_and_far_from_zero() {
        for (n, pixels, c) in [(1, 1, 3), (5, 63, 3), (3, 63, 10), (4, 35, 33), (7, 1, 64), (40, 49, 70), (2, 2000, 16)]
        {
            // At 1000 the mean of each image is rounded to steps of 6e-5, which the merged M2 shows in its sixth digit.
            for (offset, tolerance) in [(0.0, 1e-6), (1000.0, 1e-5)] {
                let x: Vec<f32> = normal(c as u64, n * pixels * c).iter().map(|v| v + offset).collect();
                let stats = same_for_all(|workers| {
                    let (mut stats, mut work) = (poisoned(3 * c), poisoned(batch_stats_workspace(n, c)));
                    batch_stats(workers, (n, pixels, c), &x, &mut stats, &mut work);
                    stats
                });
                let expected = naive(&x, c);
                let what = format!("n {n}, pixels {pixels}, c {c}, offset {offset}");
                for row in 0..3 {
                    assert_close(&what, &stats[row * c..][..c], &expected[row * c..][..c], tolerance);
                }
            }
        }
    }

    /// Two halves of a batch that differ in mean: most of the variance lies between the images, not in them.
    #[test]
    fn merging_counts_the_distance_between_images() {
        let partials = [vec![-1.0, 5.0, 2.0, 3.0], vec![1.0, 5.0, 4.0, 1.0]].concat();
        for workers in all_workers() {
            let mut stats = poisoned(6);
            merge_stats(&workers, (2, 10, 2), &partials, &mut stats);
            assert_eq!(stats, [20.0, 20.0, 0.0, 5.0, 6.0 + 20.0, 4.0]);
        }
    }

    #[test]
    fn running_statistics_move_by_momentum_and_stand_still_after_a_fault() {
        let stats = [5.0, 5.0, 2.0, -1.0, 8.0, 4.0];
        let mut running = [3.0, 3.0, 1.0, 1.0, 1.0, 1.0];
        let before = running;
        fold_stats(2, 0.25, &stats, 1.0, &mut running);
        assert_eq!(running, before);
        fold_stats(2, 0.25, &stats, 0.0, &mut running);
        assert_eq!(running, [4.0, 4.0, 1.25, 0.5, 1.25, 1.0]);
    }

    #[test]
    fn a_single_value_a_channel_leaves_running_statistics_finite() {
        let mut running = [0.0, 0.0, 1.0];
        fold_stats(1, 0.1, &[1.0, 2.0, 0.0], 0.0, &mut running);
        assert_eq!(running, [1.0, 0.2, 0.9]);
    }
}
