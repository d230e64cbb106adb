//! A driver that runs nothing and lists what it is asked to load and launch.

use samcore::device::cuda::driver::*;
use samcore::error::Result;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The largest launch of a kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Launched {
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// Every kernel that was loaded, by module.
pub type List = BTreeMap<(&'static str, Vec<(&'static str, String)>), Kernels>;
pub type Kernels = BTreeMap<String, Launched>;

/// Adds what is in `more`.
pub fn merge(list: &mut List, more: List) {
    more.into_iter().for_each(|(module, kernels)| merge_kernels(list.entry(module).or_default(), kernels));
}

pub fn merge_kernels(all: &mut Kernels, more: Kernels) {
    for (name, Launched { threads, shared }) in more {
        let launched = all.entry(name).or_default();
        *launched = Launched { threads: launched.threads.max(threads), shared: launched.shared.max(shared) };
    }
}

pub struct Listing {
    properties: Properties,
    next: Address,
    functions: Vec<(Module, String)>,
    list: Arc<Mutex<List>>,
}

impl Listing {
    /// A card of that compute capability, with a list that grows as it is used.
    pub fn new(arch: u32, list: &Arc<Mutex<List>>) -> Listing {
        // An H100's number; how far sums are split depends on it, which module serves them does not.
        let properties = Properties { name: format!("sm_{arch}"), arch, processors: 132 };
        Listing { properties, next: 1 << 20, functions: Vec::new(), list: Arc::clone(list) }
    }
}

impl Driver for Listing {
    fn properties(&self) -> &Properties {
        &self.properties
    }
    fn memory(&self) -> Result<(usize, usize)> {
        Ok((1 << 40, 1 << 40))
    }
    fn alloc(&mut self, bytes: usize) -> Result<Address> {
        let at = self.next;
        self.next += bytes.next_multiple_of(512) as u64 + 512;
        Ok(at)
    }
    fn free(&mut self, _: Address) -> Result<()> {
        Ok(())
    }
    fn write(&mut self, _: Address, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn read(&mut self, _: Address, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }
    fn fill(&mut self, _: Address, _: u8, _: usize) -> Result<()> {
        Ok(())
    }
    fn post(&mut self, _: Address, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn fetch(&mut self, _: Address, _: usize) -> Result<Fetch> {
        Ok(Fetch(0))
    }
    fn take(&mut self, _: Fetch, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }
    fn load(&mut self, module: &Module, kernel: &str) -> Result<Function> {
        let mut list = self.list.lock().unwrap();
        list.entry((module.file, module.defines.clone())).or_default().entry(kernel.into()).or_default();
        let known = self.functions.iter().position(|(m, k)| m == module && k == kernel);
        if known.is_none() {
            self.functions.push((module.clone(), kernel.into()));
        }
        Ok(Function(known.unwrap_or(self.functions.len() - 1)))
    }
    unsafe fn launch(&mut self, function: Function, grid: Grid, _: &[Arg], _: &str) -> Result<()> {
        let (module, kernel) = &self.functions[function.0];
        let mut list = self.list.lock().unwrap();
        let kernels = list.entry((module.file, module.defines.clone())).or_default();
        let launched = Launched { threads: grid.threads, shared: grid.shared };
        merge_kernels(kernels, Kernels::from([(kernel.clone(), launched)]));
        Ok(())
    }
    fn tensor_map(&mut self, _: Address, _: &MapShape) -> Result<TensorMap> {
        Ok(TensorMap([0; 16]))
    }
    fn capture(&mut self) -> Result<()> {
        Ok(())
    }
    fn end_capture(&mut self) -> Result<Captured> {
        Ok(Captured(0))
    }
    fn replay(&mut self, _: Captured) -> Result<()> {
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}
