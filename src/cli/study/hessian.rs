//! `samcore study hessian`.

use super::options::{Options, show_progress};
use super::{MOST, about, number, outputs};
use crate::cli::eval;
use crate::cli::flags::{count, flag, switch, value};
use crate::cli::meter::Meter;
use crate::device::room::room;
use crate::error::{Error, Result};
use crate::npz;
use crate::recipe::{Kind, Value};
use crate::study::hessian::{self, Operator, SHELVES, Shelf};
use crate::study::{Layer, some_of};
use clap::{ArgMatches, Command};

const STEPS: Kind = Kind::Count(1, 1000);
const SAMPLES: Kind = Kind::Count(0, 100_000);
const DEPTH: Kind = Kind::Count(0, 100);
const IMAGES: Kind = Kind::Count(0, MOST);

/// File of the arrays in the folder of --out.
const ARRAYS: &str = "hessian.npz";

pub fn build(command: Command) -> Command {
    outputs(command.args(eval::flags()).args([
        flag("k", STEPS, "largest eigenvalues", number(5).as_ref()),
        flag("lanczos-steps", STEPS, "steps of Lanczos", number(30).as_ref()),
        flag("density-samples", STEPS, "random starts that the density is the mean of", number(1).as_ref()),
        flag("trace-samples", SAMPLES, "random vectors for the trace; 0: no trace", number(10).as_ref()),
        switch("gauss-newton", "measure the Gauss-Newton matrix too"),
        flag("depth", DEPTH, "parts of a name that identify a layer; 0: no layers", number(1).as_ref()),
        flag("layers", Kind::Names, "layers measured by themselves, named at that depth [all]", None),
        flag("images", IMAGES, "training images; 0: all", number(1000).as_ref()),
    ]))
}

/// # Errors
/// Usage: a wrong value. Unavailable: too little memory. Those of the checkpoint, its data and the study.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let written = ["hessian.svg", "layers.svg", ARRAYS, SHELVES[0], SHELVES[1], "hessian.csv", "hessian.json"];
    let mut options = Options::of(matches, &written)?;
    let number = |name: &str, kind: Kind, usual: u64| -> Result<usize> {
        let Kind::Count(least, most) = kind else { return Err(Error::internal(format!("--{name} is no number"))) };
        Ok(count(matches, name, least, most)?.unwrap_or(usual) as usize)
    };
    let (k, lanczos_steps) = (number("k", STEPS, 5)?, number("lanczos-steps", STEPS, 30)?);
    let (density_samples, trace_samples) =
        (number("density-samples", STEPS, 1)?, number("trace-samples", SAMPLES, 10)?);
    let (depth, images) = (number("depth", DEPTH, 1)?, number("images", IMAGES, 1000)?);
    let layers = match value(matches, "layers", Kind::Names)? {
        Some(Value::Names(names)) => names,
        _ => vec![],
    };
    if depth == 0 && !layers.is_empty() {
        return Err(Error::usage("--layers needs a --depth of at least 1"));
    }
    let mut operators = Operator::ALL.to_vec();
    operators.truncate(if matches.get_flag("gauss-newton") { 2 } else { 1 });

    let mut loaded = eval::load(&mut options.given)?;
    let training = loaded.images(&options.given)?;
    let named = if depth == 0 { vec![] } else { Layer::named(Layer::all(&loaded.graph, depth), &layers)? };
    let settings = hessian::Settings {
        operators,
        layers: [Layer::whole(&loaded.graph)].into_iter().chain(named).collect(),
        images: some_of(options.seed, images, &training.train),
        k,
        lanczos_steps,
        density_samples,
        trace_samples,
        seed: options.seed,
    };
    settings.check()?;
    settings.check_memory(room().as_ref())?;
    let about = about(&loaded, &training, &settings.images);
    let rows = options.given.recipe.eval_batch.min(settings.images.len());
    let (mut probe, source) =
        options.probe_with_targets(&loaded, &training, &settings.images, &[rows], settings.bytes())?;
    let mut meter = Meter::new(options.style);
    let weights = &loaded.vectors.weights;
    let identity = options.identity("hessian", &loaded, &source, &settings.to_json());
    let mut on_progress = |progress| show_progress(&mut meter, "products", progress);
    let mut journal = options.journal(&identity, settings.measurements(), &mut on_progress)?;
    let mut shelves = [Shelf::default(), Shelf::default()];
    if let Some(folder) = &options.out {
        shelves = [Shelf::open(&folder.join(SHELVES[0]))?, Shelf::open(&folder.join(SHELVES[1]))?];
    }
    let study = hessian::run(&mut probe, &loaded.graph, weights, settings, &mut journal, &mut shelves);
    meter.erase();
    let study = study?;
    if let Some(folder) = &options.out {
        npz::write(&folder.join(ARRAYS), &study.arrays(&loaded.graph)?)?;
    }
    let figures = study.figures(&source);
    let files: Vec<(&str, String)> = figures.into_iter().map(|(name, figure)| (name, figure.to_svg())).collect();
    options.write(&(about + &study.to_text()), &study.to_csv(), &study.to_json(&source), "hessian", &files)?;
    if let Some(folder) = &options.out {
        // Of no use any more; those that stay do no harm.
        SHELVES.iter().for_each(|name| _ = std::fs::remove_file(folder.join(name)));
    }
    Ok(())
}
