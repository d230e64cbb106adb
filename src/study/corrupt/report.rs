//! A study of corruptions as text, CSV, JSON and figures.

use super::{Damage, Row, Study};
use crate::optim::Norm;
use crate::plot::{Figure, Heat, HeatMap, Level, Panel, Series, thousands};
use crate::study::{Source, field};
use serde_json::{Value, json};
use std::fmt::Write;

pub(super) fn name(norm: Norm) -> &'static str {
    Norm::NAMES[Norm::ALL.iter().position(|n| *n == norm).unwrap_or(0)]
}

/// Returns the norm's sign for titles of figures.
fn sign(norm: Norm) -> &'static str {
    match norm {
        Norm::Two => "2",
        Norm::Infinity => "∞",
    }
}

fn kind(row: &Row) -> &'static str {
    if row.seed.is_some() { "random" } else { "gradient" }
}

fn percent(share: f64) -> f64 {
    100.0 * share
}

impl Study {
    /// For a terminal: the whole model's accuracies over eps, the layers' in a table, and what the comparison comes to.
    pub fn to_text(&self) -> String {
        let clean = self.clean;
        let mut text = format!(
            "accuracy {:.2} %, loss {:.4} on {} test images; loss {:.4}, |g| {:.4} on {} training images; |w| {:.3}\n",
            percent(clean.accuracy),
            clean.loss,
            self.settings.test_images.len(),
            self.train_loss,
            self.gradient_norm,
            self.settings.gradient_images.len(),
            self.weight_norm
        );
        for (norm, grid) in &self.settings.norms {
            for entries in &self.settings.entries {
                let n = entries.of(self.parameters);
                let _ = write!(text, "\np = {}, n = {n}: accuracy in %\n{:>10}  {:>9}", name(*norm), "eps", "gradient");
                text += &format!("  {:>9}  {:>17}\n", "random", "range");
                for row in self.of_whole(*norm, *entries, false) {
                    let _ = write!(text, "{:>10}  {:>9.2}", row.eps, percent(row.scores.accuracy));
                    if let Some((mean, least, most)) = self.random_at(*norm, *entries, row.eps) {
                        let range = format!("{:.2} to {:.2}", percent(least), percent(most));
                        let _ = write!(text, "  {:>9.2}  {range:>17}", percent(mean));
                    }
                    text.push('\n');
                }
            }
            self.layers_to_text(&mut text, *norm, grid);
        }
        let damages = self.damages();
        if !damages.is_empty() {
            text += "\nGradient-based against random corruption of the whole model:\n";
        }
        damages.iter().for_each(|damage| text += &format!("  {}\n", sentence(damage)));
        text
    }

    fn layers_to_text(&self, text: &mut String, norm: Norm, grid: &[f64]) {
        let (Some(entries), false) = (self.settings.entries.first(), self.settings.layers.is_empty()) else { return };
        let width = self.settings.layers.iter().map(|layer| layer.name.len()).max().unwrap_or(0).max(5);
        let _ = write!(text, "\np = {}, n = {entries} of one layer, gradient-based: accuracy in %\n", name(norm));
        let _ = write!(text, "{:<width$}", "eps");
        grid.iter().for_each(|eps| {
            let _ = write!(text, " {eps:>7}");
        });
        text.push('\n');
        for layer in &self.settings.layers {
            let _ = write!(text, "{:<width$}", layer.name);
            for row in self.of_layer(&layer.name, norm) {
                let _ = write!(text, " {:>7.2}", percent(row.scores.accuracy));
            }
            text.push('\n');
        }
    }

