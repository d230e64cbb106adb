//! Checkpoints: safetensors files with PyTorch's names and layouts.
//!
//! A checkpoint holds the weights, batch-norm's running statistics as `running_mean`, `running_var` and
//! `num_batches_tracked`, what the optimizer remembers under names that begin with `optimizer.`, and metadata that says
//! how far the run had come. Its SHA-256 covers all of it.

use super::origin::Origin;
use crate::error::{Error, Result};
use crate::files;
use crate::graph::Graph;
use crate::params::Param;
use crate::recipe::Recipe;
use crate::safetensors::{self, Contents, Data, Metadata, Tensor};
use std::fmt;
use std::path::Path;

/// Version of the names and metadata below; a reader refuses later ones.
pub const FORMAT_VERSION: u32 = 1;
/// Prefix of tensors that only training needs. Without them the file is a PyTorch state dict.
pub const OPTIMIZER: &str = "optimizer.";
/// Prefix of the averages of weights and statistics.
const AVERAGE: &str = "optimizer.ema.";
/// Keys that every checkpoint has.
const OWN_KEYS: &str = "samcore.";
const VERSION_KEY: &str = "samcore.format_version";
const HASH_KEY: &str = "samcore.sha256";

/// Description of a checkpoint's model, enough to build it again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subject {
    pub model: String,
    /// Name of the data set, or folder.
    pub data: String,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub classes: usize,
    pub mean: [f32; 4],
    pub std: [f32; 4],
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { model, data, h, w, c, classes, mean, std } = self;
        let (mean, std) = (&mean[..(*c).min(4)], &std[..(*c).min(4)]);
        write!(f, "{model} on {h}x{w}x{c} images of {classes} classes of {data} (mean {mean:?}, deviation {std:?})")
    }
}

impl Subject {
    /// Returns true if there can be such images: no size that a file makes up decides what is computed or allocated.
    fn can_be(&self) -> bool {
        const MOST: usize = 1 << 16;
        let Subject { h, w, c, classes, mean, std, .. } = self;
        let sizes = [h, w, classes].iter().all(|n| (1..=MOST).contains(*n)) && (1..=mean.len()).contains(c);
        sizes && mean.iter().all(|m| m.is_finite()) && std.iter().all(|s| s.is_normal() && *s > 0.0)
    }
}

/// Position of a run, with the sums of the current epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Steps done since the run began.
    pub step: u64,
    /// Over the steps of the epoch under way.
    pub loss_sum: f64,
    pub hits: u64,
    pub norm_sum: f64,
    pub gain_sum: f64,
    /// Steps so far with |g| = 0, or too small to divide by.
    pub dropped: u64,
    /// Loss scale of an f16 run, 0 in others; steps since it last changed; steps that were skipped.
    pub loss_scale: f32,
    pub good_steps: u64,
    pub skipped: u64,
    /// Seconds that the epoch under way has taken in earlier processes.
    pub seconds: f64,
    pub best_accuracy: f64,
    pub best_epoch: u64,
}

impl Position {
    /// Returns the position at the beginning of the next epoch.
    pub fn next_epoch(&self) -> Position {
        Position { loss_sum: 0.0, hits: 0, norm_sum: 0.0, gain_sum: 0.0, seconds: 0.0, ..*self }
    }
}

/// The vectors of a run, laid out as on the device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    pub weights: Vec<f32>,
    pub running: Vec<f32>,
    /// State of the optimizer, by the vector's name.
    pub optimizer: Vec<(String, Vec<f32>)>,
    /// Running averages of weights and statistics, where the run keeps them.
    pub average: Option<(Vec<f32>, Vec<f32>)>,
}

impl Vectors {
    /// Returns whether every value is finite.
    pub fn are_finite(&self) -> bool {
        let Vectors { weights, running, optimizer, average } = self;
        let own = optimizer.iter().map(|(_, values)| values);
        let averages = average.iter().flat_map(|(weights, running)| [weights, running]);
        [weights, running].into_iter().chain(own).chain(averages).flatten().all(|v| v.is_finite())
    }
}

