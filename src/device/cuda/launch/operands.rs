//! Helpers of all builders of launches: operands and sizes with their checks, and grids.

use super::{Launch, Operand};
use crate::device::cuda::driver::{Grid, Module};
use crate::error::{Error, Result};
use crate::ops::call::{Call, Loc};

/// Kernels count in `int`, a block's threads beyond the end included.
const MOST: usize = (1 << 31) - (1 << 16);

/// A size as a kernel's argument.
///
/// # Errors
/// With the call's label if it exceeds what kernels count to.
pub(super) fn int(call: &Call, size: usize) -> Result<Operand> {
    if size > MOST {
        return Err(Error::usage(format!(
            "'{}' has an operand of {size} elements, kernels count to {MOST}: take a smaller batch",
            call.label
        )));
    }
    Ok(Operand::I32(size as i32))
}

/// Several of them.
///
/// # Errors
/// As [`int`].
pub(super) fn ints(call: &Call, sizes: &[usize]) -> Result<Vec<Operand>> {
    sizes.iter().map(|size| int(call, *size)).collect()
}

pub(super) fn flag(value: bool) -> Operand {
    Operand::I32(i32::from(value))
}

/// Returns the location of the call's n-th read.
///
/// # Errors
/// If there is none.
pub(super) fn read(call: &Call, n: usize) -> Result<Loc> {
    call.reads.get(n).copied().ok_or_else(|| Error::internal(format!("'{}' lacks its read {n}", call.label)))
}

/// Returns the location of the call's n-th write.
///
/// # Errors
/// If there is none.
pub(super) fn write(call: &Call, n: usize) -> Result<Loc> {
    call.writes.get(n).copied().ok_or_else(|| Error::internal(format!("'{}' lacks its write {n}", call.label)))
}

/// Fails where a value that kernels take as f32 is stored otherwise.
///
/// # Errors
/// With the call's label.
pub(super) fn must_be_f32(call: &Call, loc: Loc, what: &str) -> Result<()> {
    if loc.element == crate::dtype::Element::F32 {
        return Ok(());
    }
    Err(Error::internal(format!("'{}' has its {what} as {}, not f32", call.label, loc.element.name())))
}

/// A macro that names an operand's type.
pub(super) fn typed(name: &'static str, loc: Loc) -> (&'static str, String) {
    (name, loc.element.name().into())
}

/// Returns true if all places begin at multiples of 16 bytes, as vector accesses need; memories do.
pub(super) fn aligned(locs: &[Loc]) -> bool {
    locs.iter().all(|loc| loc.offset.is_multiple_of(4))
}

/// A launch of `blocks` blocks along x; none where there is nothing to do.
pub(super) fn line(module: &Module, kernel: &'static str, blocks: usize, threads: u32, args: Vec<Operand>) -> Launch {
    let grid = Grid { blocks: [blocks.max(1) as u32, 1, 1], threads, shared: 0 };
    Launch { module: module.clone(), kernel, grid, args }
}
