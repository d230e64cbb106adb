//! The loss on the straight line between two trained models of one architecture, and the barrier on it.
//!
//! The weights of point t are (1 - t) w_A + t w_B. The barrier (Frankle et al. 2020, arXiv:1912.05671) is the largest height of the
//! loss above the straight line between the losses of the ends; two models without one lie in a common basin. Batch-norm's running
//! statistics of neither model fit the weights between them, which alone can make a barrier (Jordan et al. 2023, arXiv:2211.08403):
//! they are taken both as the interpolation of the ends' and estimated anew on training images.

mod report;
mod statistics;

pub use report::{Study, figures, study_of};
pub use statistics::Statistics;

use super::Probe;
use crate::error::{Error, Result};
use crate::study::journal::Journal;
use crate::train::engine::{TEST, TRAIN};
use crate::train::records::Scores;
use serde_json::{Value, json};

/// Settings of the study.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Points from t = 0 to t = 1, the ends included.
    pub points: usize,
    /// Numbers of the training images and of the test images that are measured.
    pub images: Vec<u32>,
    pub test_images: Vec<u32>,
}

impl Settings {
    /// Returns the settings for the study's journal.
    pub fn to_json(&self) -> Value {
        json!({"points": self.points, "measured": self.images.len(), "tested": self.test_images.len()})
    }

    /// Returns the places along the line.
    pub fn places(&self) -> Vec<f64> {
        (0..self.points).map(|i| i as f64 / (self.points.max(2) - 1) as f64).collect()
    }
}

/// Where batch-norm's running statistics between the ends come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// (1 - t) times those of A plus t times those of B.
    Interpolated,
    /// The mean over whole batches of the training images at the weights of the point.
    Estimated,
}

impl Running {
    /// Names as results have them.
    pub fn name(self) -> &'static str {
        match self {
            Running::Interpolated => "interpolated",
            Running::Estimated => "estimated",
        }
    }
}

/// Scores along the line, with one kind of statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub running: Running,
    pub train: Vec<Scores>,
    pub test: Vec<Scores>,
}

/// Returns the largest height of `values`, at equal distances along a line, above the straight line between their ends, and where
/// it is, from 0 to 1. The height is 0 where nothing lies above; None where a value is not finite.
pub fn barrier(values: &[f64]) -> Option<(f64, f64)> {
    let (first, last) = (*values.first()?, *values.last()?);
    let steps = (values.len().max(2) - 1) as f64;
    let mut highest = (0.0, 0.0);
    for (i, value) in values.iter().enumerate() {
        let t = i as f64 / steps;
        let height = value - ((1.0 - t) * first + t * last);
        if !height.is_finite() {
            return None;
        }
        if height > highest.0 {
            highest = (height, t);
        }
    }
    Some(highest)
}

/// Weights and batch-norm's running statistics of one end.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub weights: &'a [f32],
    pub running: &'a [f32],
}

fn mixed(a: &[f32], b: &[f32], t: f64) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| ((1.0 - t) * f64::from(*a) + t * f64::from(*b)) as f32).collect()
}

/// Measures the line between two models on the images that `probe` has; with `statistics`, which a model without batch-norm does
/// not need, also with statistics that are estimated. Each point and kind is a measurement of `journal`.
///
/// # Errors
/// Those of the device.
pub fn run(
    probe: &mut Probe,
    ends: [End<'_>; 2],
    settings: &Settings,
    statistics: &mut Option<Statistics>,
    journal: &mut Journal<'_>,
) -> Result<Vec<Line>> {
    let kinds = [Running::Interpolated, Running::Estimated];
    let kinds = &kinds[..if statistics.is_some() { 2 } else { 1 }];
    let mut lines: Vec<Line> =
        kinds.iter().map(|running| Line { running: *running, train: vec![], test: vec![] }).collect();
    for (i, t) in settings.places().into_iter().enumerate() {
        for line in &mut lines {
            let values = journal.measure(&format!("{}/{i}", line.running.name()), || {
                let weights = mixed(ends[0].weights, ends[1].weights, t);
                let mut running = mixed(ends[0].running, ends[1].running, t);
                if let (Running::Estimated, Some(statistics)) = (line.running, statistics.as_mut()) {
                    running = statistics.estimate(&weights, &running, &settings.images)?;
                }
                probe.set_running(&running)?;
                let train = probe.scores(&weights, TRAIN, &settings.images)?;
                let test = probe.scores(&weights, TEST, &settings.test_images)?;
                Ok(vec![train.loss, train.accuracy, test.loss, test.accuracy])
            })?;
            let [loss, accuracy, test_loss, test_accuracy] = values[..] else {
                return Err(Error::internal("a point's measurements"));
            };
            line.train.push(Scores { loss, accuracy });
            line.test.push(Scores { loss: test_loss, accuracy: test_accuracy });
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_is_the_height_above_the_line_between_the_ends() {
        assert_eq!(barrier(&[1.0, 5.0, 2.0]), Some((3.5, 0.5)));
        assert_eq!(barrier(&[1.0, 0.5, 1.0]), Some((0.0, 0.0)), "a valley is no barrier");
        assert_eq!(barrier(&[0.0, 1.0, 2.0, 3.5, 4.0]), Some((0.5, 0.75)));
        assert_eq!(barrier(&[1.0, f64::NAN, 1.0]), None);
        assert_eq!(barrier(&[]), None);
    }
}
