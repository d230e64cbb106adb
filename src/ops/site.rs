//! The planner's interface for an operation that lowers itself to calls.

use super::call::{Groups, Kernel, Loc, NormShape};
use super::value::Shape;

/// A batch-norm whose backward sums a convolution takes.
pub struct NormBehind {
    pub shape: NormShape,
    /// Its x, statistics, weight and bias.
    pub reads: [Loc; 4],
    /// Destination of the partial sums.
    pub sums: Loc,
}

/// One node of the graph, seen by its operation while a plan is made.
pub trait Site {
    /// Rows of the plan's batch.
    fn rows(&self) -> usize;
    fn input_shape(&self, i: usize) -> &Shape;
    fn shape(&self) -> &Shape;
    /// Returns the location of the i-th input's value.
    fn input(&self, i: usize) -> Loc;
    /// Returns the location of the node's value (the value of the last node fused into it).
    fn output(&self) -> Loc;
    /// The gradient with respect to the output, complete.
    fn grad_output(&self) -> Loc;
    /// Returns the location of the gradient with respect to the i-th input, and true if it must be added to the content there;
    /// None if nothing needs it. Nowhere else is it decided whether a fan-out writes or adds.
    fn grad_input(&mut self, i: usize) -> Option<(Loc, bool)>;
    /// Returns that location for a kernel that can only write; the planner adds the result where needed.
    fn grad_input_written(&mut self, i: usize) -> Option<Loc>;
    /// Lets the i-th input's gradient be the output's gradient itself, where no copy is needed; false if it must be copied
    /// or nobody asks.
    fn alias_grad_input(&mut self, i: usize) -> bool;
    /// An f32 buffer that lives from its first to its last use.
    fn temp(&mut self, len: usize) -> Loc;
    /// Appends a call labelled "node.part".
    fn emit(&mut self, part: &str, kernel: Kernel, reads: Vec<Loc>, writes: Vec<Loc>);

    /// Returns true if batch-norm reads running statistics in this plan.
    fn running(&self) -> bool;
    /// Returns true if dropout and augmentation are on.
    fn train(&self) -> bool;
    /// The `len` statistics of batch-norm number `index`: the pass's own, or the running ones.
    fn statistics(&self, index: usize, len: usize) -> Loc;
    /// Returns the operations fused behind a batch-norm: true for a ReLU, and the window of a max pool (1 for none).
    fn norm_tail(&self) -> (bool, usize);
    /// A buffer for the partial statistics of this node's output of `channels` channels, if a batch-norm that reads it wants
    /// them and the device computes them along with `kernel`.
    fn partial_statistics(&mut self, channels: usize, kernel: Kernel) -> Option<Loc>;
    /// The partial statistics that the i-th input's producer has left, and how they are grouped.
    fn partials_of_input(&self, i: usize) -> Option<(Loc, Groups)>;
    /// The other summand, where this node writes a sum that it is part of.
    fn summand(&self) -> Option<Loc>;
    /// The batch-norm whose backward sums can be taken along with `kernel` of its shape, this node's gradient with respect
    /// to its first input, which must be emitted next.
    fn norm_behind(&mut self, kernel: &dyn Fn(NormShape) -> Kernel) -> Option<NormBehind>;
    /// Returns the location of partial sums that a convolution has left for this batch-norm's backward pass, and how many groups.
    fn norm_sums(&self) -> Option<(Loc, usize)>;
    /// The scalar that the loss is multiplied by before it is differentiated, if the device needs one.
    fn loss_scale(&self) -> Option<Loc>;
    /// The perturbation of tap number `index`, if this plan carries taps.
    fn tap_delta(&self, index: usize) -> Option<Loc>;
    /// Returns the location of the gradient with respect to that perturbation, if it is asked for.
    fn tap_gradient(&self, index: usize) -> Option<Loc>;
    /// Position in the batch of this plan's first row, for random draws.
    fn row_offset(&self) -> usize;
    /// Returns the location of mean loss, hits and weight sum.
    fn outcome(&self) -> Loc;
    /// Dotted name of the node.
    fn name(&self) -> &str;
}
