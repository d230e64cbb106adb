//! The one inner loop of convolutions and linear layers: a small block of outputs that stays in registers.
//!
//! A block is up to 14 rows by 2 vectors with AVX-512 (28 accumulators, 2 vectors of B, 1 of A: 31 of 32 registers), up
//! to 6 by 2 with AVX2 and plain code (15 of 16). Each step loads 2 vectors of B and multiplies them by one broadcast
//! value of A a row, so 28 fused multiply-adds share 16 loads.

use super::simd::Isa;
use super::stored::Stored;
use half::bf16;
use std::ops::Range;

/// Floats of one vector.
pub fn lanes(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 16,
        Isa::Avx2 => 8,
        Isa::Plain => 4,
    }
}

/// Columns of the widest block: two vectors.
pub fn panel(isa: Isa) -> usize {
    2 * lanes(isa)
}

/// Rows of the highest block.
pub fn max_rows(isa: Isa) -> usize {
    if isa == Isa::Avx512 { AVX512.len() } else { AVX2_ROWS }
}

/// `0..total` cut into the fewest ranges of at most `most`; their lengths differ by one at most.
pub fn cuts(total: usize, most: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let parts = total.div_ceil(most);
    (0..parts).map(move |i| cut(total, parts, i))
}

/// Range `i` of `0..total` cut into `parts` near-equal ranges.
pub fn cut(total: usize, parts: usize, i: usize) -> Range<usize> {
    i * total / parts..(i + 1) * total / parts
}

/// Strides of a block over its operands, in elements.
///
/// `C[i c_row + j] += A[i a_row + r a_run + t a_step] * B[r b_run + t b_step + j]`, summed over r < `runs`, t < `len`;
/// `=` without `add`.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    pub runs: usize,
    pub len: usize,
    pub a_row: usize,
    pub a_run: usize,
    pub a_step: usize,
    pub b_run: usize,
    pub b_step: usize,
    pub c_row: usize,
    pub add: bool,
}

impl Walk {
    /// Computes `rows` by `columns` outputs at the start of `c`.
    ///
    /// B is read in whole vectors, so it must reach up to `columns` rounded up to [`lanes`]; what it holds there does
    /// not matter. Sums run in the order of (r, t), whatever `rows` and `columns` are.
    ///
    /// # Panics
    /// If `rows` exceeds [`max_rows`], `columns` exceeds [`panel`], or the walk leaves a slice.
    #[inline]
    pub fn run(&self, isa: Isa, rows: usize, columns: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
        let vectors = columns.div_ceil(lanes(isa));
        assert!(rows >= 1 && rows <= max_rows(isa) && (1..=2).contains(&vectors), "a block of {rows} x {columns}");
        if self.runs > 0 && self.len > 0 {
            let (runs, len) = (self.runs - 1, self.len - 1);
            let a_last = (rows - 1) * self.a_row + runs * self.a_run + len * self.a_step;
            let b_end = runs * self.b_run + len * self.b_step + vectors * lanes(isa);
            assert!(a_last < a.len() && b_end <= b.len(), "{self:?} leaves A of {} or B of {}", a.len(), b.len());
        }
        assert!((rows - 1) * self.c_row + columns <= c.len(), "{self:?} leaves C of {}", c.len());
        let kernel = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => AVX512[rows - 1][vectors - 1],
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => AVX2[rows - 1][vectors - 1],
            _ => PLAIN[rows - 1][vectors - 1],
        };
        // SAFETY: all that the walk touches lies in the slices by the assertions above, and `Isa::detect` names only
        // sets that this CPU has.
        unsafe { kernel(self, columns, a.as_ptr(), b.as_ptr(), c.as_mut_ptr()) }
    }
}

