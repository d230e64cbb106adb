//! Kernels that know f32 alone, on operands that are stored as bf16: widened into scratch space, and rounded back.

use super::memory::{ALIGN, Operands};
use super::{Workers, pointwise};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::ops::call::{Call, Kernel, Loc};
use half::bf16;

/// Most operands of one sort that are stored as bf16; a batch-norm's backward reads two.
const MOST: usize = 4;

/// Cells of scratch for f32 copies of a call's bf16 operands.
pub fn workspace(call: &Call) -> usize {
    call.reads.iter().chain(&call.writes).filter(|loc| is_low(loc)).map(|loc| copy_len(loc.len)).sum()
}

fn is_low(loc: &Loc) -> bool {
    loc.element == Element::Bf16
}

/// Numbers of the operands that are stored as bf16.
fn numbers(locs: &[Loc]) -> impl Iterator<Item = usize> {
    locs.iter().enumerate().filter(|(_, loc)| is_low(loc)).map(|(i, _)| i)
}

/// Cells of a copy, so that the next one is aligned as all operands are.
fn copy_len(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}

/// Runs `kernel` on f32 copies of the call's bf16 operands, in the first cells of its scratch space, and rounds its outputs
/// back. Where it adds, the old content is widened first.
///
/// # Errors
/// Those of `kernel`.
pub fn run(
    workers: &Workers,
    call: &Call,
    mut o: Operands<'_>,
    kernel: impl FnOnce(&mut Operands<'_>) -> Result<()>,
) -> Result<()> {
    let mut rest = o.work();
    let mut take = |len: usize| -> Result<&mut [f32]> {
        let missing = || Error::internal("too little scratch space for f32 copies of operands");
        let (copy, behind) = std::mem::take(&mut rest).split_at_mut_checked(copy_len(len)).ok_or_else(missing)?;
        rest = behind;
        Ok(&mut copy[..len])
    };
    let mut reads = [const { None }; MOST];
    let mut writes = [const { None }; MOST];
    let most = || Error::internal(format!("more than {MOST} operands of one sort are stored as bf16"));
    for (n, i) in numbers(&call.reads).enumerate() {
        let values = o.read::<bf16>(i)?;
        let copy = take(values.len())?;
        pointwise::copy(workers, false, values, copy);
        *reads.get_mut(n).ok_or_else(most)? = Some((i, copy));
    }
    for (n, i) in numbers(&call.writes).enumerate() {
        let values = o.write::<bf16>(i)?;
        let copy = take(values.len())?;
        if adds(&call.kernel) {
            pointwise::copy(workers, false, values, copy);
        }
        *writes.get_mut(n).ok_or_else(most)? = Some((i, copy, values));
    }
    let mut inner = o.with_work(rest);
    for (i, copy) in reads.iter_mut().flatten() {
        inner.replace_read(*i, copy);
    }
    for (i, copy, _) in writes.iter_mut().flatten() {
        inner.replace_write(*i, copy);
    }
    kernel(&mut inner)?;
    for (_, copy, values) in writes.into_iter().flatten() {
        pointwise::copy(workers, false, copy, values);
    }
    Ok(())
}

/// Returns true if the kernel adds to its output.
fn adds(kernel: &Kernel) -> bool {
    match kernel {
        Kernel::ConvBackwardData { add, .. }
        | Kernel::NormBackwardData { add, .. }
        | Kernel::ReluBackward { add }
        | Kernel::Copy { add }
        | Kernel::MaxPoolBackward { add, .. }
        | Kernel::AvgPoolBackward { add, .. }
        | Kernel::PadShortcutBackward { add, .. }
        | Kernel::LinearBackwardData { add, .. }
        | Kernel::Dropout { add, .. }
        | Kernel::ScaleRows { add, .. }
        | Kernel::TapBackward { add, .. } => *add,
        _ => false,
    }
}
