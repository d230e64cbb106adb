//! From a graph to an ordered list of calls: order, fusion, who writes and who adds, lifetimes, one arena.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::lower::Lowering;
use crate::ops::call::{Call, Loc, Memory, Ranges};

/// Variables that a pass differentiates by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wrt {
    /// The parameters whose gradient is written; None for none. An empty list is none as well.
    pub params: Option<Ranges>,
    pub taps: bool,
    pub input: bool,
}

/// Specification of a plan. Everything else comes with the binding of its roles.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Rows of the batch.
    pub rows: usize,
    /// Position in the batch of the first row.
    pub offset: usize,
    /// Dropout and augmentation are on.
    pub train: bool,
    /// Parameters whose batch-norms normalise by running statistics instead of those of the batch.
    pub running: Ranges,
    /// Taps carry perturbations.
    pub taps: bool,
    /// The images carry a perturbation.
    pub input: bool,
    pub wrt: Wrt,
    /// The value that is computed and differentiated; None for the graph's mean loss.
    pub root: Option<Var>,
    pub keep: Keep,
}

/// Values that a plan keeps for tests to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keep {
    /// Nothing: buffers are used again as soon as they can be.
    Nothing,
    /// Every value that is written at all, in the bits of a plan that keeps nothing.
    Values,
    /// Every value of the graph: no call computes several nodes.
    Unfused,
}

impl Key {
    /// A training pass over `rows` rows with respect to `params`.
    pub fn train(rows: usize, params: Ranges) -> Key {
        let wrt = Wrt { params: Some(params), ..Wrt::default() };
        Key { wrt, train: true, running: nowhere(), ..Key::evaluate(rows) }
    }
    /// A forward pass over `rows` rows with running statistics.
    pub fn evaluate(rows: usize) -> Key {
        Key {
            rows,
            offset: 0,
            train: false,
            running: everywhere(),
            taps: false,
            input: false,
            wrt: Wrt::default(),
            root: None,
            keep: Keep::Nothing,
        }
    }
}

/// The set of no parameters.
pub fn nowhere() -> Ranges {
    std::iter::empty().collect()
}

/// A set that holds every parameter.
pub fn everywhere() -> Ranges {
    std::iter::once(0..usize::MAX).collect()
}

/// Calls in order, with every buffer placed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub calls: Vec<Call>,
    /// Elements of arena that the calls need.
    pub arena: usize,
    /// Location of each value of the graph (after a run its content is valid only with `Key::keep`).
    pub values: Vec<Option<Loc>>,
}

/// Arena offsets are multiples of this many elements: 64 bytes, a cache line and a 512-bit vector.
const ALIGN: usize = 16;

/// Makes the plan of `graph` for `key` on `device`.
///
/// # Errors
/// If the graph has no loss and no root was named, or an operation cannot be lowered.
pub fn plan(graph: &Graph, key: &Key, device: &dyn Device) -> Result<Plan> {
    if key.rows == 0 {
        return Err(Error::usage("a plan needs at least one row"));
    }
    let root = key.root.or(graph.loss());
    let root = root.ok_or_else(|| Error::usage("the model records no cross_entropy: there is no loss to plan for"))?;
    // A pass that neither perturbs taps nor differentiates by them is planned as if there were none: same fusion, no copies.
    let bare = (!key.taps && !key.wrt.taps && key.keep != Keep::Unfused && !graph.taps().is_empty())
        .then(|| graph.without_taps());
    let lowering = Lowering::new(bare.as_ref().unwrap_or(graph), key, device, root).run()?;
    let (mut calls, mut lens) = (lowering.calls, lowering.temps);
    for call in &mut calls {
        let len = device.workspace(call);
        if len > 0 {
            call.workspace = Some(Loc::new(Memory::Temp(lens.len() as u32), 0, len));
            lens.push(len);
        }
    }
    let lifetimes = lifetimes(&calls, &lens, key.keep != Keep::Nothing);
    let (offsets, arena) = place(&lens, &lifetimes);
    let settle = |loc: &mut Loc| {
        if let Memory::Temp(id) = loc.memory {
            *loc = Loc { memory: Memory::Arena, offset: offsets[id as usize] + loc.offset, ..*loc };
        }
    };
    for call in &mut calls {
        call.reads.iter_mut().chain(&mut call.writes).chain(&mut call.workspace).for_each(settle);
    }
    let mut values = lowering.values;
    values.iter_mut().flatten().for_each(settle);
    verify(&calls)?;
    Ok(Plan { calls, arena, values })
}

