//! The GPU through NVIDIA's driver: cudarc's bindings of the driver API, one context, one stream.

mod cards;
mod kernels;
mod library;
mod maps;
mod replay;
mod staging;

use super::driver::{Address, Arg, Captured, Driver, Fetch, Function, Grid, MapShape, Module, Properties, TensorMap};
use super::nvrtc;
use crate::error::{Error, Kind, Result};
pub use cards::{count, name};
use cards::{device, driver_version};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use kernels::{Kernels, Packed};
use library::failed;
use replay::{Queued, Recording, Replay};
use staging::{SLOT, Staging};
use std::cell::OnceCell;
use std::collections::BTreeMap;

/// The oldest cards that the kernels are compiled for.
const OLDEST: u32 = 75;

/// A GPU.
pub struct Nvidia {
    properties: Properties,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Version of CUDA that the driver is for: 13000 is 13.0.
    cuda: i32,
    /// Bytes of dynamic shared memory that a block can have.
    shared: u32,
    allocations: BTreeMap<Address, usize>,
    // Boxed or not, they go before the context: see `drop`.
    staging: Staging,
    kernels: Kernels,
    packed: Packed,
    recording: Recording,
    captured: Vec<Replay>,
    /// The error after which nothing works any more.
    broken: OnceCell<Error>,
    /// Each launch is waited for, so that an error names its kernel.
    blocking: bool,
}

// SAFETY: the driver's handles may be used from any thread; each call makes the context current in its own.
unsafe impl Send for Nvidia {}

/// Returns a GPU for a test. Where there is none the test says so and passes, unless SAMCORE_REQUIRE_GPU is set.
///
/// # Panics
/// Without a GPU, if it is required.
pub fn gpu_or_skip() -> Option<Nvidia> {
    super::or_skip(Nvidia::new(0), "GPU")
}