/// One vector register. Callers promise that the instruction set is there and that all pointers are valid for what is
/// read or written: one float (`splat`), `COUNT` floats (`load`), or the first `count <= COUNT`.
pub trait Vector: Copy {
    const COUNT: usize;
    unsafe fn zero() -> Self;
    unsafe fn set(value: f32) -> Self;
    unsafe fn splat(from: *const f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self * b + c`
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// `c - self * b`
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    /// The first `count` floats, then zeros.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// The first `count` of bf16 values, widened, then zeros.
    unsafe fn load_bf16(from: *const bf16, count: usize) -> Self;
    /// Rounds as [`super::stored::Stored`] does.
    unsafe fn store_bf16(self, to: *mut bf16, count: usize);
}

type Kernel = unsafe fn(&Walk, usize, *const f32, *const f32, *mut f32);

/// A block of `R` rows and `N` vectors.
///
/// # Safety
/// As for [`Walk::run`], which checks it.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // Zipped and chained iterators are unrolled less reliably; see HALF.
unsafe fn block<V: Vector, const R: usize, const N: usize>(
    walk: &Walk,
    columns: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
) {
    // SAFETY: the caller's promise; pointers beyond the last step are made, but not read.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        for run in 0..walk.runs {
            let mut a = a.wrapping_add(run * walk.a_run);
            let mut b = b.wrapping_add(run * walk.b_run);
            for _ in 0..walk.len {
                let columns: [V; N] = std::array::from_fn(|v| V::load(b.wrapping_add(v * V::COUNT)));
                for i in 0..R.min(HALF) {
                    multiply_add(a.wrapping_add(i * walk.a_row), columns, &mut sums[i]);
                }
                for i in HALF..R {
                    multiply_add(a.wrapping_add(i * walk.a_row), columns, &mut sums[i]);
                }
                a = a.wrapping_add(walk.a_step);
                b = b.wrapping_add(walk.b_step);
            }
        }
        for i in 0..R.min(HALF) {
            store(walk, columns, &sums[i], c.wrapping_add(i * walk.c_row));
        }
        for i in HALF..R {
            store(walk, columns, &sums[i], c.wrapping_add(i * walk.c_row));
        }
    }
}

/// Rows that one loop goes over. The compiler must unroll loops over rows, or the sums stay in memory (five times
/// slower); with `opt-level = 2` it does so only for short loops, hence two loops for 14 rows.
const HALF: usize = 7;

/// # Safety
/// As for [`Vector`].
#[inline(always)]
unsafe fn multiply_add<V: Vector, const N: usize>(a: *const f32, columns: [V; N], sums: &mut [V; N]) {
    // SAFETY: the caller's promise.
    unsafe {
        let x = V::splat(a);
        for (sum, column) in sums.iter_mut().zip(columns) {
            *sum = x.mul_add(column, *sum);
        }
    }
}

/// # Safety
/// As for [`Vector`].
#[inline(always)]
unsafe fn store<V: Vector, const N: usize>(walk: &Walk, columns: usize, sums: &[V; N], c: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        for (v, sum) in sums.iter().enumerate() {
            let to = c.add(v * V::COUNT);
            let count = V::COUNT.min(columns - v * V::COUNT);
            let sum = if walk.add { V::load_first(to, count).add(*sum) } else { *sum };
            sum.store_first(to, count);
        }
    }
}

const AVX2_ROWS: usize = 6;

/// # Safety
/// As for [`Walk::run`], which checks it.
unsafe fn plain<const R: usize, const N: usize>(w: &Walk, columns: usize, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { block::<[f32; 4], R, N>(w, columns, a, b, c) }
}

/// Kernels by rows - 1 and vectors - 1.
const PLAIN: [[Kernel; 2]; AVX2_ROWS] = [
    [plain::<1, 1>, plain::<1, 2>],
    [plain::<2, 1>, plain::<2, 2>],
    [plain::<3, 1>, plain::<3, 2>],
    [plain::<4, 1>, plain::<4, 2>],
    [plain::<5, 1>, plain::<5, 2>],
    [plain::<6, 1>, plain::<6, 2>],
];

/// Four floats that the compiler maps to what the target's baseline has. Multiply, then add: without the instruction a
/// fused multiply-add is a library call.
impl Vector for [f32; 4] {
    const COUNT: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 4]
    }
    #[inline(always)]
    unsafe fn set(value: f32) -> Self {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller's promise, as in all of these.
        [unsafe { *from }; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        std::array::from_fn(|i| self[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        std::array::from_fn(|i| c[i] - self[i] * b[i])
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] - b[i])
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: as above.
        std::array::from_fn(|i| if i < count { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: as above.
        unsafe { to.copy_from_nonoverlapping(self.as_ptr(), count) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16, count: usize) -> Self {
        // SAFETY: as above.
        std::array::from_fn(|i| if i < count { unsafe { (*from.add(i)).widen() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, count: usize) {
        for (i, value) in self.into_iter().enumerate().take(count) {
            // SAFETY: as above.
            unsafe { *to.add(i) = Stored::round(value) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
use x86::{AVX2, AVX512};

#[cfg(not(target_arch = "x86_64"))]
const AVX512: [[Kernel; 2]; 14] = [[plain::<1, 1>; 2]; 14];

#[cfg(target_arch = "x86_64")]
mod x86;
