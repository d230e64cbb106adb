//! Convolution of images with packed weights, in either direction.
//!
//! The gradient with respect to the input is made of convolutions, too. With stride s, those input pixels whose row
//! and column leave the same remainders modulo s meet the same taps: each of the s x s phases is a convolution of
//! stride 1 with these taps, flipped, and nothing is multiplied by zeros between pixels. Forward has one phase.
//!
//! A job takes one band of one image. It copies the rows that it needs into its thread's scratch with a halo of zeros
//! (unless there is no halo), so that the sum over (kernel column, channel) is one contiguous run a kernel row.

use super::Workers;
use super::pack;
use super::pool::Parts;
use super::simd::Isa;
use super::stored::Stored;
use super::tile::{self, Walk};
use super::transpose::transpose;
use crate::dtype::Element;
use crate::ops::call::ConvShape;
use std::ops::Range;

/// Jobs wanted at least, where a batch has fewer images than this.
pub(super) const MIN_JOBS: usize = 16;
/// Elements of a band's padded copy at most: 512 KB, half of the L2 cache of a current server core.
const MAX_BAND: usize = 128 * 1024;

/// Rows or columns of a sweep.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Positions of the source, and of the output.
    pub(super) source: usize,
    pub(super) out: usize,
    k: usize,
    pad: usize,
    /// Distance in the padded copy between neighbouring outputs of a phase, and in the output; one of the two is 1.
    in_step: usize,
    pub(super) out_step: usize,
    /// Zeros of the padded copy in front of the source.
    lead: usize,
    pub(super) flipped: bool,
}

/// The outputs `a, a + out_step, ..` of an axis, which all meet the same taps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) taps: usize,
    /// Position in the padded copy of the first tap of the first output.
    start: usize,
    pub(super) outputs: usize,
}

impl Axis {
    pub fn forward(source: usize, out: usize, s: &ConvShape) -> Axis {
        let (k, pad) = (s.k, s.pad);
        Axis { source, out, k, pad, in_step: s.stride, out_step: 1, lead: pad, flipped: false }
    }

    fn backward(source: usize, out: usize, s: &ConvShape) -> Axis {
        let (k, pad) = (s.k, s.pad);
        let mut axis = Axis { source, out, k, pad, in_step: 1, out_step: s.stride, lead: 0, flipped: true };
        // Output a + s u meets source u + (a + pad) / s - t at its t-th tap: what is in front of source 0 is the lead.
        let before = |a: usize| axis.taps(a).saturating_sub(1 + (a + pad) / s.stride);
        axis.lead = (0..s.stride).map(before).max().unwrap_or(0);
        axis
    }

    fn taps(&self, a: usize) -> usize {
        if self.flipped {
            self.k.saturating_sub((a + self.pad) % self.out_step).div_ceil(self.out_step)
        } else {
            self.k
        }
    }

    pub(super) fn phase(&self, a: usize) -> Phase {
        let taps = self.taps(a);
        let start = if self.flipped && taps > 0 { self.lead + 1 + (a + self.pad) / self.out_step - taps } else { 0 };
        Phase { taps, start, outputs: self.out.saturating_sub(a).div_ceil(self.out_step) }
    }

    /// Returns the kernel row (or column) of the `j`-th tap of phase `a`.
    pub(super) fn tap(&self, a: usize, j: usize) -> usize {
        if self.flipped { (a + self.pad) % self.out_step + self.out_step * (self.taps(a) - 1 - j) } else { j }
    }

    /// Source position that the `j`-th tap of the `u`-th output of phase `a` meets, if it is one of those [`Axis::inside`].
    pub(super) fn position(&self, a: usize, u: usize, j: usize) -> usize {
        self.phase(a).start + u * self.in_step + j - self.lead
    }

    /// Taps of the `u`-th output of phase `a` that meet the source and not the zeros around it.
    pub(super) fn inside(&self, a: usize, u: usize) -> Range<usize> {
        let phase = self.phase(a);
        let first = phase.start + u * self.in_step;
        let end = (self.source + self.lead).saturating_sub(first).min(phase.taps);
        self.lead.saturating_sub(first).min(end)..end
    }

    /// Taps of phase `a` from the first to the last that meets the source for any output.
    pub(super) fn met(&self, a: usize) -> Range<usize> {
        let inside = || (0..self.phase(a).outputs).map(|u| self.inside(a, u)).filter(|taps| !taps.is_empty());
        let ends = inside().map(|taps| taps.start).min().zip(inside().map(|taps| taps.end).max());
        ends.map_or(0..0, |(start, end)| start..end)
    }

