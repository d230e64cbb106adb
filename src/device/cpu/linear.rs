//! Linear layers: `x [n, inputs]`, weight `[outputs, inputs]`, bias `[outputs]`, `y [n, outputs]`.
//!
//! All three products run the same blocks as convolutions. Bits depend on the shape and on `workers.isa`, never on the
//! number of threads. Work buffers hold what the function of the same name with `_workspace` asks for; their content is
//! garbage before and after. Slices of a length other than the shape's panic.

use super::Workers;
use super::pack;
use super::pool::Parts;
use super::tile::{self, Walk};
use crate::ops::call::LinearShape;

/// Terms that one block sums in registers before it adds them to memory. A panel of so many steps is 64 KB at most, and
/// the rounding error of a long sum grows with the square root of this and not of its length.
const DEPTH: usize = 512;
/// Blocks of rows that one job takes, all over the same panel.
const BLOCKS: usize = 4;
/// Elements of bias gradient that one job sums, and rows that it sums before it adds.
const BIAS: usize = 64;
const BIAS_ROWS: usize = 32;

/// y = x wᵀ + b.
pub fn forward(workers: &Workers, s: &LinearShape, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32], work: &mut [f32]) {
    let lens = (s.n * s.inputs, s.outputs * s.inputs, s.outputs, s.n * s.outputs);
    assert_eq!((x.len(), w.len(), b.len(), y.len()), lens, "linear forward of {s:?}");
    Product::forward(s).run(workers, (x, s.inputs, 1), w, y, work, |y, sums, first| {
        for ((y, sum), b) in y.iter_mut().zip(sums).zip(&b[first..]) {
            *y = sum + b;
        }
    });
}

/// dx = dy w; added to what `dx` holds where `add`.
pub fn backward_data(
    workers: &Workers,
    s: &LinearShape,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    add: bool,
    work: &mut [f32],
) {
    let lens = (s.n * s.outputs, s.outputs * s.inputs, s.n * s.inputs);
    assert_eq!((dy.len(), w.len(), dx.len()), lens, "linear backward data of {s:?}");
    Product::backward_data(s).run(workers, (dy, s.outputs, 1), w, dx, work, |dx, sums, _| {
        if !add {
            return dx.copy_from_slice(sums);
        }
        for (dx, sum) in dx.iter_mut().zip(sums) {
            *dx += sum;
        }
    });
}

/// dw = dyᵀ x, db = the sum of dy's rows.
pub fn backward_weight(
    workers: &Workers,
    s: &LinearShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
    work: &mut [f32],
) {
    let lens = (s.n * s.inputs, s.n * s.outputs, s.outputs * s.inputs, s.outputs);
    assert_eq!((x.len(), dy.len(), dw.len(), db.len()), lens, "linear backward weight of {s:?}");
    let product = Product::backward_weight(s);
    product.run(workers, (dy, 1, s.outputs), x, dw, work, |dw, sums, _| dw.copy_from_slice(sums));
    let db = Parts::new(db);
    workers.pool.run(s.outputs.div_ceil(BIAS), |job, _| {
        let range = job * BIAS..((job + 1) * BIAS).min(s.outputs);
        // SAFETY: ranges lie one behind the other.
        let db = unsafe { db.part(range.clone()) };
        db.fill(0.0);
        // Sums of sums: the rounding error of one long sum would grow with the square root of n.
        for rows in dy.chunks(BIAS_ROWS * s.outputs) {
            let mut sums = [0.0f32; BIAS];
            for dy in rows.chunks_exact(s.outputs) {
                for (sum, dy) in sums.iter_mut().zip(&dy[range.clone()]) {
                    *sum += dy;
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

    /// Elements of a thread's sums: those of one job.
    fn sums_len(workers: &Workers) -> usize {
        BLOCKS * tile::max_rows(workers.isa) * tile::panel(workers.isa)
    }

    fn packed_len(&self, workers: &Workers) -> usize {
        pack::packed_len(workers.isa, self.depth, self.columns).next_multiple_of(16)
    }

    fn workspace(&self, workers: &Workers) -> usize {
        self.packed_len(workers) + workers.pool.threads() * Product::sums_len(workers)
    }

    /// Computes C and gives each piece of a row of it to `write(piece, sums, first column)`.
    ///
    /// A is `(values, distance of rows, distance of steps along the depth)`.
    fn run(
        &self,
        workers: &Workers,
        a: (&[f32], usize, usize),
        b: &[f32],
        c: &mut [f32],
        work: &mut [f32],
        write: impl Fn(&mut [f32], &[f32], usize) + Sync,
    ) {
        let (isa, sums_len) = (workers.isa, Product::sums_len(workers));
        let (packed, sums) = work.split_at_mut(self.packed_len(workers));
        self.pack(workers, b, packed);
        let packed = &*packed;
        let (sums, c) = (Parts::new(sums), Parts::new(c));
        let (values, a_row, a_step) = a;
        let blocks = self.rows.div_ceil(tile::max_rows(isa));
        let row_jobs = blocks.div_ceil(BLOCKS);
        workers.pool.run(self.columns.div_ceil(tile::panel(isa)) * row_jobs, |job, thread| {
            let first = job / row_jobs * tile::panel(isa);
            let columns = tile::panel(isa).min(self.columns - first);
            let width = pack::width(isa, columns);
            let panel = &packed[first * self.depth..];
            // SAFETY: a thread runs one job at a time.
            let sums = unsafe { sums.part(thread * sums_len..(thread + 1) * sums_len) };
            let taken = tile::cut(blocks, row_jobs, job % row_jobs);
            let rows = |block: usize| tile::cut(self.rows, blocks, block);
            let top = rows(taken.start).start;
            for steps in tile::cuts(self.depth, DEPTH) {
                let walk = Walk {
                    runs: 1,
                    len: steps.len(),
                    a_row,
                    a_run: 0,
                    a_step,
                    b_run: 0,
                    b_step: width,
                    c_row: width,
                    add: steps.start > 0,
                };
                let panel = &panel[steps.start * width..];
                for rows in taken.clone().map(rows) {
                    let a = &values[rows.start * a_row + steps.start * a_step..];
                    walk.run(isa, rows.len(), width, a, panel, &mut sums[(rows.start - top) * width..]);
                }
            }
            for (row, sums) in (top..rows(taken.end - 1).end).zip(sums.chunks_exact(width)) {
                let at = row * self.columns + first;
                // SAFETY: pieces of rows that no two jobs share.
                write(unsafe { c.part(at..at + columns) }, &sums[..columns], first);
            }
        });
    }

    /// Packs B, one job a panel and DEPTH steps.
    fn pack(&self, workers: &Workers, b: &[f32], packed: &mut [f32]) {
        let (isa, most) = (workers.isa, tile::panel(workers.isa));
        let chunks = self.depth.div_ceil(DEPTH);
        let packed = Parts::new(packed);
        workers.pool.run(self.columns.div_ceil(most) * chunks, |job, _| {
            let (first, steps) = (job / chunks * most, tile::cut(self.depth, chunks, job % chunks));
            let columns = most.min(self.columns - first);
            let width = pack::width(isa, columns);
            let start = first * self.depth + steps.start * width;
            // SAFETY: panels, and the chunks of a panel, lie one behind the other.
            let panel = unsafe { packed.part(start..start + steps.len() * width) };
            if self.transposed {
                pack::transpose(&b[first * self.depth + steps.start..], self.depth, columns, panel, width);
            } else {
                pack::copy(&b[steps.start * self.columns + first..], self.columns, columns, panel, width);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Sum, assert_sums, normal, on_all_workers};
    use super::*;

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
}