    fn of_layer<'a>(&'a self, layer: &'a str, norm: Norm) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.layer == layer && row.norm == norm)
    }

    /// A row a corruption, under a header.
    pub fn to_csv(&self) -> String {
        let mut text = String::from("layer,p,n,changed,eps,kind,seed,accuracy,loss,first_order\n");
        let clean = self.clean;
        let _ = writeln!(text, "all,,,0,0,none,,{},{},0", clean.accuracy, field(Some(clean.loss)));
        for row in &self.rows {
            let Row { layer, norm, entries, changed, eps, seed, scores, first_order } = row;
            let seed = seed.map_or_else(String::new, |seed| seed.to_string());
            let (kind, loss) = (kind(row), field(Some(scores.loss)));
            let (p, accuracy) = (name(*norm), scores.accuracy);
            let _ =
                writeln!(text, "{layer},{p},{entries},{changed},{eps},{kind},{seed},{accuracy},{loss},{first_order}");
        }
        text
    }

    pub fn to_json(&self, source: &Source) -> Value {
        let row = |row: &Row| {
            json!({
                "layer": row.layer, "p": name(row.norm), "n": row.entries.to_string(), "changed": row.changed,
                "eps": row.eps, "kind": kind(row), "seed": row.seed,
                "accuracy": row.scores.accuracy, "loss": row.scores.loss, "first_order": row.first_order,
            })
        };
        let damage = |d: &Damage| {
            json!({
                "p": name(d.norm), "n": d.entries.to_string(), "eps": d.eps,
                "lost_accuracy": {"gradient": d.gradient_based, "random": d.random, "random_worst": d.worst_random},
                "ratio": d.ratio, "random_eps_for_the_same": d.random_eps,
                "eps_factor": d.random_eps.map(|eps| eps / d.eps),
            })
        };
        json!({
            "study": "corrupt", "source": source.to_json(),
            "test_images": self.settings.test_images.len(), "gradient_images": self.settings.gradient_images.len(),
            "parameters": self.parameters, "weight_norm": self.weight_norm, "gradient_norm": self.gradient_norm,
            "train_loss": self.train_loss,
            "clean": {"accuracy": self.clean.accuracy, "loss": self.clean.loss},
            "damage": self.damages().iter().map(damage).collect::<Vec<_>>(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// Accuracy over eps, a panel for each norm and number of entries.
    pub fn curves(&self, source: &Source) -> Figure {
        let mut levels = vec![Level {
            label: format!("uncorrupted, {:.1} %", percent(self.clean.accuracy)),
            y: percent(self.clean.accuracy),
            dotted: false,
        }];
        if source.classes > 0 {
            let chance = 100.0 / source.classes as f64;
            levels.push(Level { label: format!("chance, {} %", short(chance)), y: chance, dotted: true });
        }
        let mut panels = Vec::new();
        for entries in &self.settings.entries {
            for (norm, grid) in &self.settings.norms {
                let steepest = self.of_whole(*norm, *entries, false).map(|r| (r.eps, percent(r.scores.accuracy)));
                let mut series = vec![Series::new("gradient-based", 1, steepest.collect())];
                let random = grid.iter().filter_map(|eps| Some((*eps, self.random_at(*norm, *entries, *eps)?)));
                let random: Vec<_> = random.collect();
                let points = random.iter().map(|(eps, (mean, ..))| (*eps, percent(*mean))).collect();
                let band = random.iter().map(|(_, (_, least, most))| (percent(*least), percent(*most))).collect();
                series.push(Series { band, ..Series::new("random", 0, points) });
                series.retain(|series| !series.points.is_empty());
                panels.push(Panel {
                    title: format!("p = {}, n = {entries}", sign(*norm)),
                    x_label: "ε".into(),
                    y_label: "test accuracy, %".into(),
                    series,
                    levels: levels.clone(),
                    log_x: true,
                    compared: "accuracy",
                    reach: vec![0.0, 100.0],
                    ..Panel::default()
                });
            }
        }
        let band = match self.settings.seeds.len() {
            0 => String::new(),
            1 => " Random corruptions are of one seed.".into(),
            seeds => format!(" Random: mean over {seeds} seeds, band from the lowest to the highest."),
        };
        let parameters = thousands(self.parameters as u64);
        let meaning =
            format!("Corruptions have |a| = ε in the p-norm and change at most n of {parameters} parameters.{band}");
        let title = format!("Corrupted parameters of {} on {}", source.model, source.data);
        let notes = vec![source.caption(), meaning, self.images()];
        Figure { columns: self.settings.norms.len(), notes, ..Figure::new(&title, panels) }
    }

    /// Returns the measured images, for the notes of figures.
    fn images(&self) -> String {
        let [tested, gradient] = [&self.settings.test_images, &self.settings.gradient_images];
        let [tested, gradient] = [tested, gradient].map(|images| thousands(images.len() as u64));
        format!("Accuracy on {tested} test images; gradient of {gradient} training images.")
    }

    /// Accuracy by layer and eps, a map for each norm; None without layers.
    pub fn map(&self, source: &Source) -> Option<HeatMap> {
        if self.settings.layers.is_empty() {
            return None;
        }
        let entries = self.settings.entries.first()?;
        let map = |(norm, grid): &(Norm, Vec<f64>)| {
            let accuracies =
                |layer: &str| self.of_layer(layer, *norm).map(|row| percent(row.scores.accuracy)).collect::<Vec<_>>();
            Heat {
                title: format!("p = {}, n = {entries} of the layer", sign(*norm)),
                x_label: "ε".into(),
                columns: grid.iter().map(f64::to_string).collect(),
                rows: self.settings.layers.iter().map(|layer| (layer.name.clone(), accuracies(&layer.name))).collect(),
            }
        };
        let title = format!("Gradient-based corruption of one layer of {} on {}", source.model, source.data);
        let clean = format!("{:.1} % uncorrupted", percent(self.clean.accuracy));
        let levels = match source.classes {
            0 => format!("{clean}."),
            classes => format!("{clean}, {} % by chance.", short(100.0 / classes as f64)),
        };
        let notes = vec![source.caption(), self.images(), levels];
        let scale = (0.0, 100.0, "test accuracy, %".into());
        Some(HeatMap { title, maps: self.settings.norms.iter().map(map).collect(), scale, notes })
    }
}

/// A percentage without digits that say nothing: "10", "0.5".
fn short(percent: f64) -> String {
    let digits = if percent < 1.0 { 2 } else { 1 };
    let text = format!("{percent:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// "p = 2, n = all: at eps 1 gradient-based corruption costs 50.0 points, ...".
fn sentence(damage: &Damage) -> String {
    let Damage { norm, entries, eps, gradient_based, random, worst_random, ratio, random_eps } = damage;
    if *gradient_based <= 0.0 {
        let what = "gradient-based corruption costs nothing at any eps: there is nothing to compare";
        return format!("p = {}, n = {entries}: {what}", name(*norm));
    }
    let mut text = format!(
        "p = {}, n = {entries}, eps = {eps}: gradient-based {:.2} points, random {:.2} (worst seed {:.2})",
        name(*norm),
        percent(*gradient_based),
        percent(*random),
        percent(*worst_random)
    );
    text += &ratio.map_or("; random costs nothing".into(), |ratio| format!(", a factor of {ratio:.1}"));
    match random_eps {
        Some(other) => text + &format!("; random needs eps = {other:.3}, {:.1} times as much", other / eps),
        None => text + "; random corruption never costs that on this grid",
    }
}
