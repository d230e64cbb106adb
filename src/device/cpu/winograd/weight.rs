//! The gradient of a convolution with respect to its weights, by Winograd's method: at each point the sum over tiles of
//! (output channel of dy) x (input channel of x), a matrix product whose depth is the tiles.
//!
//! Where the points' sums are small, each of a few slots takes a fixed range of tile rows and has sums of its own, added in
//! order at the end. Where they are large, there is one set of sums: block by block of tiles all threads transform, then
//! share out the points.

use super::super::Workers;
use super::super::method::Method;
use super::super::pack;
use super::super::pool::Parts;
use super::super::simd::Isa;
use super::super::stored::Stored;
use super::super::sweep::{MIN_JOBS, Source, padded_rows};
use super::super::tile::{self, Walk};
use super::transform::{Grid, Planes};
use super::{Routines, planes, tile_of};
use crate::ops::call::ConvShape;
use std::ops::Range;

/// Slots at most, and elements of all of their sums at most: 5 MB.
const MAX_SLOTS: usize = 16;
const ALL_SUMS: usize = 1280 * 1024;
/// Elements of one slot's sums at most, 640 KB: half of the L2 cache of a current server core and a little more. (Sharing
/// blocks is as fast for 64 to 64 channels, 590 KB, where threads share a cache, and half as fast where they do not.)
const SLOT: usize = 160 * 1024;
/// Elements of the points of one block of tiles, where slots have blocks of their own: 1 MB. What lies deeper in the caches
/// for that is read once; the sums are read and written once a block.
const BLOCK: usize = 256 * 1024;
/// Tiles of one block at least, where all threads share it.
const SHARED_TILES: usize = 112;
/// Tile rows that are copied and transformed at once.
const ROWS: usize = 4;
/// Output channels of one job of the last transform.
const CHANNELS: usize = 4;

/// Division of the work, by shape and instruction set alone.
struct Plan {
    s: ConvShape,
    isa: Isa,
    side: usize,
    /// Points of a tile.
    points: usize,
    /// Rows and columns of tiles of an image.
    grid: [usize; 2],
    /// 1 where all threads share each block.
    slots: usize,
    /// Tile rows of one block.
    rows: usize,
}

impl Plan {
    fn new(isa: Isa, s: &ConvShape, method: Method) -> Plan {
        let side = tile_of(method);
        let points = (side + 2).pow(2);
        let grid = [s.out_h(), s.out_w()].map(|out| out.div_ceil(side));
        let mut plan = Plan { s: *s, isa, side, points, grid, slots: 1, rows: 1 };
        let all_rows = s.n * grid[0];
        let tiles = if plan.sums_len() <= SLOT {
            plan.slots = MAX_SLOTS.min(all_rows).min(ALL_SUMS / plan.sums_len());
            BLOCK / (points * (s.ci + s.co))
        } else {
            // As many as make reading and writing the sums cost no more than reading and writing the points.
            SHARED_TILES.max(s.ci * s.co / (s.ci + s.co))
        };
        plan.rows = (tiles / grid[1]).clamp(1, all_rows.div_ceil(plan.slots));
        plan
    }

    /// Elements of one row of sums, of one point, and of all points.
    fn sum_row(&self) -> usize {
        self.s.ci.next_multiple_of(tile::lanes(self.isa))
    }
    fn sum_plane(&self) -> usize {
        (self.s.co * self.sum_row()).next_multiple_of(16) + 16
    }
    fn sums_len(&self) -> usize {
        self.points * self.sum_plane()
    }

    /// Points of a block of x and of dy.
    fn planes(&self) -> [Planes; 2] {
        [self.s.ci, self.s.co].map(|c| planes(self.isa, self.rows * self.grid[1], c))
    }

    /// Elements of a block's points.
    fn block_len(&self) -> usize {
        self.planes().iter().map(|p| self.points * p.plane).sum()
    }

    /// Elements of one row of pixels in the copies of x and of dy.
    fn pitches(&self) -> [usize; 2] {
        let cols = self.grid[1] * self.side;
        [(cols + 2) * self.s.ci, cols * self.s.co]
    }

    /// Elements of a thread's copies, each with room for whole vectors behind the last pixel.
    fn copy_lens(&self) -> [usize; 2] {
        let rows = ROWS.min(self.grid[0]) * self.side;
        let [x, dy] = self.pitches();
        [(rows + 2) * x, rows * dy].map(|len| (len + tile::lanes(self.isa)).next_multiple_of(16))
    }

