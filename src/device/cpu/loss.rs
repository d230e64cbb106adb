//! Cross-entropy with soft targets, its mean over the batch, and its gradient.
//!
//! Worked out in f64: a batch has a thousand logits or so, and an exact loss costs microseconds.

use super::Workers;
use super::split::split;
use crate::ops::Bootstrap;

/// Rows that make one job.
const ROWS: usize = 32;

/// Changes to the given targets: label smoothing and bootstrap.
#[derive(Clone, Copy)]
pub struct Targets {
    pub classes: usize,
    pub smoothing: f32,
    pub bootstrap: Bootstrap,
}

impl Targets {
    /// Beta of the smoothed target (Szegedy et al., "Rethinking the Inception Architecture", 2016): (1 - s) t + s / classes;
    /// of class `class`, which gets the rest where it is the `predicted` one.
    fn target(&self, target: f32, class: usize, predicted: Option<usize>) -> f64 {
        let (s, beta) = (f64::from(self.smoothing), f64::from(self.bootstrap.beta()));
        let own = if predicted == Some(class) { 1.0 - beta } else { 0.0 };
        beta * ((1.0 - s) * f64::from(target) + s / self.classes as f64) + own
    }

    /// The class whose target is raised: the first largest logit, where predictions are mixed in as classes.
    fn predicted(&self, z: &[f32], largest: f64) -> Option<usize> {
        let hard = matches!(self.bootstrap, Bootstrap::Hard { .. });
        if hard { z.iter().position(|z| f64::from(*z) == largest) } else { None }
    }

    /// Weight of the softmax's entropy in the loss.
    fn entropy_weight(&self) -> f64 {
        if let Bootstrap::Soft { .. } = self.bootstrap { 1.0 - f64::from(self.bootstrap.beta()) } else { 0.0 }
    }
}

/// - sum q log q of a row's softmax q. A class of probability 0 adds nothing.
fn entropy(row: &[f32], largest: f64, log_sum: f64) -> f64 {
    let logs = row.iter().map(|z| f64::from(*z) - largest - log_sum);
    -logs.map(|log| if log == f64::NEG_INFINITY { 0.0 } else { log.exp() * log }).sum::<f64>()
}

/// The largest logit of a row and log(sum(exp(z - largest))).
fn shifted_log_sum(row: &[f32]) -> (f64, f64) {
    let largest = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let sum: f64 = row.iter().map(|z| (f64::from(*z) - f64::from(largest)).exp()).sum();
    (f64::from(largest), sum.ln())
}

/// Computes from logits and targets `[n, classes]` the losses `[n]`, sum over classes of smoothed target * -log(softmax), and
/// hits `[n]`, 1 where the first largest logit is at a largest target. A row with NaN is no hit.
pub fn cross_entropy(
    workers: &Workers,
    how: Targets,
    logits: &[f32],
    targets: &[f32],
    losses: &mut [f32],
    hits: &mut [f32],
) {
    let classes = how.classes;
    split(workers, [(losses, ROWS), (hits, ROWS)], |job, [losses, hits]| {
        for (i, (loss, hit)) in losses.iter_mut().zip(hits).enumerate() {
            let row = (job * ROWS + i) * classes..(job * ROWS + i + 1) * classes;
            let (z, t) = (&logits[row.clone()], &targets[row]);
            let (largest, log_sum) = shifted_log_sum(z);
            let predicted = how.predicted(z, largest);
            let mut sum = 0.0;
            for (class, (z, t)) in z.iter().zip(t).enumerate() {
                let t = how.target(*t, class, predicted);
                // A class without target adds nothing, even if its logit is minus infinity.
                if t != 0.0 {
                    sum += t * (log_sum - (f64::from(*z) - largest));
                }
            }
            let share = how.entropy_weight();
            if share > 0.0 {
                sum += share * entropy(z, largest, log_sum);
            }
            *loss = sum as f32;
            let first = z.iter().position(|z| f64::from(*z) == largest);
            let top = t.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            *hit = f32::from(log_sum.is_finite() && first.is_some_and(|k| t[k] == top));
        }
    });
}

