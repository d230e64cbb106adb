//! A second checkpoint of the same model, for studies of two.

use crate::cli::eval::{self, Given, Loaded};
use crate::error::{Error, Result};
use crate::files::sha256_hex;
use crate::study::Source;
use crate::train::run_folder::checkpoint_of;
use serde_json::{Value, json};
use std::path::Path;

/// Loads the checkpoint `file`, which `what` names, on the data of the first one.
///
/// # Errors
/// Those of the checkpoint. Data: it is of another model.
pub fn load(what: &str, file: &Path, first: &Given, of: &Loaded) -> Result<(Given, Loaded)> {
    let mut given = Given { checkpoint: checkpoint_of(file)?, data_given: true, ..first.clone() };
    let second = eval::load(&mut given)?;
    let [a, b] = [&of.graph, &second.graph].map(|graph| graph.params().list());
    let differs = a.iter().zip(b).find(|(a, b)| a.name != b.name || a.shape != b.shape);
    let difference = match (differs, a.len() == b.len()) {
        (None, true) => return Ok((given, second)),
        (Some((a, b)), _) => format!("{} {:?} there, {} {:?} here", b.name, b.file_shape(), a.name, a.file_shape()),
        (None, false) => format!("{} tensors there, {} here", b.len(), a.len()),
    };
    let second = &second.of.model;
    Err(Error::data(format!("{what} {}: this is another model, {second}: {difference}", file.display())))
}

/// Describes it for a journal, by content.
pub fn identity(second: &Loaded) -> Value {
    let vectors = [&second.vectors.weights, &second.vectors.running].map(|v| bytemuck::cast_slice::<f32, u8>(v));
    json!(sha256_hex(&vectors.concat()))
}

/// Returns what it is, on the images of the first one.
pub fn source(first: &Source, given: &Given, second: &Loaded) -> Source {
    let (checkpoint, step) = (given.checkpoint.display().to_string(), second.step);
    Source { checkpoint, step, weights: second.taken.name(), ..first.clone() }
}
