//! The gradient of a convolution with respect to its weights.
//!
//! For each kernel row it is a product over all output pixels: dy's channels (broadcast) by the run of (kernel column,
//! channel) of x under that pixel (vectors), which is KRSC order already.

use super::Workers;
use super::method::{Method, Product};
use super::pack;
use super::pool::Parts;
use super::simd::Isa;
use super::small::is_small;
use super::small_weight;
use super::stored::Stored;
use super::sweep::{Axis, Source, padded_rows};
use super::tile::{self, Walk};
use super::winograd;
use crate::dtype::Element;
use crate::ops::call::ConvShape;
use std::ops::Range;

/// Partial gradients at most: each takes a fixed range of images, and they are added in order.
const MAX_SLOTS: usize = 32;
/// Elements of all partial gradients together, unless one alone is larger: 8 MB.
const MAX_PARTIALS: usize = 2 * 1024 * 1024;
/// Jobs wanted at least; where slots are fewer, a job takes a part of the output channels.
const MIN_JOBS: usize = 16;
/// Elements of dy and x that a block of rows reads: 128 KB, which stay in the L2 cache while all kernel rows, vectors
/// and channels go over them. (24 KB, within L1, was 5 % slower: sums then move to and from memory more often.)
const BLOCK: usize = 32 * 1024;
/// Elements that one job of the last sum adds.
const CHUNK: usize = 4096;

/// Division of the work, by shape and instruction set alone.
struct Plan {
    s: ConvShape,
    isa: Isa,
    slots: usize,
    /// Parts that the output channels are cut into.
    splits: usize,
    /// Output rows that are taken at once.
    rows: usize,
    /// Elements of one row of the padded copy of x.
    pitch: usize,
    /// Where a kernel row's run of x is shorter than two vectors (a first layer), dy's channels are the vectors and the run
    /// is broadcast; sums are `[k, k, ci, co]` then.
    swapped: bool,
}

impl Plan {
    fn new(isa: Isa, s: &ConvShape) -> Plan {
        let lanes = tile::lanes(isa);
        let slots = s.n.min(MAX_SLOTS).min(MAX_PARTIALS / s.weight_len()).max(1);
        // Vectors of channels must not reach over the end of dy.
        let swapped = s.k * s.ci < tile::panel(isa) && s.co.is_multiple_of(lanes);
        let splits = MIN_JOBS.div_ceil(slots).min(s.co.div_ceil(tile::max_rows(isa)));
        let splits = if swapped { 1 } else { splits };
        let pitch = Axis::forward(s.w, s.out_w(), s).extent(s.out_w()) * s.ci;
        let rows = (BLOCK / (s.stride * pitch + s.out_w() * s.co.div_ceil(splits))).clamp(1, s.out_h());
        Plan { s: *s, isa, slots, splits, rows, pitch, swapped }
    }

    /// Elements of a thread's padded copy, with room for the last pixel's vectors to read over its end.
    fn copy_len(&self) -> usize {
        let copy = ((self.rows - 1) * self.s.stride + self.s.k) * self.pitch;
        (copy + tile::panel(self.isa)).next_multiple_of(16)
    }

    /// Elements of a thread's scratch: its copies of x, and of dy where that is not f32.
    fn scratch_len<T: Stored>(&self) -> usize {
        let dy = if T::ELEMENT == Element::F32 { 0 } else { self.rows * self.s.out_w() * self.s.co };
        self.copy_len() + dy.next_multiple_of(16)
    }

    /// Computes the contribution of output rows `rows` of one image to the gradient `sum` of some output channels, and adds it
    /// where `add`; `dy` starts at the first of these rows and channels.
    fn block<T: Stored>(&self, x: &[T], dy: &[T], rows: Range<usize>, sum: &mut [f32], add: bool, scratch: &mut [f32]) {
        let (s, isa) = (&self.s, self.isa);
        let down = Axis::forward(s.h, s.out_h(), s);
        let (copy, wide) = scratch.split_at_mut(self.copy_len());
        let dy = match T::f32s(dy) {
            Some(dy) => dy,
            None => {
                // The last row holds only the channels of `sum`.
                let wide = &mut wide[..dy.len().min(rows.len() * s.out_w() * s.co)];
                wide.iter_mut().zip(dy).for_each(|(to, from)| *to = from.widen());
                &*wide
            }
        };
        let used = down.extent(rows.len()) * self.pitch;
        let halo = Source { rows: s.h, cols: s.w, c: s.ci, above: s.pad, left: s.pad };
        padded_rows(x, &halo, rows.start * s.stride, &mut copy[..used], self.pitch);
        let (copy, run) = (&*copy, s.k * s.ci);
        let walk = Walk {
            runs: rows.len(),
            len: s.out_w(),
            a_row: 1,
            a_run: s.out_w() * s.co,
            a_step: s.co,
            b_run: s.stride * self.pitch,
            b_step: s.stride * s.ci,
            c_row: s.k * run,
            add,
        };
        if self.swapped {
            let Walk { a_run, a_step, b_run, b_step, .. } = walk;
            let walk = Walk { a_run: b_run, a_step: b_step, b_run: a_run, b_step: a_step, c_row: s.co, ..walk };
            for (kernel_row, sum) in sum.chunks_exact_mut(run * s.co).enumerate() {
                for columns in pack::panels(isa, s.co) {
                    for cut in tile::cuts(run, tile::max_rows(isa)) {
                        let (x, dy) = (&copy[kernel_row * self.pitch + cut.start..], &dy[columns.start..]);
                        let c = &mut sum[cut.start * s.co + columns.start..];
                        walk.run(isa, cut.len(), columns.len(), x, dy, c);
                    }
                }
            }
            return;
        }
        for kernel_row in 0..s.k {
            for columns in pack::panels(isa, run) {
                let b = &copy[kernel_row * self.pitch + columns.start..];
                for cut in tile::cuts(sum.len() / walk.c_row, tile::max_rows(isa)) {
                    let c = &mut sum[cut.start * walk.c_row + kernel_row * run + columns.start..];
                    walk.run(isa, cut.len(), columns.len(), &dy[cut.start..], b, c);
                }
            }
        }
    }

