//! The gradient with respect to the weights where images are small: sums run over the images of a batch first.
//!
//! For each tap it is a product over (output position, image): dy's channels (broadcast) by the channels of x at the
//! position that the tap meets (vectors). Taps outside of the image are left out; see [`super::small`].

use super::Workers;
use super::pack;
use super::pool::Parts;
use super::simd::Isa;
use super::stored::Stored;
use super::sweep::MIN_JOBS;
use super::tile::{self, Walk};
use crate::ops::call::ConvShape;
use std::ops::Range;

/// Elements of the channels of x that a job keeps at hand: 256 KB, a quarter of the L2 cache of a current server core.
const SLAB: usize = 64 * 1024;

/// Division of the work, by shape and instruction set alone.
struct Plan {
    s: ConvShape,
    isa: Isa,
    /// Images that a slab holds at most.
    group: usize,
    /// Parts that the blocks of output channels are cut into.
    splits: usize,
}

/// Outputs of an axis that meet a source position by tap `tap`.
fn outputs(s: &ConvShape, tap: usize, source: usize, out: usize) -> Range<usize> {
    let end = (source + s.pad).saturating_sub(tap).div_ceil(s.stride).min(out);
    s.pad.saturating_sub(tap).div_ceil(s.stride).min(end)..end
}

impl Plan {
    fn new(isa: Isa, s: &ConvShape) -> Plan {
        let group = (SLAB / (s.h * s.w * tile::panel(isa))).clamp(1, s.n);
        let splits = MIN_JOBS.div_ceil(s.ci.div_ceil(tile::panel(isa))).min(s.co.div_ceil(tile::max_rows(isa)));
        Plan { s: *s, isa, group, splits }
    }

    fn slab_len(&self) -> usize {
        self.s.h * self.s.w * self.group * tile::panel(self.isa)
    }

    fn sums_len(&self) -> usize {
        tile::max_rows(self.isa) * tile::panel(self.isa)
    }

    /// Output positions times images.
    fn depth(&self) -> usize {
        self.s.out_h() * self.s.out_w() * self.s.n
    }

    /// Copies dy `[n, positions, co]` to blocks of output channels, each `[positions, n, rows]`.
    fn pack_dy<T: Stored>(&self, workers: &Workers, dy: &[T], packed: &mut [f32]) {
        let (s, depth) = (&self.s, self.depth());
        let blocks = s.co.div_ceil(tile::max_rows(self.isa));
        let packed = Parts::new(packed);
        workers.pool.run(blocks, |job, _| {
            let channels = tile::cut(s.co, blocks, job);
            // SAFETY: blocks lie one behind the other.
            let to = unsafe { packed.part(channels.start * depth..channels.end * depth) };
            for (row, to) in to.chunks_exact_mut(channels.len()).enumerate() {
                let (position, image) = (row / s.n, row % s.n);
                let from = (image * (depth / s.n) + position) * s.co;
                let from = &dy[from + channels.start..from + channels.end];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
            }
        });
    }

    /// Copies some channels of some images to `[h, w, images, width]`.
    fn pack_x<T: Stored>(
        &self,
        x: &[T],
        images: &Range<usize>,
        columns: &Range<usize>,
        slab: &mut [f32],
        width: usize,
    ) {
        let positions = self.s.h * self.s.w;
        for (row, to) in slab.chunks_exact_mut(width).take(positions * images.len()).enumerate() {
            let (position, image) = (row / images.len(), images.start + row % images.len());
            let from = (image * positions + position) * self.s.ci;
            let from = &x[from + columns.start..from + columns.end];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
        }
    }

    /// Adds the contribution of `images` to one tap's gradient for a block of output channels: `sums` `[rows, width]`. `dy` is
    /// the block's packed part and starts at the first of these images.
    fn tap(&self, (i, j): (usize, usize), images: usize, rows: usize, dy: &[f32], x: &[f32], sums: &mut [f32]) {
        let s = &self.s;
        let width = sums.len() / rows;
        let (down, across) = (outputs(s, i, s.h, s.out_h()), outputs(s, j, s.w, s.out_w()));
        if down.is_empty() || across.is_empty() {
            return sums.fill(0.0);
        }
        for row in down.clone() {
            let walk = Walk {
                runs: across.len(),
                len: images,
                a_row: 1,
                a_run: s.n * rows,
                a_step: rows,
                b_run: s.stride * images * width,
                b_step: width,
                c_row: width,
                add: row > down.start,
            };
            let to = (row * s.out_w() + across.start) * s.n * rows;
            let from = (row * s.stride + i - s.pad) * s.w + across.start * s.stride + j - s.pad;
            walk.run(self.isa, rows, width, &dy[to..], &x[from * images * width..], sums);
        }
    }
}

/// Elements of work that [`backward_weight`] needs.
pub fn workspace(workers: &Workers, s: &ConvShape) -> usize {
    let plan = Plan::new(workers.isa, s);
    s.y_len().next_multiple_of(16) + workers.pool.threads() * (plan.slab_len() + plan.sums_len())
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
    let plan = Plan::new(workers.isa, s);
    let (isa, taps) = (workers.isa, s.k * s.k);
    let (packed, scratch) = work.split_at_mut(s.y_len().next_multiple_of(16));
    plan.pack_dy(workers, dy, packed);
    let packed = &*packed;
    let per_thread = plan.slab_len() + plan.sums_len();
    let (dw, scratch) = (Parts::new(dw), Parts::new(scratch));
    let blocks = s.co.div_ceil(tile::max_rows(isa));
    workers.pool.run(s.ci.div_ceil(tile::panel(isa)) * plan.splits, |job, thread| {
        let first = job / plan.splits * tile::panel(isa);
        let columns = first..(first + tile::panel(isa)).min(s.ci);
        let width = pack::width(isa, columns.len());
        // SAFETY: a thread runs one job at a time.
        let scratch = unsafe { scratch.part(thread * per_thread..(thread + 1) * per_thread) };
        let (slab, sums) = scratch.split_at_mut(plan.slab_len());
        for images in tile::cuts(s.n, plan.group) {
            plan.pack_x(x, &images, &columns, slab, width);
            for block in tile::cut(blocks, plan.splits, job % plan.splits) {
                let channels = tile::cut(s.co, blocks, block);
                let dy = &packed[channels.start * plan.depth() + images.start * channels.len()..];
                let sums = &mut sums[..channels.len() * width];
                for tap in 0..taps {
                    plan.tap((tap / s.k, tap % s.k), images.len(), channels.len(), dy, slab, sums);
                    for (channel, sums) in channels.clone().zip(sums.chunks_exact(width)) {
                        let at = (channel * taps + tap) * s.ci + columns.start;
                        // SAFETY: the jobs differ in channels of x or of dy.
                        let dw = unsafe { dw.part(at..at + columns.len()) };
                        if images.start > 0 {
                            dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += sum);
                        } else {
                            dw.copy_from_slice(&sums[..columns.len()]);
                        }
                    }
                }
            }
        }
    });
}
