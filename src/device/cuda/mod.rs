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
pub use emulator::{Emulator, Options as Emulation, Order};

use crate::dtype::DType;
use crate::error::Result;
use rungs::Rungs;

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

/// A device on the emulator, of `threads` CPU threads (0: all).
///
/// # Errors
/// Unavailable: no C++ compiler.
pub fn on_emulator(emulation: &Emulation, threads: usize, dtype: DType) -> Result<CudaDevice> {
    let mut emulation = emulation.clone();
    if threads > 0 {
        emulation.threads = threads;
    }
    CudaDevice::new(Box::new(Emulator::new(emulation)?), dtype, Rungs::default(), 1)
}
