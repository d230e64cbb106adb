//! Lowering: walks a graph forward and backward and lets every operation emit its calls.

mod fusion;

use crate::device::Device;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::ops::Op;
use crate::ops::call::{Augment, Call, Groups, Ingest, Kernel, Loc, Memory, NormShape, Role};
use crate::ops::site::{NormBehind, Site};
use crate::ops::value::Shape;
use crate::plan::{Keep, Key};
use fusion::{Sum, Tail};

pub(crate) struct Lowering<'a> {
    graph: &'a Graph,
    key: &'a Key,
    device: &'a dyn Device,
    root: Var,
    pub(crate) calls: Vec<Call>,
    /// Length of each temporary buffer.
    pub(crate) temps: Vec<usize>,
    pub(crate) values: Vec<Option<Loc>>,
    partials: Vec<Option<(Loc, Groups)>>,
    /// Values that the root depends on.
    live: Vec<bool>,
    /// Values whose gradient someone asks for.
    wanted: Vec<bool>,
    gradients: Vec<Option<Loc>>,
    tails: Vec<Tail>,
    /// The sum that each convolution writes instead of its own value.
    sums: Vec<Option<Sum>>,
    /// Partial sums that a convolution has left for each batch-norm's backward pass, and the number of groups.
    norm_sums: Vec<Option<(Loc, usize)>>,
    /// Nodes that another one computes along with its own value.
    absorbed: Vec<bool>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(graph: &'a Graph, key: &'a Key, device: &'a dyn Device, root: Var) -> Lowering<'a> {
        let n = graph.vars().count();
        let mut lowering = Lowering {
            graph,
            key,
            device,
            root,
            calls: vec![],
            temps: vec![],
            values: vec![None; n],
            partials: vec![None; n],
            live: vec![false; n],
            wanted: vec![false; n],
            gradients: vec![None; n],
            tails: vec![Tail::default(); n],
            sums: vec![None; n],
            norm_sums: vec![None; n],
            absorbed: vec![false; n],
        };
        lowering.analyse();
        lowering
    }

    /// Marks what is live, what is wanted, and what is fused.
    fn analyse(&mut self) {
        self.live[self.root.0 as usize] = true;
        for v in self.graph.vars().rev().filter(|v| v.0 <= self.root.0) {
            if self.live[v.0 as usize] {
                self.graph.node(v).inputs.iter().for_each(|i| self.live[i.0 as usize] = true);
            }
        }
        let wrt = &self.key.wrt;
        for v in self.graph.vars() {
            let node = self.graph.node(v);
            let source = match node.op {
                Op::Param(p) => {
                    let offset = self.graph.param_of(p).offset;
                    wrt.params.as_ref().is_some_and(|r| r.iter().any(|r| r.contains(&offset)))
                }
                Op::Feed(_) | Op::Images => wrt.input,
                Op::Tap(_) => wrt.taps,
                _ => false,
            };
            self.wanted[v.0 as usize] = source || node.inputs.iter().any(|i| self.wanted[i.0 as usize]);
        }
        if self.key.keep != Keep::Unfused {
            self.fuse();
        }
    }

    /// Returns true if batch-norm `v` normalises by running statistics; its weight tells which part of the model it is in.
    fn running(&self, v: Var) -> bool {
        let weight = self.graph.node(v).inputs.get(1).map(|w| &self.graph.node(*w).op);
        match weight {
            Some(Op::Param(p)) => self.key.running.iter().any(|r| r.contains(&self.graph.param_of(*p).offset)),
            _ => false,
        }
    }

    /// Returns true if tap `v` is the identity in this plan, so that its value is its input's.
    fn passed_by(&self, v: Var) -> bool {
        let plain = !self.key.taps && self.key.keep != Keep::Unfused && v != self.root;
        plain && matches!(self.graph.node(v).op, Op::Tap(_))
    }

    pub(crate) fn run(mut self) -> Result<Lowering<'a>> {
        self.sources()?;
        let order: Vec<Var> =
            self.graph.vars().filter(|v| self.live[v.0 as usize] && !self.absorbed[v.0 as usize]).collect();
        for v in &order {
            let Some(operation) = self.graph.node(*v).op.operation() else { continue };
            if self.passed_by(*v) {
                let marked = self.graph.node(*v).inputs[0].0 as usize;
                self.values[v.0 as usize] = self.values[marked];
                self.partials[v.0 as usize] = self.partials[marked];
                continue;
            }
            let last = self.last(*v);
            let place = self.place(last);
            self.values[last.0 as usize] = Some(place);
            operation.forward(&mut NodeSite { lowering: &mut self, node: *v, pending: vec![] })?;
        }
        if !self.wanted[self.root.0 as usize] {
            return Ok(self);
        }
        if self.key.root.is_some() {
            let len = self.key.rows * self.graph.shape(self.root).len();
            let seed = role(Role::Seed, 0, len);
            let root = self.root;
            let stored = self.stored(seed, root, "seed.cast");
            self.gradients[root.0 as usize] = Some(stored);
        }
        // A sum that a convolution writes has a backward pass of its own; what a batch-norm absorbs has not.
        let mut order: Vec<Var> = order.into_iter().chain(self.sums.iter().flatten().map(|s| s.sum)).collect();
        order.sort_unstable();
        for v in order.iter().rev() {
            let last = self.tails[v.0 as usize].last().unwrap_or(*v);
            let Some(operation) = self.graph.node(*v).op.operation() else { continue };
            let has_gradient = self.gradients[last.0 as usize].is_some() || *v == self.root;
            if !self.wanted[v.0 as usize] || !has_gradient {
                continue;
            }
            let mut site = NodeSite { lowering: &mut self, node: *v, pending: vec![] };
            operation.backward(&mut site)?;
            let pending = std::mem::take(&mut site.pending);
            for (from, to) in pending {
                let label = format!("{}.accumulate", self.graph.node(*v).name);
                self.push(label, Kernel::Copy { add: true }, vec![from], vec![to]);
            }
        }
        Ok(self)
    }

    /// Places parameters and feeds, and emits the ingest call.
    fn sources(&mut self) -> Result<()> {
        let (graph, key) = (self.graph, self.key);
        let (feeds, _) = graph.row_offsets(graph.feeds(), key.rows);
        for v in graph.vars() {
            let len = graph.shape(v).len();
            self.values[v.0 as usize] = match graph.node(v).op {
                Op::Param(p) => {
                    let low = graph.param_of(p).kind.is_factor();
                    let element = if low { self.device.dtype().storage() } else { Element::F32 };
                    Some(Loc { element, ..role(Role::Weights, graph.param_of(p).offset, len) })
                }
                Op::Feed(i) => {
                    let fed = role(Role::Input, feeds[i], key.rows * len);
                    Some(self.stored(fed, v, &format!("{}.cast", graph.node(v).name)))
                }
                Op::Images | Op::Targets | Op::Weights => Some(self.place(v)),
                _ => None,
            };
        }
        let Some(source) = graph.source() else { return Ok(()) };
        let find = |op: &Op| graph.vars().find(|v| graph.node(*v).op == *op).and_then(|v| self.values[v.0 as usize]);
        let (Some(x), Some(targets), Some(weights)) = (find(&Op::Images), find(&Op::Targets), find(&Op::Weights))
        else {
            return Err(Error::internal("an image source without its three values"));
        };
        let ingest = Ingest {
            n: key.rows,
            h: source.h,
            w: source.w,
            c: source.c,
            classes: source.classes,
            offset: key.offset,
            mean: source.mean,
            std: source.std,
            augment: if key.train { source.augment } else { Augment::default() },
        };
        let reads = if ingest.augment.mixup { vec![role(Role::Share, 0, 1)] } else { vec![] };
        self.push("ingest".into(), Kernel::Ingest(ingest), reads, vec![x, targets, weights]);
        if key.input {
            // PGD and the like: the perturbed image is a value of its own.
            let perturbed = self.temp(x.len, x.element);
            let delta = role(Role::Input, 0, x.len);
            self.push("images.perturb".into(), Kernel::Add, vec![x, delta], vec![perturbed]);
            for v in graph.vars().filter(|v| graph.node(*v).op == Op::Images) {
                self.values[v.0 as usize] = Some(perturbed);
            }
        }
        Ok(())
    }

    /// A buffer that lives from its first to its last use.
    fn temp(&mut self, len: usize, element: Element) -> Loc {
        self.temps.push(element.cells(len));
        Loc { element, ..Loc::new(Memory::Temp(self.temps.len() as u32 - 1), 0, len) }
    }

    /// A buffer for the value of `v`, or for its gradient.
    fn place(&mut self, v: Var) -> Loc {
        let element = self.graph.element(v, self.device.dtype());
        self.temp(self.key.rows * self.graph.shape(v).len(), element)
    }

    /// `given`, f32 values from outside, as values like those of `v` are stored.
    fn stored(&mut self, given: Loc, v: Var, label: &str) -> Loc {
        let element = self.graph.element(v, self.device.dtype());
        if element == given.element {
            return given;
        }
        let to = self.temp(given.len, element);
        self.push(label.into(), Kernel::Copy { add: false }, vec![given], vec![to]);
        to
    }

    fn push(&mut self, label: String, kernel: Kernel, reads: Vec<Loc>, writes: Vec<Loc>) {
        self.calls.push(Call { kernel, reads, writes, workspace: None, label });
    }

    /// Returns the location where the gradient of `v` is collected, and true if it has content already.
    fn gradient(&mut self, v: Var) -> (Loc, bool) {
        if let Some(loc) = self.gradients[v.0 as usize] {
            return (loc, true);
        }
        let len = self.graph.shape(v).len();
        let rows = self.key.rows;
        let loc = match self.graph.node(v).op {
            Op::Param(p) => role(Role::Gradient, self.graph.param_of(p).offset, len),
            Op::Feed(i) => {
                let (offsets, _) = self.graph.row_offsets(self.graph.feeds(), rows);
                role(Role::InputGradient, offsets[i], rows * len)
            }
            Op::Images => role(Role::InputGradient, 0, rows * len),
            _ => self.place(v),
        };
        self.gradients[v.0 as usize] = Some(loc);
        (loc, false)
    }
}

