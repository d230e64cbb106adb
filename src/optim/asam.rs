//! Adaptive sharpness-aware minimization (Kwon et al. 2021, arXiv:2102.11600, algorithm 1, p = 2).
//!
//! e = rho T^2 g / |T g| is the ascent in a neighbourhood that scales with each weight: T = |w| + eta for parameters that are
//! called weights, those of batch-norms among them, and 1 for biases, as in the authors' code.

use super::Optimizer;
use super::sam::second_pass;
use crate::error::Result;
use crate::ops::call::Map;
use crate::ops::value::ParamKind;
use crate::params::Param;
use crate::step::{At, By, C, Expr, G, Space, Step, W};

pub struct Asam {
    pub nesterov: bool,
}

impl Optimizer for Asam {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let (rho, eta) = (s.slot("rho"), s.slot("eta"));
        let scaled =
            |p: &Param| matches!(p.kind, ParamKind::ConvWeight | ParamKind::LinearWeight | ParamKind::NormWeight);
        let (weights, rest) = (s.mask(scaled), s.mask(|p| !scaled(p)));
        let tg = s.vector("scaled_gradient", Space::Params);
        let all = s.groups(|s, group| {
            let a = s.pass(At::of(C), By::params(), group, G)?;
            let norm = s.norm(a.g);
            let g = a.g.mapped(Map::Identity);
            s.set(tg.on(weights), g.clone().times(W, Map::Abs) + eta * a.g)?;
            s.set(tg.on(rest), a.g)?;
            let scale = Expr::from(rho) / s.norm(tg);
            let climb = scale.clone() * tg.mapped(Map::Identity);
            s.set(C.on(weights), W + climb.clone().times(W, Map::Abs) + scale * eta * tg.mapped(Map::Identity))?;
            s.set(C.on(rest), W + climb)?;
            second_pass(s, group, &a, tg, norm)
        })?;
        s.finish(all.g, &all.stats, self.nesterov);
        Ok(())
    }
}
