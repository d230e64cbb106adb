//! Launches of `loss.cu`.

use super::operands::{flag, int, ints, line, must_be_f32, read, typed, write};
use super::{Launch, Operand, Target};
use crate::device::cuda::driver::Module;
use crate::error::{Error, Result};
use crate::ops::call::{Call, Kernel};
use Operand::{F32, Read, Write};

/// Threads of a block, and the rows it handles: a warp each.
const THREADS: usize = 256;
const ROWS: usize = THREADS / 32;

pub(super) fn launches(_target: &Target, call: &Call) -> Result<Vec<Launch>> {
    let (first, to) = (read(call, 0)?, write(call, 0)?);
    for (i, loc) in call.reads.iter().enumerate().skip(1) {
        must_be_f32(call, *loc, &format!("read {i}"))?;
    }
    // The gradient's type where there is one; all else that is written is f32.
    let backward = matches!(call.kernel, Kernel::CrossEntropyBackward { .. });
    let module =
        Module { file: "loss.cu", defines: vec![typed("TX", first), typed("TDX", if backward { to } else { first })] };
    let (kernel, blocks, args) = match call.kernel {
        Kernel::CrossEntropy { n, classes, smoothing_bits, bootstrap } => {
            let mut args = vec![Read(0), Read(1), Write(0), Write(1)];
            args.extend(ints(call, &[n, classes])?);
            args.extend([F32(f32::from_bits(smoothing_bits)), int(call, bootstrap.code())?, F32(bootstrap.beta())]);
            ("cross_entropy", n.div_ceil(ROWS), args)
        }
        Kernel::MeanLoss { n } => {
            must_be_f32(call, first, "losses")?;
            ("mean_loss", 1, vec![Read(0), Read(1), Read(2), Write(0), int(call, n)?])
        }
        Kernel::CrossEntropyBackward { n, classes, smoothing_bits, bootstrap } => {
            // A fourth read is the loss scale of f16.
            let scaled = call.reads.len() > 3;
            let scale = if scaled { 3 } else { 2 };
            let mut args = vec![Read(0), Read(1), Read(2), Read(scale), Write(0)];
            args.extend(ints(call, &[n, classes])?);
            args.extend([F32(f32::from_bits(smoothing_bits)), int(call, bootstrap.code())?, F32(bootstrap.beta())]);
            args.push(flag(scaled));
            ("cross_entropy_backward", n.div_ceil(ROWS), args)
        }
        _ => return Err(Error::internal(format!("'{}' is no loss", call.label))),
    };
    Ok(vec![line(&module, kernel, blocks, THREADS as u32, args)])
}
