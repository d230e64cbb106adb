//! A model of one's own, trained with SAM on Fashion-MNIST: `cargo run --release --example custom_model`.

use samcore::error::Result;
use samcore::graph::{Graph, Var};
use samcore::models::{Model, Spec};
use samcore::output::print;
use samcore::recipe::Recipe;
use samcore::train::{Session, Where};
use samcore::{data, nn};

/// One residual block between a strided stem and a linear head: 19,242 parameters.
fn tiny(g: &mut Graph, x: Var, spec: &Spec) -> Result<Var> {
    let x = nn::conv(g, x, "stem", 32, 3, 2, 1)?;
    let x = nn::batch_norm(g, x, "bn0")?;
    let x = nn::relu(g, x, "relu0")?;
    let h = nn::conv(g, x, "conv1", 32, 3, 1, 1)?;
    let h = nn::batch_norm(g, h, "bn1")?;
    let h = nn::relu(g, h, "relu1")?;
    let h = nn::conv(g, h, "conv2", 32, 3, 1, 1)?;
    let h = nn::batch_norm(g, h, "bn2")?;
    let h = nn::add(g, x, h, "add")?;
    let h = nn::global_avg_pool(g, h, "pool")?;
    nn::linear(g, h, "fc", spec.classes)
}

fn main() -> Result<()> {
    let model = Model::new("tiny", "one residual block", tiny);
    let recipe = Recipe { opt: "sam".into(), rho: 0.05, epochs: 2, lr: 0.2, ..Recipe::default() };
    let summary = Session::with_model(&model, data::load("fashion-mnist")?, recipe, &Where::default())?.run()?;
    let (accuracy, folder) = (100.0 * summary.test.accuracy, summary.folder.display());
    print(&format!("test accuracy {accuracy:.2} %, curves in {folder}\n"))
}
