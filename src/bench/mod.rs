//! Speed: this machine's limits, every operation of the table at real sizes, whole steps and their calls, and data
//! loading.
//!
//! Every result is one JSON object with a unique name and a figure with its spread, so that a later run can be compared
//! with it by name. A machine drifts by 10 to 25 % from hour to hour, so each run measures the machine's limits first.

pub mod compare;
pub mod estimate;
pub mod limits;
pub mod loading;
pub mod operations;
pub mod process;
pub mod profile;
pub mod steps;
pub mod trace;
pub mod tune;

use crate::error::Result;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Median and extremes of repeated measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Returns the spread of `values`; NaN if there are none.
    pub fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return Spread { median: f64::NAN, min: f64::NAN, max: f64::NAN };
        };
        let n = sorted.len();
        Spread { median: (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0, min: *min, max: *max }
    }

    /// Rates `amount / seconds` of what takes this many seconds: the longest time is the lowest rate.
    pub fn rates(self, amount: f64) -> Spread {
        Spread { median: amount / self.median, min: amount / self.max, max: amount / self.min }
    }

    /// In another unit.
    pub fn times(self, factor: f64) -> Spread {
        Spread { median: factor * self.median, min: factor * self.min, max: factor * self.max }
    }

    /// With six digits, which is far more than repeats.
    pub fn to_json(self) -> Value {
        json!({"median": rounded(self.median), "min": rounded(self.min), "max": rounded(self.max)})
    }
}

/// `value` with six significant digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Most repeats of one measurement: what takes a microsecond would otherwise fill memory with times.
const MOST_REPEATS: usize = 10_000;
/// Least repeats, however long they take: below three there is no median.
const LEAST_REPEATS: usize = 3;

/// Runs `f` once untimed, then until `budget` is used up, and returns what it returned each time.
///
/// # Errors
/// The first one of `f`.
fn repeat<T>(budget: Duration, mut f: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    f()?;
    let begun = Instant::now();
    let mut results = Vec::new();
    while results.len() < LEAST_REPEATS || (begun.elapsed() < budget && results.len() < MOST_REPEATS) {
        results.push(f()?);
    }
    Ok(results)
}

/// Seconds that `f` takes.
fn timed(f: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    f()?;
    Ok(begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_and_turns_over_as_a_rate() {
        for (values, median, min, max) in
            [(&[3.0, 1.0, 2.0][..], 2.0, 1.0, 3.0), (&[4.0, 1.0, 2.0, 9.0], 3.0, 1.0, 9.0), (&[5.0], 5.0, 5.0, 5.0)]
        {
            assert_eq!(Spread::of(values), Spread { median, min, max });
        }
        assert!(Spread::of(&[]).median.is_nan());
        let seconds = Spread { median: 0.5, min: 0.25, max: 1.0 };
        assert_eq!(seconds.rates(128.0), Spread { median: 256.0, min: 128.0, max: 512.0 });
        assert_eq!(rounded(1_234_567.9), 1_234_570.0);
        assert!(rounded(f64::INFINITY).is_infinite());
    }

    #[test]
    fn repeats_end_with_the_budget_but_never_below_three() {
        assert_eq!(repeat(Duration::ZERO, || timed(|| Ok(()))).unwrap().len(), LEAST_REPEATS);
        assert_eq!(repeat(Duration::from_secs(3600), || Ok(())).unwrap().len(), MOST_REPEATS);
        let failing = || Err::<(), _>(crate::error::Error::usage("no"));
        assert!(repeat(Duration::ZERO, failing).is_err());
    }
}
