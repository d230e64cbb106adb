//! `samcore eval`.

use super::flags::{apply, flag, flag_like, path, switch, value};
use super::print;
use crate::data::{self, DataSet};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::graph::Graph;
use crate::output::{note, printable};
use crate::recipe::{Kind, Recipe, Value};
use crate::train::checkpoint::{Checkpoint, Subject, Vectors, Weights};
use crate::train::engine::{self, TEST};
use crate::train::measured::{CheckpointRun, Images, LabelsOf, Subset, Taken, Wanted};
use crate::train::run_folder::checkpoint_of;
use clap::{Arg, ArgMatches, Command, ValueHint};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

const SPLIT: Kind = Kind::Choice(&["test", "train", "val"]);
const SUBSET: Kind = Kind::Choice(&["run", "all"]);
const WEIGHTS: Kind = Kind::Choice(&["average", "raw"]);
/// Words for the labels of the images, and for those of CIFAR-100. No command needs one of each, because the model's number
/// of classes decides between fine and coarse.
const LABELS: Kind = Kind::Choice(&["run", "clean", "fine", "coarse"]);

/// The checkpoint of a command, its data, and its device.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub checkpoint: PathBuf,
    /// True if --data names the data set; else the checkpoint does.
    pub data_given: bool,
    /// The labels of CIFAR-100; None: as many as the model has classes.
    pub coarse: Option<data::Labels>,
    pub weights: Weights,
    /// The training images and labels that are asked for.
    pub wanted: Wanted,
    /// Its data, eval_batch, threads and device count here.
    pub recipe: Recipe,
}

/// The flags behind [`given`].
pub(super) fn flags() -> [Arg; 9] {
    let checkpoint = Arg::new("checkpoint").value_name("CHECKPOINT").value_parser(clap::value_parser!(PathBuf));
    let checkpoint = checkpoint.value_hint(ValueHint::FilePath);
    [
        checkpoint.required(true).help("file that a run wrote, or the run's folder, whose best.safetensors is taken"),
        flag("data", Kind::Text, "data set, or a folder that holds one [that of the run]", None),
        flag("weights", WEIGHTS, "which of a run's weights [average, where it made one]", None),
        flag("subset", SUBSET, "which training images [those of the run, where it is known]", None),
        flag("labels", LABELS, "training labels: the run's [run] or the right ones; or which of CIFAR-100", None),
        flag_like("batch", "eval-batch"),
        flag_like("threads", "threads"),
        flag_like("device", "device"),
        flag_like("exact", "exact"),
    ]
}

/// # Errors
/// Usage: a wrong value.
pub(super) fn given(matches: &ArgMatches) -> Result<Given> {
    let mut recipe = Recipe::default();
    for name in ["data", "threads", "device", "exact"] {
        apply(matches, name, name, &mut recipe)?;
    }
    apply(matches, "batch", "eval-batch", &mut recipe)?;
    let word = |name: &str, kind| {
        Ok(match value(matches, name, kind)? {
            Some(Value::Text(word)) => Some(word),
            _ => None,
        })
    };
    let labels = word("labels", LABELS)?.unwrap_or_default();
    let coarse = data::Labels::NAMES.iter().position(|name| *name == labels).map(|i| data::Labels::ALL[i]);
    let of = LabelsOf::NAMES.iter().find(|(name, _)| *name == labels).map(|(_, of)| *of);
    let subset = word("subset", SUBSET)?.map(|word| if word == "run" { Subset::Run } else { Subset::All });
    let named = path(matches, "checkpoint").unwrap_or_default();
    let checkpoint = checkpoint_of(&named)?;
    if checkpoint != named {
        note(&format!("taking {}", checkpoint.display()));
    }
    Ok(Given {
        checkpoint,
        data_given: matches.contains_id("data"),
        coarse,
        weights: match word("weights", WEIGHTS)?.as_deref() {
            Some("average") => Weights::Average,
            Some(_) => Weights::Raw,
            None => Weights::Evaluated,
        },
        wanted: Wanted { subset, labels: of },
        recipe,
    })
}

/// A checkpoint's model, and a data set that fits it.
pub(super) struct Loaded {
    pub of: Subject,
    /// Steps of training.
    pub step: u64,
    pub data: DataSet,
    pub graph: Graph,
    pub vectors: Vectors,
    pub run: CheckpointRun,
    pub taken: Taken,
    /// The data are those that the run trained on.
    own: bool,
}

impl Loaded {
    /// Gives the training images the labels that are asked for and returns which images these are.
    ///
    /// # Errors
    /// As for [`CheckpointRun::images`].
    pub fn images(&mut self, given: &Given) -> Result<Images> {
        self.run.images(&mut self.data, self.own, given.wanted)
    }
}