    /// Elements of the sums, of the points of blocks (one a thread, or two that all share), and of the copies.
    fn lens(&self, threads: usize) -> [usize; 3] {
        let blocks = if self.slots == 1 { 2 } else { threads };
        [self.slots * self.sums_len(), blocks * self.block_len(), threads * self.copy_lens().iter().sum::<usize>()]
    }

    /// Transforms tile rows `rows` of the whole batch, which are the block's from its row `first` on.
    fn transform<T: Stored>(
        &self,
        routines: &Routines<T>,
        (x, dy): (&[T], &[T]),
        rows: Range<usize>,
        first: usize,
        block: Parts<'_, f32>,
        copies: &mut [f32],
    ) {
        let (s, side, cols) = (&self.s, self.side, self.grid[1]);
        let [x_planes, dy_planes] = self.planes();
        let [x_pitch, dy_pitch] = self.pitches();
        let (x_copy, dy_copy) = copies.split_at_mut(self.copy_lens()[0]);
        let (out_h, out_w) = (s.out_h(), s.out_w());
        let (x_len, dy_len) = (s.h * s.w * s.ci, out_h * out_w * s.co);
        let mut row = rows.start;
        while row < rows.end {
            let (image, down) = (row / self.grid[0], row % self.grid[0]);
            let count = ROWS.min(rows.end - row).min(self.grid[0] - down);
            let tile = (first + row - rows.start) * cols;
            let halo = Source { rows: s.h, cols: s.w, c: s.ci, above: s.pad, left: s.pad };
            let x = &x[image * x_len..(image + 1) * x_len];
            padded_rows(x, &halo, down * side, &mut x_copy[..(count * side + 2) * x_pitch], x_pitch);
            let edge = Source { rows: out_h, cols: out_w, c: s.co, above: 0, left: 0 };
            let dy = &dy[image * dy_len..(image + 1) * dy_len];
            padded_rows(dy, &edge, down * side, &mut dy_copy[..count * side * dy_pitch], dy_pitch);
            let grid = |pitch: usize, c: usize| Grid { rows: count, cols, pitch, down: side * pitch, across: side * c };
            assert!((tile + count * cols) * x_planes.row <= x_planes.plane && block.holds(self.block_len()));
            // SAFETY: rows of tiles are written by one job each; the copies hold all of their pixels and a vector more, and
            // the block all points, by the assertion.
            unsafe {
                let to = block.pointer();
                let x_points = to.add(tile * x_planes.row);
                (routines.inputs)(&grid(x_pitch, s.ci), &x_planes, x_copy.as_ptr(), x_points);
                let dy_points = to.add(self.points * x_planes.plane + tile * dy_planes.row);
                (routines.gradients)(&grid(dy_pitch, s.co), &dy_planes, dy_copy.as_ptr(), dy_points);
            }
            row += count;
        }
    }

    /// Adds to the sums of point `p` what the `tiles` first tiles of a block contribute.
    fn multiply(&self, p: usize, tiles: usize, block: &[f32], sum: &mut [f32], add: bool) {
        let [x_planes, dy_planes] = self.planes();
        let (x, dy) = block.split_at(self.points * x_planes.plane);
        let walk = Walk {
            runs: 1,
            len: tiles,
            a_row: 1,
            a_run: 0,
            a_step: dy_planes.row,
            b_run: 0,
            b_step: x_planes.row,
            c_row: self.sum_row(),
            add,
        };
        for columns in pack::panels(self.isa, self.s.ci) {
            for cut in tile::cuts(self.s.co, tile::max_rows(self.isa)) {
                let (dy, x) = (&dy[p * dy_planes.plane + cut.start..], &x[p * x_planes.plane + columns.start..]);
                let to = &mut sum[cut.start * walk.c_row + columns.start..];
                walk.run(self.isa, cut.len(), pack::width(self.isa, columns.len()), dy, x, to);
            }
        }
    }

    fn by_slot<T: Stored>(&self, workers: &Workers, routines: &Routines<T>, xy: (&[T], &[T]), work: [&mut [f32]; 3]) {
        let [sums, blocks, copies] = work.map(Parts::new);
        let (rows, copy) = (self.s.n * self.grid[0], self.copy_lens().iter().sum::<usize>());
        workers.pool.run(self.slots, |slot, thread| {
            // SAFETY: one part a slot; a thread runs one job at a time.
            let (sums, block, copies) = unsafe {
                let block = thread * self.block_len()..(thread + 1) * self.block_len();
                (
                    sums.part(slot * self.sums_len()..(slot + 1) * self.sums_len()),
                    blocks.part(block),
                    copies.part(thread * copy..(thread + 1) * copy),
                )
            };
            let slot_rows = tile::cut(rows, self.slots, slot);
            let mut add = false;
            for part in tile::cuts(slot_rows.len(), self.rows) {
                let part = slot_rows.start + part.start..slot_rows.start + part.end;
                self.transform(routines, xy, part.clone(), 0, Parts::new(&mut *block), copies);
                for (p, sum) in sums.chunks_exact_mut(self.sum_plane()).enumerate() {
                    self.multiply(p, part.len() * self.grid[1], block, sum, add);
                }
                add = true;
            }
        });
    }

