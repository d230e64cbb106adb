//! Elementwise kernels, and taps.

use super::Workers;
use super::simd::per_isa;
use super::split::{CHUNK, images_a_job, split};
use super::stored::Stored;
use super::vector::dot_body;
use crate::ops::call::Counters;
use crate::rng;

/// y = x, or with `add` y += x.
#[inline(always)]
pub(super) fn put<X: Stored, Y: Stored>(add: bool, x: &[X], y: &mut [Y]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = Y::round(if add { y.widen() + x.widen() } else { x.widen() });
    }
}

/// y = x where x > 0, else 0; NaN stays NaN, so that a fault is not hidden.
pub fn relu<T: Stored>(workers: &Workers, x: &[T], y: &mut [T]) {
    split(workers, [(y, CHUNK)], |job, [y]| relu_chunk(workers.isa, &x[job * CHUNK..][..y.len()], y));
}

per_isa! { fn relu_chunk<T: Stored>(x: &[T], y: &mut [T]) = relu_body; }

#[inline(always)]
fn relu_body<T: Stored>(x: &[T], y: &mut [T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = if x.widen() < 0.0 { T::round(0.0) } else { *x };
    }
}

/// dx = (or +=) dy where y > 0, y being the ReLU's output.
pub fn relu_backward<T: Stored>(workers: &Workers, add: bool, y: &[T], dy: &[T], dx: &mut [T]) {
    split(workers, [(dx, CHUNK)], |job, [dx]| {
        let (y, dy) = (&y[job * CHUNK..][..dx.len()], &dy[job * CHUNK..][..dx.len()]);
        relu_backward_chunk(workers.isa, add, y, dy, dx);
    });
}

per_isa! { fn relu_backward_chunk<T: Stored>(add: bool, y: &[T], dy: &[T], dx: &mut [T]) = relu_backward_body; }

#[inline(always)]
fn relu_backward_body<T: Stored>(add: bool, y: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
        let d = if y.widen() > 0.0 { dy.widen() } else { 0.0 };
        *dx = T::round(if add { dx.widen() + d } else { d });
    }
}

/// y = a + b.
pub fn add<T: Stored>(workers: &Workers, a: &[T], b: &[T], y: &mut [T]) {
    split(workers, [(y, CHUNK)], |job, [y]| {
        add_chunk(workers.isa, &a[job * CHUNK..][..y.len()], &b[job * CHUNK..][..y.len()], y);
    });
}

per_isa! { fn add_chunk<T: Stored>(a: &[T], b: &[T], y: &mut [T]) = add_body; }

#[inline(always)]
fn add_body<T: Stored>(a: &[T], b: &[T], y: &mut [T]) {
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = T::round(a.widen() + b.widen());
    }
}

/// y = x, or with `add` y += x.
pub fn copy<X: Stored, Y: Stored>(workers: &Workers, add: bool, x: &[X], y: &mut [Y]) {
    split(workers, [(y, CHUNK)], |job, [y]| copy_chunk(workers.isa, add, &x[job * CHUNK..][..y.len()], y));
}

per_isa! { fn copy_chunk<X: Stored, Y: Stored>(add: bool, x: &[X], y: &mut [Y]) = put; }

/// One dropout layer (Srivastava et al., 2014) over rows of `len` elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub len: usize,
    /// Position in the batch of the first row.
    pub offset: usize,
    /// Probability that an element becomes 0.
    pub p: f32,
    /// Number of the layer's stream of draws.
    pub stream: u32,
}

/// y = (or +=) x / (1 - p) where the element's draw, uniform in [0, 1), is at least p, else 0; x `[n, len]`.
///
/// Draws are keyed by the row's place in the epoch (`first` + `offset` + row), so the backward is this function on dy.
pub fn dropout<T: Stored>(workers: &Workers, s: &Dropout, add: bool, counters: &Counters, x: &[T], y: &mut [T]) {
    let rows = images_a_job(4 * s.len);
    split(workers, [(y, rows * s.len)], |job, [y]| {
        let x = &x[job * rows * s.len..][..y.len()];
        for (i, (x, y)) in x.chunks_exact(s.len).zip(y.chunks_exact_mut(s.len)).enumerate() {
            let index = counters.first.wrapping_add((s.offset + job * rows + i) as u32);
            dropout_row(workers.isa, s, add, [counters.epoch, index], counters.seed, x, y);
        }
    });
}

