//! `samcore study corrupt`.

use super::options::{Options, show_progress};
use super::{MOST, about, choice, grid, list, number, one_of, outputs, words};
use crate::cli::eval;
use crate::cli::flags::{count, flag, value};
use crate::cli::meter::Meter;
use crate::error::{Error, Result};
use crate::optim::Norm;
use crate::recipe::{Kind, Value};
use crate::study::{Draw, Entries, Layer, corrupt, some_images, some_of};
use clap::{ArgMatches, Command};

const NORM: Kind = Kind::Choice(&["both", "2", "inf"]);
const DRAW: Kind = Kind::Choice(&Draw::NAMES);

// Grids that span "costs nothing" to "costs all" for `cnn` on Fashion-MNIST.
const EPS: &str = "0.03,0.1,0.3,1,3,10,30,100";
const EPS_INF: &str = "0.0003,0.001,0.003,0.01,0.03,0.1,0.3,1";
const ENTRIES: &str = "all,1%,100";

pub fn build(command: Command) -> Command {
    let images = Kind::Count(0, MOST);
    let choice = |name: &str| Some(Value::Text(name.into()));
    outputs(command.args(eval::flags()).args([
        flag("norm", NORM, "norm of the corruption, |a|_p = eps", choice("both").as_ref()),
        list("eps", "X,…", "sizes for p = 2", EPS),
        list("eps-inf", "X,…", "sizes for p = inf", EPS_INF),
        list("n", "N,…", "largest numbers of parameters changed, shares rounded up; the map uses the first", ENTRIES),
        flag("seeds", Kind::Count(0, 1000), "random corruptions of each size", number(3).as_ref()),
        flag("random", DRAW, "distribution of a random corruption's entries", choice("normal").as_ref()),
        flag("depth", Kind::Count(0, 100), "parts of a name that identify a layer; 0: no map", number(1).as_ref()),
        flag("layers", Kind::Names, "layers in the map, named at that depth [all]", None),
        flag("images", images, "training images for the gradient; 0: all", number(5000).as_ref()),
        flag("test-images", images, "test images measured; 0: all", number(2000).as_ref()),
    ]))
}

/// # Errors
/// Usage: a wrong value. Those of the checkpoint, its data and the study.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let mut options = Options::of(matches, &["layers.svg", "corrupt.svg", "corrupt.csv", "corrupt.json"])?;
    let norm = choice(matches, "norm", NORM)?.unwrap_or_else(|| "both".into());
    let grids = [(Norm::Two, grid(matches, "eps", EPS)?), (Norm::Infinity, grid(matches, "eps-inf", EPS_INF)?)];
    let named = |(_, name): &((Norm, Vec<f64>), &str)| norm == "both" || norm == *name;
    let norms = grids.into_iter().zip(Norm::NAMES).filter(named).map(|(grid, _)| grid).collect();
    let entries = words(matches, "n", ENTRIES)?;
    let entries = entries.iter().map(|word| Entries::parse(word)).collect::<Result<Vec<_>>>();
    let entries = entries.map_err(|e| Error::usage(format!("--n {e}")))?;
    let seeds = count(matches, "seeds", 0, 1000)?.unwrap_or(3);
    let draw = one_of(matches, "random", DRAW, &Draw::NAMES, &Draw::ALL)?;
    let depth = count(matches, "depth", 0, 100)?.unwrap_or(1) as usize;
    let layers = match value(matches, "layers", Kind::Names)? {
        Some(Value::Names(names)) => names,
        _ => vec![],
    };
    if depth == 0 && !layers.is_empty() {
        return Err(Error::usage("--layers needs a --depth of at least 1"));
    }
    let images = count(matches, "images", 0, MOST)?.unwrap_or(5000) as usize;
    let test_images = count(matches, "test-images", 0, MOST)?.unwrap_or(2000) as usize;

    let mut loaded = eval::load(&mut options.given)?;
    let training = loaded.images(&options.given)?;
    let layers = if depth == 0 { vec![] } else { Layer::named(Layer::all(&loaded.graph, depth), &layers)? };
    let settings = corrupt::Settings {
        norms,
        entries,
        seeds: (0..seeds).map(|i| options.seed.wrapping_add(i)).collect(),
        draw,
        layers,
        gradient_images: some_of(options.seed, images, &training.train),
        test_images: some_images(options.seed, test_images, loaded.data.test.count),
    };
    let about = about(&loaded, &training, &settings.gradient_images);
    let rows = options.given.recipe.eval_batch;
    let (mut probe, source) = options.probe(&loaded, &training, &settings.gradient_images, &[rows], 0)?;
    let mut meter = Meter::new(options.style);
    let weights = &loaded.vectors.weights;
    let identity = options.identity("corrupt", &loaded, &source, &settings.to_json());
    let mut on_progress = |progress| show_progress(&mut meter, "corruptions", progress);
    let mut journal = options.journal(&identity, settings.measurements(), &mut on_progress)?;
    let study = corrupt::run(&mut probe, &loaded.graph, weights, settings, &mut journal);
    meter.erase();
    let study = study?;
    let mut files = vec![("corrupt.svg", study.curves(&source).to_svg())];
    files.extend(study.map(&source).map(|map| ("layers.svg", map.to_svg())));
    options.write(&(about + &study.to_text()), &study.to_csv(), &study.to_json(&source), "corrupt", &files)
}
