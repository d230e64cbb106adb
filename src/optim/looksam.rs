//! LookSAM (Liu et al. 2022, arXiv:2203.02714, algorithm 1).
//!
//! Every k-th step is SAM's, and remembers what its gradient gs has across the gradient g at w: gv = gs - (gs.g / g.g) g. The
//! steps between take g alone and descend with g + alpha |g| / |gv| gv.

use super::sam::second_pass;
use super::{Optimizer, phase_of, share_of};
use crate::error::Result;
use crate::ops::call::Map;
use crate::step::{At, By, C, Expr, G, Space, Step, W};

/// Name of gv among the vectors.
pub const ORTHOGONAL: &str = "orthogonal";

pub struct LookSam {
    pub nesterov: bool,
    /// Steps from one of SAM to the next.
    pub every: usize,
}

impl Optimizer for LookSam {
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
        let gv = s.vector(ORTHOGONAL, Space::Params);
        if phase > 0 {
            return self.between(s);
        }
        let rho = s.slot("rho");
        let sum = s.vector("first_gradient", Space::Params);
        let all = s.groups(|s, group| {
            let a = s.first_pass(group, sum)?;
            let norm = s.norm(a.g);
            s.set(C, W + rho * a.g / norm)?;
            second_pass(s, group, &a, a.g, norm)
        })?;
        // The sum of the groups' gradients has the direction of their mean, which is all that counts.
        let along = Expr::from(s.dot(all.g, sum)) / s.dot(sum, sum);
        s.set(gv, all.g + -along * sum.mapped(Map::Identity))?;
        s.finish(all.g, &all.stats, self.nesterov);
        Ok(())
    }
}

impl LookSam {
    /// A step that looks at nothing new.
    fn between(&self, s: &mut Step<'_, '_>) -> Result<()> {
        let (gv, alpha) = (s.vector(ORTHOGONAL, Space::Params), s.slot("alpha"));
        let pass = s.pass(At::of(C), By::params(), s.all(), G)?;
        let (norm, size) = (s.norm(pass.g), s.norm(gv));
        s.set(G, pass.g + Expr::from(alpha) * norm / size * gv.mapped(Map::Identity))?;
        s.finish(pass.g, &[pass.stats], self.nesterov);
        s.report("loss", pass.loss);
        s.report("hits", pass.hits);
        s.report("grad_norm", norm);
        Ok(())
    }
}
