//! `--init`: weights and batch-norm statistics that a run begins with, from a safetensors file with the usual names.

use super::checkpoint::{Checkpoint, Vectors};
use crate::error::{Error, Result};
use crate::files::sha256_stream;
use crate::graph::{Graph, Statistics};
use crate::models;
use crate::ops::value::ParamKind;
use crate::params::{FileLayout, Param};
use crate::safetensors::{self, Contents, Data, Tensor};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// No model here comes near it: 109 million parameters with an optimizer's vectors are 2 GB.
const LARGEST: u64 = 4 << 30;

/// Prefixes that wrappers put in front of every name: DataParallel, Lightning, torch.compile.
const WRAPPERS: [&str; 3] = ["module.", "model.", "_orig_mod."];

/// Names that a line on the terminal lists.
const SHOWN: usize = 3;

/// Tensors that were taken from a file, and those that were not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Init {
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    /// It holds a running average of the weights, which is what was taken.
    pub average: bool,
    /// Tensors of the model that have the file's values.
    pub loaded: Vec<String>,
    /// Parameters among them, and how many the model has.
    pub parameters: [usize; 2],
    /// Batch-norms whose statistics are the file's, and how many there are.
    pub norms: [usize; 2],
    /// Prefix of all names in the file that the model lacks; mostly empty.
    pub prefix: String,
    /// Tensors of the model that the file does not have.
    pub missing: Vec<String>,
    /// Tensors of the file that the model does not have.
    pub unused: Vec<String>,
    /// Tensors of other shapes: name, shape in the file, shape in the model.
    pub reshaped: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// The last linear layer where it starts from initial values: name, classes in the file, classes here.
    pub head: Option<(String, usize, usize)>,
    /// The first convolution where its weights were summed over the channels of colour images, for grey ones.
    pub summed: Option<String>,
}

/// Puts what the file at `path` has of the model into `vectors`, averages included, and says what that was. What does not
/// fit stays as it is.
///
/// # Errors
/// NoInput: the file cannot be read. Data: it is unsound, has nothing of the model, or values that are not finite.
pub fn load(path: &Path, graph: &Graph, vectors: &mut Vectors) -> Result<Init> {
    let unreadable = |e: std::io::Error| Error::io("read", path, &e);
    let meta = std::fs::metadata(path).map_err(|e| unreadable(e).context("--init"))?;
    if meta.len() > LARGEST {
        let message =
            format!("--init: {} has {} bytes, more than the {LARGEST} of any model", path.display(), meta.len());
        return Err(Error::data(message));
    }
    let contents = safetensors::read(path).map_err(|e| e.context("--init"))?;
    let (contents, average) = Checkpoint::verified(contents, path).map_err(|e| e.context("--init"))?;
    let mut file = std::fs::File::open(path).map_err(unreadable)?;
    let sha256 = sha256_stream(&mut file).map_err(unreadable)?;
    let about = Init { file: path.display().to_string(), bytes: meta.len(), sha256, average, ..Init::default() };
    let init = fill(about, &contents, graph, vectors).map_err(|e| e.context(format!("--init {}", path.display())))?;
    if let Some((weights, running)) = &mut vectors.average {
        weights.clone_from(&vectors.weights);
        running.clone_from(&vectors.running);
    }
    Ok(init)
}

/// The tensors of a file by the names that the model would have for them.
struct Named<'a> {
    tensors: BTreeMap<&'a str, &'a Tensor>,
    /// Prefix that was left out of every name beside the wrappers, such as `backbone.`.
    prefix: String,
    /// Tensors that hold the values of another one.
    copies: Vec<String>,
}

impl<'a> Named<'a> {
    fn of(contents: &'a Contents, graph: &Graph) -> Result<Named<'a>> {
        let own: BTreeSet<&str> = graph.params().list().iter().map(|p| p.name.as_str()).collect();
        let unwrapped = |tensor: &'a Tensor| {
            let mut name = tensor.name.as_str();
            while !own.contains(name) {
                match WRAPPERS.iter().find_map(|w| name.strip_prefix(w)) {
                    Some(rest) => name = rest,
                    None => break,
                }
            }
            name
        };
        let mut named = Named { tensors: BTreeMap::new(), prefix: String::new(), copies: Vec::new() };
        if !contents.tensors.iter().any(|tensor| own.contains(unwrapped(tensor))) {
            named.prefix = common_prefix(contents, &own)?;
        }
        for tensor in &contents.tensors {
            let name = match &named.prefix[..] {
                "" => unwrapped(tensor),
                prefix => tensor.name.strip_prefix(prefix).unwrap_or(&tensor.name),
            };
            match named.tensors.insert(name, tensor) {
                None => {}
                Some(other) if (&other.shape, &other.data) == (&tensor.shape, &tensor.data) => {
                    named.copies.push(other.name.clone());
                }
                Some(other) => {
                    let what = format!("'{}' and '{}' are the same tensor of a model", other.name, tensor.name);
                    return Err(Error::data(format!("{what} with different values; keep the tensors of one model")));
                }
            }
        }
        Ok(named)
    }

