//! Helpers of the tests of all CPU kernels.

use super::Workers;
use super::method::Methods;
use super::simd::Isa;
use crate::rng::{Draws, stream};

/// Every thread count that tests try, on the best instruction set; then every lesser instruction set.
pub fn all_workers() -> Vec<Workers> {
    let threads = [1, 2, 3, 8].into_iter().map(|threads| (threads, Isa::best()));
    let sets = Isa::available().filter(|isa| *isa < Isa::best()).map(|isa| (2, isa));
    threads.chain(sets).map(|(threads, isa)| Workers::new(threads, isa)).collect()
}

/// The result of `run`, having checked that it has the same bits for all thread counts and instruction sets.
pub fn same_for_all(run: impl Fn(&Workers) -> Vec<f32>) -> Vec<f32> {
    let mut results = all_workers().into_iter().map(|workers| {
        let label = format!("{} threads, {}", workers.pool.threads(), workers.isa.name());
        (label, run(&workers))
    });
    let (first_label, first) = results.next().expect("at least one set of workers");
    for (label, result) in results {
        assert_same_bits(&format!("{first_label} and {label}"), &first, &result);
    }
    first
}

/// Runs `f` on every instruction set of this CPU with 1, 2, 3 and 8 threads, and asserts the same bits for all numbers
/// of threads; between sets they may differ. Gives `check` the name of the set and what `f` returned.
pub fn on_all_workers(what: &str, f: impl Fn(&Workers) -> Vec<Vec<f32>>, check: impl Fn(&str, &[Vec<f32>])) {
    with_methods(Methods::EXACT, what, f, check);
}

/// Runs it with convolutions computed by `methods`.
pub fn with_methods(
    methods: Methods,
    what: &str,
    f: impl Fn(&Workers) -> Vec<Vec<f32>>,
    check: impl Fn(&str, &[Vec<f32>]),
) {
    for isa in Isa::available() {
        let what = format!("{what} on {}", isa.name());
        let workers = |threads| Workers { methods, ..Workers::new(threads, isa) };
        let first = f(&workers(1));
        check(&what, &first);
        for threads in [2, 3, 8] {
            let again = f(&workers(threads));
            assert_same_bits(&format!("{what}, 1 and {threads} threads"), &first.concat(), &again.concat());
        }
    }
}

fn assert_same_bits(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{what}: element {i} is {a} and {b}");
    }
}

/// Standard normal numbers; others for each seed.
pub fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut draws = Draws::new(seed, stream("test"), 0, 0);
    (0..len).map(|_| draws.normal() as f32).collect()
}

pub fn poisoned(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

/// Relative L2 distance at most `tolerance`, and no element off by more than 100 times that of the largest one.
pub fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
    let (mut error, mut norm) = (0.0, 0.0);
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        let difference = (f64::from(*g) - e).abs();
        assert!(difference <= 100.0 * tolerance * largest, "{what}: element {i} is {g}, expected {e}");
        error += difference * difference;
        norm += e * e;
    }
    assert!(error.sqrt() <= tolerance * norm.sqrt(), "{what}: relative error {:e}", (error / norm).sqrt());
}

/// A sum of products in f64 with what its rounding error depends on: the sum of absolute products, and their number.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    value: f64,
    absolute: f64,
    terms: u32,
}

impl Sum {
    pub fn add(&mut self, a: f32, b: f32) {
        let product = f64::from(a) * f64::from(b);
        self.value += product;
        self.absolute += product.abs();
        self.terms += 1;
    }
}

/// Asserts a relative L2 error of at most 1e-6, and |error| <= 4 eps sqrt(K) sum |a b| for each element: the norm alone
/// would hide a wrong border pixel.
pub fn assert_sums(what: &str, got: &[f32], expected: &[Sum]) {
    assert_sums_close(what, got, expected, 1e-6);
    for (i, (got, sum)) in got.iter().zip(expected).enumerate() {
        let bound = 4.0 * f64::from(f32::EPSILON) * f64::from(sum.terms).sqrt() * sum.absolute;
        let close = (f64::from(*got) - sum.value).abs() <= bound;
        assert!(close, "{what}: element {i} is {got}, not {} (bound {bound:e})", sum.value);
    }
}

/// Asserts a relative L2 error of at most `tolerance`, and that no element is off by 100 times that of the largest one.
pub fn assert_sums_close(what: &str, got: &[f32], expected: &[Sum], tolerance: f64) {
    let values: Vec<f64> = expected.iter().map(|sum| sum.value).collect();
    assert_close(what, got, &values, tolerance);
}

/// Derivative of `f` by each element of `x` at the given positions, by central differences.
pub fn differences(x: &[f64], at: &[usize], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    at.iter()
        .map(|&i| {
            let (value, step) = (x[i], 1e-6);
            x[i] = value + step;
            let above = f(&x);
            x[i] = value - step;
            let below = f(&x);
            x[i] = value;
            (above - below) / (2.0 * step)
        })
        .collect()
}
