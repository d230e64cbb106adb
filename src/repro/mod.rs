//! The experiments of the papers, each as one command: `samcore repro NAME`.
//!
//! A [`Protocol`] is a row of [`PROTOCOLS`]: a grid of settings at two scales, and the published values beside which its
//! results are shown. A [`Plan`] makes ordinary runs of it, each in a folder of its own below that of the protocol; runs that
//! stand there already are kept. [`Results`] are read back from those folders alone.

pub mod figures;
pub mod measure;
pub mod plan;
pub mod report;
pub mod results;
pub mod run;
pub mod table;

pub use plan::{Arm, Plan};
pub use results::Results;
pub use run::run;
pub use table::PROTOCOLS;

use crate::error::Result;
use crate::optim::Norm;

/// Names of settings and their values, as flags have them.
pub type Settings = &'static [(&'static str, &'static str)];

/// An experiment of a paper.
pub struct Protocol {
    pub name: &'static str,
    /// One line for the list of protocols.
    pub about: &'static str,
    /// The paper, and the figure or table that it answers.
    pub answers: &'static str,
    /// Numbers of seeds by default, in the order of [`Scale::ALL`].
    pub seeds: [u64; 2],
    pub small: Grid,
    pub paper: Grid,
    /// Measurements of each trained model beside its accuracy.
    pub measured: Measured,
    /// True if the methods are values of one setting, among which accuracy on held-out images chooses.
    pub choice: bool,
    pub published: &'static [Published],
    /// Differences of the small scale from the paper.
    pub shrunk: &'static str,
    /// Sentences below the tables.
    pub notes: &'static [&'static str],
}

/// Every combination of a row, a column and a method is an arm, trained once for each seed.
pub struct Grid {
    /// Settings of all runs; of one setting the last counts, here and in what follows.
    pub shared: &'static [Settings],
    pub rows: &'static [Level],
    pub columns: &'static [Level],
    pub methods: &'static [Method],
}

/// A value along an axis of a grid: a network, an augmentation, a rate of noise.
pub struct Level {
    /// In tables and names of folders; empty where the axis has one value that needs no name.
    pub name: &'static str,
    /// Its name among the published values.
    pub stands_for: &'static str,
    pub settings: Settings,
}

/// A way of training that is compared with others.
pub struct Method {
    pub name: &'static str,
    pub settings: Settings,
    /// Multiple of the epochs of the settings: 2 for a method that takes one gradient a step beside one that takes two.
    pub epochs: usize,
    /// What it takes from another method's run in the same cell with the same seed.
    pub takes: Option<(Takes, &'static str)>,
    /// The method that its paired differences are to.
    pub against: Option<&'static str>,
    /// False for a run that only prepares others.
    pub shown: bool,
}

/// Part of an earlier run that a run begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Its predictions in place of the training labels.
    Labels,
    /// Its weights.
    Weights,
}

impl Takes {
    /// Returns the setting that names the earlier run's checkpoint.
    pub fn setting(self) -> &'static str {
        match self {
            Takes::Labels => "relabel",
            Takes::Weights => "init",
        }
    }
}

/// Measurements of a trained model, on its last checkpoint.
pub enum Measured {
    Nothing,
    /// Test accuracy under corrupted parameters (Sun et al. 2021).
    Corruption(Corruption),
    /// Test accuracy on attacked images (Madry et al. 2018).
    Attack(Attack),
}

/// Corruptions of parameters.
pub struct Corruption {
    /// Norms and sizes.
    pub sizes: &'static [(Norm, &'static [f64])],
    /// Largest numbers of parameters changed, as `samcore study corrupt --n` takes them.
    pub entries: &'static [&'static str],
    /// Random corruptions of each size.
    pub seeds: u64,
    /// Parts of a name that identify a layer; 0: layers are not corrupted by themselves.
    pub depth: usize,
    /// True if the whole model is corrupted too.
    pub whole: bool,
    /// Training images for the gradient, and test images measured.
    pub images: [usize; 2],
}

/// Attack by projected gradient descent, in units of pixel values from 0 to 1.
pub struct Attack {
    pub steps: usize,
    pub radius: f64,
    pub rate: f64,
    /// Test images measured.
    pub images: usize,
}

/// A published value.
pub struct Published {
    /// The row's, column's and method's names; those of levels are [`Level::stands_for`].
    pub row: &'static str,
    pub column: &'static str,
    pub method: &'static str,
    /// Name of a measure, as tables have it.
    pub measure: &'static str,
    /// As the source has it, accuracies in percent.
    pub value: &'static str,
    pub source: &'static str,
}

/// Size of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The paper's epochs on few images and small networks, for a CPU.
    Small,
    /// The paper's networks, images and epochs, for a GPU.
    Paper,
}

impl Scale {
    pub const ALL: [Scale; 2] = [Scale::Small, Scale::Paper];
    /// Names as --scale has them, in the order of `ALL`.
    pub const NAMES: [&'static str; 2] = ["small", "paper"];

    pub fn name(self) -> &'static str {
        Scale::NAMES[self as usize]
    }

    /// # Errors
    /// Usage: there is none of that name.
    pub fn of(name: &str) -> Result<Scale> {
        let found = Scale::ALL.into_iter().find(|scale| scale.name() == name);
        found.ok_or_else(|| crate::error::unknown("scale", name, &Scale::NAMES))
    }
}

impl Protocol {
    /// Returns its grid at a scale.
    pub fn grid(&'static self, scale: Scale) -> &'static Grid {
        match scale {
            Scale::Small => &self.small,
            Scale::Paper => &self.paper,
        }
    }
}

/// Returns the protocol of that name.
///
/// # Errors
/// Usage: there is none; the nearest name is suggested.
pub fn find(name: &str) -> Result<&'static Protocol> {
    let names: Vec<&str> = PROTOCOLS.iter().map(|p| p.name).collect();
    PROTOCOLS.iter().find(|p| p.name == name).ok_or_else(|| crate::error::unknown("protocol", name, &names))
}

#[cfg(test)]
mod tests;
