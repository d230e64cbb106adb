//! `samcore study`.

use super::bench::check_place;
use super::eval::{self, Given, Loaded};
use super::flags::{count, flag, flag_like, path, path_flag, switch, value};
use super::meter::Meter;
use super::{Subcommand, run_action, subcommands};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::files::{self, write_atomic};
use crate::optim::Norm;
use crate::output::{printable, show};
use crate::recipe::{Kind, Value};
use crate::study::sharpness::Scaled;
use crate::study::{Draw, Entries, Layer, Probe, Source, corrupt, sharpness, some_images, some_of};
use crate::train::engine::{self, TEST, TRAIN};
use crate::train::measured::Images;
use crate::train::progress::Style;
use clap::{ArgMatches, Command};
use std::path::{Path, PathBuf};

/// The actions of `samcore study`, in the order of its help text.
pub const ACTIONS: &[Subcommand] = &[
    Subcommand {
        name: "corrupt",
        about: "Measure how much accuracy corrupted parameters cost",
        build: build_corrupt,
        run: run_corrupt,
    },
    Subcommand {
        name: "sharpness",
        about: "Measure by how much the loss grows around the trained weights",
        build: build_sharpness,
        run: run_sharpness,
    },
];

const NORM: Kind = Kind::Choice(&["both", "2", "inf"]);
const DRAW: Kind = Kind::Choice(&Draw::NAMES);
const KIND: Kind = Kind::Choice(&["both", "plain", "adaptive"]);
const SCALED: Kind = Kind::Choice(&Scaled::NAMES);
/// Most images, seeds and the like that a flag takes.
const MOST: u64 = 1 << 32;

// Grids that span "costs nothing" to "costs all" for `cnn` on Fashion-MNIST.
const EPS: &str = "0.03,0.1,0.3,1,3,10,30,100";
const EPS_INF: &str = "0.0003,0.001,0.003,0.01,0.03,0.1,0.3,1";
const ENTRIES: &str = "all,1%,100";
const RHO: &str = "0.01,0.02,0.05,0.1,0.2";
const ADAPTIVE_RHO: &str = "0.1,0.2,0.5,1,2";
const M: &str = "8,32,128,512";

pub fn build(command: Command) -> Command {
    command.subcommands(subcommands(ACTIONS))
}

/// # Errors
/// Usage: no action is named; those of the action.
pub fn run(matches: &ArgMatches) -> Result<()> {
    run_action("study", ACTIONS, matches)
}

fn listed(default: &str) -> Value {
    Value::Names(default.split(',').map(str::to_owned).collect())
}

/// A flag that takes several values with commas between them.
fn list(name: &'static str, placeholder: &'static str, help: &str, default: &str) -> clap::Arg {
    flag(name, Kind::Names, help, Some(&listed(default))).value_name(placeholder).allow_negative_numbers(true)
}

fn number(default: u64) -> Option<Value> {
    Some(Value::Count(default))
}

/// The flags behind every action.
fn outputs(command: Command) -> Command {
    command.args([
        flag_like("seed", "seed"),
        path_flag("csv", "FILE", "write every measured point as CSV too"),
        path_flag("out", "DIR", "write CSV, JSON and figures to files in DIR"),
        switch("json", "write the result as one JSON object"),
        switch("quiet", "show no progress"),
    ])
}

