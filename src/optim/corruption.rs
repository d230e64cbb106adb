//! Corruption-resistant training (Sun et al. 2021, arXiv:2006.05620).
//!
//! The gradient is taken at w + a, where a is the corruption of norm eps, in at most n places, that the gradient g at w finds
//! worst to first order: with v the n entries of g of largest magnitude, 0 elsewhere, a = eps v/|v| for p = 2 and
//! a = eps sign(v) for p = infinity. The base optimizer then descends from w with it. With p = 2 and all places this is SAM.

use super::sam::second_pass;
use super::{Corruption, Norm, Optimizer};
use crate::error::Result;
use crate::ops::call::Map;
use crate::step::{At, By, C, Expr, G, Space, Step, W};

pub struct CorruptionResistant {
    pub nesterov: bool,
    pub corruption: Corruption,
}

impl Optimizer for CorruptionResistant {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let Corruption { norm: p, n } = self.corruption;
        let eps = s.slot("corruption_eps");
        let all = s.groups(|s, group| {
            let a = s.pass(At::of(C), By::params(), group, G)?;
            let norm = s.norm(a.g);
            let worst = if n == 0 {
                a.g
            } else {
                let places = s.vector("corruption", Space::Params);
                s.largest(places, a.g, n)
            };
            match p {
                Norm::Two => {
                    let size = s.norm(worst);
                    s.set(C, W + eps * worst / size)?;
                }
                Norm::Infinity => s.set(C, W + Expr::from(eps) * worst.mapped(Map::Sign))?,
            }
            second_pass(s, group, &a, worst, norm)
        })?;
        s.finish(all.g, &all.stats, self.nesterov);
        Ok(())
    }
}
