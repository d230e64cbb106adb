//! A test of the test: kernels with one planted fault each, and the modes in which it must be caught.

use super::{Run, modes, packed, product, small};
use samcore::device::cuda::driver::{Arg, Driver, MapShape, Module};
use samcore::device::cuda::emulator::{Emulator, Options, Order, present_or_skip};
use samcore::error::Kind;

pub const FAULTS: &str = include_str!("faults.cu");

/// Modes in which a fault must be caught.
#[derive(Clone, Copy, PartialEq)]
enum Caught {
    /// In every mode.
    Always,
    /// By the checker, in every order, eager and lazy.
    Checked,
    /// By the checker when copies are late.
    CheckedLazy,
}

/// A kernel, blocks, whether its memory has been written, when it is caught, words of the message with and without the checker.
type Fault = (&'static str, u32, bool, Caught, &'static [&'static str]);

const SIMPLE_FAULTS: &[Fault] = &[
    ("write_past_end", 1, true, Caught::Always, &[]),
    (
        "write_past_end",
        1,
        true,
        Caught::Checked,
        &["out of bounds", "write of 4 bytes at offset", "of 1024 bytes", "faults.cu:4"],
    ),
    ("write_before", 1, true, Caught::Always, &[]),
    ("read_past_end", 1, true, Caught::Always, &["offset"]),
    ("read_past_end", 1, true, Caught::Checked, &["out of bounds", "read of 4 bytes", "faults.cu:8"]),
    ("off_by_one_shared", 1, true, Caught::Checked, &["array index out of range", "faults.cu:14"]),
    ("past_dynamic", 1, true, Caught::Always, &["dynamic shared memory"]),
    ("past_dynamic", 1, true, Caught::Checked, &["out of bounds", "faults.cu:20"]),
    ("unwritten_shared", 1, true, Caught::Checked, &["uninitialised", "static shared memory", "faults.cu:29"]),
    ("unwritten_global", 1, false, Caught::Checked, &["uninitialised", "device allocation", "faults.cu:32"]),
    ("missing_barrier", 1, true, Caught::Checked, &["faults.cu:38"]),
    ("missing_second_barrier", 1, true, Caught::Checked, &["race with a", "faults.cu:4"]),
    ("missing_syncwarp", 1, true, Caught::Checked, &["faults.cu:5"]),
    ("blocks_race", 2, true, Caught::Checked, &["race", "another block", "faults.cu:59"]),
    ("blocks_share", 2, true, Caught::Checked, &["race", "another block", "faults.cu:6"]),
    ("early_return", 1, true, Caught::Always, &["faults.cu:68"]),
    ("divergent_barrier", 1, true, Caught::Always, &["divergent __syncthreads", "faults.cu:74", "faults.cu:77"]),
    ("half_a_shuffle", 1, true, Caught::Always, &["deadlock", "faults.cu:83"]),
    ("misaligned", 1, true, Caught::Checked, &["not aligned"]),
    ("deep", 1, true, Caught::Always, &["stack overflow"]),
    ("null_pointer", 1, true, Caught::Always, &[]),
    ("endless", 1, true, Caught::Always, &["ran longer than 0.05 s"]),
    ("endless_meeting", 1, true, Caught::Always, &["ran longer than 0.05 s"]),
    ("weak_cp_async_wait", 1, true, Caught::CheckedLazy, &["not waited for", "faults.cu:1"]),
    ("no_barrier_after_cp_async", 1, true, Caught::Checked, &["faults.cu:1"]),
];

#[test]
fn planted_faults_are_caught_and_the_process_lives_on() {
    if !present_or_skip() {
        return;
    }
    let mut wrong = Vec::new();
    // The line at fault is looked up by a process each time: half of the orders will do.
    for mode in modes().into_iter().filter(|m| !matches!(m.order, Order::Shuffled(2..))) {
        let mode = Options { seconds: 0.05, ..mode };
        for (kernel, blocks, written, caught, words) in SIMPLE_FAULTS {
            let due = match caught {
                Caught::Always => true,
                Caught::Checked => mode.sanitize,
                Caught::CheckedLazy => mode.sanitize && !mode.eager,
            };
            if !due {
                continue;
            }
            let mut emulator = Emulator::new(mode.clone()).unwrap();
            let module = Module { file: "faults.cu", defines: Vec::new() };
            let mut run = Run { emulator: &mut emulator, module, text: FAULTS };
            let x = run.emulator.alloc(256 * 4).unwrap();
            if *written {
                run.emulator.fill(x, 0, 256 * 4).unwrap();
            }
            let n = match *kernel {
                "write_past_end" | "read_past_end" => 256,
                "write_before" => 128,
                _ => 64,
            };
            let result = run.launch(kernel, *blocks, 64, 256, &[Arg::Pointer(x), Arg::I32(n)]);
            let Err(error) = result else {
                wrong.push(format!("{kernel} is not caught in {mode:?}"));
                continue;
            };
            assert_eq!(error.kind, Kind::CheckFailed, "{kernel}: {error}");
            let text = error.to_string();
            for word in words.iter().chain([kernel, &"'test'"]).filter(|w| !text.contains(**w)) {
                wrong.push(format!("no '{word}' for {kernel} in {mode:?}: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Faults of `ring` by number: the words of the report in every mode, or with the checker alone.
const RING_FAULTS: &[(u32, &str, Caught, &[&str])] = &[
    (0, "none", Caught::Always, &[]),
    (2, "no wait for an empty stage", Caught::Checked, &[]),
    (3, "too few bytes announced", Caught::Always, &["announced 0"]),
    (4, "a tile that is not aligned for the swizzle", Caught::Always, &["multiple of 1024"]),
    (5, "no wait for a full stage", Caught::CheckedLazy, &[]),
    (6, "no wgmma_fence", Caught::Always, &["no wgmma_fence"]),
    (7, "another swizzle", Caught::Always, &["128-byte swizzle"]),
    (8, "descriptors differ", Caught::Always, &["differ"]),
    (9, "weak wgmma_wait", Caught::CheckedLazy, &[]),
    (10, "an arrival is missing", Caught::Always, &["deadlock"]),
    (11, "no fence_proxy_async", Caught::Checked, &["no fence_proxy_async", "faults.cu:1"]),
];

#[test]
fn faults_of_a_wgmma_ring_are_caught_or_make_wrong_values() {
    if !present_or_skip() {
        return;
    }
    let (steps, k) = (4, 256);
    let (a, b) = (small(64 * k, 1), small(64 * k, 2));
    let expected = product(&a, &b, 64, 64, k);
    for mode in modes() {
        for (fault, what, caught, words) in RING_FAULTS {
            let mut emulator = Emulator::new(mode.clone()).unwrap();
            let module = Module { file: "faults.cu", defines: vec![("FAULT", fault.to_string())] };
            let mut run = Run { emulator: &mut emulator, module, text: FAULTS };
            let mut map = |values: &[f32]| {
                let at = run.upload(&packed("bf16", values));
                let (dims, strides) = (vec![k as u64, 64], vec![2 * k as u64]);
                let shape = MapShape { dims, strides, tile: vec![64, 64], bf16: true };
                Arg::Map(run.emulator.tensor_map(at, &shape).unwrap())
            };
            let args = [map(&a), map(&b)];
            let c = run.emulator.alloc(64 * 64 * 4).unwrap();
            let args = [args[0], args[1], Arg::Pointer(c), Arg::I32(steps)];
            let result = run.launch("ring", 1, 160, 32768, &args);
            let right = result.is_ok() && run.read(c, 64 * 64) == expected;
            if *fault == 0 {
                result.unwrap();
                assert!(right, "{mode:?}");
                continue;
            }
            let due = match caught {
                Caught::Always => true,
                Caught::Checked => mode.sanitize,
                Caught::CheckedLazy => mode.sanitize && !mode.eager,
            };
            if due || (!mode.eager && *fault < 11) {
                assert!(!right, "{what} goes unnoticed in {mode:?}");
            }
            if due && let Err(error) = result {
                let text = error.to_string();
                assert!(words.iter().all(|w| text.contains(w)), "{what} in {mode:?}: {text}");
            } else if due && !words.is_empty() {
                panic!("{what} is not reported in {mode:?}");
            }
        }
    }
}
