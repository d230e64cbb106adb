//! A device with one vector for every role of a plan: enough to run a plan by itself and look at everything.

use crate::device::{DatasetBytes, Device, Layout};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::ops::call::{Call, Counters, Loc, Memory, Role};
use crate::plan::Plan;

/// Roles in the order of the rig's vectors.
const ROLES: [Role; 9] = [
    Role::Weights,
    Role::Gradient,
    Role::Statistics,
    Role::Running,
    Role::Taps,
    Role::TapsGradient,
    Role::Input,
    Role::InputGradient,
    Role::Seed,
];

/// Vectors that plans only write.
const POISONED: [Role; 4] = [Role::Gradient, Role::Statistics, Role::TapsGradient, Role::InputGradient];

/// Scalar slots of a rig, and those that hold the loss scale and mixup's share.
const SCALARS: usize = 16;
const SCALE: usize = 8;
const SHARE: usize = 9;

pub struct Rig {
    device: Box<dyn Device>,
    layout: Layout,
}

impl Rig {
    /// A rig for plans of `graph` over `rows` rows, the largest arena being `arena`, the seed `seed_len` long.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn new(device: Box<dyn Device>, graph: &Graph, rows: usize, arena: usize, seed_len: usize) -> Result<Rig> {
        let (params, stats) = (graph.params().vector_len(), graph.statistics_len());
        let taps = graph.row_offsets(graph.taps(), rows).1;
        let images = graph.source().map_or(0, |s| rows * s.h * s.w * s.c);
        let input = images + graph.row_offsets(graph.feeds(), rows).1;
        let vectors = vec![params, params, stats, stats, taps, taps, input, input, seed_len];
        Rig::with_layout(device, Layout { arena, vectors, scalars: SCALARS })
    }

    /// A rig with vectors of any lengths.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn with_layout(mut device: Box<dyn Device>, layout: Layout) -> Result<Rig> {
        device.allocate(&layout)?;
        // Gradients of a check are not small: 1 changes nothing.
        if layout.scalars > SCALE {
            device.upload(Loc::new(Memory::Scalars, SCALE, 1), &[1.0])?;
        }
        Ok(Rig { device, layout })
    }

    /// The whole vector of a role.
    pub fn role(&self, role: Role) -> Loc {
        let id = ROLES.iter().position(|r| *r == role).unwrap_or(0);
        self.vector(id)
    }

    pub fn vector(&self, id: usize) -> Loc {
        Loc::new(Memory::Vector(id as u16), 0, self.layout.vectors[id])
    }

    /// Returns the location of a plan's place on this rig.
    fn settle(&self, loc: Loc) -> Loc {
        match loc.memory {
            Memory::Role(Role::Outcome) => Loc { memory: Memory::Scalars, ..loc },
            Memory::Role(Role::Share) => Loc { memory: Memory::Scalars, offset: SHARE, ..loc },
            Memory::Role(Role::Scale) => Loc { memory: Memory::Scalars, offset: SCALE, ..loc },
            Memory::Role(role) => Loc { memory: self.role(role).memory, ..loc },
            _ => loc,
        }
    }

    /// The calls of a plan, bound to the rig's vectors.
    pub fn bind(&self, plan: &Plan) -> Vec<Call> {
        let bind_call = |call: &Call| Call {
            reads: call.reads.iter().map(|l| self.settle(*l)).collect(),
            writes: call.writes.iter().map(|l| self.settle(*l)).collect(),
            ..call.clone()
        };
        plan.calls.iter().map(bind_call).collect()
    }

    /// # Errors
    /// Those of the device.
    pub fn run(&mut self, calls: &[Call], counters: &Counters) -> Result<()> {
        self.device.run(calls, counters)
    }

    /// # Errors
    /// Those of the device.
    pub fn upload(&mut self, to: Loc, values: &[f32]) -> Result<()> {
        self.device.upload(Loc { len: values.len(), ..to }, values)
    }

    /// Uploads the parameter vector, stored as a device of that dtype reads it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn upload_weights(&mut self, g: &Graph, dtype: DType, values: &[f32]) -> Result<()> {
        let cast = g.params().cast(dtype.storage());
        let parts = cast.parts(self.role(Role::Weights));
        parts.into_iter().try_for_each(|part| self.upload(part, &values[part.offset..part.offset + part.len]))
    }

    /// Returns a node's value after a plan with `Key::keep`; empty where the plan does not compute it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn value(&mut self, plan: &Plan, v: Var) -> Result<Vec<f32>> {
        plan.values[v.0 as usize].map_or(Ok(vec![]), |loc| self.download(self.settle(loc)))
    }

    /// # Errors
    /// Those of the device.
    pub fn download(&mut self, from: Loc) -> Result<Vec<f32>> {
        let mut values = vec![0.0; from.len];
        self.device.download(from, &mut values)?;
        Ok(values)
    }

    /// Fills the arena and all outputs of plans with NaN, so that a value which is read before it is written shows.
    ///
    /// # Errors
    /// Those of the device.
    pub fn poison(&mut self) -> Result<()> {
        let arena = Loc::new(Memory::Arena, 0, self.layout.arena);
        self.upload(arena, &vec![f32::NAN; self.layout.arena])?;
        for role in POISONED {
            let loc = self.role(role);
            self.upload(loc, &vec![f32::NAN; loc.len])?;
        }
        Ok(())
    }

    /// Returns true if everything that [`Rig::poison`] filled and `calls` do not write is unchanged: a kernel that writes one
    /// element too many mostly hits memory that nobody reads.
    ///
    /// # Errors
    /// Those of the device.
    pub fn untouched_beside(&mut self, calls: &[Call]) -> Result<bool> {
        let arena = Loc::new(Memory::Arena, 0, self.layout.arena);
        for whole in [arena].into_iter().chain(POISONED.map(|role| self.role(role))) {
            let mut values = self.download(whole)?;
            let touched = calls.iter().flat_map(|c| c.writes.iter().chain(&c.workspace));
            for loc in touched.filter(|loc| loc.memory == whole.memory) {
                // The half of a cell behind an odd number of two-byte elements belongs to nobody; it may be written.
                values[loc.offset..loc.offset + loc.cells()].fill(f32::NAN);
            }
            if values.iter().any(|v| v.to_bits() != f32::NAN.to_bits()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// # Errors
    /// Those of the device.
    pub fn set_dataset(&mut self, data: &DatasetBytes<'_>, order: &[u32]) -> Result<()> {
        self.device.set_dataset(0, data)?;
        self.device.set_order(0, order)
    }
}

/// A case on a rig with the calls that compute it, in order, its inputs uploaded.
pub struct Ready {
    pub(super) rig: Rig,
    pub(super) calls: Vec<Call>,
    pub(super) counters: Counters,
}

impl Ready {
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Times one call on the device, in seconds; the calls before it must have run.
    ///
    /// # Errors
    /// Those of the device.
    pub fn time(&mut self, call: usize) -> Result<f64> {
        self.rig.device.time(&self.calls[call], &self.counters)
    }

    /// Runs one call; those before it must have run.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(&mut self, call: usize) -> Result<()> {
        self.rig.run(&self.calls[call..=call], &self.counters)
    }
}
