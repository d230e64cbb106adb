//! `samcore study sharpness`.

use super::options::{Options, show_progress};
use super::{MOST, about, choice, grid, list, number, one_of, outputs, words};
use crate::cli::eval;
use crate::cli::flags::{count, flag};
use crate::cli::meter::Meter;
use crate::error::{Error, Result};
use crate::recipe::{Kind, Value};
use crate::study::sharpness::Scaled;
use crate::study::{sharpness, some_of};
use clap::{ArgMatches, Command};

const KIND: Kind = Kind::Choice(&["both", "plain", "adaptive"]);
const SCALED: Kind = Kind::Choice(&Scaled::NAMES);

const RHO: &str = "0.01,0.02,0.05,0.1,0.2";
const ADAPTIVE_RHO: &str = "0.1,0.2,0.5,1,2";
const M: &str = "8,32,128,512";

pub fn build(command: Command) -> Command {
    let choice = |name: &str| Some(Value::Text(name.into()));
    outputs(command.args(eval::flags()).args([
        flag("kind", KIND, "radius |e|, or |e/w| elementwise", choice("both").as_ref()),
        list("rho", "X,…", "radii of the plain kind", RHO),
        list("adaptive-rho", "X,…", "radii of the adaptive kind", ADAPTIVE_RHO),
        list("m", "N,…", "images in a group", M),
        flag("scaled", SCALED, "what the adaptive kind scales by |w|", choice("all").as_ref()),
        flag("steps", Kind::Count(1, 1000), "ascent steps", number(1).as_ref()),
        flag("images", Kind::Count(0, MOST), "training images; 0: all", number(2048).as_ref()),
    ]))
}

/// # Errors
/// Usage: a wrong value. Those of the checkpoint, its data and the study.
pub fn run(matches: &ArgMatches) -> Result<()> {
    use sharpness::Kind::{Adaptive, Plain};
    let mut options = Options::of(matches, &["sharpness.svg", "sharpness.csv", "sharpness.json"])?;
    let kind = choice(matches, "kind", KIND)?.unwrap_or_else(|| "both".into());
    let grids = [(Plain, grid(matches, "rho", RHO)?), (Adaptive, grid(matches, "adaptive-rho", ADAPTIVE_RHO)?)];
    let kinds = grids.into_iter().filter(|(own, _)| kind == "both" || kind == own.name()).collect();
    let sizes = words(matches, "m", M)?;
    let m = sizes.iter().map(|word| word.parse().ok().filter(|m| *m > 0)).collect::<Option<Vec<usize>>>();
    let Some(m) = m else {
        return Err(Error::usage(format!("--m must be whole numbers from 1, not '{}'", sizes.join(","))));
    };
    let steps = count(matches, "steps", 1, 1000)?.unwrap_or(1) as usize;
    let scaled = one_of(matches, "scaled", SCALED, &Scaled::NAMES, &Scaled::ALL)?;
    let images = count(matches, "images", 0, MOST)?.unwrap_or(2048) as usize;

    let mut loaded = eval::load(&mut options.given)?;
    let training = loaded.images(&options.given)?;
    let images = some_of(options.seed, images, &training.train);
    let about = about(&loaded, &training, &images);
    let settings = sharpness::Settings { kinds, m, images, steps, scaled };
    settings.check()?;
    // Groups of up to a batch are taken at once, larger ones in batches.
    let most = options.given.recipe.eval_batch;
    let rows: Vec<usize> = settings.m.iter().map(|m| *m.min(&most)).chain([most.min(settings.images.len())]).collect();
    let (mut probe, source) = options.probe(&loaded, &training, &settings.images, &rows, 0)?;
    let mut meter = Meter::new(options.style);
    let weights = &loaded.vectors.weights;
    let identity = options.identity("sharpness", &loaded, &source, &settings.to_json());
    let mut on_progress = |progress| show_progress(&mut meter, "groups", progress);
    let mut journal = options.journal(&identity, settings.measurements(), &mut on_progress)?;
    let study = sharpness::run(&mut probe, &loaded.graph, weights, settings, &mut journal);
    meter.erase();
    let study = study?;
    let files = [("sharpness.svg", study.curves(&source).to_svg())];
    options.write(&(about + &study.to_text()), &study.to_csv(), &study.to_json(&source), "sharpness", &files)
}