/// Vectors that a run keeps beside weights and running statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Remembered {
    /// The optimizer's, by name.
    pub optimizer: &'static [&'static str],
    /// Averages of weights and statistics.
    pub average: bool,
}

/// Choice of a checkpoint's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// The weights that the run was evaluated by: its running average where it made one.
    #[default]
    Evaluated,
    /// The weights that the optimizer moves.
    Raw,
    Average,
}

/// A checkpoint in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub subject: Subject,
    pub position: Position,
    pub origin: Origin,
    pub vectors: Vectors,
}

/// A field of the metadata, read from and written to text.
struct Field<T> {
    key: &'static str,
    get: fn(&T) -> String,
    set: fn(&mut T, &str) -> Option<()>,
}

fn parse<V: std::str::FromStr>(to: &mut V, text: &str) -> Option<()> {
    *to = text.parse().ok()?;
    Some(())
}

fn four(text: &str) -> Option<[f32; 4]> {
    let values: Vec<f32> = text.split(' ').map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
    values.try_into().ok()
}

fn join(values: &[f32; 4]) -> String {
    values.map(|v| v.to_string()).join(" ")
}

const SUBJECT: &[Field<Subject>] = &[
    Field { key: "samcore.model", get: |s| s.model.clone(), set: |s, t| parse(&mut s.model, t) },
    Field { key: "samcore.data", get: |s| s.data.clone(), set: |s, t| parse(&mut s.data, t) },
    Field { key: "samcore.height", get: |s| s.h.to_string(), set: |s, t| parse(&mut s.h, t) },
    Field { key: "samcore.width", get: |s| s.w.to_string(), set: |s, t| parse(&mut s.w, t) },
    Field { key: "samcore.channels", get: |s| s.c.to_string(), set: |s, t| parse(&mut s.c, t) },
    Field { key: "samcore.classes", get: |s| s.classes.to_string(), set: |s, t| parse(&mut s.classes, t) },
    Field { key: "samcore.mean", get: |s| join(&s.mean), set: |s, t| four(t).map(|v| s.mean = v) },
    Field { key: "samcore.std", get: |s| join(&s.std), set: |s, t| four(t).map(|v| s.std = v) },
];

// Rust prints the shortest decimal that reads back to the same float, so that no bit is lost on the way.
const POSITION: &[Field<Position>] = &[
    Field { key: "samcore.step", get: |p| p.step.to_string(), set: |p, t| parse(&mut p.step, t) },
    Field { key: "samcore.loss_sum", get: |p| p.loss_sum.to_string(), set: |p, t| parse(&mut p.loss_sum, t) },
    Field { key: "samcore.hits", get: |p| p.hits.to_string(), set: |p, t| parse(&mut p.hits, t) },
    Field { key: "samcore.norm_sum", get: |p| p.norm_sum.to_string(), set: |p, t| parse(&mut p.norm_sum, t) },
    Field { key: "samcore.gain_sum", get: |p| p.gain_sum.to_string(), set: |p, t| parse(&mut p.gain_sum, t) },
    Field { key: "samcore.dropped", get: |p| p.dropped.to_string(), set: |p, t| parse(&mut p.dropped, t) },
    Field { key: "samcore.seconds", get: |p| p.seconds.to_string(), set: |p, t| parse(&mut p.seconds, t) },
    Field {
        key: "samcore.best_accuracy",
        get: |p| p.best_accuracy.to_string(),
        set: |p, t| parse(&mut p.best_accuracy, t),
    },
    Field { key: "samcore.best_epoch", get: |p| p.best_epoch.to_string(), set: |p, t| parse(&mut p.best_epoch, t) },
];

/// Fields that only an f16 run has.
const SCALING: &[Field<Position>] = &[
    Field { key: "samcore.loss_scale", get: |p| p.loss_scale.to_string(), set: |p, t| parse(&mut p.loss_scale, t) },
    Field { key: "samcore.good_steps", get: |p| p.good_steps.to_string(), set: |p, t| parse(&mut p.good_steps, t) },
    Field { key: "samcore.skipped", get: |p| p.skipped.to_string(), set: |p, t| parse(&mut p.skipped, t) },
];