/// First and last call that touches each buffer.
fn lifetimes(calls: &[Call], lens: &[usize], keep: bool) -> Vec<(usize, usize)> {
    let mut lifetimes = vec![(usize::MAX, 0); lens.len()];
    for (at, call) in calls.iter().enumerate() {
        for loc in call.reads.iter().chain(&call.writes).chain(&call.workspace) {
            if let Memory::Temp(id) = loc.memory {
                let life = &mut lifetimes[id as usize];
                *life = if keep { (0, calls.len()) } else { (life.0.min(at), life.1.max(at)) };
            }
        }
    }
    lifetimes
}

/// Offsets of the buffers such that those alive at the same time do not overlap, and the arena's length.
///
/// Greedy by size: the largest buffer first, each at the lowest offset that is free during its lifetime. For networks this
/// comes within a few percent of the largest sum of buffers alive at once.
fn place(lens: &[usize], lifetimes: &[(usize, usize)]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..lens.len()).filter(|i| lifetimes[*i].0 != usize::MAX).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(lens[*i]), *i));
    let (mut offsets, mut arena) = (vec![0; lens.len()], 0);
    let mut placed: Vec<usize> = Vec::new();
    for i in order {
        let len = lens[i].next_multiple_of(ALIGN);
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|p| lifetimes[**p].0 <= lifetimes[i].1 && lifetimes[i].0 <= lifetimes[**p].1)
            .map(|p| (offsets[*p], offsets[*p] + lens[*p].next_multiple_of(ALIGN)))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if at + len <= start {
                break;
            }
            at = at.max(end);
        }
        offsets[i] = at;
        arena = arena.max(at + len);
        placed.push(i);
    }
    (offsets, arena)
}

/// Checks what kernels rely on: what a call writes overlaps neither its other writes, nor its workspace, nor a read, unless
/// read and write are the very same place.
pub fn verify(calls: &[Call]) -> Result<()> {
    for call in calls {
        for (i, write) in call.writes.iter().enumerate() {
            let clash = call.writes[..i].iter().chain(&call.workspace).any(|other| other.overlaps(write))
                || call.reads.iter().any(|read| read.overlaps(write) && (read != write || !in_place(call)));
            if clash {
                return Err(Error::internal(format!("the operands of '{}' overlap: {call:?}", call.label)));
            }
        }
        if let Some(work) = &call.workspace
            && call.reads.iter().any(|read| read.overlaps(work))
        {
            return Err(Error::internal(format!("'{}' reads its workspace: {call:?}", call.label)));
        }
    }
    Ok(())
}

/// Kernels that may read and write one place.
fn in_place(call: &Call) -> bool {
    use crate::ops::call::Kernel;
    matches!(
        call.kernel,
        Kernel::Set { .. }
            | Kernel::Unscale(_)
            | Kernel::Largest { .. }
            | Kernel::PgdStep(_)
            | Kernel::Scalar(_)
            | Kernel::Guard
            | Kernel::Update(_)
            | Kernel::FoldStats { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_alive_together_never_overlap_and_dead_ones_are_reused() {
        // A chain: each buffer lives for two calls, so three places are enough for any length.
        let lens = vec![100; 20];
        let lifetimes: Vec<(usize, usize)> = (0..20).map(|i| (i, i + 1)).collect();
        let (offsets, arena) = place(&lens, &lifetimes);
        assert_eq!(arena, 2 * 112);
        for i in 0..20 {
            for j in 0..i {
                let together = lifetimes[j].1 >= lifetimes[i].0;
                assert!(!together || offsets[i].abs_diff(offsets[j]) >= 100, "buffers {i} and {j}");
            }
        }
    }
}
