//! The table of protocols.

mod amo;
mod corruption;
mod report;
mod sam;

use super::{Level, Method, Protocol, Settings, Takes};

/// Every protocol, in the order of `samcore repro list`.
pub static PROTOCOLS: &[Protocol] = &[
    sam::TABLE1,
    sam::RHO,
    sam::NOISE,
    sam::FINETUNE,
    amo::TABLE1,
    amo::ROBUST,
    corruption::TABLE1,
    corruption::LAYERS,
    corruption::TRAINING,
    report::CIFAR,
    report::FASHION,
];

/// Settings of runs of 200 epochs and more at small scale: 10,000 test images after each of 400 epochs would cost more than
/// training on a few hundred.
const EVALUATION: Settings = &[("eval-every", "50")];
/// Settings of runs of 50 and 100 epochs at small scale: the report quotes accuracies after 10 epochs.
const EVALUATION_OF_SHORT_RUNS: Settings = &[("eval-every", "10")];

/// The SAM paper's recipe for CIFAR-10 (Foret et al. 2021, appendix C), but for what the rows have.
const CIFAR_200: Settings = &[
    ("data", "cifar-10"),
    ("epochs", "200"),
    ("lr", "0.1"),
    ("weight-decay", "5e-4"),
    ("schedule", "cosine"),
    ("warmup", "0"),
    ("augment", "basic"),
];

/// The steps of Zagoruyko and Komodakis, at the epochs that the AMO paper's code has them: 60, 120, 150 of 200.
const STEPS: Settings = &[("schedule", "step"), ("milestones", "0.3,0.6,0.75"), ("lr-decay", "0.2")];

const SGD: Settings = &[("opt", "sgd")];
const SAM: Settings = &[("opt", "sam")];

/// The one value of an axis that needs no name.
const ONLY: &[Level] = &[level("", "", &[])];

const fn level(name: &'static str, stands_for: &'static str, settings: Settings) -> Level {
    Level { name, stands_for, settings }
}

/// A method that takes as many epochs as the settings say, and that others are compared with.
const fn method(name: &'static str, settings: Settings) -> Method {
    Method { name, settings, epochs: 1, takes: None, against: None, shown: true }
}

impl Method {
    /// Returns the same with `times` as many epochs.
    const fn longer(self, times: usize) -> Method {
        Method { epochs: times, ..self }
    }
    /// Returns the same, compared with the method `other`.
    const fn against(self, other: &'static str) -> Method {
        Method { against: Some(other), ..self }
    }
    /// Returns the same, beginning with a part of the run of method `other`.
    const fn taking(self, what: Takes, other: &'static str) -> Method {
        Method { takes: Some((what, other)), ..self }
    }
    /// Returns the same, left out of tables.
    const fn hidden(self) -> Method {
        Method { shown: false, ..self }
    }
}