fn build_corrupt(command: Command) -> Command {
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

fn build_sharpness(command: Command) -> Command {
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

/// The words of a list flag, or of its default.
///
/// # Errors
/// Usage: an empty word.
fn words(matches: &ArgMatches, name: &str, default: &str) -> Result<Vec<String>> {
    match value(matches, name, Kind::Names)?.unwrap_or_else(|| listed(default)) {
        Value::Names(words) if !words.is_empty() => Ok(words),
        _ => Err(Error::usage(format!("--{name} must have at least one value"))),
    }
}

/// A grid of radii: ascending, none below 0.
///
/// # Errors
/// Usage: it is none.
fn grid(matches: &ArgMatches, name: &str, default: &str) -> Result<Vec<f64>> {
    let words = words(matches, name, default)?;
    let read = |word: &String| word.parse::<f64>().ok().filter(|x| *x >= 0.0 && (*x as f32).is_finite());
    let grid = words.iter().map(read).collect::<Option<Vec<f64>>>();
    grid.filter(|grid| grid.windows(2).all(|pair| pair[0] < pair[1])).ok_or_else(|| {
        Error::usage(format!("--{name} must be ascending numbers of at least 0, not '{}'", words.join(",")))
    })
}

fn choice(matches: &ArgMatches, name: &str, kind: Kind) -> Result<Option<String>> {
    Ok(match value(matches, name, kind)? {
        Some(Value::Text(word)) => Some(word),
        _ => None,
    })
}

/// Returns the one of `all` that the flag names; the first where it is not given.
fn one_of<T: Copy + Default>(matches: &ArgMatches, name: &str, kind: Kind, names: &[&str], all: &[T]) -> Result<T> {
    let word = choice(matches, name, kind)?;
    let found = word.and_then(|word| names.iter().position(|n| *n == word));
    Ok(found.map_or_else(T::default, |i| all[i]))
}

/// Options that the actions share: sources, outputs, progress.
struct Order {
    given: Given,
    seed: u64,
    csv: Option<PathBuf>,
    out: Option<PathBuf>,
    json: bool,
    style: Style,
}

impl Order {
    /// Reads the flags of an action that writes `files` to the folder of --out.
    ///
    /// # Errors
    /// Usage: a wrong value. CantCreate: nothing can be written there.
    fn of(matches: &ArgMatches, files: &[&str]) -> Result<Order> {
        let (csv, out) = (path(matches, "csv"), path(matches, "out"));
        if let Some(file) = &csv {
            check_place("--csv", file)?;
        }
        if let Some(folder) = &out {
            check_folder(folder, files)?;
        }
        let seed = count(matches, "seed", 0, u64::MAX)?.unwrap_or(0);
        let (json, style) = (matches.get_flag("json"), Style::detect(matches.get_flag("quiet")));
        Ok(Order { given: eval::given(matches)?, seed, csv, out, json, style })
    }

    /// The model on its device with both halves of its data; and what it is, for results. `measured` are the training
    /// images that are measured, of `images`.
    fn probe(&mut self, loaded: &Loaded, images: &Images, measured: &[u32], rows: &[usize]) -> Result<(Probe, Source)> {
        let device = engine::device(&mut self.given.recipe)?;
        let source = Source {
            checkpoint: self.given.checkpoint.display().to_string(),
            model: loaded.of.model.clone(),
            data: loaded.data.name.clone(),
            step: loaded.step,
            classes: loaded.of.classes,
            weights: loaded.taken.name(),
            training_images: images.to_json(&loaded.data, measured),
            device: device.describe(),
        };
        let mut probe = Probe::new(&loaded.graph, device, rows, &loaded.vectors)?;
        probe.set_dataset(TRAIN, &loaded.data.train)?;
        probe.set_dataset(TEST, &loaded.data.test)?;
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("create folder", folder, &e))?;
        }
        Ok((probe, source))
    }

    /// Writes the result wherever it was asked for; `figures` are those of --out. In that folder the JSON comes last, once all
    /// else was written: without it the study is unfinished, see [`check_folder`].
    fn write(
        &self,
        text: &str,
        csv: &str,
        json: &serde_json::Value,
        name: &str,
        figures: &[(&str, String)],
    ) -> Result<()> {
        // A place that cannot be written costs no other its result, which took minutes; the first is reported at the end.
        let csv_file = self.csv.as_ref().map_or(Ok(()), |file| write_atomic(file, csv.as_bytes()));
        let folder = self.out.as_ref().map_or(Ok(()), |folder| {
            let mut written = write_atomic(&folder.join(format!("{name}.csv")), csv.as_bytes());
            for (name, content) in figures {
                written = written.and(write_atomic(&folder.join(name), content.as_bytes()));
            }
            written?;
            let last = folder.join(format!("{name}.json"));
            // A file in place that may not outlive a power cut counts as not written.
            write_atomic(&last, format!("{json:#}\n").as_bytes()).inspect_err(|_| _ = std::fs::remove_file(&last))
        });
        show(&if self.json { format!("{json}\n") } else { text.to_owned() });
        csv_file.and(folder)
    }
}

