//! Cost of a product with the Hessian and with the Gauss-Newton matrix, in gradients: the goal is at most 2.1.
//!
//!     cargo bench --bench hvp -- --model cnn --data fashion-mnist --images 512 --batch 128 --threads 2 --repeats 9 --out FILE
//!
//! Gradients and products alternate, so that a machine that slows down slows both; medians are compared. A busy machine says
//! little. The result is JSON on stdout or in FILE.

use samcore::data;
use samcore::models;
use samcore::ops::call::Augment;
use samcore::recipe::{Recipe, Target};
use samcore::study::hessian::{Operator, Products};
use samcore::study::{Layer, Probe};
use samcore::train::checkpoint::Remembered;
use samcore::train::engine::{self, TRAIN};
use samcore::train::environment::environment;
use serde_json::json;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let given = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
    let number = |name: &str, usual: usize| given(name).map_or(Ok(usual), |word| word.parse::<usize>());
    let (images, batch, repeats) = (number("--images", 512)?, number("--batch", 128)?, number("--repeats", 9)?);
    let device = Target::parse(&given("--device").unwrap_or("cpu".into())).ok_or("--device: auto, cpu, cuda or emu")?;
    let mut recipe = Recipe { device, threads: number("--threads", 0)?, ..Recipe::default() };
    let data = data::load(&given("--data").unwrap_or("fashion-mnist".into()))?;
    let name = given("--model").unwrap_or("cnn".into());
    let source = engine::source(&data, Augment::default());
    let graph = models::classifier(&models::find(&name)?, &source, &models::Setup::default())?;
    let vectors = engine::initial(&graph, 0, Remembered::default());
    let device = engine::device(&mut recipe)?;
    let (description, isa) = (device.describe(), device.instructions());
    let mut probe = Probe::with_targets(&graph, device, &[batch], &vectors, 0)?;
    probe.set_dataset(TRAIN, &data.train)?;
    let numbers: Vec<u32> = (0..images as u32).collect();
    let whole = Layer::whole(&graph);
    let v: Vec<f32> = (0..whole.len()).map(|i| (i as f32).sin()).collect();
    let weights = &vectors.weights;

    let mut results = vec![];
    for operator in Operator::ALL {
        let (mut gradient, mut product) = (vec![], vec![]);
        // The first round warms up.
        for round in 0..=repeats {
            let begun = Instant::now();
            let slope = probe.slope(weights, TRAIN, &numbers)?;
            let one = begun.elapsed().as_secs_f64();
            // The targets of the Gauss-Newton matrix are made once for many products.
            let mut products = Products::new(&mut probe, operator, weights, TRAIN, &numbers)?;
            let begun = Instant::now();
            let of = products.of(&whole, &v, 0.01)?;
            let two = begun.elapsed().as_secs_f64();
            if slope.gradient.len() < of.len() {
                return Err("a product is longer than the gradient".into());
            }
            if round > 0 {
                gradient.push(one);
                product.push(two);
            }
        }
        let (gradient, product) = (median(gradient), median(product));
        let operator = operator.name();
        results.push(json!({
            "operator": operator, "gradient_s": gradient, "product_s": product, "gradients": product / gradient,
        }));
    }
    let result = json!({
        "bench": "hvp", "model": name, "data": data.name, "images": images, "batch": batch, "repeats": repeats,
        "device": description, "results": results, "environment": environment(&isa, recipe.threads),
    });
    match given("--out") {
        Some(file) => std::fs::write(file, format!("{result:#}\n"))?,
        None => println!("{result:#}"),
    }
    Ok(())
}
