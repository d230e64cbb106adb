//! Sharpness-aware minimization (Foret et al. 2021, arXiv:2010.01412, algorithm 1, p = 2).
//!
//! The gradient is taken at w + e, e = rho g / |g|, where the loss is about the largest within distance rho; the base
//! optimizer then descends from w with it. Weight decay acts at w alone and does not shape e.

use super::Optimizer;
use crate::error::Result;
use crate::step::{At, By, C, Expr, G, Step, W};

pub struct Sam {
    pub nesterov: bool,
}

impl Optimizer for Sam {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let rho = s.slot("rho");
        let a = s.pass(At::of(C), By::params(), s.all(), G)?;
        let norm = s.norm(a.g);
        s.set(C, W + rho * a.g / norm)?;
        // The same random draws, and statistics of its own that are dropped: the running ones move once a step.
        let b = s.pass(At::of(C), By::params(), s.all(), G)?;
        s.finish(b.g, &[a.stats], self.nesterov);
        s.report("loss", a.loss);
        s.report("hits", a.hits);
        s.report("grad_norm", norm);
        let gain = s.scalar(Expr::from(b.loss) - a.loss);
        s.report("sharpness_gain", gain);
        Ok(())
    }
}
