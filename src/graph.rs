//! The computation graph: a model is a function that records operations on a [`Graph`].
//!
//! Shapes are per sample (`[h, w, c]` for images, `[features]` otherwise); the number of rows is chosen when a plan is made.

use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ops::call::{Augment, Ranges};
use crate::ops::value::{ParamKind, Shape};
use crate::ops::{BatchNorm, Op};
use crate::params::{FileLayout, Param, Params};

/// A value of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(pub(crate) u32);

/// One recorded operation.
#[derive(Clone, Debug)]
pub struct Node {
    pub op: Op,
    pub inputs: Vec<Var>,
    pub shape: Shape,
    /// Dotted name: "conv2", "layer1.0.bn1".
    pub name: String,
}

/// Place of a batch-norm's statistics in every vector of statistics: `[3, channels]` from `offset` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Name of the layer, to which files append ".running_mean" and so on.
    pub name: String,
    pub channels: usize,
    pub offset: usize,
    pub momentum_bits: u32,
}

/// The images that a model reads.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSource {
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub classes: usize,
    pub mean: [f32; 4],
    pub std: [f32; 4],
    /// Used where a plan trains; evaluation reads the images as they are.
    pub augment: Augment,
}

/// The three values that one batch brings.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    pub images: Var,
    /// Target rows `[classes]`.
    pub targets: Var,
    /// 1 for a real row, 0 for one that pads the batch.
    pub weights: Var,
}

/// Most parameters of a model: kernels number them by 32 bits with a sign.
pub const MAX_PARAMETERS: usize = 1 << 31;
/// Most values that all operations of a pass compute: 4 TiB, and few enough for flops to be counted in 64 bits.
pub const MAX_VALUES: u128 = 1 << 40;

/// A recorded computation.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    params: Params,
    statistics: Vec<Statistics>,
    feeds: Vec<Var>,
    taps: Vec<Var>,
    source: Option<ImageSource>,
    loss: Option<Var>,
}

impl Graph {
    pub fn new() -> Graph {
        Graph::default()
    }

    fn push(&mut self, op: Op, inputs: Vec<Var>, shape: Shape, name: &str) -> Var {
        self.nodes.push(Node { op, inputs, shape, name: name.to_owned() });
        Var(self.nodes.len() as u32 - 1)
    }

    /// Declares the images that the model reads. One source a graph.
    pub fn images(&mut self, source: ImageSource) -> Batch {
        let (image, classes) = (Shape(vec![source.h, source.w, source.c]), Shape(vec![source.classes]));
        self.source = Some(source);
        let images = self.push(Op::Images, vec![], image, "images");
        let targets = self.push(Op::Targets, vec![], classes, "targets");
        let weights = self.push(Op::Weights, vec![], Shape(vec![1]), "weights");
        Batch { images, targets, weights }
    }

    /// Declares a value that the caller uploads, one row a sample.
    pub fn feed(&mut self, name: &str, shape: &[usize]) -> Var {
        let index = self.feeds.len();
        let v = self.push(Op::Feed(index), vec![], Shape(shape.to_vec()), name);
        self.feeds.push(v);
        v
    }

    /// Declares a trainable parameter.
    ///
    /// # Errors
    /// If the name is taken or a dimension is 0.
    pub fn param(&mut self, name: &str, shape: &[usize], kind: ParamKind, layout: FileLayout) -> Result<Var> {
        if self.params.list().iter().any(|p| p.name == name) {
            return Err(Error::usage(format!("two parameters are named '{name}'; names must differ")));
        }
        let dims = Shape(shape.to_vec());
        if dims.is_empty() {
            return Err(Error::usage(format!("parameter '{name}' has the empty shape {dims}")));
        }
        let size = shape.iter().try_fold(1usize, |size, n| size.checked_mul(*n));
        let total = size.and_then(|size| size.checked_add(self.params.vector_len()));
        if total.is_none_or(|total| total > MAX_PARAMETERS) {
            return Err(Error::usage(format!(
                "with '{name}' of {dims} the model has more than {MAX_PARAMETERS} parameters, the most that there may be; \
                 take a smaller one"
            )));
        }
        let index = self.params.push(name.to_owned(), shape.to_vec(), kind, layout);
        Ok(self.push(Op::Param(index), vec![], dims, name))
    }

    /// Records an operation under a dotted name.
    ///
    /// # Errors
    /// If the shapes do not fit; the message names the operation and the shapes.
    pub fn op(&mut self, op: Op, inputs: &[Var], name: &str) -> Result<Var> {
        let shapes: Vec<&Shape> = inputs.iter().map(|v| self.shape(*v)).collect();
        let operation = op.operation().ok_or_else(|| Error::internal(format!("'{name}' is a source, not an op")))?;
        let shape = operation.infer(&shapes).map_err(|e| e.context(name))?;
        let v = self.push(op, inputs.to_vec(), shape, name);
        match &mut self.nodes[v.0 as usize].op {
            Op::BatchNorm(norm) => {
                norm.index = self.statistics.len();
                let BatchNorm { channels, momentum, .. } = *norm;
                let offset = self.statistics_len();
                let momentum_bits = momentum.to_bits();
                self.statistics.push(Statistics { name: name.to_owned(), channels, offset, momentum_bits });
            }
            Op::Tap(tap) => {
                tap.index = self.taps.len();
                self.taps.push(v);
            }
            Op::CrossEntropy(_) => self.loss = Some(v),
            _ => {}
        }
        Ok(v)
    }

