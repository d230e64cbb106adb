//! The ladder of convolution kernels, and which rung a shape takes.

use crate::dtype::DType;

/// A way to compute a convolution. All of them pass the same cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rung {
    /// f32 multiply-adds on tiles in shared memory, any card.
    Plain,
    /// Tensor cores through `mma.sync`, tiles by `cp.async`: sm_80 on.
    Mma,
    /// Tensor cores through `wgmma`, tiles by TMA, warps specialised: sm_90a.
    Wgmma,
}

/// Names of the rungs, from the lowest on: name, rung, lowest compute capability, dtypes.
pub const RUNGS: &[(&str, Rung, u32, &[DType])] = &[
    ("plain", Rung::Plain, 0, &[DType::F32, DType::Tf32, DType::Bf16, DType::F16]),
    ("mma", Rung::Mma, 80, &[DType::Tf32, DType::Bf16, DType::F16]),
    ("wgmma", Rung::Wgmma, 90, &[DType::Bf16, DType::F16]),
];

/// Which rung to take.
#[derive(Clone, Debug, Default)]
pub struct Rungs {
    /// Take this one wherever it can be taken.
    pub forced: Option<Rung>,
}

impl Rungs {
    /// A short name of what was chosen, None for the built-in rule.
    pub fn hash(&self) -> Option<String> {
        self.forced.map(|r| format!("{r:?}").to_lowercase())
    }
}
