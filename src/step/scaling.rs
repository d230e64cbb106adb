//! Loss scaling for f16 (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2): the loss is multiplied by a
//! number, gradients are divided by it, and a step whose gradient overflows is skipped and halves it.
//!
//! All of it is scalars on the device: nothing waits for the host.

use super::{Expr, Scalar, Step, Vector};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::call::{Kernel, Map};

/// Slot of the number that the loss is multiplied by, a power of two.
pub const LOSS_SCALE: &str = "loss_scale";
/// Slot that counts the steps since it last changed.
pub const GOOD_STEPS: &str = "good_steps";
/// Slot that counts the steps skipped because of it.
pub const SKIPPED: &str = "skipped_steps";
/// Slot that is 1 from the moment on that a gradient of this step has overflowed.
pub(super) const OVERFLOW: &str = "overflow";

/// The scale of a run's first step, that of PyTorch's GradScaler.
pub const FIRST_LOSS_SCALE: f32 = 65536.0;
/// Steps without overflow before it is doubled, and the largest that it becomes.
const PATIENCE: f32 = 2000.0;
const LARGEST: f32 = 16_777_216.0;

impl Step<'_, '_> {
    /// Returns true if losses are scaled: f16's gradients vanish below 6e-8, those of other formats do not.
    pub(super) fn scales_loss(&self) -> bool {
        self.recorder.device.dtype() == DType::F16
    }

    /// Moves the scale for the next step. Returns the scalar that keeps this one from moving anything: a fault of the run,
    /// or an overflow.
    pub(super) fn rescale(&mut self, fault: Scalar) -> Scalar {
        let [scale, good, skipped, overflow] = [LOSS_SCALE, GOOD_STEPS, SKIPPED, OVERFLOW].map(|name| self.slot(name));
        let one = || Expr::constant(1.0);
        let halt = self.scalar(Expr::from(fault).max(overflow.into()));
        let ripe = self.scalar(Expr::from(good) + Expr::constant(2.0 - PATIENCE));
        let halved = (Expr::from(scale) * Expr::constant(0.5)).max(one());
        let doubled = (Expr::from(scale) * Expr::constant(2.0)).min(Expr::constant(LARGEST));
        let kept = doubled.select(scale.into(), ripe.into());
        self.assign(scale, halved.select(kept, overflow.into()));
        let counted = Expr::constant(0.0).select(Expr::from(good) + one(), ripe.into());
        self.assign(good, Expr::constant(0.0).select(counted, overflow.into()));
        self.assign(skipped, Expr::from(skipped) + Expr::from(overflow));
        self.assign(overflow, Expr::constant(0.0));
        halt
    }

    /// memory = keep * memory + take * v: what an optimizer remembers from step to step. To be recorded after `finish`. A
    /// step that moved nothing, because of a fault or an overflow in f16, leaves the memory as it was.
    ///
    /// # Errors
    /// If the vectors are laid out differently; internal: `finish` is not recorded yet.
    pub fn remember(&mut self, memory: Vector, keep: impl Into<Expr>, take: impl Into<Expr>, v: Vector) -> Result<()> {
        let halt = self.halt.ok_or_else(|| Error::internal("a step remembers before it has finished"))?;
        let keep = Expr::constant(1.0).select(keep.into(), halt.into());
        // Divided by 0 the term is left out: 0 times an infinity would not be 0.
        let take = take.into() / (Expr::constant(1.0) - halt);
        self.set(memory, keep * memory.mapped(Map::Identity) + take * v.mapped(Map::Identity))
    }

    /// Gives a slot that is there already the value of an expression.
    fn assign(&mut self, to: Scalar, expression: Expr) {
        let mut slots = Vec::new();
        let code = expression.code(&mut slots);
        let dropped = self.slot(super::DROPPED);
        let reads = slots.iter().map(|s| s.loc()).collect();
        self.emit("scalar", Kernel::Scalar(code), reads, vec![to.loc(), dropped.loc()]);
    }
}
