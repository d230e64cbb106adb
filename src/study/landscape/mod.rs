//! The loss around trained weights: along one random direction, or over the plane of two.
//!
//! Li et al. 2018 ("Visualizing the Loss Landscape of Neural Nets", arXiv:1712.09913): a direction is drawn from N(0, 1), and each
//! of its filters is scaled to the norm of the weights' filter, so that networks whose weights differ in scale can be compared. A
//! filter is an output channel of a convolution or an output of a linear layer. Biases and the parameters of batch-norm do not
//! move: their entries of the direction are 0.

mod report;

pub use report::{Study, figures, study_of};

use super::Probe;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::rng::{Draws, stream};
use crate::study::journal::Journal;
use crate::train::engine::TRAIN;
use crate::train::records::Scores;
use serde_json::{Value, json};

/// Streams of random numbers of the two directions.
const STREAMS: [&str; 2] = ["landscape x", "landscape y"];

/// Settings of the study.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// 1: along a line, 2: over a plane.
    pub dim: usize,
    /// Points along each axis, an odd number, so that one of them is the weights themselves.
    pub points: usize,
    /// The axes go from -range to range, in lengths of the directions.
    pub range: f64,
    /// Numbers of the training images.
    pub images: Vec<u32>,
    pub seed: u64,
}

impl Settings {
    /// Returns the number of points of one surface.
    pub fn measurements(&self) -> usize {
        self.points.pow(self.dim as u32)
    }

    /// Returns the settings for the study's journal.
    pub fn to_json(&self) -> Value {
        let Settings { dim, points, range, images, .. } = self;
        json!({"dim": dim, "points": points, "range": range, "measured": images.len()})
    }

    /// Returns the places along an axis, from -range to range.
    pub fn places(&self) -> Vec<f64> {
        let half = (self.points / 2) as f64;
        (0..self.points).map(|i| self.range * (i as f64 - half) / half.max(1.0)).collect()
    }

    /// # Errors
    /// Usage: settings that make no grid.
    pub fn check(&self) -> Result<()> {
        if self.points < 3 || self.points.is_multiple_of(2) {
            let message =
                format!("--points {} must be odd and at least 3: the one in the middle is the model", self.points);
            return Err(Error::usage(message));
        }
        if self.images.is_empty() {
            return Err(Error::usage("there are no images to measure"));
        }
        Ok(())
    }
}

/// A random direction in the space of `weights`, with filters of the norms that those of `weights` have.
///
/// `which` is 0 or 1, for the two axes of a plane. The draws depend on the seed and the model's layout alone, so that two
/// checkpoints of one model get the same ones.
pub fn direction(graph: &Graph, weights: &[f32], seed: u64, which: usize) -> Vec<f32> {
    let mut direction = vec![0f32; weights.len()];
    let mut draws = Draws::new(seed, stream(STREAMS[which.min(1)]), 0, 0);
    for param in graph.params().list().iter().filter(|param| param.shape.len() > 1) {
        let filter = param.len() / param.shape[0].max(1);
        for first in (param.offset..param.offset + param.len()).step_by(filter.max(1)) {
            let place = first..first + filter;
            let drawn: Vec<f64> = place.clone().map(|_| draws.normal()).collect();
            let length = drawn.iter().map(|v| v * v).sum::<f64>().sqrt();
            let norm = super::norm(&weights[place.clone()]);
            let scale = if length > 0.0 { norm / length } else { 0.0 };
            for (to, value) in direction[place].iter_mut().zip(drawn) {
                *to = (scale * value) as f32;
            }
        }
    }
    direction
}

/// Returns the cosine of the angle between two directions; 0 where one of them is 0.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let lengths = super::norm(a) * super::norm(b);
    if lengths > 0.0 { dot / lengths } else { 0.0 }
}

/// What was measured around one checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Surface {
    /// Norms of the weights and of the directions, and the cosine between these (0 along a line).
    pub weight_norm: f64,
    pub direction_norms: Vec<f64>,
    pub cosine: f64,
    /// At each point: all places of x at the first place of y, and so on.
    pub scores: Vec<Scores>,
}

impl Surface {
    /// Returns loss and accuracy at the weights themselves.
    pub fn middle(&self) -> Scores {
        self.scores.get(self.scores.len() / 2).copied().unwrap_or_default()
    }
}

/// Measures the surface around `weights` on the training images that `probe` has; each point is a measurement of `journal`, under
/// `name`.
///
/// # Errors
/// Usage: settings that make no grid. Those of the device.
pub fn run(
    probe: &mut Probe,
    graph: &Graph,
    weights: &[f32],
    settings: &Settings,
    name: &str,
    journal: &mut Journal<'_>,
) -> Result<Surface> {
    settings.check()?;
    let directions: Vec<Vec<f32>> =
        (0..settings.dim).map(|which| direction(graph, weights, settings.seed, which)).collect();
    let places = settings.places();
    let still = [0.0];
    let ys: &[f64] = if settings.dim > 1 { &places } else { &still };
    let mut scores = Vec::with_capacity(settings.measurements());
    for (j, y) in ys.iter().enumerate() {
        for (i, x) in places.iter().enumerate() {
            let values = journal.measure(&format!("{name}/{j}/{i}"), || {
                let moved = moved(weights, &directions, &[*x, *y]);
                let scores = probe.scores(&moved, TRAIN, &settings.images)?;
                Ok(vec![scores.loss, scores.accuracy])
            })?;
            let [loss, accuracy] = values[..] else { return Err(Error::internal("a point's measurements")) };
            scores.push(Scores { loss, accuracy });
        }
    }
    let direction_norms = directions.iter().map(|d| super::norm(d)).collect();
    let cosine = if let [a, b] = &directions[..] { cosine(a, b) } else { 0.0 };
    Ok(Surface { weight_norm: super::norm(weights), direction_norms, cosine, scores })
}

/// Returns `weights` moved by `steps` along `directions`.
fn moved(weights: &[f32], directions: &[Vec<f32>], steps: &[f64]) -> Vec<f32> {
    let at = |i: usize| -> f64 { directions.iter().zip(steps).map(|(d, step)| step * f64::from(d[i])).sum() };
    weights.iter().enumerate().map(|(i, w)| (f64::from(*w) + at(i)) as f32).collect()
}
