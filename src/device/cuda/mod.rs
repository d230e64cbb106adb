//! The CUDA device: hand-written kernels, compiled at run time, on a GPU or on the emulator.

pub mod cache;
mod datasets;
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
use rungs::{RUNGS, Rungs};
use std::path::Path;

/// Returns `found`, or None after a line that the test is skipped: for tests of what not every machine has.
///
/// # Panics
/// Where it is missing and SAMCORE_REQUIRE_`what` is set.
pub fn or_skip<T>(found: Result<T>, what: &str) -> Option<T> {
    // Put together, since these are no variables that the program heeds.
    let required = std::env::var_os(format!("SAMCORE_REQUIRE_{what}")).is_some();
    found
        .inspect_err(|e| {
            assert!(!required, "{what} is required: {e}");
            crate::output::note(&format!("skipped: {e}"));
        })
        .ok()
}

/// Short steps that go into one graph on a GPU. The emulator starts nothing in advance: its steps take seconds, and one waits
/// for each.
const STEPS_A_GRAPH: usize = 8;

/// Returns true if this machine has a GPU and everything that is needed to use it.
pub fn ready() -> bool {
    nvidia::count().is_ok() && nvrtc::version().is_ok()
}

/// Returns the rungs that SAMCORE_RUNGS asks for, a rung's name or the file of a tuning table, else the built-in rule.
///
/// # Errors
/// A file that cannot be read, or is no such table.
fn rungs_from_environment() -> Result<Rungs> {
    let Some(word) = std::env::var_os("SAMCORE_RUNGS").filter(|v| !v.is_empty()) else { return Ok(Rungs::default()) };
    match word.to_str().and_then(|name| RUNGS.iter().find(|r| r.0 == name)) {
        Some(rung) => Ok(Rungs { forced: Some(rung.1), ..Rungs::default() }),
        None => Rungs::load(Path::new(&word)).map_err(|e| e.context("SAMCORE_RUNGS")),
    }
}

/// A device on the GPU of that number, with these rungs or those of the environment.
///
/// # Errors
/// Unavailable: no driver, no NVRTC, no such GPU; too old a GPU for the dtype.
pub fn on_gpu(number: usize, dtype: DType, rungs: Option<Rungs>) -> Result<CudaDevice> {
    let rungs = rungs.map_or_else(rungs_from_environment, Ok)?;
    CudaDevice::new(Box::new(nvidia::Nvidia::new(number)?), dtype, rungs, STEPS_A_GRAPH)
}

/// A device on the emulator, of `threads` CPU threads (0: all), with these rungs or those of the environment.
///
/// # Errors
/// Unavailable: no C++ compiler.
pub fn on_emulator(emulation: &Emulation, threads: usize, dtype: DType, rungs: Option<Rungs>) -> Result<CudaDevice> {
    let mut emulation = emulation.clone();
    if threads > 0 {
        emulation.threads = threads;
    }
    let rungs = rungs.map_or_else(rungs_from_environment, Ok)?;
    CudaDevice::new(Box::new(Emulator::new(emulation)?), dtype, rungs, 1)
}
