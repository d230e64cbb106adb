//! Layers by how their parameters' names begin: what `--freeze` and `--group-lr` name.

use crate::error::{Error, Result, nearest};
use crate::graph::Graph;

/// Returns true if a dotted name is `prefix` or is below it: "block1.conv" is below "block1", "block10" is not.
pub fn below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns the dotted names that `prefix`, which flag `flag` names, stands for: itself where the model of `graph` has
/// parameters below it, so that "layer1" is not "layer10"; otherwise every part of a name that begins with it, as "con" does
/// "conv1" and "conv2".
///
/// # Errors
/// Usage: there are none; the nearest name is suggested, or all are listed by how they begin.
pub fn named(graph: &Graph, flag: &str, prefix: &str) -> Result<Vec<String>> {
    let params = graph.params().list();
    if params.iter().any(|p| below(&p.name, prefix)) {
        return Ok(vec![prefix.to_owned()]);
    }
    let whole = |name: &str| {
        let rest = name.strip_prefix(prefix)?;
        let end = rest.find('.').unwrap_or(rest.len());
        Some(name[..prefix.len() + end].to_owned())
    };
    let mut begun: Vec<String> = params.iter().filter_map(|p| whole(&p.name)).collect();
    begun.dedup();
    if !begun.is_empty() {
        return Ok(begun);
    }
    let mut names: Vec<&str> = params.iter().filter_map(|p| p.name.split('.').next()).collect();
    names.dedup();
    let hint = match nearest(prefix, names.iter().copied()) {
        Some(name) => format!("did you mean '{name}'?"),
        None => format!("they begin with: {}", names.join(", ")),
    };
    Err(Error::usage(format!("--{flag} {prefix}: no parameter of the model has a name like that; {hint}")))
}

/// Returns the dotted names of the layers that --freeze names.
///
/// # Errors
/// As for [`named`].
pub fn frozen(graph: &Graph, prefixes: &[String]) -> Result<Vec<String>> {
    let names = prefixes.iter().map(|prefix| named(graph, "freeze", prefix)).collect::<Result<Vec<_>>>()?;
    Ok(names.concat())
}
