//! Limits of this CPU beside the multiply-add and copy limits that `samcore bench` measures itself: bf16 dot products in
//! registers, the `gemm` crate's matrix products, reading alone. Prints a line of JSON for each.
//!
//!     cargo run --release -- 2          # threads; all if not given

use gemm::Parallelism;
use std::hint::black_box;
use std::time::Instant;

const REPEATS: usize = 9;
/// Floats that are read: 256 MiB, more than the caches.
const READ: usize = 64 << 20;

/// Shows the rate of `f`, which does `amount` each time, in billions a second.
fn show(what: &str, unit: &str, amount: f64, mut f: impl FnMut()) {
    f();
    let mut rates: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let begun = Instant::now();
            f();
            amount / begun.elapsed().as_secs_f64() / 1e9
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    println!(
        "{{\"what\": \"{what}\", \"unit\": \"{unit}\", \"median\": {:.1}, \"min\": {:.1}, \"max\": {:.1}}}",
        rates[REPEATS / 2],
        rates[0],
        rates[REPEATS - 1]
    );
}

fn on_threads(threads: usize, f: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let f = &f;
            scope.spawn(move || f(thread));
        }
    });
}

#[cfg(target_arch = "x86_64")]
mod bf16 {
    use std::arch::x86_64::*;

    /// Dot products of one thread; each has 16 lanes of two products, so 64 flops.
    pub const ROUNDS: usize = 1 << 22;
    const SUMS: usize = 12;
    pub const FLOPS: usize = ROUNDS * SUMS * 64;

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn dots(a: i16, b: i16) -> f32 {
        // SAFETY: both are 512 bits, and every pattern of bits is a value.
        let bits = |v: i16| unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(v)) };
        let (a, b) = (bits(a), bits(b));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        sums.into_iter().fold(0.0, |total, sum| total + _mm512_reduce_add_ps(sum))
    }
}

fn main() {
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(all).max(1);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
        // 1 and a number small enough that the sums stay finite.
        let (one, tiny) = (0x3f80, 0x2000);
        show(&format!("bf16 dot products, {threads} threads"), "GFLOP/s", (threads * bf16::FLOPS) as f64, || {
            on_threads(threads, |_| {
                // SAFETY: the CPU has the instructions, as asked above.
                black_box(unsafe { bf16::dots(black_box(one), black_box(tiny)) });
            });
        });
    }
    for size in [1024usize, 2048] {
        let a: Vec<f32> = (0..size * size).map(|i| (i % 13) as f32 * 0.1).collect();
        let b: Vec<f32> = (0..size * size).map(|i| (i % 7) as f32 * 0.1).collect();
        let mut c = vec![0f32; size * size];
        let row = size as isize;
        let parallelism = if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
        let flops = 2.0 * (size as f64).powi(3);
        show(&format!("gemm crate, f32, {size}, {threads} threads"), "GFLOP/s", flops, || {
            let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
            // SAFETY: three square row-major matrices of that size, none of which overlap.
            unsafe {
                gemm::gemm(
                    size,
                    size,
                    size,
                    c,
                    1,
                    row,
                    false,
                    a,
                    1,
                    row,
                    b,
                    1,
                    row,
                    0f32,
                    1f32,
                    false,
                    false,
                    false,
                    parallelism,
                )
            }
        });
    }
    let values = vec![1f32; READ];
    let part = READ.div_ceil(threads);
    show(&format!("read, 256 MiB, {threads} threads"), "GB/s", 4.0 * READ as f64, || {
        on_threads(threads, |thread| {
            let mine = &values[(thread * part).min(READ)..((thread + 1) * part).min(READ)];
            // Sums in 64 lanes, so that additions do not wait for each other.
            let mut sums = [0f32; 64];
            for values in mine.chunks_exact(64) {
                sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
            }
            black_box(sums);
        });
    });
}
