//! Convolution of a batch of small images, in either direction: a block's rows are images instead of neighbouring pixels.
//!
//! A row of 8 pixels fills little more than half of a block of 14 rows; of the products of a 3x3 kernel and 8x8 pixels
//! 16 % are with zeros of the border, with 2x2 pixels 56 %; and each image reads all the weights. Here a block takes one
//! output position of up to 14 images and meets only the taps that lie inside of the image, and a job goes through the
//! whole batch with one panel of weights.

use super::Workers;
use super::pack;
use super::pool::Parts;
use super::simd::Isa;
use super::split::{images_a_job, split};
use super::stored::Stored;
use super::sweep::{Addend, MIN_JOBS, Sweep};
use super::tile::{self, Walk};
use std::ops::Range;

/// Images of up to so many columns are small where the batch has at least so many of them. (At 16 columns nothing is
/// gained: rows fill their blocks, and 8 % of the products are with zeros.)
const MOST_COLUMNS: usize = 8;
const LEAST_IMAGES: usize = 8;

/// Returns true if the rows of a block are images, for a batch of `n` whose wider side has `columns`.
pub fn is_small(n: usize, columns: usize) -> bool {
    columns <= MOST_COLUMNS && n >= LEAST_IMAGES
}

/// Images whose sums a job keeps at once.
const GROUP: usize = 64;

/// Operands that jobs only read.
struct Operands<'a, T> {
    isa: Isa,
    /// The source by position: `[rows, columns, n, pitch]`.
    source: &'a [f32],
    /// Weights `[co, k, k, ci]`.
    w: &'a [T],
    addend: Addend<'a, T>,
}

impl Sweep {
    /// Distance of images in the copy of the source: an odd number of cache lines, so that the images of a block do not
    /// meet in one set of the L1 cache.
    fn pitch(&self) -> usize {
        (self.c.div_ceil(16) | 1) * 16
    }

    pub(super) fn is_small(&self) -> bool {
        is_small(self.n, self.cols.source.max(self.cols.out))
    }

    fn positions(&self) -> usize {
        self.rows.source * self.cols.source
    }

    /// Elements of a thread's panel of weights, then of its sums.
    fn panel_len(&self, isa: Isa) -> usize {
        self.k * self.k * self.c * pack::width(isa, self.d.min(tile::panel(isa)))
    }
    fn sums_len(&self, isa: Isa) -> usize {
        GROUP.min(self.n) * tile::panel(isa)
    }

    /// Elements of work that [`Sweep::run_small`] needs.
    pub(super) fn small_workspace(&self, workers: &Workers) -> usize {
        let per_thread = self.panel_len(workers.isa) + self.sums_len(workers.isa);
        self.positions() * self.n * self.pitch() + workers.pool.threads() * per_thread
    }

    /// [`Sweep::run`] without statistics, where [`Sweep::is_small`].
    pub(super) fn run_small<T: Stored>(
        &self,
        workers: &Workers,
        from: &[T],
        w: &[T],
        to: &mut [T],
        addend: Addend<'_, T>,
        work: &mut [f32],
    ) {
        let isa = workers.isa;
        let (source, scratch) = work.split_at_mut(self.positions() * self.n * self.pitch());
        self.by_position(workers, from, source);
        let operands = Operands { isa, source, w, addend };
        let per_thread = self.panel_len(isa) + self.sums_len(isa);
        let (to, scratch) = (Parts::new(to), Parts::new(scratch));
        let panels = self.d.div_ceil(tile::panel(isa));
        // Few panels are shared by several jobs, which take different images.
        let parts = MIN_JOBS.div_ceil(panels).min(self.n.div_ceil(tile::max_rows(isa))).max(self.n.div_ceil(GROUP));
        workers.pool.run(panels * parts, |job, thread| {
            let first = job / parts * tile::panel(isa);
            let columns = first..(first + tile::panel(isa)).min(self.d);
            let images = tile::cut(self.n, parts, job % parts);
            // SAFETY: a thread runs one job at a time.
            let scratch = unsafe { scratch.part(thread * per_thread..(thread + 1) * per_thread) };
            self.panel(&operands, columns, images, to, scratch);
        });
    }

