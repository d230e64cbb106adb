//! The optimizers: each its paper's algorithm on half a page, and a table.

mod amo;
mod asam;
mod corruption;
mod gsam;
mod looksam;
mod mean_sam;
#[cfg(feature = "mistakes")]
pub mod mistakes;
mod msam;
mod sam;
mod sam_on;
pub mod schedule;
mod sgd;

pub use amo::{Amo, RobustAmo};
use asam::Asam;
pub use corruption::CorruptionResistant;
use gsam::Gsam;
use looksam::LookSam;
use mean_sam::MeanSam;
use msam::Msam;
pub use sam::Sam;
use sam_on::SamOn;
pub use sgd::Sgd;

use crate::error::{Result, unknown_or_not_built};
use crate::step::Step;

/// Records steps. An optimizer holds no values: learning rate, rho and the like are slots that are set before each step.
pub trait Optimizer {
    /// Returns the number of different steps; `phase` is below it.
    fn phases(&self) -> usize {
        1
    }
    /// Returns the phase of step `t` (from 0).
    fn phase(&self, _t: u64) -> usize {
        0
    }
    /// Returns the share of steps that have `phase`, in the long run.
    fn share(&self, phase: usize) -> f64 {
        // Other phases than the last are those of first steps.
        f64::from(u8::from(phase + 1 == self.phases()))
    }
    /// The radius of a step whose learning rate is the given share of its peak, for settings rho-min and rho.
    fn radius(&self, [_, rho]: [f64; 2], _share: f64) -> f64 {
        rho
    }
    /// Records the step of `phase`.
    ///
    /// # Errors
    /// If the graph cannot be planned.
    fn record(&self, phase: usize, step: &mut Step<'_, '_>) -> Result<()>;
}

/// Options that are fixed when a step is recorded, unlike the slots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    pub nesterov: bool,
    /// Steps from one that looks for a perturbation to the next.
    pub every: usize,
    /// Steps that a perturbation of the activations takes.
    pub inner_steps: usize,
    /// Steps that a perturbation of the input takes.
    pub pgd_steps: usize,
    pub corruption: Corruption,
}

impl Default for Options {
    fn default() -> Options {
        Options { nesterov: true, every: 1, inner_steps: 1, pgd_steps: 7, corruption: Corruption::default() }
    }
}

/// The set that corruptions of the parameters come from (Sun et al. 2020): of a norm, in at most `n` places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Corruption {
    pub norm: Norm,
    /// Most parameters that are changed; 0 is all.
    pub n: usize,
}

/// Norm of a corruption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Norm {
    /// Euclidean: p = 2.
    #[default]
    Two,
    /// The largest change: p = infinity.
    Infinity,
}

impl Norm {
    pub const ALL: [Norm; 2] = [Norm::Two, Norm::Infinity];
    /// Names as flags and config.toml have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 2] = ["2", "inf"];
}

/// One line of the table of optimizers.
pub struct OptimizerRow {
    pub name: &'static str,
    pub about: &'static str,
    pub paper: &'static str,
    /// Gradients of the whole batch that one step takes, on average: the unit of equal budgets.
    pub gradients: fn(&Options) -> f64,
    /// Settings of its own, by name, beside those that all share (lr, momentum, ...).
    pub settings: &'static [&'static str],
    /// Values of settings that are better for it than the defaults, by the names of flags: `("rho", "1")`.
    pub recipe: &'static [(&'static str, &'static str)],
    /// Further such values that hold only where another of its settings has a certain value.
    pub variants: &'static [Variant],
    /// Vectors of parameters' layout that outlive a step, by name; checkpoints keep them.
    pub state: &'static [&'static str],
    /// True if it perturbs activations, so that the model must mark them.
    pub taps: bool,
    pub build: fn(&Options) -> Box<dyn Optimizer>,
}

/// Defaults of an optimizer's settings where `setting` has `value`.
pub struct Variant {
    pub setting: &'static str,
    pub value: &'static str,
    pub recipe: &'static [(&'static str, &'static str)],
}

