//! The memory that programs and data need, held against what there is before any of it is taken.

use super::engine::Programs;
use crate::data::DataSet;
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::exec::Recording;
use crate::ops::call::Memory;
use crate::recipe::Recipe;
use crate::step::{Division, Program};

/// Programs whose share of the memory grows with a number of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The flag that sets the number.
    pub flag: &'a str,
    pub images: usize,
    /// Bytes of the arena that they take.
    pub bytes: usize,
    /// Images of a pass, where `--accumulate` makes passes smaller than the batch.
    pub part: Option<usize>,
}

/// Memory that is needed: the programs of different batches share one arena, and all else is there for any batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need<'a> {
    pub fixed: usize,
    pub batches: Vec<Batch<'a>>,
}

/// Bytes of the arena that a program takes.
pub fn arena<'p>(programs: impl IntoIterator<Item = &'p Program>) -> usize {
    let calls = programs.into_iter().flat_map(|p| &p.calls);
    let locs = calls.flat_map(|call| call.reads.iter().chain(&call.writes).chain(&call.workspace));
    let ends = locs.filter(|loc| loc.memory == Memory::Arena).map(|loc| loc.offset + loc.cells());
    4 * ends.max().unwrap_or(0)
}

/// Checks that programs of one batch, whose images `flag` sets, fit into the device's memory; `data` bytes come on top.
///
/// # Errors
/// Unavailable: as for [`Need::check`].
pub fn check(device: &dyn Device, recording: &Recording, flag: &str, images: usize, data: usize) -> Result<()> {
    let layout = recording.layout();
    let batch = Batch { flag, images, bytes: 4 * layout.arena, part: None };
    Need { fixed: layout.bytes() - 4 * layout.arena + data, batches: vec![batch] }.check(device)
}

/// Checks that a run of `recipe` fits into the device's memory; `judged` images more are kept to judge labels by.
///
/// # Errors
/// Unavailable: as for [`Need::check`].
pub fn check_run(
    device: &dyn Device,
    recording: &Recording,
    programs: &Programs,
    recipe: &Recipe,
    data: &DataSet,
    judged: usize,
) -> Result<()> {
    let layout = recording.layout();
    let image = data.train.image_len() + 1 + 4;
    let data = (data.train.count + data.test.count + judged) * image;
    // A checkpoint is put together on the host: its vectors, their tensors, and the bytes that are hashed and written.
    let vectors = 1 + programs.remembered.optimizer.len() + usize::from(programs.remembered.average);
    let largest = layout.vectors.first().copied().unwrap_or(0);
    let checkpoint = if device.own_memory() { 0 } else { 4 * 4 * largest * vectors };
    let of = |n: usize| &recording.programs()[n];
    let evaluator = programs.evaluator.program.0;
    let steps = arena((0..recording.programs().len()).filter(|n| *n != evaluator && *n != programs.trial.0).map(of));
    let division = Division::of(recipe.batch, 0, recipe.accumulate)?;
    let batches = vec![
        Batch { flag: "--batch", images: recipe.batch, bytes: steps, part: Some(division.part) },
        Batch { flag: "--eval-batch", images: recipe.eval_batch, bytes: arena([of(evaluator)]), part: None },
    ];
    Need { fixed: layout.bytes() - 4 * layout.arena + data + checkpoint, batches }.check(device)
}

impl Need<'_> {
    /// Bytes in all.
    fn bytes(&self) -> usize {
        self.fixed + self.batches.iter().map(|b| b.bytes).max().unwrap_or(0)
    }

    /// Checks that all of it fits into the memory of `device`, or into what the machine has free for this process.
    ///
    /// # Errors
    /// Unavailable: the memory that is needed, what there is and which limit says so, and the batch that would fit.
    pub fn check(&self, device: &dyn Device) -> Result<()> {
        let Some(room) = device.room()? else { return Ok(()) };
        if self.bytes() <= room.bytes {
            return Ok(());
        }
        let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
        let message = format!(
            "{}: {:.2} GiB of memory are needed, {:.2} GiB are free {}; {}",
            device.describe(),
            gib(self.bytes()),
            gib(room.bytes),
            room.limit,
            self.advice(room.bytes)
        );
        Err(Error::new(Kind::Unavailable, message))
    }

    /// The batches that would fit into `free` bytes.
    fn advice(&self, free: usize) -> String {
        let left = free.saturating_sub(self.fixed);
        let none = format!("no batch would fit: {} MiB do not depend on it", self.fixed >> 20);
        let (mut ways, mut parts) = (vec![], None);
        for batch in self.batches.iter().filter(|b| b.bytes > left) {
            let fits = (left as u128 * batch.images as u128 / batch.bytes.max(1) as u128) as usize;
            match fits {
                0 => return none,
                1..8 => ways.push(format!("{} {fits}", batch.flag)),
                _ => ways.push(format!("{} {}", batch.flag, fits / 8 * 8)),
            }
            // Parts of a batch take less, but a gradient of their own.
            if let Some(part) = batch.part {
                let rows = (left as u128 * part as u128 / batch.bytes.max(1) as u128) as usize;
                let count = (2..=batch.images).find(|n| batch.images.is_multiple_of(*n) && batch.images / n < rows);
                parts = count.map(|n| format!("--accumulate {n}"));
            }
        }
        let ways = format!("about {} would fit", ways.join(" and "));
        parts.map_or(ways.clone(), |parts| format!("{ways}, or {parts} in place of a smaller --batch"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_batch_that_is_too_large_and_what_would_fit() {
        let batch = |bytes| Batch { flag: "--batch", images: 128, bytes, part: Some(128) };
        let evaluation = |bytes| Batch { flag: "--eval-batch", images: 512, bytes, part: None };
        for (free, batches, says) in [
            (1100, vec![batch(2000), evaluation(900)], "about --batch 64 would fit, or --accumulate 4 in place"),
            (1100, vec![batch(900), evaluation(2000)], "about --eval-batch 256 would fit"),
            (600, vec![batch(1000), evaluation(2000)], "about --batch 64 and --eval-batch 128 would fit"),
            (110, vec![batch(1000)], "about --batch 1 would fit"),
            (100, vec![batch(1000)], "no batch would fit: 0 MiB do not depend on it"),
        ] {
            let advice = Need { fixed: 100, batches }.advice(free);
            assert!(advice.starts_with(says), "{advice}");
            assert_eq!(advice.contains("--accumulate"), says.contains("--batch") && free > 110, "{advice}");
        }
    }
}
