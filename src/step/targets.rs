//! Passes against given targets in place of the labels.

use super::{At, By, Pass, Step, Vector};
use crate::error::Result;
use crate::ops::call::{Kernel, Loc};

impl Step<'_, '_> {
    /// Forward and backward as in [`Step::evaluate_gradient`], with the rows of `targets` (of [`super::Space::Targets`]) in
    /// place of the labels: the gradient of the cross-entropy with these probabilities goes into `into`.
    ///
    /// # Errors
    /// If the graph cannot be planned.
    pub fn evaluate_gradient_towards(&mut self, targets: Vector, at: At, by: By, into: Vector) -> Result<Pass> {
        let first = self.calls.len();
        let pass = self.evaluate_gradient(at, by, into)?;
        for call in &mut self.calls[first..] {
            if let Kernel::CrossEntropy { .. } | Kernel::CrossEntropyBackward { .. } = call.kernel {
                // Operands: logits, targets, and backward the rows' weights.
                call.reads[1] = Loc { memory: targets.memory(), offset: 0, ..call.reads[1] };
            }
        }
        Ok(pass)
    }
}
