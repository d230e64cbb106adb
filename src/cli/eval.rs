//! `samcore eval`.

use super::flags::{apply, flag, flag_like, path, switch, value};
use crate::error::{Error, Result};
use crate::recipe::{Kind, Recipe, Value};
use clap::{Arg, ArgMatches, Command};
use std::path::PathBuf;

const SPLIT: Kind = Kind::Choice(&["test", "train"]);

/// What the command line asks of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    pub checkpoint: PathBuf,
    /// Whether --data names the data set; else the checkpoint does.
    pub data_given: bool,
    /// Its data, eval_batch, threads and device count here.
    pub recipe: Recipe,
    /// Evaluate the training images instead of the test images.
    pub train_split: bool,
    pub json: bool,
}

pub fn build(command: Command) -> Command {
    let checkpoint = Arg::new("checkpoint").value_name("CHECKPOINT").value_parser(clap::value_parser!(PathBuf));
    command.args([
        checkpoint.required(true).help("file that a run wrote, such as best.safetensors"),
        flag("data", Kind::Text, "data set, or a folder that holds one [that of the run]", None),
        flag("split", SPLIT, "which images", Some(&Value::Text("test".into()))),
        flag_like("batch", "eval-batch"),
        flag_like("threads", "threads"),
        flag_like("device", "device"),
        switch("json", "write the result as one JSON object"),
    ])
}

/// # Errors
/// Usage: a wrong value.
pub fn args(matches: &ArgMatches) -> Result<Args> {
    let mut recipe = Recipe::default();
    for (name, like) in [("data", "data"), ("batch", "eval-batch"), ("threads", "threads"), ("device", "device")] {
        apply(matches, name, like, &mut recipe)?;
    }
    Ok(Args {
        checkpoint: path(matches, "checkpoint").unwrap_or_default(),
        data_given: matches.contains_id("data"),
        recipe,
        train_split: value(matches, "split", SPLIT)? == Some(Value::Text("train".into())),
        json: matches.get_flag("json"),
    })
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    args(matches)?;
    Err(Error::internal("eval is not built yet"))
}
