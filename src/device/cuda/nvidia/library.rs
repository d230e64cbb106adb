//! NVIDIA's driver library: whether it is there with all that is used of it, and its errors in words.

use crate::error::{Error, Kind, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::fmt::Display;
use std::sync::OnceLock;

/// Every function that is called. cudarc panics at the first call of one that the library lacks, so they are looked for first.
const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamDestroy_v2",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphUpload",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemsetD8Async",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuGetErrorName",
    "cuGetErrorString",
];
/// Tells what parameters a kernel takes: drivers of CUDA 12.4 on.
pub const PARAM_INFO: &str = "cuFuncGetParamInfo";
/// Tensor maps: drivers of CUDA 12.0 on.
pub const TENSOR_MAP: &str = "cuTensorMapEncodeTiled";
/// Time between two events: drivers of CUDA 12.8 on.
pub const ELAPSED: &str = "cuEventElapsedTime_v2";

const ELSE: &str = "use --device cpu, or --device emu to run the kernels on the CPU";

/// Loads the library and initialises it, once.
///
/// # Errors
/// `Unavailable`, with what to do about it, where there is no driver, an unfit one, or no GPU.
pub fn open() -> Result<()> {
    static OPENED: OnceLock<Result<()>> = OnceLock::new();
    OPENED.get_or_init(first_open).clone()
}

fn first_open() -> Result<()> {
    let unavailable = |message: String| Err(Error::new(Kind::Unavailable, message));
    // SAFETY: loading NVIDIA's library runs nothing of its that would concern us.
    if !unsafe { sys::is_culib_present() } {
        let missing = "no NVIDIA driver on this machine (libcuda.so.1 is not there)";
        return unavailable(format!("{missing}: install one, or {ELSE}"));
    }
    let missing: Vec<&str> = FUNCTIONS.iter().copied().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        let what = missing.join(", ");
        return unavailable(format!("the NVIDIA driver is too old, it lacks {what}: install a newer one, or {ELSE}"));
    }
    match result::init() {
        Ok(()) => Ok(()),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => unavailable(no_gpu()),
        Err(e) => unavailable(format!("the NVIDIA driver does not start: {}; {ELSE}", describe(e))),
    }
}

/// Returns true if the loaded library has that function.
pub fn has(name: &str) -> bool {
    // SAFETY: the symbol is only looked for.
    unsafe { sys::culib().get::<*const ()>(name.as_bytes()) }.is_ok()
}

/// The message where there is a driver but nothing to drive.
pub fn no_gpu() -> String {
    format!("no NVIDIA GPU on this machine (its driver sees none; CUDA_VISIBLE_DEVICES may hide one): {ELSE}")
}

/// "CUDA_ERROR_LAUNCH_FAILED (719): unspecified launch failure".
pub fn describe(e: DriverError) -> String {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| "unknown to the driver".to_owned(), |t| t.to_string_lossy().into_owned())
    };
    format!("{} ({}): {}", text(e.error_name()), e.0 as u32, text(e.error_string()))
}

/// An error of the driver's while doing `what`.
pub fn failed(what: impl Display, e: DriverError) -> Error {
    let code = e.0 as u32;
    // Memory, devices, drivers and their versions; what this machine lacks rather than what samcore did wrong.
    let lacks = matches!(code, 2 | 34..=36 | 46 | 100..=102 | 209 | 214 | 218 | 220..=223 | 802..=810);
    Error::new(if lacks { Kind::Unavailable } else { Kind::Internal }, format!("{what}: {}", describe(e)))
}

/// Returns true if nothing works after this error: a fault of a kernel or of the card, by which the context is lost.
pub fn is_fatal(e: DriverError) -> bool {
    matches!(e.0 as u32, 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999)
}
