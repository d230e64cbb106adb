//! A training step allocates nothing, on any thread: all memory is taken when the programs are planned.
//!
//! Without the test harness, whose own threads would be counted.

use samcore::data;
use samcore::device::cpu::CpuDevice;
use samcore::device::{DatasetBytes, Device};
use samcore::dtype::DType;
use samcore::exec::{Exec, Recording};
use samcore::graph::ImageSource;
use samcore::models;
use samcore::ops::call::{Augment, Counters};
use samcore::optim::{self, Options};
use samcore::recipe::Recipe;
use samcore::step::{Division, ProgramId, Recorder};
use samcore::train::checkpoint::Remembered;
use samcore::train::{Session, Where, engine};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every method hands its arguments on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.realloc(block, layout, size) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of all threads while `f` runs.
fn allocations(f: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Relaxed);
    f();
    ALLOCATIONS.load(Relaxed) - before
}

const ROWS: usize = 8;
const IMAGE: usize = 28 * 28;

/// `count` images and labels of some content.
fn bytes(count: usize) -> (Vec<u8>, Vec<u8>) {
    let images = (0..count * IMAGE).map(|i| (i * i / 7 % 251) as u8).collect();
    (images, (0..count).map(|i| (i % 10) as u8).collect())
}

/// A step as the training loop makes it.
fn step(exec: &mut Exec, program: ProgramId, counters: &Counters) -> f32 {
    for (slot, value) in [("lr", 0.01), ("rho", 0.05), ("momentum", 0.9), ("weight_decay", 5e-4), ("clip", 1.0)] {
        exec.set_slot(slot, value).unwrap();
    }
    exec.run(program, counters).unwrap();
    let reports = exec.program(program).reports.len();
    let mut read = |i: usize| {
        let scalar = exec.program(program).reports[i].1;
        exec.read(scalar).unwrap()
    };
    (0..reports).map(&mut read).sum()
}

fn steps_allocate_nothing(name: &str, dtype: DType, threads: usize) {
    let augment = Augment { crop: 2, flip: true, ..Augment::default() };
    let source = ImageSource { h: 28, w: 28, c: 1, classes: 10, mean: [0.286; 4], std: [0.353; 4], augment };
    let graph = models::classifier(&models::find("cnn").unwrap(), &source, &models::Setup::new(0.2, 0.1)).unwrap();
    let optimizer = (optim::find(name).unwrap().build)(&Options::default());
    let device = CpuDevice::new(threads).and_then(|device| device.with_dtype(dtype)).unwrap();
    let mut recorder = Recorder::new(&graph, &device);
    let program = recorder.program(name, Division::whole(ROWS), |step| optimizer.record(0, step)).unwrap();
    let recording = Recording::of(recorder);
    let mut exec = Exec::new(Box::new(device) as Box<dyn Device>, recording).unwrap();
    let (images, labels) = bytes(4 * ROWS);
    exec.set_dataset(0, &DatasetBytes { images: &images, labels: &labels, image_len: IMAGE }).unwrap();
    exec.set_order(0, &(0..4 * ROWS as u32).collect::<Vec<_>>()).unwrap();
    engine::put(&mut exec, &engine::initial(&graph, 0, Remembered::default())).unwrap();

    let counters = |i: usize| Counters { first: (i * ROWS) as u32, rows: ROWS as u32, ..Counters::default() };
    let mut sum = step(&mut exec, program, &counters(0));
    let count = allocations(|| (1..4).for_each(|i| sum += step(&mut exec, program, &counters(i))));
    assert!(sum.is_finite(), "{name} does not train here");
    assert_eq!(count, 0, "three steps of {name} in {} on {threads} threads allocate", dtype.name());
}

/// The folder of one test, removed at its end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn write_idx(folder: &Path, name: &str, dims: &[u32], bytes: &[u8]) {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    file.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    file.extend(bytes);
    std::fs::write(folder.join(name), file).unwrap();
}

/// Allocations of a whole run of so many steps.
fn allocations_of_run(folder: &Path, steps: u64, threads: usize) -> usize {
    let recipe = Recipe { batch: ROWS, eval_batch: ROWS, epochs: 1, opt: "sam".into(), threads, ..Recipe::default() };
    let recipe = Recipe { tensorboard: true, ..recipe };
    let out = Some(folder.join(format!("run-{threads}-{steps}")));
    let place = Where { out, steps: Some(steps), quiet: true, ..Where::default() };
    let set = data::load_folder(folder, None).unwrap();
    let mut session = Session::with_model(&models::find("cnn").unwrap(), set, recipe, &place).unwrap();
    allocations(|| assert_eq!(session.run().unwrap().steps, steps))
}

/// Allocations beside the steps (evaluation, checkpoint) differ by a few growing texts. One allocation in each step would
/// make a difference as large as the number of additional steps.
fn a_longer_run_allocates_no_more() {
    let folder = Folder(std::env::temp_dir().join(format!("samcore-allocation-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).unwrap();
    for (part, count) in [("train", 32 * ROWS), ("t10k", 2 * ROWS)] {
        let (images, labels) = bytes(count);
        write_idx(&folder.0, &format!("{part}-images-idx3-ubyte"), &[count as u32, 28, 28], &images);
        write_idx(&folder.0, &format!("{part}-labels-idx1-ubyte"), &[count as u32], &labels);
    }
    for threads in [1, 2] {
        let [short, long] = [5, 25].map(|steps| allocations_of_run(&folder.0, steps, threads));
        println!("a session on {threads} threads: {short} allocations for 5 steps, {long} for 25");
        assert!(long.abs_diff(short) < 10, "{short} allocations for 5 steps, {long} for 25, on {threads} threads");
    }
}

fn main() {
    let count = allocations(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(count, 1, "the counter does not count");
    for name in ["sgd", "sam"] {
        for threads in [1, 2] {
            for dtype in [DType::F32, DType::Bf16] {
                steps_allocate_nothing(name, dtype, threads);
            }
            println!("steps of {name} on {threads} threads allocate nothing");
        }
    }
    a_longer_run_allocates_no_more();
}
