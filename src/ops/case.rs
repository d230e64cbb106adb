//! The cases that an operation is checked and timed with, as plain data.

use super::Op;
use super::call::{Augment, Counters, Kernel};
use super::value::{ParamKind, Shape};
use crate::rng::{Draws, stream};

/// Distribution of an input's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Standard normal.
    Normal,
    /// Normal with mean 30: cancellation shows.
    Shifted,
    /// Normal, but at least 0.01 away from 0, so that a finite difference crosses no kink.
    AwayFromZero,
    /// A permutation of values that bf16 holds exactly, hardly any of them twice: ties in a pool window are rare.
    Distinct,
    /// Uniform within +-3.
    Logits,
    /// Uniform within +-80, where exp overflows f32 unless the maximum is taken off first.
    LargeLogits,
    /// One-hot rows.
    OneHot,
    /// Rows of non-negative numbers that sum to 1.
    Simplex,
    /// All 1 but for the last row, which is 0.
    RowWeights,
    /// All zero.
    Zero,
}

impl Values {
    /// `rows x len` values, drawn from `seed` and the name of the input.
    pub fn draw(self, seed: u64, name: &str, rows: usize, len: usize) -> Vec<f32> {
        let mut d = Draws::new(seed, stream(name), 0, 0);
        let count = rows * len;
        match self {
            Values::Normal => (0..count).map(|_| d.normal() as f32).collect(),
            Values::Shifted => (0..count).map(|_| (30.0 + d.normal()) as f32).collect(),
            Values::AwayFromZero => {
                let away = |v: f64| (v + 0.01f64.copysign(v)) as f32;
                (0..count).map(|_| away(d.normal())).collect()
            }
            Values::Distinct => {
                // bf16 has 128 values between neighbouring powers of two: walk up from 2^-8 to 2^8, alternating signs, and
                // begin again. Of the few repeats in a large image the first of a window wins, as the spec says.
                let value = |i: usize| {
                    let magnitude = f32::from_bits(((119 << 7) + (i / 2 % 2048) as u32) << 16);
                    if i.is_multiple_of(2) { magnitude } else { -magnitude }
                };
                let mut values: Vec<f32> = (0..len).map(value).collect();
                let mut all = Vec::with_capacity(count);
                for _ in 0..rows {
                    for i in (1..len).rev() {
                        values.swap(i, d.below(i as u32 + 1) as usize);
                    }
                    all.extend_from_slice(&values);
                }
                all
            }
            Values::Logits => (0..count).map(|_| d.uniform(-3.0, 3.0) as f32).collect(),
            Values::LargeLogits => (0..count).map(|_| d.uniform(-80.0, 80.0) as f32).collect(),
            Values::OneHot => {
                let hot: Vec<usize> = (0..rows).map(|_| d.below(len as u32) as usize).collect();
                (0..count).map(|i| f32::from(u8::from(i % len == hot[i / len]))).collect()
            }
            Values::Simplex => {
                let mut values: Vec<f32> = (0..count).map(|_| d.uniform(0.0, 1.0) as f32).collect();
                for row in values.chunks_mut(len) {
                    let sum: f32 = row.iter().sum();
                    row.iter_mut().for_each(|v| *v /= sum);
                }
                values
            }
            Values::RowWeights => (0..count).map(|i| f32::from(u8::from(i / len + 1 < rows || rows == 1))).collect(),
            Values::Zero => vec![0.0; count],
        }
    }
}

/// An operand of an operation in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    Feed(usize),
    Param(usize),
    /// The result of the case's n-th operation.
    Result(usize),
}

/// A small graph: fed values, parameters, and operations on them; the last one is the output.
#[derive(Clone, Debug, Default)]
pub struct GraphCase {
    pub feeds: Vec<(Shape, Values)>,
    pub params: Vec<(Shape, ParamKind)>,
    pub ops: Vec<(Op, Vec<Operand>)>,
    /// The plan carries perturbations of the taps.
    pub taps: bool,
    /// Planned as evaluation is: nothing is drawn.
    pub evaluate: bool,
    /// Differentiate with respect to nothing but the first feed (targets and weights have no gradient).
    pub first_feed_only: bool,
}

/// The definition of a vector kernel in f64: from what is read, and what the written vectors hold before, to what they
/// hold afterwards.
pub type VectorSpec = fn(&Kernel, &[Vec<f64>], &[Vec<f64>]) -> Vec<Vec<f64>>;

/// A vector kernel on vectors and scalars.
#[derive(Clone, Debug)]
pub struct VectorCase {
    pub kernel: Kernel,
    /// Contents of the vectors that the call reads, in order, then of those that it writes.
    pub reads: Vec<Vec<f32>>,
    pub writes: Vec<Vec<f32>>,
    /// Pairs (i, j): the i-th read vector is the j-th written one.
    pub shared: Vec<(usize, usize)>,
    pub spec: VectorSpec,
}

/// Bytes through ingest.
#[derive(Clone, Debug)]
pub struct IngestCase {
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub images: usize,
    pub augment: Augment,
    /// Share of mixup.
    pub share: f32,
    pub counters: Counters,
}

#[derive(Clone, Debug)]
pub enum Body {
    Graph(GraphCase),
    Vector(VectorCase),
    Ingest(IngestCase),
}

#[derive(Clone, Debug)]
pub struct Case {
    pub label: String,
    pub rows: usize,
    /// Batch-norm reads running statistics.
    pub running: bool,
    pub body: Body,
}

impl Case {
    pub fn graph(label: impl Into<String>, rows: usize) -> Case {
        Case { label: label.into(), rows, running: false, body: Body::Graph(GraphCase::default()) }
    }

    fn edit(mut self, change: impl FnOnce(&mut GraphCase)) -> Case {
        if let Body::Graph(graph) = &mut self.body {
            change(graph);
        }
        self
    }
    pub fn feed(self, shape: &[usize], values: Values) -> Case {
        self.edit(|g| g.feeds.push((Shape(shape.to_vec()), values)))
    }
    pub fn param(self, shape: &[usize], kind: ParamKind) -> Case {
        self.edit(|g| g.params.push((Shape(shape.to_vec()), kind)))
    }
    pub fn op(self, op: Op, operands: &[Operand]) -> Case {
        self.edit(|g| g.ops.push((op, operands.to_vec())))
    }
    pub fn with_taps(self) -> Case {
        self.edit(|g| g.taps = true)
    }
    /// Returns the case as evaluation plans it, with a label that says so.
    pub fn evaluated(mut self) -> Case {
        self.label.push_str(", in evaluation");
        self.edit(|g| g.evaluate = true)
    }
    pub fn first_feed_only(self) -> Case {
        self.edit(|g| g.first_feed_only = true)
    }
}