/// Checks whether two words for --data name the same set or folder.
fn same_data(one: &str, other: &str) -> bool {
    let whole = |name: &str| Path::new(name).canonicalize().ok();
    one == other || whole(one).is_some_and(|one| whole(other) == Some(one))
}

/// # Errors
/// NoInput, Data: the file or the data set is missing, damaged, or the one does not fit the other.
pub(super) fn load(given: &mut Given) -> Result<Loaded> {
    let Given { checkpoint: file, data_given, coarse, weights, recipe, .. } = given;
    let opened = Checkpoint::open(file)?;
    let of = opened.subject.clone();
    if !*data_given {
        recipe.data = of.data.clone();
    }
    let run = CheckpointRun::of(file, &opened);
    let taken = run.taken(&opened, *weights)?;
    let labels = |name: &str| coarse.map_or_else(|| data::labels_for(name, of.classes), Ok);
    let data = labels(&recipe.data).and_then(|labels| data::load_as(&recipe.data, labels));
    let data = data.map_err(|e| match *data_given {
        true => e,
        false => e.context(format!("the data of {}, unless --data gives others", file.display())),
    })?;
    // Both splits have images of one size.
    let (graph, vectors) = engine::restore(&opened, file, &data, &data.test, *weights)?;
    let own = !*data_given || same_data(&recipe.data, &of.data);
    Ok(Loaded { step: opened.position.step, of, data, graph, vectors, run, taken, own })
}

pub fn build(command: Command) -> Command {
    let [checkpoint, data, rest @ ..] = flags();
    let split =
        flag("split", SPLIT, "images to measure; val: those that the run held out", Some(&Value::Text("test".into())));
    command.args([checkpoint, data, split]).args(rest).arg(switch("json", "write the result as one JSON object"))
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let mut given = given(matches)?;
    let which = match value(matches, "split", SPLIT)? {
        Some(Value::Text(word)) => word,
        _ => "test".into(),
    };
    let mut loaded = load(&mut given)?;
    let mut images = None;
    let order: Vec<u32> = match which.as_str() {
        "test" => (0..loaded.data.test.count as u32).collect(),
        split => {
            let of = images.insert(loaded.images(&given)?);
            if split == "train" { of.train.clone() } else { held_out(of, &given.checkpoint)? }
        }
    };
    let Loaded { of, step, data, graph, vectors, taken, .. } = &loaded;
    let split = if images.is_some() { &data.train } else { &data.test };
    let device = engine::device(&mut given.recipe)?;
    let (mut exec, evaluator) = engine::evaluation_only(graph, device, ("--batch", given.recipe.eval_batch), vectors)?;
    exec.set_dataset(TEST, &split.bytes())?;
    exec.set_order(TEST, &order)?;
    let begun = Instant::now();
    let scores = evaluator.run(&mut exec, TEST, order.len())?;
    let seconds = begun.elapsed().as_secs_f64();
    if matches.get_flag("json") {
        let result = json!({
            "checkpoint": given.checkpoint.display().to_string(),
            "model": of.model,
            "step": step,
            "weights": taken.name(),
            "averaged_by": taken.by,
            "data": data.name,
            "split": which,
            "images": order.len(),
            "training_images": images.as_ref().map(|images| images.to_json(data, &order)),
            "loss": scores.loss,
            "accuracy": scores.accuracy,
            "seconds": seconds,
        });
        print(&format!("{result}\n"))?;
        return finite(&given, scores.loss);
    }
    let scored = format!(
        "{} after step {step} on {} {which} images of {}: accuracy {:.2} %, loss {:.4} ({:.0} images/s)",
        of.model,
        order.len(),
        data.name,
        100.0 * scores.accuracy,
        scores.loss,
        order.len() as f64 / seconds
    );
    let images = images.map(|images| images.sentence(data, &order, "images"));
    let lines = [Some(scored), taken.sentence(), images].into_iter().flatten();
    print(&lines.map(|line| format!("{}\n", printable(&line))).collect::<String>())?;
    finite(&given, scores.loss)
}

/// Checks that the loss is finite; JSON writes another one as null.
fn finite(given: &Given, loss: f64) -> Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    let message = format!("the loss of {} is not finite: its weights have diverged", given.checkpoint.display());
    Err(Error::new(ErrorKind::NotFinite, message))
}

/// The images that the run held out.
///
/// # Errors
/// Usage: it held none out, or is not known.
fn held_out(images: &Images, checkpoint: &Path) -> Result<Vec<u32>> {
    if images.held_out.is_empty() {
        let file = checkpoint.display();
        let why = match images.reason() {
            Some(reason) => reason.to_owned(),
            None => "it trained without --val-fraction".to_owned(),
        };
        return Err(Error::usage(format!(
            "--split val: the run of {file} held no images out, as far as is known: {why}"
        )));
    }
    Ok(images.held_out.clone())
}
