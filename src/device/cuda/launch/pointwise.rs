//! Launches of `pointwise.cu` and `attack.cu`.

use super::operands::{aligned, flag, int, ints, line, must_be_f32, read, typed, write};
use super::{Launch, Operand, Target};
use crate::device::cuda::driver::Module;
use crate::error::{Error, Result};
use crate::ops::call::{Call, Kernel, Loc, Pixels, RowFactors};
use Operand::{Counters, F32, I32, Read, U32, Write};

/// Threads of a block, and the elements that each of them handles.
const THREADS: usize = 256;
const GROUP: usize = 8;

pub(super) fn launches(_target: &Target, call: &Call) -> Result<Vec<Launch>> {
    let launch = match call.kernel {
        Kernel::Relu => elementwise(call, "relu", 1, &[]),
        Kernel::ReluBackward { add } => elementwise(call, "relu_backward", 2, &[flag(add)]),
        Kernel::Add => elementwise(call, "add", 2, &[]),
        Kernel::Copy { add } => elementwise(call, "copy", 1, &[flag(add)]),
        Kernel::Dropout { n, len, offset, p_bits, stream, add } => {
            let (x, y) = (read(call, 0)?, write(call, 0)?);
            let whole = len.is_multiple_of(GROUP) && aligned(&[x, y]);
            let mut args = vec![Read(0), Write(0), Counters];
            args.extend(ints(call, &[n, len, offset])?);
            args.extend([F32(f32::from_bits(p_bits)), U32(stream), flag(whole), flag(add)]);
            let groups = n * len.div_ceil(GROUP);
            Ok(line(&module(x, x, y), "dropout", groups.div_ceil(THREADS), THREADS as u32, args))
        }
        Kernel::MixRows(factors) => scaled(call, "mix_rows", 2, &factors, &[]),
        Kernel::ScaleRows { factors, add } => scaled(call, "scale_rows", 1, &factors, &[flag(add)]),
        Kernel::Tap { n, len } => {
            must_be_f32(call, read(call, 1)?, "perturbation")?;
            rows(call, "tap", n, len, [read(call, 0)?; 2], &[])
        }
        Kernel::TapBackward { n, len, add } => {
            must_be_f32(call, read(call, 1)?, "perturbation")?;
            rows(call, "tap_backward", n, len, [read(call, 0)?, read(call, 2)?], &[flag(add)])
        }
        Kernel::TapDelta { n, len } => {
            must_be_f32(call, write(call, 0)?, "perturbation's gradient")?;
            rows(call, "tap_delta", n, len, [read(call, 0)?, read(call, 1)?], &[])
        }
        Kernel::PgdStep(Pixels { c, mean, std }) => {
            for i in 0..3 {
                must_be_f32(call, read(call, i)?, "images, gradient or perturbation")?;
            }
            let len = write(call, 0)?.len;
            let mut args = vec![Read(0), Read(1), Read(3), Read(4), Write(0), int(call, len)?, int(call, c)?];
            args.extend(mean.iter().chain(&std).map(|v| F32(*v)));
            let module = Module { file: "attack.cu", defines: vec![] };
            Ok(line(&module, "pgd_step", len.div_ceil(THREADS), THREADS as u32, args))
        }
        _ => Err(Error::internal(format!("'{}' is no elementwise operation", call.label))),
    }?;
    Ok(vec![launch])
}

fn module(x: Loc, d: Loc, y: Loc) -> Module {
    Module { file: "pointwise.cu", defines: vec![typed("TX", x), typed("TD", d), typed("TY", y)] }
}

/// A kernel over all elements: its operands, their count, whether groups of them are aligned, what else it takes.
fn elementwise(call: &Call, kernel: &'static str, operands: usize, rest: &[Operand]) -> Result<Launch> {
    let (first, last, y) = (read(call, 0)?, read(call, operands - 1)?, write(call, 0)?);
    let mut args: Vec<Operand> = (0..operands).map(Read).collect();
    args.extend([Write(0), int(call, y.len)?, flag(aligned(&[first, last, y]))]);
    args.extend_from_slice(rest);
    Ok(line(&module(first, last, y), kernel, y.len.div_ceil(GROUP * THREADS), THREADS as u32, args))
}

/// A kernel over rows with random factors, a thread for eight elements of one row.
fn scaled(call: &Call, kernel: &'static str, operands: usize, s: &RowFactors, rest: &[Operand]) -> Result<Launch> {
    let (first, last, y) = (read(call, 0)?, read(call, operands - 1)?, write(call, 0)?);
    let mut args: Vec<Operand> = (0..operands).map(Read).collect();
    args.extend([Write(0), Counters]);
    args.extend(ints(call, &[s.n, s.len, s.offset])?);
    args.extend([U32(s.stream), I32(s.word as i32), F32(s.base), F32(s.slope), F32(s.one)]);
    args.push(flag(s.len.is_multiple_of(GROUP) && aligned(&[first, last, y])));
    args.extend_from_slice(rest);
    let groups = s.n * s.len.div_ceil(GROUP);
    Ok(line(&module(first, last, y), kernel, groups.div_ceil(THREADS), THREADS as u32, args))
}

/// A kernel with a block for each of `n` rows; `types` are the places of what it reads as TX and as TD.
fn rows(call: &Call, kernel: &'static str, n: usize, len: usize, types: [Loc; 2], rest: &[Operand]) -> Result<Launch> {
    let all: Vec<Loc> = call.reads.iter().chain(&call.writes).copied().collect();
    let mut args: Vec<Operand> = (0..call.reads.len()).map(Read).collect();
    args.extend([Write(0), int(call, len)?, flag(len.is_multiple_of(GROUP) && aligned(&all))]);
    args.extend_from_slice(rest);
    Ok(line(&module(types[0], types[1], write(call, 0)?), kernel, n, THREADS as u32, args))
}
