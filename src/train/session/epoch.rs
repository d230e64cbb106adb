//! Beginning and end of an epoch: the order of its images, its evaluation, its row in the records, and the best weights.

use super::Session;
use crate::error::Result;
use crate::optim;
use crate::rng::permutation;
use crate::train::curves::{self, Caption};
use crate::train::engine::{TEST, TRAIN};
use crate::train::records::{EpochRow, Scores};
use crate::train::stall;
use std::time::Instant;

impl Session {
    /// Sets this epoch's images, where it has its own, and their order; the sums of an epoch that was begun before stay.
    pub(super) fn begin_epoch(&mut self, epoch: u64) -> Result<()> {
        self.epoch_begun = Instant::now();
        if let Some(loader) = &mut self.loader {
            self.waited = loader.swap(&mut self.exec, epoch as u32)?;
        }
        self.order(epoch)
    }

    /// Has the training images read in the order of `epoch`, from 0.
    fn order(&mut self, epoch: u64) -> Result<()> {
        let order = permutation(self.recipe.seed, epoch as u32, self.train_order.len());
        let order: Vec<u32> = order.into_iter().map(|i| self.train_order[i as usize]).collect();
        self.exec.set_order(TRAIN, &order)
    }

    /// Evaluates, if that is due, records the epoch's row and keeps the best weights. Returns the scores on test images.
    pub(super) fn end_epoch(&mut self, epoch: u64) -> Result<Option<Scores>> {
        let trained = self.position.seconds + self.epoch_begun.elapsed().as_secs_f64();
        self.keep_up()?;
        let averages = self.programs.swa.is_some() && self.averaged() > 0;
        if averages && self.loader.is_some() {
            // The average's statistics are of the images as they are.
            self.exec.set_dataset(TRAIN, &self.data.train.bytes())?;
            self.order(epoch - 1)?;
        }
        if let (Some(swa), count @ 1..) = (&self.programs.swa, self.averaged()) {
            swa.take(&mut self.exec, count, self.train_order.len())?;
        }
        let due = self.recipe.evaluates(epoch);
        let validation = if due && !self.val_order.is_empty() {
            self.exec.set_order(TRAIN, &self.val_order)?;
            Some(self.evaluate(TRAIN, self.val_order.len())?)
        } else {
            None
        };
        self.noise = if due { self.judge_noise()? } else { None };
        let test = if due { Some(self.evaluate(TEST, self.data.test.count)?) } else { None };
        let (p, steps) = (self.position, self.per_epoch as f64);
        let images = steps * self.recipe.batch as f64;
        let looks = |step: &u64| self.looks(self.planned(*step).0);
        let looking = (p.step - self.per_epoch..p.step).filter(looks).count();
        let gain = p.gain_sum / looking as f64;
        let row = EpochRow {
            epoch: epoch as u32,
            step: p.step,
            train: Scores { loss: p.loss_sum / steps, accuracy: p.hits as f64 / images },
            loss_kind: self.recipe.loss_kind(),
            validation,
            test,
            noise: self.noise,
            lr: self.lr(p.step - 1),
            grad_norm: (p.norm_sum / steps) as f32,
            sharpness_gain: gain.is_finite().then_some(gain as f32),
            seconds: p.seconds + self.epoch_begun.elapsed().as_secs_f64(),
            waited: self.loader.as_ref().map(|_| self.waited),
            images_per_s: images / trained,
            extras: self.records.extras(),
        };
        self.records.epoch(&row)?;
        self.records.flush()?;
        // Weights that were not evaluated are tried before they are saved.
        self.sound = [test, validation].iter().flatten().all(|scores| scores.loss.is_finite());
        // The first epoch that is evaluated is the best so far even where it gets nothing right.
        let better = |accuracy: &f64| self.sound && (p.best_epoch == 0 || *accuracy > p.best_accuracy);
        let best = validation.or(test).map(|scores| scores.accuracy).filter(better);
        self.progress.epoch(&row, best.is_some());
        self.say_if_stalled(&row);
        let caption = Caption::of(&self.recipe, &self.data.name);
        curves::draw(&caption, &self.folder.metrics(), &self.folder.steps(), &self.folder.curves())?;
        self.position = p.next_epoch();
        if let Some(accuracy) = best {
            (self.position.best_accuracy, self.position.best_epoch) = (accuracy, epoch);
            let checkpoint = self.checkpoint()?;
            checkpoint.write(&self.graph, &self.folder.best(), true)?;
        }
        self.epoch_begun = Instant::now();
        Ok(test)
    }

    /// Says once that the run stands still, if the epoch of `row` lies behind warm-up and learned nothing.
    fn say_if_stalled(&mut self, row: &EpochRow) {
        let (recipe, classes) = (&self.recipe, self.data.classes);
        let rise = recipe.warmup.max(recipe.rho_warmup) * self.total as f64;
        let behind = (row.step - self.per_epoch) as f64 >= rise;
        let images = (self.per_epoch * recipe.batch as u64) as f64;
        let Scores { loss, accuracy } = row.train;
        if self.stalled || !behind || !stall::comparable(recipe) || !stall::at_chance(loss, accuracy, classes, images) {
            return;
        }
        self.stalled = true;
        if let Ok(optimizer) = optim::find(&recipe.opt) {
            let norm = f64::from(row.grad_norm);
            self.progress.note(&stall::line(recipe, optimizer, row.epoch.into(), [loss, accuracy], classes, norm));
        }
    }
}
