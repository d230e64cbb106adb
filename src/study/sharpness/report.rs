//! A study of sharpness as text, CSV, JSON and a figure.

use super::{Kind, Row, Scaled, Study};
use crate::plot::{Figure, Panel, Series, thousands};
use crate::study::{Source, field};
use serde_json::{Value, json};
use std::fmt::Write;

impl Row {
    /// Returns a line on the groups whose gradient is 0; None where there are none.
    fn without_gradient(&self) -> Option<String> {
        let Row { m, groups, flat, .. } = self;
        match *flat {
            0 => None,
            flat if flat == *groups => {
                Some(format!("  m = {m}: the gradient is 0 in all {groups} groups, nothing is measured"))
            }
            flat => Some(format!("  m = {m}: the gradient is 0 in {flat} of {groups} groups, which add 0 to the mean")),
        }
    }
}

impl Study {
    fn of(&self, kind: Kind, m: usize) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.kind == kind && row.m == m)
    }

    fn scaled(&self) -> &'static str {
        Scaled::NAMES[Scaled::ALL.iter().position(|s| *s == self.settings.scaled).unwrap_or(0)]
    }

    /// For a terminal: a table for each kind, a line for each m.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "loss {:.4}, |g| {:.4} on {} training images; |w| {:.3}\n",
            self.loss,
            self.gradient_norm,
            self.settings.images.len(),
            self.weight_norm
        );
        for (kind, grid) in &self.settings.kinds {
            let _ = write!(
                text,
                "\n{} sharpness: mean over groups of m images of L(w + e) - L(w)\n{:>6}",
                kind.name(),
                "m"
            );
            grid.iter().for_each(|rho| {
                let _ = write!(text, " {:>11}", format!("rho {rho}"));
            });
            text.push('\n');
            for m in &self.settings.m {
                let _ = write!(text, "{m:>6}");
                for row in self.of(*kind, *m) {
                    let sharpness = row.sharpness.map_or_else(|| "-".to_owned(), |sharpness| format!("{sharpness:.6}"));
                    let _ = write!(text, " {sharpness:>11}");
                }
                text.push('\n');
            }
            for m in &self.settings.m {
                text.extend(self.of(*kind, *m).next().and_then(Row::without_gradient).map(|line| line + "\n"));
            }
        }
        text
    }

    /// A row for each kind, m and rho, under a header.
    pub fn to_csv(&self) -> String {
        let mut text = String::from("kind,m,groups,rho,sharpness,standard_error,loss,zero_gradients\n");
        for row in &self.rows {
            let Row { kind, m, groups, flat, rho, sharpness, standard_error, loss } = row;
            let [sharpness, error, loss] = [*sharpness, *standard_error, Some(*loss)].map(field);
            let _ = writeln!(text, "{},{m},{groups},{rho},{sharpness},{error},{loss},{flat}", kind.name());
        }
        text
    }

    pub fn to_json(&self, source: &Source) -> Value {
        let row = |row: &Row| {
            json!({
                "kind": row.kind.name(), "m": row.m, "groups": row.groups, "zero_gradients": row.flat, "rho": row.rho,
                "sharpness": row.sharpness, "standard_error": row.standard_error, "loss": row.loss,
            })
        };
        json!({
            "study": "sharpness", "source": source.to_json(),
            "images": self.settings.images.len(), "steps": self.settings.steps, "scaled": self.scaled(),
            "loss": self.loss, "gradient_norm": self.gradient_norm, "weight_norm": self.weight_norm,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// Sharpness over rho, a panel for each kind and a line for each m.
    pub fn curves(&self, source: &Source) -> Figure {
        let panel = |(kind, _): &(Kind, Vec<f64>)| {
            let line = |(i, m): (usize, &usize)| {
                let measured =
                    || self.of(*kind, *m).filter_map(|row| Some((row.rho, row.sharpness?, row.standard_error?)));
                let points = measured().map(|(rho, sharpness, _)| (rho, sharpness)).collect();
                let band = measured().map(|(_, sharpness, error)| (sharpness - error, sharpness + error)).collect();
                Series { band, ..Series::new(&format!("m = {m}"), i, points) }
            };
            let x_label = match kind {
                Kind::Plain => "ρ = |e|",
                Kind::Adaptive => "ρ = |T⁻¹e|, T = |w|",
            };
            Panel {
                title: format!("{} m-sharpness", kind.name()),
                x_label: x_label.into(),
                y_label: "L(w + e) − L(w)".into(),
                series: self.settings.m.iter().enumerate().map(line).collect(),
                log_x: true,
                log_y: true,
                compared: "sharpness",
                ..Panel::default()
            }
        };
        let images = thousands(self.settings.images.len() as u64);
        let steps = match self.settings.steps {
            1 => "one ascent step".to_owned(),
            steps => format!("{steps} ascent steps"),
        };
        let meaning = format!(
            "Mean over groups of m of {images} training images, {steps}; bands are ± one standard error over the groups."
        );
        let title = format!("Sharpness of {} on {}", source.model, source.data);
        let panels = self.settings.kinds.iter().map(panel).collect();
        Figure { notes: vec![source.caption(), meaning], ..Figure::new(&title, panels) }
    }
}
