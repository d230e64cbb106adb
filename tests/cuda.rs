//! Promises of the CUDA device, kept by the very kernels on the emulator: the whole table of operations in every dtype,
//! whatever the order of threads, without races; trainings that follow the CPU's; graphs of several steps; loss scaling.
//!
//! Where there is a GPU the same holds there: see `on_a_gpu`.

mod common;

use common::{Folder, metrics, samcore};
use samcore::check::{check_row, run_case};
use samcore::device::cpu::CpuDevice;
use samcore::device::cuda::emulator::present_or_skip;
use samcore::device::cuda::rungs::{RUNGS, Rung, Rungs};
use samcore::device::cuda::{CudaDevice, Emulation, Emulator, Order, nvidia, on_emulator};
use samcore::device::{DatasetBytes, Device};
use samcore::dtype::DType;
use samcore::error::Result;
use samcore::exec::{Exec, Recording, Report};
use samcore::graph::{Graph, ImageSource};
use samcore::models;
use samcore::ops::OPS;
use samcore::ops::call::{Augment, Counters};
use samcore::ops::case::{Body, Case};
use samcore::optim::{self, Options};
use samcore::step::{Division, LOSS_SCALE, ProgramId, Recorder, SKIPPED, W};
use samcore::train::checkpoint::Remembered;
use samcore::train::engine;

fn emulated(emulation: Emulation, dtype: DType) -> impl Fn() -> Result<Box<dyn Device>> {
    move || Ok(Box::new(on_emulator(&emulation, 0, dtype, None)?) as Box<dyn Device>)
}

fn whole_table(make: &dyn Fn() -> Result<Box<dyn Device>>, what: &str) {
    for row in OPS {
        for verdict in check_row(row, make, 1).unwrap_or_else(|e| panic!("{what}: {e}")) {
            let failed: Vec<_> = verdict.findings.iter().filter(|f| !f.passed()).collect();
            assert!(verdict.passed(), "{what}, {} {}: {failed:?}", row.name, verdict.label);
        }
    }
}

#[test]
fn every_operation_meets_its_definition_in_f32() {
    if present_or_skip() {
        whole_table(&emulated(Emulation::default(), DType::F32), "f32");
    }
}

#[test]
fn every_operation_meets_its_definition_in_tf32() {
    if present_or_skip() {
        whole_table(&emulated(Emulation::default(), DType::Tf32), "tf32");
    }
}

#[test]
fn every_operation_meets_its_definition_in_bf16() {
    if present_or_skip() {
        whole_table(&emulated(Emulation::default(), DType::Bf16), "bf16");
    }
}

#[test]
fn every_operation_meets_its_definition_in_f16() {
    if present_or_skip() {
        whole_table(&emulated(Emulation::default(), DType::F16), "f16");
    }
}

/// Returns true if a case computes with tensor cores, where a dtype has them.
fn convolves(name: &str) -> bool {
    ["conv2d", "linear", "conv_norm_relu", "conv_norm_relu_pool", "residual_block"].contains(&name)
}

#[test]
fn no_rung_and_no_order_of_threads_changes_a_definition_or_a_bit() {
    if !present_or_skip() {
        return;
    }
    let modes = [(Order::Descending, false), (Order::Shuffled(7), true), (Order::Shuffled(8), false)];
    for &(rung_name, rung, arch, dtypes) in RUNGS {
        // One dtype a rung; the others differ in the product's instruction alone.
        let dtype =
            if rung == Rung::Plain { DType::F32 } else { *dtypes.iter().max_by_key(|d| **d == DType::Bf16).unwrap() };
        let on = |order, eager| {
            move || -> Result<Box<dyn Device>> {
                let emulation = Emulation { order, eager, arch: arch.max(75), ..Emulation::default() };
                let rungs = Rungs { forced: Some(rung), ..Rungs::default() };
                Ok(Box::new(on_emulator(&emulation, 0, dtype, Some(rungs))?))
            }
        };
        for row in OPS.iter().filter(|row| rung == Rung::Plain || convolves(row.name)) {
            for case in (row.cases)().into_iter().filter(|case| rung != Rung::Plain || is_small(case)) {
                let run = |order, eager| {
                    run_case(&case, &on(order, eager), 3).unwrap_or_else(|e| {
                        panic!("{rung_name}, {order:?}, eager {eager}: {} {}: {e}", row.name, case.label)
                    })
                };
                let first = run(Order::Ascending, false);
                for (order, eager) in modes {
                    let what = format!("{rung_name}, {order:?}, eager {eager}: {} {}", row.name, case.label);
                    assert!(first.same_bits(&run(order, eager)), "{what}");
                }
            }
        }
    }
}

