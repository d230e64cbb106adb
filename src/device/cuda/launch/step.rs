//! The frame of a step that is replayed as a graph: its inputs come from an inbox, its reports go to an outbox.

use crate::device::cuda::driver::{Address, Arg, Grid, Module};
use crate::error::{Error, Result};
use crate::ops::call::Counters;

/// A launch on addresses that are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Fixed {
    pub module: Module,
    pub kernel: &'static str,
    pub grid: Grid,
    pub args: Vec<Arg>,
}

/// Bytes of `struct Counters` and of `struct Dataset` in `counters.cuh`.
pub const COUNTERS_BYTES: usize = 24;
pub const DATASET_BYTES: usize = 32;

/// `struct Counters`: six u32.
pub fn counters_bytes(c: &Counters) -> [u8; COUNTERS_BYTES] {
    let words = [c.seed as u32, (c.seed >> 32) as u32, c.epoch, c.dataset, c.first, c.rows];
    let mut bytes = [0; COUNTERS_BYTES];
    bytes.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    bytes
}

/// `struct Dataset`: three addresses, then bytes an image and number of images.
pub fn dataset_bytes(images: Address, labels: Address, order: Address, image_len: usize, count: usize) -> [u8; 32] {
    let mut bytes = [0; DATASET_BYTES];
    bytes.chunks_exact_mut(8).zip([images, labels, order]).for_each(|(to, at)| to.copy_from_slice(&at.to_le_bytes()));
    bytes[24..28].copy_from_slice(&(image_len as u32).to_le_bytes());
    bytes[28..32].copy_from_slice(&(count as u32).to_le_bytes());
    bytes
}

/// Words of an entry of the inbox with room for `slots` slots: counters, number of slots, then (slot, value) pairs.
pub fn entry_words(slots: usize) -> usize {
    COUNTERS_BYTES / 4 + 1 + 2 * slots
}

/// Appends an entry of the inbox.
///
/// # Errors
/// Internal: more than `room` slots.
pub fn entry(counters: &Counters, slots: &[(usize, f32)], room: usize, to: &mut Vec<u8>) -> Result<()> {
    if slots.len() > room {
        return Err(Error::internal(format!("{} slots are set for a step, there is room for {room}", slots.len())));
    }
    let end = to.len() + 4 * entry_words(room);
    to.extend(counters_bytes(counters));
    to.extend((slots.len() as u32).to_le_bytes());
    for (slot, value) in slots {
        to.extend((*slot as u32).to_le_bytes());
        to.extend(value.to_le_bytes());
    }
    to.resize(end, 0);
    Ok(())
}

/// Copies entry number `index` of the inbox into the counters and the scalar slots.
pub fn begin(inbox: Address, index: usize, words: usize, counters: Address, scalars: Address) -> Fixed {
    let args = vec![Arg::Pointer(inbox + (4 * index * words) as u64), Arg::Pointer(counters), Arg::Pointer(scalars)];
    fixed("begin_step", args)
}

/// Copies `count` scalars, whose slots are listed at `slots`, into entry number `index` of the outbox.
pub fn end(outbox: Address, index: usize, scalars: Address, slots: Address, count: usize) -> Fixed {
    let args = vec![
        Arg::Pointer(outbox + (4 * index * count) as u64),
        Arg::Pointer(scalars),
        Arg::Pointer(slots),
        Arg::I32(count as i32),
    ];
    fixed("end_step", args)
}

fn fixed(kernel: &'static str, args: Vec<Arg>) -> Fixed {
    let grid = Grid { blocks: [1, 1, 1], threads: 32, shared: 0 };
    Fixed { module: Module { file: "step.cu", defines: vec![] }, kernel, grid, args }
}
