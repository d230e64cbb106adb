//! Step programs: an optimizer's step, written once in the words of its paper and recorded as calls over slots.
//!
//! A [`Recorder`] knows the graph and the device; [`Recorder::program`] hands a [`Step`] to the optimizer, whose methods
//! append calls. Nothing has a value yet: learning rate, rho and the like are numbered scalar slots that are set before
//! each run, so nothing can freeze by accident.

mod attack;
mod averages;
mod division;
mod recorder;
mod scaling;
mod targets;
mod terms;

pub use averages::{EMA, EMA_RUNNING};
pub use division::{Division, Share};
pub use recorder::{Program, ProgramId, RATES, Recorder};
use scaling::OVERFLOW;
pub use scaling::{FIRST_LOSS_SCALE, GOOD_STEPS, LOSS_SCALE, SKIPPED};
pub use terms::{Expr, Sum, Term};

use crate::error::{Error, Result};
use crate::ops::call::{Call, Kernel, Loc, Memory, Ranges, Role, Term as CallTerm, Update};
use crate::params::Param;
use crate::plan::{Keep, Key, Wrt, everywhere};
use std::sync::Arc;

/// A scalar slot on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scalar(u16);

impl Scalar {
    pub(crate) fn loc(self) -> Loc {
        Loc::new(Memory::Scalars, self.0 as usize, 1)
    }
}

/// A set of parameters, interned by the recorder; 0 is all that are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mask(u16);

impl Mask {
    pub const ALL: Mask = Mask(0);
}

/// Layout of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Params,
    Stats,
    /// Every tap's rows.
    Taps,
    /// Every feed's rows, or the images' rows.
    Input,
    /// A row of probabilities of the classes for each image.
    Targets,
}

/// A named vector, narrowed to a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vector {
    id: u16,
    mask: Mask,
}

impl Vector {
    const fn fixed(id: u16) -> Vector {
        Vector { id, mask: Mask::ALL }
    }
    /// Returns the vector restricted to the parameters of `mask`.
    pub fn on(self, mask: Mask) -> Vector {
        Vector { mask, ..self }
    }
    fn memory(self) -> Memory {
        Memory::Vector(self.id)
    }
    /// Its number among the device's vectors, for the host.
    pub(crate) fn number(self) -> usize {
        self.id as usize
    }
}

/// The f32 master weights: only `finish` moves them.
pub const W: Vector = Vector::fixed(0);
/// The compute copy that kernels read; perturbations happen here.
pub const C: Vector = Vector::fixed(1);
/// The gradient.
pub const G: Vector = Vector::fixed(2);
/// The momentum.
pub const M: Vector = Vector::fixed(3);
/// Running statistics of batch-norm.
pub const RUNNING: Vector = Vector::fixed(4);

/// Point at which the loss is taken.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The parameters.
    pub w: Vector,
    /// Running statistics for batch-norm; None for the batch's own.
    pub stats: Option<Vector>,
    /// Relative perturbations of the tapped activations.
    pub taps: Option<Vector>,
    /// A perturbation of the input.
    pub input: Option<Vector>,
}

impl At {
    pub fn of(w: Vector) -> At {
        At { w, stats: None, taps: None, input: None }
    }
    pub fn running(self, stats: Vector) -> At {
        At { stats: Some(stats), ..self }
    }
    pub fn taps(self, delta: Vector) -> At {
        At { taps: Some(delta), ..self }
    }
    pub fn input(self, delta: Vector) -> At {
        At { input: Some(delta), ..self }
    }
}

/// Variables that a pass differentiates by; see [`crate::plan::Wrt`].
#[derive(Clone, Copy, Debug)]
pub struct By {
    params: Option<Mask>,
    taps: bool,
    input: bool,
}

impl By {
    pub fn params() -> By {
        By { params: Some(Mask::ALL), taps: false, input: false }
    }
    pub fn taps() -> By {
        By { params: None, taps: true, input: false }
    }
    pub fn input() -> By {
        By { params: None, taps: false, input: true }
    }
    /// No gradient at all: the loss only.
    pub fn nothing() -> By {
        By { params: None, taps: false, input: false }
    }
    pub fn masked(mask: Mask) -> By {
        By { params: Some(mask), ..By::params() }
    }
}

