//! A [`Device`] of kernels: places memory, turns calls into launches once, and replays whole steps as graphs.

use super::datasets::Datasets;
use super::driver::{Address, Arg, Captured, Driver, Fetch, Function, Grid};
use super::launch::{self, Launch, Operand, Target, step};
use super::rungs::Rungs;
use crate::device::room::Room;
use crate::device::{DatasetBytes, Device, Layout, Run};
use crate::dtype::DType;
use crate::error::{Error, Kind, Result};
use crate::ops::call::{Call, Counters, Groups, Kernel, Loc, Memory};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Graphs that may be under way: while one runs the host prepares the next.
const GRAPHS_AHEAD: usize = 2;
/// Flops of a step below which several steps go into one graph: a large GPU needs about a millisecond for so many in f32, and
/// the host some 10 µs to start a graph and to collect what it left.
const SHORT: u64 = 50_000_000_000;
/// Runs of a call that are timed together: enough that starting them does not count.
const TIMED: usize = 10;
/// Slots that may be set anew for each step.
const SLOTS: usize = 16;

/// All memory of one layout.
struct Banks {
    layout: Layout,
    arena: Address,
    vectors: Vec<Address>,
    scalars: Address,
}

/// A launch with nothing left to decide.
struct Bound {
    function: Function,
    grid: Grid,
    args: Vec<Arg>,
    label: Arc<str>,
}

/// A program's launches, and the graphs that replay them.
struct Prepared {
    launches: Vec<Bound>,
    reports: usize,
    outbox: Address,
    report_slots: Address,
    /// True if a run is so short that several go into one graph.
    several: bool,
    /// Graphs of one run, and of several.
    graphs: [Option<Captured>; 2],
}

/// A graph that was started: how many values its runs report, and the copy that brings them.
struct Flight {
    values: usize,
    fetch: Fetch,
}

/// Runs calls by kernels, on whatever the driver is.
pub struct CudaDevice {
    driver: Box<dyn Driver>,
    target: Target,
    steps_a_graph: usize,
    banks: Option<Banks>,
    datasets: Datasets,
    counters: Address,
    inbox: Address,
    tables: HashMap<Arc<[u32]>, Address>,
    programs: HashMap<usize, Prepared>,
    /// Runs that wait to be started together: their program and their entries of the inbox.
    queued: Vec<u8>,
    queued_runs: usize,
    queued_program: usize,
    flights: VecDeque<Flight>,
    /// Calls that have been timed, as graphs of [`TIMED`] runs.
    timed: Vec<(Call, Captured)>,
    /// Bytes of the flight that landed last; kept so that a step allocates nothing.
    landing: Vec<u8>,
    /// Reports that have arrived and wait to be collected.
    arrived: VecDeque<f32>,
}

