//! The optimizers: each its paper's algorithm on half a page, and a table.

mod sam;
pub mod schedule;
mod sgd;

pub use sam::Sam;
pub use sgd::Sgd;

use crate::error::{Result, unknown};
use crate::step::Step;

/// Records steps. An optimizer holds no values: learning rate, rho and the like are slots that are set before each step.
pub trait Optimizer {
    /// How many different steps there are; `phase` is below this.
    fn phases(&self) -> usize {
        1
    }
    /// Which of them step `t` (from 0) is.
    fn phase(&self, _t: u64) -> usize {
        0
    }
    /// Records the step of `phase`.
    ///
    /// # Errors
    /// If the graph cannot be planned.
    fn record(&self, phase: usize, step: &mut Step<'_, '_>) -> Result<()>;
}

/// What is decided when a step is recorded, unlike the slots.
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

/// Which norm a corruption has.
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
    /// Vectors of parameters' layout that outlive a step, by name; checkpoints keep them.
    pub state: &'static [&'static str],
    /// Whether it perturbs activations, so that the model has to mark where.
    pub taps: bool,
    pub build: fn(&Options) -> Box<dyn Optimizer>,
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
        state: &["momentum"],
        taps: false,
        build: |options| Box::new(Sgd { nesterov: options.nesterov }),
    },
    OptimizerRow {
        name: "sam",
        about: "sharpness-aware minimization: the gradient at w + rho g/|g|",
        paper: "Foret et al. 2021, arXiv:2010.01412",
        gradients: |_| 2.0,
        settings: &["rho", "m"],
        recipe: &[],
        state: &["momentum"],
        taps: false,
        build: |options| Box::new(Sam { nesterov: options.nesterov }),
    },
];

/// The optimizer named `name`.
///
/// # Errors
/// If there is none; the nearest name is suggested.
pub fn find(name: &str) -> Result<&'static OptimizerRow> {
    let names: Vec<&str> = OPTIMIZERS.iter().map(|o| o.name).collect();
    OPTIMIZERS.iter().find(|o| o.name == name).ok_or_else(|| unknown("optimizer", name, &names))
}