/// Rows of the batch that a pass takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub offset: usize,
    pub rows: usize,
}

/// Results of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// The gradient, narrowed to the pass's mask.
    pub g: Vector,
    /// Mean loss, number of hits, sum of row weights.
    pub loss: Scalar,
    pub hits: Scalar,
    pub weight: Scalar,
    /// The batch statistics of this pass alone.
    pub stats: PassStats,
}

/// Batch statistics that a pass left: one vector for each part of its rows.
#[derive(Clone, Copy, Debug)]
pub struct PassStats {
    first: usize,
    count: usize,
}

/// One step being recorded.
pub struct Step<'r, 'a> {
    recorder: &'r mut Recorder<'a>,
    division: Division,
    calls: Vec<Call>,
    reports: Vec<(&'static str, Scalar)>,
    losses: Vec<Scalar>,
    passes: usize,
    /// Positive where `finish` moved nothing; None before it.
    halt: Option<Scalar>,
}

impl Step<'_, '_> {
    /// The whole batch.
    pub fn all(&self) -> Part {
        Part { offset: 0, rows: self.division.rows }
    }

    /// The slot of a setting or result, by name.
    pub fn slot(&mut self, name: &str) -> Scalar {
        self.recorder.slot(name)
    }

    /// A vector by name, made on demand and zero at first.
    pub fn vector(&mut self, name: &str, space: Space) -> Vector {
        let rows = self.division.rows;
        self.recorder.vector(name, space, rows)
    }

    /// Returns the mask of the trained parameters that `chosen` picks.
    pub fn mask(&mut self, chosen: impl Fn(&Param) -> bool) -> Mask {
        self.recorder.mask(chosen)
    }

    /// Returns true if no parameter is in `mask`.
    pub fn is_empty(&self, mask: Mask) -> bool {
        self.recorder.masks[mask.0 as usize].is_empty()
    }

    /// Forward and backward on `part` of the batch: the gradient goes into `into`. All passes of a step draw the same
    /// augmentation and dropout.
    ///
    /// More rows than [`Division::part`] are taken in parts, one after the other: loss and gradient are the means over all
    /// rows, but batch-norm normalises each part by statistics of its own.
    ///
    /// # Errors
    /// If the graph cannot be planned, or a pass in parts asks for more than the gradient of the parameters.
    pub fn pass(&mut self, at: At, by: By, part: Part, into: Vector) -> Result<Pass> {
        if part.rows <= self.division.part {
            return self.run(at, by, part, into, true);
        }
        if by.taps || by.input || at.taps.is_some() || at.input.is_some() {
            return Err(Error::usage("perturbed inputs and activations need the batch in one part: --accumulate 1"));
        }
        self.in_parts(part, into, |s, part, into| s.run(at, by, part, into, true))
    }

    /// Forward only, without dropout and augmentation.
    ///
    /// # Errors
    /// If the graph cannot be planned.
    pub fn evaluate(&mut self, at: At) -> Result<Pass> {
        let all = self.all();
        if at.w == C || self.recorder.cast_of(C).is_none() {
            return self.run(at, By::nothing(), all, G, false);
        }
        // Kernels read weights in low precision: the compute copy takes them on, and is the weights' own again afterwards.
        self.set(C, at.w)?;
        let pass = self.run(At { w: C, ..at }, By::nothing(), all, G, false)?;
        if at.w != W {
            self.set(C, W)?;
        }
        Ok(pass)
    }

    /// Forward and backward on the whole batch without dropout and augmentation: the gradient of what [`Step::evaluate`]
    /// measures goes into `into`. Rows that pad the batch do not count.
    ///
    /// # Errors
    /// If the graph cannot be planned.
    pub fn evaluate_gradient(&mut self, at: At, by: By, into: Vector) -> Result<Pass> {
        let all = self.all();
        self.run(at, by, all, into, false)
    }

