//! Loaded modules and their kernels, and how arguments reach them.

use super::super::cache::{self, CUBINS, Cache};
use super::super::driver::{Arg, Grid, Module};
use super::super::nvrtc;
use super::library::{self, failed};
use crate::error::{Error, Kind, Result};
use cudarc::driver::sys::CUfunction_attribute as Attribute;
use cudarc::driver::{result, sys};
use std::collections::HashMap;
use std::ffi::{CString, c_void};

/// A kernel that can be launched.
pub struct Kernel {
    pub handle: sys::CUfunction,
    /// "norm_apply of norm.cu".
    pub name: String,
    /// Bytes of each parameter, if the driver knows.
    params: Option<Vec<usize>>,
    /// Threads of a block for which its registers suffice.
    threads: i32,
    /// Bytes of dynamic shared memory that it may have so far.
    shared: u32,
}

/// All that has been loaded.
#[derive(Default)]
pub struct Kernels {
    modules: HashMap<Module, sys::CUmodule>,
    found: HashMap<(Module, String), usize>,
    pub all: Vec<Kernel>,
}

/// Bytes of dynamic shared memory that a kernel may have without asking.
const SHARED: u32 = 48 << 10;

impl Kernels {
    /// Number of a kernel in `all`; compiles and loads its module at first. `cuda` is the driver's version, as 13000.
    pub fn load(&mut self, module: &Module, kernel: &str, arch: u32, cuda: i32) -> Result<usize> {
        let key = (module.clone(), kernel.to_owned());
        if let Some(number) = self.found.get(&key) {
            return Ok(*number);
        }
        let handle = match self.modules.get(module) {
            Some(handle) => *handle,
            None => {
                let handle = load_module(module, arch, cuda)?;
                self.modules.insert(module.clone(), handle);
                handle
            }
        };
        self.all.push(Kernel::find(handle, kernel, module.file)?);
        self.found.insert(key, self.all.len() - 1);
        Ok(self.all.len() - 1)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for handle in self.modules.values() {
            // SAFETY: loaded once, unloaded once. There is nothing to do about an error.
            let _ = unsafe { result::module::unload(*handle) };
        }
    }
}

fn load_module(module: &Module, arch: u32, cuda: i32) -> Result<sys::CUmodule> {
    let source = nvrtc::Source::of(module)?;
    let cubin = cache::cubin(Cache::of_user(CUBINS).as_ref(), &source, &nvrtc::arch_name(arch), cuda)?;
    // SAFETY: the image is a whole cubin, as NVRTC made it.
    unsafe { result::module::load_data(cubin.image.as_ptr().cast()) }.map_err(|e| {
        let e = failed(format!("load {}", module.file), e);
        // The usual reason, which CUDA calls by several names.
        if e.kind == Kind::Unavailable { e.context(versions(cuda)) } else { e }
    })
}

/// "the driver is for CUDA 12.4, NVRTC is 13.0".
pub fn versions(cuda: i32) -> String {
    let (major, minor) = nvrtc::version().unwrap_or_default();
    format!("the driver is for CUDA {}.{}, NVRTC is {major}.{minor}", cuda / 1000, cuda % 1000 / 10)
}

impl Kernel {
    fn find(module: sys::CUmodule, kernel: &str, file: &str) -> Result<Kernel> {
        let name = format!("{kernel} of {file}");
        let text = CString::new(kernel).map_err(|_| Error::internal(format!("kernel '{kernel}' holds a byte 0")))?;
        // SAFETY: the module is loaded.
        let handle = unsafe { result::module::get_function(module, text) }.map_err(|e| failed(&name, e))?;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        // SAFETY: the function was found.
        let threads = unsafe { result::function::get_function_attribute(handle, attribute) };
        let threads = threads.map_err(|e| failed(&name, e))?;
        Ok(Kernel { handle, name, params: params(handle), threads, shared: SHARED })
    }

    /// Checks that the kernel takes these arguments, and that a card takes such a block.
    pub fn check(&self, grid: Grid, args: &[Arg]) -> Result<()> {
        let wrong = |what: String| Err(Error::internal(what));
        if let Some(params) = &self.params {
            if params.len() != args.len() {
                return wrong(format!("{} arguments, the kernel takes {}", args.len(), params.len()));
            }
            let sizes = args.iter().map(Arg::size).zip(params).enumerate();
            if let Some((i, (has, takes))) = sizes.into_iter().find(|(_, (has, takes))| has != *takes) {
                return wrong(format!("argument {i} has {has} bytes, the kernel's has {takes}"));
            }
        }
        if grid.threads == 0 || grid.threads > self.threads as u32 {
            return wrong(format!("{} threads, of which a block can have up to {}", grid.threads, self.threads));
        }
        if grid.blocks[0] == 0 || grid.blocks[1..].iter().any(|n| *n == 0 || *n > 65535) {
            return wrong(format!("a grid of {:?} blocks, which may have 1 to 65535 in y and z", grid.blocks));
        }
        Ok(())
    }

    /// Asks for dynamic shared memory beyond what every kernel may have.
    pub fn allow_shared(&mut self, bytes: u32, most: u32) -> Result<()> {
        if bytes <= self.shared {
            return Ok(());
        }
        if bytes > most {
            return Err(Error::internal(format!(
                "{bytes} bytes of shared memory, of which this GPU has {most} a block"
            )));
        }
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function was found. `most` came from the driver as an i32.
        let set = unsafe { result::function::set_function_attribute(self.handle, attribute, bytes as i32) };
        set.map_err(|e| failed(format!("{bytes} bytes of shared memory"), e))?;
        self.shared = bytes;
        Ok(())
    }
}

/// Bytes of each parameter, if the driver is new enough to tell.
fn params(handle: sys::CUfunction) -> Option<Vec<usize>> {
    if !library::has(library::PARAM_INFO) {
        return None;
    }
    let mut sizes = Vec::new();
    let (mut offset, mut size) = (0, 0);
    // It ends with an error behind the last parameter.
    // SAFETY: the function was found; both numbers are written.
    while unsafe { sys::cuFuncGetParamInfo(handle, sizes.len(), &mut offset, &mut size) } == sys::CUresult::CUDA_SUCCESS
    {
        sizes.push(size);
    }
    Some(sizes)
}

/// Arguments as the driver takes them: a pointer to each. A tensor map has 128 bytes and wants to lie at a multiple of 64.
#[derive(Default)]
pub struct Packed {
    values: Vec<Value>,
    pointers: Vec<*mut c_void>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Value([u8; 128]);

impl Packed {
    /// Packs arguments in memory that is kept from launch to launch.
    pub fn pack(&mut self, args: &[Arg]) -> &mut [*mut c_void] {
        self.values.clear();
        self.pointers.clear();
        for arg in args {
            let mut value = Value([0; 128]);
            let mut put = |bytes: &[u8]| value.0[..bytes.len()].copy_from_slice(bytes);
            match arg {
                Arg::Pointer(v) => put(&v.to_ne_bytes()),
                Arg::I32(v) => put(&v.to_ne_bytes()),
                Arg::U32(v) => put(&v.to_ne_bytes()),
                Arg::F32(v) => put(&v.to_ne_bytes()),
                Arg::Map(map) => put(bytemuck::cast_slice(&map.0)),
            }
            self.values.push(value);
        }
        // Only now does no value move any more.
        self.pointers.extend(self.values.iter_mut().map(|value| std::ptr::from_mut(value).cast()));
        &mut self.pointers
    }
}
