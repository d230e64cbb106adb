//! Launches of `norm.cu` and `statistics.cu`.

use super::operands::{aligned, flag, int, ints, line, must_be_f32, read, typed, write};
use super::{Launch, Operand, Target};
use crate::device::cuda::driver::{Grid, Module};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::ops::call::{Call, Groups, Kernel, Loc, NormShape};
use Operand::{F32, I32, Read, Work, Write};

/// Threads of a block of `norm.cu`.
const THREADS: usize = 256;
/// Blocks for each processor of the card: of the kernel that only normalises, and of those that hold more in registers.
const APPLY_BLOCKS: usize = 8;
const BLOCKS: usize = 4;
/// Pixels that a thread should have at least, so that what a block works out first is worth it.
const LEAST_PIXELS: usize = 4;
/// Threads and channels of a block of `statistics.cu` that merges.
const MERGE_THREADS: u32 = 1024;
const MERGE_CHANNELS: usize = 8;

pub(super) fn workspace(target: &Target, call: &Call) -> usize {
    let (pixels, c) = match &call.kernel {
        &Kernel::BatchStats { n, pixels, c } => (n * pixels, c),
        Kernel::NormBackwardSums(s) => (s.y_len() / s.c.max(1), s.c),
        _ => return 0,
    };
    // For any number of channels a thread: types and places may not be known yet.
    let most = [8, 4, 1].map(|v| groups(target, Layout::with(c, v), pixels).count).into_iter().max();
    2 * c * most.unwrap_or(1)
}

pub(super) fn launches(target: &Target, call: &Call) -> Result<Vec<Launch>> {
    match &call.kernel {
        &Kernel::BatchStats { n, pixels, c } => batch_stats(target, call, n * pixels, c),
        Kernel::MergeStats { groups, c } => Ok(vec![merge_stats(call, Read(0), *groups, *c)?]),
        Kernel::MergeSums { groups, c } => Ok(vec![merge_sums(call, Read(0), *groups, *c)?]),
        Kernel::NormApply(s) => apply(target, call, s),
        Kernel::NormBackwardSums(s) => backward_sums(target, call, s),
        Kernel::NormBackwardData { shape, add } => backward_data(target, call, shape, *add),
        &Kernel::FoldStats { c, momentum_bits } => {
            let args = vec![Read(0), Read(1), Write(0), int(call, c)?, F32(f32::from_bits(momentum_bits))];
            Ok(vec![line(&statistics(), "fold_stats", c.div_ceil(THREADS), THREADS as u32, args)])
        }
        _ => Err(Error::internal(format!("'{}' is no part of batch-norm", call.label))),
    }
}

/// Layout of a block's threads over channels and pixels, with the kernel's own figures.
#[derive(Clone, Copy)]
struct Layout {
    c: usize,
    /// Channels of a thread.
    v: usize,
    /// Pixels side by side in a block.
    rows: usize,
    /// Blocks that share the channels.
    slabs: usize,
}

impl Layout {
    /// 16 bytes a thread: eight channels where any operand has two bytes an element, else four; one where that does not fit.
    fn of(call: &Call, c: usize) -> Result<Layout> {
        let operands = activations(call)?;
        let narrow = operands.iter().any(|l| l.element != Element::F32);
        let fits = |v: usize| c.is_multiple_of(v) && aligned(&operands);
        let v = [8, 4].into_iter().find(|v| fits(*v) && (*v == 4 || narrow)).unwrap_or(1);
        Ok(Layout::with(c, v))
    }

    fn with(c: usize, v: usize) -> Layout {
        let cols = (c / v).clamp(1, THREADS);
        Layout { c, v, rows: THREADS / cols, slabs: (c / v).div_ceil(cols).max(1) }
    }

    fn grid(self, blocks: usize) -> Grid {
        Grid { blocks: [blocks.max(1) as u32, self.slabs as u32, 1], threads: THREADS as u32, shared: 0 }
    }

