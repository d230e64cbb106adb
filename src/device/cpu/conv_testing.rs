//! What the tests of convolution and linear kernels share.

use super::Workers;
use super::pool::Pool;
use super::simd::Isa;
use crate::rng::{Draws, stream};

/// `len` standard normal values; other values for each `name`.
pub fn normal(name: &str, len: usize) -> Vec<f32> {
    let mut draws = Draws::new(1, stream(name), 0, 0);
    (0..len).map(|_| draws.normal() as f32).collect()
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
pub fn assert_close(what: &str, got: &[f32], want: &[Sum]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let (mut error, mut norm) = (0.0, 0.0);
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (f64::from(*got) - want.value).abs();
        let bound = 4.0 * f64::from(f32::EPSILON) * f64::from(want.terms).sqrt() * want.absolute;
        assert!(difference <= bound, "{what}: element {i} is {got}, not {} (bound {bound:e})", want.value);
        error += difference.powi(2);
        norm += want.value.powi(2);
    }
    assert!(error.sqrt() <= 1e-6 * norm.sqrt(), "{what}: relative L2 error {:e}", (error / norm).sqrt());
}

/// Runs `f` on every instruction set of this CPU with 1, 2, 3 and 8 threads, and asserts the same bits for all numbers
/// of threads. Gives `check` the name of the set and what `f` returned.
pub fn on_all_workers(what: &str, f: impl Fn(&Workers) -> Vec<Vec<f32>>, check: impl Fn(&str, &[Vec<f32>])) {
    let bits = |all: &[Vec<f32>]| -> Vec<Vec<u32>> {
        all.iter().map(|values| values.iter().map(|v| v.to_bits()).collect()).collect()
    };
    for (isa, name) in Isa::ALL.into_iter().filter(|i| i.0 <= Isa::best()) {
        let first = f(&Workers { pool: Pool::new(1), isa });
        check(&format!("{what} on {name}"), &first);
        for threads in [2, 3, 8] {
            let again = f(&Workers { pool: Pool::new(threads), isa });
            assert!(bits(&again) == bits(&first), "{what} on {name}: other bits with {threads} threads");
        }
    }
}
