//! Averages of weights: the running one, and that of stochastic weight averaging.

use super::{At, Expr, FAULT, RUNNING, Space, Step, Vector, W};
use crate::error::Result;
use crate::ops::call::Map;

/// The running average of the weights, and that of batch-norm's running statistics.
pub const EMA: &str = "ema";
pub const EMA_RUNNING: &str = "ema_running";

impl Step<'_, '_> {
    /// Moves the averages [`EMA`] and [`EMA_RUNNING`] towards weights and running statistics: they keep the share in slot
    /// "ema_keep". To be recorded behind `finish`.
    ///
    /// # Errors
    /// None in practice: each pair is laid out alike.
    pub fn average(&mut self) -> Result<()> {
        self.average_weights()?;
        let running = self.vector(EMA_RUNNING, Space::Stats);
        self.keep_some(running, RUNNING)
    }

    /// Moves the average of the weights alone.
    ///
    /// # Errors
    /// As for `average`.
    pub fn average_weights(&mut self) -> Result<()> {
        let average = self.vector(EMA, Space::Params);
        self.keep_some(average, W)
    }

    /// Moves the statistics [`EMA_RUNNING`] towards those that a batch has at the averaged weights [`EMA`], without
    /// augmentation and dropout: they keep the share in slot "ema_keep". Batch-norms that are frozen have the run's.
    ///
    /// # Errors
    /// If the graph cannot be planned.
    pub fn average_statistics(&mut self) -> Result<()> {
        let (weights, running) = (self.vector(EMA, Space::Params), self.vector(EMA_RUNNING, Space::Stats));
        let (batch, fault) = (self.vector("batch_running", Space::Stats), self.slot(FAULT));
        let pass = self.evaluate(At::of(weights))?;
        self.set(batch, RUNNING)?;
        self.fold(pass.stats, fault, batch, Some(1.0));
        self.keep_some(running, batch)
    }

    fn keep_some(&mut self, average: Vector, new: Vector) -> Result<()> {
        let keep = self.slot("ema_keep");
        self.set(average, keep * average + (Expr::constant(1.0) - keep) * new.mapped(Map::Identity))
    }
}
