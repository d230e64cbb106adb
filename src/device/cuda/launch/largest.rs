//! Launches of `largest.cu`.

use super::super::{Launch, Operand, Target};
use super::{CHUNK, THREADS, chunks, int, line, must_be_f32, read, sum_blocks, table};
use crate::device::cuda::driver::Module;
use crate::error::Result;
use crate::ops::call::{Call, Ranges};
use Operand::{I32, Read, Work, Write};

/// Values of a digit of eight bits.
const DIGITS: usize = 256;
/// Cells in front of the blocks' counts: the digits found so far, and how many entries are left to find.
const STATE: usize = 2;

/// Blocks, and the chunks that each of them takes one after the other.
fn shares(target: &Target, ranges: &Ranges) -> (usize, usize) {
    let count = chunks(ranges, None, None).len();
    let each = count.div_ceil(sum_blocks(target, count)).max(1);
    (count.div_ceil(each).max(1), each)
}

/// Cells of scratch.
pub(super) fn workspace(target: &Target, ranges: &Ranges) -> usize {
    let (blocks, _) = shares(target, ranges);
    STATE + blocks + DIGITS * blocks
}

/// Digit after digit from the highest: the blocks count, one block picks; then every block writes.
///
/// # Errors
/// A vector that is not f32, or too long.
pub(super) fn launches(target: &Target, call: &Call, ranges: &Ranges, n: usize) -> Result<Vec<Launch>> {
    let chunks = chunks(ranges, None, None);
    debug_assert!(chunks.iter().all(|c| c.end - c.start <= CHUNK));
    let (blocks, each) = shares(target, ranges);
    let v = read(call, 0)?;
    must_be_f32(call, v, "vector")?;
    int(call, v.len)?;
    let elements: usize = ranges.iter().map(|r| r.len()).sum();
    let module = Module { file: "largest.cu", defines: vec![] };
    let (starts, counts) = (4 * STATE, 4 * (STATE + blocks));
    let share = [table(&chunks), int(call, chunks.len())?, int(call, each)?];
    let mut all = Vec::new();
    for shift in [24, 16, 8, 0] {
        let mut args = vec![Read(0)];
        args.extend(share.clone());
        args.extend([Work(0), Work(counts), I32(shift)]);
        all.push(line(&module, "largest_count", blocks, THREADS, args));
        let args =
            vec![Work(counts), int(call, blocks)?, Work(0), Work(starts), I32(shift), int(call, n.min(elements))?];
        all.push(line(&module, "largest_pick", 1, THREADS, args));
    }
    let mut args = vec![Read(0), Write(0)];
    args.extend(share);
    args.extend([Work(0), Work(starts)]);
    all.push(line(&module, "largest_keep", blocks, THREADS, args));
    Ok(all)
}
