//! Program, counters and slots of each step of a run, as functions of its number alone.

use super::Session;
use crate::data::augment::mixup_share;
use crate::error::Result;
use crate::ops::call::{Counters, MAX_GROUPS};
use crate::step::{MIXUP_SHARE, ProgramId, RATES};
use crate::train::engine::TRAIN;

impl Session {
    /// Program, counters and slots of step number `step`, counted from 0.
    pub(super) fn planned(&self, step: u64) -> (ProgramId, Counters, [(&'static str, f32); MAX_GROUPS + 3]) {
        let lr = self.lr(step);
        let rates = self.programs.groups.rates(lr);
        let radii = [self.recipe.rho_min, self.recipe.rho];
        let radius = self.programs.optimizer.radius(radii, f64::from(lr) / self.recipe.lr);
        let rho = radius * self.recipe.rho_share(step, self.total);
        // A young average forgets faster, or it would long remember the initial weights.
        let keep = self.recipe.ema.min((1 + step) as f64 / (10 + step) as f64);
        let batch = self.recipe.batch as u32;
        let first = (step % self.per_epoch) as u32 * batch;
        let epoch = (step / self.per_epoch) as u32;
        let counters = Counters { seed: self.recipe.seed, epoch, dataset: TRAIN, first, rows: batch };
        let program = self.programs.steps[self.programs.optimizer.phase(step)];
        let share = match self.recipe.mixup {
            0.0 => 1.0,
            alpha => mixup_share(alpha, self.recipe.seed, epoch, (step % self.per_epoch) as u32),
        };
        let others = [("ema_keep", keep as f32), ("rho", rho as f32), (MIXUP_SHARE, share)];
        let rate = |i: usize| (RATES[i], rates[i]);
        let slots = std::array::from_fn(|i| if i < MAX_GROUPS { rate(i) } else { others[i - MAX_GROUPS] });
        (program, counters, slots)
    }

    /// The learning rate of step number `step`.
    pub(super) fn lr(&self, step: u64) -> f32 {
        let constant = self.recipe.swa > 0.0 && self.recipe.swa_lr > 0.0 && step >= self.recipe.swa_start(self.total);
        if constant { self.recipe.swa_lr as f32 } else { self.schedule.lr(step, self.total) }
    }

    /// Before the first average of a run that makes one, the weights as they are take its place.
    pub(super) fn keep_up(&mut self) -> Result<()> {
        match &self.programs.swa {
            Some(swa) if self.averaged() == 0 => swa.copy(&mut self.exec),
            _ => Ok(()),
        }
    }

    /// Returns the number of epochs that have ended since averaging began.
    pub(super) fn averaged(&self) -> u64 {
        let first = self.recipe.swa_start(self.total).div_ceil(self.per_epoch).max(1);
        (self.position.step / self.per_epoch + 1).saturating_sub(first)
    }

    /// Returns true if a step of that program reports how much its perturbation raises the loss.
    pub(super) fn looks(&self, program: ProgramId) -> bool {
        self.exec.program(program).reports.iter().any(|r| r.0 == "sharpness_gain")
    }

    /// Floating-point operations that are left to do: the steps, and the evaluations.
    pub fn flops_left(&self) -> f64 {
        let (step, image) = self.programs.flops(|id| self.exec.program(id).flops());
        let done = self.position.step.min(self.last_step);
        let evaluated = |steps: u64| self.recipe.evaluations(steps / self.per_epoch);
        let images = (self.data.test.count + self.val_order.len() + self.judged) as f64;
        let evaluations = (evaluated(self.last_step) - evaluated(done)) as f64;
        (self.last_step - done) as f64 * step + evaluations * images * image
    }
}