fn role(role: Role, offset: usize, len: usize) -> Loc {
    Loc::new(Memory::Role(role), offset, len)
}

/// A node as its operation sees it.
struct NodeSite<'l, 'a> {
    lowering: &'l mut Lowering<'a>,
    node: Var,
    /// Gradients that a kernel could only write and that must be added to what is there.
    pending: Vec<(Loc, Loc)>,
}

impl NodeSite<'_, '_> {
    fn input_var(&self, i: usize) -> Var {
        self.lowering.graph.node(self.node).inputs[i]
    }
    fn wants(&self, i: usize) -> bool {
        self.lowering.wanted[self.input_var(i).0 as usize]
    }
    /// The node whose gradient is that of this node and of what is fused behind it.
    fn last(&self) -> Var {
        self.lowering.tails[self.node.0 as usize].last().unwrap_or(self.node)
    }
}

/// A value that has no place is a mistake in the order of lowering; the empty location makes `verify` and the device fail.
const NOWHERE: Loc = Loc::new(Memory::Temp(u32::MAX), 0, 0);

impl Site for NodeSite<'_, '_> {
    fn rows(&self) -> usize {
        self.lowering.key.rows
    }
    fn input_shape(&self, i: usize) -> &Shape {
        self.lowering.graph.shape(self.input_var(i))
    }
    fn shape(&self) -> &Shape {
        self.lowering.graph.shape(self.node)
    }
    fn input(&self, i: usize) -> Loc {
        self.lowering.values[self.input_var(i).0 as usize].unwrap_or(NOWHERE)
    }
    fn output(&self) -> Loc {
        self.lowering.values[self.lowering.last(self.node).0 as usize].unwrap_or(NOWHERE)
    }
    fn summand(&self) -> Option<Loc> {
        let sum = self.lowering.sums[self.node.0 as usize]?;
        Some(self.lowering.values[sum.other.0 as usize].unwrap_or(NOWHERE))
    }
    fn grad_output(&self) -> Loc {
        self.lowering.gradients[self.last().0 as usize].unwrap_or(NOWHERE)
    }
    fn grad_input(&mut self, i: usize) -> Option<(Loc, bool)> {
        self.wants(i).then(|| self.lowering.gradient(self.input_var(i)))
    }
    fn grad_input_written(&mut self, i: usize) -> Option<Loc> {
        let (loc, add) = self.grad_input(i)?;
        if !add {
            return Some(loc);
        }
        let temp = self.lowering.temp(loc.len, loc.element);
        self.pending.push((temp, loc));
        Some(temp)
    }
    fn alias_grad_input(&mut self, i: usize) -> bool {
        let input = self.input_var(i);
        // Only a value that nobody else reads: nothing is ever added to a gradient that two values share.
        let only = self.lowering.sole_consumer(input) == Some(self.node);
        let source = self.lowering.graph.node(input).op.operation().is_none();
        let same = self.input(i).element == self.grad_output().element;
        if !self.wants(i) || !only || source || !same {
            return false;
        }
        self.lowering.gradients[input.0 as usize] = Some(self.grad_output());
        true
    }
    fn temp(&mut self, len: usize) -> Loc {
        self.lowering.temp(len, Element::F32)
    }
    fn emit(&mut self, part: &str, kernel: Kernel, reads: Vec<Loc>, writes: Vec<Loc>) {
        let label = format!("{}.{part}", self.name());
        self.lowering.push(label, kernel, reads, writes);
    }
    fn running(&self) -> bool {
        self.lowering.running(self.node)
    }
    fn train(&self) -> bool {
        self.lowering.key.train
    }
    fn statistics(&self, index: usize, len: usize) -> Loc {
        let which = if self.running() { Role::Running } else { Role::Statistics };
        role(which, self.lowering.graph.statistics()[index].offset, len)
    }
    fn norm_tail(&self) -> (bool, usize) {
        let tail = self.lowering.tails[self.node.0 as usize];
        (tail.relu.is_some(), tail.pool.map_or(1, |p| p.1))
    }
    fn partial_statistics(&mut self, channels: usize, kernel: Kernel) -> Option<Loc> {
        let l = &mut *self.lowering;
        let written = l.last(self.node);
        let read_as = |value: Var| {
            l.graph.consumers(value).any(|c| {
                l.live[c.0 as usize]
                    && matches!(l.graph.node(c).op, Op::BatchNorm(_))
                    && l.graph.node(c).inputs[0] == value
                    && !l.running(c)
            })
        };
        let read_by_norm = read_as(written) || l.graph.consumers(written).any(|c| l.passed_by(c) && read_as(c));
        let groups = l.device.groups(&kernel).filter(|_| read_by_norm)?;
        let loc = l.temp(2 * groups.count * channels, Element::F32);
        l.partials[written.0 as usize] = Some((loc, groups));
        Some(loc)
    }
    fn norm_behind(&mut self, kernel: &dyn Fn(NormShape) -> Kernel) -> Option<NormBehind> {
        self.lowering.norm_behind(self.node, kernel)
    }
    fn norm_sums(&self) -> Option<(Loc, usize)> {
        self.lowering.norm_sums[self.node.0 as usize]
    }
    fn partials_of_input(&self, i: usize) -> Option<(Loc, Groups)> {
        self.lowering.partials[self.input_var(i).0 as usize]
    }
    fn loss_scale(&self) -> Option<Loc> {
        (self.lowering.device.dtype() == DType::F16).then(|| role(Role::Scale, 0, 1))
    }
    fn tap_delta(&self, index: usize) -> Option<Loc> {
        let l = &*self.lowering;
        let (offsets, _) = l.graph.row_offsets(l.graph.taps(), l.key.rows);
        l.key.taps.then(|| role(Role::Taps, offsets[index], l.key.rows * self.shape().len()))
    }
    fn tap_gradient(&self, index: usize) -> Option<Loc> {
        let l = &*self.lowering;
        let (offsets, _) = l.graph.row_offsets(l.graph.taps(), l.key.rows);
        l.key.wrt.taps.then(|| role(Role::TapsGradient, offsets[index], l.key.rows * self.shape().len()))
    }
    fn outcome(&self) -> Loc {
        role(Role::Outcome, 0, 3)
    }
    fn row_offset(&self) -> usize {
        self.lowering.key.offset
    }
    fn name(&self) -> &str {
        &self.lowering.graph.node(self.node).name
    }
}