    /// Shape and values of a tensor.
    fn take(&mut self, name: &str) -> Result<Option<(&'a [usize], &'a [f32])>> {
        let Some(tensor) = self.tensors.remove(name) else { return Ok(None) };
        let Data::F32(values) = &tensor.data else {
            let what = format!("tensor '{}' is of type {}", tensor.name, tensor.data.dtype());
            return Err(Error::data(format!(
                "{what}; weights are read from F32, F64, F16 and BF16, so save them as one of these"
            )));
        };
        if !values.iter().all(|v| v.is_finite()) {
            return Err(Error::data(format!("tensor '{}' holds a value that is not finite in float32", tensor.name)));
        }
        Ok(Some((&tensor.shape, values)))
    }

    /// The number of batches behind running statistics; 0 where the file does not say.
    fn batches(&mut self, name: &str) -> f32 {
        match self.tensors.remove(&format!("{name}.num_batches_tracked")[..]).map(|t| &t.data) {
            Some(Data::I64(v)) if v.len() == 1 => v[0].max(0) as f32,
            Some(Data::F32(v)) if v.len() == 1 && v[0].is_finite() => v[0].max(0.0).floor(),
            _ => 0.0,
        }
    }
}

/// Returns the text in front of the names of one whole model in a file, such as `backbone.`: that in front of the most
/// parameters, at least half of them; empty where there is none.
///
/// # Errors
/// Data: there are several, so that the file holds several models.
fn common_prefix(contents: &Contents, own: &BTreeSet<&str>) -> Result<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in &contents.tensors {
        let name = tensor.name.as_str();
        for (dot, _) in name.match_indices('.').filter(|(dot, _)| own.contains(&name[dot + 1..])) {
            *counts.entry(&name[..=dot]).or_default() += 1;
        }
    }
    let most = counts.values().max().copied().unwrap_or(0);
    let found: Vec<&str> = counts.into_iter().filter(|(_, count)| *count == most).map(|(prefix, _)| prefix).collect();
    match found[..] {
        _ if 2 * most < own.len() => Ok(String::new()),
        [prefix] => Ok(prefix.to_owned()),
        _ => {
            let quoted: Vec<String> = found.iter().map(|prefix| format!("'{prefix}'")).collect();
            let what = format!("it holds several models, whose names begin with {}", shown(&quoted));
            Err(Error::data(format!("{what}; keep the tensors of one of them")))
        }
    }
}

fn fill(mut init: Init, contents: &Contents, graph: &Graph, vectors: &mut Vectors) -> Result<Init> {
    let params = graph.params().list();
    let mut named = Named::of(contents, graph)?;
    init.prefix = std::mem::take(&mut named.prefix);
    let head = models::head(graph).unwrap_or_default();
    let stem = params.iter().position(|p| p.kind == ParamKind::ConvWeight);
    init.parameters[1] = params.len();
    for (i, p) in params.iter().enumerate() {
        let Some((shape, values)) = named.take(&p.name)? else {
            init.missing.push(p.name.clone());
            continue;
        };
        let own = p.file_shape();
        let values = if shape == own {
            p.from_file(values)
        } else if stem == Some(i)
            && let Some(grey) = summed(p, shape, values)
        {
            init.summed = Some(p.name.clone());
            p.from_file(&grey)
        } else {
            let other_classes = shape.len() == own.len() && shape[1..] == own[1..] && shape[0] != own[0];
            match p.name.strip_prefix(head).filter(|_| !head.is_empty() && other_classes) {
                Some(".weight" | ".bias") => init.head = Some((head.to_owned(), shape[0], own[0])),
                _ => init.reshaped.push((p.name.clone(), shape.to_vec(), own)),
            }
            continue;
        };
        vectors.weights[p.offset..p.offset + p.len()].copy_from_slice(&values);
        init.loaded.push(p.name.clone());
        init.parameters[0] += 1;
    }
    if contents.tensors.is_empty() {
        return Err(Error::data("it holds no tensors"));
    }
    if init.parameters[0] == 0 {
        let beginnings = |names: &mut dyn Iterator<Item = &str>| {
            let mut all: Vec<&str> = names.filter_map(|n| n.split('.').next()).collect();
            all.dedup();
            shown(&all)
        };
        let of_file = beginnings(&mut contents.tensors.iter().map(|t| t.name.as_str()));
        let of_model = beginnings(&mut params.iter().map(|p| p.name.as_str()));
        let what =
            format!("it has no parameter of the model; its names begin with {of_file}, the model's with {of_model}");
        return Err(Error::data(what));
    }
    init.norms[1] = graph.statistics().len();
    for s in graph.statistics() {
        statistics(&mut init, &mut named, s, &mut vectors.running)?;
    }
    init.unused = named.tensors.into_values().map(|t| t.name.clone()).chain(named.copies).collect();
    Ok(init)
}

