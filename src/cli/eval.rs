//! `samcore eval`.

use super::flags::{apply, flag, flag_like, path, switch, value};
use super::print;
use crate::data;
use crate::error::Result;
use crate::recipe::{Kind, Recipe, Value};
use crate::train::checkpoint::Checkpoint;
use crate::train::engine::{self, TEST};
use clap::{Arg, ArgMatches, Command, ValueHint};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

const SPLIT: Kind = Kind::Choice(&["test", "train"]);
const LABELS: Kind = Kind::Choice(&data::Labels::NAMES);

/// What the command line asks of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    pub checkpoint: PathBuf,
    /// Whether --data names the data set; else the checkpoint does.
    pub data_given: bool,
    /// Whether --labels says which labels of CIFAR-100; else the model's number of classes does.
    pub labels_given: bool,
    /// Its data, labels, eval_batch, threads and device count here.
    pub recipe: Recipe,
    /// Evaluate the training images instead of the test images.
    pub train_split: bool,
    pub json: bool,
}

pub fn build(command: Command) -> Command {
    let checkpoint = Arg::new("checkpoint").value_name("CHECKPOINT").value_parser(clap::value_parser!(PathBuf));
    let checkpoint = checkpoint.value_hint(ValueHint::FilePath);
    command.args([
        checkpoint.required(true).help("file that a run wrote, such as best.safetensors"),
        flag("data", Kind::Text, "data set, or a folder that holds one [that of the run]", None),
        flag("labels", LABELS, "which labels of CIFAR-100 [as many as the model has]", None),
        flag("split", SPLIT, "which images", Some(&Value::Text("test".into()))),
        flag_like("batch", "eval-batch"),
        flag_like("threads", "threads"),
        flag_like("device", "device"),
        flag_like("exact", "exact"),
        switch("json", "write the result as one JSON object"),
    ])
}

/// # Errors
/// Usage: a wrong value.
pub fn args(matches: &ArgMatches) -> Result<Args> {
    let mut recipe = Recipe::default();
    for name in ["data", "labels", "threads", "device", "exact"] {
        apply(matches, name, name, &mut recipe)?;
    }
    apply(matches, "batch", "eval-batch", &mut recipe)?;
    Ok(Args {
        checkpoint: path(matches, "checkpoint").unwrap_or_default(),
        data_given: matches.contains_id("data"),
        labels_given: matches.contains_id("labels"),
        recipe,
        train_split: value(matches, "split", SPLIT)? == Some(Value::Text("train".into())),
        json: matches.get_flag("json"),
    })
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let args = args(matches)?;
    let file = &args.checkpoint;
    let opened = Checkpoint::open(file)?;
    let of = opened.subject.clone();
    let mut recipe = args.recipe;
    if !args.data_given {
        recipe.data = of.data.clone();
    }
    let labels = |name: &str| if args.labels_given { Ok(recipe.labels) } else { data::labels_for(name, of.classes) };
    let data = labels(&recipe.data).and_then(|labels| data::load_as(&recipe.data, labels));
    let data = data.map_err(|e| match args.data_given {
        true => e,
        false => e.context(format!("the data of {}, unless --data gives others", file.display())),
    })?;
    let split = if args.train_split { &data.train } else { &data.test };
    let (graph, vectors) = engine::restore(&opened, file, &data, split)?;
    let device = engine::device(&mut recipe)?;
    let (mut exec, evaluator) = engine::evaluation_only(&graph, device, recipe.eval_batch, &vectors)?;
    exec.set_dataset(TEST, &split.bytes())?;
    exec.set_order(TEST, &(0..split.count as u32).collect::<Vec<u32>>())?;
    let begun = Instant::now();
    let scores = evaluator.run(&mut exec, TEST, split.count)?;
    let seconds = begun.elapsed().as_secs_f64();
    let which = if args.train_split { "train" } else { "test" };
    if args.json {
        let result = json!({
            "checkpoint": file.display().to_string(),
            "model": of.model,
            "step": opened.position.step,
            "data": data.name,
            "split": which,
            "images": split.count,
            "loss": scores.loss,
            "accuracy": scores.accuracy,
            "seconds": seconds,
        });
        return print(&format!("{result}\n"));
    }
    print(&format!(
        "{} after step {} on {} {which} images of {}: accuracy {:.2} %, loss {:.4} ({:.0} images/s)\n",
        of.model,
        opened.position.step,
        split.count,
        data.name,
        100.0 * scores.accuracy,
        scores.loss,
        split.count as f64 / seconds
    ))
}