/// The checker watches every access, some twenty times slower.
fn is_small(case: &Case) -> bool {
    match &case.body {
        Body::Graph(graph) => case.rows * graph.feeds.iter().map(|f| f.0.len()).sum::<usize>() < 4_000,
        Body::Vector(vector) => vector.writes[0].len() < 20_000 && vector.reads[0].len() < 20_000,
        Body::Ingest(ingest) => case.rows * ingest.h * ingest.w < 4_000,
    }
}

/// Runs small cases of the chosen rows under the checker.
fn under_the_checker(dtype: DType, chosen: fn(&str) -> bool) {
    if !present_or_skip() {
        return;
    }
    let emulation = Emulation { sanitize: true, order: Order::Shuffled(3), ..Emulation::default() };
    for row in OPS.iter().filter(|row| chosen(row.name)) {
        let small: Vec<Case> = (row.cases)().into_iter().filter(is_small).collect();
        assert!(!small.is_empty(), "{} has no small case", row.name);
        for case in small {
            let what = format!("{}, {} {}", dtype.name(), row.name, case.label);
            run_case(&case, &emulated(emulation.clone(), dtype), 5).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
}

#[test]
fn the_checker_finds_no_race_and_no_stray_access_of_plain_tiles() {
    under_the_checker(DType::F32, convolves);
}

#[test]
fn the_checker_finds_no_race_and_no_stray_access_of_tensor_cores() {
    under_the_checker(DType::Bf16, convolves);
}

#[test]
fn the_checker_finds_no_race_and_no_stray_access_of_all_else() {
    under_the_checker(DType::F32, |name| !convolves(name));
}

const SIDE: usize = 12;
const ROWS: usize = 8;

/// Steps of an optimizer on one small batch after the other, and their results.
struct Training {
    exec: Exec,
    program: ProgramId,
}

impl Training {
    fn new(opt: &str, device: Box<dyn Device>) -> Training {
        let augment = Augment { crop: 1, flip: true, ..Augment::default() };
        let source = ImageSource { h: SIDE, w: SIDE, c: 1, classes: 10, mean: [0.286; 4], std: [0.353; 4], augment };
        let graph: Graph =
            models::classifier(&models::find("cnn").unwrap(), &source, &models::Setup::new(0.2, 0.1)).unwrap();
        let optimizer = (optim::find(opt).unwrap().build)(&Options::default());
        let mut recorder = Recorder::new(&graph, &*device);
        let program = recorder.program(opt, Division::whole(ROWS), |step| optimizer.record(0, step)).unwrap();
        let recording = Recording::of(recorder);
        let mut exec = Exec::new(device, recording).unwrap();
        let images: Vec<u8> = (0..4 * ROWS * SIDE * SIDE).map(|i| (i * i / 7 % 251) as u8).collect();
        let labels: Vec<u8> = (0..4 * ROWS).map(|i| (i % 10) as u8).collect();
        exec.set_dataset(0, &DatasetBytes { images: &images, labels: &labels, image_len: SIDE * SIDE }).unwrap();
        exec.set_order(0, &(0..4 * ROWS as u32).rev().collect::<Vec<_>>()).unwrap();
        engine::put(&mut exec, &engine::initial(&graph, 1, Remembered::default())).unwrap();
        for (slot, value) in [("rho", 0.05), ("momentum", 0.9), ("weight_decay", 5e-4), ("clip", 3.0)] {
            exec.set_slot(slot, value).unwrap();
        }
        exec.set_slot(LOSS_SCALE, 1024.0).unwrap();
        Training { exec, program }
    }

    /// Reports of `count` steps, as many of them submitted at once as the device takes.
    fn run(&mut self, count: usize) -> Vec<Vec<f32>> {
        let (program, mut reports) = (self.program, Vec::new());
        let start = |exec: &mut Exec, step: usize| {
            let first = (step % 4 * ROWS) as u32;
            let counters = Counters { seed: 3, epoch: step as u32 / 4, dataset: 0, first, rows: ROWS as u32 };
            exec.submit(program, &counters, &[("lr", 0.02 / (1.0 + step as f32))])
        };
        let take = |report: Report<'_>| {
            assert!(!report.fault);
            reports.push(report.values.to_vec());
            Ok(())
        };
        self.exec.replay(count, self.exec.depth(program), start, take).unwrap();
        reports
    }

    fn names(&self) -> Vec<&'static str> {
        self.exec.program(self.program).reports.iter().map(|r| r.0).collect()
    }
}

