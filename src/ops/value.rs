//! Shapes of values, and kinds of parameters.

use crate::error::{Error, Result};
use std::fmt;

/// Dimensions of one sample's value, or of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<usize>);

impl Shape {
    pub fn len(&self) -> usize {
        self.0.iter().product()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Height and width of an image; 1x1 for anything else.
    pub fn plane(&self) -> (usize, usize) {
        if let [h, w, _] = self.0[..] { (h, w) } else { (1, 1) }
    }
    /// `(h, w, c)` of an image.
    ///
    /// # Errors
    /// If the shape is not three-dimensional; `op` is named in the message.
    pub fn image(&self, op: &str) -> Result<(usize, usize, usize)> {
        match self.0[..] {
            [h, w, c] => Ok((h, w, c)),
            _ => Err(Error::usage(format!("{op} needs an image of shape h x w x c, got {self}"))),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&dims.join("x"))
    }
}

/// The role of a parameter in its layer. Decides weight decay groups, perturbation masks and initial values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParamKind {
    /// Convolution weight `[co, k, k, ci]`, initially N(0, 2 / fan-out), fan-out = co k k (He et al. 2015).
    ConvWeight,
    /// Linear weight `[outputs, inputs]`, initially uniform within 1 / sqrt(inputs), PyTorch's default.
    LinearWeight,
    /// Linear bias, initially uniform within 1 / sqrt(inputs).
    LinearBias { inputs: usize },
    /// Linear bias, initially 0 (the wide ResNets').
    ZeroBias,
    /// Batch-norm scale, initially 1.
    NormWeight,
    /// Batch-norm shift, initially 0.
    NormBias,
}

impl ParamKind {
    /// Returns true if the parameter is a factor of multiplications that run in low precision.
    pub fn is_factor(self) -> bool {
        matches!(self, ParamKind::ConvWeight | ParamKind::LinearWeight)
    }
}
