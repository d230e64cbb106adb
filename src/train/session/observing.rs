//! Measurements of the model between the steps of its training.

use super::Session;
use crate::data::DataSet;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::recipe::{Recipe, TRACKED};
use crate::step::{RUNNING, W};

/// A run as an observer sees it.
pub struct Scene<'a> {
    pub recipe: &'a Recipe,
    pub graph: &'a Graph,
    pub data: &'a DataSet,
    /// The images that it trains on, by their numbers in the training split.
    pub training: &'a [u32],
}

/// Measures the model of a run on a device of its own, so that training keeps its bits.
pub trait Observer {
    /// Measures the model at these weights and running statistics: names for the records, always the same, and values.
    ///
    /// # Errors
    /// Those of its device; they end the run.
    fn measure(&mut self, weights: &[f32], running: &[f32]) -> Result<Vec<(&'static str, f32)>>;
}

/// Checks the names of `--track`, and that the run measures anything at all where it is to.
///
/// # Errors
/// Usage: a name that there is not.
pub(super) fn check(recipe: &Recipe) -> Result<()> {
    let known = |name: &&String| !TRACKED.contains(&name.as_str());
    match recipe.track.iter().find(known) {
        Some(name) => Err(crate::error::unknown("--track", name, &TRACKED)),
        None => Ok(()),
    }
}

impl Session {
    /// Has the observer that `make` returns measure the model before step 1 and every `track_every` steps from there on.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn observe(&mut self, make: impl FnOnce(&Scene<'_>) -> Result<Box<dyn Observer>>) -> Result<()> {
        let Session { recipe, graph, data, train_order, .. } = self;
        self.observer = Some(make(&Scene { recipe, graph, data, training: train_order })?);
        Ok(())
    }

    /// Measures the model if the next step is one whose record has that.
    pub(super) fn observe_if_due(&mut self) -> Result<()> {
        let step = self.position.step;
        if self.recipe.track.is_empty() || !step.is_multiple_of(self.recipe.track_every as u64) {
            return Ok(());
        }
        let observer = self.observer.as_mut();
        let observer = observer.ok_or_else(|| Error::internal("a run that tracks has no observer"))?;
        let (weights, running) = (self.exec.download(W)?, self.exec.download(RUNNING)?);
        self.observed = observer.measure(&weights, &running)?;
        let values: Vec<String> = self.observed.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        let bound = self.recipe.edge() / f64::from(self.lr(step));
        let edge = if bound.is_finite() { format!("; stable below {bound:.2}") } else { String::new() };
        let edge = if self.observed.iter().any(|(name, _)| *name == "lambda_max") { edge } else { String::new() };
        self.progress.note(&format!("before step {}: {}{edge}", step + 1, values.join(", ")));
        Ok(())
    }

    /// Returns the step behind which the model is measured next; the last one there is where nothing is.
    pub(super) fn next_observed(&self) -> u64 {
        let every = self.recipe.track_every as u64;
        if self.recipe.track.is_empty() { u64::MAX } else { (self.position.step / every + 1) * every }
    }
}
