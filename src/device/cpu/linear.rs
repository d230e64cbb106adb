//! Linear layers: `x [n, inputs]`, weight `[outputs, inputs]`, bias `[outputs]`, `y [n, outputs]`.
//!
//! All three products run the same blocks as convolutions. Bits depend on the shape and on `workers.isa`, never on the
//! number of threads. Work buffers hold what the function of the same name with `_workspace` asks for; their content is
//! garbage before and after. Slices of a length other than the shape's panic.

use super::Workers;
use super::pack;
use super::pool::Parts;
use super::simd::{Isa, per_isa};
use super::split::split;
use super::stored::Stored;
use super::tile::{self, Walk};
use super::transpose::transpose;
use crate::ops::call::LinearShape;
use std::ops::Range;

/// Terms that one block sums in registers before it adds them to memory. A panel of so many steps is 64 KB at most, and
/// the rounding error of a long sum grows with the square root of this and not of its length.
const DEPTH: usize = 512;
/// Panels of columns that one job takes, with the same rows of A.
const PANELS: usize = 2;
/// Rows of one job: enough of them share the work of packing a panel.
const ROWS: usize = 256;
/// With fewer jobs the depth is shared out as well.
const JOBS: usize = 16;
/// Rows of which one job adds up the parts.
const MERGED: usize = 16;
/// Multiply-adds of a product that is not worth waking a second thread.
const SMALL: usize = 500_000;
/// Elements of bias gradient that one job sums, and rows that it sums before it adds.
const BIAS: usize = 64;
const BIAS_ROWS: usize = 32;

/// y = x wᵀ + b.
pub fn forward<T: Stored>(
    workers: &Workers,
    s: &LinearShape,
    x: &[T],
    w: &[T],
    b: &[f32],
    y: &mut [T],
    work: &mut [f32],
) {
    let lens = (s.n * s.inputs, s.outputs * s.inputs, s.outputs, s.n * s.outputs);
    assert_eq!((x.len(), w.len(), b.len(), y.len()), lens, "linear forward of {s:?}");
    Product::forward(s).run(workers, (x, s.inputs, 1), w, y, work, |y, sums, first| {
        for ((y, sum), b) in y.iter_mut().zip(sums).zip(&b[first..]) {
            *y = T::round(sum + b);
        }
    });
}

/// dx = dy w; added to what `dx` holds where `add`.
pub fn backward_data<T: Stored>(
    workers: &Workers,
    s: &LinearShape,
    dy: &[T],
    w: &[T],
    dx: &mut [T],
    add: bool,
    work: &mut [f32],
) {
    let lens = (s.n * s.outputs, s.outputs * s.inputs, s.n * s.inputs);
    assert_eq!((dy.len(), w.len(), dx.len()), lens, "linear backward data of {s:?}");
    Product::backward_data(s).run(workers, (dy, s.outputs, 1), w, dx, work, |dx, sums, _| {
        if add {
            add_to(workers.isa, sums, dx);
        } else {
            store(workers.isa, sums, dx);
        }
    });
}

/// dw = dyᵀ x, db = the sum of dy's rows.
pub fn backward_weight<T: Stored>(
    workers: &Workers,
    s: &LinearShape,
    x: &[T],
    dy: &[T],
    dw: &mut [f32],
    db: &mut [f32],
    work: &mut [f32],
) {
    let lens = (s.n * s.inputs, s.n * s.outputs, s.outputs * s.inputs, s.outputs);
    assert_eq!((x.len(), dy.len(), dw.len(), db.len()), lens, "linear backward weight of {s:?}");
    let product = Product::backward_weight(s);
    product.run(workers, (dy, 1, s.outputs), x, dw, work, |dw, sums, _| store(workers.isa, sums, dw));
    split(workers, [(db, BIAS)], |job, [db]| {
        db.fill(0.0);
        // Sums of sums: the rounding error of one long sum would grow with the square root of n.
        for rows in dy.chunks(BIAS_ROWS * s.outputs) {
            let mut sums = [0.0f32; BIAS];
            for dy in rows.chunks_exact(s.outputs) {
                for (sum, dy) in sums.iter_mut().zip(&dy[job * BIAS..][..db.len()]) {
                    *sum += dy.widen();
                }
            }
            for (db, sum) in db.iter_mut().zip(sums) {
                *db += sum;
            }
        }
    });
}

