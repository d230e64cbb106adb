//! Measurements of a trained model beside its accuracy: corrupted parameters, attacked images.

use super::{Attack, Corruption, Measured};
use crate::data::{self, DataSet};
use crate::error::{Error, Kind, Result};
use crate::exec::{Exec, Recording};
use crate::files::{MAX_JSON, read_bytes, write_atomic};
use crate::models;
use crate::optim::Norm;
use crate::recipe::Recipe;
use crate::step::{At, By, C, Division, RUNNING, Recorder, Space, Sum};
use crate::study::journal::{Journal, Progress};
use crate::study::{Draw, Entries, Layer, Probe, corrupt, some_images, some_of};
use crate::train::checkpoint::{Checkpoint, Weights};
use crate::train::engine::{self, Evaluator, TEST, TRAIN};
use crate::train::measured::{CheckpointRun, Wanted};
use crate::train::{memory, signals};
use serde_json::{Value, json};
use std::path::Path;

/// Shares by name, in the order of the tables.
pub type Values = Vec<(String, f64)>;

/// File in the folder of a run that holds its measurements.
const FILE: &str = "measured.json";
/// File that keeps them until all are made, so that a stop costs none.
const JOURNAL: &str = "measured.journal";
/// Images that are attacked at once.
const ATTACKED_ROWS: usize = 128;

/// Returns how many images the measurements of a run of `recipe` evaluate, a gradient counted as three.
///
/// # Errors
/// If the model cannot be recorded.
pub fn images(measured: &Measured, recipe: &Recipe, data: &DataSet) -> Result<f64> {
    Ok(match measured {
        Measured::Nothing => 0.0,
        Measured::Corruption(of) => {
            let source = engine::source(data, recipe.augment());
            let graph = models::classifier(&models::find(&recipe.model)?, &source, &engine::setup(recipe)?)?;
            let layers = if of.depth == 0 { 0 } else { Layer::all(&graph, of.depth).len() };
            let points: usize = of.sizes.iter().map(|(_, sizes)| sizes.len()).sum();
            let whole = if of.whole { of.entries.len() * (1 + of.seeds as usize) } else { 0 };
            (points * (whole + layers) * of.images[1] + 3 * of.images[0]) as f64
        }
        Measured::Attack(of) => (of.images * (3 * of.steps + 1)) as f64,
    })
}

/// Returns the measurements of the finished run of `recipe` in `folder`; those that were made before are read back.
///
/// # Errors
/// NoInput, Data: the run has no sound checkpoint. Interrupted: a signal has come.
pub fn of_run(measured: &Measured, recipe: &Recipe, folder: &Path) -> Result<Values> {
    let made = match measured {
        Measured::Nothing => return Ok(vec![]),
        Measured::Corruption(of) => json!({
            "corruption": of.sizes.iter().map(|(norm, sizes)| json!([Norm::NAMES[*norm as usize], sizes])).collect::<Vec<_>>(),
            "n": of.entries, "seeds": of.seeds, "depth": of.depth, "whole": of.whole, "images": of.images,
        }),
        Measured::Attack(of) => {
            json!({"attack": {"steps": of.steps, "radius": of.radius, "rate": of.rate}, "images": of.images})
        }
    };
    let file = folder.join(FILE);
    if let Some(values) = kept(&file, &made) {
        return Ok(values);
    }
    if let Some(signal) = signals::requested() {
        return Err(Error::new(Kind::Interrupted, format!("stopped by {signal}")));
    }
    let values = match measured {
        Measured::Nothing => vec![],
        Measured::Corruption(of) => corrupted(of, recipe, folder, &made)?,
        Measured::Attack(of) => vec![(attacked_name(of), attacked(of, recipe, folder)?)],
    };
    let list: Vec<Value> = values.iter().map(|(name, value)| json!([name, value])).collect();
    write_atomic(&file, format!("{:#}\n", json!({"measured": made, "values": list})).as_bytes())?;
    // Of no use any more; one that stays does no harm.
    _ = std::fs::remove_file(folder.join(JOURNAL));
    Ok(values)
}

/// Reads the measurements that `file` holds; None if they are not those of `made`.
fn kept(file: &Path, made: &Value) -> Option<Values> {
    let value: Value = serde_json::from_slice(&read_bytes(file, MAX_JSON).ok()?).ok()?;
    let pair = |pair: &Value| Some((pair[0].as_str()?.to_owned(), pair[1].as_f64()?));
    (value["measured"] == *made).then(|| value["values"].as_array()?.iter().map(pair).collect()).flatten()
}

/// A trained run: its checkpoint on its data.
struct Trained {
    data: DataSet,
    graph: crate::graph::Graph,
    vectors: crate::train::checkpoint::Vectors,
    /// The training images that it trained on.
    train: Vec<u32>,
}

