//! SAM's perturbation after rounding to low precision: c = cast(w + rho g / |g|) on a real batch, at initial or trained weights.
//! For each dtype and rho: the norm of c - w, its cosine with g, their product over rho (the share along the gradient), and
//! the gain L(c) - L(w) as that dtype computes it, beside the CPU's in f32.
//!
//!     cargo bench --bench precision -- --model wrn-28-10 --data cifar-10 --batch 4 --rho 0.05,0.1 --out FILE
//!     cargo bench --bench precision -- --checkpoint runs/mine/best.safetensors --data fashion-mnist --batch 32 --out FILE

use samcore::data;
use samcore::exec::{Exec, Recording};
use samcore::models;
use samcore::ops::call::{Augment, Counters};
use samcore::recipe::{Recipe, Target};
use samcore::step::{At, By, C, Division, G, Recorder, W};
use samcore::train::checkpoint::{Checkpoint, Remembered};
use samcore::train::{engine, environment::environment};
use serde_json::{Value, json};
use std::path::Path;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let given = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
    let rhos: Vec<f32> =
        given("--rho").unwrap_or("0.05".into()).split(',').map(str::parse).collect::<Result<_, _>>()?;
    let batch: usize = given("--batch").unwrap_or("4".into()).parse()?;
    let device = given("--device").unwrap_or("emu".into());
    let target = Target::parse(&device).ok_or("--device: auto, cpu, cuda or emu")?;
    let data = data::load(&given("--data").unwrap_or("fashion-mnist".into()))?;
    let checkpoint = given("--checkpoint");
    let opened = checkpoint.as_ref().map(|path| Checkpoint::open(Path::new(path))).transpose()?;
    let name = opened.as_ref().map_or_else(|| given("--model").unwrap_or("cnn".into()), |o| o.subject.model.clone());
    let model = models::find(&name)?;
    let graph = models::classifier(&model, &engine::source(&data, Augment::default()), &models::Setup::default())?;
    let vectors = match (&opened, &checkpoint) {
        (Some(opened), Some(path)) => opened.vectors(&graph, Remembered::default(), Path::new(path))?,
        _ => engine::initial(&graph, 0, Remembered::default()),
    };

    let mut results: Vec<Value> = Vec::new();
    let mut instructions = String::new();
    for (target, dtype) in [(Target::Cpu, "f32"), (target, "tf32"), (target, "bf16"), (target, "f16")] {
        let dtype = samcore::dtype::DType::ALL.into_iter().find(|d| d.name() == dtype).unwrap_or_default();
        let mut recipe = Recipe { device: target, dtype, ..Recipe::default() };
        let device = engine::device(&mut recipe)?;
        instructions = device.instructions();
        let mut recorder = Recorder::new(&graph, &*device);
        let program = recorder.program("precision", Division::whole(batch), |s| {
            let rho = s.slot("rho");
            let a = s.pass(At::of(C), By::params(), s.all(), G)?;
            let norm = s.norm(a.g);
            s.set(C, W + rho * a.g / norm)?;
            if let Some([size, cosine]) = s.rounded_perturbation(a.g) {
                s.report("norm", size);
                s.report("cosine", cosine);
            }
            let b = s.pass(At::of(C), By::nothing(), s.all(), G)?;
            s.report("loss", a.loss);
            s.report("perturbed_loss", b.loss);
            s.report("gradient", norm);
            Ok(())
        })?;
        let recording = Recording::of(recorder);
        let mut exec = Exec::new(device, recording)?;
        exec.set_dataset(0, &data.train.bytes())?;
        exec.set_order(0, &(0..batch as u32).collect::<Vec<_>>())?;
        // Far from the smallest gradients of f16, far from its infinity.
        exec.set_slot("loss_scale", 1024.0)?;
        for rho in &rhos {
            engine::put(&mut exec, &vectors)?;
            exec.set_slot("rho", *rho)?;
            exec.run(program, &Counters { rows: batch as u32, ..Counters::default() })?;
            let reports = exec.program(program).reports.clone();
            let mut value = |name: &str| -> Result<Option<f64>, Failure> {
                let Some((_, scalar)) = reports.iter().find(|r| r.0 == name) else { return Ok(None) };
                Ok(Some(f64::from(exec.read(*scalar)?)))
            };
            let of = |v: Option<f64>| v.unwrap_or(f64::NAN);
            let (loss, perturbed, gradient) =
                (of(value("loss")?), of(value("perturbed_loss")?), of(value("gradient")?));
            // f32 takes on the whole perturbation.
            let (norm, cosine) = (value("norm")?.unwrap_or(f64::from(*rho)), value("cosine")?.unwrap_or(1.0));
            let along = norm * cosine / f64::from(*rho);
            println!(
                "{:<5} rho {rho}: |c - w| {norm:.4}, cosine {cosine:.4}, along the gradient {along:.4} of rho; loss \
                 {loss:.4}, gain {:.4}",
                dtype.name(),
                perturbed - loss
            );
            results.push(json!({
                "dtype": dtype.name(), "rho": rho, "norm": norm, "cosine": cosine, "along": along,
                "loss": loss, "gain": perturbed - loss, "gradient_norm": gradient,
            }));
        }
    }
    if let Some(path) = given("--out") {
        let mut environment = environment(&instructions, 2);
        if let Some(entries) = environment.as_object_mut() {
            entries.remove("arguments");
        }
        let weights = if opened.is_some() { "trained" } else { "initial, seed 0" };
        let all = json!({
            "what": "perturbation after rounding", "model": name, "data": data.name, "weights": weights,
            "step": opened.as_ref().map_or(0, |o| o.position.step), "images": batch, "device": device,
            "environment": environment, "results": results,
        });
        std::fs::write(path, format!("{all:#}\n"))?;
    }
    Ok(())
}
