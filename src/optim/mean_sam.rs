//! SAM along a gradient that is set against, or mixed with, the mean of those before it.
//!
//! F-SAM (Li et al. 2024, arXiv:2403.12350): e = rho d / |d|, d = g - sigma m, what is random in g, and m the running mean of
//! gradients, which keeps lambda. VaSSO (Li and Giannakis 2023, arXiv:2309.15639): e along d = (1 - theta) m + theta g, which
//! is the new mean m as well. In both authors' codes m begins as the first step's g, which is perturbed along as in SAM.
//! Each group of the batch has a d of its own; m takes the mean of their gradients.

use super::Optimizer;
use super::sam::second_pass;
use crate::error::Result;
use crate::ops::call::Map;
use crate::step::{C, Expr, Space, Step, W};

/// Name of m among the vectors.
pub const MEAN: &str = "mean_gradient";

pub struct MeanSam {
    pub nesterov: bool,
    pub kind: Kind,
}

pub enum Kind {
    Friendly,
    VarianceSuppressed,
}

impl Optimizer for MeanSam {
    fn phases(&self) -> usize {
        2
    }
    fn phase(&self, t: u64) -> usize {
        usize::from(t > 0)
    }
    fn record(&self, phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let rho = s.slot("rho");
        let one = || Expr::constant(1.0);
        // d = of_g g + of_m m, then m = keep m + (1 - keep) g.
        let (of_g, of_m, keep) = match (phase, &self.kind) {
            (0, _) => (one(), Expr::constant(0.0), Expr::constant(0.0)),
            (_, Kind::Friendly) => (one(), -Expr::from(s.slot("sigma")), s.slot("lambda").into()),
            (_, Kind::VarianceSuppressed) => {
                let theta = s.slot("theta");
                (theta.into(), one() - theta, one() - theta)
            }
        };
        let (m, d) = (s.vector(MEAN, Space::Params), s.vector("direction", Space::Params));
        let sum = s.vector("first_gradient", Space::Params);
        let all = s.groups(|s, group| {
            let a = s.first_pass(group, sum)?;
            let norm = s.norm(a.g);
            s.set(d, of_g.clone() * a.g.mapped(Map::Identity) + of_m.clone() * m.mapped(Map::Identity))?;
            let size = s.norm(d);
            s.set(C, W + rho * d / size)?;
            second_pass(s, group, &a, d, norm)
        })?;
        let share = Expr::constant(1.0 / s.group_count() as f32);
        s.finish(all.g, &all.stats, self.nesterov);
        s.remember(m, keep.clone(), (one() - keep) * share, sum)
    }
}
