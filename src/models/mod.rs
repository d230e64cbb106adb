//! The models: a function each, and a table.

mod cnn;

use crate::error::{Error, Result, unknown};
use crate::graph::{Graph, ImageSource, Var};
use crate::nn;
use crate::ops::value::ParamKind;

/// What a model is built for, beside its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    pub classes: usize,
    /// Probability of dropout where the model has it; 0 is none.
    pub dropout: f32,
}

/// One line of the table of models.
pub struct Model {
    pub name: &'static str,
    pub about: &'static str,
    /// Records the model on images `[h, w, c]` and returns the logits `[classes]`.
    pub build: fn(&mut Graph, Var, &Spec) -> Result<Var>,
}

/// Every model by name.
pub const MODELS: &[Model] = &[Model {
    name: "cnn",
    about: "conv 32, 32, pool, 64, 64, pool, fc 128: 468,010 parameters on Fashion-MNIST",
    build: cnn::cnn,
}];

/// The model named `name`.
///
/// # Errors
/// If there is none; the nearest name is suggested.
pub fn find(name: &str) -> Result<&'static Model> {
    let names: Vec<&str> = MODELS.iter().map(|m| m.name).collect();
    MODELS.iter().find(|m| m.name == name).ok_or_else(|| unknown("model", name, &names))
}

/// A model on images of `source`, with its loss.
///
/// # Errors
/// If the images do not fit the model.
pub fn classifier(model: &Model, source: &ImageSource, dropout: f32, smoothing: f32) -> Result<Graph> {
    let mut g = Graph::new();
    let batch = g.images(source.clone());
    let logits = (model.build)(&mut g, batch.images, &Spec { classes: source.classes, dropout })
        .map_err(|e| e.context(format!("model {} on {}x{}x{} images", model.name, source.h, source.w, source.c)))?;
    nn::cross_entropy(&mut g, logits, batch.targets, batch.weights, smoothing)?;
    Ok(g)
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
mod tests {
    use super::*;
    use crate::ops::call::Augment;

    fn source(h: usize, c: usize, classes: usize) -> ImageSource {
        ImageSource { h, w: h, c, classes, mean: [0.5; 4], std: [0.5; 4], augment: Augment::default() }
    }

    #[test]
    fn parameter_and_flop_counts_are_the_published_ones() {
        // 37.38 MFLOP forward an image, as counted for the peers.
        let g = classifier(find("cnn").unwrap(), &source(28, 1, 10), 0.0, 0.0).unwrap();
        assert_eq!(g.params().count(), 468_010);
        assert_eq!(g.flops() / 10_000, 3738);
    }

    #[test]
    fn other_sizes_channels_and_class_counts_build_and_too_small_ones_say_so() {
        let cnn = find("cnn").unwrap();
        classifier(cnn, &source(32, 3, 100), 0.3, 0.1).unwrap();
        let error = classifier(cnn, &source(3, 1, 10), 0.0, 0.0).unwrap_err().to_string();
        assert!(error.contains("cnn") && error.contains("3x3"), "{error}");
        assert!(find("cnm").err().is_some_and(|e| e.to_string().contains("'cnn'")));
    }
}
