//! Devices: what runs the calls of a program. The CPU is one; a GPU is one more implementation of [`Device`].

pub mod alloc;
pub mod cpu;
pub mod cuda;
pub mod room;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::call::{Call, Counters, Groups, Ingest, Kernel, Loc, Memory};
use room::Room;

/// A data set as it lies on the device: image bytes `[count, c, h, w]` as in the files, and one label byte an image.
pub struct DatasetBytes<'a> {
    pub images: &'a [u8],
    pub labels: &'a [u8],
    /// Bytes of one image: c * h * w.
    pub image_len: usize,
}

impl DatasetBytes<'_> {
    /// Counts images and classes, checking that images and labels agree.
    ///
    /// # Errors
    /// Internal: the bytes are not those of as many images as there are labels.
    pub fn extent(&self) -> Result<Extent> {
        let (count, image_len) = (self.labels.len(), self.image_len);
        if self.images.len() != count * image_len {
            return Err(Error::internal(format!("{} bytes of images for {count} labels", self.images.len())));
        }
        let classes = self.labels.iter().max().map_or(0, |l| usize::from(*l) + 1);
        Ok(Extent { count, image_len, classes, visited: 0 })
    }
}

/// Extent of a data set on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub count: usize,
    pub image_len: usize,
    /// The largest label plus 1.
    pub classes: usize,
    /// Positions of the order in which it is visited.
    pub visited: usize,
}

impl Extent {
    /// Checks that an order names existing images.
    ///
    /// # Errors
    /// Internal: it does not.
    pub fn check_order(&self, order: &[u32]) -> Result<()> {
        let count = self.count;
        match order.iter().find(|i| **i as usize >= count) {
            Some(index) => Err(Error::internal(format!("the order names image {index} of {count}"))),
            None => Ok(()),
        }
    }

    /// Returns true if ingest finds everything that it is about to read.
    pub fn fits(&self, spec: &Ingest, counters: &Counters) -> bool {
        let end = counters.first as usize + counters.rows as usize;
        let same_images = self.image_len == spec.h * spec.w * spec.c && self.classes <= spec.classes;
        same_images && counters.rows > 0 && end <= self.visited
    }
}

/// The sizes of all that a device keeps for a set of programs, fixed before the first call runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Elements of the arena that all plans share.
    pub arena: usize,
    /// Elements of each vector.
    pub vectors: Vec<usize>,
    /// Number of scalar slots.
    pub scalars: usize,
}

impl Layout {
    /// Bytes of device memory, data sets not included.
    pub fn bytes(&self) -> usize {
        4 * (self.arena + self.vectors.iter().sum::<usize>() + self.scalars)
    }
}

/// One run of a recorded program.
pub struct Run<'a> {
    /// Number of the program: the same calls and reports each time.
    pub program: usize,
    pub calls: &'a [Call],
    /// Scalars that `collect` gives back.
    pub reports: &'a [Loc],
    pub counters: &'a Counters,
    /// Scalar slots that are set before the calls run.
    pub slots: &'a [(usize, f32)],
}

/// Runs calls. All memory is allocated in `allocate`; `run` neither allocates nor waits for the host.
pub trait Device {
    /// Name for logs and `info`: "cpu (AVX-512, 2 threads)".
    fn describe(&self) -> String;
    /// Names everything that the bits of results depend on: "avx512", "sm_90a bf16".
    fn instructions(&self) -> String;
    /// CPU threads that it computes on.
    fn threads(&self) -> usize {
        1
    }
    /// Does some milliseconds of multiply-adds in registers on all threads and returns their flops, so that they can be timed;
    /// None where there is no such measure.
    fn multiply_adds(&self) -> Option<u64> {
        None
    }
    /// Cells of scratch that `call` needs on this device.
    fn workspace(&self, call: &Call) -> usize;
    /// Returns true if this device runs `kernel` in its fused form; the planner asks before it fuses.
    fn fuses(&self, kernel: &Kernel) -> bool;
    /// Returns true if a convolution can add a second summand to its output.
    fn fuses_sums(&self) -> bool {
        false
    }
    /// Returns the groups of the sums over pixels that `kernel`, a convolution, writes beside its output; None where it writes
    /// none.
    fn groups(&self, kernel: &Kernel) -> Option<Groups>;
    /// Returns the dtype that convolutions and linear layers multiply in.
    fn dtype(&self) -> DType {
        DType::F32
    }
    /// Returns true if the device has memory of its own, apart from the host's.
    fn own_memory(&self) -> bool {
        false
    }
    /// The memory that may still be taken, and what limits it; None where that is not known.
    ///
    /// # Errors
    /// Those of the device.
    fn room(&self) -> Result<Option<Room>> {
        Ok(room::room())
    }
    /// Takes all memory of `layout`, zeroed. Called once.
    fn allocate(&mut self, layout: &Layout) -> Result<()>;
    /// Replaces data set number `id`.
    fn set_dataset(&mut self, id: u32, data: &DatasetBytes<'_>) -> Result<()>;
    /// Replaces the order in which data set `id` is visited.
    fn set_order(&mut self, id: u32, order: &[u32]) -> Result<()>;
    /// Copies values to the device.
    fn upload(&mut self, to: Loc, values: &[f32]) -> Result<()>;
    /// Copies values from the device; `to` has the length of `from`.
    fn download(&mut self, from: Loc, to: &mut [f32]) -> Result<()>;
    /// Runs the calls in order.
    fn run(&mut self, calls: &[Call], counters: &Counters) -> Result<()>;

    /// Times the call on the device, in seconds.
    ///
    /// # Errors
    /// Those of the device.
    fn time(&mut self, call: &Call, counters: &Counters) -> Result<f64> {
        let begun = std::time::Instant::now();
        self.run(std::slice::from_ref(call), counters)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Returns how many runs of a program of that many flops may be submitted before the oldest is collected.
    fn depth(&self, _flops: u64) -> usize {
        1
    }
    /// Starts a run, which may still be running when this returns. Every other request to the device waits for it.
    fn submit(&mut self, run: &Run<'_>) -> Result<()> {
        for &(slot, value) in run.slots {
            self.upload(Loc::new(Memory::Scalars, slot, 1), &[value])?;
        }
        self.run(run.calls, run.counters)
    }
    /// The reports of the oldest run that was submitted and not yet collected.
    fn collect(&mut self, reports: &[Loc], values: &mut [f32]) -> Result<()> {
        for (report, value) in reports.iter().zip(values.chunks_mut(1)) {
            self.download(*report, value)?;
        }
        Ok(())
    }
}
