//! Layers by how their parameters' names begin: what `--freeze` and `--group-lr` name.

use crate::error::{Error, Result, nearest};
use crate::graph::Graph;

/// Whether a dotted name is `prefix` or stands below it: "block1.conv" below "block1", "block10" not.
pub fn below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Checks that the model of `graph` has parameters below `prefix`, which flag `flag` names.
///
/// # Errors
/// Usage: it has none; the nearest name is suggested, or all are listed by how they begin.
pub fn check_known(graph: &Graph, flag: &str, prefix: &str) -> Result<()> {
    let params = graph.params().list();
    if params.iter().any(|p| below(&p.name, prefix)) {
        return Ok(());
    }
    let mut names: Vec<&str> = params.iter().filter_map(|p| p.name.split('.').next()).collect();
    names.dedup();
    let hint = match nearest(prefix, names.iter().copied()) {
        Some(name) => format!("did you mean '{name}'?"),
        None => format!("they begin with: {}", names.join(", ")),
    };
    Err(Error::usage(format!("--{flag} {prefix}: no parameter of the model has a name like that; {hint}")))
}
