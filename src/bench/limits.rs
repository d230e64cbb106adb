//! What this machine can do at most, by loops that do nothing else: the scale that every other figure is held against.

use super::{Spread, repeat};
use crate::device::Device;
use crate::device::cpu::pool::Pool;
use crate::device::cpu::simd::Isa;
use crate::device::cpu::{CpuDevice, Workers, peaks};
use crate::train::environment::environment;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Jobs a thread in one sample of the multiply-add loop: 3 ms, of which the end of the slowest thread is a small part.
const JOBS: usize = 16;
/// Floats of each of the two buffers that are copied: 128 MiB, more than the caches of the machines in use.
const BUFFER: usize = 32 << 20;
/// Time for each of the three measurements.
const BUDGET: Duration = Duration::from_millis(300);

/// The limits of a device's threads and instructions.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// As the device describes itself.
    pub device: String,
    pub isa: Isa,
    pub threads: usize,
    /// f32 multiply-adds in registers, counted as two flops, in GFLOP/s: on one thread, and on all.
    pub fma_one: Spread,
    pub fma: Spread,
    /// Copy between large buffers on all threads in GB/s, bytes read and written counted.
    pub copy: Spread,
}

/// Names of the results, as `--compare` finds them again.
const FMA_ONE: &str = "limit: multiply-add, 1 thread";
pub(super) const FMA: &str = "limit: multiply-add, all threads";
pub(super) const COPY: &str = "limit: copy";

impl Limits {
    /// Measures them; takes about a second.
    pub fn measure(device: &CpuDevice) -> Limits {
        let one = Workers { pool: Pool::new(1), isa: device.isa() };
        Limits {
            device: device.describe(),
            isa: device.isa(),
            threads: device.threads(),
            fma_one: fma(&one, BUDGET),
            fma: fma(device.workers(), BUDGET),
            copy: copy(device.workers(), BUDGET),
        }
    }

    /// The least time in seconds that `flops` and `bytes` take, and the limit that it is due to: "fma" or "copy". By the
    /// best sample of each limit: whatever else the machine has to do can only make it slower.
    pub fn least_seconds(&self, flops: u64, bytes: u64) -> (f64, &'static str) {
        let (compute, memory) = (flops as f64 / (1e9 * self.fma.max), bytes as f64 / (1e9 * self.copy.max));
        if compute > memory { (compute, "fma") } else { (memory, "copy") }
    }

    /// Those of a round-numbered machine: 100 GFLOP/s, 20 GB/s.
    #[cfg(test)]
    pub(crate) fn example() -> Limits {
        let at = |v| Spread { median: v, min: v, max: v };
        let (device, isa) = (String::from("cpu"), Isa::Plain);
        Limits { device, isa, threads: 2, fma_one: at(50.0), fma: at(100.0), copy: at(20.0) }
    }

    /// One result a limit; the first carries the environment.
    pub fn to_json(&self) -> Vec<Value> {
        let mut environment = environment(self.isa.name(), self.threads);
        if let Some(entries) = environment.as_object_mut() {
            // Paths on this machine are nobody's business.
            entries.remove("arguments");
        }
        vec![
            json!({"name": FMA_ONE, "gflops": self.fma_one.to_json(), "environment": environment}),
            json!({"name": FMA, "gflops": self.fma.to_json(), "threads": self.threads}),
            json!({"name": COPY, "gb_per_s": self.copy.to_json(), "threads": self.threads}),
        ]
    }
}

/// The multiply-add rate of `threads` threads (0: all that the machine has) in GFLOP/s, measured for about
/// `milliseconds`; 50 are enough for an estimate. The median, so that a machine that is busy counts as slower.
pub fn fma_gflops(threads: usize, milliseconds: u64) -> f64 {
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let pool = Pool::new(if threads == 0 { all } else { threads });
    let isa = Isa::detect().unwrap_or(Isa::best());
    fma(&Workers { pool, isa }, Duration::from_millis(milliseconds)).median
}

fn fma(workers: &Workers, budget: Duration) -> Spread {
    rates(budget, || peaks::multiply_add(workers, JOBS * workers.pool.threads()))
}

fn copy(workers: &Workers, budget: Duration) -> Spread {
    let (from, mut to) = (vec![1.0; BUFFER], vec![2.0; BUFFER]);
    rates(budget, || peaks::copy(workers, &from, &mut to))
}

/// Billions a second of what `work` counts.
fn rates(budget: Duration, mut work: impl FnMut() -> u64) -> Spread {
    let sample = || {
        let begun = Instant::now();
        let amount = work() as f64;
        Ok(amount / begun.elapsed().as_secs_f64() / 1e9)
    };
    Spread::of(&repeat(budget, sample).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_that_binds_is_the_one_that_takes_longer() {
        let slow = |limit: Spread| Spread { median: 0.5 * limit.median, min: 0.0, ..limit };
        let limits = Limits::example();
        let limits = Limits { fma: slow(limits.fma), copy: slow(limits.copy), ..limits };
        assert_eq!(limits.least_seconds(100_000_000_000, 0), (1.0, "fma"));
        assert_eq!(limits.least_seconds(0, 40_000_000_000), (2.0, "copy"));
        assert_eq!(limits.least_seconds(100_000_000_000, 10_000_000_000), (1.0, "fma"));
        let names: Vec<_> = limits.to_json().iter().map(|line| line["name"].clone()).collect();
        assert_eq!(names, [FMA_ONE, FMA, COPY]);
    }

    #[test]
    fn a_quick_measurement_is_a_rate_that_a_cpu_can_have() {
        let rate = fma_gflops(1, 1);
        assert!(rate > 0.01 && rate < 1e5, "{rate} GFLOP/s");
    }
}
