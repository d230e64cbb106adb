//! Times whole optimizer steps of `cnn` on one fixed batch of random images, ingest included, and prints one JSON line with
//! the keys of the peers' scripts.
//!
//!     cargo bench --bench step -- --opt sam --batch 128 --threads 2 --steps 30

use samcore::device::cpu::CpuDevice;
use samcore::device::{DatasetBytes, Device};
use samcore::error::{Error, Result};
use samcore::exec::{Exec, Recording};
use samcore::graph::ImageSource;
use samcore::models;
use samcore::ops::call::{Augment, Counters};
use samcore::optim::{self, Options};
use samcore::rng::{Draws, stream};
use samcore::step::{Division, Recorder};
use samcore::train::checkpoint::Remembered;
use samcore::train::engine;
use std::time::Instant;

struct Args {
    opt: String,
    batch: usize,
    threads: usize,
    warmup: usize,
    steps: usize,
}

fn args() -> Result<Args> {
    let mut args = Args { opt: "sam".into(), batch: 128, threads: 2, warmup: 5, steps: 30 };
    let mut words = std::env::args().skip(1).filter(|w| w != "--bench");
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| Error::usage(format!("{flag} needs a value")))?;
        let number = || value.parse().map_err(|_| Error::usage(format!("{flag} needs a number, not '{value}'")));
        match flag.as_str() {
            "--opt" => args.opt = value.clone(),
            "--batch" => args.batch = number()?,
            "--threads" => args.threads = number()?,
            "--warmup" => args.warmup = number()?,
            "--steps" => args.steps = number()?,
            _ => return Err(Error::usage(format!("unknown flag {flag}"))),
        }
    }
    Ok(args)
}

fn main() -> Result<()> {
    let args = args()?;
    let source =
        ImageSource { h: 28, w: 28, c: 1, classes: 10, mean: [0.286; 4], std: [0.353; 4], augment: Augment::default() };
    let graph = models::classifier(&models::find("cnn")?, &source, 0.0, 0.0)?;
    let row = optim::find(&args.opt)?;
    let device = CpuDevice::new(args.threads)?;
    let isa = device.isa().name();
    let optimizer = (row.build)(&Options::default());
    let mut recorder = Recorder::new(&graph, &device);
    let program = recorder.program(row.name, Division::whole(args.batch), |step| optimizer.record(0, step))?;
    let recording = Recording::of(recorder);
    let bytes = recording.layout().bytes();
    let mut exec = Exec::new(Box::new(device) as Box<dyn Device>, recording)?;

    let mut draws = Draws::new(0, stream("bench.images"), 0, 0);
    let images: Vec<u8> = (0..args.batch * 784).map(|_| draws.below(256) as u8).collect();
    let labels: Vec<u8> = (0..args.batch).map(|_| draws.below(10) as u8).collect();
    exec.set_dataset(0, &DatasetBytes { images: &images, labels: &labels, image_len: 784 })?;
    exec.set_order(0, &(0..args.batch as u32).collect::<Vec<_>>())?;
    engine::put(&mut exec, &engine::initial(&graph, 0, Remembered::default()))?;
    for (name, value) in [("lr", 0.1), ("rho", 0.05), ("momentum", 0.9), ("weight_decay", 5e-4)] {
        exec.set_slot(name, value)?;
    }
    let counters = Counters { rows: args.batch as u32, ..Counters::default() };
    let mut seconds = Vec::with_capacity(args.steps);
    for step in 0..args.warmup + args.steps {
        let begun = Instant::now();
        exec.run(program, &counters)?;
        if step >= args.warmup {
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| (args.batch as f64 / seconds * 100.0).round() / 100.0;
    let (best, median, worst) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    let gflops = graph.flops() as f64 * 3.0 * row.gradients * args.batch as f64 / median / 1e9;
    let result = serde_json::json!({
        "images_per_s": {"median": rate(median), "min": rate(worst), "max": rate(best)},
        "ms_per_step": (1e5 * median).round() / 100.0,
        "steps": args.steps,
        "forward_flops_per_image": graph.flops(),
        "gflops": (10.0 * gflops).round() / 10.0,
        "planned_bytes": bytes,
        "config": {
            "peer": "samcore", "version": env!("CARGO_PKG_VERSION"), "model": "cnn", "opt": args.opt,
            "batch": args.batch, "threads": args.threads, "dtype": "f32", "instructions": isa,
        },
    });
    println!("{result}");
    Ok(())
}
