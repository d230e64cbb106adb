//! The emulator computes what the GPU would, and catches what is wrong with a kernel.

mod faults;

use half::{bf16, f16};
use samcore::device::cuda::driver::{Address, Arg, Driver, Grid, MapShape, Module};
use samcore::device::cuda::emulator::{Emulator, Options, Order, present_or_skip};
use samcore::error::{Kind, Result};

const CORRECT: &str = include_str!("correct.cu");

const ORDERS: [Order; 6] = [
    Order::Ascending,
    Order::Descending,
    Order::Shuffled(1),
    Order::Shuffled(2),
    Order::Shuffled(3),
    Order::Shuffled(4),
];

/// Every order, eager and lazy, with and without the checker.
fn modes() -> Vec<Options> {
    let mut modes = Vec::new();
    for order in ORDERS {
        for eager in [false, true] {
            for sanitize in [false, true] {
                modes.push(Options { order, eager, sanitize, threads: 2, ..Options::default() });
            }
        }
    }
    modes
}

/// A launch of a kernel of `tests/emulator/`.
struct Run<'a> {
    emulator: &'a mut Emulator,
    module: Module,
    text: &'a str,
}

impl Run<'_> {
    fn launch(&mut self, kernel: &str, blocks: u32, threads: u32, shared: u32, args: &[Arg]) -> Result<()> {
        let function = self.emulator.load_text(&self.module, self.text, kernel)?;
        // SAFETY: the emulator checks sizes, and turns wrong accesses into errors.
        unsafe { self.emulator.launch(function, Grid { blocks: [blocks, 1, 1], threads, shared }, args, "test") }
    }
    fn upload(&mut self, bytes: &[u8]) -> Address {
        let at = self.emulator.alloc(bytes.len()).unwrap();
        self.emulator.write(at, bytes).unwrap();
        at
    }
    fn floats(&mut self, values: &[f32]) -> Address {
        self.upload(bytemuck::cast_slice(values))
    }
    fn read(&mut self, at: Address, len: usize) -> Vec<f32> {
        let mut values = vec![0f32; len];
        self.emulator.read(at, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    }
}

fn correct<'a>(emulator: &'a mut Emulator, defines: Vec<(&'static str, String)>) -> Run<'a> {
    Run { emulator, module: Module { file: "correct.cu", defines }, text: CORRECT }
}

/// Small integers and halves: products and sums are exact in every format.
fn small(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + seed * 5 + i / 11) % 9) as f32 * 0.5 - 2.0).collect()
}

fn packed(element: &str, values: &[f32]) -> Vec<u8> {
    match element {
        "bf16" => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        "f16" => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        _ => bytemuck::cast_slice(values).to_vec(),
    }
}

fn defines(element: &str, n: usize, ta: usize, tb: usize) -> Vec<(&'static str, String)> {
    vec![("T", element.into()), ("N", n.to_string()), ("TA", ta.to_string()), ("TB", tb.to_string())]
}

