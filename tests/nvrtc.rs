//! The static proof: every kernel variant that any operation, model and dtype would use compiles for the real targets,
//! without spills that nobody knows of, and fits a block. No GPU is needed for it, only NVRTC.

#[path = "nvrtc/listing.rs"]
mod listing;
#[path = "nvrtc/table.rs"]
mod table;

use listing::{Kernels, Launched, List, Listing};
use samcore::check::run_case;
use samcore::device::cuda::cache::{self, Cache};
use samcore::device::cuda::driver::Module;
use samcore::device::cuda::rungs::{RUNGS, Rung, Rungs};
use samcore::device::cuda::{CudaDevice, nvrtc};
use samcore::device::{DatasetBytes, Device};
use samcore::dtype::DType;
use samcore::error::{Error, Result};
use samcore::exec::{Exec, Recording};
use samcore::graph::ImageSource;
use samcore::models;
use samcore::ops::OPS;
use samcore::ops::call::{Augment, Counters};
use samcore::optim::{self, Options};
use samcore::step::{Division, Recorder};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use table::{COLUMNS, Table, Worst};

const TABLE: &str = "tests/nvrtc/resources.txt";
/// Models whose steps are planned, beside every case of every operation: those that figures are given for.
const MODELS: [(&str, &str); 4] = [("cnn", "sam"), ("wrn-28-10", "sam"), ("wrn-16-4", "sgd"), ("resnet18", "sam")];
/// Kernels that no case launches: for operands of another type than tensor cores take, which the planner does not make.
const UNUSED: [&str; 1] = ["conv_reduce.cu convert"];
/// All dtypes; f32 comes first, because it shows which kernels multiply.
const DTYPES: [DType; 4] = DType::ALL;
const BATCH: usize = 128;

/// Compute capabilities in the order of the table's columns.
fn archs() -> [u32; COLUMNS.len()] {
    [75, 80, 90, *nvrtc::archs().unwrap().last().unwrap()]
}

/// Returns true if everything is compiled for all architectures and in all sizes, as it is for sm_90a.
fn all() -> bool {
    std::env::var_os("SAMCORE_NVRTC_ALL").is_some()
}

/// Dtypes that cards of that kind have.
fn dtypes(arch: u32) -> impl Iterator<Item = DType> {
    DTYPES.into_iter().filter(move |dtype| arch >= 80 || *dtype == DType::F32)
}

/// Lists the modules that the device would load on such a card.
fn list(arch: u32, errors: &mut Vec<String>) -> List {
    // Filled by a row, then moved.
    let list = Arc::new(Mutex::new(List::new()));
    let mut collected = List::new();
    let rungs = RUNGS.iter().map(|r| r.1);
    for row in OPS {
        let mut multiplies = false;
        for dtype in dtypes(arch) {
            // Only products have rungs, of which the rule may leave some to be taken by force; only they know of tf32.
            if dtype == DType::Tf32 && !multiplies {
                continue;
            }
            let forced = rungs.clone().filter(|rung| (arch == 90 || all()) && rung.fits(arch, dtype)).map(Some);
            for forced in [None].into_iter().chain(forced) {
                let device = || device(arch, dtype, forced, &list).map(|d| Box::new(d) as Box<dyn Device>);
                for case in (row.cases)() {
                    let what = || format!("{} {}", row.name, case.label);
                    note(errors, arch, dtype, what, run_case(&case, &device, 1).map(drop));
                }
                multiplies |= list.lock().unwrap().keys().any(|module| module.0.starts_with("conv"));
                if !multiplies {
                    break;
                }
            }
        }
        listing::merge(&mut collected, std::mem::take(&mut *list.lock().unwrap()));
    }
    // Whole steps, by the rule's own choice. Their shapes are those that `bench` times, too.
    for dtype in dtypes(arch) {
        for (model, opt) in MODELS {
            let done = device(arch, dtype, None, &list).and_then(|device| step(model, opt, device));
            note(errors, arch, dtype, || format!("{model} {opt}"), done);
        }
    }
    listing::merge(&mut collected, std::mem::take(&mut *list.lock().unwrap()));
    collected
}

fn device(arch: u32, dtype: DType, forced: Option<Rung>, list: &Arc<Mutex<List>>) -> Result<CudaDevice> {
    CudaDevice::new(Box::new(Listing::new(arch, list)), dtype, Rungs { forced, ..Rungs::default() }, 1)
}

fn note(errors: &mut Vec<String>, arch: u32, dtype: DType, what: impl Fn() -> String, done: Result<()>) {
    errors.extend(done.err().map(|e| format!("sm_{arch} {} {}: {e}", dtype.name(), what())));
}

