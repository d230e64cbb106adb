//! Correctness: every operation against its spec in f64, every model's gradients, on any device.
//!
//! One function walks the table of operations. It compares forward and backward with the spec and the spec's gradient with
//! central differences of the spec, fills memory with NaN first, and asks for the same bits twice. `cargo test` and
//! `samcore check` share it.

mod cases;
mod differences;
mod graph_case;
mod model;
mod rig;

pub use cases::{check_case, check_row, ready, run_case};
pub use model::{ModelCheck, check_model};
pub use rig::{Ready, Rig};

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;

/// Makes a fresh device for a check.
pub type MakeDevice<'a> = &'a dyn Fn() -> Result<Box<dyn Device>>;

/// Relative L2 tolerances of a device against the f64 spec.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    pub forward: f64,
    pub backward: f64,
    /// Tolerance of a whole model's gradients.
    pub model: f64,
}

impl Tolerance {
    /// Returns the tolerances of a dtype. The spec is evaluated on the rounded inputs, so that the only error left in low
    /// precision is the rounding of results, and of values between the calls of a case.
    ///
    /// A whole model's gradients: in the last block of wide_resnet50_2 PyTorch's own float32 is off by 1.1e-4, with the
    /// branches of float64. A single flipped branch costs ten times as much.
    pub fn of(dtype: DType) -> Tolerance {
        let (forward, backward, model) = match dtype {
            DType::F32 => (1e-5, 1e-4, 3e-4),
            DType::Tf32 => (2e-3, 2e-3, 2e-2),
            DType::F16 => (2e-3, 2e-3, 2e-2),
            DType::Bf16 => (1e-2, 2e-2, 1.5e-1),
        };
        Tolerance { forward, backward, model }
    }
}

/// Tolerance of the spec's own gradient against central differences of the spec, both in f64.
pub const DIFFERENCE: f64 = 1e-6;
/// Factor of the componentwise bound |error| <= c eps sqrt(K) spec(|inputs|), K being the terms of one sum: an L2 norm
/// hides a wrong border pixel, this does not.
pub const COMPONENT: f64 = 4.0;

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The compared value: "output", "gradient of conv.weight", "bits of a second run".
    pub what: String,
    /// The error found, as a share of what is allowed in `limit`'s unit.
    pub error: f64,
    pub limit: f64,
}

impl Finding {
    /// NaN never passes.
    pub fn passed(&self) -> bool {
        self.error <= self.limit
    }
}

/// Result of one case.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub label: String,
    pub findings: Vec<Finding>,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        !self.findings.is_empty() && self.findings.iter().all(Finding::passed)
    }
    /// The finding closest to its limit, or furthest beyond it.
    pub fn worst(&self) -> Option<&Finding> {
        let share = |f: &Finding| if f.error.is_nan() { f64::INFINITY } else { f.error / f.limit };
        self.findings.iter().max_by(|a, b| share(a).total_cmp(&share(b)))
    }
    fn add(&mut self, what: impl Into<String>, error: f64, limit: f64) {
        self.findings.push(Finding { what: what.into(), error, limit });
    }
    /// A statement that is true or false.
    fn holds(&mut self, what: impl Into<String>, holds: bool) {
        self.add(what, if holds { 0.0 } else { f64::INFINITY }, 0.0);
    }
    /// Relative L2 error of `got` against `expected`.
    fn compare(&mut self, what: impl Into<String>, got: &[f32], expected: &[f64], limit: f64) {
        self.add(what, relative_error(got, expected), limit);
    }
}

/// Output of a device for one case.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub values: Vec<Vec<f32>>,
    /// True if a second run on the same device wrote the same bits.
    pub repeats: bool,
    /// True if the calls wrote nothing but their outputs.
    pub stays_within: bool,
}

impl Default for Outcome {
    fn default() -> Outcome {
        Outcome { values: vec![], repeats: true, stays_within: true }
    }
}

impl Outcome {
    /// Adds what one run wrote; `second` is what the same run wrote once more.
    fn add(&mut self, first: Vec<Vec<f32>>, second: &[Vec<f32>]) {
        self.repeats &= same_bits(&first, second);
        self.values.extend(first);
    }
    /// Returns true if all values have the same bits; a NaN equals itself.
    pub fn same_bits(&self, other: &Outcome) -> bool {
        same_bits(&self.values, &other.values)
    }
}

fn same_bits(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    let bits = |values: &[Vec<f32>]| -> Vec<Vec<u32>> {
        values.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
    };
    bits(a) == bits(b)
}

/// |got - expected| / |expected| in the 2-norm; the absolute error where |expected| is 0; NaN for unequal lengths.
pub fn relative_error(got: &[f32], expected: &[f64]) -> f64 {
    let size = norm(expected.iter().copied());
    difference(got, expected) / if size > 0.0 { size } else { 1.0 }
}

/// |got - expected| in the 2-norm; NaN for unequal lengths.
fn difference(got: &[f32], expected: &[f64]) -> f64 {
    if got.len() != expected.len() {
        return f64::NAN;
    }
    norm(got.iter().zip(expected).map(|(g, e)| f64::from(*g) - e))
}

/// 2-norm.
fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}