per_isa! {
    fn dropout_row<T: Stored>(s: &Dropout, add: bool, key: [u32; 2], seed: u64, x: &[T], y: &mut [T]) = dropout_body;
}

/// Blocks of four draws made at once: one vector of each word with AVX-512.
const BLOCKS: usize = 16;

#[inline(always)]
fn dropout_body<T: Stored>(s: &Dropout, add: bool, [epoch, index]: [u32; 2], seed: u64, x: &[T], y: &mut [T]) {
    let scale = 1.0 / (1.0 - s.p);
    for (tile, (x, y)) in x.chunks(4 * BLOCKS).zip(y.chunks_mut(4 * BLOCKS)).enumerate() {
        let words = rng::draw_blocks::<BLOCKS>(seed, s.stream, epoch, index, (tile * BLOCKS) as u32);
        for ((y, x), word) in y.iter_mut().zip(x).zip(words.as_flattened()) {
            let scaled = x.widen() * scale;
            let v = if rng::unit(*word) >= s.p { scaled } else { 0.0 };
            *y = T::round(if add { y.widen() + v } else { v });
        }
    }
}

/// y = h + |h| delta, with rows `[n, len]` and |h| the 2-norm of a row.
pub fn tap(workers: &Workers, len: usize, h: &[f32], delta: &[f32], y: &mut [f32]) {
    by_rows(workers, len, [h, delta], y, |[h, delta], y| tap_row(workers.isa, h, delta, y));
}

/// Runs `f` on every row of two operands and an output.
fn by_rows(
    workers: &Workers,
    len: usize,
    operands: [&[f32]; 2],
    out: &mut [f32],
    f: impl Fn([&[f32]; 2], &mut [f32]) + Sync,
) {
    let rows = images_a_job(len);
    split(workers, [(out, rows * len)], |job, [out]| {
        for (i, out) in out.chunks_exact_mut(len).enumerate() {
            let start = (job * rows + i) * len;
            f(operands.map(|o| &o[start..start + len]), out);
        }
    });
}

per_isa! { fn tap_row(h: &[f32], delta: &[f32], y: &mut [f32]) = tap_body; }

#[inline(always)]
fn tap_body(h: &[f32], delta: &[f32], y: &mut [f32]) {
    let norm = dot_body(h, h).sqrt() as f32;
    for ((y, h), delta) in y.iter_mut().zip(h).zip(delta) {
        *y = *h + norm * *delta;
    }
}

/// dh = (or +=) dy + (dy . delta) h / |h|, without the second term where |h| is 0; rows `[n, len]`.
pub fn tap_backward(workers: &Workers, len: usize, add: bool, h: &[f32], delta: &[f32], dy: &[f32], dh: &mut [f32]) {
    let rows = images_a_job(len);
    split(workers, [(dh, rows * len)], |job, [dh]| {
        for (i, dh) in dh.chunks_exact_mut(len).enumerate() {
            let row = (job * rows + i) * len..(job * rows + i + 1) * len;
            tap_backward_row(workers.isa, add, &h[row.clone()], &delta[row.clone()], &dy[row], dh);
        }
    });
}

per_isa! {
    fn tap_backward_row(add: bool, h: &[f32], delta: &[f32], dy: &[f32], dh: &mut [f32]) = tap_backward_body;
}

#[inline(always)]
fn tap_backward_body(add: bool, h: &[f32], delta: &[f32], dy: &[f32], dh: &mut [f32]) {
    let norm = dot_body(h, h).sqrt();
    let pull = if norm > 0.0 { (dot_body(dy, delta) / norm) as f32 } else { 0.0 };
    for ((dh, dy), h) in dh.iter_mut().zip(dy).zip(h) {
        let d = *dy + pull * *h;
        *dh = if add { *dh + d } else { d };
    }
}