/// A training step and an evaluation of a model, on images of its usual kind.
fn step(model: &str, opt: &str, device: CudaDevice) -> Result<()> {
    let (model, opt) = (models::find(model)?, optim::find(opt)?);
    let [h, w, c] = model.images;
    let augment = Augment { crop: 4, flip: true, ..Augment::default() };
    let source = ImageSource { h, w, c, classes: 10, mean: [0.286; 4], std: [0.353; 4], augment };
    let setup = models::Setup { taps: opt.taps, ..models::Setup::new(0.0, 0.1) };
    let graph = models::classifier(&model, &source, &setup)?;
    let optimizer = (opt.build)(&Options::default());
    let mut recorder = Recorder::new(&graph, &device);
    for phase in 0..optimizer.phases() {
        recorder.program(opt.name, Division::whole(BATCH), |step| optimizer.record(phase, step))?;
    }
    recorder.evaluation(BATCH)?;
    let recording = Recording::of(recorder);
    let mut exec = Exec::new(Box::new(device), recording)?;
    let images = vec![0; BATCH * h * w * c];
    exec.set_dataset(0, &DatasetBytes { images: &images, labels: &[0; BATCH], image_len: h * w * c })?;
    exec.set_order(0, &(0..BATCH as u32).collect::<Vec<_>>())?;
    let counters = Counters { rows: BATCH as u32, ..Counters::default() };
    for program in exec.programs() {
        exec.submit(program, &counters, &[])?;
        exec.collect()?;
    }
    Ok(())
}

/// Macros that are sizes, which decide about addresses rather than about code; and those that are sizes of tiles.
const SIZES: [&str; 8] = ["CI", "CO", "HEIGHT", "WIDTH", "PAD", "BOX_H", "BOX_N", "C"];
const TILES: [&str; 6] = ["TILE_M", "TILE_N", "WARP_M", "WARP_N", "RM", "RN"];

type Job = (Module, Kernels);
type Defines = Vec<(&'static str, String)>;

/// What is compiled of a list: of modules that differ in sizes only the largest, since the others differ in numbers alone; of
/// bf16 and f16, which are two names of a type to the same code, bf16. For sm_90a, the card that all is made for, every tile, and
/// both types where tensor cores tell them apart.
fn chosen(arch: u32, list: List) -> Vec<Job> {
    let is_size = |name: &str| SIZES.contains(&name) || (arch != 90 && TILES.contains(&name));
    let spared = |(file, defines): &(&'static str, Defines)| {
        if all() || (arch == 90 && *file != "conv_plain.cu") {
            return false;
        }
        let bf16 = |(name, value): &(&'static str, String)| {
            (*name, if value == "f16" { "bf16".to_owned() } else { value.clone() })
        };
        let twin = (*file, defines.iter().map(bf16).collect::<Defines>());
        twin.1 != *defines && list.contains_key(&twin)
    };
    let mut variants: BTreeMap<(&str, Defines), BTreeMap<Vec<usize>, Job>> = BTreeMap::new();
    for (key, kernels) in &list {
        if spared(key) {
            continue;
        }
        let (file, defines) = key;
        let (mut sizes, rest): (Defines, Defines) = defines.iter().cloned().partition(|(name, _)| is_size(name));
        // Tiles first: they decide how much a kernel uses.
        sizes.sort_by_key(|(name, _)| SIZES.contains(name));
        let size = sizes.iter().map(|(_, value)| value.parse().unwrap_or(0)).collect();
        let module = Module { file, defines: defines.clone() };
        variants.entry((file, rest)).or_default().insert(size, (module, kernels.clone()));
    }
    let pick = |sizes: BTreeMap<Vec<usize>, Job>| -> Vec<Job> {
        // The kernels that any of them launches.
        let mut kernels = Kernels::new();
        sizes.values().for_each(|job| listing::merge_kernels(&mut kernels, job.1.clone()));
        let take = if all() { usize::MAX } else { 1 };
        sizes.into_values().rev().take(take).map(|(module, _)| (module, kernels.clone())).collect()
    };
    variants.into_values().flat_map(pick).collect()
}

/// Result of compiling one module for one architecture.
struct Compiled {
    column: usize,
    file: &'static str,
    usages: Vec<(nvrtc::Usage, Launched)>,
    /// Names of all kernels that are in it.
    kernels: Vec<String>,
    warnings: String,
}

fn compile(column: usize, arch: u32, module: &Module, kernels: &Kernels) -> Result<Compiled> {
    let source = nvrtc::Source::of(module)?;
    let cache = Cache::at(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("cubins"))?;
    let cubin = cache::cubin(Some(&cache), &source, &nvrtc::arch_name(arch), 0)?;
    let used = nvrtc::usage(&cubin.log);
    let find = |(kernel, launched): (&String, &Launched)| {
        let usage = used.iter().find(|u| u.kernel == *kernel);
        let usage = usage.ok_or_else(|| Error::internal(format!("{} has no kernel {kernel}", module.file)))?;
        Ok((usage.clone(), *launched))
    };
    let usages = kernels.iter().map(find).collect::<Result<_>>()?;
    let warnings = cubin.log.lines().filter(|line| line.contains(": warning ")).collect::<Vec<_>>().join("\n");
    let kernels = used.into_iter().map(|usage| usage.kernel).collect();
    Ok(Compiled { column, file: module.file, usages, kernels, warnings })
}

/// Compiles everything, on two threads.
fn compile_all(jobs: &[(usize, u32, Module, Kernels)], errors: &mut Vec<String>) -> Vec<Compiled> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((column, arch, module, kernels)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(compile(*column, *arch, module, kernels).map_err(|e| format!("{module:?} sm_{arch}: {e}")));
        }
        done
    };
    let done = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|thread| thread.join().unwrap()).into_iter().flatten().collect::<Vec<_>>()
    });
    let mut all = Vec::new();
    for result in done {
        result.map_or_else(|e| errors.push(e), |compiled| all.push(compiled));
    }
    all
}

