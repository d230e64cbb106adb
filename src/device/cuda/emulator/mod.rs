//! A GPU played by the CPU: the same `.cu` files, compiled by a C++ compiler, with CUDA threads as fibers. It finds what hardware
//! hides: accesses out of bounds, missing barriers, waits that are too weak. `kernels/emu/` is its other half.

mod compiler;
mod library;

use super::driver::{Address, Arg, Captured, Driver, Fetch, Function, Grid, MapShape, Module, Properties, TensorMap};
use super::sources;
use crate::error::{Error, Kind, Result};
use library::{Failure, LaunchCall, LoadedKernel, Runtime};
use std::ffi::{CStr, c_void};
use std::path::Path;
use std::process::Command;

/// The order in which threads of a block that may run are run, and blocks of a grid. Correct kernels do not see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Ascending,
    Descending,
    Shuffled(u64),
}

/// Settings of the emulator.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub order: Order,
    /// Asynchronous copies and `wgmma` are done when issued, else as late as legal.
    pub eager: bool,
    /// With the checker: exact bounds, uninitialised reads and races, with file and line. About 20 times slower.
    pub sanitize: bool,
    /// CPU threads for launches of many blocks. Results do not depend on it.
    pub threads: usize,
    /// Compute capability that kernels are chosen and compiled for: 75, 80, 90.
    pub arch: u32,
    /// Streaming multiprocessors that it claims.
    pub processors: usize,
    /// Bytes of device memory.
    pub memory: usize,
    /// CPU time after which a block counts as one that never ends.
    pub seconds: f64,
}

impl Default for Options {
    fn default() -> Options {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            order: Order::Ascending,
            eager: false,
            sanitize: false,
            threads,
            arch: 90,
            processors: 8,
            memory: 16 << 30,
            seconds: 60.0,
        }
    }
}

/// A launch that was captured.
struct Recorded {
    function: Function,
    grid: Grid,
    args: Vec<Arg>,
    label: String,
}

/// The driver that runs kernels on the CPU.
pub struct Emulator {
    options: Options,
    properties: Properties,
    runtime: &'static Runtime,
    context: *mut c_void,
    functions: Vec<(Module, LoadedKernel)>,
    capturing: Option<Vec<Recorded>>,
    captured: Vec<Vec<Recorded>>,
    fetched: Vec<Option<Vec<u8>>>,
}

/// An argument as a kernel's entry reads it; a tensor map is aligned to 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Slot([u64; 16]);

impl Slot {
    fn new(arg: &Arg) -> Slot {
        let mut words = [0; 16];
        match *arg {
            Arg::Pointer(at) => words[0] = at,
            Arg::I32(v) => words[0] = u64::from(v as u32),
            Arg::U32(v) => words[0] = u64::from(v),
            Arg::F32(v) => words[0] = u64::from(v.to_bits()),
            Arg::Map(map) => words = map.0,
        }
        Slot(words)
    }
}

/// Returns true if there is a C++ compiler, for a test. Where there is none the test says so and passes, unless
/// SAMCORE_REQUIRE_CXX is set.
///
/// # Panics
/// Without a compiler, if it is required.
pub fn present_or_skip() -> bool {
    super::or_skip(Emulator::new(Options::default()), "CXX").is_some()
}

impl Emulator {
    /// Compiles the runtime, if no process has before.
    ///
    /// # Errors
    /// `Unavailable` without a C++ compiler.
    pub fn new(options: Options) -> Result<Emulator> {
        let compiler = compiler::find()?;
        let runtime = library::runtime()?;
        let properties = Properties {
            name: format!("emulator ({}, threads: {})", compiler.name, options.threads),
            arch: options.arch,
            processors: options.processors,
        };
        // SAFETY: takes a number, returns a context that `drop` frees.
        let context = unsafe { (runtime.context_new)(options.memory as u64) };
        Ok(Emulator {
            options,
            properties,
            runtime,
            context,
            functions: Vec::new(),
            capturing: None,
            captured: Vec::new(),
            fetched: Vec::new(),
        })
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Other order or eagerness from here on; `sanitize` and `arch` take effect for kernels that are loaded after it.
    pub fn set_options(&mut self, change: impl FnOnce(&mut Options)) {
        change(&mut self.options);
    }

    /// Tells the checker that these bytes hold nothing: reading them before they are written is a fault. Values stay.
    ///
    /// # Errors
    /// If the range is not within one allocation.
    pub fn forget(&mut self, at: Address, bytes: usize) -> Result<()> {
        // SAFETY: the runtime checks the range.
        inside(unsafe { (self.runtime.forget)(self.context, at, bytes as u64) }, "forget", at, bytes)
    }

    /// Loads a kernel from a source that is not in `kernels/`: `text` replaces the module's file.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_text(&mut self, module: &Module, text: &str, kernel: &str) -> Result<Function> {
        let kernels = library::kernels(module, text, self.options.arch, self.options.sanitize)?;
        let found = kernels.iter().find(|k| k.name.to_bytes() == kernel.as_bytes());
        let Some(found) = found else {
            let names: Vec<_> = kernels.iter().map(|k| k.name.to_string_lossy()).collect();
            let text = format!("{} has no kernel '{kernel}'; it has: {}", module.file, names.join(", "));
            return Err(Error::internal(text));
        };
        self.functions.push((module.clone(), found.clone()));
        Ok(Function(self.functions.len() - 1))
    }

