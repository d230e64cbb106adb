//! `samcore study interpolate`.

use super::options::{Options, show_progress};
use super::{MOST, about, number, outputs, second};
use crate::cli::eval;
use crate::cli::flags::{count, flag, path};
use crate::cli::meter::Meter;
use crate::error::Result;
use crate::npz;
use crate::recipe::Kind;
use crate::study::interpolate::{self, End, Settings, Statistics, Study};
use crate::study::{some_images, some_of};
use crate::train::engine;
use clap::{Arg, ArgMatches, Command, ValueHint};
use std::path::PathBuf;

const POINTS: Kind = Kind::Count(2, 1001);
/// Values for NumPy, in the folder of --out.
const ARRAYS: &str = "interpolate.npz";

pub fn build(command: Command) -> Command {
    let other = Arg::new("to").value_name("CHECKPOINT").value_parser(clap::value_parser!(PathBuf)).required(true);
    let images = Kind::Count(0, MOST);
    outputs(command.args(eval::flags()).args([
        other.value_hint(ValueHint::FilePath).help("the model at the other end, of the same architecture"),
        flag("points", POINTS, "points on the line, the ends included", number(21).as_ref()),
        flag("images", images, "training images; 0: all", number(2000).as_ref()),
        flag("test-images", images, "test images; 0: all", number(2000).as_ref()),
    ]))
}

/// # Errors
/// Usage: a wrong value. Data: the two checkpoints are of different models. Those of the checkpoints, their data and the study.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let mut options = Options::of(matches, &["interpolate.svg", ARRAYS, "interpolate.csv", "interpolate.json"])?;
    let points = count(matches, "points", 2, 1001)?.unwrap_or(21) as usize;
    let images = count(matches, "images", 0, MOST)?.unwrap_or(2000) as usize;
    let test_images = count(matches, "test-images", 0, MOST)?.unwrap_or(2000) as usize;

    let mut loaded = eval::load(&mut options.given)?;
    let training = loaded.images(&options.given)?;
    let images = some_of(options.seed, images, &training.train);
    let about = about(&loaded, &training, &images);
    let test_images = some_images(options.seed, test_images, loaded.data.test.count);
    let settings = Settings { points, images, test_images };
    let file = path(matches, "to").unwrap_or_default();
    let (given, other) = second::load("the other end,", &file, &options.given, &loaded)?;

    let most = options.given.recipe.eval_batch;
    let rows = [most.min(settings.images.len()), most.min(settings.test_images.len())];
    // The point's own weights, beside those of the ends.
    let host = 4 * loaded.vectors.weights.len() * 2;
    let (mut probe, source) = options.probe(&loaded, &training, &settings.images, &rows, host)?;
    let mut statistics = None;
    if !loaded.vectors.running.is_empty() {
        let device = engine::device(&mut options.given.recipe)?;
        statistics = Some(Statistics::new(&loaded.graph, device, rows[0], &loaded.data.train)?);
    }
    let mut identity = options.identity("interpolate", &loaded, &source, &settings.to_json());
    identity["other_end"] = second::identity(&other);
    // The statistics that are estimated are means over whole batches.
    identity["batch"] = rows[0].into();
    let total = settings.points * if statistics.is_some() { 2 } else { 1 };
    let mut meter = Meter::new(options.style);
    let mut on_progress = |progress| show_progress(&mut meter, "points", progress);
    let mut journal = options.journal(&identity, total, &mut on_progress)?;
    let ends = [&loaded, &other].map(|l| End { weights: &l.vectors.weights, running: &l.vectors.running });
    let lines = interpolate::run(&mut probe, ends, &settings, &mut statistics, &mut journal);
    meter.erase();
    let lines = lines?;
    let between = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    let distance = ends[0].weights.iter().zip(ends[1].weights).map(between).sum::<f64>().sqrt();
    let to = second::source(&source, &given, &other);
    let study = Study { settings, ends: [source, to], distance, lines };
    if let Some(folder) = &options.out {
        npz::write(&folder.join(ARRAYS), &study.arrays()?)?;
    }
    let files = [("interpolate.svg", study.figure().to_svg())];
    options.write(&(about + &study.to_text()), &study.to_csv(), &study.to_json(), "interpolate", &files)
}
