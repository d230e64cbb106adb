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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    pub nesterov: bool,
}

/// One line of the table of optimizers.
pub struct OptimizerRow {
    pub name: &'static str,
    pub about: &'static str,
    pub paper: &'static str,
    /// Gradients of the whole batch that one step takes: the unit of equal budgets.
    pub gradients: f64,
    /// Settings of its own, by name, beside those that all share (lr, momentum, ...).
    pub settings: &'static [&'static str],
    pub build: fn(&Options) -> Box<dyn Optimizer>,
}

/// Every optimizer by name.
pub const OPTIMIZERS: &[OptimizerRow] = &[
    OptimizerRow {
        name: "sgd",
        about: "stochastic gradient descent with momentum",
        paper: "Sutskever et al. 2013",
        gradients: 1.0,
        settings: &[],
        build: |options| Box::new(Sgd { nesterov: options.nesterov }),
    },
    OptimizerRow {
        name: "sam",
        about: "sharpness-aware minimization: the gradient at w + rho g/|g|",
        paper: "Foret et al. 2021, arXiv:2010.01412",
        gradients: 2.0,
        settings: &["rho", "m"],
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
