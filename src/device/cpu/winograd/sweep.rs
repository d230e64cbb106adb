//! Winograd convolution of images with weights, in either direction.
//!
//! A job takes an image, or several small ones. Band by band it copies rows of the source with a halo of zeros into its
//! thread's scratch, transforms them, multiplies at each point, and transforms back into the output: all that lies between
//! source and output stays in the L2 cache.

use super::super::Workers;
use super::super::method::Method;
use super::super::pack;
use super::super::pool::Parts;
use super::super::simd::Isa;
use super::super::stored::Stored;
use super::super::sweep::{Addend, Finish, MIN_JOBS, Source, padded_rows};
use super::super::tile::{self, Walk};
use super::super::transpose::transpose;
use super::transform::{Grid, Outputs, Planes};
use super::{Routines, planes, prefetch, tile_of};
use crate::ops::call::ConvShape;
use std::ops::Range;

/// Tiles of one band: the rows of two blocks of the matrix product.
const TILES: usize = 28;
/// Tiles of one band where its transformed weights are larger than [`LARGE`]: each is then met by more tiles.
const MANY_TILES: usize = 56;
const LARGE: usize = 256 * 1024;
/// Input channels of one job of the transform of weights.
const CHANNELS: usize = 8;

/// All of a batch's convolutions in one direction, from `c` channels to `d`.
#[derive(Clone, Copy, Debug)]
pub struct Winograd {
    method: Method,
    n: usize,
    c: usize,
    d: usize,
    /// Rows and columns of the source and of the output.
    source: [usize; 2],
    out: [usize; 2],
    /// Zeros in front of the source.
    lead: usize,
    /// From dy to dx.
    backward: bool,
}

impl Winograd {
    /// From x to y.
    pub fn forward(s: &ConvShape, method: Method) -> Winograd {
        let (source, out) = ([s.h, s.w], [s.out_h(), s.out_w()]);
        Winograd { method, n: s.n, c: s.ci, d: s.co, source, out, lead: s.pad, backward: false }
    }

    /// From dy to dx.
    pub fn backward(s: &ConvShape, method: Method) -> Winograd {
        let (source, out) = ([s.out_h(), s.out_w()], [s.h, s.w]);
        Winograd { method, n: s.n, c: s.co, d: s.ci, source, out, lead: 2 - s.pad, backward: true }
    }

    /// Rows and columns of tiles.
    fn grid(&self) -> [usize; 2] {
        self.out.map(|out| out.div_ceil(tile_of(self.method)))
    }

    fn points(&self) -> usize {
        (tile_of(self.method) + 2).pow(2)
    }

    fn band_tiles(&self) -> usize {
        if self.points() * self.c * self.d > LARGE { MANY_TILES } else { TILES }
    }

    /// Bands that the tile rows of an image are cut into.
    fn bands(&self) -> usize {
        let [rows, cols] = self.grid();
        (rows * cols).div_ceil(self.band_tiles()).min(rows)
    }

    /// Images that a band holds.
    fn images(&self) -> usize {
        let [rows, cols] = self.grid();
        (self.band_tiles() / (rows * cols)).min(self.n / MIN_JOBS).max(1)
    }

    /// Elements of the copy of `rows` tile rows, and of one row of pixels.
    fn copy_len(&self, rows: usize) -> (usize, usize) {
        let pitch = (self.grid()[1] * tile_of(self.method) + 2) * self.c;
        ((rows * tile_of(self.method) + 2) * pitch, pitch)
    }

    /// Points of the largest band before and after the product.
    fn planes(&self, isa: Isa) -> [Planes; 2] {
        let [rows, cols] = self.grid();
        let tiles = self.images() * rows.div_ceil(self.bands()) * cols;
        [self.c, self.d].map(|c| planes(isa, tiles, c))
    }

    fn scratch_lens(&self, isa: Isa) -> [usize; 3] {
        let copy = self.images() * self.copy_len(self.grid()[0].div_ceil(self.bands())).0;
        let [before, after] = self.planes(isa).map(|p| self.points() * p.plane);
        // Whole vectors are read behind the last pixel.
        [(copy + tile::lanes(isa)).next_multiple_of(16), before, after]
    }

    /// Elements of the weights by input channel, `[9, c, d]` with rows of whole vectors, and of their points.
    fn weight_lens(&self, isa: Isa) -> [usize; 2] {
        let len = pack::packed_len(isa, self.c, self.d).next_multiple_of(16);
        [if self.backward { 0 } else { 9 * len }, self.points() * len]
    }

