//! Libraries that have been loaded: the runtime, and modules of kernels. Each is loaded once in a process and stays.

use super::compiler;
use crate::device::cuda::driver::Module;
use crate::error::{Error, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// `EmuLaunch` of `emu/machine.h`.
#[repr(C)]
pub struct LaunchCall {
    pub entry: Entry,
    pub arguments: *mut *mut c_void,
    pub name: *const c_char,
    pub blocks: [u32; 3],
    pub threads: u32,
    pub shared: u32,
    pub order: u32,
    pub sanitize: u32,
    pub eager: u32,
    pub workers: u32,
    pub seed: u64,
    pub seconds: f64,
}

/// `EmuFailure` of `emu/machine.h`.
#[repr(C)]
pub struct Failure {
    pub checked: c_int,
    pub block: [u32; 3],
    pub thread: u32,
    pub offset: u64,
    pub module: [u8; 512],
    pub message: [u8; 1024],
}

/// `EmuKernel` of `emu/abi.h`.
#[repr(C)]
struct Exported {
    name: *const c_char,
    entry: Option<Entry>,
    count: c_int,
    sizes: *const c_int,
}

pub type Entry = unsafe extern "C" fn(*mut *mut c_void);

/// The runtime's functions.
pub struct Runtime {
    pub context_new: unsafe extern "C" fn(u64) -> *mut c_void,
    pub context_free: unsafe extern "C" fn(*mut c_void),
    pub alloc: unsafe extern "C" fn(*mut c_void, u64) -> u64,
    pub free: unsafe extern "C" fn(*mut c_void, u64) -> c_int,
    pub used: unsafe extern "C" fn(*mut c_void) -> u64,
    pub write: unsafe extern "C" fn(*mut c_void, u64, *const u8, u64) -> c_int,
    pub read: unsafe extern "C" fn(*mut c_void, u64, *mut u8, u64) -> c_int,
    pub fill: unsafe extern "C" fn(*mut c_void, u64, c_int, u64) -> c_int,
    pub forget: unsafe extern "C" fn(*mut c_void, u64, u64) -> c_int,
    pub launch: unsafe extern "C" fn(*mut c_void, *const LaunchCall, *mut Failure) -> c_int,
    register: unsafe extern "C" fn(*const c_void, *const c_void) -> c_int,
}

/// A kernel of a loaded module.
#[derive(Clone, Debug)]
pub struct LoadedKernel {
    pub name: &'static CStr,
    pub entry: Entry,
    /// Bytes of its parameters.
    pub sizes: Vec<usize>,
}

fn open(path: &Path, flags: c_int) -> Result<&'static Library> {
    // SAFETY: the library is one that we compiled from our own sources; its initialisers do nothing but set up C++ objects.
    let library = unsafe { Library::open(Some(path), flags) };
    let library = library.map_err(|e| Error::internal(format!("cannot load {}: {e}", path.display())))?;
    // Never unloaded: fibers and helper threads may be in its code until the process ends.
    Ok(Box::leak(Box::new(library)))
}

fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T> {
    // SAFETY: every caller gives the type that the symbol has in the sources.
    let found = unsafe { library.get::<T>(name) };
    found.map(|s| *s).map_err(|e| Error::internal(format!("the emulator's library has no '{name}': {e}")))
}

/// The runtime of this process, compiled on first use.
///
/// # Errors
/// Those of the compiler.
pub fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<Result<Runtime>> = OnceLock::new();
    RUNTIME.get_or_init(load_runtime).as_ref().map_err(Clone::clone)
}

fn load_runtime() -> Result<Runtime> {
    // Modules find the runtime's functions by name.
    let library = open(&compiler::find()?.runtime()?, RTLD_NOW | RTLD_GLOBAL)?;
    Ok(Runtime {
        context_new: symbol(library, "emu_context_new")?,
        context_free: symbol(library, "emu_context_free")?,
        alloc: symbol(library, "emu_alloc")?,
        free: symbol(library, "emu_free")?,
        used: symbol(library, "emu_used")?,
        write: symbol(library, "emu_write")?,
        read: symbol(library, "emu_read")?,
        fill: symbol(library, "emu_fill")?,
        forget: symbol(library, "emu_forget")?,
        launch: symbol(library, "emu_launch")?,
        register: symbol(library, "emu_register_module")?,
    })
}

/// The kernels of a module.
pub type Kernels = Arc<Vec<LoadedKernel>>;
/// A module, the text of its file, architecture, checker.
type Key = (Module, String, u32, bool);
type Slot = Arc<Mutex<Option<Kernels>>>;

/// The kernels of a module, compiled and loaded on first use.
///
/// # Errors
/// Those of the compiler.
pub fn kernels(module: &Module, text: &str, arch: u32, checked: bool) -> Result<Kernels> {
    static LOADED: OnceLock<Mutex<HashMap<Key, Slot>>> = OnceLock::new();
    let loaded = LOADED.get_or_init(Mutex::default);
    // One lock a module: different ones are compiled side by side, the same one once.
    let slot = {
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.entry((module.clone(), text.to_owned(), arch, checked)).or_default().clone()
    };
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kernels) = &*slot {
        return Ok(kernels.clone());
    }
    let runtime = runtime()?;
    let library = open(&compiler::find()?.module(module, text, arch, checked)?, RTLD_NOW | RTLD_LOCAL)?;
    let begin: unsafe extern "C" fn() -> *const c_void = symbol(library, "emu_module_begin")?;
    let limit: unsafe extern "C" fn() -> *const c_void = symbol(library, "emu_module_limit")?;
    // SAFETY: these return addresses and touch nothing.
    let refused = unsafe { (runtime.register)(begin(), limit()) };
    if refused != 0 {
        return Err(Error::internal("more than 4096 modules of kernels in one process"));
    }
    let kernels = Arc::new(exported(symbol(library, "emu_kernels")?));
    *slot = Some(kernels.clone());
    Ok(kernels)
}

/// Reads the table of a module.
fn exported(mut at: *const Exported) -> Vec<LoadedKernel> {
    let mut kernels = Vec::new();
    loop {
        // SAFETY: `compiler::exports` writes the table; it ends with a row without entry, and lives as long as the module.
        let row = unsafe { &*at };
        let Some(entry) = row.entry else { return kernels };
        // SAFETY: likewise `sizes` has `count` numbers, and `name` ends with 0.
        let (sizes, name) =
            unsafe { (std::slice::from_raw_parts(row.sizes, row.count as usize), CStr::from_ptr::<'static>(row.name)) };
        kernels.push(LoadedKernel { name, entry, sizes: sizes.iter().map(|s| *s as usize).collect() });
        // SAFETY: the row was not the last.
        at = unsafe { at.add(1) };
    }
}