#[test]
fn sums_shuffles_and_handovers_are_right_in_every_mode() {
    if !present_or_skip() {
        return;
    }
    for mode in modes() {
        let mut emulator = Emulator::new(mode.clone()).unwrap();
        let mut run = correct(&mut emulator, defines("bf16", 64, 0, 0));
        let values = small(5 * 96, 1);
        let (x, y) = (run.floats(&values), run.emulator.alloc(5 * 4).unwrap());
        run.launch("sums", 5, 96, 0, &[Arg::Pointer(x), Arg::Pointer(y)]).unwrap();
        let expected: Vec<f32> = values.chunks(96).map(|c| 3.0 * c.iter().sum::<f32>()).collect();
        assert_eq!(run.read(y, 5), expected, "{mode:?}");

        let y = run.emulator.alloc(64 * 4).unwrap();
        run.launch("handover", 1, 96, 0, &[Arg::Pointer(y), Arg::I32(7)]).unwrap();
        let got = run.read(y, 64);
        for (i, value) in got.iter().enumerate() {
            let lane = 31 - (i ^ 33) % 32;
            let expected: usize = (0..7).map(|r| r * 32 + lane).sum();
            assert_eq!(*value, expected as f32, "{mode:?}");
        }

        let y = run.emulator.alloc(32 * 4).unwrap();
        run.launch("warps", 1, 32, 0, &[Arg::Pointer(y)]).unwrap();
        let mut got = vec![0i32; 32];
        run.emulator.read(y, bytemuck::cast_slice_mut(&mut got)).unwrap();
        for (lane, value) in got.iter().enumerate() {
            let down = if lane % 8 < 6 { lane + 2 } else { lane };
            let up = if lane % 16 > 0 { lane - 1 } else { lane };
            assert_eq!(*value as usize, (lane ^ 3) + 100 * down + 10_000 * up + 107_000_000, "{mode:?}");
        }
    }
}

#[test]
fn storage_types_round_as_the_rust_side_does() {
    if !present_or_skip() {
        return;
    }
    let mut values: Vec<f32> = (0..480).map(|i| (i as f32 - 240.0) * 1.001_37 * 2f32.powi(i % 40 - 26)).collect();
    let special =
        [0.0, -0.0, 1e-8, 6e-8, 65519.9, 65520.0, 1e30, -1e30, f32::INFINITY, f32::MIN_POSITIVE, 1e-41, 3.4e38];
    values.extend(special.iter().chain(&[1.0; 20]));
    for element in ["bf16", "f16"] {
        for sanitize in [false, true] {
            let mut emulator = Emulator::new(Options { sanitize, ..Options::default() }).unwrap();
            let mut run = correct(&mut emulator, defines(element, 64, 0, 0));
            let x = run.floats(&values);
            let (t, y) = (run.emulator.alloc(512 * 4).unwrap(), run.emulator.alloc(512 * 4).unwrap());
            run.launch("convert", 1, 32, 0, &[Arg::Pointer(x), Arg::Pointer(t), Arg::Pointer(y)]).unwrap();
            for (got, value) in run.read(y, 512).iter().zip(&values) {
                let expected = match element {
                    "bf16" => bf16::from_f32(*value).to_f32(),
                    _ => f16::from_f32(*value).to_f32(),
                };
                assert_eq!(got.to_bits(), expected.to_bits(), "{element} {value:e}");
            }
        }
    }
}

/// `a [m, k]` times `b [n, k]` transposed.
fn product(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum();
        }
    }
    c
}

fn transposed(a: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| a[i % rows * columns + i / rows]).collect()
}

#[test]
fn tensor_cores_multiply_in_every_mode() {
    if !present_or_skip() {
        return;
    }
    for mode in modes() {
        for element in ["bf16", "f16"] {
            let mut emulator = Emulator::new(mode.clone()).unwrap();
            let mut run = correct(&mut emulator, defines(element, 64, 0, 0));
            let k = 104;
            let (a, b) = (small(64 * k, 1), small(64 * k, 2));
            let (pa, pb) = (run.upload(&packed(element, &a)), run.upload(&packed(element, &b)));
            let c = run.emulator.alloc(64 * 64 * 4).unwrap();
            let args = [Arg::Pointer(pa), Arg::Pointer(pb), Arg::Pointer(c), Arg::I32(k as i32)];
            run.launch("mma_gemm", 1, 128, 4 * 64 * 40 * 2, &args).unwrap();
            assert_eq!(run.read(c, 64 * 64), product(&a, &b, 64, 64, k), "{element} {mode:?}");

            let (a, b) = (small(16 * 8, 3), small(8 * 8, 4));
            let (pa, pb) = (run.floats(&a), run.floats(&b));
            let (c, d) = (run.emulator.alloc(512).unwrap(), run.emulator.alloc(512).unwrap());
            let args = [pa, pb, c, d].map(Arg::Pointer);
            run.launch("mma_small", 1, 32, 0, &args).unwrap();
            let expected = product(&a, &transposed(&b, 8, 8), 16, 8, 8);
            assert_eq!(run.read(c, 128), expected, "tf32 {mode:?}");
            assert_eq!(run.read(d, 128), expected, "{element} trans {mode:?}");
        }
    }
}

