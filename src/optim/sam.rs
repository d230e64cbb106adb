//! Sharpness-aware minimization (Foret et al. 2021, arXiv:2010.01412, algorithm 1, p = 2).
//!
//! The gradient is taken at w + e, e = rho g / |g|, where the loss is about the largest within distance rho; the base
//! optimizer then descends from w with it. Weight decay acts at w alone and does not shape e. Of a batch in groups of m
//! (section 4.1 there) each has an e of its own, and the step descends with the mean of their gradients.

use super::Optimizer;
use crate::error::Result;
use crate::step::{At, By, C, Expr, G, Share, Step, W};

pub struct Sam {
    pub nesterov: bool,
}

impl Optimizer for Sam {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let rho = s.slot("rho");
        let all = s.groups(|s, group| {
            let a = s.pass(At::of(C), By::params(), group, G)?;
            let norm = s.norm(a.g);
            s.set(C, W + rho * a.g / norm)?;
            let rounded = s.rounded_perturbation(a.g);
            // The same random draws, and statistics of its own that are dropped: the running ones move by the first pass.
            let b = s.pass(At::of(C), By::params(), group, G)?;
            let gain = s.scalar(Expr::from(b.loss) - a.loss);
            let mut values = vec![("loss", a.loss), ("grad_norm", norm), ("sharpness_gain", gain)];
            if let Some([size, cosine]) = rounded {
                values.extend([("perturbation_norm", size), ("perturbation_cosine", cosine)]);
            }
            Ok(Share { g: b.g, stats: vec![a.stats], hits: a.hits, values })
        })?;
        s.finish(all.g, &all.stats, self.nesterov);
        Ok(())
    }
}
