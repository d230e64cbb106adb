//! The CUDA device: hand-written kernels, compiled at run time, on a GPU or on the emulator.

pub mod cache;
mod device;
pub mod driver;
pub mod emulator;
pub mod launch;
pub mod nvidia;
pub mod nvrtc;
pub mod rungs;
pub mod sources;

pub use device::CudaDevice;

use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use rungs::Rungs;

/// How the emulator runs kernels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emulation {
    pub order: Order,
    /// Asynchronous copies and products are done when they are issued, not as late as they may be.
    pub eager: bool,
    /// Look for races, uninitialised reads and accesses out of bounds.
    pub sanitize: bool,
}

/// In which order a block's threads run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Ascending,
    Descending,
    Shuffled(u64),
}

/// Short steps that go into one graph on a GPU. The emulator starts nothing in advance: its steps take seconds, and one waits
/// for each.
const STEPS_A_GRAPH: usize = 8;

/// Whether this machine has a GPU, and all that it takes to use it.
pub fn ready() -> bool {
    nvidia::count().is_ok() && nvrtc::version().is_ok()
}

/// A device on the GPU of that number.
///
/// # Errors
/// Unavailable: no driver, no NVRTC, no such GPU; too old a GPU for the dtype.
pub fn on_gpu(number: usize, dtype: DType) -> Result<CudaDevice> {
    let driver = Box::new(nvidia::Nvidia::new(number)?);
    CudaDevice::new(driver, dtype, Rungs::default(), STEPS_A_GRAPH)
}

/// A device on the emulator.
///
/// # Errors
/// Unavailable: no C++ compiler.
pub fn on_emulator(_emulation: &Emulation, _threads: usize, _dtype: DType) -> Result<CudaDevice> {
    Err(Error::new(Kind::Unavailable, "no emulator here"))
}
