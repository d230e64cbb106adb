//! Every parser takes whatever comes: no panic, no more than 512 MiB, no more than a second.
//!
//! Cases are made of sound files by [`mutate`], with nothing but the test harness. Each target is fuzzed by a process of
//! its own, so that a stack overflow or an abort is caught as well. `SAMCORE_FUZZ_SECONDS` is the time for each target (4),
//! `SAMCORE_FUZZ_SEED` the seed of all cases (0). A case that fails is kept in a file, and
//! `SAMCORE_FUZZ_INPUT=FILE cargo test --test fuzz` runs it again.

#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/targets.rs"]
mod targets;

use samcore::files::sha256_hex;
use samcore::rng::{Draws, stream};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use targets::{TARGETS, Target};

/// The system's allocator, which keeps count of what the thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST_HELD: Cell<usize> = const { Cell::new(0) };
}

fn count(added: usize, removed: usize) {
    // A thread that is ending has no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get().wrapping_add(added).wrapping_sub(removed));
        // Memory from other threads may be freed here, so the sum may fall below zero.
        let now = if held.get() > isize::MAX as usize { 0 } else { held.get() };
        let _ = MOST_HELD.try_with(|most| most.set(most.get().max(now)));
    });
}

// SAFETY: every method hands its arguments on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        unsafe { System.realloc(block, layout, size) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Limits of a case.
struct Limits {
    memory: usize,
    time: Duration,
}

const LIMITS: Limits = Limits { memory: 512 << 20, time: Duration::from_secs(1) };

/// Resources that cases used.
#[derive(Default)]
struct Tally {
    cases: u64,
    taken: u64,
    memory: usize,
    time: Duration,
}

/// Message and place of the last panic.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs one case; what is wrong with it.
fn run(target: &Target, folder: &Path, bytes: &[u8], limits: &Limits, tally: &mut Tally) -> Result<(), String> {
    let path = folder.join(target.file);
    // A machine with other work may stop any process for a second, but hardly three times at the same case.
    for attempt in 1..=3 {
        fs::write(&path, bytes).unwrap();
        MOST_HELD.set(HELD.get());
        let (before, begun) = (HELD.get(), Instant::now());
        let taken = catch_unwind(AssertUnwindSafe(|| (target.parse)(&path, bytes)));
        let (time, memory) = (begun.elapsed(), MOST_HELD.get().saturating_sub(before));
        let Ok(taken) = taken else { return Err(PANIC.lock().unwrap().clone()) };
        if memory > limits.memory {
            return Err(format!("takes {memory} bytes of memory, more than {}", limits.memory));
        }
        if time > limits.time {
            if attempt == 3 {
                return Err(format!("takes {time:?}, more than {:?}, three times", limits.time));
            }
            continue;
        }
        tally.cases += 1;
        tally.taken += u64::from(taken);
        tally.memory = tally.memory.max(memory);
        tally.time = tally.time.max(time);
        break;
    }
    Ok(())
}

/// Keeps a case that failed in a file, and returns the command that repeats it.
fn keep(target: &str, bytes: &[u8], what: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{target}-{}", &sha256_hex(bytes)[..8]));
    fs::write(&file, bytes).unwrap();
    format!("{target}: {what}\n  run it again: SAMCORE_FUZZ_INPUT={} cargo test --test fuzz", file.display())
}

fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is '{text}'"))
}

/// A target by name, planted ones included.
fn find(name: &str) -> &'static Target {
    TARGETS.iter().chain(PLANTED).find(|t| t.name == name).unwrap_or_else(|| panic!("no target '{name}'"))
}

/// Fuzzes one target in this process, case after case as its number draws it.
fn fuzz(target: &Target, folder: &Path) -> Result<Tally, String> {
    let (seed, seconds) = (variable("SAMCORE_FUZZ_SEED", 0), variable("SAMCORE_FUZZ_SECONDS", 4.0));
    let (seeds, begun, mut tally) = ((target.seeds)(), Instant::now(), Tally::default());
    for number in 0..u32::MAX {
        let mut draws = Draws::new(seed, stream(target.name), 0, number);
        let bytes = mutate::mutate(&mut draws, &seeds);
        run(target, folder, &bytes, &LIMITS, &mut tally)
            .map_err(|what| keep(target.name, &bytes, &format!("case {number} of seed {seed}: {what}")))?;
        if begun.elapsed().as_secs_f64() > seconds {
            break;
        }
    }
    Ok(tally)
}

/// Not a test of its own: what [`in_a_process`] runs.
#[test]
fn child_fuzzes_one_target() {
    let (Ok(name), Ok(folder)) = (std::env::var("SAMCORE_FUZZ_TARGET"), std::env::var("SAMCORE_FUZZ_FOLDER")) else {
        return;
    };
    std::panic::set_hook(Box::new(|panic| *PANIC.lock().unwrap() = panic.to_string().replace('\n', " ")));
    match fuzz(find(&name), Path::new(&folder)) {
        Ok(t) => {
            let taken = 100.0 * t.taken as f64 / t.cases as f64;
            let (mib, ms) = (t.memory as f64 / f64::from(1 << 20), 1e3 * t.time.as_secs_f64());
            println!(
                "fuzzed {name:<24} {:>8} cases, {taken:5.1} % taken, at most {mib:.1} MiB and {ms:.1} ms",
                t.cases
            );
        }
        Err(what) => println!("failed {what}\nend"),
    }
}

