//! The seam between what is computed and who computes it: a GPU through NVIDIA's driver, or the emulator on a CPU.

use crate::error::Result;

/// An address in device memory.
pub type Address = u64;

/// A kernel argument by value. The driver packs them; nobody else builds `void**`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    Pointer(Address),
    I32(i32),
    U32(u32),
    F32(f32),
    Map(TensorMap),
}

impl Arg {
    /// Bytes that a kernel's parameter of this kind takes.
    pub fn size(&self) -> usize {
        match self {
            Arg::I32(_) | Arg::U32(_) | Arg::F32(_) => 4,
            Arg::Pointer(_) => 8,
            Arg::Map(_) => 128,
        }
    }
}

/// An opaque `CUtensorMap`, made by [`Driver::tensor_map`]. It is passed to a kernel by value, aligned to 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u64; 16]);

/// The subject of a tiled tensor map: a dense tensor of 2-byte elements, innermost dimension first, of which boxes are copied
/// to shared memory with the 128-byte swizzle. Elements of a box outside the tensor read as 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Elements of each dimension, 2 to 5 of them.
    pub dims: Vec<u64>,
    /// Bytes between neighbours in dimensions 1.., multiples of 16.
    pub strides: Vec<u64>,
    /// Elements of a box in each dimension; the first is at most 64 (128 bytes).
    pub tile: Vec<u32>,
    /// bf16, else f16. It decides nothing about the copy.
    pub bf16: bool,
}

/// A kernel that has been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Function(pub usize);

/// Launches that have been captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Captured(pub usize);

/// A copy to the host that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fetch(pub usize);

/// Shape of a launch. Blocks are one-dimensional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    pub blocks: [u32; 3],
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// One `.cu` file with its macros: the unit of compilation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// Name in `kernels/`: "norm.cu".
    pub file: &'static str,
    /// Macros and their values. Never the batch size.
    pub defines: Vec<(&'static str, String)>,
}

/// Description of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// "NVIDIA H200 (sm_90a)", "emulator (c++ 12.2, threads: 2)".
    pub name: String,
    /// Compute capability as a number: 75, 80, 90.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub processors: usize,
}

/// Device memory, compilation, launches. All work is done in order, on one stream; only the functions that say so wait.
pub trait Driver {
    fn properties(&self) -> &Properties;
    /// Free and total bytes of device memory.
    ///
    /// # Errors
    /// Those of the driver.
    fn memory(&self) -> Result<(usize, usize)>;
    /// # Errors
    /// `Unavailable` if there is too little memory.
    fn alloc(&mut self, bytes: usize) -> Result<Address>;
    /// # Errors
    /// If nothing was allocated there.
    fn free(&mut self, at: Address) -> Result<()>;
    /// Copies to the device; the bytes are taken before it returns.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<()>;
    /// Waits for all that was queued, then copies from the device.
    ///
    /// # Errors
    /// If the range is not within one allocation; what a kernel before it did wrong.
    fn read(&mut self, from: Address, bytes: &mut [u8]) -> Result<()>;
    /// Sets bytes, in order with launches.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn fill(&mut self, at: Address, value: u8, bytes: usize) -> Result<()>;
    /// Queues a small copy to the device (at most 64 KiB) without waiting; the bytes are taken before it returns.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn post(&mut self, to: Address, bytes: &[u8]) -> Result<()>;
    /// Queues a small copy from the device (at most 64 KiB) without waiting.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    fn fetch(&mut self, from: Address, bytes: usize) -> Result<Fetch>;
    /// Waits for that copy alone and takes its bytes.
    ///
    /// # Errors
    /// The fault of an earlier kernel.
    fn take(&mut self, fetch: Fetch, bytes: &mut [u8]) -> Result<()>;
    /// Compiles a module (or finds it in the cache) and looks up one of its kernels.
    ///
    /// # Errors
    /// `Unavailable` without a compiler; `Data` with the compiler's log where a source does not compile.
    fn load(&mut self, module: &Module, kernel: &str) -> Result<Function>;
    /// Queues a launch, or records it between `capture` and `end_capture`. `label` names the call in errors.
    ///
    /// # Safety
    /// Pointers and sizes in `args` must fit the kernel.
    ///
    /// # Errors
    /// Arguments that do not fit the kernel's parameters; a grid that the device does not take; with the emulator, whatever the
    /// kernel did wrong.
    unsafe fn launch(&mut self, function: Function, grid: Grid, args: &[Arg], label: &str) -> Result<()>;
    /// # Errors
    /// A shape that tensor maps cannot describe, or no tensor maps at all.
    fn tensor_map(&mut self, base: Address, shape: &MapShape) -> Result<TensorMap>;
    /// Records launches from here on instead of running them.
    ///
    /// # Errors
    /// Those of the driver.
    fn capture(&mut self) -> Result<()>;
    /// # Errors
    /// Those of the driver.
    fn end_capture(&mut self) -> Result<Captured>;
    /// Queues all captured launches.
    ///
    /// # Errors
    /// As `launch`.
    fn replay(&mut self, captured: Captured) -> Result<()>;
    /// Times one replay, as the mean of `repeats` in a row, in seconds.
    ///
    /// # Errors
    /// As `replay`.
    fn time(&mut self, captured: Captured, repeats: usize) -> Result<f64> {
        self.sync()?;
        let begun = std::time::Instant::now();
        (0..repeats).try_for_each(|_| self.replay(captured))?;
        self.sync()?;
        Ok(begun.elapsed().as_secs_f64() / repeats.max(1) as f64)
    }
    /// Waits for all queued work.
    ///
    /// # Errors
    /// The fault of an earlier kernel.
    fn sync(&mut self) -> Result<()>;
}
