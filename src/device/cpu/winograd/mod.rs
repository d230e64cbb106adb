//! 3x3 convolutions of stride 1 with fewer products, by Winograd's method.
//!
//! Tiles of 2x2 or 4x4 outputs are transformed to 16 or 36 points, channel by channel; at each point the sum over channels is
//! a matrix product of its own; and what comes out is transformed back. That takes 2.25 or 4 times fewer products than the
//! definition, for transforms that work on vectors of channels in cache. Rounding errors differ: about those of direct
//! convolution for F(2x2), up to three times those for F(4x4), and spread over a tile, so that they are relative to the
//! largest values of the tile and not to each output's own terms. See docs/precision.md.

mod sweep;
mod transform;
mod weight;

pub use sweep::Winograd;
pub use weight::{backward_weight, backward_weight_workspace};

use super::method::Method;
use super::simd::Isa;
use super::stored::Stored;
use super::tile;
use transform::{Grid, Outputs, Planes};

/// The transforms of one method compiled for one instruction set.
struct Routines<T> {
    /// Outputs of a tile along one axis.
    tile: usize,
    /// Points of a tile along one axis.
    points: usize,
    inputs: unsafe fn(&Grid, &Planes, *const f32, *mut f32),
    gradients: unsafe fn(&Grid, &Planes, *const f32, *mut f32),
    outputs: unsafe fn([usize; 2], &Planes, *const f32, &Outputs, *const T, *mut T),
    weights: unsafe fn(*const T, usize, usize, bool, *mut f32, usize),
    weight_gradients: unsafe fn(*const f32, usize, (usize, usize), *mut f32, usize, usize),
}

/// Outputs of a tile along one axis.
fn tile_of(method: Method) -> usize {
    if method == Method::F4 { 4 } else { 2 }
}

impl<T: Stored> Routines<T> {
    fn of(isa: Isa, method: Method) -> Routines<T> {
        match (isa, tile_of(method)) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, 2) => wide::routines::<T, 4, 2>(),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, _) => wide::routines::<T, 6, 4>(),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, 2) => half::routines::<T, 4, 2>(),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => half::routines::<T, 6, 4>(),
            (_, 2) => plain::<T, 4, 2>(),
            _ => plain::<T, 6, 4>(),
        }
    }

    /// Points of a tile.
    fn points(&self) -> usize {
        self.points * self.points
    }
}

fn plain<T: Stored, const A: usize, const M: usize>() -> Routines<T> {
    Routines {
        tile: M,
        points: A,
        inputs: transform::inputs::<[f32; 4], A>,
        gradients: transform::gradients::<[f32; 4], A, M>,
        outputs: transform::outputs::<[f32; 4], T, A, M>,
        weights: transform::weights::<[f32; 4], T, A>,
        weight_gradients: transform::weight_gradients::<[f32; 4], A>,
    }
}

/// Points of `tiles` tiles of `c` channels. Planes are an odd number of cache lines apart, so that the points of a tile do
/// not meet in one set of the L1 cache.
fn planes(isa: Isa, tiles: usize, c: usize) -> Planes {
    let row = c.next_multiple_of(tile::lanes(isa));
    Planes { plane: (tiles * row).div_ceil(16) / 2 * 32 + 16, row, c }
}

/// Asks for part number `part` of the `parts` of `values`, so that what is copied next is in cache by then: a copy that waits
/// for memory was a seventh of a step's time.
fn prefetch<T>(values: &[T], part: usize, parts: usize) {
    #[cfg(target_arch = "x86_64")]
    for value in values[tile::cut(values.len(), parts, part)].iter().step_by(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: asking for an address changes nothing.
        unsafe { _mm_prefetch(std::ptr::from_ref(value).cast(), _MM_HINT_T1) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, part, parts);
}

/// Defines a module whose `routines` are compiled for an instruction set and its vectors. (A macro, because a function generic
/// over the set cannot carry `#[target_feature]`.)
#[cfg(target_arch = "x86_64")]
macro_rules! compiled {
    ($name:ident, $vector:ident, $features:literal) => {
        mod $name {
            use super::transform::{self, Grid, Outputs, Planes};
            use super::{Routines, Stored};
            use std::arch::x86_64::$vector;

            // SAFETY of all functions here: the caller's promise, and `Isa::detect` names only sets that this CPU has.

            #[target_feature(enable = $features)]
            unsafe fn inputs<const A: usize>(grid: &Grid, planes: &Planes, copy: *const f32, to: *mut f32) {
                unsafe { transform::inputs::<$vector, A>(grid, planes, copy, to) }
            }
            #[target_feature(enable = $features)]
            unsafe fn gradients<const A: usize, const M: usize>(
                grid: &Grid,
                planes: &Planes,
                copy: *const f32,
                to: *mut f32,
            ) {
                unsafe { transform::gradients::<$vector, A, M>(grid, planes, copy, to) }
            }
            #[target_feature(enable = $features)]
            unsafe fn outputs<T: Stored, const A: usize, const M: usize>(
                grid: [usize; 2],
                planes: &Planes,
                from: *const f32,
                outputs: &Outputs,
                add: *const T,
                to: *mut T,
            ) {
                unsafe { transform::outputs::<$vector, T, A, M>(grid, planes, from, outputs, add, to) }
            }
            #[target_feature(enable = $features)]
            unsafe fn weights<T: Stored, const A: usize>(
                from: *const T,
                tap: usize,
                count: usize,
                flipped: bool,
                to: *mut f32,
                plane: usize,
            ) {
                unsafe { transform::weights::<$vector, T, A>(from, tap, count, flipped, to, plane) }
            }
            #[target_feature(enable = $features)]
            unsafe fn weight_gradients<const A: usize>(
                from: *const f32,
                plane: usize,
                slots: (usize, usize),
                to: *mut f32,
                tap: usize,
                count: usize,
            ) {
                unsafe { transform::weight_gradients::<$vector, A>(from, plane, slots, to, tap, count) }
            }

            pub(super) fn routines<T: Stored, const A: usize, const M: usize>() -> Routines<T> {
                Routines {
                    tile: M,
                    points: A,
                    inputs: inputs::<A>,
                    gradients: gradients::<A, M>,
                    outputs: outputs::<T, A, M>,
                    weights: weights::<T, A>,
                    weight_gradients: weight_gradients::<A>,
                }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
compiled!(wide, __m512, "avx512f,avx512bw,avx512vl");
#[cfg(target_arch = "x86_64")]
compiled!(half, __m256, "avx2,fma");