fn read_fields<T>(fields: &[Field<T>], into: &mut T, metadata: &Metadata, path: &Path) -> Result<()> {
    for field in fields {
        let text = metadata.get(field.key);
        let text = text.ok_or_else(|| wrong(path, &format!("its metadata has no '{}'", field.key)))?;
        let bad = || wrong(path, &format!("its metadata has '{}' for '{}'", text, field.key));
        (field.set)(into, text).ok_or_else(bad)?;
    }
    Ok(())
}

fn wrong(path: &Path, what: &str) -> Error {
    Error::data(format!("{} is not a sound samcore checkpoint: {what}", path.display()))
}

impl Checkpoint {
    /// Writes the file as a whole: temporary file, sync, rename, sync of the folder.
    ///
    /// With `weights_only` it holds what is evaluated, the average where there is one, and nothing else: PyTorch's
    /// `load_state_dict` takes the file as it is.
    ///
    /// # Errors
    /// If the file cannot be written; an older one then stays.
    pub fn write(&self, graph: &Graph, path: &Path, weights_only: bool) -> Result<()> {
        let mut tensors = Vec::new();
        let params = graph.params().list();
        let of_vector = |prefix: &str, values: &[f32], tensors: &mut Vec<Tensor>| {
            tensors.extend(params.iter().map(|p| Tensor {
                name: format!("{prefix}{}", p.name),
                shape: p.file_shape(),
                data: Data::F32(p.to_file(&values[p.offset..p.offset + p.len()])),
            }));
        };
        let Vectors { weights, running, optimizer, average } = &self.vectors;
        let of_model = |prefix: &str, weights: &[f32], running: &[f32], tensors: &mut Vec<Tensor>| {
            of_vector(prefix, weights, tensors);
            for s in graph.statistics() {
                let part = |i: usize| running[s.offset + i * s.channels..][..s.channels].to_vec();
                for (i, what) in [(1, "running_mean"), (2, "running_var")] {
                    let name = format!("{prefix}{}.{what}", s.name);
                    tensors.push(Tensor { name, shape: vec![s.channels], data: Data::F32(part(i)) });
                }
                // An average of counts means nothing: the number of batches is the run's own.
                let batches = Data::I64(vec![self.vectors.running[s.offset] as i64]);
                let name = format!("{prefix}{}.num_batches_tracked", s.name);
                tensors.push(Tensor { name, shape: vec![], data: batches });
            }
        };
        match average {
            Some((weights, running)) if weights_only => of_model("", weights, running, &mut tensors),
            _ => of_model("", weights, running, &mut tensors),
        }
        if !weights_only {
            for (name, values) in optimizer {
                of_vector(&format!("{OPTIMIZER}{name}."), values, &mut tensors);
            }
            if let Some((weights, running)) = average {
                of_model(AVERAGE, weights, running, &mut tensors);
            }
        }
        let mut metadata = Metadata::from([(VERSION_KEY.to_owned(), FORMAT_VERSION.to_string())]);
        metadata.extend(SUBJECT.iter().map(|f| (f.key.to_owned(), (f.get)(&self.subject))));
        let scaling = if self.position.loss_scale > 0.0 { SCALING } else { &[] };
        let fields = POSITION.iter().chain(scaling);
        metadata.extend(fields.map(|f| (f.key.to_owned(), (f.get)(&self.position))));
        self.origin.write(&mut metadata);
        metadata.insert("format".into(), "pt".into());
        safetensors::write(path, &tensors, &signed(&metadata, &tensors))
    }

    /// The metadata of a file: what model it is of and how far it had come.
    ///
    /// # Errors
    /// Data: not a samcore checkpoint, damaged, or of a later format version.
    pub fn open(path: &Path) -> Result<Opened> {
        Checkpoint::opened(safetensors::read(path)?, path)
    }

