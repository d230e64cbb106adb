//! Fusion: which nodes another node absorbs, and what it needs for that.
//!
//! One rule: an epilogue belongs to its producer. The device says which epilogues it has.

use super::Lowering;
use crate::dtype::Element;
use crate::graph::Var;
use crate::ops::call::{Kernel, Loc, NormShape, Role};
use crate::ops::site::NormBehind;
use crate::ops::{MaxPool, Op};
use crate::plan::Keep;

/// Operations fused behind a batch-norm.
#[derive(Clone, Copy, Default)]
pub(super) struct Tail {
    pub(super) relu: Option<Var>,
    pub(super) pool: Option<(Var, usize)>,
}

impl Tail {
    pub(super) fn last(&self) -> Option<Var> {
        self.pool.map(|p| p.0).or(self.relu)
    }
}

/// The sum that a convolution writes: the node, and its other summand.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    pub(super) sum: Var,
    pub(super) other: Var,
}

impl Lowering<'_> {
    /// The only live reader of `v`, if there is just one and it reads `v` once.
    pub(super) fn sole_consumer(&self, v: Var) -> Option<Var> {
        let mut readers = self.graph.consumers(v).filter(|c| self.live[c.0 as usize]);
        let reader = readers.next()?;
        let once = self.graph.node(reader).inputs.iter().filter(|i| **i == v).count() == 1;
        (once && readers.next().is_none() && v != self.root).then_some(reader)
    }

    /// Fuses ReLU, and a max pool with window = stride, behind batch-norms whose output nobody else reads, and sums behind
    /// convolutions.
    pub(super) fn fuse(&mut self) {
        self.fuse_norms();
        if self.device.fuses_sums() {
            self.fuse_sums();
        }
    }

    fn fuse_norms(&mut self) {
        let graph = self.graph;
        for v in graph.vars().filter(|v| matches!(graph.node(*v).op, Op::BatchNorm(_))) {
            let mut tail = Tail::default();
            let Some(relu) = self.sole_consumer(v).filter(|r| graph.node(*r).op == Op::Relu) else { continue };
            if self.fuses_norm(v, true, 1) {
                tail.relu = Some(relu);
                self.absorbed[relu.0 as usize] = true;
                if let Some(next) = self.sole_consumer(relu)
                    && let Op::MaxPool(pool) = graph.node(next).op
                    && pool == MaxPool::tiles(pool.window)
                    && self.fuses_norm(v, true, pool.window)
                {
                    tail.pool = Some((next, pool.window));
                    self.absorbed[next.0 as usize] = true;
                }
            }
            self.tails[v.0 as usize] = tail;
        }
    }

    /// A sum is written by the convolution that computes its later summand, if nobody else reads that one.
    fn fuse_sums(&mut self) {
        let graph = self.graph;
        for sum in graph.vars().filter(|v| self.live[v.0 as usize] && matches!(graph.node(*v).op, Op::Add)) {
            let &[a, b] = &graph.node(sum).inputs[..] else { continue };
            let (other, later) = if a < b { (a, b) } else { (b, a) };
            if matches!(graph.node(later).op, Op::Conv2d(_)) && self.sole_consumer(later) == Some(sum) {
                self.sums[later.0 as usize] = Some(Sum { sum, other });
                self.absorbed[sum.0 as usize] = true;
            }
        }
    }

    /// The node whose value is written where `v` is computed.
    pub(super) fn last(&self, v: Var) -> Var {
        let sum = self.sums[v.0 as usize].map(|s| s.sum);
        sum.or(self.tails[v.0 as usize].last()).unwrap_or(v)
    }

    fn fuses_norm(&self, v: Var, relu: bool, window: usize) -> bool {
        let shape = self.graph.shape(v);
        let (h, w) = shape.plane();
        let (rows, running) = (self.key.rows, self.running(v));
        let c = shape.0.last().copied().unwrap_or(1);
        let s = NormShape { n: rows, h, w, c, eps_bits: 0, running, relu, window };
        self.device.fuses(&Kernel::NormApply(s))
    }

    /// The batch-norm (and ReLU) whose output `conv` reads, if the gradient that `conv` is about to write for that output is
    /// complete with it, and the device takes the batch-norm's backward sums along with `kernel`.
    pub(super) fn norm_behind(&mut self, conv: Var, kernel: &dyn Fn(NormShape) -> Kernel) -> Option<NormBehind> {
        let graph = self.graph;
        let read = graph.node(conv).inputs[0];
        // Gradients arrive in reverse order: the earliest reader's comes last.
        let earliest = graph.consumers(read).find(|c| self.live[c.0 as usize] && self.wanted[c.0 as usize]);
        if earliest != Some(conv) || self.key.keep == Keep::Unfused {
            return None;
        }
        let is_norm = |v: &Var| matches!(graph.node(*v).op, Op::BatchNorm(_)) && self.last(*v) == read;
        let norm = graph.vars().take_while(|v| *v <= read).find(is_norm)?;
        let Op::BatchNorm(op) = &graph.node(norm).op else { return None };
        let tail = self.tails[norm.0 as usize];
        if !self.wanted[norm.0 as usize] {
            return None;
        }
        let (h, w) = graph.shape(norm).plane();
        let (rows, running, c) = (self.key.rows, self.running(norm), op.channels);
        let (eps_bits, relu) = (op.eps.to_bits(), tail.relu.is_some());
        let window = tail.pool.map_or(1, |p| p.1);
        let shape = NormShape { n: rows, h, w, c, eps_bits, running, relu, window };
        let groups = self.device.groups(&kernel(shape))?.count;
        let which = if running { Role::Running } else { Role::Statistics };
        let statistics = super::role(which, graph.statistics()[op.index].offset, 3 * c);
        let place = |i: usize| self.values[graph.node(norm).inputs[i].0 as usize];
        let reads = [place(0)?, statistics, place(1)?, place(2)?];
        let sums: Loc = self.temp(2 * groups * c, Element::F32);
        self.norm_sums[norm.0 as usize] = Some((sums, groups));
        Some(NormBehind { shape, reads, sums })
    }
}
