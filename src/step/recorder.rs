//! The recorder: vectors, masks, slots and plans of all programs of one graph on one device.

use super::{At, C, Division, EMA, EMA_RUNNING, Mask, RUNNING, Scalar, Space, Step, Vector, W};
use crate::device::{Device, Layout};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::graph::{Graph, Statistics};
use crate::ops::call::{BLOCK, Call, Cast, MAX_GROUPS, Ranges};
use crate::params::Param;
use crate::plan::{Key, Plan, nowhere, plan};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Names and spaces of the vectors that every recorder has, in the order of their numbers: W, C, G, M, RUNNING.
const FIXED: [(&str, Space); 5] = [
    ("weight", Space::Params),
    ("compute", Space::Params),
    ("gradient", Space::Params),
    ("momentum", Space::Params),
    ("running", Space::Stats),
];

/// Slots of the learning rates, one for each group of parameters; the first is that of parameters in no other group.
pub const RATES: [&str; MAX_GROUPS] =
    ["lr", "group1_lr", "group2_lr", "group3_lr", "group4_lr", "group5_lr", "group6_lr", "group7_lr"];

/// Number of a recorded program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramId(pub(crate) usize);

/// The calls of one step, and the scalars that it reports.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub calls: Vec<Call>,
    /// Named results for logs: "loss", "hits", "grad_norm".
    pub reports: Vec<(&'static str, Scalar)>,
}

impl Program {
    /// Flops of one run, multiply-adds counted as two.
    pub fn flops(&self) -> u64 {
        self.calls.iter().map(Call::flops).sum()
    }
}

pub(super) struct VectorInfo {
    pub(super) name: String,
    pub(super) space: Space,
    pub(super) len: usize,
}

/// Records programs for one graph on one device.
pub struct Recorder<'a> {
    pub(super) graph: &'a Graph,
    pub(super) device: &'a dyn Device,
    pub(super) vectors: Vec<VectorInfo>,
    pub(super) masks: Vec<Ranges>,
    /// Parameters that are not trained; see [`Recorder::freeze`].
    pub(super) frozen: Ranges,
    /// Learning-rate group of each block of the parameter vector; see [`Recorder::rates`].
    pub(super) groups: Arc<[u8]>,
    /// True if weight decay is a part of the loss; see [`Recorder::decay_in_loss`].
    pub(super) decay_in_loss: bool,
    pub(super) slots: Vec<String>,
    plans: HashMap<Key, Rc<Plan>>,
    pub(super) arena: usize,
    pub(crate) programs: Vec<Program>,
}

