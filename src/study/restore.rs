//! Studies read back from the JSON that they wrote, to draw their figures again.

use super::corrupt;
use super::sharpness::{self, Scaled};
use super::{Draw, Entries, Figures, Layer, Source};
use crate::data::known::Known;
use crate::optim::Norm;
use crate::train::records::Scores;
use serde_json::Value;

/// A study with what it is of.
pub enum Restored {
    Corrupt(Source, corrupt::Study),
    Sharpness(Source, sharpness::Study),
}

/// Most images that a study is believed to have measured: a place is kept for each.
const MOST_IMAGES: usize = 1 << 24;

/// Reads the object that a study wrote; None if it is none. Fields that older versions did not write may be missing.
pub fn restore(json: &Value) -> Option<Restored> {
    let source = source(&json["source"])?;
    match json["study"].as_str()? {
        "corrupt" => Some(Restored::Corrupt(source, corrupted(json)?)),
        "sharpness" => Some(Restored::Sharpness(source, sharp(json)?)),
        _ => None,
    }
}

/// The figures of a study of corruptions.
pub fn corrupt_figures(json: &Value) -> Option<Figures> {
    let Restored::Corrupt(source, study) = restore(json)? else { return None };
    let map = study.map(&source).map(|map| ("layers.svg", map.to_svg()));
    Some([("corrupt.svg", study.curves(&source).to_svg())].into_iter().chain(map).collect())
}

/// The figures of a study of sharpness.
pub fn sharpness_figures(json: &Value) -> Option<Figures> {
    let Restored::Sharpness(source, study) = restore(json)? else { return None };
    Some(vec![("sharpness.svg", study.curves(&source).to_svg())])
}

pub(super) fn source(json: &Value) -> Option<Source> {
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    let data = text("data")?;
    let named = Known::by_name(&data).map(|known| known.class_names.len() as u64);
    let classes = json["classes"].as_u64().or(named).unwrap_or(0) as usize;
    let step = json["step"].as_u64()?;
    Some(Source {
        checkpoint: text("checkpoint")?,
        model: text("model")?,
        data,
        step,
        classes,
        weights: if json["weights"] == "average" { "average" } else { "raw" },
        training_images: json["training_images"].clone(),
        device: text("device").unwrap_or_default(),
    })
}

/// A loss that was not finite is null there.
fn number(json: &Value) -> f64 {
    json.as_f64().unwrap_or(f64::NAN)
}

/// Puts `value` into the ascending grid of `key`.
fn collect<K: PartialEq>(grids: &mut Vec<(K, Vec<f64>)>, key: K, value: f64) {
    let at = grids.iter().position(|(k, _)| *k == key).unwrap_or(grids.len());
    if at == grids.len() {
        grids.push((key, vec![]));
    }
    if !grids[at].1.contains(&value) {
        grids[at].1.push(value);
    }
}

fn push<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn corrupted(json: &Value) -> Option<corrupt::Study> {
    let images = |key: &str| Some(vec![0; usize::try_from(json[key].as_u64()?).ok().filter(|n| *n <= MOST_IMAGES)?]);
    let mut settings = corrupt::Settings {
        norms: vec![],
        entries: vec![],
        seeds: vec![],
        draw: Draw::default(),
        layers: vec![],
        gradient_images: images("gradient_images")?,
        test_images: images("test_images")?,
    };
    let mut rows = Vec::new();
    for row in json["rows"].as_array()? {
        let norm = Norm::ALL[Norm::NAMES.iter().position(|name| row["p"] == *name)?];
        let entries = Entries::parse(row["n"].as_str()?).ok()?;
        let (layer, eps, seed) = (row["layer"].as_str()?.to_owned(), row["eps"].as_f64()?, row["seed"].as_u64());
        collect(&mut settings.norms, norm, eps);
        push(&mut settings.entries, entries);
        seed.into_iter().for_each(|seed| push(&mut settings.seeds, seed));
        if layer != "all" {
            push(&mut settings.layers, Layer { name: layer.clone(), places: vec![] });
        }
        let changed = row["changed"].as_u64()? as usize;
        let scores = Scores { loss: number(&row["loss"]), accuracy: row["accuracy"].as_f64()? };
        let first_order = number(&row["first_order"]);
        rows.push(corrupt::Row { layer, norm, entries, changed, eps, seed, scores, first_order });
    }
    Some(corrupt::Study {
        settings,
        clean: Scores { loss: number(&json["clean"]["loss"]), accuracy: json["clean"]["accuracy"].as_f64()? },
        train_loss: number(&json["train_loss"]),
        gradient_norm: number(&json["gradient_norm"]),
        weight_norm: number(&json["weight_norm"]),
        parameters: json["parameters"].as_u64()? as usize,
        rows,
    })
}

fn sharp(json: &Value) -> Option<sharpness::Study> {
    let scaled = Scaled::NAMES.iter().position(|name| json["scaled"] == *name)?;
    let images = usize::try_from(json["images"].as_u64()?).ok().filter(|n| *n <= MOST_IMAGES)?;
    let mut settings = sharpness::Settings {
        kinds: vec![],
        m: vec![],
        images: vec![0; images],
        steps: json["steps"].as_u64()? as usize,
        scaled: Scaled::ALL[scaled],
    };
    let mut rows = Vec::new();
    for row in json["rows"].as_array()? {
        let kind = [sharpness::Kind::Plain, sharpness::Kind::Adaptive].into_iter().find(|k| row["kind"] == k.name())?;
        let (m, rho) = (row["m"].as_u64()? as usize, row["rho"].as_f64()?);
        collect(&mut settings.kinds, kind, rho);
        push(&mut settings.m, m);
        rows.push(sharpness::Row {
            kind,
            m,
            groups: row["groups"].as_u64()? as usize,
            rho,
            flat: row["zero_gradients"].as_u64().unwrap_or(0) as usize,
            sharpness: row["sharpness"].as_f64(),
            standard_error: row["standard_error"].as_f64(),
            loss: number(&row["loss"]),
        });
    }
    Some(sharpness::Study {
        settings,
        loss: number(&json["loss"]),
        gradient_norm: number(&json["gradient_norm"]),
        weight_norm: number(&json["weight_norm"]),
        rows,
    })
}