impl CudaDevice {
    /// A device on `driver` that takes up to `steps_a_graph` short steps into one graph.
    ///
    /// # Errors
    /// Those of the driver; a dtype that the device does not have.
    pub fn new(mut driver: Box<dyn Driver>, dtype: DType, rungs: Rungs, steps_a_graph: usize) -> Result<CudaDevice> {
        let properties = driver.properties();
        let (arch, processors) = (properties.arch, properties.processors);
        if arch < 80 && dtype != DType::F32 {
            let message = format!(
                "--dtype {}: {} has no such tensor cores (compute capability {}.{}, 8.0 is needed); use --dtype f32",
                dtype.name(),
                properties.name,
                arch / 10,
                arch % 10
            );
            return Err(Error::new(Kind::Unavailable, message));
        }
        let target = Target { arch, processors, dtype, rungs };
        let counters = driver.alloc(step::COUNTERS_BYTES)?;
        driver.fill(counters, 0, step::COUNTERS_BYTES)?;
        let datasets = Datasets::new(&mut *driver)?;
        let inbox = driver.alloc(steps_a_graph * 4 * step::entry_words(SLOTS))?;
        Ok(CudaDevice {
            driver,
            target,
            steps_a_graph,
            banks: None,
            datasets,
            counters,
            inbox,
            tables: HashMap::new(),
            programs: HashMap::new(),
            queued: Vec::new(),
            queued_runs: 0,
            queued_program: 0,
            flights: VecDeque::new(),
            timed: Vec::new(),
            landing: Vec::new(),
            arrived: VecDeque::new(),
        })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    fn banks(&self) -> Result<&Banks> {
        self.banks.as_ref().ok_or_else(|| Error::internal("the device has no memory yet"))
    }

    /// The address of a place, whose cells must lie within their memory.
    fn place(&self, loc: &Loc) -> Result<Address> {
        let banks = self.banks()?;
        let (base, cells) = match loc.memory {
            Memory::Arena => (Some(banks.arena), banks.layout.arena),
            Memory::Scalars => (Some(banks.scalars), banks.layout.scalars),
            Memory::Vector(id) => {
                let id = usize::from(id);
                (banks.vectors.get(id).copied(), banks.layout.vectors.get(id).copied().unwrap_or(0))
            }
            Memory::Temp(_) | Memory::Role(_) => (None, 0),
        };
        match base {
            Some(base) if loc.offset + loc.cells() <= cells => Ok(base + 4 * loc.offset as u64),
            _ => Err(Error::internal(format!("{loc:?} is no place on the device"))),
        }
    }

    /// Constant words in device memory, uploaded the first time that they are asked for.
    fn table(&mut self, words: &Arc<[u32]>) -> Result<Address> {
        if let Some(at) = self.tables.get(words) {
            return Ok(*at);
        }
        let at = self.driver.alloc(4 * words.len().max(1))?;
        self.driver.write(at, bytemuck::cast_slice(words))?;
        self.tables.insert(Arc::clone(words), at);
        Ok(at)
    }

    fn argument(&mut self, call: &Call, operand: &Operand) -> Result<Arg> {
        let operand_of = |list: &[Loc], i: usize| {
            list.get(i).copied().ok_or_else(|| Error::internal(format!("'{}' has no operand {i}", call.label)))
        };
        Ok(match operand {
            Operand::Read(i) => Arg::Pointer(self.place(&operand_of(&call.reads, *i)?)?),
            Operand::Write(i) => Arg::Pointer(self.place(&operand_of(&call.writes, *i)?)?),
            Operand::Work(bytes) => {
                let work =
                    call.workspace.ok_or_else(|| Error::internal(format!("'{}' has no workspace", call.label)))?;
                Arg::Pointer(self.place(&work)? + *bytes as u64)
            }
            Operand::Counters => Arg::Pointer(self.counters),
            Operand::Datasets => Arg::Pointer(self.datasets.table()),
            Operand::Table(words) => Arg::Pointer(self.table(words)?),
            Operand::I32(v) => Arg::I32(*v),
            Operand::U32(v) => Arg::U32(*v),
            Operand::F32(v) => Arg::F32(*v),
            Operand::Map(of, shape) => match self.argument(call, of)? {
                Arg::Pointer(base) => Arg::Map(self.driver.tensor_map(base, shape)?),
                other => return Err(Error::internal(format!("a tensor map over {other:?}"))),
            },
        })
    }

    /// The launches of a call, with nothing left to decide.
    fn bind(&mut self, call: &Call) -> Result<Vec<Bound>> {
        let label: Arc<str> = call.label.as_str().into();
        let launches = launch::launches(&self.target, call).map_err(|e| e.context(&call.label))?;
        let bind_one = |launch: Launch| -> Result<Bound> {
            let function = self.driver.load(&launch.module, launch.kernel)?;
            let args = launch.args.iter().map(|o| self.argument(call, o)).collect::<Result<_>>()?;
            Ok(Bound { function, grid: launch.grid, args, label: Arc::clone(&label) })
        };
        launches.into_iter().map(bind_one).collect::<Result<_>>().map_err(|e| e.context(&call.label))
    }

    /// Checks the images that ingest is about to read, because the kernel reads them unchecked.
    fn check_counters(&self, calls: &[Call], counters: &Counters) -> Result<()> {
        for call in calls {
            let Kernel::Ingest(spec) = &call.kernel else { continue };
            if !self.datasets.extent(counters.dataset).fits(spec, counters) {
                return Err(Error::internal(format!("data set {} does not fit {spec:?}", counters.dataset)));
            }
        }
        Ok(())
    }

    fn prepare(&mut self, run: &Run<'_>) -> Result<()> {
        if self.programs.contains_key(&run.program) {
            return Ok(());
        }
        let mut launches = Vec::new();
        for call in run.calls {
            launches.extend(self.bind(call)?);
        }
        let slots: Arc<[u32]> = run.reports.iter().map(|r| r.offset as u32).collect();
        let report_slots = self.table(&slots)?;
        let outbox = self.driver.alloc(self.steps_a_graph * 4 * run.reports.len().max(1))?;
        let several = run.calls.iter().map(Call::flops).sum::<u64>() < SHORT && self.steps_a_graph > 1;
        let prepared =
            Prepared { launches, reports: run.reports.len(), outbox, report_slots, several, graphs: [None; 2] };
        self.programs.insert(run.program, prepared);
        Ok(())
    }

    /// The graph of one run of a program, or of [`CudaDevice::steps_a_graph`] runs; captured the first time.
    fn graph(&mut self, program: usize, several: bool) -> Result<Captured> {
        let scalars = self.banks()?.scalars;
        let Some(p) = self.programs.get_mut(&program) else { return Err(Error::internal("no such program")) };
        if let Some(graph) = p.graphs[usize::from(several)] {
            return Ok(graph);
        }
        let runs = if several { self.steps_a_graph } else { 1 };
        // Modules are loaded before the capture begins: loading one allocates.
        let begin = |i| step::begin(self.inbox, i, step::entry_words(SLOTS), self.counters, scalars);
        let end = |i| step::end(p.outbox, i, scalars, p.report_slots, p.reports);
        let mut framed = Vec::new();
        for i in 0..runs {
            for fixed in [begin(i), end(i)] {
                let function = self.driver.load(&fixed.module, fixed.kernel)?;
                framed.push(Bound { function, grid: fixed.grid, args: fixed.args, label: "step".into() });
            }
        }
        self.driver.capture()?;
        for frame in framed.chunks(2) {
            for bound in frame[..1].iter().chain(&p.launches).chain(&frame[1..]) {
                launch_bound(&mut *self.driver, bound)?;
            }
        }
        let graph = self.driver.end_capture()?;
        p.graphs[usize::from(several)] = Some(graph);
        Ok(graph)
    }

    /// Starts all runs that are queued.
    fn flush(&mut self) -> Result<()> {
        if self.queued_runs == 0 {
            return Ok(());
        }
        let (program, runs) = (self.queued_program, self.queued_runs);
        let queued = std::mem::take(&mut self.queued);
        self.queued_runs = 0;
        let several = runs == self.steps_a_graph && runs > 1;
        let graph = self.graph(program, several)?;
        let (outbox, reports) = self.programs.get(&program).map_or((0, 0), |p| (p.outbox, p.reports));
        let together = if several { runs } else { 1 };
        for entries in queued.chunks(queued.len() / runs * together) {
            self.driver.post(self.inbox, entries)?;
            self.driver.replay(graph)?;
            let fetch = self.driver.fetch(outbox, 4 * reports * together)?;
            self.flights.push_back(Flight { values: reports * together, fetch });
        }
        self.queued = queued;
        self.queued.clear();
        Ok(())
    }

    /// Waits for the oldest flight and takes its reports.
    fn land(&mut self) -> Result<()> {
        let Some(flight) = self.flights.pop_front() else { return Err(Error::internal("no run to collect")) };
        self.landing.resize(4 * flight.values, 0);
        self.driver.take(flight.fetch, &mut self.landing)?;
        self.arrived.extend(self.landing.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        Ok(())
    }
}

fn launch_bound(driver: &mut dyn Driver, bound: &Bound) -> Result<()> {
    // SAFETY: `CudaDevice::place` has checked that every operand lies within its memory, and the checks of the table of
    // operations hold each kernel to the operands of its call.
    unsafe { driver.launch(bound.function, bound.grid, &bound.args, &bound.label) }
}

impl Device for CudaDevice {
    fn describe(&self) -> String {
        format!("{}, {}", self.driver.properties().name, self.target.dtype.name())
    }

    fn instructions(&self) -> String {
        let Target { arch, processors, dtype, rungs } = &self.target;
        // Sums are split by the number of processors.
        format!("sm_{arch} x{processors} {} rungs {}", dtype.name(), rungs.hash())
    }

    fn workspace(&self, call: &Call) -> usize {
        launch::workspace(&self.target, call)
    }

    fn fuses(&self, kernel: &Kernel) -> bool {
        matches!(kernel, Kernel::NormApply(_))
    }

    fn fuses_sums(&self) -> bool {
        true
    }

    fn groups(&self, kernel: &Kernel) -> Option<Groups> {
        launch::groups(&self.target, kernel)
    }

    fn dtype(&self) -> DType {
        self.target.dtype
    }

    fn own_memory(&self) -> bool {
        true
    }

    fn room(&self) -> Result<Option<Room>> {
        Ok(Some(Room { bytes: self.driver.memory()?.0, limit: "of its own".into() }))
    }

    fn allocate(&mut self, layout: &Layout) -> Result<()> {
        let mut zeroed = |cells: usize| -> Result<Address> {
            let at = self.driver.alloc(4 * cells.max(1))?;
            self.driver.fill(at, 0, 4 * cells.max(1))?;
            Ok(at)
        };
        let (arena, scalars) = (zeroed(layout.arena)?, zeroed(layout.scalars)?);
        let vectors = layout.vectors.iter().map(|cells| zeroed(*cells)).collect::<Result<_>>()?;
        self.banks = Some(Banks { layout: layout.clone(), arena, vectors, scalars });
        Ok(())
    }

    fn set_dataset(&mut self, id: u32, data: &DatasetBytes<'_>) -> Result<()> {
        self.flush()?;
        self.datasets.set(&mut *self.driver, id, data)
    }

    fn set_order(&mut self, id: u32, order: &[u32]) -> Result<()> {
        self.flush()?;
        self.datasets.set_order(&mut *self.driver, id, order)
    }

    fn upload(&mut self, to: Loc, values: &[f32]) -> Result<()> {
        if to.len != values.len() {
            return Err(Error::internal(format!("upload of {} values to {to:?}", values.len())));
        }
        self.flush()?;
        let at = self.place(&to)?;
        let mut bytes = Vec::with_capacity(to.element.bytes() * values.len());
        to.element.pack(values, &mut bytes);
        self.driver.write(at, &bytes)
    }

    fn download(&mut self, from: Loc, to: &mut [f32]) -> Result<()> {
        if from.len != to.len() {
            return Err(Error::internal(format!("download of {} values from {from:?}", to.len())));
        }
        self.flush()?;
        let at = self.place(&from)?;
        let mut bytes = vec![0; from.element.bytes() * to.len()];
        self.driver.read(at, &mut bytes)?;
        from.element.unpack(&bytes, to);
        Ok(())
    }

    fn run(&mut self, calls: &[Call], counters: &Counters) -> Result<()> {
        self.flush()?;
        self.check_counters(calls, counters)?;
        self.driver.write(self.counters, &step::counters_bytes(counters))?;
        for call in calls {
            for bound in self.bind(call)? {
                launch_bound(&mut *self.driver, &bound)?;
            }
        }
        Ok(())
    }

    fn time(&mut self, call: &Call, counters: &Counters) -> Result<f64> {
        self.flush()?;
        self.check_counters(std::slice::from_ref(call), counters)?;
        self.driver.write(self.counters, &step::counters_bytes(counters))?;
        let known = self.timed.iter().find(|(timed, _)| timed == call).map(|t| t.1);
        let graph = match known {
            Some(graph) => graph,
            None => {
                let bound = self.bind(call)?;
                self.driver.capture()?;
                for _ in 0..TIMED {
                    bound.iter().try_for_each(|one| launch_bound(&mut *self.driver, one))?;
                }
                let graph = self.driver.end_capture()?;
                self.timed.push((call.clone(), graph));
                graph
            }
        };
        Ok(self.driver.time(graph, 2)? / TIMED as f64)
    }

    fn depth(&self, flops: u64) -> usize {
        GRAPHS_AHEAD * if flops < SHORT { self.steps_a_graph } else { 1 }
    }

    fn submit(&mut self, run: &Run<'_>) -> Result<()> {
        self.check_counters(run.calls, run.counters)?;
        if self.queued_runs > 0 && self.queued_program != run.program {
            self.flush()?;
        }
        self.prepare(run)?;
        step::entry(run.counters, run.slots, SLOTS, &mut self.queued)?;
        self.queued_program = run.program;
        self.queued_runs += 1;
        let several = self.programs.get(&run.program).is_some_and(|p| p.several);
        if !several || self.queued_runs == self.steps_a_graph {
            self.flush()?;
        }
        Ok(())
    }

    fn collect(&mut self, reports: &[Loc], values: &mut [f32]) -> Result<()> {
        while self.arrived.len() < reports.len() {
            if self.flights.is_empty() {
                self.flush()?;
            }
            self.land()?;
        }
        for (value, arrived) in values.iter_mut().zip(self.arrived.drain(..reports.len())) {
            *value = arrived;
        }
        Ok(())
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // A driver frees what is left; the device must be idle before its memory goes.
        let _ = self.driver.sync();
    }
}
