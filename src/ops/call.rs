//! The instructions of a device: a [`Call`] is plain data, and a program is a list of calls.
//!
//! Operands are [`Loc`]s, always in the order that the [`Kernel`] variant documents. All values are dense; images are NHWC,
//! convolution weights KRSC, linear weights `[outputs, inputs]`. On a device that computes in bf16 or f16 activations, their
//! gradients and the compute copy of weights are stored so; everything else (statistics, sums, losses, gradients of parameters,
//! master weights) is f32 on every device.

use super::cross_entropy::Bootstrap;
pub use super::shapes::{ConvShape, LinearShape, NormShape, PoolShape, RowFactors, ShortcutShape};
use crate::dtype::Element;

/// The memory that a value lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Memory {
    /// A buffer of a plan that has no place yet; the planner replaces it by `Arena`.
    Temp(u32),
    /// A role of a plan; `Step::pass` replaces it by a `Vector`.
    Role(Role),
    /// The one arena that all plans share.
    Arena,
    /// A named vector that outlives steps (weights, gradient, momentum, statistics).
    Vector(u16),
    /// The scalar slots.
    Scalars,
}

/// The role of a vector in a plan. One plan serves every binding of its roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The parameters that kernels read.
    Weights,
    /// The gradient with respect to the parameters.
    Gradient,
    /// The batch statistics that the pass writes.
    Statistics,
    /// Running statistics that batch-norm reads instead of the batch's own.
    Running,
    /// Relative perturbations of tapped activations, and their gradient.
    Taps,
    TapsGradient,
    /// Values (fed graphs) or a perturbation (image graphs) of the input, and the gradient with respect to it.
    Input,
    InputGradient,
    /// The gradient with respect to the value that is differentiated, where that is not the mean loss.
    Seed,
    /// The scalars a pass ends with: [mean loss, hits, weight sum].
    Outcome,
    /// The scalar that the loss is multiplied by before it is differentiated, so that f16 gradients do not vanish.
    Scale,
    /// The scalar by which mixup mixes: the share of the row's own image.
    Share,
}

/// `len` elements that begin at cell `offset` of a memory; a cell is 4 bytes, whatever the elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loc {
    pub memory: Memory,
    pub offset: usize,
    pub len: usize,
    pub element: Element,
}

impl Loc {
    /// `len` f32 elements from cell `offset` on.
    pub const fn new(memory: Memory, offset: usize, len: usize) -> Loc {
        Loc { memory, offset, len, element: Element::F32 }
    }
    /// Cells that the elements fill.
    pub const fn cells(&self) -> usize {
        self.element.cells(self.len)
    }
    pub fn overlaps(&self, other: &Loc) -> bool {
        let (end, other_end) = (self.offset + self.cells(), other.offset + other.cells());
        self.memory == other.memory && self.offset < other_end && other.offset < end
    }
}

/// Augmentation by ingest. Each draw is keyed by (seed, epoch, index of the image in its data set).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Augment {
    /// Random crop out of the image padded by this many pixels on each side; 0 is none.
    pub crop: usize,
    /// Pad by mirroring (without repeating the border) instead of by zero after normalisation.
    pub reflect: bool,
    /// Mirror left-right with probability one half.
    pub flip: bool,
    /// Side in pixels of a square that is set to zero after normalisation, the mean (DeVries and Taylor, 2017). Its centre
    /// is uniform over the image as the model sees it, so that borders clip some squares; 0 is none.
    pub cutout: usize,
    /// Mix each image, augmented, and its target with those of another row of the batch (Zhang et al., 2018): row i of the
    /// whole batch of `Counters::rows` with row rows - 1 - i, by one share for all.
    pub mixup: bool,
}

/// Reads `n` images of the data set that [`Counters`] name, from position `Counters::first + offset` of its order on.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingest {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub classes: usize,
    pub offset: usize,
    /// Mean of each channel, for pixel values scaled to 0..1. At most 4 channels.
    pub mean: [f32; 4],
    pub std: [f32; 4],
    pub augment: Augment,
}

