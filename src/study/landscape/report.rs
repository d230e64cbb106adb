//! A landscape as text, CSV, arrays, JSON and figures.

use super::{Settings, Surface};
use crate::error::Result;
use crate::npz::Array;
use crate::plot::{self, Contours, Figure, Panel, Series, thousands};
use crate::study::{Figures, Source, field, restore};
use crate::train::records::Scores;
use serde_json::{Value, json};
use std::fmt::Write;

/// Most points of a surface that is read back.
const MOST_POINTS: usize = 1 << 22;

/// Surfaces with the settings that they share, each with what it is of.
#[derive(Clone, Debug)]
pub struct Study {
    pub settings: Settings,
    pub surfaces: Vec<(Source, Surface)>,
}

impl Study {
    /// For a terminal: a line for each surface.
    pub fn to_text(&self) -> String {
        let Settings { points, range, dim, images, .. } = &self.settings;
        let shape = if *dim > 1 { format!("{points} x {points} points") } else { format!("{points} points") };
        let mut text = format!(
            "{shape} from -{range} to {range} along filter-normalised random directions, on {} training images;\n\
             biases and batch-norm's parameters do not move, its running statistics are those of the checkpoint\n",
            images.len()
        );
        for (source, surface) in &self.surfaces {
            let here = surface.middle();
            let least = surface.scores.iter().map(|s| s.loss).fold(f64::INFINITY, f64::min);
            let most = surface.scores.iter().map(|s| s.loss).fold(0.0, f64::max);
            let twice = surface.scores.iter().filter(|s| s.loss <= 2.0 * here.loss).count();
            let norms: Vec<String> = surface.direction_norms.iter().map(|n| format!("{n:.3}")).collect();
            let _ = writeln!(
                text,
                "\n{}: loss {:.4}, accuracy {:.2} %; |w| {:.3}, |d| {}{}\n\
                 loss from {least:.4} to {most:.4}; {:.1} % of the points have at most twice the loss of the model",
                crate::output::printable(&source.checkpoint),
                here.loss,
                100.0 * here.accuracy,
                surface.weight_norm,
                norms.join(" and "),
                if *dim > 1 { format!(", cosine between them {:.4}", surface.cosine) } else { String::new() },
                100.0 * twice as f64 / surface.scores.len().max(1) as f64,
            );
        }
        text
    }

    /// The place of point number `i` of a surface.
    fn place(&self, i: usize) -> (f64, f64) {
        let places = self.settings.places();
        let y = if self.settings.dim > 1 { places[i / places.len()] } else { 0.0 };
        (places[i % places.len()], y)
    }

    /// A row for each point, under a header.
    pub fn to_csv(&self) -> String {
        let mut text = String::from("surface,x,y,loss,accuracy\n");
        for (number, (_, surface)) in self.surfaces.iter().enumerate() {
            for (i, scores) in surface.scores.iter().enumerate() {
                let (x, y) = self.place(i);
                let (loss, accuracy) = (field(Some(scores.loss)), field(Some(scores.accuracy)));
                let _ = writeln!(text, "{number},{x},{y},{loss},{accuracy}");
            }
        }
        text
    }

    /// Arrays for NumPy: `places`, and `loss` and `accuracy` of shape `[surface, y, x]`, without y along a line.
    ///
    /// # Errors
    /// Internal: a surface that is not whole.
    pub fn arrays(&self) -> Result<Vec<Array>> {
        let Settings { points, dim, .. } = self.settings;
        let shape: Vec<usize> = [self.surfaces.len()].into_iter().chain(vec![points; dim]).collect();
        let all = |of: fn(&Scores) -> f64| -> Vec<f64> {
            self.surfaces.iter().flat_map(|(_, surface)| surface.scores.iter().map(of)).collect()
        };
        Ok(vec![
            Array::f64("places", &[points], &self.settings.places())?,
            Array::f64("loss", &shape, &all(|s| s.loss))?,
            Array::f64("accuracy", &shape, &all(|s| s.accuracy))?,
        ])
    }

    pub fn to_json(&self) -> Value {
        let surface = |(source, surface): &(Source, Surface)| {
            json!({
                "source": source.to_json(), "weight_norm": surface.weight_norm, "direction_norms": surface.direction_norms,
                "cosine": surface.cosine, "loss": surface.scores.iter().map(|s| s.loss).collect::<Vec<_>>(),
                "accuracy": surface.scores.iter().map(|s| s.accuracy).collect::<Vec<_>>(),
            })
        };
        let Settings { dim, points, range, images, seed } = &self.settings;
        json!({
            "study": "landscape", "dim": dim, "points": points, "range": range, "images": images.len(), "seed": seed,
            "surfaces": self.surfaces.iter().map(surface).collect::<Vec<_>>(),
        })
    }

