//! Mistakes that implementations of SAM make, each as a switch: to see what they do to a run. The program has them only where it
//! is built with the feature `mistakes`.

use super::{Optimizer, OptimizerRow, Options, Sam};
use crate::error::{Error, Result, unknown};
use crate::ops::call::Map;
use crate::step::{At, By, C, Expr, G, M, Part, Scalar, Share, Space, Step, Vector, W};

/// Name of the setting's value without a mistake.
pub const NONE: &str = "none";

/// Every mistake by name, with what the step then does. Below, g is the gradient at w, gs that at w + e, and e = rho g/|g|.
pub const MISTAKES: [(&str, &str); 7] = [
    ("not-restored", "e is never taken back: the step descends with gs from w + e, and decays these weights"),
    ("perturbed-twice", "e is added twice and taken back once: the gradient at w + 2e, the descent from w + e"),
    ("rho-on-sum", "rho/|g| times the gradient of the summed loss: a radius of rho times the images of the batch"),
    ("momentum-first", "momentum collects g; of gs only the present one counts, with Nesterov's momentum"),
    ("stats-second", "batch-norm's running statistics move by the pass at w + e alone"),
    ("stats-both", "batch-norm's running statistics move by both passes"),
    ("stats-frozen", "batch-norm's running statistics stay at their initial values, mean 0 and variance 1"),
];

/// Returns `optimizer`, of `row`, with the mistake of that name.
///
/// # Errors
/// Usage: there is no such mistake, or it is another optimizer than SAM.
pub fn applied(
    mistake: &str,
    row: &OptimizerRow,
    optimizer: Box<dyn Optimizer>,
    options: &Options,
) -> Result<Box<dyn Optimizer>> {
    if mistake == NONE {
        return Ok(optimizer);
    }
    let names = MISTAKES.map(|(name, _)| name);
    let Some(name) = names.into_iter().find(|name| *name == mistake) else {
        return Err(unknown("mistake", mistake, &names));
    };
    if row.name != "sam" {
        return Err(Error::usage(format!("--mistake {name} is one of SAM's steps; --opt {} has none", row.name)));
    }
    let correct = Sam { nesterov: options.nesterov, every: options.every };
    Ok(Box::new(Mistaken { correct, mistake: name }))
}

/// SAM with a mistake in the steps that perturb.
struct Mistaken {
    correct: Sam,
    mistake: &'static str,
}

impl Optimizer for Mistaken {
    fn phases(&self) -> usize {
        self.correct.phases()
    }
    fn phase(&self, t: u64) -> usize {
        self.correct.phase(t)
    }
    fn share(&self, phase: usize) -> f64 {
        self.correct.share(phase)
    }
    fn record(&self, phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        if phase > 0 {
            return self.correct.record(phase, s);
        }
        let first = s.vector("first_gradient", Space::Params);
        let all = s.groups(|s, group| {
            let a = s.first_pass(group, first)?;
            let norm = s.norm(a.g);
            self.perturb(s, a.g, norm, group)?;
            let b = s.pass(At::of(C), By::params(), group, G)?;
            let gain = s.scalar(Expr::from(b.loss) - a.loss);
            let stats = match self.mistake {
                "stats-second" => vec![b.stats],
                "stats-both" => vec![a.stats, b.stats],
                "stats-frozen" => vec![],
                _ => vec![a.stats],
            };
            let values = vec![("loss", a.loss), ("grad_norm", norm), ("sharpness_gain", gain)];
            Ok(Share { g: b.g, stats, hits: a.hits, values })
        })?;
        if self.mistake == "momentum-first" {
            // `finish` adds gs to b M, and b (M + (g - gs)/b) + gs is b M + g. Without momentum nothing is added.
            let share = Expr::constant(1.0) / s.slot("momentum");
            let mean = share.clone() * Expr::constant(1.0 / s.group_count() as f32);
            s.set(M, M + mean * first.mapped(Map::Identity) + -share * all.g.mapped(Map::Identity))?;
        }
        s.finish(all.g, &all.stats, self.correct.nesterov);
        Ok(())
    }
}

impl Mistaken {
    /// Records the perturbation along the gradient `g` of `group`, whose norm is `norm`.
    fn perturb(&self, s: &mut Step<'_, '_>, g: Vector, norm: Scalar, group: Part) -> Result<()> {
        let rho = s.slot("rho");
        match self.mistake {
            "not-restored" => {
                s.set(W, W + rho * g / norm)?;
                s.set(C, W)
            }
            "perturbed-twice" => {
                s.set(W, W + rho * g / norm)?;
                s.set(C, W + rho * g / norm)
            }
            "rho-on-sum" => {
                let images = Expr::constant(group.rows as f32);
                s.set(C, W + images * rho / norm * g.mapped(Map::Identity))
            }
            _ => s.set(C, W + rho * g / norm),
        }
    }
}