    /// Outputs of the longest phase.
    fn units(&self) -> usize {
        self.out.div_ceil(self.out_step)
    }

    /// Positions of the padded copy that `units` neighbouring outputs of every phase meet.
    pub fn extent(&self, units: usize) -> usize {
        (0..self.out_step)
            .map(|a| self.phase(a))
            .map(|p| p.start + p.taps + (units - 1) * self.in_step)
            .max()
            .unwrap_or(0)
    }
}

/// All of a batch's convolutions in one direction, from `c` channels to `d`.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) c: usize,
    pub(super) d: usize,
    pub(super) rows: Axis,
    pub(super) cols: Axis,
}

impl Sweep {
    /// From x to y.
    pub fn forward(s: &ConvShape) -> Sweep {
        let (rows, cols) = (Axis::forward(s.h, s.out_h(), s), Axis::forward(s.w, s.out_w(), s));
        Sweep { n: s.n, k: s.k, c: s.ci, d: s.co, rows, cols }
    }

    /// From dy to dx.
    pub fn backward(s: &ConvShape) -> Sweep {
        let (rows, cols) = (Axis::backward(s.out_h(), s.h, s), Axis::backward(s.out_w(), s.w, s));
        Sweep { n: s.n, k: s.k, c: s.co, d: s.ci, rows, cols }
    }

    /// Elements of work that [`Sweep::run`] needs for values stored as `T`.
    pub fn workspace<T: Stored>(&self, workers: &Workers) -> usize {
        if self.is_small() {
            return self.small_workspace(workers);
        }
        self.packed_len(workers.isa) + workers.pool.threads() * self.scratch_lens::<T>().iter().sum::<usize>()
    }

    /// Elements of the packed weights, a multiple of a cache line.
    fn packed_len(&self, isa: Isa) -> usize {
        pack::packed_len(isa, self.k * self.k * self.c, self.d).next_multiple_of(16)
    }

    /// Elements of each thread's copy of a band's source, and of the band's sums where they are rounded afterwards.
    fn scratch_lens<T: Stored>(&self) -> [usize; 2] {
        let units = self.rows.units().div_ceil(self.bands());
        let copy = self.rows.extent(units) * self.cols.extent(self.cols.units()) * self.c;
        let sums = units * self.rows.out_step * self.cols.out * self.d;
        let wide = T::ELEMENT == Element::F32;
        [if wide && self.in_place() { 0 } else { copy }, if wide { 0 } else { sums }].map(|l| l.next_multiple_of(16))
    }

    /// Returns true if no output meets a position outside the source, so that no padded copy is needed.
    fn in_place(&self) -> bool {
        [self.rows, self.cols].iter().all(|a| a.lead == 0 && a.extent(a.units()) <= a.source)
    }

    /// Bands that each image is cut into.
    fn bands(&self) -> usize {
        let units = self.rows.units();
        let copy = self.rows.extent(units) * self.cols.extent(self.cols.units()) * self.c;
        MIN_JOBS.div_ceil(self.n.max(1)).max(copy.div_ceil(MAX_BAND)).min(units)
    }

    /// Element of the packed weights where phase (a, b) starts.
    fn phase_at(&self, isa: Isa, a: usize, b: usize) -> usize {
        let above: usize = (0..a).map(|a| self.rows.taps(a)).sum();
        let left: usize = (0..b).map(|b| self.cols.taps(b)).sum();
        // The taps of all column phases together are the k of the kernel.
        pack::packed_len(isa, (above * self.k + self.rows.taps(a) * left) * self.c, self.d)
    }