impl<'a> Recorder<'a> {
    pub fn new(graph: &'a Graph, device: &'a dyn Device) -> Recorder<'a> {
        let mut recorder = Recorder {
            graph,
            device,
            vectors: vec![],
            masks: vec![graph.all_params()],
            frozen: nowhere(),
            groups: vec![0; graph.params().vector_len() / BLOCK].into(),
            decay_in_loss: false,
            slots: vec![],
            plans: HashMap::new(),
            arena: 0,
            programs: vec![],
        };
        for (name, space) in FIXED {
            recorder.vector(name, space, 0);
        }
        recorder
    }

    /// The vector of that name, made on demand. `rows` counts for taps and inputs.
    pub(super) fn vector(&mut self, name: &str, space: Space, rows: usize) -> Vector {
        let graph = self.graph;
        let len = match space {
            Space::Params => graph.params().vector_len(),
            Space::Stats => graph.statistics_len(),
            Space::Taps => graph.row_offsets(graph.taps(), rows).1,
            Space::Input => match graph.source() {
                Some(s) => rows * s.h * s.w * s.c,
                None => graph.row_offsets(graph.feeds(), rows).1,
            },
            Space::Targets => rows * graph.source().map_or(0, |s| s.classes),
        };
        let known = self.vectors.iter().position(|v| v.name == name);
        let id = known.unwrap_or_else(|| {
            self.vectors.push(VectorInfo { name: name.to_owned(), space, len: 0 });
            self.vectors.len() - 1
        });
        self.vectors[id].len = self.vectors[id].len.max(len);
        Vector { id: id as u16, mask: Mask::ALL }
    }

    /// Leaves the parameters that `chosen` picks as they are in every program recorded from now on: they get no gradient,
    /// no perturbation and no update, and their batch-norms normalise by running statistics, which hold still.
    pub fn freeze(&mut self, chosen: impl Fn(&Param) -> bool) {
        self.masks[Mask::ALL.0 as usize] = self.graph.params().ranges(|p| !chosen(p));
        self.frozen = self.graph.params().ranges(chosen);
    }

    /// Gives each parameter the learning rate in slot [`RATES`]`[group(parameter)]`; all others are in group 0, whose slot
    /// is "lr".
    ///
    /// # Errors
    /// Internal: a group beyond those that there are.
    pub fn rates(&mut self, group: impl Fn(&Param) -> usize) -> Result<()> {
        let params = self.graph.params();
        let mut groups = vec![0; params.vector_len() / BLOCK];
        for p in params.list() {
            let of = group(p);
            if of >= RATES.len() {
                return Err(Error::internal(format!("'{}' in group {of} of {}", p.name, RATES.len())));
            }
            groups[p.offset / BLOCK..][..p.padded() / BLOCK].fill(of as u8);
        }
        self.groups = groups.into();
        Ok(())
    }

    /// Makes weight decay a part of the loss, as the JAX code of SAM's authors has it: to the gradient of each pass in
    /// programs recorded from now on is added "weight_decay" times the weights that it was taken at, so that perturbations
    /// see it, and `finish` decays nothing. The loss that passes report stays that of the images.
    ///
    /// # Errors
    /// Usage: the weights that passes read are in low precision, which would decay them by rounded values.
    pub fn decay_in_loss(&mut self) -> Result<()> {
        if self.device.dtype().storage() != Element::F32 {
            return Err(Error::usage("--l2-in-loss needs weights in f32: --dtype f32, or tf32 on a GPU"));
        }
        self.decay_in_loss = true;
        Ok(())
    }

    /// Statistics of the batch-norms that are not frozen.
    pub(super) fn moving_statistics(&self) -> impl Iterator<Item = &'a Statistics> + use<'a> {
        let (graph, frozen) = (self.graph, self.frozen.clone());
        let still = move |s: &Statistics| {
            let weight = format!("{}.weight", s.name);
            let weight = graph.params().list().iter().find(|p| p.name == weight);
            weight.is_some_and(|p| frozen.iter().any(|r| r.contains(&p.offset)))
        };
        graph.statistics().iter().filter(move |s| !still(s))
    }

    /// Returns the storage of vector `v`: the compute copy in the device's element type, every other in f32.
    pub(crate) fn cast_of(&self, v: Vector) -> Option<Cast> {
        let element = self.device.dtype().storage();
        (v.id == C.id && element != Element::F32).then(|| self.graph.params().cast(element))
    }

    /// The parameters that `chosen` picks, as a mask; those that are frozen are never among them.
    pub fn mask(&mut self, chosen: impl Fn(&Param) -> bool) -> Mask {
        let frozen = |p: &Param| self.frozen.iter().any(|r| r.contains(&p.offset));
        let ranges = self.graph.params().ranges(|p| chosen(p) && !frozen(p));
        let known = self.masks.iter().position(|m| *m == ranges);
        Mask(known.unwrap_or_else(|| {
            self.masks.push(ranges);
            self.masks.len() - 1
        }) as u16)
    }

    /// The scalar slot of that name, made on demand; 0 until the host or a call sets it.
    pub fn slot(&mut self, name: &str) -> Scalar {
        let known = self.slots.iter().position(|s| s == name);
        Scalar(known.unwrap_or_else(|| {
            self.slots.push(name.to_owned());
            self.slots.len() - 1
        }) as u16)
    }

    /// Records a program over batches that are divided as `division` says.
    ///
    /// # Errors
    /// Those of the recording function.
    pub fn program(
        &mut self,
        name: &str,
        division: Division,
        record: impl FnOnce(&mut Step<'_, 'a>) -> Result<()>,
    ) -> Result<ProgramId> {
        let mut step =
            Step { recorder: self, division, calls: vec![], reports: vec![], losses: vec![], passes: 0, halt: None };
        record(&mut step)?;
        let Step { calls, reports, .. } = step;
        crate::plan::verify(&calls)?;
        self.programs.push(Program { name: name.to_owned(), calls, reports });
        Ok(ProgramId(self.programs.len() - 1))
    }

    /// Records the evaluation of `rows` rows: loss, hits and weight sum with running statistics, at the weights themselves.
    ///
    /// # Errors
    /// If the graph cannot be planned.
    pub fn evaluation(&mut self, rows: usize) -> Result<ProgramId> {
        self.evaluation_at(At::of(W).running(RUNNING), rows)
    }

    /// Records an evaluation at the running averages of weights and statistics.
    ///
    /// # Errors
    /// If the graph cannot be planned.
    pub fn evaluation_of_average(&mut self, rows: usize) -> Result<ProgramId> {
        let (w, stats) = (self.vector(EMA, Space::Params, 0), self.vector(EMA_RUNNING, Space::Stats, 0));
        self.evaluation_at(At::of(w).running(stats), rows)
    }

    fn evaluation_at(&mut self, at: At, rows: usize) -> Result<ProgramId> {
        self.program("evaluate", Division::whole(rows), |s| {
            let pass = s.evaluate(at)?;
            s.report("loss", pass.loss);
            s.report("hits", pass.hits);
            s.report("weight", pass.weight);
            Ok(())
        })
    }

    pub(super) fn plan(&mut self, key: Key) -> Result<Rc<Plan>> {
        if let Some(plan) = self.plans.get(&key) {
            return Ok(Rc::clone(plan));
        }
        self.graph.check_rows(key.rows)?;
        let made = Rc::new(plan(self.graph, &key, self.device)?);
        self.arena = self.arena.max(made.arena);
        self.plans.insert(key, Rc::clone(&made));
        Ok(made)
    }

    /// Sizes of all memory that the recorded programs need.
    pub fn layout(&self) -> Layout {
        Layout {
            arena: self.arena,
            vectors: self.vectors.iter().map(|v| v.len).collect(),
            scalars: self.slots.len().next_multiple_of(16),
        }
    }

    /// Names of the slots, by number.
    pub(crate) fn slot_names(&self) -> Vec<String> {
        self.slots.clone()
    }

    /// Names and lengths of the vectors, by number.
    pub(crate) fn vector_names(&self) -> Vec<(String, usize)> {
        self.vectors.iter().map(|v| (v.name.clone(), v.len)).collect()
    }
}
