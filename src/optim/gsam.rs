//! Surrogate gap guided SAM (Zhuang et al. 2022, arXiv:2203.08065, algorithm 1).
//!
//! With g the gradient at w and gs that at w + rho g / |g|, the step descends with gs - alpha g', where
//! g' = g - (g.gs / gs.gs) gs is the part of g orthogonal to gs. To first order this leaves the perturbed loss as it is and
//! lowers the gap between it and the loss. rho falls with the learning rate, from rho at its peak to rho-min at 0.

use super::Optimizer;
use super::sam::second_pass;
use crate::error::Result;
use crate::ops::call::Map;
use crate::step::{At, By, C, Expr, Space, Step, W};

pub struct Gsam {
    pub nesterov: bool,
}

impl Optimizer for Gsam {
    fn radius(&self, [rho_min, rho]: [f64; 2], share: f64) -> f64 {
        rho_min + (rho - rho_min) * share
    }
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let (rho, alpha) = (s.slot("rho"), s.slot("alpha"));
        let first = s.vector("first_gradient", Space::Params);
        let all = s.groups(|s, group| {
            let a = s.pass(At::of(C), By::params(), group, first)?;
            let norm = s.norm(a.g);
            s.set(C, W + rho * a.g / norm)?;
            let share = second_pass(s, group, &a, a.g, norm)?;
            let gs = share.g;
            // Where g = gs, as with rho 0, the quotient is exactly 1 and the rest exactly 0.
            let along = Expr::from(s.dot(a.g, gs)) / s.dot(gs, gs);
            s.set(first, a.g + -along * gs.mapped(Map::Identity))?;
            s.set(gs, gs + -Expr::from(alpha) * first.mapped(Map::Identity))?;
            Ok(share)
        })?;
        s.finish(all.g, &all.stats, self.nesterov);
        Ok(())
    }
}
