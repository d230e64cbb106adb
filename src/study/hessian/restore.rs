//! A study of curvature read back from its JSON, to draw its figures again.

use super::{Block, Operator, Pair, Settings, Step, Study};
use crate::study::restore::source;
use crate::study::{Figures, Layer, Source};
use serde_json::Value;

/// Most images, and most nodes of a density, that a study is believed to have.
const MOST: usize = 1 << 24;

/// The figures of a study of curvature. None if the object is none.
pub fn figures(json: &Value) -> Option<Figures> {
    let (source, study) = restore(json)?;
    Some(study.figures(&source).into_iter().map(|(name, figure)| (name, figure.to_svg())).collect())
}

/// Reads the object that a study wrote; None if it is none.
pub fn restore(json: &Value) -> Option<(Source, Study)> {
    if json["study"] != "hessian" {
        return None;
    }
    let count = |key: &str| usize::try_from(json[key].as_u64()?).ok().filter(|n| *n <= MOST);
    let blocks = json["blocks"].as_array()?.iter().map(block).collect::<Option<Vec<_>>>()?;
    let mut settings = Settings {
        operators: vec![],
        layers: vec![],
        images: vec![0; count("images")?],
        k: count("k")?,
        lanczos_steps: count("lanczos_steps")?,
        density_samples: count("density_samples")?,
        trace_samples: count("trace_samples")?,
        seed: json["seed"].as_u64()?,
    };
    for block in &blocks {
        if !settings.operators.contains(&block.operator) {
            settings.operators.push(block.operator);
        }
        if !settings.layers.iter().any(|layer| layer.name == block.layer) {
            settings.layers.push(Layer { name: block.layer.clone(), places: vec![] });
        }
    }
    let study = Study {
        settings,
        loss: number(&json["loss"]),
        gradient_norm: number(&json["gradient_norm"]),
        weight_norm: number(&json["weight_norm"]),
        tensors: vec![],
        blocks,
    };
    Some((source(&json["source"])?, study))
}

/// A number that was not finite is null there.
fn number(json: &Value) -> f64 {
    json.as_f64().unwrap_or(f64::NAN)
}

fn pair(json: &Value) -> Option<Pair> {
    Some(Pair { value: json["value"].as_f64()?, residual: number(&json["residual"]) })
}

fn block(json: &Value) -> Option<Block> {
    let node = |node: &Value| Some((node.get(0)?.as_f64()?, node.get(1)?.as_f64()?));
    Some(Block {
        operator: Operator::ALL.into_iter().find(|o| json["operator"] == o.name())?,
        layer: json["layer"].as_str()?.to_owned(),
        parameters: usize::try_from(json["parameters"].as_u64()?).ok()?,
        step: Step {
            size: number(&json["h"]),
            disagreement: number(&json["disagreement"]),
            noise: number(&json["gradient_noise"]),
        },
        top: json["eigenvalues"].as_array()?.iter().map(pair).collect::<Option<_>>()?,
        smallest: pair(&json["smallest"])?,
        trace: json["trace"].as_f64(),
        trace_error: json["trace_standard_error"].as_f64(),
        density: json["density"].as_array()?.iter().map(node).collect::<Option<_>>()?,
        asymmetry: number(&json["asymmetry"]),
        vectors: vec![],
    })
}