/// Elements of work that [`forward`] needs.
pub fn forward_workspace(workers: &Workers, s: &LinearShape) -> usize {
    Product::forward(s).workspace(workers)
}

/// Elements of work that [`backward_data`] needs.
pub fn backward_data_workspace(workers: &Workers, s: &LinearShape) -> usize {
    Product::backward_data(s).workspace(workers)
}

/// Elements of work that [`backward_weight`] needs.
pub fn backward_weight_workspace(workers: &Workers, s: &LinearShape) -> usize {
    Product::backward_weight(s).workspace(workers)
}

/// C `[rows, columns]` = A B, with B stored `[depth, columns]`, or `[columns, depth]` where `transposed`.
struct Product {
    rows: usize,
    columns: usize,
    depth: usize,
    transposed: bool,
}

/// Size of a product's jobs, by its shape: columns, rows, and steps along the depth.
///
/// A job packs the part of B that it needs and uses it while it is in cache. Where the depth is cut, the parts of a sum
/// are added in order by a second round of jobs.
struct Cut {
    columns: usize,
    rows: usize,
    /// Parts that the depth is cut into.
    parts: usize,
}

impl Product {
    fn forward(s: &LinearShape) -> Product {
        Product { rows: s.n, columns: s.outputs, depth: s.inputs, transposed: true }
    }
    fn backward_data(s: &LinearShape) -> Product {
        Product { rows: s.n, columns: s.inputs, depth: s.outputs, transposed: false }
    }
    fn backward_weight(s: &LinearShape) -> Product {
        Product { rows: s.outputs, columns: s.inputs, depth: s.n, transposed: false }
    }

    fn cut(&self, isa: Isa) -> Cut {
        let panel = tile::panel(isa);
        if self.rows * self.columns * self.depth <= SMALL && self.columns <= 4 * panel {
            return Cut { columns: self.columns.next_multiple_of(panel), rows: self.rows.min(ROWS), parts: 1 };
        }
        let rows = self.rows.min(ROWS);
        let jobs = |columns: usize| self.columns.div_ceil(columns) * self.rows.div_ceil(rows);
        let columns = if jobs(PANELS * panel) < JOBS { panel } else { PANELS * panel };
        let parts = JOBS.div_ceil(jobs(columns)).min(self.depth.div_ceil(DEPTH)).max(1);
        Cut { columns, rows, parts }
    }

    /// Elements of a thread's scratch: a panel of B, the sums, and the part of A in f32.
    fn scratch_lens(&self, isa: Isa) -> [usize; 3] {
        let (cut, depth) = (self.cut(isa), self.depth.min(DEPTH));
        [depth * tile::panel(isa), cut.rows * cut.columns, cut.rows * depth].map(|len| len.next_multiple_of(16))
    }

    /// Elements of the parts of sums.
    fn parts_len(&self, isa: Isa) -> usize {
        let parts = self.cut(isa).parts;
        if parts > 1 { parts * self.rows * self.columns } else { 0 }
    }

    fn workspace(&self, workers: &Workers) -> usize {
        let isa = workers.isa;
        self.parts_len(isa).next_multiple_of(16) + workers.pool.threads() * self.scratch_lens(isa).iter().sum::<usize>()
    }

