//! All-layer margin optimization (Wei & Ma 2020, arXiv:1910.04284, algorithm 1).
//!
//! Activations h behind the convolutions become h + |h| delta, each sample with a delta of its own that climbs the loss from 0
//! in t steps of rate eta and decay lambda: delta <- (1 - eta lambda) delta + eta grad. The base optimizer then descends with
//! the gradient by the weights at this delta, which it does not differentiate. Gradients are those of the batch's mean loss.
//!
//! The running statistics are those of the first pass, at delta = 0: of the network that is evaluated.
//!
//! Robust AMO is the same within adversarial training (Madry et al. 2018): first the images are attacked by projected gradient
//! descent in the largest norm, from the images themselves, and everything above is done at the attacked ones.

use super::Optimizer;
use crate::error::Result;
use crate::ops::call::Map;
use crate::step::{At, By, C, Expr, G, Pass, Space, Step, Sum, Vector};

pub struct Amo {
    pub nesterov: bool,
    /// Steps of the perturbation, at least 1.
    pub inner_steps: usize,
}

impl Optimizer for Amo {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        descend(s, At::of(C), self.inner_steps, self.nesterov)
    }
}

pub struct RobustAmo {
    pub nesterov: bool,
    pub inner_steps: usize,
    /// Steps of the attack, at least 1.
    pub pgd_steps: usize,
}

impl Optimizer for RobustAmo {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let (delta, gradient) = (s.vector("attack", Space::Input), s.vector("attack_gradient", Space::Input));
        let (radius, rate) = (s.slot("pgd_eps"), s.slot("pgd_lr"));
        let attacked = At::of(C).input(delta);
        s.set(delta, Sum::zero())?;
        for i in 0..self.pgd_steps {
            // The first step starts at the images themselves.
            let at = if i == 0 { At::of(C) } else { attacked };
            let p = s.pass(at, By::input(), s.all(), gradient)?;
            s.attack(delta, p.g, radius, rate)?;
        }
        descend(s, attacked, self.inner_steps, self.nesterov)
    }
}

/// One step at `at`: the perturbation, then the descent.
fn descend(s: &mut Step<'_, '_>, at: At, inner_steps: usize, nesterov: bool) -> Result<()> {
    let (first, delta) = perturb(s, at, inner_steps)?;
    let p = s.pass(at.taps(delta), By::params(), s.all(), G)?;
    let gain = s.scalar(Expr::from(p.loss) - first.loss);
    let norm = s.finish(p.g, &[first.stats], nesterov);
    for (name, scalar) in [("loss", first.loss), ("grad_norm", norm), ("sharpness_gain", gain), ("hits", first.hits)] {
        s.report(name, scalar);
    }
    Ok(())
}

/// Climbs the loss at `at` in the taps' perturbation, from 0; returns the first pass and the perturbation reached.
fn perturb(s: &mut Step<'_, '_>, at: At, steps: usize) -> Result<(Pass, Vector)> {
    let (delta, gradient) = (s.vector("delta", Space::Taps), s.vector("delta_gradient", Space::Taps));
    let (eta, decay) = (s.slot("inner_lr"), s.slot("inner_decay"));
    // At 0 nothing is perturbed, and the step away from there leaves nothing of what the last batch left.
    let first = s.pass(at, By::taps(), s.all(), gradient)?;
    s.set(delta, eta * first.g)?;
    for _ in 1..steps {
        let p = s.pass(at.taps(delta), By::taps(), s.all(), gradient)?;
        let keep = Expr::constant(1.0) - Expr::from(eta) * decay;
        s.set(delta, keep * delta.mapped(Map::Identity) + eta * p.g)?;
    }
    Ok((first, delta))
}