#[test]
fn wgmma_reads_swizzled_tiles_either_way_up_in_every_mode() {
    if !present_or_skip() {
        return;
    }
    let shapes = [("bf16", 64, 0, 0), ("f16", 160, 0, 1), ("bf16", 96, 1, 1), ("f16", 256, 1, 0), ("bf16", 8, 0, 0)];
    for mode in modes() {
        for (element, n, ta, tb) in shapes {
            let mut emulator = Emulator::new(mode.clone()).unwrap();
            let mut run = correct(&mut emulator, defines(element, n, ta, tb));
            let k = 320;
            let (a, b) = (small(64 * k, 1), small(n * k, 2));
            let mut map = |values: &[f32], rows: usize, columns: usize, upright: bool| {
                let (values, rows, columns) = if upright {
                    (values.to_vec(), rows, columns)
                } else {
                    (transposed(values, rows, columns), columns, rows)
                };
                // Rows of 16 bytes at least.
                let pitch = columns.next_multiple_of(8);
                let mut padded = vec![0.0; rows * pitch];
                for r in 0..rows {
                    padded[r * pitch..r * pitch + columns].copy_from_slice(&values[r * columns..(r + 1) * columns]);
                }
                let at = run.upload(&packed(element, &padded));
                let shape = MapShape {
                    dims: vec![columns as u64, rows as u64],
                    strides: vec![2 * pitch as u64],
                    tile: vec![64, 64],
                    bf16: element == "bf16",
                };
                Arg::Map(run.emulator.tensor_map(at, &shape).unwrap())
            };
            let (ma, mb) = (map(&a, 64, k, ta == 0), map(&b, n, k, tb == 0));
            let c = run.emulator.alloc(64 * n * 4).unwrap();
            let shared = 2 * (64 * 128 + n.next_multiple_of(64) * 128);
            let args = [ma, mb, Arg::Pointer(c), Arg::I32(k as i32)];
            run.launch("wgmma_gemm", 1, 160, shared as u32, &args).unwrap();
            assert_eq!(run.read(c, 64 * n), product(&a, &b, 64, n, k), "{element} {n} {ta} {tb} {mode:?}");
        }
    }
}