impl Nvidia {
    /// Takes the GPU of that number, as the driver counts them.
    ///
    /// # Errors
    /// `Unavailable` without a driver, GPU or NVRTC, with what to do about it.
    pub fn new(ordinal: usize) -> Result<Nvidia> {
        let device = device(ordinal)?;
        let attribute = |attribute| {
            // SAFETY: the device is there.
            let value = unsafe { result::device::get_attribute(device, attribute) };
            value.map(|v| v as u32).map_err(|e| failed(format!("attributes of GPU {ordinal}"), e))
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let arch = 10 * major + attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let card = name(ordinal)?;
        if arch < OLDEST {
            let message =
                format!("GPU {ordinal} ({card}, sm_{arch}) is too old for the kernels, which need sm_{OLDEST}");
            return Err(Error::new(Kind::Unavailable, message));
        }
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let cuda = driver_version()?;
        // SAFETY: the device is there.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = context.map_err(|e| failed(format!("context of GPU {ordinal}"), e))?;
        // From here on `drop` gives back what there is.
        let mut gpu = Nvidia {
            properties: Properties { name: format!("{card} ({})", nvrtc::arch_name(arch)), arch, processors },
            device,
            context,
            stream: std::ptr::null_mut(),
            cuda,
            shared,
            allocations: BTreeMap::new(),
            staging: Staging::default(),
            kernels: Kernels::default(),
            packed: Packed::default(),
            recording: Recording::Off,
            captured: Vec::new(),
            broken: OnceCell::new(),
            blocking: std::env::var_os("CUDA_LAUNCH_BLOCKING").is_some_and(|v| v == "1"),
        };
        gpu.bind()?;
        // Non-blocking: it has nothing to do with the default stream, on which nothing runs, and can be captured.
        gpu.stream = gpu.check("stream", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        let filled = gpu.staging.fill();
        gpu.check("page-locked memory", filled)?;
        Ok(gpu)
    }

    /// Makes the context current in the calling thread, unless all is lost.
    fn bind(&self) -> Result<()> {
        if let Some(e) = self.broken.get() {
            return Err(e.clone());
        }
        // SAFETY: the context is retained until `drop`.
        self.check("context", unsafe { result::ctx::set_current(self.context) })
    }

    /// Binds the context for a call that would spoil a recording.
    fn bind_outside(&self, what: &str) -> Result<()> {
        if !matches!(self.recording, Recording::Off) {
            return Err(Error::internal(format!("{what} between capture and end_capture")));
        }
        self.bind()
    }

    /// Checks the driver's answer to `what`. An error that has cost the context is kept and reported again.
    fn check<T>(&self, what: impl std::fmt::Display, done: std::result::Result<T, DriverError>) -> Result<T> {
        done.map_err(|e| {
            let mut error = failed(what, e);
            if library::is_fatal(e) {
                if !self.blocking {
                    let hint = "a kernel launched before may be to blame; CUDA_LAUNCH_BLOCKING=1 names it";
                    error = Error::new(error.kind, format!("{error} ({hint})"));
                }
                let _ = self.broken.set(error.clone());
            }
            error
        })
    }

    /// Checks that a range lies within one allocation.
    fn within(&self, what: &str, at: Address, bytes: usize) -> Result<()> {
        let inside = |(start, len): (&Address, &usize)| (at - start) as usize <= len - bytes.min(*len) && bytes <= *len;
        if self.allocations.range(..=at).next_back().is_some_and(inside) {
            return Ok(());
        }
        Err(Error::internal(format!("{what}: {bytes} bytes at {at:#x} are not within one allocation")))
    }

    fn wait(&self, what: &str) -> Result<()> {
        // SAFETY: the stream lives.
        self.check(what, unsafe { result::stream::synchronize(self.stream) })
    }

    fn fill_now(&mut self, at: Address, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: the range was checked.
        self.check("fill", unsafe { result::memset_d8_async(at, value, bytes, self.stream) })
    }

    /// # Safety
    /// As [`Driver::launch`].
    unsafe fn launch_now(&mut self, function: Function, grid: Grid, args: &[Arg], label: &str) -> Result<()> {
        let kernel = &mut self.kernels.all[function.0];
        let [x, y, z] = grid.blocks;
        let (threads, shared) = (grid.threads, grid.shared);
        let what = format_args!("{label}: {}, {x}x{y}x{z} blocks of {threads} threads, {shared} bytes", kernel.name);
        let handle = kernel.handle;
        let pointers = self.packed.pack(args);
        // SAFETY: the caller's promise; `check` has held the arguments to the kernel's parameters.
        let launched =
            unsafe { result::launch_kernel(handle, (x, y, z), (threads, 1, 1), shared, self.stream, pointers) };
        let launched = match launched {
            // SAFETY: the stream lives.
            Ok(()) if self.blocking => unsafe { result::stream::synchronize(self.stream) },
            done => done,
        };
        match launched {
            Ok(()) => Ok(()),
            Err(_) => {
                let what = what.to_string();
                self.check(what, launched)
            }
        }
    }
}

impl Driver for Nvidia {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        self.check("free memory", result::mem_get_info())
    }

    fn alloc(&mut self, bytes: usize) -> Result<Address> {
        self.bind()?;
        // The driver refuses 0 bytes.
        // SAFETY: nobody reads the memory before it is written.
        let at = match unsafe { result::malloc_sync(bytes.max(1)) } {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = self.memory()?;
                let mib = |bytes: usize| bytes.div_ceil(1 << 20);
                let card = &self.properties.name;
                return Err(Error::new(
                    Kind::Unavailable,
                    format!(
                        "out of device memory: {} MiB are needed, and {card} has {} of its {} MiB free",
                        mib(bytes),
                        free >> 20,
                        total >> 20
                    ),
                ));
            }
            done => self.check(format_args!("allocate {bytes} bytes"), done)?,
        };
        self.allocations.insert(at, bytes);
        Ok(at)
    }

    fn free(&mut self, at: Address) -> Result<()> {
        self.bind_outside("free")?;
        if self.allocations.remove(&at).is_none() {
            return Err(Error::internal(format!("free: nothing is allocated at {at:#x}")));
        }
        self.wait("free")?;
        // SAFETY: it was allocated, nothing runs, and it is no longer listed.
        self.check("free", unsafe { result::free_sync(at) })
    }

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.bind_outside("write")?;
        self.within("write", to, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the range was checked, and `bytes` outlives the copy: it is waited for. Cards that read pageable memory
        // directly would otherwise still do so after this returns.
        self.check("write", unsafe { result::memcpy_htod_async(to, bytes, self.stream) })?;
        self.wait("write")
    }