    fn run(&self, function: Function, grid: Grid, args: &[Arg], label: &str) -> Result<()> {
        let (module, kernel) = &self.functions[function.0];
        let mut slots: Vec<Slot> = args.iter().map(Slot::new).collect();
        let mut pointers: Vec<*mut c_void> = slots.iter_mut().map(|s| s.0.as_mut_ptr().cast()).collect();
        let (order, seed) = match self.options.order {
            Order::Ascending => (0, 0),
            Order::Descending => (1, 0),
            Order::Shuffled(seed) => (2, seed),
        };
        let call = LaunchCall {
            entry: kernel.entry,
            arguments: pointers.as_mut_ptr(),
            name: kernel.name.as_ptr(),
            blocks: grid.blocks,
            threads: grid.threads,
            shared: grid.shared,
            order,
            sanitize: u32::from(self.options.sanitize),
            eager: u32::from(self.options.eager),
            workers: self.options.threads.max(1) as u32,
            seed,
            seconds: self.options.seconds,
        };
        let mut failure =
            Failure { checked: 0, block: [0; 3], thread: 0, offset: 0, module: [0; 512], message: [0; 1024] };
        // SAFETY: arguments are as many and as large as the kernel's parameters (see `launch`); whatever else the kernel does wrong
        // the runtime turns into a failure.
        let failed = unsafe { (self.runtime.launch)(self.context, &call, &mut failure) };
        if failed == 0 { Ok(()) } else { Err(explain(&failure, module, kernel, label)) }
    }
}

/// The error that a failed launch is.
fn explain(failure: &Failure, module: &Module, kernel: &LoadedKernel, label: &str) -> Error {
    let text = |bytes: &[u8]| CStr::from_bytes_until_nul(bytes).unwrap_or_default().to_string_lossy().into_owned();
    let mut message = format!("'{label}': kernel '{}' ({})", kernel.name.to_string_lossy(), module.file);
    if failure.checked != 0 && failure.thread != u32::MAX {
        let [x, y, z] = failure.block;
        message += &format!(", block ({x}, {y}, {z}), thread {}", failure.thread);
    }
    message += &format!(": {}", text(&failure.message));
    if failure.offset != 0
        && let Some(place) = place(Path::new(&text(&failure.module)), failure.offset)
    {
        message += &format!(" at {place}");
    }
    Error::new(if failure.checked != 0 { Kind::CheckFailed } else { Kind::Internal }, message)
}

/// The line of an instruction, "norm.cu:45", with the lines that it was inlined into; None without `addr2line` or line numbers.
fn place(library: &Path, offset: u64) -> Option<String> {
    let output =
        Command::new("addr2line").arg("-i").arg("-e").arg(library).arg(format!("{offset:#x}")).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        let line = line.split(' ').next().unwrap_or_default();
        // The emulator's own headers say nothing to the reader.
        if line.contains("/emu/") || line.contains("exports:") || line.starts_with('?') || line.ends_with('?') {
            continue;
        }
        let line = line.rsplit('/').next().unwrap_or(line);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    (!lines.is_empty()).then(|| lines.join(", inlined at "))
}

fn inside(status: i32, what: &str, at: Address, bytes: usize) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(Error::internal(format!("cannot {what} {bytes} bytes at {at:#x}: not within one allocation of the emulator")))
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // SAFETY: made by `new`, not used after this.
        unsafe { (self.runtime.context_free)(self.context) }
    }
}