    /// Elements of the partial gradients; a single one is `dw` itself.
    fn partials_len(&self) -> usize {
        if self.slots == 1 && !self.swapped { 0 } else { (self.slots * self.s.weight_len()).next_multiple_of(16) }
    }
}

/// Elements of work that [`backward_weight`] needs.
pub fn backward_weight_workspace<T: Stored>(workers: &Workers, s: &ConvShape) -> usize {
    let method = workers.methods.choose(s, Product::BackwardWeight, T::ELEMENT);
    if method != Method::Direct {
        return winograd::backward_weight_workspace(workers, s, method);
    }
    if is_small(s.n, s.w.max(s.out_w())) {
        return small_weight::workspace(workers, s);
    }
    let plan = Plan::new(workers.isa, s);
    plan.partials_len() + workers.pool.threads() * plan.scratch_len::<T>()
}

/// dw = the gradient of conv(x, w) with respect to w, given dy.
pub fn backward_weight<T: Stored>(
    workers: &Workers,
    s: &ConvShape,
    x: &[T],
    dy: &[T],
    dw: &mut [f32],
    work: &mut [f32],
) {
    assert_eq!((x.len(), dy.len(), dw.len()), (s.x_len(), s.y_len(), s.weight_len()), "conv backward weight of {s:?}");
    let method = workers.methods.choose(s, Product::BackwardWeight, T::ELEMENT);
    if method != Method::Direct {
        return winograd::backward_weight(workers, s, method, x, dy, dw, work);
    }
    if is_small(s.n, s.w.max(s.out_w())) {
        return small_weight::backward_weight(workers, s, x, dy, dw, work);
    }
    let plan = Plan::new(workers.isa, s);
    let (slots, len, depth) = (plan.slots, s.weight_len(), s.k * s.k * s.ci);
    let (partials, scratch) = work.split_at_mut(plan.partials_len());
    let (scratch, per_thread) = (Parts::new(scratch), plan.scratch_len::<T>());
    let sums = Parts::new(if plan.partials_len() == 0 { &mut *dw } else { &mut *partials });
    workers.pool.run(slots * plan.splits, |job, thread| {
        let (slot, split) = (job / plan.splits, job % plan.splits);
        let channels = tile::cut(s.co, plan.splits, split);
        // SAFETY: parts by slot and output channel, which no two jobs share; a thread runs one job at a time.
        let (sum, scratch) = unsafe {
            let range = slot * len + channels.start * depth..slot * len + channels.end * depth;
            (sums.part(range), scratch.part(thread * per_thread..(thread + 1) * per_thread))
        };
        let mut add = false;
        for image in tile::cut(s.n, slots, slot) {
            let (x_len, y_len) = (s.h * s.w * s.ci, s.out_h() * s.out_w() * s.co);
            let x = &x[image * x_len..(image + 1) * x_len];
            let dy = &dy[image * y_len..(image + 1) * y_len];
            for rows in tile::cuts(s.out_h(), plan.rows) {
                let dy = &dy[rows.start * s.out_w() * s.co + channels.start..];
                plan.block(x, dy, rows, sum, add, scratch);
                add = true;
            }
        }
    });
    let sums = &*partials;
    if plan.swapped {
        // A first layer has a few thousand.
        for (at, dw) in dw.iter_mut().enumerate() {
            let (channel, tap) = (at / depth, at % depth);
            *dw = (0..slots).map(|slot| sums[slot * len + tap * s.co + channel]).sum();
        }
    } else if slots > 1 {
        let out = Parts::new(dw);
        workers.pool.run(len.div_ceil(CHUNK), |job, _| {
            let range = job * CHUNK..((job + 1) * CHUNK).min(len);
            // SAFETY: chunks lie one behind the other.
            let out = unsafe { out.part(range.clone()) };
            out.copy_from_slice(&sums[range.clone()]);
            for slot in 1..slots {
                let sum = &sums[slot * len + range.start..slot * len + range.end];
                for (out, v) in out.iter_mut().zip(sum) {
                    *out += v;
                }
            }
        });
    }
}