    fn read(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        self.bind_outside("read")?;
        self.within("read", from, bytes.len())?;
        if bytes.is_empty() {
            return self.wait("read");
        }
        // SAFETY: the range was checked, and `bytes` outlives the copy: it is waited for.
        self.check("read", unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) })?;
        self.wait("read")
    }

    fn fill(&mut self, at: Address, value: u8, bytes: usize) -> Result<()> {
        self.bind()?;
        self.within("fill", at, bytes)?;
        match &mut self.recording {
            _ if bytes == 0 => Ok(()),
            Recording::List(list) => {
                list.push(Queued::Fill { at, value, bytes });
                Ok(())
            }
            _ => self.fill_now(at, value, bytes),
        }
    }

    fn post(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.bind_outside("post")?;
        self.within("post", to, bytes.len())?;
        small("post", bytes.len())?;
        let posted = self.staging.post(to, bytes, self.stream);
        self.check("post", posted)
    }

    fn fetch(&mut self, from: Address, bytes: usize) -> Result<Fetch> {
        self.bind_outside("fetch")?;
        self.within("fetch", from, bytes)?;
        small("fetch", bytes)?;
        let fetched = self.staging.fetch(from, bytes, self.stream);
        self.check("fetch", fetched).map(Fetch)
    }

    fn take(&mut self, fetch: Fetch, bytes: &mut [u8]) -> Result<()> {
        self.bind_outside("take")?;
        if !self.staging.holds(fetch.0, bytes.len()) {
            let (number, len) = (fetch.0, bytes.len());
            return Err(Error::internal(format!("take: no fetch of number {number} and {len} bytes is under way")));
        }
        let taken = self.staging.take(fetch.0, bytes);
        self.check("take", taken)
    }

    fn load(&mut self, module: &Module, kernel: &str) -> Result<Function> {
        self.bind()?;
        self.kernels.load(module, kernel, self.properties.arch, self.cuda).map(Function)
    }

    unsafe fn launch(&mut self, function: Function, grid: Grid, args: &[Arg], label: &str) -> Result<()> {
        self.bind()?;
        let Some(kernel) = self.kernels.all.get_mut(function.0) else {
            return Err(Error::internal(format!("{label}: no kernel of number {}", function.0)));
        };
        let ready = kernel.check(grid, args).and_then(|()| kernel.allow_shared(grid.shared, self.shared));
        ready.map_err(|e| e.context(format_args!("{label}: {}", kernel.name)))?;
        if let Recording::List(list) = &mut self.recording {
            list.push(Queued::Launch { function, grid, args: args.to_vec(), label: label.to_owned() });
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.launch_now(function, grid, args, label) }
    }

    fn tensor_map(&mut self, base: Address, shape: &MapShape) -> Result<TensorMap> {
        self.bind()?;
        maps::encode(base, shape, self.properties.arch)
    }

    fn capture(&mut self) -> Result<()> {
        self.begin_recording()
    }

    fn end_capture(&mut self) -> Result<Captured> {
        self.end_recording()
    }

    fn replay(&mut self, captured: Captured) -> Result<()> {
        self.replay_recorded(captured)
    }

    fn time(&mut self, captured: Captured, repeats: usize) -> Result<f64> {
        self.timed(captured, repeats)
    }

    fn sync(&mut self) -> Result<()> {
        self.bind_outside("sync")?;
        self.wait("wait for the device")
    }
}

fn small(what: &str, bytes: usize) -> Result<()> {
    if bytes <= SLOT {
        return Ok(());
    }
    Err(Error::internal(format!("{what}: {bytes} bytes are more than the {SLOT} of a small copy")))
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // There is nothing to do about an error in any of this; the process's end gives back what is left.
        // SAFETY: every handle was made once and is given back once, after all that uses it has ended, and before the context.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            if let Recording::Graph = self.recording {
                let _ = result::stream::end_capture(self.stream).and_then(|graph| result::graph::destroy(graph));
            }
            if !self.stream.is_null() {
                let _ = result::stream::synchronize(self.stream);
            }
            for replay in &self.captured {
                if let Replay::Graph(graph) = replay {
                    let _ = result::graph::exec_destroy(*graph);
                }
            }
            self.kernels = Kernels::default();
            self.staging = Staging::default();
            for at in self.allocations.keys() {
                let _ = result::free_sync(*at);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