    fn notes(&self) -> Vec<String> {
        let Settings { images, seed, .. } = &self.settings;
        let count = thousands(images.len() as u64);
        let mut notes: Vec<String> = self.surfaces.iter().map(|(source, _)| source.caption()).collect();
        notes.push(format!(
            "Cross-entropy of {count} training images around the trained weights (in the middle). Directions are random (seed {seed}), \
             with filters as long as those of the weights (Li et al. 2018); biases and batch-norm's parameters do not move, and its \
             running statistics are those of the checkpoint."
        ));
        notes
    }

    /// The figures: of planes their iso-lines, with common levels; of lines loss and accuracy.
    pub fn figures(&self) -> Figures {
        let title = match self.surfaces.first() {
            Some((source, _)) => format!("Loss around {} on {}", source.model, source.data),
            None => return vec![],
        };
        let places = self.settings.places();
        let name = |source: &Source| source.checkpoint.clone();
        if self.settings.dim > 1 {
            let map = |(source, surface): &(Source, Surface)| plot::Surface {
                title: name(source),
                xs: places.clone(),
                ys: places.clone(),
                values: surface.scores.iter().map(|s| s.loss).collect(),
            };
            let surfaces = self.surfaces.iter().map(map).collect();
            let figure = Contours { title, surfaces, what: "loss".into(), notes: self.notes() };
            return vec![("landscape.svg", figure.to_svg())];
        }
        let panel = |title: &str, y_label: &str, log_y: bool, of: &dyn Fn(&Scores) -> f64| {
            let line = |(i, (source, surface)): (usize, &(Source, Surface))| {
                let points = places.iter().zip(&surface.scores).map(|(x, s)| (*x, of(s))).filter(|p| p.1.is_finite());
                Series::new(&name(source), i, points.collect())
            };
            Panel {
                title: title.into(),
                x_label: "along d".into(),
                y_label: y_label.into(),
                series: self.surfaces.iter().enumerate().map(line).collect(),
                log_y,
                ..Panel::default()
            }
        };
        let panels = vec![
            panel("Training loss", "cross-entropy", true, &|s| s.loss),
            panel("Training accuracy", "%", false, &|s| 100.0 * s.accuracy),
        ];
        vec![("landscape.svg", Figure { notes: self.notes(), ..Figure::new(&title, panels) }.to_svg())]
    }
}

/// Draws the figures of a landscape again; None if the object is none.
pub fn figures(json: &Value) -> Option<Figures> {
    study_of(json).map(|study| study.figures())
}

/// Reads the object that a study of a landscape wrote; None if it is none.
pub fn study_of(json: &Value) -> Option<Study> {
    if json["study"] != "landscape" {
        return None;
    }
    let size = |key: &str| json[key].as_u64().and_then(|n| usize::try_from(n).ok());
    let (dim, points) = (size("dim")?, size("points")?);
    let fits = |points: usize| (1..=2).contains(&dim) && points > 2 && points % 2 == 1 && points <= MOST_POINTS;
    let total = points.checked_pow(dim as u32).filter(|total| fits(points) && *total <= MOST_POINTS)?;
    let images = size("images")?.clamp(1, MOST_POINTS);
    let range = json["range"].as_f64().filter(|range| *range > 0.0)?;
    let settings = Settings { dim, points, range, images: vec![0; images], seed: json["seed"].as_u64()? };
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let surface = |json: &Value| {
        let [loss, accuracy] = ["loss", "accuracy"].map(|key| json[key].as_array().filter(|all| all.len() == total));
        let scores =
            loss?.iter().zip(accuracy?).map(|(l, a)| Scores { loss: number(l), accuracy: number(a) }).collect();
        let norms = json["direction_norms"].as_array()?.iter().map(number).collect();
        let (weight_norm, cosine) = (number(&json["weight_norm"]), number(&json["cosine"]));
        Some((restore::source(&json["source"])?, Surface { weight_norm, direction_norms: norms, cosine, scores }))
    };
    let surfaces = json["surfaces"].as_array()?.iter().map(surface).collect::<Option<Vec<_>>>()?;
    Some(Study { settings, surfaces })
}
