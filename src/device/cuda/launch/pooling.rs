//! Launches of `pooling.cu`.

use super::operands::{aligned, flag, int, ints, line, read, typed, write};
use super::{Launch, Operand, Target};
use crate::device::cuda::driver::Module;
use crate::error::{Error, Result};
use crate::ops::call::{Call, Kernel, Loc, PoolShape, ShortcutShape};
use Operand::{F32, Read, Write};

/// Threads of a block, and the channels that each of them handles.
const THREADS: usize = 128;
const GROUP: usize = 8;

pub(super) fn launches(_target: &Target, call: &Call) -> Result<Vec<Launch>> {
    let (x, last, to) = (read(call, 0)?, read(call, call.reads.len().max(1) - 1)?, write(call, 0)?);
    // Types of x, of y or dy, of dx; a kernel without one of them has that of its neighbour, for fewer modules.
    let forward = module(x, to, to);
    let backward = module(x, last, to);
    let launch = match &call.kernel {
        Kernel::MaxPool(s) => pool(call, &forward, "max_pool", s, s.y_len(), vec![]),
        Kernel::AvgPool(s) => pool(call, &forward, "avg_pool", s, s.y_len(), vec![share(s)]),
        Kernel::MaxPoolBackward { shape: s, add } => {
            pool(call, &backward, "max_pool_backward", s, s.x_len(), vec![flag(*add)])
        }
        Kernel::AvgPoolBackward { shape: s, add } => {
            pool(call, &backward, "avg_pool_backward", s, s.x_len(), vec![share(s), flag(*add)])
        }
        Kernel::PadShortcut(s) => shortcut(call, &forward, "pad_shortcut", s, s.y_len(), s.out_c(), vec![]),
        Kernel::PadShortcutBackward { shape: s, add } => {
            shortcut(call, &backward, "pad_shortcut_backward", s, s.n * s.x_image(), s.c, vec![flag(*add)])
        }
        _ => Err(Error::internal(format!("'{}' is no pooling", call.label))),
    }?;
    Ok(vec![launch])
}

fn module(x: Loc, y: Loc, dx: Loc) -> Module {
    Module { file: "pooling.cu", defines: vec![typed("TX", x), typed("TY", y), typed("TDX", dx)] }
}

/// Returns the weight of each pixel in the mean of its window.
fn share(s: &PoolShape) -> Operand {
    F32(1.0 / s.area() as f32)
}

/// Reads, then the write: what every kernel here begins with.
fn operands(call: &Call) -> Vec<Operand> {
    (0..call.reads.len()).map(Read).chain([Write(0)]).collect()
}

fn all_aligned(call: &Call) -> bool {
    aligned(&call.reads) && aligned(&call.writes)
}

/// A kernel with a thread for eight channels of each pixel of the `written` elements.
fn pool(
    call: &Call,
    module: &Module,
    kernel: &'static str,
    s: &PoolShape,
    written: usize,
    rest: Vec<Operand>,
) -> Result<Launch> {
    int(call, s.x_len().max(s.y_len()))?;
    let mut args = operands(call);
    let sizes = [s.n, s.h, s.w, s.c, s.out_h(), s.out_w(), s.window_h, s.window_w, s.stride, s.pad];
    args.extend(ints(call, &sizes)?);
    args.push(flag(s.c.is_multiple_of(GROUP) && all_aligned(call)));
    args.extend(rest);
    let threads = written / s.c.max(1) * s.c.div_ceil(GROUP);
    Ok(line(module, kernel, threads.div_ceil(THREADS), THREADS as u32, args))
}

/// Builds the launch of a shortcut; `channels` are those of the output.
fn shortcut(
    call: &Call,
    module: &Module,
    kernel: &'static str,
    s: &ShortcutShape,
    written: usize,
    channels: usize,
    rest: Vec<Operand>,
) -> Result<Launch> {
    int(call, s.y_len().max(s.n * s.x_image()))?;
    let mut args = operands(call);
    args.extend(ints(call, &[s.n, s.h, s.w, s.c, s.stride, s.shift, s.before, s.after])?);
    let groups = [s.before, s.c, s.after].iter().all(|c| c.is_multiple_of(GROUP));
    args.push(flag(groups && all_aligned(call)));
    args.extend(rest);
    let threads = written / channels.max(1) * channels.div_ceil(GROUP);
    Ok(line(module, kernel, threads.div_ceil(THREADS), THREADS as u32, args))
}