/// Checks that results can go to this folder: it does not exist yet, is empty, or holds only what an unfinished study of this
/// kind wrote, which is all of `files` but the last.
///
/// # Errors
/// CantCreate: it holds something else, or is no folder.
fn check_folder(folder: &Path, files: &[&str]) -> Result<()> {
    let refuse = |what: &str| {
        let message = format!("--out: {} {what}; give another folder", folder.display());
        Err(Error::new(ErrorKind::CantCreate, message))
    };
    let unfinished = &files[..files.len() - 1];
    match files::read_dir(folder) {
        Ok(mut entries) => {
            let stranger = |name: std::ffi::OsString| unfinished.iter().all(|file| name != **file);
            let other = entries.any(|entry| entry.map_or(true, |entry| stranger(entry.file_name())));
            if other { refuse("is not empty") } else { Ok(()) }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => refuse(&format!("cannot be used: {e}")),
    }
}

fn run_corrupt(matches: &ArgMatches) -> Result<()> {
    let mut order = Order::of(matches, &["layers.svg", "corrupt.svg", "corrupt.csv", "corrupt.json"])?;
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

    let mut loaded = eval::load(&mut order.given)?;
    let training = loaded.images(&order.given)?;
    let layers = if depth == 0 { vec![] } else { Layer::named(Layer::all(&loaded.graph, depth), &layers)? };
    let settings = corrupt::Settings {
        norms,
        entries,
        seeds: (0..seeds).map(|i| order.seed.wrapping_add(i)).collect(),
        draw,
        layers,
        gradient_images: some_of(order.seed, images, &training.train),
        test_images: some_images(order.seed, test_images, loaded.data.test.count),
    };
    let about = about(&loaded, &training, &settings.gradient_images);
    let rows = order.given.recipe.eval_batch;
    let (mut probe, source) = order.probe(&loaded, &training, &settings.gradient_images, &[rows])?;
    let mut meter = Meter::new(order.style);
    let weights = &loaded.vectors.weights;
    let study = corrupt::run(&mut probe, &loaded.graph, weights, settings, &mut |done, total| {
        show_count(&mut meter, "corruptions", done, total);
    });
    meter.erase();
    let study = study?;
    let mut files = vec![("corrupt.svg", study.curves(&source).to_svg())];
    files.extend(study.map(&source).map(|map| ("layers.svg", map.to_svg())));
    order.write(&(about + &study.to_text()), &study.to_csv(), &study.to_json(&source), "corrupt", &files)
}

fn run_sharpness(matches: &ArgMatches) -> Result<()> {
    use sharpness::Kind::{Adaptive, Plain};
    let mut order = Order::of(matches, &["sharpness.svg", "sharpness.csv", "sharpness.json"])?;
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

    let mut loaded = eval::load(&mut order.given)?;
    let training = loaded.images(&order.given)?;
    let images = some_of(order.seed, images, &training.train);
    let about = about(&loaded, &training, &images);
    let settings = sharpness::Settings { kinds, m, images, steps, scaled };
    settings.check()?;
    // Groups of up to a batch are taken at once, larger ones in batches.
    let most = order.given.recipe.eval_batch;
    let rows: Vec<usize> = settings.m.iter().map(|m| *m.min(&most)).chain([most.min(settings.images.len())]).collect();
    let (mut probe, source) = order.probe(&loaded, &training, &settings.images, &rows)?;
    let mut meter = Meter::new(order.style);
    let weights = &loaded.vectors.weights;
    let study = sharpness::run(&mut probe, &loaded.graph, weights, settings, &mut |done, total| {
        show_count(&mut meter, "groups", done, total);
    });
    meter.erase();
    let study = study?;
    let files = [("sharpness.svg", study.curves(&source).to_svg())];
    order.write(&(about + &study.to_text()), &study.to_csv(), &study.to_json(&source), "sharpness", &files)
}

/// The lines above the tables: which weights, and which training images with which labels.
fn about(loaded: &Loaded, images: &Images, measured: &[u32]) -> String {
    let weights = loaded.taken.sentence().map_or_else(String::new, |line| line + "\n");
    format!("{weights}{}\n", printable(&images.sentence(&loaded.data, measured, "training images")))
}

/// Shows how many measurements are done, once in a while.
fn show_count(meter: &mut Meter, what: &str, done: usize, total: usize) {
    if meter.is_due() {
        let left = meter.seconds() / done as f64 * (total - done) as f64;
        meter.show(&format!("{done} of {total} {what}, {left:.0} s left"));
    }
}
