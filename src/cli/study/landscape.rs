//! `samcore study landscape`.

use super::options::{Options, show_progress};
use super::{MOST, about, number, outputs, second};
use crate::cli::eval;
use crate::cli::flags::{count, flag, path, path_flag, value};
use crate::cli::meter::Meter;
use crate::error::Result;
use crate::npz;
use crate::recipe::{Kind, Value};
use crate::study::landscape::{self, Settings, Study};
use crate::study::some_of;
use clap::{ArgMatches, Command};
use std::ops::Bound::{Excluded, Included};

const DIM: Kind = Kind::Count(1, 2);
const POINTS: Kind = Kind::Count(3, 1001);
const RANGE: Kind = Kind::Number(Excluded(0.0), Included(1000.0));
/// Values for NumPy, in the folder of --out.
const ARRAYS: &str = "landscape.npz";

pub fn build(command: Command) -> Command {
    outputs(command.args(eval::flags()).args([
        path_flag("beside", "CHECKPOINT", "a second checkpoint of the same model, measured along the same draws"),
        flag("dim", DIM, "1: along a line, 2: over a plane", number(2).as_ref()),
        flag("points", POINTS, "points along each axis, an odd number [25; --dim 1: 51]", None),
        flag("range", RANGE, "end of the axes, in lengths of the directions", Some(&Value::Number(1.0))),
        flag("images", Kind::Count(0, MOST), "training images; 0: all", number(2000).as_ref()),
    ]))
}

/// # Errors
/// Usage: a wrong value. Data: the two checkpoints are of different models. Those of the checkpoints, their data and the study.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let mut options = Options::of(matches, &["landscape.svg", ARRAYS, "landscape.csv", "landscape.json"])?;
    let dim = count(matches, "dim", 1, 2)?.unwrap_or(2) as usize;
    let points = count(matches, "points", 3, 1001)?.unwrap_or(if dim == 1 { 51 } else { 25 }) as usize;
    let range = match value(matches, "range", RANGE)? {
        Some(Value::Number(range)) => range,
        _ => 1.0,
    };
    let images = count(matches, "images", 0, MOST)?.unwrap_or(2000) as usize;

    let mut loaded = eval::load(&mut options.given)?;
    let training = loaded.images(&options.given)?;
    let images = some_of(options.seed, images, &training.train);
    let about = about(&loaded, &training, &images);
    let settings = Settings { dim, points, range, images, seed: options.seed };
    settings.check()?;
    let rows = options.given.recipe.eval_batch.min(settings.images.len());
    let weights = &loaded.vectors.weights;
    // The point's own weights and the directions.
    let host = 4 * weights.len() * (2 + dim);

    let other = match path(matches, "beside") {
        Some(file) => Some(second::load("--beside", &file, &options.given, &loaded)?),
        None => None,
    };
    let (mut probe, source) = options.probe(&loaded, &training, &settings.images, &[rows], host)?;
    let mut identity = options.identity("landscape", &loaded, &source, &settings.to_json());
    if let Some((_, second)) = &other {
        identity["beside"] = second::identity(second);
    }
    let total = settings.measurements() * (1 + usize::from(other.is_some()));
    let mut meter = Meter::new(options.style);
    let mut on_progress = |progress| show_progress(&mut meter, "points", progress);
    let mut journal = options.journal(&identity, total, &mut on_progress)?;
    let measured = landscape::run(&mut probe, &loaded.graph, weights, &settings, "0", &mut journal);
    let measured = measured.and_then(|first| {
        let mut surfaces = vec![(source, first)];
        if let Some((given, second)) = &other {
            // The probe's programs, images and batches serve both: the models are the same.
            probe.set_running(&second.vectors.running)?;
            let surface =
                landscape::run(&mut probe, &second.graph, &second.vectors.weights, &settings, "1", &mut journal)?;
            let source = second::source(&surfaces[0].0, given, second);
            surfaces.push((source, surface));
        }
        Ok(surfaces)
    });
    meter.erase();
    let study = Study { settings, surfaces: measured? };
    if let Some(folder) = &options.out {
        npz::write(&folder.join(ARRAYS), &study.arrays()?)?;
    }
    let figures = study.figures();
    options.write(&(about + &study.to_text()), &study.to_csv(), &study.to_json(), "landscape", &figures)
}
