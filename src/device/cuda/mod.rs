//! The CUDA device: hand-written kernels, compiled at run time, on a GPU or on the emulator.

pub mod driver;
pub mod launch;
pub mod rungs;
pub mod sources;