    /// Returns the tensors of a file that are evaluated, and whether they are a running average. A file of this program is
    /// checked first; what other programs write is taken as it is.
    ///
    /// # Errors
    /// Data: a checkpoint that is damaged, or of a later format version.
    pub fn verified(contents: Contents, path: &Path) -> Result<(Contents, bool)> {
        // Any key of ours makes it ours, for one that is damaged must not have the rest believed unchecked.
        if !contents.metadata.keys().any(|key| key.starts_with(OWN_KEYS)) {
            return Ok((contents, false));
        }
        let opened = Checkpoint::opened(contents, path)?;
        let average = opened.has_average();
        let mut contents = opened.contents;
        if average {
            contents.tensors.retain(|t| t.name.starts_with(AVERAGE));
            contents.tensors.iter_mut().for_each(|t| t.name = t.name[AVERAGE.len()..].to_owned());
        }
        contents.tensors.retain(|t| !t.name.starts_with(OPTIMIZER));
        Ok((contents, average))
    }

    fn opened(contents: Contents, path: &Path) -> Result<Opened> {
        let metadata = &contents.metadata;
        let version =
            metadata.get(VERSION_KEY).ok_or_else(|| match metadata.keys().any(|k| k.starts_with(OWN_KEYS)) {
                true => wrong(path, &format!("its metadata has lost '{VERSION_KEY}'; it is damaged, use another copy")),
                false => wrong(
                    path,
                    "it has no format version; files of other programs have weights alone, which cannot be resumed",
                ),
            })?;
        match version.parse::<u32>() {
            Ok(v) if v <= FORMAT_VERSION => {}
            _ => {
                let what =
                    format!("it has format version {version}, this samcore reads up to {FORMAT_VERSION}; update it");
                return Err(wrong(path, &what));
            }
        }
        if signed(metadata, &contents.tensors) != *metadata {
            return Err(wrong(path, "its SHA-256 does not match its content; it is damaged, use another copy"));
        }
        let mut subject = Subject::default();
        let mut position = Position::default();
        read_fields(SUBJECT, &mut subject, metadata, path)?;
        if !subject.can_be() {
            return Err(wrong(path, &format!("its metadata describes a {subject}, which cannot be")));
        }
        read_fields(POSITION, &mut position, metadata, path)?;
        if SCALING.iter().any(|f| metadata.get(f.key).is_some()) {
            read_fields(SCALING, &mut position, metadata, path)?;
        }
        let origin = Origin::read(metadata);
        Ok(Opened { subject, position, origin, contents })
    }
}

/// A file that has been read and found sound, but not yet matched with a graph.
pub struct Opened {
    pub subject: Subject,
    pub position: Position,
    pub origin: Origin,
    contents: Contents,
}

impl Opened {
    /// Returns the recipe of the run that made the file at `path`, with the machine's settings at their defaults; `None` for
    /// a file of a version that did not record it.
    ///
    /// # Errors
    /// Data: a setting that this version does not know.
    pub fn recipe(&self, path: &Path) -> Result<Option<Recipe>> {
        self.origin.recipe(path)
    }

    /// Checks for a running average of the weights beside the weights themselves.
    pub fn has_average(&self) -> bool {
        self.contents.tensors.iter().any(|t| t.name.starts_with(AVERAGE))
    }

    /// Returns the weights and statistics that `weights` names, laid out for `graph`, as those of the model.
    ///
    /// # Errors
    /// As for `vectors`.
    pub fn model(&self, graph: &Graph, weights: Weights, path: &Path) -> Result<Vectors> {
        let average = match weights {
            Weights::Evaluated => self.has_average(),
            Weights::Raw => false,
            Weights::Average => true,
        };
        let vectors = self.vectors(graph, Remembered { average, ..Remembered::default() }, path)?;
        Ok(match vectors.average {
            Some((weights, running)) => Vectors { weights, running, ..Vectors::default() },
            None => vectors,
        })
    }

