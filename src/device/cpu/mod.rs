//! The CPU device: the embedded default, and the reference that other devices are compared with.

mod attack;
mod cast;
pub mod conv;
mod conv_weight;
pub mod ingest;
pub mod largest;
mod linear;
pub mod loss;
mod memory;
pub mod method;
mod moments;
pub mod norm;
pub mod norm_backward;
pub mod norm_stats;
mod pack;
pub mod peaks;
pub mod pointwise;
pub mod pool;
pub mod pooling;
pub mod rounding;
mod run;
pub mod shake;
pub mod shortcut;
pub mod simd;
mod small;
mod small_weight;
mod split;
pub mod stored;
mod strips;
mod sweep;
#[cfg(test)]
mod testing;
mod tile;
mod transpose;
pub mod vector;
mod widen;
mod winograd;

use crate::device::{DatasetBytes, Device, Extent, Layout, room};
use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::ops::call::{Call, Counters, Groups, Kernel, Loc};
use memory::Banks;
use method::Methods;
use pool::Pool;
use simd::Isa;

/// Resources of every CPU kernel: threads, instruction set, and the methods of convolutions.
pub struct Workers {
    pub pool: Pool,
    pub isa: Isa,
    pub methods: Methods,
}

impl Workers {
    /// `threads` threads (0 counts as 1) that use `isa` and choose methods by the rule.
    pub fn new(threads: usize, isa: Isa) -> Workers {
        Workers { pool: Pool::new(threads), isa, methods: Methods::default() }
    }
}

/// A data set's bytes and the order in which they are visited.
#[derive(Default)]
struct Dataset {
    images: Vec<u8>,
    labels: Vec<u8>,
    order: Vec<u32>,
    extent: Extent,
}

/// Runs calls on the threads of one pool.
pub struct CpuDevice {
    workers: Workers,
    dtype: DType,
    banks: Option<Banks>,
    datasets: Vec<Dataset>,
}

impl CpuDevice {
    /// Returns a device of `threads` threads (0: all of the machine's) with the CPU's best instruction set and the rule's methods
    /// of convolution, unless SAMCORE_ISA or SAMCORE_CONV says otherwise.
    ///
    /// # Errors
    /// If SAMCORE_ISA asks for instructions that the CPU lacks, or a name is unknown.
    pub fn new(threads: usize) -> Result<CpuDevice> {
        let mut device = CpuDevice::with_isa(threads, Isa::detect()?)?;
        device.workers.methods = Methods::detect()?;
        Ok(device)
    }

    /// Returns a device of `threads` threads with the given instruction set.
    ///
    /// # Errors
    /// If the CPU lacks them.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<CpuDevice> {
        isa.check()?;
        let all = std::thread::available_parallelism().map_or(1, |n| n.get());
        let workers = Workers::new(if threads == 0 { all } else { threads }, isa);
        Ok(CpuDevice { workers, dtype: DType::F32, banks: None, datasets: vec![] })
    }

    /// Returns the device with activations, their gradients and the compute copy of weights stored as `dtype` has them.
    /// Arithmetic is f32.
    ///
    /// # Errors
    /// Unavailable: anything but f32 and bf16.
    pub fn with_dtype(mut self, dtype: DType) -> Result<CpuDevice> {
        if !matches!(dtype, DType::F32 | DType::Bf16) {
            let name = dtype.name();
            let message = format!("--dtype {name}: the CPU computes in f32 and bf16; use --device cuda or emu");
            return Err(Error::new(Kind::Unavailable, message));
        }
        self.dtype = dtype;
        Ok(self)
    }

    /// Returns the device with direct convolution alone.
    ///
    /// # Errors
    /// Usage: SAMCORE_CONV has named another method.
    pub fn exact(mut self) -> Result<CpuDevice> {
        self.workers.methods = self.workers.methods.exact()?;
        Ok(self)
    }

    pub fn isa(&self) -> Isa {
        self.workers.isa
    }
    /// The threads and instructions that its kernels run with.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    fn banks(&mut self) -> Result<&mut Banks> {
        self.banks.as_mut().ok_or_else(|| Error::internal("the device has no memory yet"))
    }

    fn dataset(&mut self, id: u32) -> &mut Dataset {
        let id = id as usize;
        if self.datasets.len() <= id {
            self.datasets.resize_with(id + 1, Dataset::default);
        }
        &mut self.datasets[id]
    }
}