impl Trained {
    fn load(recipe: &Recipe, folder: &Path) -> Result<Trained> {
        let file = folder.join("last.safetensors");
        let opened = Checkpoint::open(&file)?;
        let mut data = data::load_as(&recipe.data, recipe.labels)?;
        let (graph, vectors) = engine::restore(&opened, &file, &data, &data.test, Weights::Evaluated)?;
        let train = CheckpointRun::of(&file, &opened).images(&mut data, true, Wanted::default())?.train;
        Ok(Trained { data, graph, vectors, train })
    }
}

/// Returns test accuracy under each corruption, random ones as means over their seeds. `identity` describes the measurements.
fn corrupted(of: &Corruption, recipe: &Recipe, folder: &Path, identity: &Value) -> Result<Values> {
    let Trained { data, graph, vectors, train } = Trained::load(recipe, folder)?;
    let [images, tested] = of.images;
    let settings = corrupt::Settings {
        norms: of.sizes.iter().map(|(norm, sizes)| (*norm, sizes.to_vec())).collect(),
        entries: of.entries.iter().map(|word| Entries::parse(word)).collect::<Result<_>>()?,
        seeds: (0..of.seeds).collect(),
        draw: Draw::Normal,
        layers: if of.depth == 0 { vec![] } else { Layer::all(&graph, of.depth) },
        gradient_images: some_of(0, images, &train),
        test_images: some_images(0, tested, data.test.count),
    };
    let device = engine::device(&mut recipe.clone())?;
    let mut probe = Probe::new(&graph, device, &[recipe.eval_batch], &vectors, 0)?;
    probe.set_dataset(TRAIN, &data.train)?;
    probe.set_dataset(TEST, &data.test)?;
    let mut heed = |_: Progress| match signals::requested() {
        Some(signal) => Err(Error::new(Kind::Interrupted, format!("stopped by {signal}"))),
        None => Ok(()),
    };
    let mut journal = Journal::open(&folder.join(JOURNAL), identity, settings.measurements(), &mut heed)?;
    let study = corrupt::run(&mut probe, &graph, &vectors.weights, settings, &mut journal)?;
    let mut values: Vec<(String, Vec<f64>)> = vec![];
    for row in study.rows.iter().filter(|row| of.whole || row.layer != "all") {
        let size = format!("p = {}, n = {}, eps = {}", Norm::NAMES[row.norm as usize], row.entries, row.eps);
        let name = match (row.layer.as_str(), row.seed) {
            ("all", Some(_)) => format!("random, {size}"),
            ("all", None) => format!("gradient-based, {size}"),
            (layer, _) => format!("{layer}, {size}"),
        };
        match values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, accuracies)) => accuracies.push(row.scores.accuracy),
            None => values.push((name, vec![row.scores.accuracy])),
        }
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    Ok(values.into_iter().map(|(name, accuracies)| (name, mean(accuracies))).collect())
}

fn attacked_name(of: &Attack) -> String {
    format!("attacked, {} steps, radius {}", of.steps, of.radius)
}

/// Returns accuracy on test images that projected gradient descent has moved against the model, as in evaluation.
fn attacked(of: &Attack, recipe: &Recipe, folder: &Path) -> Result<f64> {
    let Trained { data, graph, vectors, .. } = Trained::load(recipe, folder)?;
    let device = engine::device(&mut recipe.clone())?;
    let tested = some_images(0, of.images, data.test.count);
    let rows = ATTACKED_ROWS.min(tested.len());
    let mut recorder = Recorder::new(&graph, &*device);
    let program = recorder.program("attacked", Division::whole(rows), |s| {
        let (delta, gradient) = (s.vector("attack", Space::Input), s.vector("attack_gradient", Space::Input));
        let (radius, rate) = (s.slot("pgd_eps"), s.slot("pgd_lr"));
        let trained = At::of(C).running(RUNNING);
        s.set(delta, Sum::zero())?;
        for i in 0..of.steps {
            let at = if i == 0 { trained } else { trained.input(delta) };
            let pass = s.evaluate_gradient(at, By::input(), gradient)?;
            s.attack(delta, pass.g, radius, rate)?;
        }
        let pass = s.evaluate(trained.input(delta))?;
        s.report("loss", pass.loss);
        s.report("hits", pass.hits);
        s.report("weight", pass.weight);
        Ok(())
    })?;
    let recording = Recording::of(recorder);
    memory::check(&*device, &recording, "--batch", rows, 0)?;
    let mut exec = Exec::new(device, recording)?;
    engine::put(&mut exec, &vectors)?;
    exec.set_slot("pgd_eps", of.radius as f32)?;
    exec.set_slot("pgd_lr", of.rate as f32)?;
    exec.set_dataset(TEST, &data.test.bytes())?;
    exec.set_order(TEST, &tested)?;
    Ok(Evaluator { program, rows }.run(&mut exec, TEST, tested.len())?.accuracy)
}
