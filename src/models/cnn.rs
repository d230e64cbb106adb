//! The custom CNN of the report: two blocks of two convolutions, two linear layers. 468,010 parameters on 1x28x28.

use super::Spec;
use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::nn;

/// conv3x3 32, 32, pool 2, 64, 64, pool 2, fc 128, fc classes; batch-norm and ReLU after each convolution, ReLU (and
/// dropout) after fc 128. It has no residual blocks, so there is a tap behind every convolution.
///
/// # Errors
/// If the image is smaller than 4x4.
pub fn cnn(g: &mut Graph, x: Var, spec: &Spec) -> Result<Var> {
    let mut h = x;
    for (i, co) in [32, 32, 64, 64].into_iter().enumerate() {
        let n = i + 1;
        h = nn::conv(g, h, &format!("conv{n}"), co, 3, 1, 1)?;
        h = nn::tap(g, h, &format!("tap{n}"), spec.taps)?;
        h = nn::batch_norm(g, h, &format!("bn{n}"))?;
        h = nn::relu(g, h, &format!("relu{n}"))?;
        if n % 2 == 0 {
            h = nn::max_pool(g, h, &format!("pool{}", n / 2), 2)?;
        }
    }
    h = nn::linear(g, h, "fc1", 128)?;
    h = nn::relu(g, h, "relu5")?;
    h = nn::dropout(g, h, "dropout", spec.dropout)?;
    nn::linear(g, h, "fc2", spec.classes)
}
