//! Tensor maps: what the copy engine of Hopper and later needs to know of a tensor.

use super::super::driver::{Address, MapShape, TensorMap};
use super::library::{self, failed};
use crate::error::{Error, Kind, Result};
use cudarc::driver::sys::{
    self, CUtensorMapDataType as Type, CUtensorMapFloatOOBfill as Outside, CUtensorMapInterleave as Interleave,
    CUtensorMapL2promotion as Promotion, CUtensorMapSwizzle as Swizzle,
};

/// Encodes a map over the tensor at `base`.
pub fn encode(base: Address, shape: &MapShape, arch: u32) -> Result<TensorMap> {
    if arch < 90 || !library::has(library::TENSOR_MAP) {
        let message = format!("tensor maps need sm_90 (this is sm_{arch}) and a driver for CUDA 12.0 or newer");
        return Err(Error::new(Kind::Unavailable, message));
    }
    check(base, shape)?;
    // A constant 1 a dimension: every element of a box is copied.
    let every = [1u32; 5];
    let element =
        if shape.bf16 { Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 } else { Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16 };
    let mut map = TensorMap([0; 16]);
    // SAFETY: the map has the 128 bytes, aligned to 64, that are written; `check` has found as many numbers as dimensions.
    let code = unsafe {
        sys::cuTensorMapEncodeTiled(
            std::ptr::from_mut(&mut map).cast(),
            element,
            shape.dims.len() as u32,
            base as *mut std::ffi::c_void,
            shape.dims.as_ptr(),
            shape.strides.as_ptr(),
            shape.tile.as_ptr(),
            every.as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            // "None" fills with zeros.
            Outside::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    code.result().map_err(|e| failed(format!("tensor map {shape:?}"), e))?;
    Ok(map)
}

/// Checks a map, because the driver would refuse a wrong one with no more than "invalid value".
pub fn check(base: Address, shape: &MapShape) -> Result<()> {
    let MapShape { dims, strides, tile, .. } = shape;
    let rules: [(bool, &str); 6] = [
        ((2..=5).contains(&dims.len()), "a tensor map has 2 to 5 dimensions"),
        (
            strides.len() + 1 == dims.len() && tile.len() == dims.len(),
            "a stride less than dimensions, a tile side each",
        ),
        (base.is_multiple_of(16), "the tensor lies at a multiple of 16 bytes"),
        (strides.iter().all(|s| s.is_multiple_of(16) && *s < 1 << 40), "strides are multiples of 16 below 2^40"),
        (dims.iter().all(|d| (1..=1 << 32).contains(d)), "a dimension has 1 to 2^32 elements"),
        (
            tile.iter().all(|t| (1..=256).contains(t)) && tile.first().is_some_and(|t| *t <= 64 && *t % 8 == 0),
            "a tile has 1 to 256 elements a side, of the first at most 64 and a multiple of 8",
        ),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, rule)) => Err(Error::internal(format!("tensor map {shape:?} at {base:#x}: {rule}"))),
    }
}