    /// Two blocks in turns: while some threads still multiply one, others transform the next.
    fn by_point<T: Stored>(&self, workers: &Workers, routines: &Routines<T>, xy: (&[T], &[T]), work: [&mut [f32]; 3]) {
        let [sums, blocks, copies] = work;
        let (even, odd) = blocks.split_at_mut(self.block_len());
        let blocks = [even, odd].map(Parts::new);
        let (sums, copies) = (Parts::new(sums), Parts::new(copies));
        let (rows, copy) = (self.s.n * self.grid[0], self.copy_lens().iter().sum::<usize>());
        let parts = rows.div_ceil(self.rows);
        for part in 0..=parts {
            let products = if part > 0 { self.points } else { 0 };
            let next = if part < parts { tile::cut(rows, parts, part) } else { 0..0 };
            let transforms = next.len().div_ceil(ROWS);
            workers.pool.run(products + transforms, |job, thread| {
                if job < products {
                    let before = tile::cut(rows, parts, part - 1);
                    // SAFETY: one plane a job; nobody writes the block of the part before.
                    let (sum, block) = unsafe {
                        let sum = sums.part(job * self.sum_plane()..(job + 1) * self.sum_plane());
                        (sum, &*blocks[(part - 1) % 2].part(0..self.block_len()))
                    };
                    return self.multiply(job, before.len() * self.grid[1], block, sum, part > 1);
                }
                let cut = tile::cut(next.len(), transforms, job - products);
                // SAFETY: a thread runs one job at a time.
                let copies = unsafe { copies.part(thread * copy..(thread + 1) * copy) };
                let rows = next.start + cut.start..next.start + cut.end;
                self.transform(routines, xy, rows, cut.start, blocks[part % 2], copies);
            });
        }
    }
}

/// Elements of work that [`backward_weight`] needs.
pub fn backward_weight_workspace(workers: &Workers, s: &ConvShape, method: Method) -> usize {
    Plan::new(workers.isa, s, method).lens(workers.pool.threads()).iter().sum()
}

/// dw = the gradient of conv(x, w) with respect to w, given dy.
pub fn backward_weight<T: Stored>(
    workers: &Workers,
    s: &ConvShape,
    method: Method,
    x: &[T],
    dy: &[T],
    dw: &mut [f32],
    work: &mut [f32],
) {
    let plan = Plan::new(workers.isa, s, method);
    let routines = Routines::of(workers.isa, method);
    let [sums_len, blocks_len, copies_len] = plan.lens(workers.pool.threads());
    let (sums, rest) = work.split_at_mut(sums_len);
    let (blocks, copies) = rest.split_at_mut(blocks_len);
    let work = [&mut *sums, blocks, &mut copies[..copies_len]];
    if plan.slots == 1 {
        plan.by_point(workers, &routines, (x, dy), work);
    } else {
        plan.by_slot(workers, &routines, (x, dy), work);
    }
    let sums = &*sums;
    assert_eq!(dw.len(), s.weight_len(), "conv backward weight of {s:?}");
    let (lanes, plane, per_kernel) = (tile::lanes(workers.isa), plan.sum_plane(), 9 * s.ci);
    let out = Parts::new(dw);
    let jobs = s.co.div_ceil(CHANNELS).max(MIN_JOBS.min(s.co));
    workers.pool.run(jobs, |job, _| {
        let channels = tile::cut(s.co, jobs, job);
        // SAFETY: channels follow one another.
        let out = unsafe { out.part(channels.start * per_kernel..channels.end * per_kernel) };
        for (channel, out) in channels.zip(out.chunks_exact_mut(per_kernel)) {
            for first in (0..s.ci).step_by(lanes) {
                let from = &sums[channel * plan.sum_row() + first..];
                let count = lanes.min(s.ci - first);
                assert!((plan.slots - 1) * plan.sums_len() + (plan.points - 1) * plane + lanes <= from.len());
                // SAFETY: the sums were just checked; `out` holds 9 taps of ci channels.
                unsafe {
                    let to = out[first..].as_mut_ptr();
                    let slots = (plan.slots, plan.sums_len());
                    (routines.weight_gradients)(from.as_ptr(), plane, slots, to, s.ci, count);
                }
            }
        }
    });
}