/// Every optimizer by name.
pub const OPTIMIZERS: &[OptimizerRow] = &[
    OptimizerRow {
        name: "sgd",
        about: "stochastic gradient descent with momentum",
        paper: "Sutskever et al. 2013",
        gradients: |_| 1.0,
        settings: &[],
        recipe: &[],
        variants: &[],
        state: &["momentum"],
        taps: false,
        build: |options| Box::new(Sgd { nesterov: options.nesterov }),
    },
    OptimizerRow {
        name: "sam",
        about: "sharpness-aware minimization: the gradient at w + rho g/|g|",
        paper: "Foret et al. 2021, arXiv:2010.01412",
        gradients: periodic,
        settings: &["rho", "rho-warmup", "m", "every"],
        recipe: &[],
        variants: &[],
        state: &["momentum"],
        taps: false,
        build: |options| Box::new(Sam { nesterov: options.nesterov, every: options.every }),
    },
    OptimizerRow {
        name: "asam",
        about: "adaptive SAM: a neighbourhood that scales with each weight",
        paper: "Kwon et al. 2021, arXiv:2102.11600",
        gradients: |_| 2.0,
        settings: &["rho", "rho-warmup", "eta", "m"],
        // The defaults of the authors' code, which the paper has for CIFAR-10.
        recipe: &[("rho", "0.5"), ("eta", "0.01")],
        variants: &[],
        state: &["momentum"],
        taps: false,
        build: |options| Box::new(Asam { nesterov: options.nesterov }),
    },
    OptimizerRow {
        name: "sam-on",
        about: "SAM that perturbs normalization layers alone",
        paper: "Mueller et al. 2023, arXiv:2306.04226",
        // A third of the first pass are gradients of convolution weights, which are not taken.
        gradients: |_| 5.0 / 3.0,
        settings: &["rho", "rho-warmup", "m"],
        // Few parameters need a larger radius than all of them; a starting point, not the paper's.
        recipe: &[("rho", "0.5")],
        variants: &[],
        state: &["momentum"],
        taps: false,
        build: |options| Box::new(SamOn { nesterov: options.nesterov }),
    },
    OptimizerRow {
        name: "f-sam",
        about: "friendly SAM: the mean gradient is taken out of the perturbation",
        paper: "Li et al. 2024, arXiv:2403.12350",
        gradients: |_| 2.0,
        settings: &["rho", "rho-warmup", "sigma", "lambda", "m"],
        recipe: &[],
        variants: &[],
        state: &["momentum", mean_sam::MEAN],
        taps: false,
        build: |options| Box::new(MeanSam { nesterov: options.nesterov, kind: mean_sam::Kind::Friendly }),
    },
    OptimizerRow {
        name: "vasso",
        about: "variance-suppressed SAM: a perturbation along the mean gradient",
        paper: "Li and Giannakis 2023, arXiv:2309.15639",
        gradients: |_| 2.0,
        settings: &["rho", "rho-warmup", "theta", "m"],
        recipe: &[],
        variants: &[],
        state: &["momentum", mean_sam::MEAN],
        taps: false,
        build: |options| Box::new(MeanSam { nesterov: options.nesterov, kind: mean_sam::Kind::VarianceSuppressed }),
    },
    OptimizerRow {
        name: "msam",
        about: "momentum SAM: one gradient, at weights perturbed along the momentum",
        paper: "Becker et al. 2024, arXiv:2401.12033",
        gradients: |_| 1.0,
        settings: &["rho", "rho-warmup"],
        // The default of the authors' code. With 2, the best of the paper for wide residual networks, cnn learnt nothing.
        recipe: &[("rho", "0.3")],
        variants: &[],
        state: &["momentum"],
        taps: false,
        build: |options| Box::new(Msam { nesterov: options.nesterov }),
    },
    OptimizerRow {
        name: "gsam",
        about: "surrogate gap guided SAM: descends on the gap to the perturbed loss too",
        paper: "Zhuang et al. 2022, arXiv:2203.08065",
        gradients: |_| 2.0,
        settings: &["rho", "rho-warmup", "rho-min", "alpha", "m"],
        recipe: &[],
        variants: &[],
        state: &["momentum"],
        taps: false,
        build: |options| Box::new(Gsam { nesterov: options.nesterov }),
    },
    OptimizerRow {
        name: "looksam",
        about: "SAM in every k-th step, whose orthogonal part serves those between",
        paper: "Liu et al. 2022, arXiv:2203.02714",
        gradients: periodic,
        settings: &["rho", "rho-warmup", "every", "alpha", "m"],
        // The defaults of public implementations.
        recipe: &[("every", "5"), ("alpha", "0.7")],
        variants: &[],
        state: &["momentum", looksam::ORTHOGONAL],
        taps: false,
        build: |options| Box::new(LookSam { nesterov: options.nesterov, every: options.every }),
    },
    OptimizerRow {
        name: "amo",
        about: "all-layer margins: the gradient where activations are perturbed",
        paper: "Wei & Ma 2020, arXiv:1910.04284",
        gradients: |options| options.inner_steps as f64 + 1.0,
        settings: &["inner-steps", "inner-lr", "inner-decay"],
        recipe: &[],
        variants: &[],
        state: &["momentum"],
        taps: true,
        build: |options| Box::new(Amo { nesterov: options.nesterov, inner_steps: options.inner_steps }),
    },
    OptimizerRow {
        name: "robust-amo",
        about: "the same within adversarial training: at images attacked by PGD",
        paper: "Wei & Ma 2020, arXiv:1910.04284",
        gradients: |options| (options.pgd_steps + options.inner_steps) as f64 + 1.0,
        settings: &["inner-steps", "inner-lr", "inner-decay", "pgd-steps", "pgd-eps", "pgd-lr"],
        recipe: &[],
        variants: &[],
        state: &["momentum"],
        taps: true,
        build: |options| {
            let Options { nesterov, inner_steps, pgd_steps, .. } = *options;
            Box::new(RobustAmo { nesterov, inner_steps, pgd_steps })
        },
    },
    OptimizerRow {
        name: "corruption",
        about: "corruption-resistant training: the gradient at the worst change of n weights",
        paper: "Sun et al. 2021, arXiv:2006.05620",
        gradients: |_| 2.0,
        settings: &["corruption-p", "corruption-eps", "corruption-n"],
        // With p = 2 in all places it would be SAM; the size is a starting point of ours.
        recipe: &[("corruption-p", "inf"), ("corruption-eps", "2e-4")],
        // With p = 2 the size is that of SAM's neighbourhood, of which this is the sparse case.
        variants: &[Variant { setting: "corruption-p", value: "2", recipe: &[("corruption-eps", "0.05")] }],
        state: &["momentum"],
        taps: false,
        build: |o| Box::new(CorruptionResistant { nesterov: o.nesterov, corruption: o.corruption }),
    },
];

