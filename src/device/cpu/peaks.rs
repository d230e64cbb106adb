//! Two loops that run into the machine's limits: arithmetic without memory, and memory without arithmetic.

use super::Workers;
use super::simd::Isa;
use super::split::split;
use super::tile::{Vector, lanes};
use std::hint::black_box;

/// Sums that a job keeps in registers. A multiply-add takes 4 cycles and at most 2 begin in each, so 8 sums keep a core
/// busy; 12 leave some slack and fit the 16 registers of AVX2.
const SUMS: usize = 12;

/// Multiply-adds of each sum in one job: a job takes 0.2 ms at 100 GFLOP/s, the hand-out of it 0.1 µs.
const ROUNDS: usize = 1 << 16;

/// Jobs a thread in one sample of the multiply-add loop: 3 ms, of which the end of the slowest thread is a small part.
pub const JOBS: usize = 16;

/// Runs `jobs` jobs of multiply-adds in registers and returns their flops, a multiply-add counted as two.
pub fn multiply_add(workers: &Workers, jobs: usize) -> u64 {
    let isa = workers.isa;
    workers.pool.run(jobs, |_, _| {
        let start = black_box(1.0);
        let end = match isa {
            // SAFETY: `Isa::detect` and `CpuDevice::with_isa` let only sets pass that this CPU has.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::wide(start) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::half(start) },
            // SAFETY: plain code is there on every CPU.
            _ => unsafe { sums::<[f32; 4]>(start) },
        };
        black_box(end);
    });
    (jobs * ROUNDS * SUMS * lanes(isa) * 2) as u64
}

/// # Safety
/// The CPU has the instructions of `V`.
#[inline(always)]
unsafe fn sums<V: Vector>(start: f32) -> [f32; 16] {
    // SAFETY: the caller's promise; all pointers are to values of this function, which are long enough.
    unsafe {
        let (factor, term) = (V::splat(&0.999_999), V::splat(&1e-7));
        let mut sums = [V::splat(&start); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = factor.mul_add(*sum, term);
            }
        }
        let total = sums.into_iter().fold(V::zero(), |total, sum| total.add(sum));
        let mut lanes = [0.0; 16];
        total.store_first(lanes.as_mut_ptr(), V::COUNT);
        lanes
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::sums;
    use std::arch::x86_64::{__m256, __m512};

    #[target_feature(enable = "avx512f")]
    pub fn wide(start: f32) -> [f32; 16] {
        // SAFETY: the instructions are enabled here.
        unsafe { sums::<__m512>(start) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn half(start: f32) -> [f32; 16] {
        // SAFETY: as above.
        unsafe { sums::<__m256>(start) }
    }
}

/// Copies `from` to `to`, which has its length, in up to 64 parts, and returns the bytes read and written.
pub fn copy(workers: &Workers, from: &[f32], to: &mut [f32]) -> u64 {
    let part = to.len().div_ceil(64).max(1);
    let bytes = 2 * size_of_val(to) as u64;
    split(workers, [(to, part)], |job, [to]| to.copy_from_slice(&from[job * part..][..to.len()]));
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::testing::all_workers;
    use super::*;

    #[test]
    fn the_loops_do_the_work_that_they_count() {
        // x -> 0.999999 x + 1e-7 tends to 0.1; after ROUNDS steps from 1 it is 0.1 + 0.9 exp(-0.0655).
        let expected = SUMS as f32 * (0.1 + 0.9 * (-(ROUNDS as f32) * 1e-6).exp());
        // SAFETY: plain code.
        let plain = unsafe { sums::<[f32; 4]>(1.0) };
        assert!(plain[..4].iter().all(|v| (v / expected - 1.0).abs() < 0.01), "{plain:?}, expected {expected}");
        for workers in all_workers() {
            assert_eq!(multiply_add(&workers, 3), (3 * ROUNDS * SUMS * 2 * lanes(workers.isa)) as u64);
            for len in [0, 1, 63, 1000] {
                let from: Vec<f32> = (0..len).map(|i| i as f32).collect();
                let mut to = vec![-1.0; len];
                assert_eq!(copy(&workers, &from, &mut to), 8 * len as u64);
                assert_eq!(from, to);
            }
        }
    }
}
