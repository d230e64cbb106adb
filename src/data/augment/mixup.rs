//! The share by which mixup (Zhang et al., ICLR 2018, arXiv:1710.09412) mixes the images of a step.

use crate::rng::{Draws, stream};

/// Below this a beta distribution gives nothing but zeros and ones in f32, and logarithms divided by it would overflow.
const LEAST_ALPHA: f64 = 1e-9;

/// Returns the share, 0 to 1, of the first image of each pair in step number `step` of an epoch: a draw from Beta(alpha, alpha).
///
/// It is x / (x + y) for two gamma variates x and y of shape alpha, computed from their logarithms, so that small alphas, whose
/// variates are far below the smallest float, keep their distribution.
pub fn mixup_share(alpha: f64, seed: u64, epoch: u32, step: u32) -> f32 {
    let alpha = alpha.max(LEAST_ALPHA);
    let mut draws = Draws::new(seed, stream("mixup"), epoch, step);
    let (x, y) = (log_gamma(alpha, &mut draws), log_gamma(alpha, &mut draws));
    (1.0 / (1.0 + (y - x).exp())) as f32
}

/// The logarithm of a gamma variate with this shape and scale 1 (Marsaglia and Tsang, "A Simple Method for Generating Gamma
/// Variables", 2000), exact by rejection. A shape below 1 takes one that is larger by 1, times u^(1/shape).
fn log_gamma(shape: f64, draws: &mut Draws) -> f64 {
    if shape < 1.0 {
        return log_gamma(shape + 1.0, draws) + open(draws).ln() / shape;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = draws.normal();
        let v = (1.0 + c * x).powi(3);
        // Seldom more than one round: 95 of 100 draws are taken at shape 1, more above.
        if v > 0.0 && open(draws).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
            return d.ln() + v.ln();
        }
    }
}

/// Uniform within (0, 1), neither end included.
fn open(draws: &mut Draws) -> f64 {
    draws.uniform(0.0, 1.0) + 0.5 / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: u32 = 100_000;

    fn sample(alpha: f64) -> Vec<f64> {
        let mut shares: Vec<f64> = (0..COUNT).map(|step| f64::from(mixup_share(alpha, 7, 3, step))).collect();
        shares.sort_by(f64::total_cmp);
        shares
    }

    /// Quantiles by scipy 1.17's `beta.ppf(p, alpha, alpha)` at p = 0.01, 0.1, 0.25 and 0.4; the rest is their mirror image.
    #[test]
    fn shares_have_the_quantiles_and_moments_of_the_beta_distribution() {
        const PARTS: [f64; 4] = [0.01, 0.1, 0.25, 0.4];
        for (alpha, quantiles) in [
            (0.1, [8.8692807e-18, 8.86928e-8, 0.00084525553, 0.086398561]),
            (0.2, [2.4780562e-9, 0.00024776469, 0.023814719, 0.21634186]),
            (1.0, [0.01, 0.1, 0.25, 0.4]),
            (8.0, [0.22872588, 0.34152084, 0.41498947, 0.46786667]),
            (32.0, [0.35709347, 0.42010735, 0.45775519, 0.48410786]),
        ] {
            let shares = sample(alpha);
            let n = f64::from(COUNT);
            for (part, quantile) in PARTS.into_iter().zip(quantiles) {
                let tolerance = 4.0 * (part * (1.0 - part) / n).sqrt();
                let below = shares.partition_point(|s| *s <= quantile) as f64 / n;
                assert!((below - part).abs() < tolerance, "alpha {alpha}: {below} below the {part} quantile");
                // In f32, shares next to 1 are 1.
                if quantile > 1e-6 {
                    let above = (n - shares.partition_point(|s| *s < 1.0 - quantile) as f64) / n;
                    assert!(
                        (above - part).abs() < tolerance,
                        "alpha {alpha}: {above} above the {} quantile",
                        1.0 - part
                    );
                }
            }
            let mean = shares.iter().sum::<f64>() / n;
            let variance = shares.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n;
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!((mean - 0.5).abs() < 4.0 * (expected / n).sqrt(), "alpha {alpha}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.02, "alpha {alpha}: variance {variance}, not {expected}");
        }
    }

    #[test]
    fn a_share_depends_on_seed_epoch_and_step_alone() {
        let share = |seed, epoch, step| mixup_share(0.2, seed, epoch, step).to_bits();
        assert_eq!(share(1, 2, 3), share(1, 2, 3));
        let others = [share(2, 2, 3), share(1, 3, 3), share(1, 2, 4)];
        assert!(!others.contains(&share(1, 2, 3)));
    }

    #[test]
    fn any_alpha_gives_shares_from_zero_to_one() {
        for alpha in [f64::MIN_POSITIVE, 1e-12, 1e-3, 0.3, 1.0, 1e3, 1e15, 1e300, f64::MAX] {
            for step in 0..200 {
                let share = mixup_share(alpha, 5, 0, step);
                assert!((0.0..=1.0).contains(&share), "{alpha}, step {step}: {share}");
            }
        }
    }
}