#[test]
fn tma_fills_what_lies_outside_with_zeros() {
    if !present_or_skip() {
        return;
    }
    let (n, h, w, c) = (2, 3, 4, 64);
    let x: Vec<f32> = (0..n * h * w * c).map(|i| (i % 251) as f32 + 1.0).collect();
    for eager in [false, true] {
        let mut emulator = Emulator::new(Options { eager, sanitize: true, ..Options::default() }).unwrap();
        let mut run = correct(&mut emulator, defines("bf16", 64, 0, 0));
        let at = run.upload(&packed("bf16", &x));
        let shape = MapShape {
            dims: [c, w, h, n].map(|d| d as u64).to_vec(),
            strides: [c, w * c, h * w * c].map(|d| 2 * d as u64).to_vec(),
            tile: vec![64, 3, 2, 2],
            bf16: true,
        };
        let map = run.emulator.tensor_map(at, &shape).unwrap();
        let y = run.emulator.alloc(12 * 64 * 2).unwrap();
        for (w0, h0, n0) in [(0i32, 0i32, 0i32), (-1, -1, 0), (2, 2, 1), (-2, 1, -1)] {
            let args = [Arg::Map(map), Arg::Pointer(y), Arg::I32(w0), Arg::I32(h0), Arg::I32(n0)];
            run.launch("box4", 1, 32, 12 * 128, &args).unwrap();
            let mut got = vec![0u8; 12 * 64 * 2];
            run.emulator.read(y, &mut got).unwrap();
            for (i, pair) in got.chunks_exact(2).enumerate() {
                let value = bf16::from_le_bytes([pair[0], pair[1]]).to_f32();
                let (ci, wi, hi, ni) = (i % 64, i / 64 % 3, i / 192 % 2, i / 384);
                let (wi, hi, ni) = (w0 + wi as i32, h0 + hi as i32, n0 + ni as i32);
                let inside = |v: i32, limit: usize| (0..limit as i32).contains(&v);
                let expected = if inside(wi, w) && inside(hi, h) && inside(ni, n) {
                    x[((ni as usize * h + hi as usize) * w + wi as usize) * c + ci]
                } else {
                    0.0
                };
                assert_eq!(value, expected, "start {w0} {h0} {n0}, element {i}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_that_names_it() {
    if !present_or_skip() {
        return;
    }
    let mut emulator = Emulator::new(Options { memory: 1 << 20, ..Options::default() }).unwrap();
    let error = emulator.alloc(2 << 20).unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.to_string().contains("1048576 bytes are free"), "{error}");
    let at = emulator.alloc(1000).unwrap();
    assert_eq!(emulator.memory().unwrap(), ((1 << 20) - 1000, 1 << 20));
    assert!(emulator.write(at + 900, &[0; 101]).is_err());
    assert!(emulator.read(at - 1, &mut [0; 4]).is_err());
    emulator.free(at).unwrap();
    assert!(emulator.free(at).is_err());
    assert!(emulator.fill(at, 0, 1).is_err(), "freed");

    let mut run =
        Run { emulator: &mut emulator, module: Module { file: "faults.cu", defines: vec![] }, text: faults::FAULTS };
    let x = run.emulator.alloc(512).unwrap();
    let error = run.launch("deep", 1, 64, 0, &[Arg::Pointer(x)]).unwrap_err().to_string();
    assert!(error.contains("takes parameters of [8, 4] bytes, and is given [8]"), "{error}");
    let error = run.launch("deep", 1, 2048, 0, &[Arg::Pointer(x), Arg::I32(1)]).unwrap_err().to_string();
    assert!(error.contains("1 to 1024 threads"), "{error}");
    let error = run.launch("no_such", 1, 64, 0, &[]).unwrap_err().to_string();
    assert!(error.contains("no kernel 'no_such'; it has: write_past_end"), "{error}");
    let function = run.emulator.load_text(&run.module, "int broken(", "x");
    let error = function.unwrap_err();
    assert_eq!(error.kind, Kind::Data);
    assert!(
        error.to_string().contains("faults.cu does not compile") && error.to_string().contains("faults.cu:1"),
        "{error}"
    );
}

#[test]
fn captured_launches_run_when_replayed() {
    if !present_or_skip() {
        return;
    }
    let mut emulator = Emulator::new(Options::default()).unwrap();
    let mut run = correct(&mut emulator, defines("bf16", 64, 0, 0));
    let values = small(96, 1);
    let (x, y) = (run.floats(&values), run.floats(&[0.0]));
    run.emulator.capture().unwrap();
    run.launch("sums", 1, 96, 0, &[Arg::Pointer(x), Arg::Pointer(y)]).unwrap();
    let captured = run.emulator.end_capture().unwrap();
    assert_eq!(run.read(y, 1), [0.0]);
    let fetch = run.emulator.fetch(y, 4).unwrap();
    run.emulator.replay(captured).unwrap();
    assert_eq!(run.read(y, 1), [3.0 * values.iter().sum::<f32>()]);
    let mut before = [1u8; 4];
    run.emulator.take(fetch, &mut before).unwrap();
    assert_eq!(before, [0; 4], "a fetch sees what was queued before it");
    assert!(run.emulator.take(fetch, &mut before).is_err());
}