    /// The vectors, laid out for `graph`.
    ///
    /// # Errors
    /// Data: a tensor is missing, of another shape, or belongs to no part of the model.
    pub fn vectors(&self, graph: &Graph, remembered: Remembered, path: &Path) -> Result<Vectors> {
        let floats = |name: &str, shape: &[usize]| -> Result<&[f32]> {
            let missing = || wrong(path, &format!("tensor '{name}' is missing; it is a checkpoint of another model"));
            let tensor = self.contents.get(name).ok_or_else(missing)?;
            match &tensor.data {
                Data::F32(values) if tensor.shape == shape => Ok(values),
                Data::F32(_) => {
                    Err(wrong(path, &format!("tensor '{name}' is {:?} where the model has {shape:?}", tensor.shape)))
                }
                other => Err(wrong(path, &format!("tensor '{name}' is of type {}, not F32", other.dtype()))),
            }
        };
        let padded = |prefix: &str| -> Result<Vec<f32>> {
            // All are found first, so that no more is allocated than the file holds.
            let found = |p: &Param| floats(&format!("{prefix}{}", p.name), &p.file_shape());
            let parts: Vec<&[f32]> = graph.params().list().iter().map(found).collect::<Result<_>>()?;
            let mut vector = vec![0.0; graph.params().vector_len()];
            for (p, values) in graph.params().list().iter().zip(parts) {
                vector[p.offset..p.offset + p.len()].copy_from_slice(&p.from_file(values));
            }
            Ok(vector)
        };
        let statistics = |prefix: &str| -> Result<Vec<f32>> {
            let mut running = vec![0.0; graph.statistics_len()];
            for s in graph.statistics() {
                let c = s.channels;
                for (i, what) in [(1, "running_mean"), (2, "running_var")] {
                    let values = floats(&format!("{prefix}{}.{what}", s.name), &[c])?;
                    running[s.offset + i * c..][..c].copy_from_slice(values);
                }
                let name = format!("{prefix}{}.num_batches_tracked", s.name);
                let batches = match self.contents.get(&name).map(|t| &t.data) {
                    Some(Data::I64(v)) if v.len() == 1 => v[0],
                    _ => return Err(wrong(path, &format!("'{name}' is missing or not one whole number"))),
                };
                running[s.offset..][..c].fill(batches as f32);
            }
            Ok(running)
        };
        let (weights, running) = (padded("")?, statistics("")?);
        let optimizer = remembered
            .optimizer
            .iter()
            .map(|name| Ok((name.to_string(), padded(&format!("{OPTIMIZER}{name}."))?)))
            .collect::<Result<Vec<_>>>()?;
        let average = if remembered.average { Some((padded(AVERAGE)?, statistics(AVERAGE)?)) } else { None };
        // Every tensor that was asked for is there; one more belongs to some other model.
        let model = graph.params().list().len() + 3 * graph.statistics().len();
        let found = self.contents.tensors.iter().filter(|t| !t.name.starts_with(OPTIMIZER)).count();
        if found != model {
            return Err(wrong(path, &format!("it has {found} tensors where the model has {model}")));
        }
        Ok(Vectors { weights, running, optimizer, average })
    }
}

/// `metadata` with the SHA-256 over its other entries and `tensors`.
pub fn signed(metadata: &Metadata, tensors: &[Tensor]) -> Metadata {
    let mut signed = metadata.clone();
    signed.remove(HASH_KEY);
    let hash = hash(tensors, &signed);
    signed.insert(HASH_KEY.into(), hash);
    signed
}

/// SHA-256 over metadata and tensors, names and shapes included.
fn hash(tensors: &[Tensor], metadata: &Metadata) -> String {
    let mut bytes = Vec::new();
    for (key, value) in metadata {
        bytes.extend(format!("{key}={value}\n").bytes());
    }
    let mut sorted: Vec<&Tensor> = tensors.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for tensor in sorted {
        bytes.extend(format!("{} {:?}\n", tensor.name, tensor.shape).bytes());
        bytes.extend(tensor.data.as_bytes());
    }
    files::sha256_hex(&bytes)
}