    fn module(self, window: usize, [x, y, dx]: [Loc; 3]) -> Module {
        let mut defines: Vec<(&'static str, String)> =
            [("C", self.c), ("V", self.v), ("WINDOW", window)].map(|(name, v)| (name, v.to_string())).into();
        defines.extend([typed("TX", x), typed("TY", y), typed("TDX", dx)]);
        Module { file: "norm.cu", defines }
    }

    /// Blocks that walk over `pixels` together, at most `most` for each processor.
    fn blocks(self, target: &Target, pixels: usize, most: usize) -> usize {
        pixels.div_ceil(LEAST_PIXELS * self.rows).min(most * target.processors.max(1))
    }
}

/// The operands that are read or written by groups of channels.
fn activations(call: &Call) -> Result<Vec<Loc>> {
    let x = read(call, 0)?;
    Ok(match call.kernel {
        Kernel::NormApply(_) => vec![x, write(call, 0)?],
        Kernel::NormBackwardSums(_) => vec![x, read(call, 4)?],
        Kernel::NormBackwardData { .. } => vec![x, read(call, 4)?, write(call, 0)?],
        _ => vec![x],
    })
}

fn statistics() -> Module {
    Module { file: "statistics.cu", defines: vec![] }
}

/// Returns the division of the sums over `pixels` among blocks.
fn groups(target: &Target, layout: Layout, pixels: usize) -> Groups {
    Groups::of(pixels, pixels.div_ceil(layout.blocks(target, pixels, BLOCKS).max(1)).max(1))
}

fn batch_stats(target: &Target, call: &Call, pixels: usize, c: usize) -> Result<Vec<Launch>> {
    let (x, layout) = (read(call, 0)?, Layout::of(call, c)?);
    int(call, x.len)?;
    let groups = groups(target, layout, pixels);
    let args = [vec![Read(0), Work(0)], ints(call, &[pixels, groups.pixels])?].concat();
    let grid = layout.grid(groups.count);
    let partial = Launch { module: layout.module(1, [x; 3]), kernel: "batch_stats", grid, args };
    Ok(vec![partial, merge_stats(call, Work(0), groups, c)?])
}

fn merge_stats(call: &Call, partials: Operand, groups: Groups, c: usize) -> Result<Launch> {
    let args = [vec![partials, Write(0)], ints(call, &[groups.count, groups.pixels, groups.last, c])?].concat();
    Ok(line(&statistics(), "merge_stats", c.div_ceil(MERGE_CHANNELS), MERGE_THREADS, args))
}

fn merge_sums(call: &Call, partials: Operand, groups: usize, c: usize) -> Result<Launch> {
    let args = [vec![partials, Write(0), Write(1)], ints(call, &[groups, c])?].concat();
    Ok(line(&statistics(), "merge_sums", c.div_ceil(MERGE_CHANNELS), MERGE_THREADS, args))
}

/// Returns the last arguments of the three kernels that normalise: h, w, eps, floor, running.
fn shape_args(call: &Call, s: &NormShape) -> Result<Vec<Operand>> {
    let floor = if s.relu { 0.0 } else { f32::NEG_INFINITY };
    Ok([ints(call, &[s.h, s.w])?, vec![F32(s.eps()), F32(floor), flag(s.running)]].concat())
}

/// Statistics, weight and bias are f32 on every device, the sums too.
fn check_types(call: &Call) -> Result<()> {
    for i in (1..call.reads.len()).filter(|i| *i != 4) {
        must_be_f32(call, read(call, i)?, "statistics, parameters or sums")?;
    }
    Ok(())
}

fn apply(target: &Target, call: &Call, s: &NormShape) -> Result<Vec<Launch>> {
    let (x, y, layout) = (read(call, 0)?, write(call, 0)?, Layout::of(call, s.c)?);
    check_types(call)?;
    int(call, s.x_len())?;
    let outs = s.y_len() / s.c.max(1);
    let mut args = vec![Read(0), Read(1), Read(2), Read(3), Write(0), int(call, outs)?];
    args.extend(shape_args(call, s)?);
    let grid = layout.grid(layout.blocks(target, outs, APPLY_BLOCKS));
    Ok(vec![Launch { module: layout.module(s.window, [x, y, x]), kernel: "norm_apply", grid, args }])
}

fn backward_sums(target: &Target, call: &Call, s: &NormShape) -> Result<Vec<Launch>> {
    let (x, dy, layout) = (read(call, 0)?, read(call, 4)?, Layout::of(call, s.c)?);
    check_types(call)?;
    int(call, s.x_len())?;
    let outs = s.y_len() / s.c.max(1);
    let groups = groups(target, layout, outs);
    let mut args: Vec<Operand> = (0..5).map(Read).collect();
    args.extend([Work(0), int(call, outs)?, int(call, groups.pixels)?]);
    args.extend(shape_args(call, s)?);
    let (module, grid) = (layout.module(s.window, [x, dy, x]), layout.grid(groups.count));
    let partial = Launch { module, kernel: "norm_backward_sums", grid, args };
    Ok(vec![partial, merge_sums(call, Work(0), groups.count, s.c)?])
}

fn backward_data(target: &Target, call: &Call, s: &NormShape, add: bool) -> Result<Vec<Launch>> {
    let (x, dy, dx, layout) = (read(call, 0)?, read(call, 4)?, write(call, 0)?, Layout::of(call, s.c)?);
    check_types(call)?;
    int(call, s.x_len())?;
    // Windows that are cut at the border too: their pixels have a gradient through the statistics alone.
    let windows = s.n * s.h.div_ceil(s.window) * s.w.div_ceil(s.window);
    let mut args: Vec<Operand> = (0..7).map(Read).collect();
    args.extend([Write(0), int(call, windows)?]);
    args.extend(shape_args(call, s)?);
    args.push(I32(i32::from(add)));
    let (module, grid) = (layout.module(s.window, [x, dy, dx]), layout.grid(layout.blocks(target, windows, BLOCKS)));
    Ok(vec![Launch { module, kernel: "norm_backward_data", grid, args }])
}
