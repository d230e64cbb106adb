//! What the tests of all CPU kernels share.

use super::Workers;
use super::pool::Pool;
use super::simd::Isa;
use crate::rng::{Draws, stream};

/// Every thread count that tests try, on the best instruction set; then every lesser instruction set.
pub fn all_workers() -> Vec<Workers> {
    let threads = [1, 2, 3, 8].into_iter().map(|threads| (threads, Isa::best()));
    let sets = Isa::ALL.into_iter().filter(|i| i.0 < Isa::best()).map(|i| (2, i.0));
    threads.chain(sets).map(|(threads, isa)| Workers { pool: Pool::new(threads), isa }).collect()
}

/// The result of `run`, having checked that it has the same bits for all thread counts and instruction sets.
pub fn same_for_all(run: impl Fn(&Workers) -> Vec<f32>) -> Vec<f32> {
    let mut results = all_workers().into_iter().map(|workers| {
        let label = format!("{} threads, {}", workers.pool.threads(), workers.isa.name());
        (label, run(&workers))
    });
    let (first_label, first) = results.next().expect("at least one set of workers");
    for (label, result) in results {
        assert_eq!(first.len(), result.len());
        for (i, (a, b)) in first.iter().zip(&result).enumerate() {
            assert_eq!(a.to_bits(), b.to_bits(), "element {i}: {a} ({first_label}) but {b} ({label})");
        }
    }
    first
}

/// Standard normal numbers.
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
