//! Checkpoints of sound weights alone, and the end of a run that has none any more.

use super::Session;
use crate::error::{Error, Result};
use crate::exec::Culprit;
use crate::ops::call::Counters;
use crate::step::{C, EMA, EMA_RUNNING, ProgramId, W};
use crate::train::divergence::Divergence;
use crate::train::engine::{Evaluator, TEST};
use crate::train::outcome::{interrupted, not_finite};
use crate::train::signals;

impl Session {
    /// Writes `last`, after the records that lead to it, and returns whether it did: weights whose loss is not finite do
    /// not replace sound ones.
    pub(super) fn save(&mut self) -> Result<bool> {
        self.records.flush()?;
        let checkpoint = self.checkpoint()?;
        let replaces = self.folder.last().exists();
        if replaces && !(self.sound && checkpoint.vectors.are_finite() && self.trial()?) {
            let (step, kept) = (self.position.step, self.kept);
            self.progress
                .note(&format!("the loss after step {step} is not finite; the checkpoint of step {kept} stays"));
            return Ok(false);
        }
        checkpoint.write(&self.graph, &self.folder.last(), false)?;
        self.kept = self.position.step;
        Ok(true)
    }

    /// Returns whether the weights themselves have a finite loss on the first batch of test images.
    fn trial(&mut self) -> Result<bool> {
        let evaluator = Evaluator { program: self.programs.trial, rows: self.programs.evaluator.rows };
        let count = evaluator.rows.min(self.data.test.count);
        Ok(evaluator.run(&mut self.exec, TEST, count)?.loss.is_finite())
    }

    /// Saves and ends with an error if a signal has asked for that.
    pub(super) fn heed_signals(&mut self) -> Result<()> {
        let Some(signal) = signals::requested() else { return Ok(()) };
        self.save()?;
        Err(interrupted(signal, self.position.step, self.kept, self.total, self.folder.path()))
    }

    /// Names the first call of the step that made a value that is not finite.
    pub(super) fn fault(&mut self, program: ProgramId, counters: &Counters, slots: &[(&str, f32)]) -> Error {
        // The step left its perturbation in the compute copy; the second run must start where the first one did.
        let recast = self.exec.download(W).and_then(|w| self.exec.upload(C, &w));
        let reset = recast.and_then(|()| slots.iter().try_for_each(|(name, value)| self.exec.set_slot(name, *value)));
        let mut state = self.programs.remembered.optimizer.to_vec();
        state.extend([EMA, EMA_RUNNING]);
        let culprit = match reset.and_then(|()| self.exec.find_fault(program, counters, &state)) {
            Ok(Some(Culprit::Call(label))) => format!("first in the call '{label}'"),
            // Only `finish` moves what outlives a step.
            Ok(Some(Culprit::Before(vector))) => {
                format!("first in the call 'update' of step {}, in the vector '{vector}'", self.position.step)
            }
            Ok(None) => "in no call of a second run".to_owned(),
            Err(e) => format!("(looking for the call failed: {e})"),
        };
        self.diverged("loss or gradient", self.position.step + 1, culprit)
    }

    /// The end of a run whose test loss after the last step is not finite.
    pub(super) fn unsound(&mut self) -> Error {
        self.diverged("the loss on test images", self.position.step, "in the evaluation after it".to_owned())
    }

    /// Records that the run has diverged, and returns the error that says so.
    fn diverged(&mut self, what: &str, step: u64, culprit: String) -> Error {
        // The records that led there are worth keeping; a failure to keep them is not the error to report.
        let _ = self.records.flush();
        let divergence = Divergence { step, total: self.total, culprit };
        let _ = divergence.write(self.folder.path());
        not_finite(what, &divergence, self.kept, &self.folder, self.recipe.lr)
    }
}