    /// Copies the source `[n, rows, columns, c]` to `[rows, columns, n, pitch]`.
    fn by_position<T: Stored>(&self, workers: &Workers, from: &[T], to: &mut [f32]) {
        let (n, c, pitch, positions) = (self.n, self.c, self.pitch(), self.positions());
        let most = images_a_job(pitch);
        split(workers, [(to, most * pitch)], |job, [to]| {
            for (row, to) in (job * most..).zip(to.chunks_exact_mut(pitch)) {
                let (position, image) = (row / n, row % n);
                let from = &from[(image * positions + position) * c..][..c];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
            }
        });
    }

    /// All outputs of some images in some channels.
    fn panel<T: Stored>(
        &self,
        operands: &Operands<'_, T>,
        columns: Range<usize>,
        images: Range<usize>,
        to: Parts<'_, T>,
        scratch: &mut [f32],
    ) {
        let Sweep { n, c, d, rows, cols, .. } = *self;
        let (isa, pitch, width) = (operands.isa, self.pitch(), pack::width(operands.isa, columns.len()));
        let (panel, sums) = scratch.split_at_mut(self.panel_len(isa));
        let sums = &mut sums[..images.len() * width];
        let blocks = tile::cuts(images.len(), tile::max_rows(isa));
        for (a, b) in (0..rows.out_step).flat_map(|a| (0..cols.out_step).map(move |b| (a, b))) {
            let (down, across) = (rows.phase(a), cols.phase(b));
            self.pack_panel((a, b), operands.w, columns.clone(), panel, width);
            for (u, v) in (0..down.outputs).flat_map(|u| (0..across.outputs).map(move |v| (u, v))) {
                let (kernel_rows, kernel_cols) = (rows.inside(a, u), cols.inside(b, v));
                if kernel_rows.is_empty() || kernel_cols.is_empty() {
                    sums.fill(0.0);
                }
                // A kernel row at a time: its weights stay in the L2 cache while all images meet them.
                for j in kernel_rows.clone().filter(|_| !kernel_cols.is_empty()) {
                    let position = rows.position(a, u, j) * cols.source + cols.position(b, v, kernel_cols.start);
                    let walk = Walk {
                        runs: kernel_cols.len(),
                        len: c,
                        a_row: pitch,
                        a_run: n * pitch,
                        a_step: 1,
                        b_run: c * width,
                        b_step: width,
                        c_row: width,
                        add: j > kernel_rows.start,
                    };
                    let source = &operands.source[(position * n + images.start) * pitch..];
                    let panel = &panel[(j * across.taps + kernel_cols.start) * c * width..];
                    for block in blocks.clone() {
                        let (source, sums) = (&source[block.start * pitch..], &mut sums[block.start * width..]);
                        walk.run(isa, block.len(), width, source, panel, sums);
                    }
                }
                let position = (a + u * rows.out_step) * cols.out + b + v * cols.out_step;
                for (image, sums) in images.clone().zip(sums.chunks_exact(width)) {
                    let at = (image * rows.out * cols.out + position) * d + columns.start;
                    // SAFETY: the jobs differ in channels or images.
                    let to = unsafe { to.part(at..at + columns.len()) };
                    operands.addend.part(at..at + columns.len()).store(sums, to);
                }
            }
        }
    }

    /// Packs the columns of one phase, `[taps][c][width]`, without taps that meet no source.
    fn pack_panel<T: Stored>(
        &self,
        (a, b): (usize, usize),
        w: &[T],
        columns: Range<usize>,
        panel: &mut [f32],
        width: usize,
    ) {
        let (c, d, taps) = (self.c, self.d, self.k * self.k);
        let across = self.cols.phase(b).taps;
        for (i, j) in self.rows.met(a).flat_map(|i| self.cols.met(b).map(move |j| (i, j))) {
            let to = &mut panel[(i * across + j) * c * width..][..c * width];
            let tap = self.rows.tap(a, i) * self.k + self.cols.tap(b, j);
            if self.rows.flipped {
                pack::copy(&w[tap * d + columns.start..], taps * d, columns.len(), to, width);
            } else {
                pack::transpose(&w[(columns.start * taps + tap) * c..], taps * c, columns.len(), to, width);
            }
        }
    }
}