fn relative(a: &[f32], b: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    (error / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

#[test]
fn a_training_follows_the_cpus_losses_and_weights() {
    if !present_or_skip() {
        return;
    }
    for opt in ["sgd", "sam"] {
        let mut cpu = Training::new(opt, Box::new(CpuDevice::new(2).unwrap()));
        let (losses, names) = (cpu.run(5), cpu.names());
        let weights = cpu.exec.download(W).unwrap();
        // Bounds of the losses, and of the weights after five steps: rounding, which steps carry on.
        for (dtype, of_losses, of_weights) in
            [(DType::F32, 2e-5, 2e-5), (DType::Tf32, 5e-3, 5e-3), (DType::Bf16, 5e-2, 5e-2), (DType::F16, 5e-3, 5e-3)]
        {
            let mut gpu = Training::new(opt, emulated(Emulation::default(), dtype)().unwrap());
            let reports = gpu.run(5);
            for (step, (got, expected)) in reports.iter().zip(&losses).enumerate() {
                let at = names.iter().position(|n| *n == "loss").unwrap();
                let error = relative(&got[at..=at], &expected[at..=at]);
                assert!(error < of_losses, "{opt} in {}: loss of step {step} is off by {error:.1e}", dtype.name());
            }
            let error = relative(&gpu.exec.download(W).unwrap(), &weights);
            assert!(error < of_weights, "{opt} in {}: weights are off by {error:.1e}", dtype.name());
        }
    }
}

#[test]
fn graphs_of_several_steps_come_to_the_bits_of_single_ones() {
    if !present_or_skip() {
        return;
    }
    let device = |steps| {
        let driver = Box::new(Emulator::new(Emulation::default()).unwrap());
        Box::new(CudaDevice::new(driver, DType::F32, Rungs::default(), steps).unwrap())
    };
    let mut one = Training::new("sam", device(1));
    let expected = one.run(7);
    // 7 steps: two graphs of 3, and a step by itself.
    let mut several = Training::new("sam", device(3));
    assert_eq!(several.exec.depth(several.program), 6);
    assert_eq!(several.run(7), expected);
    assert_eq!(several.exec.download(W).unwrap(), one.exec.download(W).unwrap());
}

#[test]
fn an_overflow_in_f16_skips_the_step_and_halves_the_scale() {
    if !present_or_skip() {
        return;
    }
    let mut training = Training::new("sam", emulated(Emulation::default(), DType::F16)().unwrap());
    let before = training.exec.download(W).unwrap();
    training.exec.set_slot(LOSS_SCALE, 16_777_216.0).unwrap();
    training.run(1);
    assert_eq!(training.exec.download(W).unwrap(), before, "a step whose gradient overflows moves nothing");
    assert_eq!(training.exec.slot_value(LOSS_SCALE).unwrap(), 8_388_608.0);
    assert_eq!(training.exec.slot_value(SKIPPED).unwrap(), 1.0);
    // It goes on being halved until gradients fit; then steps move weights again.
    training.run(14);
    let scale = training.exec.slot_value(LOSS_SCALE).unwrap();
    assert!((1.0..8_388_608.0).contains(&scale), "{scale}");
    assert_ne!(training.exec.download(W).unwrap(), before);
    assert!(training.exec.slot_value(SKIPPED).unwrap() < 15.0);
}

#[test]
fn bf16_keeps_the_projection_of_a_perturbation_and_loses_its_cosine() {
    if !present_or_skip() {
        return;
    }
    let told = |dtype| {
        let mut training = Training::new("sam", emulated(Emulation::default(), dtype)().unwrap());
        let report = training.run(1).remove(0);
        let value = |name: &str| {
            let at = training.names().iter().position(|n| *n == name);
            f64::from(report[at.unwrap_or_else(|| panic!("{name} is not reported"))])
        };
        (value("perturbation_norm"), value("perturbation_cosine"))
    };
    let (bf16, f16) = (told(DType::Bf16), told(DType::F16));
    // The share of rho 0.05 along the gradient is norm x cosine: rounding errors have no direction of their own.
    for (dtype, (norm, cosine)) in [("bf16", bf16), ("f16", f16)] {
        assert!((norm * cosine / 0.05 - 1.0).abs() < 0.05, "{dtype}: {norm} x {cosine}");
    }
    assert!(bf16.1 < f16.1 && f16.1 > 0.99, "{bf16:?} {f16:?}");
}

#[test]
fn a_run_goes_on_on_another_device() {
    if !present_or_skip() {
        return;
    }
    let folder = Folder::with_images("devices", 64, 32, 2);
    let run = folder.path("run");
    let line = format!(
        "train --data data --model cnn --batch 32 --eval-batch 32 --opt sam --epochs 3 --device cpu --steps 2 --out {}",
        run.display()
    );
    samcore(&folder.0, &line).well();
    let told =
        samcore(&folder.0, &format!("train --resume {} --device emu --dtype bf16 --steps 4", run.display())).well();
    assert!(told.stderr.contains("the run began on"), "{}", told.stderr);
    samcore(&folder.0, &format!("train --resume {} --device emu --dtype f16 --steps 5", run.display())).well();
    samcore(&folder.0, &format!("train --resume {} --device cpu --dtype f32", run.display())).well();
    assert_eq!(metrics(&run, "epoch"), ["1", "2", "3"]);
    // The second epoch's was worked out in bf16.
    let losses: Vec<f64> = metrics(&run, "test_loss").iter().map(|loss| loss.parse().unwrap()).collect();
    assert!(losses.iter().all(|loss| (1.0..4.0).contains(loss)), "{losses:?}");
    let emulated =
        samcore(&folder.0, &format!("eval {} --device emu --json", run.join("best.safetensors").display())).well();
    let cpu =
        samcore(&folder.0, &format!("eval {} --device cpu --json", run.join("best.safetensors").display())).well();
    let loss = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["loss"].as_f64().unwrap();
    assert!((loss(&emulated.stdout) / loss(&cpu.stdout) - 1.0).abs() < 1e-5);
}

#[test]
fn on_a_gpu() {
    let Some(_) = nvidia::gpu_or_skip() else { return };
    for dtype in DType::ALL {
        let make = || {
            engine::device(&mut samcore::recipe::Recipe {
                device: samcore::recipe::Target::Cuda(0),
                dtype,
                ..Default::default()
            })
        };
        whole_table(&make, dtype.name());
    }
}