    /// Elements of work that [`Winograd::run`] needs.
    pub fn workspace(&self, workers: &Workers) -> usize {
        let scratch: usize = self.scratch_lens(workers.isa).iter().sum();
        self.weight_lens(workers.isa).iter().sum::<usize>() + workers.pool.threads() * scratch
    }

    /// Computes all outputs from the source `from` and the weights `w` `[co, 3, 3, ci]`, and calls `finish(image, outputs)`
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
        let isa = workers.isa;
        let routines = Routines::of(isa, self.method);
        let [by_channel, points] = self.weight_lens(isa);
        let (by_channel, work) = work.split_at_mut(by_channel);
        let (weights, scratch) = work.split_at_mut(points);
        self.transform_weights(workers, &routines, w, by_channel, weights);
        let per_thread: usize = self.scratch_lens(isa).iter().sum();
        let image = self.out[0] * self.out[1] * self.d;
        let band = Band { sweep: self, isa, routines: &routines, from, weights, to: Parts::new(to), addend };
        let scratch = Parts::new(scratch);
        // SAFETY of what follows: a thread runs one job at a time; jobs differ in images or in bands of one.
        let of_thread = |thread| unsafe { scratch.part(thread * per_thread..(thread + 1) * per_thread) };
        let finish = |i: usize| {
            if let Some(finish) = finish {
                finish(i, unsafe { band.to.part(i * image..(i + 1) * image) });
            }
        };
        let (bands, rows) = (self.bands(), self.grid()[0]);
        if bands > 1 && self.n < MIN_JOBS {
            workers.pool.run(self.n * bands, |job, thread| {
                let image = job / bands;
                band.run(image..image + 1, tile::cut(rows, bands, job % bands), of_thread(thread));
            });
            return workers.pool.run(self.n, |i, _| finish(i));
        }
        let groups = self.n.div_ceil(self.images());
        workers.pool.run(groups, |job, thread| {
            let images = tile::cut(self.n, groups, job);
            for part in 0..bands {
                band.run(images.clone(), tile::cut(rows, bands, part), of_thread(thread));
            }
            images.for_each(finish);
        });
    }

    /// The points of the weights: panels `[c][columns of d]` for each point.
    fn transform_weights<T: Stored>(
        &self,
        workers: &Workers,
        routines: &Routines<T>,
        w: &[T],
        by_channel: &mut [f32],
        to: &mut [f32],
    ) {
        let (isa, lanes, most) = (workers.isa, tile::lanes(workers.isa), tile::panel(workers.isa));
        let (c, d, plane) = (self.c, self.d, pack::packed_len(workers.isa, self.c, self.d).next_multiple_of(16));
        let width = d.next_multiple_of(lanes);
        if !self.backward {
            let parts = Parts::new(&mut *by_channel);
            let chunk = 9 * c.div_ceil(MIN_JOBS);
            workers.pool.run((9 * c).div_ceil(chunk), |job, _| {
                let rows = job * chunk..((job + 1) * chunk).min(9 * c);
                // SAFETY: rows follow one another.
                let to = unsafe { parts.part(rows.start * width..rows.end * width) };
                transpose(isa, &w[rows.start..], 9 * c, d, to, width);
            });
        }
        let by_channel = &*by_channel;
        // Checked once: every pointer below stays within these lengths.
        assert!(w.len() >= 9 * c * d && to.len() >= routines.points() * plane);
        let f32_weights = Routines::<f32>::of(isa, self.method).weights;
        let to = Parts::new(to);
        workers.pool.run(c.div_ceil(CHANNELS), |job, _| {
            for k in job * CHANNELS..((job + 1) * CHANNELS).min(c) {
                for column in (0..d).step_by(lanes) {
                    let first = column / most * most;
                    let panel = pack::width(isa, most.min(d - first));
                    let at = first * c + k * panel + column - first;
                    // SAFETY: each vector of each row of each panel is written by one job; within the lengths asserted.
                    unsafe {
                        let to = to.pointer().add(at);
                        if self.backward {
                            let from = w.as_ptr().add(k * 9 * d + column);
                            (routines.weights)(from, d, lanes.min(d - column), true, to, plane);
                        } else {
                            let from = by_channel.as_ptr().add(k * width + column);
                            f32_weights(from, c * width, lanes, false, to, plane);
                        }
                    }
                }
            }
        });
    }
}