    fn run(&mut self, at: At, by: By, part: Part, into: Vector, train: bool) -> Result<Pass> {
        let key = Key {
            rows: part.rows,
            offset: part.offset,
            train,
            running: if at.stats.is_some() { everywhere() } else { self.recorder.frozen.clone() },
            taps: at.taps.is_some(),
            input: at.input.is_some(),
            wrt: Wrt {
                params: by.params.map(|m| self.recorder.masks[m.0 as usize].clone()),
                taps: by.taps,
                input: by.input,
            },
            root: None,
            keep: Keep::Nothing,
        };
        let plan = self.recorder.plan(key)?;
        // Each pass of a step owns its statistics and results.
        self.passes += 1;
        let number = self.passes;
        let stats = self.statistics(number);
        let [loss, hits, weight] =
            ["loss", "hits", "weight"].map(|what| self.recorder.slot(&format!("pass{number}.{what}")));
        let scale = self.slot(LOSS_SCALE);
        let share = self.slot(MIXUP_SHARE);
        let bind = |loc: &Loc| -> Result<Loc> {
            let Memory::Role(role) = loc.memory else { return Ok(*loc) };
            let vector = match role {
                Role::Weights => Some(at.w),
                Role::Gradient | Role::TapsGradient | Role::InputGradient => Some(into),
                Role::Statistics => Some(stats),
                Role::Running => at.stats.or(Some(RUNNING)),
                Role::Taps => at.taps,
                Role::Input => at.input,
                Role::Outcome => return Ok(Loc { len: 3, ..loss.loc() }),
                Role::Scale => return Ok(scale.loc()),
                Role::Share => return Ok(share.loc()),
                Role::Seed => None,
            };
            let vector = vector.ok_or_else(|| Error::internal(format!("a pass leaves the role {role:?} unbound")))?;
            Ok(Loc { memory: vector.memory(), ..*loc })
        };
        for call in &plan.calls {
            let reads = call.reads.iter().map(bind).collect::<Result<Vec<Loc>>>()?;
            let writes = call.writes.iter().map(bind).collect::<Result<Vec<Loc>>>()?;
            let label = format!("pass{number}.{}", call.label);
            self.calls.push(Call { kernel: call.kernel.clone(), reads, writes, workspace: call.workspace, label });
        }
        self.losses.push(loss);
        if self.scales_loss() && (by.params.is_some() || by.taps || by.input) {
            let g = Vector { mask: by.params.unwrap_or(Mask::ALL), ..into };
            let overflow = self.slot(OVERFLOW);
            self.emit(
                "unscale",
                Kernel::Unscale(self.ranges(g)),
                vec![scale.loc()],
                vec![self.whole(g), overflow.loc()],
            );
        }
        if let (true, true, Some(mask)) = (self.recorder.decay_in_loss, train, by.params) {
            let (g, decay) = (into.on(mask), self.slot("weight_decay"));
            self.set(g, g + decay * at.w)?;
        }
        let stats = PassStats { first: number, count: 1 };
        Ok(Pass { g: Vector { mask: by.params.unwrap_or(Mask::ALL), ..into }, loss, hits, weight, stats })
    }

    /// The statistics of the step's pass of that number.
    fn statistics(&mut self, pass: usize) -> Vector {
        self.recorder.vector(&format!("statistics{pass}"), Space::Stats, 0)
    }

    fn whole(&self, v: Vector) -> Loc {
        Loc::new(v.memory(), 0, self.recorder.vectors[v.id as usize].len)
    }

    /// Elements of `v` that its mask covers.
    fn ranges(&self, v: Vector) -> Ranges {
        let info = &self.recorder.vectors[v.id as usize];
        match info.space {
            Space::Params => self.recorder.masks[v.mask.0 as usize].clone(),
            _ => std::iter::once(0..info.len).collect(),
        }
    }