/// A second gradient in every k-th step.
fn periodic(options: &Options) -> f64 {
    1.0 + 1.0 / options.every as f64
}

/// Phase of step `t` where every k-th step is of phase 0 and those between of phase 1.
fn phase_of(t: u64, every: usize) -> usize {
    usize::from(!t.is_multiple_of(every as u64))
}

/// Share of the steps of `phase` among them.
fn share_of(phase: usize, every: usize) -> f64 {
    let first = 1.0 / every as f64;
    if phase == 0 { first } else { 1.0 - first }
}

/// Optimizers that people look for and that are not built.
const NOT_BUILT: &[&str] = &[
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "esam",
    "gam",
    "kfac",
    "lamb",
    "lars",
    "lbfgs",
    "lion",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "saf",
    "shampoo",
    "soap",
    "sophia",
    "ssam",
    "wasam",
];

/// The optimizer named `name`.
///
/// # Errors
/// If there is none: the nearest name is suggested, or all are listed.
pub fn find(name: &str) -> Result<&'static OptimizerRow> {
    let names: Vec<&str> = OPTIMIZERS.iter().map(|o| o.name).collect();
    OPTIMIZERS.iter().find(|o| o.name == name).ok_or_else(|| unknown_or_not_built("optimizer", name, NOT_BUILT, &names))
}
