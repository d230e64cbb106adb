//! Operand B of which a block's columns are rows in memory, in panels as [`pack`](super::pack) describes them.

use super::pack;
use super::simd::Isa;
use super::stored::Stored;

/// `to[t][j] = from[j * stride + t]` for `j < columns`, zeros up to `width`.
pub fn transpose<T: Stored>(isa: Isa, from: &[T], stride: usize, columns: usize, to: &mut [f32], width: usize) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: `Isa::detect` and `CpuDevice::with_isa` let only sets pass that this CPU has.
        return unsafe { x86::wide(from, stride, columns, to, width) };
    }
    let _ = isa;
    pack::transpose(from, stride, columns, to, width);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Stored;
    use std::arch::x86_64::*;

    /// Side of the squares that are turned at once.
    const SIDE: usize = 16;

    /// As [`super::transpose`], `width` being a multiple of [`SIDE`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    pub fn wide<T: Stored>(from: &[T], stride: usize, columns: usize, to: &mut [f32], width: usize) {
        let depth = to.len() / width;
        let whole = depth / SIDE * SIDE;
        for first in (0..width).step_by(SIDE) {
            for start in (0..whole).step_by(SIDE) {
                let mut rows = [_mm512_setzero_ps(); SIDE];
                for (row, j) in rows.iter_mut().zip(first..columns) {
                    *row = load(from, j * stride + start);
                }
                for (t, column) in square(rows).into_iter().enumerate() {
                    let to = &mut to[(start + t) * width + first..][..SIDE];
                    // SAFETY: the slice has as many elements as the vector.
                    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), column) }
                }
            }
            for t in whole..depth {
                let to = &mut to[t * width + first..][..SIDE];
                to.fill(0.0);
                to.iter_mut().zip(first..columns).for_each(|(to, j)| *to = from[j * stride + t].widen());
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    fn load<T: Stored>(from: &[T], at: usize) -> __m512 {
        let from = &from[at..][..SIDE];
        let mut values = [0f32; SIDE];
        values.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
        // SAFETY: the array has as many elements as the vector.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    /// Columns of the square whose rows are given: pairs, then fours of values change places within 128 bits, then those.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn square(rows: [__m512; SIDE]) -> [__m512; SIDE] {
        let mut fours = [_mm512_setzero_ps(); SIDE];
        for g in (0..SIDE).step_by(4) {
            let [a, b, c, d] = [rows[g], rows[g + 1], rows[g + 2], rows[g + 3]];
            let low = [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)].map(|v| _mm512_castps_pd(v));
            let high = [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)].map(|v| _mm512_castps_pd(v));
            fours[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1]));
            fours[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1]));
            fours[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1]));
            fours[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1]));
        }
        let mut columns = [_mm512_setzero_ps(); SIDE];
        for j in 0..4 {
            let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
            // 0x88 takes the even quarters of both operands, 0xdd the odd ones.
            let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (even_below, odd_below) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            columns[j] = _mm512_shuffle_f32x4::<0x88>(even, even_below);
            columns[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd_below);
            columns[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even_below);
            columns[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_below);
        }
        columns
    }
}