/// ddelta = |h| dy; rows `[n, len]`.
pub fn tap_delta(workers: &Workers, len: usize, h: &[f32], dy: &[f32], ddelta: &mut [f32]) {
    by_rows(workers, len, [h, dy], ddelta, |[h, dy], ddelta| tap_delta_row(workers.isa, h, dy, ddelta));
}

per_isa! { fn tap_delta_row(h: &[f32], dy: &[f32], ddelta: &mut [f32]) = tap_delta_body; }

#[inline(always)]
fn tap_delta_body(h: &[f32], dy: &[f32], ddelta: &mut [f32]) {
    let norm = dot_body(h, h).sqrt() as f32;
    for (ddelta, dy) in ddelta.iter_mut().zip(dy) {
        *ddelta = norm * *dy;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    /// Lengths of one element, one short chunk, and several chunks with a cut last one.
    const LENGTHS: [usize; 4] = [1, 77, CHUNK, 2 * CHUNK + 33];

    #[test]
    fn relu_add_and_copy_are_their_formulas() {
        for len in LENGTHS {
            let (a, b, before) = (normal(1, len), normal(2, len), normal(3, len));
            let run = |f: &dyn Fn(&Workers, &mut [f32]), start: &[f32]| {
                same_for_all(|workers| {
                    let mut y = start.to_vec();
                    f(workers, &mut y);
                    y
                })
            };
            let nan = poisoned(len);
            let each = |f: &dyn Fn(usize) -> f32| (0..len).map(f).collect::<Vec<f32>>();
            let masked = |i: usize| if a[i] > 0.0 { b[i] } else { 0.0 };
            assert_eq!(run(&|w, y| relu(w, &a, y), &nan), each(&|i| a[i].max(0.0)));
            assert_eq!(run(&|w, y| add(w, &a, &b, y), &nan), each(&|i| a[i] + b[i]));
            assert_eq!(run(&|w, y| copy(w, false, &a, y), &nan), a);
            assert_eq!(run(&|w, y| copy(w, true, &a, y), &before), each(&|i| before[i] + a[i]));
            assert_eq!(run(&|w, y| relu_backward(w, false, &a, &b, y), &nan), each(&masked));
            assert_eq!(run(&|w, y| relu_backward(w, true, &a, &b, y), &before), each(&|i| before[i] + masked(i)));
        }
    }

    #[test]
    fn relu_keeps_nan_and_its_backward_is_zero_at_zero() {
        for workers in all_workers() {
            let mut y = [1.0; 20];
            relu(&workers, &[f32::NAN; 20], &mut y);
            assert!(y.iter().all(|v| v.is_nan()));
            let mut dx = [f32::NAN; 20];
            relu_backward(&workers, false, &[0.0; 20], &[1.0; 20], &mut dx);
            assert_eq!(dx, [0.0; 20]);
        }
    }

    fn run_dropout(s: &Dropout, add: bool, counters: &Counters, x: &[f32], before: &[f32]) -> Vec<f32> {
        same_for_all(|workers| {
            let mut y = before.to_vec();
            dropout(workers, s, add, counters, x, &mut y);
            y
        })
    }

    #[test]
    fn dropout_keeps_one_minus_p_scales_the_rest_and_adds_where_asked() {
        let (n, len) = (70, 101);
        let counters = Counters { seed: 5, epoch: 3, first: 640, rows: 128, dataset: 0 };
        let (x, before) = (normal(1, n * len), normal(2, n * len));
        for p in [0.0, 0.3, 0.5] {
            let s = Dropout { len, offset: 0, p, stream: rng::stream("fc.dropout") };
            let y = run_dropout(&s, false, &counters, &x, &poisoned(x.len()));
            for (i, (x, y)) in x.iter().zip(&y).enumerate() {
                let (row, element) = (i / len, i % len);
                let words = rng::draw(5, s.stream, 3, 640 + row as u32, element as u32 / 4);
                let kept = rng::unit(words[element % 4]) >= p;
                assert_eq!(*y, if kept { x * (1.0 / (1.0 - p)) } else { 0.0 });
            }
            let kept = y.iter().filter(|v| **v != 0.0).count() as f32 / y.len() as f32;
            assert!((kept - (1.0 - p)).abs() < 0.02, "p {p}: {kept} kept");
            let added = run_dropout(&s, true, &counters, &x, &before);
            assert!(added.iter().zip(&y).zip(&before).all(|((added, y), before)| *added == before + y));
        }
    }

    #[test]
    fn dropout_of_a_split_batch_is_that_of_the_whole() {
        let (n, len) = (10, 30);
        let counters = Counters { seed: 1, epoch: 0, first: 20, rows: 10, dataset: 0 };
        let x = normal(1, n * len);
        let whole = Dropout { len, offset: 0, p: 0.4, stream: 9 };
        let expected = run_dropout(&whole, false, &counters, &x, &poisoned(x.len()));
        let (head, tail) = x.split_at(4 * len);
        let mut got = run_dropout(&whole, false, &counters, head, &poisoned(head.len()));
        got.extend(run_dropout(&Dropout { offset: 4, ..whole }, false, &counters, tail, &poisoned(tail.len())));
        assert_eq!(got, expected);
    }

    /// h + |h| delta, in f64.
    fn naive_tap(len: usize, h: &[f64], delta: &[f64]) -> Vec<f64> {
        let norm = |row: usize| h[row * len..][..len].iter().map(|v| v * v).sum::<f64>().sqrt();
        (0..h.len()).map(|i| h[i] + norm(i / len) * delta[i]).collect()
    }

    #[test]
    fn taps_perturb_relative_to_the_norm_and_their_backwards_are_derivatives() {
        for (n, len) in [(1, 1), (5, 77), (40, 500)] {
            let (h, delta, dy) = (normal(1, n * len), normal(2, n * len), normal(3, n * len));
            let run = |f: &dyn Fn(&Workers, &mut [f32]), start: &[f32]| {
                same_for_all(|workers| {
                    let mut y = start.to_vec();
                    f(workers, &mut y);
                    y
                })
            };
            let nan = poisoned(h.len());
            let (h64, delta64, dy64) = (wide(&h), wide(&delta), wide(&dy));
            let what = format!("n {n}, len {len}");
            assert_close(&what, &run(&|w, y| tap(w, len, &h, &delta, y), &nan), &naive_tap(len, &h64, &delta64), 1e-6);

            let at: Vec<usize> = (0..h.len()).step_by(1 + h.len() / 50).collect();
            let pick = |v: &[f32]| at.iter().map(|&i| v[i]).collect::<Vec<f32>>();
            let loss = |h: &[f64], delta: &[f64]| -> f64 {
                naive_tap(len, h, delta).iter().zip(&dy64).map(|(y, d)| y * d).sum()
            };
            let dh = run(&|w, y| tap_backward(w, len, false, &h, &delta, &dy, y), &nan);
            assert_close(&what, &pick(&dh), &differences(&h64, &at, |h| loss(h, &delta64)), 2e-6);
            let added = run(&|w, y| tap_backward(w, len, true, &h, &delta, &dy, y), &delta);
            assert!(added.iter().zip(&dh).zip(&delta).all(|((added, dh), before)| *added == before + dh));
            let ddelta = run(&|w, y| tap_delta(w, len, &h, &dy, y), &nan);
            assert_close(&what, &pick(&ddelta), &differences(&delta64, &at, |delta| loss(&h64, delta)), 2e-6);
        }
    }

    #[test]
    fn a_tap_on_a_row_of_zeros_is_the_identity() {
        let (zeros, some) = ([0.0; 9], [1.0, -2.0, 3.0, 4.0, -5.0, 6.0, 7.0, 8.0, 9.0]);
        for workers in all_workers() {
            let mut out = [f32::NAN; 9];
            tap(&workers, 9, &zeros, &some, &mut out);
            assert_eq!(out, zeros);
            tap_backward(&workers, 9, false, &zeros, &some, &some, &mut out);
            assert_eq!(out, some);
            tap_delta(&workers, 9, &zeros, &some, &mut out);
            assert_eq!(out, zeros);
        }
    }
}