impl Driver for Emulator {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&self) -> Result<(usize, usize)> {
        // SAFETY: reads a number of our context.
        let used = unsafe { (self.runtime.used)(self.context) } as usize;
        Ok((self.options.memory.saturating_sub(used), self.options.memory))
    }

    fn alloc(&mut self, bytes: usize) -> Result<Address> {
        // SAFETY: our context; 0 means that there is no memory.
        let at = unsafe { (self.runtime.alloc)(self.context, bytes as u64) };
        if at == 0 {
            let (free, total) = self.memory()?;
            let text = format!("cannot allocate {bytes} bytes on the emulator: {free} of {total} bytes are free");
            return Err(Error::new(Kind::Unavailable, text));
        }
        Ok(at)
    }

    fn free(&mut self, at: Address) -> Result<()> {
        // SAFETY: the runtime checks the address.
        if unsafe { (self.runtime.free)(self.context, at) } != 0 {
            return Err(Error::internal(format!("free of {at:#x}, where no allocation begins")));
        }
        Ok(())
    }

    fn write(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        // SAFETY: the runtime checks the range; `bytes` is as long as told.
        let status = unsafe { (self.runtime.write)(self.context, to, bytes.as_ptr(), bytes.len() as u64) };
        inside(status, "write", to, bytes.len())
    }

    fn read(&mut self, from: Address, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the runtime checks the range; `bytes` is as long as told.
        let status = unsafe { (self.runtime.read)(self.context, from, bytes.as_mut_ptr(), bytes.len() as u64) };
        inside(status, "read", from, bytes.len())
    }

    fn fill(&mut self, at: Address, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: the runtime checks the range.
        inside(unsafe { (self.runtime.fill)(self.context, at, i32::from(value), bytes as u64) }, "fill", at, bytes)
    }

    fn post(&mut self, to: Address, bytes: &[u8]) -> Result<()> {
        self.write(to, bytes)
    }

    fn fetch(&mut self, from: Address, bytes: usize) -> Result<Fetch> {
        let mut values = vec![0; bytes];
        self.read(from, &mut values)?;
        let free = self.fetched.iter().position(Option::is_none).unwrap_or(self.fetched.len());
        if free == self.fetched.len() {
            self.fetched.push(None);
        }
        self.fetched[free] = Some(values);
        Ok(Fetch(free))
    }

    fn take(&mut self, fetch: Fetch, bytes: &mut [u8]) -> Result<()> {
        let values = self.fetched.get_mut(fetch.0).and_then(Option::take);
        match values.filter(|v| v.len() == bytes.len()) {
            Some(values) => bytes.copy_from_slice(&values),
            None => return Err(Error::internal("a fetch is taken that is not under way, or has another length")),
        }
        Ok(())
    }

    fn load(&mut self, module: &Module, kernel: &str) -> Result<Function> {
        self.load_text(module, &sources::text(module.file)?, kernel)
    }

    unsafe fn launch(&mut self, function: Function, grid: Grid, args: &[Arg], label: &str) -> Result<()> {
        let Some((module, kernel)) = self.functions.get(function.0) else {
            return Err(Error::internal(format!("'{label}': launch of a kernel that was not loaded")));
        };
        let given: Vec<usize> = args.iter().map(Arg::size).collect();
        if given != kernel.sizes {
            let name = kernel.name.to_string_lossy();
            return Err(Error::internal(format!(
                "'{label}': kernel '{name}' ({}) takes parameters of {:?} bytes, and is given {given:?}",
                module.file, kernel.sizes
            )));
        }
        if let Some(launches) = &mut self.capturing {
            launches.push(Recorded { function, grid, args: args.to_vec(), label: label.to_owned() });
            return Ok(());
        }
        self.run(function, grid, args, label)
    }

    fn tensor_map(&mut self, base: Address, shape: &MapShape) -> Result<TensorMap> {
        let rank = shape.dims.len();
        let wrong = |why: &str| Err(Error::internal(format!("tensor map over {shape:?} at {base:#x}: {why}")));
        if !(2..=5).contains(&rank) || shape.strides.len() != rank - 1 || shape.tile.len() != rank {
            return wrong("2 to 5 dimensions, a stride for each but the first, a tile size for each");
        }
        if !base.is_multiple_of(16) || shape.strides.iter().any(|s| !s.is_multiple_of(16) || *s >= 1 << 40) {
            return wrong("the base and strides are multiples of 16");
        }
        if shape.dims.iter().any(|d| *d == 0 || *d > u64::from(u32::MAX)) {
            return wrong("sizes are 1 to 2^32 - 1");
        }
        if shape.tile[0] != 64 || shape.tile.iter().any(|t| *t == 0 || *t > 256) {
            return wrong("a tile is 64 elements wide, for the 128-byte swizzle, and 1 to 256 in other dimensions");
        }
        // `TMap` of `emu/abi.h`: base, dims[5], box[5], strides[4], rank, magic.
        let mut words = [0u32; 32];
        let wide = |v: u64| [v as u32, (v >> 32) as u32];
        words[0..2].copy_from_slice(&wide(base));
        for d in 0..rank {
            words[2 + d] = shape.dims[d] as u32;
            words[7 + d] = shape.tile[d];
        }
        for (d, stride) in shape.strides.iter().enumerate() {
            words[12 + 2 * d..14 + 2 * d].copy_from_slice(&wide(*stride));
        }
        words[20] = rank as u32;
        words[21] = MAP_MAGIC;
        let mut map = [0u64; 16];
        for (to, pair) in map.iter_mut().zip(words.chunks_exact(2)) {
            *to = u64::from(pair[0]) | u64::from(pair[1]) << 32;
        }
        Ok(TensorMap(map))
    }

    fn capture(&mut self) -> Result<()> {
        if self.capturing.replace(Vec::new()).is_some() {
            return Err(Error::internal("a capture begins within another"));
        }
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Captured> {
        let launches = self.capturing.take().ok_or_else(|| Error::internal("no capture to end"))?;
        self.captured.push(launches);
        Ok(Captured(self.captured.len() - 1))
    }

    fn replay(&mut self, captured: Captured) -> Result<()> {
        let launches =
            self.captured.get(captured.0).ok_or_else(|| Error::internal("replay of what was not captured"))?;
        launches.iter().try_for_each(|l| self.run(l.function, l.grid, &l.args, &l.label))
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

/// `EMU_MAP_MAGIC` of `emu/abi.h`: marks a tensor map.
const MAP_MAGIC: u32 = 0x7e45_a901;