    /// Packs weights `[co, k, k, ci]`: panels `[taps][c][columns of d]` for each phase.
    fn pack<T: Stored>(&self, workers: &Workers, w: &[T], packed: &mut [f32]) {
        let (isa, most) = (workers.isa, tile::panel(workers.isa));
        let (phases, taps) = (self.rows.out_step * self.cols.out_step, self.k * self.k);
        let panels = self.d.div_ceil(most);
        let parts = Parts::new(packed);
        workers.pool.run(phases * panels, |job, _| {
            let (a, b) = (job / panels / self.cols.out_step, job / panels % self.cols.out_step);
            let first = job % panels * most;
            let columns = most.min(self.d - first);
            let width = pack::width(isa, columns);
            let (down, across) = (self.rows.taps(a), self.cols.taps(b));
            let depth = down * across * self.c;
            let start = self.phase_at(isa, a, b) + first * depth;
            // SAFETY: panels of one phase, and phases, lie one behind the other.
            let panel = unsafe { parts.part(start..start + depth * width) };
            if !self.rows.flipped {
                return transpose(isa, &w[first * depth..], depth, columns, panel, width);
            }
            for (j, to) in panel.chunks_exact_mut(self.c * width).enumerate() {
                let tap = self.rows.tap(a, j / across) * self.k + self.cols.tap(b, j % across);
                pack::copy(&w[tap * self.d + first..], taps * self.d, columns, to, width);
            }
        });
    }

    /// Computes all outputs from the source `from` and the weights `w` `[co, k, k, ci]`, and calls `finish(image, outputs)`
    /// for each image, mostly while its outputs are in cache.
    #[allow(clippy::too_many_arguments)]
    pub fn run<T: Stored>(
        &self,
        workers: &Workers,
        from: &[T],
        w: &[T],
        to: &mut [T],
        addend: Addend<'_, T>,
        finish: Option<&Finish<'_, T>>,
        work: &mut [f32],
    ) {
        let image_out = self.rows.out * self.cols.out * self.d;
        if self.is_small() {
            self.run_small(workers, from, w, to, addend, work);
            if let Some(finish) = finish {
                workers.pool.run(self.n, |i, _| finish(i, &to[i * image_out..(i + 1) * image_out]));
            }
            return;
        }
        let (packed, scratch) = work.split_at_mut(self.packed_len(workers.isa));
        self.pack(workers, w, packed);
        let packed = &*packed;
        let (bands, per_thread) = (self.bands(), self.scratch_lens::<T>().iter().sum::<usize>());
        let image_in = self.rows.source * self.cols.source * self.c;
        let out_row = self.cols.out * self.d;
        let (outputs, scratch) = (Parts::new(to), Parts::new(scratch));
        let finish = |image: usize| {
            if let Some(finish) = finish {
                // SAFETY: nothing writes this image any more.
                finish(image, unsafe { outputs.part(image * image_out..(image + 1) * image_out) });
            }
        };
        workers.pool.run(self.n * bands, |job, thread| {
            let image = job / bands;
            let units = tile::cut(self.rows.units(), bands, job % bands);
            let rows = units.start * self.rows.out_step..(units.end * self.rows.out_step).min(self.rows.out);
            let range = image * image_out + rows.start * out_row..image * image_out + rows.end * out_row;
            // SAFETY: bands of an image, and images, lie one behind the other; a thread runs one job at a time.
            let (out, scratch) =
                unsafe { (outputs.part(range.clone()), scratch.part(thread * per_thread..(thread + 1) * per_thread)) };
            let addend = addend.part(range);
            let source = &from[image * image_in..(image + 1) * image_in];
            self.band(workers.isa, source, units, packed, out, addend, scratch);
            if bands == 1 {
                finish(image);
            }
        });
        if bands > 1 {
            workers.pool.run(self.n, |image, _| finish(image));
        }
    }

    /// The outputs `units` of each row phase of one image; `out` and what is added start at their first row.
    #[allow(clippy::too_many_arguments)]
    fn band<T: Stored>(
        &self,
        isa: Isa,
        source: &[T],
        units: Range<usize>,
        packed: &[f32],
        out: &mut [T],
        addend: Addend<'_, T>,
        scratch: &mut [f32],
    ) {
        let Sweep { c, rows, cols, .. } = *self;
        let first = units.start * rows.in_step;
        let (copy, sums) = scratch.split_at_mut(self.scratch_lens::<T>()[0]);
        let (input, pitch) = match T::f32s(source).filter(|_| self.in_place()) {
            Some(source) => (&source[first * cols.source * c..], cols.source * c),
            None => {
                let pitch = cols.extent(cols.units()) * c;
                let copy = &mut copy[..rows.extent(units.len()) * pitch];
                let halo = Source { rows: rows.source, cols: cols.source, c, above: rows.lead, left: cols.lead };
                padded_rows(source, &halo, first, copy, pitch);
                (&*copy, pitch)
            }
        };
        if let Some(out) = T::f32s_mut(out) {
            if let Addend::Other(other) = addend {
                out.iter_mut().zip(other).for_each(|(out, other)| *out = other.widen());
            }
            return self.products(isa, input, pitch, units, packed, out, !matches!(addend, Addend::Nothing));
        }
        let sums = &mut sums[..out.len()];
        self.products(isa, input, pitch, units, packed, sums, false);
        addend.store(sums, out);
    }

