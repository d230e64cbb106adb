//! The GPUs that there are.

use super::super::nvrtc;
use super::kernels::versions;
use super::library::{self, failed};
use crate::error::{Error, Kind, Result};
use cudarc::driver::{result, sys};

/// Number of GPUs that the driver shows.
///
/// # Errors
/// `Unavailable` without a driver or a GPU.
pub fn count() -> Result<usize> {
    library::open()?;
    let count = result::device::get_count().map_err(|e| failed("count GPUs", e))?;
    match usize::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::new(Kind::Unavailable, library::no_gpu())),
    }
}

/// The GPU's own name: "NVIDIA H200".
///
/// # Errors
/// As [`Nvidia::new`](super::Nvidia::new).
pub fn name(ordinal: usize) -> Result<String> {
    result::device::get_name(device(ordinal)?).map_err(|e| failed(format!("name of GPU {ordinal}"), e))
}

/// The driver's number of a GPU.
pub fn device(ordinal: usize) -> Result<sys::CUdevice> {
    let count = count()?;
    if ordinal >= count {
        let there = match count {
            1 => "there is 1 GPU, 0".to_owned(),
            2 => "there are 2 GPUs, 0 and 1".to_owned(),
            _ => format!("there are {count} GPUs, 0 to {}", count - 1),
        };
        return Err(Error::new(Kind::Unavailable, format!("--device cuda:{ordinal}: {there}")));
    }
    result::device::get(ordinal as i32).map_err(|e| failed(format!("GPU {ordinal}"), e))
}

/// Version of CUDA that the driver is for, as 13000, if it can load what NVRTC compiles.
pub fn driver_version() -> Result<i32> {
    let mut cuda = 0;
    // SAFETY: the number is written.
    let code = unsafe { sys::cuDriverGetVersion(&mut cuda) }.result();
    code.map_err(|e| failed("version of the driver", e))?;
    let (major, _) = nvrtc::version()?;
    // A driver loads code of its own major version, and of those before.
    if major > cuda / 1000 {
        let message = format!("{}, whose code it cannot load: install a newer driver", versions(cuda));
        let older = format!("or an older NVRTC (pip install 'nvidia-cuda-nvrtc-cu{0}=={0}.*')", cuda / 1000);
        return Err(Error::new(Kind::Unavailable, format!("{message}, {older}")));
    }
    Ok(cuda)
}