    /// Computes C and gives each piece of a row of it to `write(piece, sums, first column)`.
    ///
    /// A is `(values, distance of rows, distance of steps along the depth)`, one of the distances 1.
    fn run<T: Stored, C: Send>(
        &self,
        workers: &Workers,
        a: (&[T], usize, usize),
        b: &[T],
        c: &mut [C],
        work: &mut [f32],
        write: impl Fn(&mut [C], &[f32], usize) + Sync,
    ) {
        let isa = workers.isa;
        let cut = self.cut(isa);
        let (parts, scratch) = work.split_at_mut(self.parts_len(isa).next_multiple_of(16));
        let lens = self.scratch_lens(isa);
        let per_thread = lens.iter().sum::<usize>();
        let (scratch, out, sums_of_parts) = (Parts::new(scratch), Parts::new(&mut *c), Parts::new(&mut *parts));
        let (across, down) = (self.columns.div_ceil(cut.columns), self.rows.div_ceil(cut.rows));
        workers.pool.run(across * down * cut.parts, |job, thread| {
            let (part, place) = (job / (across * down), job % (across * down));
            let columns = tile::cut(self.columns.div_ceil(tile::panel(isa)), across, place % across);
            let columns = columns.start * tile::panel(isa)..(columns.end * tile::panel(isa)).min(self.columns);
            let rows = tile::cut(self.rows, down, place / across);
            let depth = tile::cut(self.depth, cut.parts, part);
            // SAFETY: a thread runs one job at a time.
            let scratch = unsafe { scratch.part(thread * per_thread..(thread + 1) * per_thread) };
            let (panel, scratch) = scratch.split_at_mut(lens[0]);
            let (sums, low) = scratch.split_at_mut(lens[1]);
            self.job(isa, a, b, [rows.clone(), columns.clone(), depth], [panel, &mut *sums, low]);
            let width = pack::width(isa, columns.len());
            for (row, sums) in rows.zip(sums.chunks_exact(width)) {
                let at = row * self.columns + columns.start;
                let sums = &sums[..columns.len()];
                if cut.parts == 1 {
                    // SAFETY: pieces of rows that no two jobs share.
                    write(unsafe { out.part(at..at + sums.len()) }, sums, columns.start);
                } else {
                    let at = part * self.rows * self.columns + at;
                    // SAFETY: as above.
                    store(isa, sums, unsafe { sums_of_parts.part(at..at + sums.len()) });
                }
            }
        });
        if cut.parts > 1 {
            let (first, others) = parts[..self.parts_len(isa)].split_at_mut(self.rows * self.columns);
            let first = Parts::new(first);
            let others = &*others;
            let groups = self.rows.div_ceil(MERGED);
            workers.pool.run(groups, |group, _| {
                for row in tile::cut(self.rows, groups, group) {
                    let piece = row * self.columns..(row + 1) * self.columns;
                    // SAFETY: one row each.
                    let (sums, c) = unsafe { (first.part(piece.clone()), out.part(piece.clone())) };
                    for other in others.chunks_exact(self.rows * self.columns) {
                        add_to(isa, &other[piece.clone()], sums);
                    }
                    write(c, sums, 0);
                }
            });
        }
    }

    /// The sums `[rows, width]` of one job, `width` being its columns rounded up to whole vectors.
    fn job<T: Stored>(
        &self,
        isa: Isa,
        (a, a_row, a_step): (&[T], usize, usize),
        b: &[T],
        [rows, columns, depth]: [Range<usize>; 3],
        [panel, sums, low]: [&mut [f32]; 3],
    ) {
        let c_row = pack::width(isa, columns.len());
        let blocks = rows.len().div_ceil(tile::max_rows(isa));
        for steps in tile::cuts(depth.len(), DEPTH) {
            let add = steps.start > 0;
            let (start, len) = (depth.start + steps.start, steps.len());
            let a = &a[rows.start * a_row + start * a_step..];
            let (a, a_row, a_step) = match T::f32s(a) {
                Some(a) => (a, a_row, a_step),
                None if a_step == 1 => {
                    let low = &mut low[..rows.len() * len];
                    low.chunks_exact_mut(len).enumerate().for_each(|(i, to)| widen(isa, &a[i * a_row..][..len], to));
                    (&*low, len, 1)
                }
                None => {
                    let low = &mut low[..rows.len() * len];
                    let to = low.chunks_exact_mut(rows.len()).enumerate();
                    to.for_each(|(t, to)| widen(isa, &a[t * a_step..][..to.len()], to));
                    (&*low, 1, rows.len())
                }
            };
            for first in (0..columns.len()).step_by(tile::panel(isa)) {
                let taken = (columns.len() - first).min(tile::panel(isa));
                let width = pack::width(isa, taken);
                let panel = &mut panel[..len * width];
                let at = columns.start + first;
                if self.transposed {
                    transpose(isa, &b[at * self.depth + start..], self.depth, taken, panel, width);
                } else {
                    copy(isa, &b[start * self.columns + at..], self.columns, taken, panel, width);
                }
                let walk = Walk { runs: 1, len, a_row, a_run: 0, a_step, b_run: 0, b_step: width, c_row, add };
                for block in 0..blocks {
                    let block = tile::cut(rows.len(), blocks, block);
                    let sums = &mut sums[block.start * c_row + first..];
                    walk.run(isa, block.len(), width, &a[block.start * a_row..], panel, sums);
                }
            }
        }
    }
}