/// Sum of weights and of weight * value. Rows of weight 0 do not count, whatever their value.
fn weighted_sum(weights: &[f32], values: &[f32]) -> f64 {
    let used = weights.iter().zip(values).filter(|(w, _)| **w != 0.0);
    used.map(|(w, v)| f64::from(*w) * f64::from(*v)).sum()
}

/// `out` = [sum(w loss) / sum(w), sum(w hit), sum(w)], zeros where sum(w) is 0; all operands `[n]`.
pub fn mean_loss(losses: &[f32], hits: &[f32], weights: &[f32], out: &mut [f32]) {
    let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
    let mean = if total == 0.0 { 0.0 } else { weighted_sum(weights, losses) / total };
    out.copy_from_slice(&[mean as f32, weighted_sum(weights, hits) as f32, total as f32]);
}

/// dlogits `[n, classes]` = weight / sum(weights) * (softmax(logits) * sum(smoothed targets) - smoothed targets), the
/// gradient of the mean loss; zeros where sum(weights) is 0. Where the loss has the entropy H of q = softmax in it, its
/// gradient - q (log q + H) comes in by its weight.
pub fn cross_entropy_backward(
    workers: &Workers,
    how: Targets,
    logits: &[f32],
    targets: &[f32],
    weights: &[f32],
    dlogits: &mut [f32],
) {
    let classes = how.classes;
    let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
    split(workers, [(dlogits, ROWS * classes)], |job, [dlogits]| {
        for (i, dlogits) in dlogits.chunks_exact_mut(classes).enumerate() {
            let row = job * ROWS + i;
            let share = if total == 0.0 { 0.0 } else { f64::from(weights[row]) / total };
            if share == 0.0 {
                dlogits.fill(0.0);
                continue;
            }
            let (z, t) = (&logits[row * classes..][..classes], &targets[row * classes..][..classes]);
            let (largest, log_sum) = shifted_log_sum(z);
            let predicted = how.predicted(z, largest);
            let target = |class: usize| how.target(t[class], class, predicted);
            let mass: f64 = (0..classes).map(target).sum();
            let own = how.entropy_weight();
            let entropy = if own > 0.0 { entropy(z, largest, log_sum) } else { 0.0 };
            for (class, (d, z)) in dlogits.iter_mut().zip(z).enumerate() {
                let log = f64::from(*z) - largest - log_sum;
                let softmax = log.exp();
                let mut by = softmax * mass - target(class);
                // A class of probability 0 has no part in the entropy.
                if own > 0.0 && softmax > 0.0 {
                    by -= own * softmax * (log + entropy);
                }
                *d = (share * by) as f32;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    /// Losses by -sum t log(exp z / sum exp z), without any shift.
    fn naive(classes: usize, smoothing: f64, z: &[f64], t: &[f64]) -> Vec<f64> {
        let rows = z.chunks(classes).zip(t.chunks(classes));
        rows.map(|(z, t)| {
            let sum: f64 = z.iter().map(|z| z.exp()).sum();
            let term =
                |(z, t): (&f64, &f64)| -((1.0 - smoothing) * t + smoothing / classes as f64) * (z.exp() / sum).ln();
            z.iter().zip(t).map(term).sum()
        })
        .collect()
    }

    fn plain(classes: usize, smoothing: f32) -> Targets {
        Targets { classes, smoothing, bootstrap: Bootstrap::None }
    }

    fn forward(classes: usize, smoothing: f32, z: &[f32], t: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let n = z.len() / classes;
        let both = same_for_all(|workers| {
            let (mut losses, mut hits) = (poisoned(n), poisoned(n));
            cross_entropy(workers, plain(classes, smoothing), z, t, &mut losses, &mut hits);
            [losses, hits].concat()
        });
        (both[..n].to_vec(), both[n..].to_vec())
    }

    fn backward(classes: usize, smoothing: f32, z: &[f32], t: &[f32], weights: &[f32]) -> Vec<f32> {
        same_for_all(|workers| {
            let mut dz = poisoned(z.len());
            cross_entropy_backward(workers, plain(classes, smoothing), z, t, weights, &mut dz);
            dz
        })
    }

    /// Soft targets that do not sum to 1, and weights of which some are 0.
    #[test]
    fn loss_is_its_formula_and_the_gradient_its_derivative() {
        for (n, classes) in [(1, 2), (5, 10), (70, 33)] {
            let z = normal(1, n * classes);
            let t: Vec<f32> = normal(2, n * classes).iter().map(|v| v.abs() / classes as f32).collect();
            let weights: Vec<f32> = (0..n).map(|i| [1.0, 0.5, 0.0][i % 3]).collect();
            for smoothing in [0.0, 0.1] {
                let what = format!("n {n}, classes {classes}, smoothing {smoothing}");
                let (z64, t64, s64) = (wide(&z), wide(&t), f64::from(smoothing));
                let (losses, hits) = forward(classes, smoothing, &z, &t);
                assert_close(&what, &losses, &naive(classes, s64, &z64, &t64), 1e-6);
                let total: f64 = wide(&weights).iter().sum();
                let mean = |z: &[f64]| -> f64 {
                    let losses = naive(classes, s64, z, &t64);
                    losses.iter().zip(&weights).map(|(l, w)| l * f64::from(*w)).sum::<f64>() / total
                };
                let mut out = [f32::NAN; 3];
                mean_loss(&losses, &hits, &weights, &mut out);
                let counted: f64 = hits.iter().zip(&weights).map(|(h, w)| f64::from(h * w)).sum();
                assert_close(&what, &out, &[mean(&z64), counted, total], 1e-6);
                let at: Vec<usize> = (0..z.len()).step_by(1 + z.len() / 200).collect();
                let dz = backward(classes, smoothing, &z, &t, &weights);
                let got: Vec<f32> = at.iter().map(|&i| dz[i]).collect();
                assert_close(&what, &got, &differences(&z64, &at, mean), 2e-6);
            }
        }
    }

    #[test]
    fn large_logits_neither_overflow_nor_lose_the_loss() {
        let z = [80.0, -80.0, 0.0, -80.0, 80.0, 79.0];
        let t = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let (losses, hits) = forward(3, 0.0, &z, &t);
        assert_close("losses", &losses, &[160.0, 1.0 + (1.0 + (-1f64).exp()).ln()], 1e-7);
        assert_eq!(hits, [0.0, 0.0]);
        let dz = backward(3, 0.0, &z, &t, &[1.0, 1.0]);
        let p = 1.0 / (1.0 + (-1f64).exp());
        assert_close("gradient", &dz, &[0.5, -0.5, 0.0, 0.0, 0.5 * p, -0.5 * p], 1e-7);
    }

    #[test]
    fn hits_take_the_first_largest_logit_and_never_a_nan() {
        let cases: [([f32; 3], [f32; 3], f32); 6] = [
            ([1.0, 3.0, 2.0], [0.0, 1.0, 0.0], 1.0),
            ([3.0, 3.0, 2.0], [0.0, 1.0, 0.0], 0.0),
            ([3.0, 3.0, 2.0], [1.0, 0.0, 0.0], 1.0),
            ([1.0, 3.0, 2.0], [0.2, 0.4, 0.4], 1.0),
            ([f32::NAN, 3.0, 2.0], [0.0, 1.0, 0.0], 0.0),
            ([f32::NAN; 3], [1.0, 0.0, 0.0], 0.0),
        ];
        for (z, t, hit) in cases {
            let (losses, hits) = forward(3, 0.0, &z, &t);
            assert_eq!(hits, [hit], "{z:?} {t:?}");
            assert_eq!(losses[0].is_nan(), z[0].is_nan());
        }
    }

    #[test]
    fn without_weight_there_is_neither_loss_nor_gradient() {
        let mut out = [f32::NAN; 3];
        mean_loss(&[2.0, f32::NAN], &[1.0, 1.0], &[0.0, 0.0], &mut out);
        assert_eq!(out, [0.0; 3]);
        mean_loss(&[2.0, f32::NAN], &[1.0, 1.0], &[1.0, 0.0], &mut out);
        assert_eq!(out, [2.0, 1.0, 1.0]);
        assert_eq!(backward(2, 0.0, &[1.0, 2.0, 3.0, 4.0], &[1.0; 4], &[0.0, 0.0]), [0.0; 4]);
    }
}