#[test]
fn every_variant_of_every_kernel_compiles_fits_a_block_and_uses_no_more_than_the_table_says() {
    if !nvrtc::present_or_skip() {
        return;
    }
    let begun = Instant::now();
    let (mut jobs, mut errors) = (Vec::new(), Vec::new());
    for (column, arch) in archs().into_iter().enumerate() {
        let list = list(arch, &mut errors);
        println!("{}: {} modules, at {:.0?}", COLUMNS[column], list.len(), begun.elapsed());
        jobs.extend(chosen(arch, list).into_iter().map(|(module, kernels)| (column, arch, module, kernels)));
    }
    println!("{} of them to compile", jobs.len());
    let compiled = compile_all(&jobs, &mut errors);
    println!("compiled in {:.0?}", begun.elapsed());

    let mut measured = Table::new();
    let mut there = BTreeSet::new();
    for Compiled { column, file, usages, kernels, warnings } in &compiled {
        there.extend(kernels.iter().map(|kernel| format!("{file} {kernel}")));
        if !warnings.is_empty() {
            errors.push(format!("{file} for {}: {warnings}", COLUMNS[*column]));
        }
        for (usage, launched) in usages {
            let name = format!("{file} {}", usage.kernel);
            if let Some(why) = table::unfit(usage, launched.threads, launched.shared, archs()[*column]) {
                errors.push(format!("{name} on {}: {why}", COLUMNS[*column]));
            }
            let cell = &mut measured.entry(name).or_default()[*column];
            *cell = Some(Worst::of(usage).max(cell.unwrap_or_default()));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    if std::env::var_os("SAMCORE_BLESS").is_some() {
        std::fs::write(&path, table::write(&measured)).unwrap();
    }
    let limits = table::read(&std::fs::read_to_string(&path).unwrap_or_default());
    for (name, cells) in &measured {
        let Some(limit) = limits.get(name) else {
            errors.push(format!("{name} is not in {TABLE}: SAMCORE_BLESS=1 writes it anew"));
            continue;
        };
        for ((cell, limit), column) in cells.iter().zip(limit).zip(COLUMNS) {
            if cell.is_some_and(|c| !c.within(limit.unwrap_or_default())) {
                errors.push(format!("{name} on {column} uses {cell:?}, {TABLE} allows {limit:?}"));
            }
        }
    }
    errors.extend(
        there
            .iter()
            .filter(|k| !measured.contains_key(*k) && !UNUSED.contains(&k.as_str()))
            .map(|k| format!("no case of any operation uses {k}")),
    );
    errors.extend(limits.keys().filter(|k| !measured.contains_key(*k)).map(|k| format!("{TABLE}: no call uses {k}")));
    let spilling: Vec<&String> =
        measured.iter().filter(|m| m.1.iter().flatten().any(|c| c.spills())).map(|m| m.0).collect();
    println!("{} kernels; spilling: {spilling:?}", measured.len());
    errors.sort();
    errors.dedup();
    assert!(errors.is_empty(), "{} errors:\n{}", errors.len(), errors.join("\n"));
}
