//! The models: a function each, and a table.

mod cnn;
pub mod pyramidnet;
pub mod resnet;
pub mod shake_shake;
mod table;
pub mod wide_resnet;

pub use table::{MODELS, Names, REPRESENTATIVES, Row};

use crate::error::{Error, Result, nearest, unknown_or_not_built};
use crate::graph::{Graph, ImageSource, Var};
use crate::ops::call::Augment;
use crate::ops::value::ParamKind;
use crate::ops::{Bootstrap, CrossEntropy, Op};

/// Specification of a model, beside its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    pub classes: usize,
    /// Probability of dropout where the model has it; 0 is none.
    pub dropout: f32,
    /// True if the model marks the activations that all-layer margins perturb: its residual blocks' convolutions.
    pub taps: bool,
}

/// Settings of a classifier, beside model and images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Setup {
    pub dropout: f32,
    /// Share of each target that is spread over all classes.
    pub smoothing: f32,
    /// Share of the model's own predictions in its training targets.
    pub bootstrap: Bootstrap,
    /// As in [`Spec`].
    pub taps: bool,
}

impl Setup {
    /// With dropout and label smoothing.
    pub fn new(dropout: f32, smoothing: f32) -> Setup {
        Setup { dropout, smoothing, ..Setup::default() }
    }
}

/// Records a model on images `[h, w, c]` and returns the logits `[classes]`.
pub type Build = Box<dyn Fn(&mut Graph, Var, &Spec) -> Result<Var>>;

/// Settings of a run by name, as flags have them: `("lr", "0.1")`.
pub type Settings = &'static [(&'static str, &'static str)];

/// One model under its own name: `cnn`, `wrn-28-10`.
pub struct Model {
    /// Its name in checkpoints and run folders.
    pub name: String,
    pub about: &'static str,
    /// Images `[h, w, c]` that it is made for; listings use them.
    pub images: [usize; 3],
    /// Rows and side of the images that its gradients are checked on.
    pub check: [usize; 2],
    /// Its own settings above the defaults of a run; of one setting the last counts.
    pub recipe: &'static [Settings],
    build: Build,
}

impl Model {
    /// A model that need not be in the table.
    pub fn new(
        name: impl Into<String>,
        about: &'static str,
        build: impl Fn(&mut Graph, Var, &Spec) -> Result<Var> + 'static,
    ) -> Model {
        Model { name: name.into(), about, images: [32, 32, 3], check: [4, 16], recipe: &[], build: Box::new(build) }
    }
}

/// Models that people look for and that are not built; their names continue with a size.
const NOT_BUILT: &[&str] = &[
    "alexnet",
    "bert",
    "convnext",
    "deit",
    "densenet",
    "dla",
    "efficientnet",
    "googlenet",
    "inception",
    "lenet",
    "mixer",
    "mlp-mixer",
    "mobilenet",
    "nfnet",
    "preactresnet",
    "regnet",
    "resnext",
    "senet",
    "shufflenet",
    "squeezenet",
    "swin",
    "transformer",
    "unet",
    "vgg",
    "vit",
    "xception",
];

/// The model named `name`.
///
/// # Errors
/// Usage: there is none, and the nearest name is suggested; or its numbers make no network ("wrn-17-4").
pub fn find(name: &str) -> Result<Model> {
    open(name).unwrap_or_else(|| {
        let lowercase = name.to_lowercase().replace('_', "-");
        if open(&lowercase).is_some_and(|m| m.is_ok()) {
            return Err(Error::usage(format!("unknown model '{name}'; did you mean '{lowercase}'?")));
        }
        let rows: Vec<&str> = MODELS.iter().map(|m| m.name).collect();
        Err(match nearest(name, names()) {
            Some(near) => Error::usage(format!("unknown model '{name}'; did you mean '{near}'?")),
            None => unknown_or_not_built("model", name, NOT_BUILT, &rows),
        })
    })
}

/// The same; None where no row of the table has such names.
pub fn open(name: &str) -> Option<Result<Model>> {
    MODELS.iter().find_map(|row| row.open(name))
}

/// The models that can be listed: each row's own, and examples of the patterns.
pub fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().flat_map(Row::examples)
}

/// A model on the images that its gradients are checked on, with its loss.
///
/// # Errors
/// If the images do not fit the model.
pub fn to_check(model: &Model, augment: Augment, dropout: f32) -> Result<Graph> {
    let (side, c) = (model.check[1], model.images[2]);
    let (mean, std) = ([0.286; 4], [0.353; 4]);
    classifier(model, &ImageSource { h: side, w: side, c, classes: 10, mean, std, augment }, &Setup::new(dropout, 0.1))
}

/// A model on images of `source`, with its loss.
///
/// # Errors
/// If the images do not fit the model.
pub fn classifier(model: &Model, source: &ImageSource, setup: &Setup) -> Result<Graph> {
    let mut g = Graph::new();
    let batch = g.images(source.clone());
    let Setup { dropout, smoothing, bootstrap, taps } = *setup;
    let logits = (model.build)(&mut g, batch.images, &Spec { classes: source.classes, dropout, taps })
        .map_err(|e| e.context(format!("model {} on {}x{}x{} images", model.name, source.h, source.w, source.c)))?;
    let loss = Op::CrossEntropy(CrossEntropy { smoothing, bootstrap });
    g.op(loss, &[logits, batch.targets, batch.weights], "loss")?;
    Ok(g)
}

/// A whole number in the one way it is usually written. One that fits in no usize is too large in any case.
fn number(word: &str) -> Option<usize> {
    let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    (digits && (word == "0" || !word.starts_with('0'))).then(|| word.parse().unwrap_or(usize::MAX))
}

/// Name of the layer that makes the logits: the last linear layer.
///
/// # Errors
/// Usage: the model has none.
pub fn head(graph: &Graph) -> Result<&str> {
    let last = graph.params().list().iter().rev().find(|p| p.kind == ParamKind::LinearWeight);
    let name = last.and_then(|p| p.name.strip_suffix(".weight"));
    name.ok_or_else(|| Error::usage("--head-lr: the model has no linear layer"))
}

#[cfg(test)]
mod tests;
