//! Attacks on the images of a batch.

use super::{Scalar, Step, Vector};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::ops::call::{Kernel, Loc, Memory, Pixels};

impl Step<'_, '_> {
    /// One step of projected gradient descent: `delta` moves by `rate` in the sign of the gradient `g` by the images of the
    /// whole batch, stays within `radius` of 0, and images + delta stay within what pixels can be. Radius and rate are in units
    /// of pixel values from 0 to 1. To be recorded behind a pass.
    ///
    /// # Errors
    /// Internal: the graph reads no images, or no pass was recorded before.
    pub fn attack(&mut self, delta: Vector, g: Vector, radius: Scalar, rate: Scalar) -> Result<()> {
        let source = self.recorder.graph.source().ok_or_else(|| Error::internal("an attack on no images"))?;
        let pixels = Pixels { c: source.c, mean: source.mean, std: source.std };
        // The images as the passes of this step read them, once more and in f32: nothing else outlives a pass.
        let ingest = self.calls.iter().rev().find(|call| matches!(call.kernel, Kernel::Ingest(_)));
        let mut ingest = ingest.cloned().ok_or_else(|| Error::internal("an attack before any pass"))?;
        let mut end = 0;
        // Mixup has a workspace, which must not stay where the pass had it: the images now lie there.
        for place in ingest.writes.iter_mut().chain(&mut ingest.workspace) {
            *place = Loc { element: Element::F32, ..Loc::new(Memory::Arena, end, place.len) };
            end += place.len.next_multiple_of(16);
        }
        self.recorder.arena = self.recorder.arena.max(end);
        ingest.label = "attack.images".into();
        let images = ingest.writes[0];
        self.calls.push(ingest);
        let reads = vec![images, self.whole(g), self.whole(delta), radius.loc(), rate.loc()];
        self.emit("attack.step", Kernel::PgdStep(pixels), reads, vec![self.whole(delta)]);
        Ok(())
    }
}
