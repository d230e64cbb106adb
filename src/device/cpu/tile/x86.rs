//! Blocks and vectors of AVX-512 and AVX2.

use super::{AVX2_ROWS, Kernel, Vector, Walk, block};
use half::bf16;
use std::arch::x86_64::*;

/// # Safety
/// As for [`Walk::run`], which checks it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn wide<const R: usize, const N: usize>(w: &Walk, columns: usize, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { block::<__m512, R, N>(w, columns, a, b, c) }
}

/// # Safety
/// As for [`Walk::run`], which checks it.
#[target_feature(enable = "avx2,fma")]
unsafe fn half<const R: usize, const N: usize>(w: &Walk, columns: usize, a: *const f32, b: *const f32, c: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { block::<__m256, R, N>(w, columns, a, b, c) }
}

/// Kernels by rows - 1 and vectors - 1.
pub const AVX512: [[Kernel; 2]; 14] = [
    [wide::<1, 1>, wide::<1, 2>],
    [wide::<2, 1>, wide::<2, 2>],
    [wide::<3, 1>, wide::<3, 2>],
    [wide::<4, 1>, wide::<4, 2>],
    [wide::<5, 1>, wide::<5, 2>],
    [wide::<6, 1>, wide::<6, 2>],
    [wide::<7, 1>, wide::<7, 2>],
    [wide::<8, 1>, wide::<8, 2>],
    [wide::<9, 1>, wide::<9, 2>],
    [wide::<10, 1>, wide::<10, 2>],
    [wide::<11, 1>, wide::<11, 2>],
    [wide::<12, 1>, wide::<12, 2>],
    [wide::<13, 1>, wide::<13, 2>],
    [wide::<14, 1>, wide::<14, 2>],
];

/// Kernels by rows - 1 and vectors - 1.
pub const AVX2: [[Kernel; 2]; AVX2_ROWS] = [
    [half::<1, 1>, half::<1, 2>],
    [half::<2, 1>, half::<2, 2>],
    [half::<3, 1>, half::<3, 2>],
    [half::<4, 1>, half::<4, 2>],
    [half::<5, 1>, half::<5, 2>],
    [half::<6, 1>, half::<6, 2>],
];

// SAFETY of the calls below: the trait's promise covers the instructions and the pointers.
impl Vector for __m512 {
    const COUNT: usize = 16;
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn set(value: f32) -> Self {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        unsafe { _mm512_set1_ps(*from) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        unsafe { _mm512_fnmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { _mm512_add_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { _mm512_sub_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, from) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // A masked store is several micro-operations on AMD: one of the two is a branch that is always predicted.
        if count == 16 {
            unsafe { _mm512_storeu_ps(to, self) }
        } else {
            unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as u16, self) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16, count: usize) -> Self {
        unsafe {
            let low = _mm256_maskz_loadu_epi16(((1u32 << count) - 1) as u16, from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(low)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, count: usize) {
        unsafe {
            let bits = _mm512_castps_si512(self);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, self);
            let high = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, nan, quiet));
            let low = _mm512_cvtepi32_epi16(high);
            if count == 16 {
                _mm256_storeu_si256(to.cast(), low);
            } else {
                _mm256_mask_storeu_epi16(to.cast(), ((1u32 << count) - 1) as u16, low);
            }
        }
    }
}

/// All ones in the first `count` lanes.
#[inline(always)]
unsafe fn first(count: usize) -> __m256i {
    // SAFETY: as above.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

// SAFETY of the calls below: the trait's promise covers the instructions and the pointers.
impl Vector for __m256 {
    const COUNT: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn set(value: f32) -> Self {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        unsafe { _mm256_set1_ps(*from) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn neg_mul_add(self, b: Self, c: Self) -> Self {
        unsafe { _mm256_fnmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { _mm256_add_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { _mm256_sub_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        unsafe { _mm256_maskload_ps(from, first(count)) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // A masked store is about 20 micro-operations on AMD.
        if count == 8 {
            unsafe { _mm256_storeu_ps(to, self) }
        } else {
            unsafe { _mm256_maskstore_ps(to, first(count), self) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16, count: usize) -> Self {
        unsafe {
            let mut values = [bf16::ZERO; 8];
            let from = if count == 8 {
                from
            } else {
                values.as_mut_ptr().copy_from_nonoverlapping(from, count);
                values.as_ptr()
            };
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, count: usize) {
        unsafe {
            let bits = _mm256_castps_si256(self);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self, self));
            let high = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(high, high));
            let mut values = [bf16::ZERO; 8];
            _mm_storeu_si128(values.as_mut_ptr().cast(), _mm256_castsi256_si128(packed));
            to.copy_from_nonoverlapping(values.as_ptr(), count);
        }
    }
}