    pub fn node(&self, v: Var) -> &Node {
        &self.nodes[v.0 as usize]
    }
    pub fn shape(&self, v: Var) -> &Shape {
        &self.node(v).shape
    }
    /// All values in the order they were recorded, which is an order of execution.
    pub fn vars(&self) -> impl DoubleEndedIterator<Item = Var> + use<> {
        (0..self.nodes.len() as u32).map(Var)
    }
    pub fn params(&self) -> &Params {
        &self.params
    }
    pub fn param_of(&self, index: usize) -> &Param {
        &self.params.list()[index]
    }
    pub fn statistics(&self) -> &[Statistics] {
        &self.statistics
    }
    /// Elements of a vector of statistics.
    pub fn statistics_len(&self) -> usize {
        self.statistics.last().map_or(0, |s| (s.offset + 3 * s.channels).next_multiple_of(16))
    }
    pub fn source(&self) -> Option<&ImageSource> {
        self.source.as_ref()
    }
    /// The cross-entropy, if one was recorded (the last one counts).
    pub fn loss(&self) -> Option<Var> {
        self.loss
    }
    pub fn feeds(&self) -> &[Var] {
        &self.feeds
    }
    pub fn taps(&self) -> &[Var] {
        &self.taps
    }

    /// Returns the graph without taps: the readers of a tap read its input instead. Values keep their numbers.
    pub fn without_taps(&self) -> Graph {
        let mut bare = self.clone();
        // A tap may mark another tap; in the order of recording that one's own input is settled first.
        for v in self.vars() {
            for i in 0..bare.node(v).inputs.len() {
                let input = bare.node(v).inputs[i];
                if matches!(bare.node(input).op, Op::Tap(_)) {
                    bare.nodes[v.0 as usize].inputs[i] = bare.node(input).inputs[0];
                }
            }
        }
        bare
    }

    /// First element of each of `vars` in a vector that holds `rows` rows of all of them, and the vector's length.
    pub fn row_offsets(&self, vars: &[Var], rows: usize) -> (Vec<usize>, usize) {
        let mut len = 0;
        let offsets = vars
            .iter()
            .map(|v| {
                let at = len;
                len += (rows * self.shape(*v).len()).next_multiple_of(16);
                at
            })
            .collect();
        (offsets, len)
    }

    /// Returns the values that read `v`.
    pub fn consumers(&self, v: Var) -> impl Iterator<Item = Var> + '_ {
        self.vars().filter(move |c| self.node(*c).inputs.contains(&v))
    }

    /// Returns the element type of `v` on a device that computes in `dtype`. Losses and logits stay f32, because the gradient of
    /// a softmax near 0 or 1 is a difference of nearly equal numbers.
    pub fn element(&self, v: Var, dtype: DType) -> Element {
        let loss = |v: Var| matches!(self.node(v).op, Op::CrossEntropy(_));
        match self.node(v).op {
            Op::Targets | Op::Weights | Op::CrossEntropy(_) => Element::F32,
            Op::Param(p) if !self.param_of(p).kind.is_factor() => Element::F32,
            _ if self.consumers(v).any(loss) => Element::F32,
            _ => dtype.storage(),
        }
    }

    /// All parameters as one range list.
    pub fn all_params(&self) -> Ranges {
        self.params.ranges(|_| true)
    }

    /// Checks that a pass over `rows` samples is not absurdly large.
    ///
    /// # Errors
    /// Usage: more values than [`MAX_VALUES`].
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        let len = |node: &Node| node.shape.0.iter().fold(1u128, |len, n| len.saturating_mul(*n as u128));
        let values = self.nodes.iter().filter(|node| !matches!(node.op, Op::Param(_))).map(len).sum::<u128>();
        if values.saturating_mul(rows as u128) > MAX_VALUES {
            return Err(Error::usage(format!(
                "a batch of {rows} images makes more than {MAX_VALUES} values, the most that there may be; give a \
                 smaller batch or smaller images"
            )));
        }
        Ok(())
    }

    /// Forward flops of one sample, multiply-adds counted as two.
    pub fn flops(&self) -> u64 {
        self.vars().map(|v| self.node_flops(v)).sum()
    }

    /// Forward flops of one node and one sample.
    pub fn node_flops(&self, v: Var) -> u64 {
        let node = self.node(v);
        let shapes: Vec<&Shape> = node.inputs.iter().map(|i| self.shape(*i)).collect();
        node.op.operation().map_or(0, |o| o.flops(&shapes, &node.shape))
    }
}