    /// The sums of a band's outputs from its padded source; added to what `out` holds where `add`.
    #[allow(clippy::too_many_arguments)]
    fn products(
        &self,
        isa: Isa,
        input: &[f32],
        pitch: usize,
        units: Range<usize>,
        packed: &[f32],
        out: &mut [f32],
        add: bool,
    ) {
        let Sweep { c, d, rows, cols, .. } = *self;
        for (a, b) in (0..rows.out_step).flat_map(|a| (0..cols.out_step).map(move |b| (a, b))) {
            let (down, across) = (rows.phase(a), cols.phase(b));
            let depth = down.taps * across.taps * c;
            let weights = &packed[self.phase_at(isa, a, b)..];
            if across.outputs == 0 {
                continue;
            }
            let blocks = tile::cuts(across.outputs, tile::max_rows(isa));
            for columns in pack::panels(isa, d) {
                let width = pack::width(isa, columns.len());
                let walk = Walk {
                    runs: down.taps,
                    len: across.taps * c,
                    a_row: cols.in_step * c,
                    a_run: pitch,
                    a_step: 1,
                    b_run: across.taps * c * width,
                    b_step: width,
                    c_row: cols.out_step * d,
                    add,
                };
                let panel = &weights[columns.start * depth..];
                for row in 0..units.end.min(down.outputs).saturating_sub(units.start) {
                    let input = &input[(down.start + row * rows.in_step) * pitch + across.start * c..];
                    let out = &mut out[((a + row * rows.out_step) * cols.out + b) * d + columns.start..];
                    for cut in blocks.clone() {
                        let (from, to) = (cut.start * cols.in_step * c, cut.start * cols.out_step * d);
                        walk.run(isa, cut.len(), columns.len(), &input[from..], panel, &mut out[to..]);
                    }
                }
            }
        }
    }
}

/// Epilogue that runs on an image's outputs while they are in cache: `(image, outputs)`.
pub type Finish<'a, T> = dyn Fn(usize, &[T]) + Sync + 'a;

/// An image that is copied with zeros around it.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    pub rows: usize,
    pub cols: usize,
    pub c: usize,
    /// Rows and columns of zeros in front of it.
    pub above: usize,
    pub left: usize,
}

/// Fills rows of `pitch` elements: row r is row `first + r - above` of the image `from` with `left` zero pixels in front;
/// zeros stand wherever there is no source.
pub fn padded_rows<T: Stored>(from: &[T], source: &Source, first: usize, to: &mut [f32], pitch: usize) {
    let len = source.cols * source.c;
    for (r, to) in to.chunks_exact_mut(pitch).enumerate() {
        let Some(y) = (first + r).checked_sub(source.above).filter(|y| *y < source.rows) else {
            to.fill(0.0);
            continue;
        };
        let (left, to) = to.split_at_mut((source.left * source.c).min(pitch));
        let (middle, right) = to.split_at_mut(len.min(to.len()));
        left.fill(0.0);
        let from = &from[y * len..y * len + middle.len()];
        middle.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
        right.fill(0.0);
    }
}

/// Summand of a convolution's outputs.
#[derive(Clone, Copy, Debug)]
pub enum Addend<'a, T> {
    Nothing,
    /// The old content of the output.
    Old,
    /// Values of the output's form.
    Other(&'a [T]),
}

impl<'a, T: Stored> Addend<'a, T> {
    /// Returns the summand of the outputs in `range` alone.
    pub fn part(self, range: Range<usize>) -> Addend<'a, T> {
        match self {
            Addend::Other(other) => Addend::Other(&other[range]),
            whole => whole,
        }
    }

    /// Writes `sums`, and what is added, to `to`; other values start where `to` does.
    pub fn store(&self, sums: &[f32], to: &mut [T]) {
        let sums = to.iter_mut().zip(sums);
        match self {
            Addend::Nothing => sums.for_each(|(to, sum)| *to = T::round(*sum)),
            Addend::Old => sums.for_each(|(to, sum)| *to = T::round(to.widen() + sum)),
            Addend::Other(other) => {
                sums.zip(*other).for_each(|((to, sum), other)| *to = T::round(other.widen() + sum));
            }
        }
    }
}
