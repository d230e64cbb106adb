//! SAM on normalization layers alone (Mueller et al. 2023, arXiv:2306.04226, "SAM-ON").
//!
//! e = rho g / |g| over weights and biases of batch-norms, 0 elsewhere. The first pass needs no other gradient: without
//! those of convolution weights it costs about two thirds of a whole one.

use super::Optimizer;
use super::sam::second_pass;
use crate::error::{Error, Result};
use crate::ops::value::ParamKind;
use crate::step::{At, By, C, G, Step, W};

pub struct SamOn {
    pub nesterov: bool,
}

impl Optimizer for SamOn {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let rho = s.slot("rho");
        let norms = s.mask(|p| matches!(p.kind, ParamKind::NormWeight | ParamKind::NormBias));
        if s.is_empty(norms) {
            return Err(Error::usage("--opt sam-on perturbs batch-norms, and the model has none that are trained"));
        }
        let all = s.groups(|s, group| {
            let a = s.pass(At::of(C), By::masked(norms), group, G)?;
            let norm = s.norm(a.g);
            s.set(C.on(norms), W + rho * a.g / norm)?;
            second_pass(s, group, &a, a.g, norm)
        })?;
        s.finish(all.g, &all.stats, self.nesterov);
        Ok(())
    }
}
