//! Momentum-SAM (Becker et al. 2024, arXiv:2401.12033, algorithm 1).
//!
//! The one gradient of a step is taken at w - rho v / |v|, where v is the momentum: the direction in which the weights move
//! anyway replaces that of SAM's first gradient, with the sign of the paper and of the authors' code. Batch-norm's running
//! statistics are those of the perturbed pass, because there is no other.

use super::Optimizer;
use crate::error::Result;
use crate::ops::call::Map;
use crate::step::{At, By, C, Expr, G, M, Step, W};

pub struct Msam {
    pub nesterov: bool,
}

/// Least |v| that is divided by, so that v = 0 before the first step perturbs nothing.
const LEAST: f32 = 1e-30;

impl Optimizer for Msam {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let (rho, size) = (s.slot("rho"), s.norm(M));
        let back = -Expr::from(rho) / Expr::from(size).max(Expr::constant(LEAST));
        // A GPU gives a norm of 0 for a v that is tiny, and no multiple of that v is wanted.
        let back = back.select(Expr::constant(0.0), size.into());
        s.set(C, W + back * M.mapped(Map::Identity))?;
        let rounded = s.rounded_perturbation(M);
        let pass = s.pass(At::of(C), By::params(), s.all(), G)?;
        let norm = s.finish(pass.g, &[pass.stats], self.nesterov);
        s.report("loss", pass.loss);
        s.report("hits", pass.hits);
        s.report("grad_norm", norm);
        if let Some([size, cosine]) = rounded {
            s.report("perturbation_norm", size);
            s.report("perturbation_cosine", cosine);
        }
        Ok(())
    }
}
