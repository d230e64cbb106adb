//! Batch-norm's running statistics of weights that were never trained with.

use crate::data::Split;
use crate::device::Device;
use crate::error::Result;
use crate::exec::{Exec, Recording};
use crate::graph::Graph;
use crate::step::{EMA_RUNNING, RUNNING, Recorder, W};
use crate::train::engine::TRAIN;
use crate::train::memory;
use crate::train::swa::Swa;

/// Programs that estimate running statistics as training with `--swa` does.
pub struct Statistics {
    exec: Exec,
    swa: Swa,
}

impl Statistics {
    /// Records them for batches of `rows` images of `split`.
    ///
    /// # Errors
    /// If the model cannot be planned or the device has too little memory.
    pub fn new(graph: &Graph, device: Box<dyn Device>, rows: usize, split: &Split) -> Result<Statistics> {
        let mut recorder = Recorder::new(graph, &*device);
        let swa = Swa::record(&mut recorder, rows)?;
        let recording = Recording::of(recorder);
        memory::check(&*device, &recording, "--batch", rows, 0)?;
        let mut exec = Exec::new(device, recording)?;
        exec.set_dataset(TRAIN, &split.bytes())?;
        Ok(Statistics { exec, swa })
    }

    /// Returns the mean over the whole batches of `images` of the statistics that batches have at these weights; `running` are
    /// those of batch-norms that are frozen.
    ///
    /// # Errors
    /// Those of the device.
    pub fn estimate(&mut self, weights: &[f32], running: &[f32], images: &[u32]) -> Result<Vec<f32>> {
        self.exec.upload(W, weights)?;
        self.exec.upload(RUNNING, running)?;
        self.exec.set_order(TRAIN, images)?;
        self.swa.copy(&mut self.exec)?;
        self.swa.take(&mut self.exec, 1, images.len())?;
        let vector = self.exec.vector(EMA_RUNNING)?;
        self.exec.download_from(vector)
    }
}
