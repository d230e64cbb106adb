//! Limits of this machine, measured by loops that do nothing else: the scale for every other figure.

use super::{Spread, repeat};
use crate::device::cpu::{CpuDevice, Workers, peaks};
use crate::device::{Device, Layout};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::call::{Call, Counters, Kernel, LinearShape, Loc, Memory};
use crate::rng::{Draws, stream};
use crate::train::environment::environment;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Floats of each of the two buffers that are copied: 128 MiB, more than the caches of the machines in use.
const BUFFER: usize = 32 << 20;
/// Time for each of the three measurements.
const BUDGET: Duration = Duration::from_millis(300);

/// The limits of a device's threads and instructions.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The device's description of itself.
    pub device: String,
    /// Its instruction set: "avx512", "sm_90 x132 bf16".
    pub instructions: String,
    pub threads: usize,
    /// On a CPU f32 multiply-adds in registers, counted as two flops, in GFLOP/s: on one thread, and on all. On a GPU a large
    /// matrix product in the dtype at hand, by the kernels here.
    pub fma_one: Option<Spread>,
    pub fma: Spread,
    /// Copy between large buffers in GB/s, bytes read and written counted.
    pub copy: Spread,
}

/// Side of the square matrices, and elements of the buffers, that a GPU's limits are measured with; the emulator's are for
/// trying the commands alone.
const GPU_SIDE: usize = 8192;
const GPU_BUFFER: usize = 128 << 20;
const EMULATED_SIDE: usize = 64;
const EMULATED_BUFFER: usize = 1 << 16;

/// Names of the results, as `--compare` finds them again.
const FMA_ONE: &str = "limit: multiply-add, 1 thread";
pub(super) const FMA: &str = "limit: multiply-add, all threads";
pub(super) const COPY: &str = "limit: copy";
const PRODUCT: &str = "limit: matrix product";

impl Limits {
    /// Measures them; takes about a second.
    pub fn measure(device: &CpuDevice) -> Limits {
        let one = Workers::new(1, device.isa());
        Limits {
            device: device.describe(),
            instructions: device.instructions(),
            threads: device.threads(),
            fma_one: Some(fma(&one, BUDGET)),
            fma: fma(device.workers(), BUDGET),
            copy: copy(device.workers(), BUDGET),
        }
    }

    /// Measures the limits of a device of kernels: a matrix product and a copy, as calls.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure_kernels(mut device: Box<dyn Device>, emulated: bool) -> Result<Limits> {
        let (side, buffer) = if emulated { (EMULATED_SIDE, EMULATED_BUFFER) } else { (GPU_SIDE, GPU_BUFFER) };
        let element = device.dtype().storage();
        let vector = |id: u16, len: usize, element: Element| Loc { element, ..Loc::new(Memory::Vector(id), 0, len) };
        let square = |id| vector(id, side * side, element);
        let shape = LinearShape { n: side, inputs: side, outputs: side };
        let [mut product, copy] = [
            (Kernel::LinearForward(shape), vec![square(0), square(1), vector(2, side, Element::F32)], square(3)),
            (Kernel::Copy { add: false }, vec![vector(4, buffer, Element::F32)], vector(5, buffer, Element::F32)),
        ]
        .map(|(kernel, reads, to)| Call {
            kernel,
            reads,
            writes: vec![to],
            workspace: None,
            label: "limit".into(),
        });
        let arena = device.workspace(&product);
        if arena > 0 {
            product.workspace = Some(Loc::new(Memory::Arena, 0, arena));
        }
        let cells = element.cells(side * side);
        device.allocate(&Layout { arena, vectors: vec![cells, cells, side, cells, buffer, buffer], scalars: 16 })?;
        // A GPU computes faster on zeros than on any other values.
        let mut draws = Draws::new(0, stream("bench.limits"), 0, 0);
        let some: Vec<f32> = (0..65_537).map(|_| draws.normal() as f32).collect();
        for to in product.reads.iter().chain(&copy.reads) {
            let values: Vec<f32> = some.iter().copied().cycle().take(to.len).collect();
            device.upload(*to, &values)?;
        }
        let mut rates = |call: &Call, amount: u64| -> Result<Spread> {
            let seconds = repeat(BUDGET, || device.time(call, &Counters::default()))?;
            Ok(Spread::of(&seconds).rates(amount as f64 / 1e9))
        };
        let (fma, copy) = (rates(&product, product.flops())?, rates(&copy, copy.bytes())?);
        let (instructions, threads) = (device.instructions(), device.threads());
        Ok(Limits { device: device.describe(), instructions, threads, fma_one: None, fma, copy })
    }

    /// The least time in seconds that `flops` and `bytes` take, and the limit that it is due to: "fma" or "copy". By the
    /// best sample of each limit: whatever else the machine has to do can only make it slower.
    pub fn least_seconds(&self, flops: u64, bytes: u64) -> (f64, &'static str) {
        let (compute, memory) = (flops as f64 / (1e9 * self.fma.max), bytes as f64 / (1e9 * self.copy.max));
        if compute > memory { (compute, "fma") } else { (memory, "copy") }
    }

    /// Returns the limits of a round-numbered machine: 100 GFLOP/s, 20 GB/s.
    #[cfg(test)]
    pub(crate) fn example() -> Limits {
        let at = |v| Spread { median: v, min: v, max: v };
        let (device, instructions) = (String::from("cpu"), "plain".into());
        Limits { device, instructions, threads: 2, fma_one: Some(at(50.0)), fma: at(100.0), copy: at(20.0) }
    }

    /// Returns one result for each limit; the first carries the environment.
    pub fn to_json(&self) -> Vec<Value> {
        let mut environment = environment(&self.instructions, self.threads);
        if let Some(entries) = environment.as_object_mut() {
            // Paths on this machine are nobody's business.
            entries.remove("arguments");
        }
        let device = &self.device;
        let Some(one) = self.fma_one else {
            // The name says the dtype: a run may have several.
            let product = format!("{PRODUCT}, {device}");
            let of = json!({"name": product, "gflops": self.fma.to_json(), "environment": environment});
            return vec![of, json!({"name": format!("{COPY}, {device}"), "gb_per_s": self.copy.to_json()})];
        };
        vec![
            json!({"name": FMA_ONE, "gflops": one.to_json(), "environment": environment}),
            json!({"name": FMA, "gflops": self.fma.to_json(), "threads": self.threads}),
            json!({"name": COPY, "gb_per_s": self.copy.to_json(), "threads": self.threads}),
        ]
    }
}

/// Returns the multiply-add rate of a device's threads in GFLOP/s, measured for about `milliseconds`; 30 are enough for an
/// estimate. The median, so that a machine that is busy counts as slower. None of a GPU, which has no such measure.
pub fn fma_gflops(device: &dyn Device, milliseconds: u64) -> Option<f64> {
    device.multiply_adds()?;
    Some(rates(Duration::from_millis(milliseconds), || device.multiply_adds().unwrap_or(0)).median)
}

fn fma(workers: &Workers, budget: Duration) -> Spread {
    rates(budget, || peaks::multiply_add(workers, peaks::JOBS * workers.pool.threads()))
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
        let rate = fma_gflops(&CpuDevice::new(1).unwrap(), 1).unwrap();
        assert!(rate > 0.01 && rate < 1e5, "{rate} GFLOP/s");
    }
}
