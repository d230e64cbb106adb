//! Sharpness-aware minimization (Foret et al. 2021, arXiv:2010.01412, algorithm 1, p = 2).
//!
//! The gradient is taken at w + e, e = rho g / |g|, where the loss is about the largest within distance rho; the base
//! optimizer then descends from w with it. Weight decay acts at w alone and does not shape e. Of a batch in groups of m
//! (section 4.1 there) each has an e of its own, and the step descends with the mean of their gradients. Steps between
//! every k-th are the base optimizer's own.

use super::{Optimizer, Sgd, phase_of, share_of};
use crate::error::Result;
use crate::step::{At, By, C, Expr, G, Part, Pass, Scalar, Share, Step, Vector, W};

pub struct Sam {
    pub nesterov: bool,
    /// Steps from one that perturbs to the next.
    pub every: usize,
}

impl Optimizer for Sam {
    fn phases(&self) -> usize {
        self.every.min(2)
    }
    fn phase(&self, t: u64) -> usize {
        phase_of(t, self.every)
    }
    fn share(&self, phase: usize) -> f64 {
        share_of(phase, self.every)
    }
    fn record(&self, phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        if phase > 0 {
            return Sgd { nesterov: self.nesterov }.record(0, s);
        }
        let rho = s.slot("rho");
        let all = s.groups(|s, group| {
            let a = s.pass(At::of(C), By::params(), group, G)?;
            let norm = s.norm(a.g);
            s.set(C, W + rho * a.g / norm)?;
            second_pass(s, group, &a, a.g, norm)
        })?;
        s.finish(all.g, &all.stats, self.nesterov);
        Ok(())
    }
}

/// Records the gradient of `group` at the compute copy, which has been perturbed along `direction`, and its log entries:
/// `a` is the pass at the weights and `norm` its gradient's norm.
pub(super) fn second_pass(
    s: &mut Step<'_, '_>,
    group: Part,
    a: &Pass,
    direction: Vector,
    norm: Scalar,
) -> Result<Share> {
    let rounded = s.rounded_perturbation(direction);
    // Uses the same random draws. Its batch statistics are dropped: the running ones move by the first pass.
    let b = s.pass(At::of(C), By::params(), group, G)?;
    let gain = s.scalar(Expr::from(b.loss) - a.loss);
    let mut values = vec![("loss", a.loss), ("grad_norm", norm), ("sharpness_gain", gain)];
    if let Some([size, cosine]) = rounded {
        values.extend([("perturbation_norm", size), ("perturbation_cosine", cosine)]);
    }
    Ok(Share { g: b.g, stats: vec![a.stats], hits: a.hits, values })
}