    fn emit(&mut self, label: &str, kernel: Kernel, reads: Vec<Loc>, writes: Vec<Loc>) {
        let mut call = Call { kernel, reads, writes, workspace: None, label: label.to_owned() };
        let len = self.recorder.device.workspace(&call);
        if len > 0 {
            // Vector calls run between passes, when nothing in the arena is alive.
            call.workspace = Some(Loc::new(Memory::Arena, 0, len));
            self.recorder.arena = self.recorder.arena.max(len);
        }
        self.calls.push(call);
    }

    fn fresh(&mut self, what: &str) -> Scalar {
        let name = format!("{what}#{}", self.recorder.slots.len());
        self.recorder.slot(&name)
    }

    /// |v| over its mask.
    pub fn norm(&mut self, v: Vector) -> Scalar {
        let to = self.fresh("norm");
        self.emit("norm", Kernel::Norm(self.ranges(v)), vec![self.whole(v)], vec![to.loc()]);
        to
    }

    /// a . b over a's mask.
    pub fn dot(&mut self, a: Vector, b: Vector) -> Scalar {
        let to = self.fresh("dot");
        self.emit("dot", Kernel::Dot(self.ranges(a)), vec![self.whole(a), self.whole(b)], vec![to.loc()]);
        to
    }

    /// A slot holding the value of a scalar expression.
    pub fn scalar(&mut self, expression: impl Into<Expr>) -> Scalar {
        let to = self.fresh("scalar");
        let mut slots = Vec::new();
        let code = expression.into().code(&mut slots);
        let dropped = self.slot(DROPPED);
        let reads = slots.iter().map(|s| s.loc()).collect();
        self.emit("scalar", Kernel::Scalar(code), reads, vec![to.loc(), dropped.loc()]);
        to
    }

    /// dst = sum, elementwise over dst's mask, in one launch. A term whose coefficient divides by zero, by something not
    /// finite or by something too small is left out, and counted in the slot [`DROPPED`].
    ///
    /// # Errors
    /// If the vectors are of different spaces.
    pub fn set(&mut self, dst: Vector, sum: impl Into<Sum>) -> Result<()> {
        let terms = sum.into().0;
        let space = |v: Vector| self.recorder.vectors[v.id as usize].space;
        let factors = terms.iter().filter_map(|t| t.factor.map(|f| f.0));
        let vectors: Vec<Vector> = terms.iter().map(|t| t.v).chain(factors).collect();
        if let Some(&v) = vectors.iter().find(|v| space(**v) != space(dst)) {
            let name = |v: Vector| &self.recorder.vectors[v.id as usize].name;
            return Err(Error::internal(format!(
                "set: '{}' and '{}' are laid out differently ({:?}, {:?})",
                name(dst),
                name(v),
                space(dst),
                space(v)
            )));
        }
        let mut slots = Vec::new();
        let mut reads: Vec<Loc> = vectors.iter().map(|v| self.whole(*v)).collect();
        let terms = terms.iter().map(|t| CallTerm {
            coefficient: t.coefficient.code(&mut slots),
            map: t.map,
            factor: t.factor.map(|f| f.1),
        });
        let terms = terms.collect();
        reads.extend(slots.iter().map(|s| s.loc()));
        let dropped = self.slot(DROPPED);
        let kernel = Kernel::Set { ranges: self.ranges(dst), terms, cast: self.recorder.cast_of(dst) };
        self.emit("set", kernel, reads, vec![self.whole(dst), dropped.loc()]);
        Ok(())
    }

    /// dst = v at the `n` places of largest magnitude over v's mask, the first of equals; 0 at its other places.
    pub fn largest(&mut self, dst: Vector, v: Vector, n: usize) -> Vector {
        let dst = Vector { mask: v.mask, ..dst };
        self.emit("largest", Kernel::Largest { ranges: self.ranges(v), n }, vec![self.whole(v)], vec![self.whole(dst)]);
        dst
    }