per_isa! { fn widen<T: Stored>(from: &[T], to: &mut [f32]) = widen_body; }

#[inline(always)]
fn widen_body<T: Stored>(from: &[T], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
}

per_isa! { fn store<T: Stored>(sums: &[f32], to: &mut [T]) = store_body; }

#[inline(always)]
fn store_body<T: Stored>(sums: &[f32], to: &mut [T]) {
    to.iter_mut().zip(sums).for_each(|(to, sum)| *to = T::round(*sum));
}

per_isa! { fn add_to<T: Stored>(sums: &[f32], to: &mut [T]) = add_body; }

#[inline(always)]
fn add_body<T: Stored>(sums: &[f32], to: &mut [T]) {
    to.iter_mut().zip(sums).for_each(|(to, sum)| *to = T::round(to.widen() + sum));
}

per_isa! {
    fn copy<T: Stored>(from: &[T], stride: usize, columns: usize, to: &mut [f32], width: usize) = pack::copy;
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Sum, assert_sums, normal, on_all_workers};
    use super::*;
    use half::bf16;

    /// (n, inputs, outputs): the layers of cnn, then odd and single ones, and depths around DEPTH.
    const SHAPES: [(usize, usize, usize); 9] = [
        (20, 3136, 128),
        (128, 128, 10),
        (1, 33, 1),
        (1, 1, 17),
        (7, 9, 50),
        (61, 513, 33),
        (57, 1030, 16),
        (3, 512, 100),
        (600, 5, 3),
    ];

    fn shapes() -> impl Iterator<Item = LinearShape> {
        SHAPES.into_iter().map(|(n, inputs, outputs)| LinearShape { n, inputs, outputs })
    }

    /// The definition: every product of an element of x and one of w, and the element of y it is in.
    fn products(s: &LinearShape, mut f: impl FnMut(usize, usize, usize)) {
        for n in 0..s.n {
            for o in 0..s.outputs {
                for i in 0..s.inputs {
                    f(n * s.inputs + i, o * s.inputs + i, n * s.outputs + o);
                }
            }
        }
    }

    #[test]
    fn forward_is_the_definition_for_any_shape() {
        for s in shapes() {
            let (x, w, b) = (normal(1, s.n * s.inputs), normal(2, s.outputs * s.inputs), normal(5, s.outputs));
            let mut want = vec![Sum::default(); s.n * s.outputs];
            products(&s, |i, j, o| want[o].add(x[i], w[j]));
            want.iter_mut().enumerate().for_each(|(o, sum)| sum.add(b[o % s.outputs], 1.0));
            let run = |workers: &Workers| {
                let mut y = vec![f32::NAN; s.n * s.outputs];
                let mut work = vec![f32::NAN; forward_workspace(workers, &s)];
                forward(workers, &s, &x, &w, &b, &mut y, &mut work);
                vec![y]
            };
            on_all_workers(&format!("{s:?}"), run, |what, got| assert_sums(what, &got[0], &want));
        }
    }

    #[test]
    fn backward_data_is_its_gradient_written_or_added() {
        for (s, add) in shapes().flat_map(|s| [(s, false), (s, true)]) {
            let (dy, w) = (normal(3, s.n * s.outputs), normal(2, s.outputs * s.inputs));
            let before = normal(4, s.n * s.inputs);
            let mut want = vec![Sum::default(); s.n * s.inputs];
            products(&s, |i, j, o| want[i].add(dy[o], w[j]));
            if add {
                want.iter_mut().zip(&before).for_each(|(sum, b)| sum.add(*b, 1.0));
            }
            let run = |workers: &Workers| {
                let mut dx = if add { before.clone() } else { vec![f32::NAN; s.n * s.inputs] };
                let mut work = vec![f32::NAN; backward_data_workspace(workers, &s)];
                backward_data(workers, &s, &dy, &w, &mut dx, add, &mut work);
                vec![dx]
            };
            on_all_workers(&format!("{s:?} add {add}"), run, |what, got| assert_sums(what, &got[0], &want));
        }
    }

    #[test]
    fn backward_weight_is_its_gradient() {
        for s in shapes() {
            let (x, dy) = (normal(1, s.n * s.inputs), normal(3, s.n * s.outputs));
            let (mut dw, mut db) = (vec![Sum::default(); s.outputs * s.inputs], vec![Sum::default(); s.outputs]);
            products(&s, |i, j, o| dw[j].add(x[i], dy[o]));
            dy.iter().enumerate().for_each(|(i, dy)| db[i % s.outputs].add(*dy, 1.0));
            let run = |workers: &Workers| {
                let mut got = vec![vec![f32::NAN; s.outputs * s.inputs], vec![f32::NAN; s.outputs]];
                let mut work = vec![f32::NAN; backward_weight_workspace(workers, &s)];
                let [dw, db] = &mut got[..] else { unreachable!() };
                backward_weight(workers, &s, &x, &dy, dw, db, &mut work);
                got
            };
            on_all_workers(&format!("{s:?}"), run, |what, got| {
                assert_sums(&format!("dw of {what}"), &got[0], &dw);
                assert_sums(&format!("db of {what}"), &got[1], &db);
            });
        }
    }

    #[test]
    fn bf16_is_the_arithmetic_of_f32_on_what_is_stored_rounded_once() {
        let low = |values: Vec<f32>| -> Vec<bf16> { values.iter().map(|v| bf16::from_f32(*v)).collect() };
        let wide = |values: &[bf16]| -> Vec<f32> { values.iter().map(|v| v.to_f32()).collect() };
        let workers = Workers::new(2, Isa::best());
        for s in shapes() {
            let (x, w, b) =
                (low(normal(1, s.n * s.inputs)), low(normal(2, s.outputs * s.inputs)), normal(5, s.outputs));
            let (dy, before) = (low(normal(3, s.n * s.outputs)), low(normal(4, s.n * s.inputs)));
            let (wide_x, wide_w, wide_dy) = (wide(&x), wide(&w), wide(&dy));

            let (mut y, mut wide_y) = (dy.clone(), wide_dy.clone());
            let mut work = vec![f32::NAN; forward_workspace(&workers, &s)];
            forward(&workers, &s, &x, &w, &b, &mut y, &mut work);
            forward(&workers, &s, &wide_x, &wide_w, &b, &mut wide_y, &mut work);
            assert_eq!(y, low(wide_y), "y of {s:?}");

            let (mut dx, mut wide_dx) = (before.clone(), wide(&before));
            let mut work = vec![f32::NAN; backward_data_workspace(&workers, &s)];
            backward_data(&workers, &s, &dy, &w, &mut dx, true, &mut work);
            backward_data(&workers, &s, &wide_dy, &wide_w, &mut wide_dx, true, &mut work);
            assert_eq!(dx, low(wide_dx), "dx of {s:?}");

            let mut work = vec![f32::NAN; backward_weight_workspace(&workers, &s)];
            let [mut dw, mut wide_dw] = [(); 2].map(|()| vec![f32::NAN; s.outputs * s.inputs]);
            let [mut db, mut wide_db] = [(); 2].map(|()| vec![f32::NAN; s.outputs]);
            backward_weight(&workers, &s, &x, &dy, &mut dw, &mut db, &mut work);
            backward_weight(&workers, &s, &wide_x, &wide_dy, &mut wide_dw, &mut wide_db, &mut work);
            assert_eq!((dw, db), (wide_dw, wide_db), "dw and db of {s:?}");
        }
    }
}