impl Device for CpuDevice {
    fn describe(&self) -> String {
        let threads = self.threads();
        format!("cpu ({}, {threads} thread{})", self.instructions(), if threads == 1 { "" } else { "s" })
    }

    fn instructions(&self) -> String {
        let mut text = String::from(self.workers.isa.name());
        if self.dtype != DType::F32 {
            text += &format!(" {}", self.dtype.name());
        }
        if let Some(method) = self.workers.methods.forced {
            text += &format!(" {}", method.name());
        }
        text
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn threads(&self) -> usize {
        self.workers.pool.threads()
    }
    fn multiply_adds(&self) -> Option<u64> {
        Some(peaks::multiply_add(&self.workers, peaks::JOBS * self.threads()))
    }

    fn workspace(&self, call: &Call) -> usize {
        run::workspace(&self.workers, call)
    }

    fn fuses(&self, kernel: &Kernel) -> bool {
        matches!(kernel, Kernel::NormApply(_))
    }

    fn fuses_sums(&self) -> bool {
        true
    }

    /// Returns one group for each image.
    fn groups(&self, kernel: &Kernel) -> Option<Groups> {
        let (n, pixels) = match kernel {
            Kernel::ConvForward(s) => (s.n, s.out_h() * s.out_w()),
            Kernel::ConvBackwardData { shape, norm: Some(_), .. } => (shape.n, shape.h * shape.w),
            _ => return None,
        };
        Some(Groups { count: n, pixels, last: pixels })
    }

    fn allocate(&mut self, layout: &Layout) -> Result<()> {
        if let Some(room) = room::room().filter(|room| room.bytes < layout.bytes()) {
            let [need, free] = [layout.bytes(), room.bytes].map(|bytes| bytes as f64 / (1u64 << 30) as f64);
            let limit = room.limit;
            let message = format!(
                "{need:.2} GiB of memory are needed, {free:.2} GiB are free {limit}; a smaller batch needs less"
            );
            return Err(Error::new(Kind::Unavailable, message));
        }
        self.banks = Some(Banks::new(layout)?);
        Ok(())
    }

    fn set_dataset(&mut self, id: u32, data: &DatasetBytes<'_>) -> Result<()> {
        let extent = data.extent()?;
        let dataset = self.dataset(id);
        // In the memory of the bytes before: AutoAugment replaces a set each epoch.
        dataset.images.clear();
        dataset.images.extend_from_slice(data.images);
        dataset.labels.clear();
        dataset.labels.extend_from_slice(data.labels);
        dataset.extent = Extent { visited: dataset.extent.visited, ..extent };
        Ok(())
    }

    fn set_order(&mut self, id: u32, order: &[u32]) -> Result<()> {
        let dataset = self.dataset(id);
        dataset.extent.check_order(order)?;
        dataset.order.clear();
        dataset.order.extend_from_slice(order);
        dataset.extent.visited = order.len();
        Ok(())
    }

    fn upload(&mut self, to: Loc, values: &[f32]) -> Result<()> {
        self.banks()?.upload(to, values)
    }

    fn download(&mut self, from: Loc, to: &mut [f32]) -> Result<()> {
        self.banks()?.download(from, to)
    }

    fn run(&mut self, calls: &[Call], counters: &Counters) -> Result<()> {
        let Some(banks) = &mut self.banks else { return Err(Error::internal("the device has no memory yet")) };
        for call in calls {
            let operands = banks.operands(call).map_err(|e| e.context(&call.label))?;
            run::run(&self.workers, call, operands, &self.datasets, counters).map_err(|e| e.context(&call.label))?;
        }
        Ok(())
    }
}
