//! `samcore check`.

use super::flags::{apply, flag, flag_like, switch, text};
use crate::error::{Error, Result};
use crate::recipe::{Kind, Recipe};
use clap::{Arg, ArgMatches, Command};

/// What the command line asks to be checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    /// Operations or models; empty: all.
    pub names: Vec<String>,
    /// A model whose gradients are to be checked as a whole.
    pub model: Option<String>,
    /// Its seed, threads and device count here.
    pub recipe: Recipe,
    pub json: bool,
    /// Only list the names there are.
    pub list: bool,
}

pub fn build(command: Command) -> Command {
    command.args([
        Arg::new("names").value_name("NAME").num_args(0..).help("operations or models [all]"),
        flag("model", Kind::Text, "check this model as a whole", None),
        flag_like("seed", "seed"),
        flag_like("threads", "threads"),
        switch("json", "write the result as one JSON object"),
        switch("list", "list the names there are"),
    ])
}

/// # Errors
/// Usage: a wrong value.
pub fn args(matches: &ArgMatches) -> Result<Args> {
    let mut recipe = Recipe::default();
    for name in ["seed", "threads"] {
        apply(matches, name, name, &mut recipe)?;
    }
    let names = matches.get_many::<String>("names").map(|names| names.cloned().collect()).unwrap_or_default();
    let (json, list) = (matches.get_flag("json"), matches.get_flag("list"));
    Ok(Args { names, model: text(matches, "model"), recipe, json, list })
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    args(matches)?;
    Err(Error::internal("check is not built yet"))
}
