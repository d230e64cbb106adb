//! Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407).

use super::engine::TRAIN;
use crate::error::Result;
use crate::exec::Exec;
use crate::ops::call::Counters;
use crate::step::{Division, ProgramId, Recorder};

/// The programs that average weights at the end of an epoch.
pub struct Swa {
    weights: ProgramId,
    both: ProgramId,
    statistics: ProgramId,
    rows: usize,
}

impl Swa {
    /// Records them, for statistics over batches of `rows` images.
    ///
    /// # Errors
    /// If the graph cannot be planned.
    pub fn record(recorder: &mut Recorder<'_>, rows: usize) -> Result<Swa> {
        let division = Division::whole(rows);
        Ok(Swa {
            weights: recorder.program("average", division, |step| step.average_weights())?,
            both: recorder.program("average", division, |step| step.average())?,
            statistics: recorder.program("statistics", division, |step| step.average_statistics())?,
            rows,
        })
    }

    /// Sets the average to the present weights and statistics.
    ///
    /// # Errors
    /// Those of the device.
    pub fn copy(&self, exec: &mut Exec) -> Result<()> {
        exec.set_slot("ema_keep", 0.0)?;
        exec.run(self.both, &Counters { dataset: TRAIN, rows: self.rows as u32, ..Counters::default() })
    }

    /// Takes the weights into the average as the last of `count`, all of equal weight, then computes the statistics of
    /// batch-norm that the average has: the mean over the whole batches of the first `images` in the present order.
    ///
    /// # Errors
    /// Those of the device.
    pub fn take(&self, exec: &mut Exec, count: u64, images: usize) -> Result<()> {
        let keep = |before: u64| before as f32 / (before + 1) as f32;
        let counters = |batch: usize| Counters {
            dataset: TRAIN,
            first: (batch * self.rows) as u32,
            rows: self.rows as u32,
            ..Counters::default()
        };
        exec.set_slot("ema_keep", keep(count - 1))?;
        exec.run(self.weights, &counters(0))?;
        for batch in 0..images / self.rows {
            exec.set_slot("ema_keep", keep(batch as u64))?;
            exec.run(self.statistics, &counters(batch))?;
        }
        Ok(())
    }
}