    /// |c - w| and the cosine of c - w and g over g's mask: how much of a perturbation along g the compute copy has taken on
    /// once it was rounded. None where the compute copy is f32, which takes on all of it.
    pub fn rounded_perturbation(&mut self, g: Vector) -> Option<[Scalar; 2]> {
        let cast = self.recorder.cast_of(C)?;
        let scalars = [self.fresh("perturbation"), self.fresh("perturbation")];
        let kernel = Kernel::Perturbation { ranges: self.ranges(g), cast: Some(cast) };
        let reads = vec![self.whole(W), self.whole(C), self.whole(g)];
        self.emit("perturbation", kernel, reads, scalars.iter().map(|s| s.loc()).collect());
        Some(scalars)
    }

    /// Names a scalar for the log.
    pub fn report(&mut self, name: &'static str, scalar: Scalar) {
        self.reports.push((name, scalar));
    }

    /// Ends the step: clips `g` to the norm in slot "clip" (0 is off), descends with momentum and decay from the slots "lr",
    /// "momentum" and "weight_decay" (of [`RATES`] for the groups of [`Recorder::rates`]), casts the weights into the compute
    /// copy, folds `stats` into the running statistics.
    ///
    /// If a loss of the step or |g| is not finite, only the cast happens: the slot [`FAULT`] becomes 1, and no later `finish`
    /// moves weights. Clipping comes once, before decay and momentum. Returns |g| before clipping.
    pub fn finish(&mut self, g: Vector, stats: &[PassStats], nesterov: bool) -> Scalar {
        let norm = self.norm(g);
        let fault = self.slot(FAULT);
        // A scaled gradient may overflow: that skips the step, and is no fault of the run.
        let watched = self.losses.iter().chain(if self.scales_loss() { None } else { Some(&norm) });
        let watched: Vec<Loc> = watched.map(|s| s.loc()).collect();
        // A guard watches at most 8 scalars.
        for some in watched.chunks(8) {
            self.emit("guard", Kernel::Guard, some.to_vec(), vec![fault.loc()]);
        }
        let halt = if self.scales_loss() { self.rescale(fault) } else { fault };
        self.halt = Some(halt);
        let groups = Arc::clone(&self.recorder.groups);
        let count = 1 + usize::from(groups.iter().copied().max().unwrap_or(0));
        let update = Update { ranges: self.ranges(g), groups, nesterov, cast: self.recorder.cast_of(C) };
        let mut reads = vec![self.whole(g), self.whole(W), self.whole(M), halt.loc(), norm.loc()];
        reads.extend(["momentum", "clip"].map(|n| self.slot(n).loc()));
        // A slot that nothing sets is 0.
        let decay = if self.recorder.decay_in_loss { "no_decay" } else { "weight_decay" };
        for rate in &RATES[..count] {
            reads.extend([*rate, decay].map(|n| self.slot(n).loc()));
        }
        self.emit("update", Kernel::Update(update), reads, vec![self.whole(W), self.whole(M), self.whole(C)]);
        stats.iter().for_each(|s| self.fold(*s, halt, RUNNING, None));
        norm
    }

    /// Folds what a pass left into the running statistics `into`, by each batch-norm's own momentum or the one given.
    fn fold(&mut self, stats: PassStats, halt: Scalar, into: Vector, momentum: Option<f32>) {
        for pass in stats.first..stats.first + stats.count {
            let stats = self.statistics(pass);
            for s in self.recorder.moving_statistics() {
                let of = |v: Vector| Loc::new(v.memory(), s.offset, 3 * s.channels);
                let momentum_bits = momentum.map_or(s.momentum_bits, f32::to_bits);
                let kernel = Kernel::FoldStats { c: s.channels, momentum_bits };
                let label = format!("{}.fold", s.name);
                self.emit(&label, kernel, vec![of(stats), halt.loc()], vec![of(into)]);
            }
        }
    }
}

/// Slot of the share by which mixup mixes the images of a step.
pub const MIXUP_SHARE: &str = "mixup_share";
/// Slot that counts the terms left out because their denominator is zero, not finite, or too small for a quotient in f32: for
/// SAM, those of steps with |g| = 0 or nearly so. A step of other optimizers may leave out several.
pub const DROPPED: &str = "dropped";
/// Slot that is 1 from the first step on whose loss or gradient was not finite.
pub const FAULT: &str = "fault";
