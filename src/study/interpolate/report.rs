//! A line between two models as text, CSV, arrays, JSON and a figure.

use super::{Line, Running, Settings, barrier};
use crate::error::Result;
use crate::npz::Array;
use crate::plot::{Figure, Panel, Series, thousands};
use crate::study::{Figures, Source, field, restore};
use crate::train::records::Scores;
use serde_json::{Value, json};
use std::fmt::Write;

/// Most points that are read back.
const MOST_POINTS: usize = 1 << 20;

/// Lines with the settings that they share, and what their ends are.
#[derive(Clone, Debug)]
pub struct Study {
    pub settings: Settings,
    pub ends: [Source; 2],
    /// |w_A - w_B|
    pub distance: f64,
    pub lines: Vec<Line>,
}

/// The columns of a line: key, and the score at a point.
type Column = (&'static str, fn(&Line) -> &Vec<Scores>, fn(&Scores) -> f64);

const COLUMNS: [Column; 4] = [
    ("train_loss", |l| &l.train, |s| s.loss),
    ("train_accuracy", |l| &l.train, |s| s.accuracy),
    ("test_loss", |l| &l.test, |s| s.loss),
    ("test_accuracy", |l| &l.test, |s| s.accuracy),
];

fn values(line: &Line, (_, scores, of): &Column) -> Vec<f64> {
    scores(line).iter().map(of).collect()
}

impl Study {
    /// For a terminal: the barriers of each kind of statistics, in loss and in accuracy.
    pub fn to_text(&self) -> String {
        let [a, b] = [0, 1].map(|i| crate::output::printable(&self.ends[i].checkpoint).into_owned());
        let mut text = format!(
            "A: {a}\nB: {b}\n|w_A - w_B| {:.3}; {} points from A to B, on {} training and {} test images\n",
            self.distance,
            self.settings.points,
            self.settings.images.len(),
            self.settings.test_images.len()
        );
        for line in &self.lines {
            let _ = writeln!(text, "\nbatch-norm's statistics {}:", line.running.name());
            for (name, scores) in [("training", &line.train), ("test", &line.test)] {
                let losses: Vec<f64> = scores.iter().map(|s| s.loss).collect();
                let errors: Vec<f64> = scores.iter().map(|s| 100.0 * (1.0 - s.accuracy)).collect();
                let say = |values: &[f64], unit: &str| match barrier(values) {
                    Some((height, t)) if height > 0.0 => format!("{height:.4}{unit} at t = {t:.2}"),
                    Some(_) => "none".to_owned(),
                    None => "not finite".to_owned(),
                };
                let (loss, error) = (say(&losses, ""), say(&errors, " points"));
                let _ = writeln!(text, "  {name:<8}  barrier of the loss: {loss}; of the error: {error}");
            }
        }
        if self.lines.len() == 1 {
            text += "\nthis model has no batch-norm whose statistics could be estimated anew\n";
        }
        text
    }

    /// A row for each point of each line, under a header.
    pub fn to_csv(&self) -> String {
        let keys: Vec<&str> = COLUMNS.iter().map(|c| c.0).collect();
        let mut text = format!("statistics,t,{}\n", keys.join(","));
        for line in &self.lines {
            let columns = COLUMNS.each_ref().map(|column| values(line, column));
            for (i, t) in self.settings.places().iter().enumerate() {
                let cells: Vec<String> = columns.iter().map(|c| field(c.get(i).copied())).collect();
                let _ = writeln!(text, "{},{t},{}", line.running.name(), cells.join(","));
            }
        }
        text
    }

    /// Arrays for NumPy: `t`, and `STATISTICS/COLUMN` for each column of the CSV.
    ///
    /// # Errors
    /// Internal: a line that is not whole.
    pub fn arrays(&self) -> Result<Vec<Array>> {
        let points = [self.settings.points];
        let mut arrays = vec![Array::f64("t", &points, &self.settings.places())?];
        for line in &self.lines {
            for column in &COLUMNS {
                let name = format!("{}/{}", line.running.name(), column.0);
                arrays.push(Array::f64(&name, &points, &values(line, column))?);
            }
        }
        Ok(arrays)
    }

    pub fn to_json(&self) -> Value {
        let line = |line: &Line| {
            let mut entry = json!({"statistics": line.running.name()});
            for column in &COLUMNS {
                entry[column.0] = json!(values(line, column));
            }
            for (key, scores) in [("train_barrier", &line.train), ("test_barrier", &line.test)] {
                let losses: Vec<f64> = scores.iter().map(|s| s.loss).collect();
                entry[key] = json!(barrier(&losses).map(|(height, t)| json!({"loss": height, "t": t})));
            }
            entry
        };
        let Settings { points, images, test_images } = &self.settings;
        json!({
            "study": "interpolate", "points": points, "images": images.len(), "test_images": test_images.len(),
            "ends": self.ends.iter().map(Source::to_json).collect::<Vec<_>>(), "distance": self.distance,
            "lines": self.lines.iter().map(line).collect::<Vec<_>>(),
        })
    }

    /// Loss and error along the line.
    pub fn figure(&self) -> Figure {
        let places = self.settings.places();
        let panel = |title: &str, y_label: &str, log_y: bool, of: &dyn Fn(&Scores) -> f64| {
            let series = |(i, (line, test)): (usize, (&Line, bool))| {
                let scores = if test { &line.test } else { &line.train };
                let points = places.iter().zip(scores).map(|(t, s)| (*t, of(s))).filter(|p| p.1.is_finite()).collect();
                let split = if test { "test" } else { "training" };
                let name = format!("{split}, statistics {}", line.running.name());
                Series::new(&name, i, points)
            };
            let both = self.lines.iter().flat_map(|line| [(line, false), (line, true)]);
            Panel {
                title: title.into(),
                x_label: "t".into(),
                y_label: y_label.into(),
                series: both.enumerate().map(series).collect(),
                log_y,
                ..Panel::default()
            }
        };
        let panels = vec![
            panel("Loss", "cross-entropy", true, &|s| s.loss),
            panel("Error", "%", false, &|s| 100.0 * (1.0 - s.accuracy)),
        ];
        let [a, b] = [0, 1].map(|i| self.ends[i].caption());
        let [train, test] = [&self.settings.images, &self.settings.test_images].map(|i| thousands(i.len() as u64));
        let meaning = format!(
            "Weights (1 − t) w(A) + t w(B), measured on {train} training and {test} test images. Batch-norm's running statistics are \
             interpolated too, or estimated anew on the training images."
        );
        let title = format!("{} on {}: from one solution to another", self.ends[0].model, self.ends[0].data);
        Figure { notes: vec![format!("A: {a}"), format!("B: {b}"), meaning], ..Figure::new(&title, panels) }
    }
}

/// Draws the figures of an interpolation again; None if the object is none.
pub fn figures(json: &Value) -> Option<Figures> {
    Some(vec![("interpolate.svg", study_of(json)?.figure().to_svg())])
}

/// Reads the object that an interpolation wrote; None if it is none.
pub fn study_of(json: &Value) -> Option<Study> {
    if json["study"] != "interpolate" {
        return None;
    }
    let size = |key: &str| json[key].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= MOST_POINTS);
    let (points, images, test_images) = (size("points")?, size("images")?, size("test_images")?);
    let settings = Settings { points, images: vec![0; images], test_images: vec![0; test_images] };
    let line = |json: &Value| {
        let running =
            [Running::Interpolated, Running::Estimated].into_iter().find(|r| json["statistics"] == r.name())?;
        let column = |key: &str| -> Option<Vec<f64>> {
            let all = json[key].as_array().filter(|all| all.len() == points)?;
            Some(all.iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect())
        };
        let scores = |split: &str| -> Option<Vec<Scores>> {
            let [loss, accuracy] = [column(&format!("{split}_loss"))?, column(&format!("{split}_accuracy"))?];
            Some(loss.into_iter().zip(accuracy).map(|(loss, accuracy)| Scores { loss, accuracy }).collect())
        };
        Some(Line { running, train: scores("train")?, test: scores("test")? })
    };
    let lines = json["lines"].as_array()?.iter().map(line).collect::<Option<Vec<_>>>()?;
    let ends = [restore::source(&json["ends"][0])?, restore::source(&json["ends"][1])?];
    Some(Study { settings, ends, distance: json["distance"].as_f64().unwrap_or(f64::NAN), lines })
}
