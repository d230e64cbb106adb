//! Rows times random factors: Shake-Shake and ShakeDrop.

use super::Workers;
use super::simd::per_isa;
use super::split::{images_a_job, split};
use super::stored::Stored;
use crate::ops::call::{Counters, RowFactors};
use crate::rng::{draw, unit};

/// The factor of row `row`.
fn factor(s: &RowFactors, counters: &Counters, row: usize) -> f32 {
    let index = counters.first.wrapping_add((s.offset + row) as u32);
    let words = draw(counters.seed, s.stream, counters.epoch, index, 0);
    // Exact for the bases and slopes there are: a unit is a multiple of 2^-24.
    if unit(words[2]) < s.one { 1.0 } else { s.base + s.slope * unit(words[s.word]) }
}

/// y = f a + (1 - f) b with rows `[n, len]` and f the row's factor.
pub fn mix_rows<T: Stored>(workers: &Workers, s: &RowFactors, counters: &Counters, a: &[T], b: &[T], y: &mut [T]) {
    let rows = images_a_job(s.len);
    split(workers, [(y, rows * s.len)], |job, [y]| {
        for (i, y) in y.chunks_exact_mut(s.len).enumerate() {
            let row = job * rows + i;
            let at = row * s.len..(row + 1) * s.len;
            mix_row(workers.isa, factor(s, counters, row), &a[at.clone()], &b[at], y);
        }
    });
}

per_isa! { fn mix_row<T: Stored>(f: f32, a: &[T], b: &[T], y: &mut [T]) = mix_body; }

#[inline(always)]
fn mix_body<T: Stored>(f: f32, a: &[T], b: &[T], y: &mut [T]) {
    let rest = 1.0 - f;
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = T::round(f * a.widen() + rest * b.widen());
    }
}

/// y = (or +=) f x with rows `[n, len]` and f the row's factor.
pub fn scale_rows<T: Stored>(workers: &Workers, s: &RowFactors, add: bool, counters: &Counters, x: &[T], y: &mut [T]) {
    let rows = images_a_job(s.len);
    split(workers, [(y, rows * s.len)], |job, [y]| {
        for (i, y) in y.chunks_exact_mut(s.len).enumerate() {
            let row = job * rows + i;
            scale_row(workers.isa, factor(s, counters, row), add, &x[row * s.len..][..s.len], y);
        }
    });
}

per_isa! { fn scale_row<T: Stored>(f: f32, add: bool, x: &[T], y: &mut [T]) = scale_body; }

#[inline(always)]
fn scale_body<T: Stored>(f: f32, add: bool, x: &[T], y: &mut [T]) {
    for (y, x) in y.iter_mut().zip(x) {
        let scaled = f * x.widen();
        *y = T::round(if add { y.widen() + scaled } else { scaled });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    const COUNTERS: Counters = Counters { seed: 5, epoch: 3, first: 640, rows: 128, dataset: 0 };

    fn run(s: &RowFactors, x: &[f32]) -> Vec<f32> {
        same_for_all(|workers| {
            let mut y = poisoned(x.len());
            scale_rows(workers, s, false, &COUNTERS, x, &mut y);
            y
        })
    }

    #[test]
    fn rows_of_a_split_batch_have_the_factors_of_the_whole() {
        let whole = RowFactors { n: 70, len: 301, offset: 0, stream: 9, word: 1, base: 0.0, slope: 1.0, one: 0.5 };
        let x = normal(1, whole.n * whole.len);
        let expected = run(&whole, &x);
        let (head, tail) = x.split_at(23 * whole.len);
        let mut got = run(&RowFactors { n: 23, ..whole }, head);
        got.extend(run(&RowFactors { n: 47, offset: 23, ..whole }, tail));
        assert_eq!(got, expected);
        // Half of the rows stay as they are.
        let kept = x.chunks(whole.len).zip(expected.chunks(whole.len)).filter(|(x, y)| x == y).count();
        assert!((20..50).contains(&kept), "{kept}");
    }

    #[test]
    fn a_mixture_and_the_two_parts_of_its_gradient_add_up_to_the_whole() {
        let s = RowFactors { n: 40, len: 500, offset: 2, stream: 7, word: 0, base: 0.0, slope: 1.0, one: 0.0 };
        let x = normal(1, s.n * s.len);
        let rest = RowFactors { base: 1.0, slope: -1.0, ..s };
        let (first, second) = (run(&s, &x), run(&rest, &x));
        let sum: Vec<f32> = first.iter().zip(&second).map(|(a, b)| a + b).collect();
        let mixed = same_for_all(|workers| {
            let mut y = poisoned(x.len());
            mix_rows(workers, &s, &COUNTERS, &x, &x, &mut y);
            y
        });
        assert_eq!(mixed, sum);
        assert_close("the whole", &sum, &wide(&x), 1e-6);
    }
}