/// Weights `[co, 1, k, k]` out of `[co, ci, k, k]`: a grey image answers them as the image with `ci` equal channels does
/// the others. None unless these are the shapes.
fn summed(p: &Param, shape: &[usize], values: &[f32]) -> Option<Vec<f32>> {
    let (&[co, ci, kh, kw], &[to_co, 1, to_kh, to_kw]) = (shape, &p.file_shape()[..]) else { return None };
    if p.layout != FileLayout::ConvOihw || [co, kh, kw] != [to_co, to_kh, to_kw] || ci == 0 {
        return None;
    }
    let taps = kh * kw;
    let sum = |o: usize, tap: usize| (0..ci).map(|i| f64::from(values[(o * ci + i) * taps + tap])).sum::<f64>() as f32;
    Some((0..co * taps).map(|at| sum(at / taps, at % taps)).collect())
}

/// Takes the running statistics of one batch-norm: both, or neither.
fn statistics(init: &mut Init, named: &mut Named<'_>, s: &Statistics, running: &mut [f32]) -> Result<()> {
    let names = ["running_mean", "running_var"].map(|what| format!("{}.{what}", s.name));
    let batches = named.batches(&s.name);
    let found = [named.take(&names[0])?, named.take(&names[1])?];
    for (name, part) in names.iter().zip(&found) {
        match part {
            None => init.missing.push(name.clone()),
            Some((shape, _)) if *shape != [s.channels] => {
                init.reshaped.push((name.clone(), shape.to_vec(), vec![s.channels]));
            }
            Some(_) => {}
        }
    }
    let [Some(([c1], mean)), Some(([c2], variance))] = found else { return Ok(()) };
    if [*c1, *c2] != [s.channels; 2] {
        return Ok(());
    }
    if variance.iter().any(|v| *v < 0.0) {
        return Err(Error::data(format!("tensor '{}' holds a variance below 0", names[1])));
    }
    let [counts, means, variances] = [0, 1, 2].map(|part| s.offset + part * s.channels);
    running[counts..means].fill(batches);
    running[means..variances].copy_from_slice(mean);
    running[variances..][..s.channels].copy_from_slice(variance);
    init.loaded.extend(names);
    init.norms[0] += 1;
    Ok(())
}

/// The first of `names`, and how many more there are.
fn shown<S: AsRef<str>>(names: &[S]) -> String {
    let first: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let rest = names.len() - first.len();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{more}", first.join(", "))
}

impl Init {
    /// A few lines for the terminal.
    pub fn lines(&self) -> Vec<String> {
        let ([p, params], [n, norms]) = (self.parameters, self.norms);
        let average = if self.average { ", the running average of its weights" } else { "" };
        let mut lines = vec![format!(
            "begins with {p} of {params} parameters and the statistics of {n} of {norms} batch-norms of {}{average}",
            self.file
        )];
        if let Some((name, file, here)) = &self.head {
            lines.push(format!("  {name} starts from initial values: {file} classes in the file, {here} here"));
        }
        if !self.prefix.is_empty() {
            lines.push(format!("  names in the file begin with {}", self.prefix));
        }
        if let Some(name) = &self.summed {
            lines.push(format!("  {name}: summed over the colours, as images are grey here"));
        }
        let other = |(name, file, here): &(String, Vec<usize>, Vec<usize>)| format!("{name} {file:?}, here {here:?}");
        let reshaped: Vec<String> = self.reshaped.iter().map(other).collect();
        for (what, names) in [
            ("of another shape in the file", &reshaped),
            ("not in the file", &self.missing),
            ("not in the model", &self.unused),
        ] {
            if !names.is_empty() {
                lines.push(format!("  {what}: {}", shown(names)));
            }
        }
        lines
    }

    /// Returns the file's identity, for env.json.
    pub fn origin(&self) -> Value {
        json!({ "file": self.file, "bytes": self.bytes, "sha256": self.sha256 })
    }

    /// All that was taken and not, for init.json.
    pub fn to_json(&self) -> Value {
        let reshaped =
            self.reshaped.iter().map(|(name, file, here)| json!({"name": name, "file": file, "model": here}));
        json!({
            "file": self.file,
            "weights": if self.average { "average" } else { "raw" },
            "parameters": { "loaded": self.parameters[0], "model": self.parameters[1] },
            "batch_norms": { "loaded": self.norms[0], "model": self.norms[1] },
            "loaded": self.loaded,
            "missing": self.missing,
            "unused": self.unused,
            "other_shape": reshaped.collect::<Vec<_>>(),
            "head": self.head.as_ref().map(|(name, file, here)| json!({"name": name, "file": file, "model": here})),
            "summed": self.summed,
            "prefix": self.prefix,
        })
    }
}
