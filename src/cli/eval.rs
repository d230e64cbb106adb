//! `samcore eval`.

use super::flags::{apply, flag, flag_like, path, switch, value};
use super::print;
use crate::data::{self, DataSet};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::graph::Graph;
use crate::recipe::{Kind, Recipe, Value};
use crate::train::checkpoint::{Checkpoint, Subject, Vectors};
use crate::train::engine::{self, TEST};
use clap::{Arg, ArgMatches, Command, ValueHint};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

const SPLIT: Kind = Kind::Choice(&["test", "train"]);
const LABELS: Kind = Kind::Choice(&data::Labels::NAMES);

/// Which checkpoint a command is about, on which data, and where it computes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub checkpoint: PathBuf,
    /// Whether --data names the data set; else the checkpoint does.
    pub data_given: bool,
    /// Whether --labels says which labels of CIFAR-100; else the model's number of classes does.
    pub labels_given: bool,
    /// Its data, labels, eval_batch, threads and device count here.
    pub recipe: Recipe,
}

/// The flags behind [`given`].
pub(super) fn flags() -> [Arg; 7] {
    let checkpoint = Arg::new("checkpoint").value_name("CHECKPOINT").value_parser(clap::value_parser!(PathBuf));
    let checkpoint = checkpoint.value_hint(ValueHint::FilePath);
    [
        checkpoint.required(true).help("file that a run wrote, such as best.safetensors"),
        flag("data", Kind::Text, "data set, or a folder that holds one [that of the run]", None),
        flag("labels", LABELS, "which labels of CIFAR-100 [as many as the model has]", None),
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
    for name in ["data", "labels", "threads", "device", "exact"] {
        apply(matches, name, name, &mut recipe)?;
    }
    apply(matches, "batch", "eval-batch", &mut recipe)?;
    Ok(Given {
        checkpoint: path(matches, "checkpoint").unwrap_or_default(),
        data_given: matches.contains_id("data"),
        labels_given: matches.contains_id("labels"),
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
}

/// # Errors
/// NoInput, Data: the file or the data set is missing, damaged, or the one does not fit the other.
pub(super) fn load(given: &mut Given) -> Result<Loaded> {
    let Given { checkpoint: file, data_given, labels_given, recipe } = given;
    let opened = Checkpoint::open(file)?;
    let of = opened.subject.clone();
    if !*data_given {
        recipe.data = of.data.clone();
    }
    let labels = |name: &str| if *labels_given { Ok(recipe.labels) } else { data::labels_for(name, of.classes) };
    let data = labels(&recipe.data).and_then(|labels| data::load_as(&recipe.data, labels));
    let data = data.map_err(|e| match *data_given {
        true => e,
        false => e.context(format!("the data of {}, unless --data gives others", file.display())),
    })?;
    // Both splits have images of one size.
    let (graph, vectors) = engine::restore(&opened, file, &data, &data.test)?;
    Ok(Loaded { step: opened.position.step, of, data, graph, vectors })
}

pub fn build(command: Command) -> Command {
    let [checkpoint, data, labels, rest @ ..] = flags();
    let split = flag("split", SPLIT, "which images", Some(&Value::Text("test".into())));
    command
        .args([checkpoint, data, labels, split])
        .args(rest)
        .arg(switch("json", "write the result as one JSON object"))
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let mut given = given(matches)?;
    let train_split = value(matches, "split", SPLIT)? == Some(Value::Text("train".into()));
    let Loaded { of, step, data, graph, vectors } = load(&mut given)?;
    let split = if train_split { &data.train } else { &data.test };
    let device = engine::device(&mut given.recipe)?;
    let (mut exec, evaluator) =
        engine::evaluation_only(&graph, device, ("--batch", given.recipe.eval_batch), &vectors)?;
    exec.set_dataset(TEST, &split.bytes())?;
    exec.set_order(TEST, &(0..split.count as u32).collect::<Vec<u32>>())?;
    let begun = Instant::now();
    let scores = evaluator.run(&mut exec, TEST, split.count)?;
    let seconds = begun.elapsed().as_secs_f64();
    let which = if train_split { "train" } else { "test" };
    if matches.get_flag("json") {
        let result = json!({
            "checkpoint": given.checkpoint.display().to_string(),
            "model": of.model,
            "step": step,
            "data": data.name,
            "split": which,
            "images": split.count,
            "loss": scores.loss,
            "accuracy": scores.accuracy,
            "seconds": seconds,
        });
        print(&format!("{result}\n"))?;
        return finite(&given, scores.loss);
    }
    print(&format!(
        "{} after step {} on {} {which} images of {}: accuracy {:.2} %, loss {:.4} ({:.0} images/s)\n",
        of.model,
        step,
        split.count,
        data.name,
        100.0 * scores.accuracy,
        scores.loss,
        split.count as f64 / seconds
    ))?;
    finite(&given, scores.loss)
}

/// An error where the loss is not finite, which JSON writes as null.
fn finite(given: &Given, loss: f64) -> Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    let message = format!("the loss of {} is not finite: its weights have diverged", given.checkpoint.display());
    Err(Error::new(ErrorKind::NotFinite, message))
}
