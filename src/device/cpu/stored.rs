//! Storage of activations: f32, or bf16 that is widened when read and rounded when written.

use super::tile::Vector;
use crate::dtype::Element;
use half::bf16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// An element as activations, their gradients and the compute copy of weights are stored. All arithmetic is f32.
///
/// # Safety
/// The type has the size of [`Stored::ELEMENT`], aligned to 4 bytes at most, and all bits are values of it: the device's
/// memory is read as such.
pub unsafe trait Stored: Copy + Send + Sync + 'static {
    const ELEMENT: Element;
    fn widen(self) -> f32;
    /// To nearest, ties to even; NaN stays NaN.
    fn round(value: f32) -> Self;
    /// The values themselves, where they are f32.
    fn f32s(values: &[Self]) -> Option<&[f32]>;
    /// Returns the values as f32 to be written, as [`Stored::f32s`] does to be read.
    fn f32s_mut(values: &mut [Self]) -> Option<&mut [f32]>;
    /// The first `count` values at `from`, then zeros.
    ///
    /// # Safety
    /// `count` values are there, at most as many as `V` has lanes, and the CPU has the instructions of `V`.
    unsafe fn load_lanes<V: Vector>(from: *const Self, count: usize) -> V;
    /// Writes the first `count` lanes.
    ///
    /// # Safety
    /// As for [`Stored::load_lanes`].
    unsafe fn store_lanes<V: Vector>(lanes: V, to: *mut Self, count: usize);
}

// SAFETY: four bytes, and all bits are floats.
unsafe impl Stored for f32 {
    const ELEMENT: Element = Element::F32;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn round(value: f32) -> f32 {
        value
    }
    fn f32s(values: &[f32]) -> Option<&[f32]> {
        Some(values)
    }
    fn f32s_mut(values: &mut [f32]) -> Option<&mut [f32]> {
        Some(values)
    }
    #[inline(always)]
    unsafe fn load_lanes<V: Vector>(from: *const f32, count: usize) -> V {
        // SAFETY: the caller's promise, as in all of these.
        unsafe { V::load_first(from, count) }
    }
    #[inline(always)]
    unsafe fn store_lanes<V: Vector>(lanes: V, to: *mut f32, count: usize) {
        // SAFETY: as above.
        unsafe { lanes.store_first(to, count) }
    }
}

// SAFETY: a transparent u16, all bits of which are floats.
unsafe impl Stored for bf16 {
    const ELEMENT: Element = Element::Bf16;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    // `bf16::from_f32` branches on NaN; integer arithmetic and a select become vector instructions.
    #[inline(always)]
    fn round(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        bf16::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
    }
    fn f32s(_: &[bf16]) -> Option<&[f32]> {
        None
    }
    fn f32s_mut(_: &mut [bf16]) -> Option<&mut [f32]> {
        None
    }
    #[inline(always)]
    unsafe fn load_lanes<V: Vector>(from: *const bf16, count: usize) -> V {
        // SAFETY: as above.
        unsafe { V::load_bf16(from, count) }
    }
    #[inline(always)]
    unsafe fn store_lanes<V: Vector>(lanes: V, to: *mut bf16, count: usize) {
        // SAFETY: as above.
        unsafe { lanes.store_bf16(to, count) }
    }
}

/// Returns the memory as bf16, two to a cell.
pub(super) fn low(cells: &[f32]) -> &[bf16] {
    bytemuck::cast_slice::<f32, u16>(cells).reinterpret_cast()
}

/// Returns the memory as bf16, two to a cell.
pub(super) fn low_mut(cells: &mut [f32]) -> &mut [bf16] {
    bytemuck::cast_slice_mut::<f32, u16>(cells).reinterpret_cast_mut()
}

/// The cells that an even number of bf16 fill.
///
/// # Panics
/// If they do not begin and end where cells do.
pub(super) fn cells_mut(low: &mut [bf16]) -> &mut [f32] {
    bytemuck::cast_slice_mut::<u16, f32>(low.reinterpret_cast_mut())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_as_the_half_crate_does() {
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40, 1.0];
        let some = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
        for value in special.into_iter().chain(some) {
            let (got, expected) = (<bf16 as Stored>::round(value), bf16::from_f32(value));
            assert_eq!((got.to_bits(), got.is_nan()), (expected.to_bits(), value.is_nan()), "{value:e}");
            let back = got.widen();
            assert!(back.is_nan() || back == expected.to_f32(), "{value:e} comes back as {back:e}");
        }
    }
}