/// Scratch space of one target, in memory where there is such a place.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let folder = root.join(format!("samcore-fuzz-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Scratch(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Fuzzes one target in a process of its own, and tells what it took or which case it failed at.
fn in_a_process(target: &Target) -> Result<String, String> {
    let scratch = Scratch::new(target.name);
    let log = scratch.0.join("log");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_fuzzes_one_target", "--nocapture"])
        .env("SAMCORE_FUZZ_TARGET", target.name)
        .env("SAMCORE_FUZZ_FOLDER", &scratch.0)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&log).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Far beyond what three slow cases take: it hangs.
    let end = Instant::now() + Duration::from_secs_f64(variable("SAMCORE_FUZZ_SECONDS", 4.0) + 60.0);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > end => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.is_none() {
        child.kill().and_then(|()| child.wait()).unwrap();
    }
    let told = fs::read_to_string(&log).unwrap_or_default();
    if let Some((_, rest)) = told.split_once("failed ") {
        return Err(rest.split("\nend").next().unwrap_or(rest).to_string());
    }
    if let Some(line) = told.lines().find_map(|line| line.split_once("fuzzed ")) {
        return Ok(line.1.to_string());
    }
    // It could not report more; its last case is still in the folder.
    let bytes = fs::read(scratch.0.join(target.file)).unwrap_or_default();
    let how = status.map_or("does not end".to_string(), |status| format!("the process ended with {status}"));
    Err(keep(target.name, &bytes, &how))
}

#[test]
fn no_parser_fails_at_whatever_comes() {
    if let Ok(file) = std::env::var("SAMCORE_FUZZ_INPUT") {
        return again(Path::new(&file));
    }
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(target) = TARGETS.get(next.fetch_add(1, Relaxed)) {
                    match in_a_process(target) {
                        Ok(line) => println!("{line}"),
                        Err(what) => failures.lock().unwrap().push(what),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs a case that was kept, in this process, with the panic as it comes.
fn again(file: &Path) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let target = find(name.rsplit_once('-').map_or(name, |(target, _)| target));
    let scratch = Scratch::new(target.name);
    let bytes = fs::read(file).unwrap();
    let path = scratch.0.join(target.file);
    fs::write(&path, &bytes).unwrap();
    (target.parse)(&path, &bytes);
    let mut tally = Tally::default();
    run(target, &scratch.0, &bytes, &LIMITS, &mut tally).unwrap();
    println!("{name} passes: {} bytes, {:?}", tally.memory, tally.time);
}

#[test]
fn sound_files_are_taken_and_most_spoiled_ones_are_not() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|t| t.name).collect();
    assert_eq!(names.len(), TARGETS.len(), "names are unique");
    for target in TARGETS {
        let (scratch, seeds) = (Scratch::new(&format!("{}-seeds", target.name)), (target.seeds)());
        let (mut tally, path) = (Tally::default(), scratch.0.join(target.file));
        for bytes in &seeds {
            fs::write(&path, bytes).unwrap();
            // One recipe is of keys that are none, for their parser.
            let taken = (target.parse)(&path, bytes) || bytes.starts_with(b"a.b");
            assert!(taken, "{}: {}", target.name, String::from_utf8_lossy(bytes));
        }
        for number in 0..200 {
            let bytes = mutate::mutate(&mut Draws::new(1, stream(target.name), 0, number), &seeds);
            run(target, &scratch.0, &bytes, &LIMITS, &mut tally).unwrap();
        }
        assert!(tally.taken < 200, "{} takes everything", target.name);
    }
}

/// Faults of every sort that the fuzzer must find.
#[rustfmt::skip]
const PLANTED: &[Target] = &[
    Target { name: "planted-panic", file: "x", seeds: || vec![vec![1; 64]], parse: |_, b| b[63] == 1 },
    Target { name: "planted-memory", file: "x", seeds: || vec![vec![1; 9]], parse: |_, b| vec![0u8; b.len() << 26].len() > 1 << 40 },
    Target { name: "planted-time", file: "x", seeds: || vec![vec![1; 9]], parse: |_, _| { std::thread::sleep(Duration::from_millis(1100)); true } },
    Target { name: "planted-abort", file: "x", seeds: || vec![vec![1; 9]], parse: |_, b| if b.len() > 9 { std::process::abort() } else { true } },
    Target { name: "planted-depth", file: "x", seeds: || vec![vec![1; 9]], parse: |_, b| dive(b, 0) == 3 },
];

fn dive(bytes: &[u8], depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    if bytes.is_empty() { frame[7] } else { dive(bytes, depth + 1) + frame[9] }
}

#[test]
fn planted_faults_are_found_and_kept() {
    for (name, what) in [
        ("planted-panic", "index out of bounds"),
        ("planted-memory", "bytes of memory, more than 536870912"),
        ("planted-time", "more than 1s, three times"),
        ("planted-abort", "the process ended with signal: 6"),
        ("planted-depth", "the process ended with signal: 6"),
    ] {
        let message = in_a_process(find(name)).unwrap_err();
        assert!(message.starts_with(name) && message.contains(what), "{message}");
        let (_, rest) = message.split_once("SAMCORE_FUZZ_INPUT=").unwrap();
        let file = rest.strip_suffix(" cargo test --test fuzz").unwrap();
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn every_target_has_its_binary_for_libfuzzer() {
    let manifest: toml::Table = include_str!("../fuzz/Cargo.toml").parse().unwrap();
    let binaries = manifest["bin"].as_array().unwrap();
    let names: Vec<&str> = binaries.iter().map(|binary| binary["name"].as_str().unwrap()).collect();
    let targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, targets);
    assert!(binaries.iter().all(|binary| binary["path"].as_str() == Some("targets/any.rs")));
}