/// Mean and deviation by which pixel values from 0 to 1 are normalised, by channel; at most 4 channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pixels {
    pub c: usize,
    pub mean: [f32; 4],
    pub std: [f32; 4],
}

/// A set of parameters as element ranges of the padded parameter vector, ascending and disjoint.
pub type Ranges = std::sync::Arc<[std::ops::Range<usize>]>;

/// One step of a scalar expression, in postfix order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    Const(f32),
    /// The n-th scalar operand of the call.
    Read(usize),
    Mul,
    /// Zero where the denominator is zero, not finite, or too small for a quotient in f32; the call then adds one to its
    /// counter operand.
    Div,
    Add,
    Min,
    Max,
    Sqrt,
    Neg,
    /// Pops (then, otherwise, condition), condition pushed last: then where condition > 0.
    Select,
}

/// The elementwise function that a term of `Set` applies before scaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Map {
    Identity,
    Abs,
    Sign,
    Square,
}

/// `coefficient * map(v) * factor(u)`, with `coefficient` a postfix expression; without a factor there is no u.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub coefficient: Vec<Scale>,
    pub map: Map,
    pub factor: Option<Map>,
}

impl Term {
    /// Vectors that the terms of a `Set` read: one for each, then one for each factor.
    pub fn vectors(terms: &[Term]) -> usize {
        terms.len() + terms.iter().filter(|t| t.factor.is_some()).count()
    }

    /// Returns for each term the position of its factor's vector among the reads of its `Set`.
    pub fn factors(terms: &[Term]) -> impl Iterator<Item = Option<usize>> {
        let mut next = terms.len();
        terms.iter().map(move |term| {
            term.factor.map(|_| {
                next += 1;
                next - 1
            })
        })
    }
}

/// The update rule of `Finish`; see the kernel for the formula.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub ranges: Ranges,
    /// Group of each [`BLOCK`] of the parameter vector, below [`MAX_GROUPS`]: which learning rate and decay it has.
    pub groups: std::sync::Arc<[u8]>,
    pub nesterov: bool,
    /// Storage of c; None is f32.
    pub cast: Option<Cast>,
}

/// Groups of pixels whose partial sums a kernel has written: `count` groups of `pixels`, the last of `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Groups {
    pub count: usize,
    pub pixels: usize,
    pub last: usize,
}

impl Groups {
    /// `pixels` in groups of `size`.
    pub fn of(pixels: usize, size: usize) -> Groups {
        let count = pixels.div_ceil(size).max(1);
        Groups { count, pixels: size, last: pixels - (count - 1) * size }
    }
}

/// Storage of a parameter vector in low precision: each parameter's elements lie packed from its first cell on, so that it
/// begins at the same offset as in f32. Biases and batch-norm's parameters stay f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    pub element: Element,
    /// For each [`BLOCK`] the first element of the parameter it belongs to; [`Cast::WIDE`] where it is stored as f32.
    pub starts: std::sync::Arc<[u32]>,
}

impl Cast {
    pub const WIDE: u32 = u32::MAX;

    /// The places within `whole`, a vector stored so, that are of one element type each.
    pub fn parts(&self, whole: Loc) -> Vec<Loc> {
        let mut parts: Vec<Loc> = Vec::new();
        let mut before = None;
        for (block, start) in self.starts.iter().enumerate() {
            let element = if *start == Cast::WIDE { Element::F32 } else { self.element };
            match parts.last_mut() {
                Some(last) if before == Some(start) => last.len += BLOCK,
                _ => parts.push(Loc { offset: block * BLOCK, len: BLOCK, element, ..whole }),
            }
            before = Some(start);
        }
        parts
    }
}

/// Groups of parameters with a learning rate and a weight decay of their own.
pub const MAX_GROUPS: usize = 8;

/// Elements a parameter's segment is padded to, so that one block never holds two parameters.
pub const BLOCK: usize = 256;