/// Data that the bands of a sweep share.
struct Band<'a, T> {
    sweep: &'a Winograd,
    isa: Isa,
    routines: &'a Routines<T>,
    from: &'a [T],
    weights: &'a [f32],
    to: Parts<'a, T>,
    addend: Addend<'a, T>,
}

impl<T: Stored> Band<'_, T> {
    /// The tile rows `rows` of `images`; more than one image has all of its rows in one band.
    fn run(&self, images: Range<usize>, rows: Range<usize>, scratch: &mut [f32]) {
        let (s, isa, routines) = (self.sweep, self.isa, self.routines);
        let Winograd { c, d, source: [h, w], lead, .. } = *s;
        let (side, cols) = (routines.tile, s.grid()[1]);
        let [copy_len, before_len, _] = s.scratch_lens(isa);
        let [before, after] = s.planes(isa);
        let (copy, scratch) = scratch.split_at_mut(copy_len);
        let (points, products) = scratch.split_at_mut(before_len);
        let (image_copy, pitch) = s.copy_len(rows.len());
        let tiles = rows.len() * cols;
        for (i, image) in images.clone().enumerate() {
            let copy = &mut copy[i * image_copy..];
            let from = &self.from[image * h * w * c..(image + 1) * h * w * c];
            let halo = Source { rows: h, cols: w, c, above: lead, left: lead };
            padded_rows(from, &halo, rows.start * side, &mut copy[..image_copy], pitch);
            let grid = Grid { rows: rows.len(), cols, pitch, down: side * pitch, across: side * c };
            let to = &mut points[i * tiles * before.row..];
            assert!(to.len() + i * tiles * before.row >= routines.points() * before.plane);
            // SAFETY: the copy holds all rows and columns of the tiles and a vector more; the planes were just checked.
            unsafe { (routines.inputs)(&grid, &before, copy.as_ptr(), to.as_mut_ptr()) };
        }
        // Bands and images follow one another in memory.
        let read = images.len() * rows.len() * side * w * c;
        let end =
            if rows.end * side < h { (images.start * h + rows.end * side) * w * c } else { images.end * h * w * c };
        let next = &self.from[end..(end + read).min(self.from.len())];
        self.multiply(images.len() * tiles, [&before, &after], points, products, next);
        for (i, image) in images.enumerate() {
            let row = s.out[1] * d;
            let pixels = rows.start * side..(rows.end * side).min(s.out[0]);
            let at = (image * s.out[0] + pixels.start) * row;
            let outputs = Outputs { rows: pixels.len(), cols: s.out[1], pitch: row };
            // SAFETY: bands of an image, and images, are disjoint.
            let to = unsafe { self.to.part(at..at + pixels.len() * row) };
            let add = match self.addend {
                Addend::Nothing => std::ptr::null(),
                Addend::Old => to.as_ptr(),
                Addend::Other(other) => other[at..at + to.len()].as_ptr(),
            };
            let products = &products[i * tiles * after.row..];
            // SAFETY: all planes are there, as above, and the output's rows and those added have the length just taken.
            unsafe {
                let grid = [rows.len(), cols];
                (routines.outputs)(grid, &after, products.as_ptr(), &outputs, add, to.as_mut_ptr());
            }
        }
    }

    /// The matrix product at each point; `next` is what is read after it.
    fn multiply(&self, tiles: usize, [before, after]: [&Planes; 2], points: &[f32], products: &mut [f32], next: &[T]) {
        let (s, isa) = (self.sweep, self.isa);
        let plane = pack::packed_len(isa, s.c, s.d).next_multiple_of(16);
        let blocks = tile::cuts(tiles, tile::max_rows(isa));
        for p in 0..self.routines.points() {
            prefetch(next, p, self.routines.points());
            for columns in pack::panels(isa, s.d) {
                let width = pack::width(isa, columns.len());
                let walk = Walk {
                    runs: 1,
                    len: s.c,
                    a_row: before.row,
                    a_run: 0,
                    a_step: 1,
                    b_run: 0,
                    b_step: width,
                    c_row: after.row,
                    add: false,
                };
                let panel = &self.weights[p * plane + columns.start * s.c..];
                for block in blocks.clone() {
                    let from = &points[p * before.plane + block.start * before.row..];
                    let to = &mut products[p * after.plane + block.start * after.row + columns.start..];
                    walk.run(isa, block.len(), width, from, panel, to);
                }
            }
        }
    }
}
