//! Stochastic gradient descent with momentum, Nesterov's variant on request (Sutskever et al. 2013, in PyTorch's form).

use super::Optimizer;
use crate::error::Result;
use crate::step::{At, By, C, G, Step};

pub struct Sgd {
    pub nesterov: bool,
}

impl Optimizer for Sgd {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let pass = s.pass(At::of(C), By::params(), s.all(), G)?;
        let norm = s.finish(pass.g, &[pass.stats], self.nesterov);
        s.report("loss", pass.loss);
        s.report("hits", pass.hits);
        s.report("grad_norm", norm);
        Ok(())
    }
}