/// The computation of a call. `reads` and `writes` list its operands in order; `+=` is `=` where the variant has
/// `add: false`.
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel {
    /// reads, with mixup, the scalar share of the row's own image; writes x `[n,h,w,c]`, targets `[n, classes]` (one-hot rows,
    /// or their mixtures), weights `[n]` (0 from row `Counters::rows` on).
    Ingest(Ingest),
    /// reads x, w and, where a sum follows, its other summand; writes y (with that summand added) and, where a batch-norm
    /// follows, partial statistics `[groups, 2, co]` of y: mean and M2 of each group of pixels; see [`Groups`].
    ConvForward(ConvShape),
    /// reads dy, w; writes dx +=.
    ///
    /// With `norm`, the batch-norm (and ReLU) whose output this convolution alone reads: reads its x, statistics, weight and
    /// bias as well, and writes partial sums `[groups, 2, ci]` for its dweight and dbias, taken of the complete dx.
    ConvBackwardData { shape: ConvShape, add: bool, norm: Option<NormShape> },
    /// reads x, dy; writes dw.
    ConvBackwardWeight(ConvShape),
    /// reads x `[n, pixels, c]`; writes statistics `[3, c]`.
    BatchStats { n: usize, pixels: usize, c: usize },
    /// reads partial statistics `[groups, 2, c]`: mean and M2 of each group; writes statistics `[3, c]`.
    MergeStats { groups: Groups, c: usize },
    /// reads x, statistics, weight, bias; writes y = maxpool(relu(weight * (x - mean) / sqrt(var + eps) + bias)).
    NormApply(NormShape),
    /// reads x, statistics, weight, bias, dy; writes dweight, dbias.
    NormBackwardSums(NormShape),
    /// reads partial sums `[groups, 2, c]`, for dweight and for dbias; writes dweight, dbias.
    MergeSums { groups: usize, c: usize },
    /// reads x, statistics, weight, bias, dy, dweight, dbias; writes dx +=.
    NormBackwardData { shape: NormShape, add: bool },
    /// reads x; writes y = max(x, 0).
    Relu,
    /// reads y (the ReLU's output), dy; writes dx += dy where y > 0.
    ReluBackward { add: bool },
    /// reads a, b; writes a + b.
    Add,
    /// reads x; writes y += x.
    Copy { add: bool },
    /// reads x; writes y.
    MaxPool(PoolShape),
    /// reads x, dy; writes dx +=: each dy goes to the first largest x of its window, in row order.
    MaxPoolBackward { shape: PoolShape, add: bool },
    /// reads x; writes y: the mean of each window.
    AvgPool(PoolShape),
    /// reads dy; writes dx +=.
    AvgPoolBackward { shape: PoolShape, add: bool },
    /// reads x; writes y: every stride-th pixel of the shifted x between channels of zeros.
    PadShortcut(ShortcutShape),
    /// reads dy; writes dx +=: 0 at the pixels that were not copied.
    PadShortcutBackward { shape: ShortcutShape, add: bool },
    /// reads x, w, b; writes y = x wᵀ + b.
    LinearForward(LinearShape),
    /// reads dy, w; writes dx += dy w.
    LinearBackwardData { shape: LinearShape, add: bool },
    /// reads x, dy; writes dw, db.
    LinearBackwardWeight(LinearShape),
    /// reads x `[n, len]`; writes y += x / (1 - p) or 0, by draws keyed by (seed, `stream`, epoch, sample, element).
    /// Its backward is itself, on dy.
    Dropout { n: usize, len: usize, offset: usize, p_bits: u32, stream: u32, add: bool },
    /// reads a, b; writes y = f a + (1 - f) b, f being the row's factor.
    MixRows(RowFactors),
    /// reads x; writes y += f x, f being the row's factor.
    ScaleRows { factors: RowFactors, add: bool },
    /// reads logits `[n, classes]`, targets `[n, classes]`; writes losses `[n]`, hits `[n]` (1 where the largest logit,
    /// the first of equals, stands at the largest target). Targets t are smoothed to (1 - s) t + s / classes, then mixed
    /// with predictions as [`Bootstrap`] says.
    CrossEntropy { n: usize, classes: usize, smoothing_bits: u32, bootstrap: Bootstrap },
    /// reads losses, hits, weights, each `[n]`; writes [sum(w l) / sum(w), sum(w h), sum(w)], zeros where sum(w) is 0.
    MeanLoss { n: usize },
    /// reads logits, targets, weights and, where the loss is scaled, the scalar that it is multiplied by; writes
    /// dlogits = scale * weights / sum(weights) * (softmax(logits) - smoothed targets), or what [`Bootstrap`] makes of it.
    CrossEntropyBackward { n: usize, classes: usize, smoothing_bits: u32, bootstrap: Bootstrap },
    /// reads h `[n, len]`, delta `[n, len]`; writes h + |h| delta, |h| being the 2-norm of a row.
    Tap { n: usize, len: usize },
    /// reads h, delta, dy; writes dh += dy + (dy . delta) h / |h| (no second term where |h| is 0).
    TapBackward { n: usize, len: usize, add: bool },
    /// reads h, dy; writes ddelta = |h| dy.
    TapDelta { n: usize, len: usize },
    /// reads images x `[n, h, w, c]`, a gradient by them, their perturbation delta, and the scalars radius and rate; writes
    /// delta after one step of an attack on them; see [`Pixels`].
    ///
    /// delta = clamp(delta + rate / std sign(g), radius / std), then so that x + delta is the image of pixels from 0 to 1.
    PgdStep(Pixels),
    /// reads v; writes the scalar |v| over `ranges`.
    Norm(Ranges),
    /// reads a, b; writes the scalar a . b over `ranges`.
    Dot(Ranges),
    /// reads a vector for each term, then one for each term's factor, then the scalar operands of the coefficients; writes
    /// dst = the terms' sum over `ranges`, then (a scalar) adds to the count of dropped terms. A term is dropped (counted once) where its
    /// coefficient divides by such a denominator as [`Scale::Div`] refuses. `dst` may be one of the read vectors.
    ///
    /// With `cast` dst is stored so; the read vectors are f32.
    Set { ranges: Ranges, terms: Vec<Term>, cast: Option<Cast> },
    /// reads w, c, g, c stored as `cast` says; writes the scalars |c - w| and the cosine of c - w and g (0 where either is 0)
    /// over `ranges`: how much of a perturbation survives rounding.
    Perturbation { ranges: Ranges, cast: Option<Cast> },
    /// reads v; writes u = v at the `n` places of largest magnitude within `ranges`, those of lower index first among equals,
    /// and 0 at the others. u may be v.
    Largest { ranges: Ranges, n: usize },
    /// reads a scalar; divides the vector that it writes by it over `ranges`, then writes the scalar 1 where one of the
    /// quotients is not finite, else leaves it.
    Unscale(Ranges),
    /// reads scalar operands; writes the scalar value of the expression, then (a scalar) adds to the count of refused denominators.
    Scalar(Vec<Scale>),
    /// reads scalars; writes (a scalar) fault = 1 where any of them is not finite, else leaves it.
    Guard,
    /// reads g, w, m, then the scalars fault, norm (of g), momentum, clip, and lr, decay of each group; writes w, m, c.
    ///
    /// Only c = w where fault > 0. Else, with f = min(1, clip / norm) where clip > 0, else 1:
    /// d = f g + decay w; m = momentum m + d; u = d + momentum m if nesterov else m; w -= lr u; c = w.
    Update(Update),
    /// reads statistics `[3, c]` of a batch and the scalar fault, updates running statistics `[3, c]` where fault is 0:
    /// mean and variance move by `momentum` towards the batch's mean and M2 / (count - 1), the number of batches by one.
    FoldStats { c: usize, momentum_bits: u32 },
}

/// One kernel on its operands.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub kernel: Kernel,
    pub reads: Vec<Loc>,
    pub writes: Vec<Loc>,
    /// Scratch that the device asked for; its content is garbage before and after.
    pub workspace: Option<Loc>,
    /// Dotted name of what it belongs to: "conv2.forward", "sam.norm".
    pub label: String,
}

/// Values that the host sends to a device at each step, beside the scalar slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Key of all random draws of the run.
    pub seed: u64,
    pub epoch: u32,
    /// Number of the uploaded data set that ingest reads.
    pub dataset: u32,
    /// Position in that data set's order of the batch's first image.
    pub first: u32,
    /// Rows of the batch that are real; those behind it repeat the last real one with weight 0.
    pub rows: u32,
}
