//! curves.svg: a run's metrics.csv and the learning rates of its steps.jsonl, as a figure.

use super::records::{Metrics, Tracked, rates, tracked};
use crate::error::Result;
use crate::files::write_atomic;
use crate::optim::OPTIMIZERS;
use crate::plot::{Figure, Panel, Series};
use crate::recipe::{RESUMABLE, Recipe, SETTINGS, Value};
use std::path::Path;

/// Words of a run's figure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Caption {
    pub title: String,
    /// The settings it was made with.
    pub settings: String,
    /// The training loss, where it is not cross-entropy.
    pub loss_kind: String,
    /// The largest eigenvalue at which training is stable, times the learning rate; see [`Recipe::edge`].
    pub edge: f64,
}

impl Caption {
    /// The caption of a run of `recipe` on the data set called `data`.
    pub fn of(recipe: &Recipe, data: &str) -> Caption {
        let title = format!("{} with {} on {data}", recipe.model, recipe.opt);
        let mut settings = format!("Settings: {}.", settings(recipe).join(", "));
        let loss_kind = recipe.loss_kind();
        if !loss_kind.is_empty() {
            // The legend has no room for the longest names.
            settings += &format!(" Training loss: {loss_kind}; all others: cross-entropy.");
        }
        Caption { title, settings, loss_kind, edge: recipe.edge() }
    }
}

/// Settings that every caption names, whatever their values.
const ALWAYS: [&str; 4] = ["lr", "epochs", "batch", "seed"];
/// Settings that titles name.
const IN_TITLES: [&str; 3] = ["model", "data", "opt"];

/// Returns the settings that tell a run from one with the defaults, the optimizer's own and the usual four: "rho 0.05". Own
/// settings that are left switched off are not among them.
pub fn settings(recipe: &Recipe) -> Vec<String> {
    let own = OPTIMIZERS.iter().find(|o| o.name == recipe.opt).map_or(&[][..], |o| o.settings);
    let others = |name: &str| OPTIMIZERS.iter().any(|o| o.settings.contains(&name)) && !own.contains(&name);
    let default = Recipe::default();
    let named = SETTINGS.iter().filter(|s| s.section != RESUMABLE && !IN_TITLES.contains(&s.name) && !others(s.name));
    let off = |value: &Value| match value {
        Value::Count(n) => *n <= 1,
        Value::Number(x) => *x == 0.0,
        _ => false,
    };
    let named = named
        .filter(|s| {
            let value = s.get(recipe);
            ALWAYS.contains(&s.name) || value != s.get(&default) || own.contains(&s.name) && !off(&value)
        })
        .map(|s| match s.get(recipe) {
            Value::Switch(on) => format!("{} {}", s.name, if on { "on" } else { "off" }),
            value => format!("{} {value}", s.name),
        });
    named.collect()
}

/// A line of the figure: column of metrics.csv, its name, its style.
type Line = (&'static str, &'static str, usize);

/// Panels in order: title, y label, factor, log axis, lines. A line whose column is absent or empty is left out, as is a panel
/// none of whose columns is there.
const PANELS: &[(&str, &str, f64, bool, &[Line])] = &[
    (
        "Accuracy",
        "%",
        100.0,
        false,
        &[("train_accuracy", "train", 0), ("val_accuracy", "validation", 2), ("test_accuracy", "test", 1)],
    ),
    (
        "Loss",
        "cross-entropy",
        1.0,
        false,
        &[("train_loss", "train", 0), ("val_loss", "validation", 2), ("test_loss", "test", 1)],
    ),
    (
        "Gradient, sharpness",
        "mean over the epoch",
        1.0,
        true,
        &[("grad_norm", "|g|", 4), ("sharpness_gain", "L(w + ε) − L(w)", 3)],
    ),
    (
        NOISE,
        "% of these images",
        100.0,
        false,
        &[
            ("clean_accuracy", "right label: predicted", 0),
            ("learned", "wrong label: true class predicted", 2),
            ("memorised", "wrong label: predicted", 3),
        ],
    ),
];
const NOISE: &str = "Training images with a right and with a wrong label";
const RATE: &str = "Learning rate";
/// Most times the largest eigenvalue up to which its bound is drawn: early in warm-up it is far above.
const BOUND_ABOVE: f64 = 3.0;

/// The panel of the eigenvalues of tracked steps against the bound of stability; None where none were tracked.
fn curvature(caption: &Caption, tracked: &[Tracked]) -> Option<Panel> {
    let largest = tracked.iter().map(|t| t.most).fold(0.0, f64::max);
    let bound = |t: &Tracked| (t.step, caption.edge / t.rate);
    let bounds = tracked.iter().map(bound).map(|(x, y)| (x, if y <= BOUND_ABOVE * largest { y } else { f64::NAN }));
    let line = |label: &str, style, points| Series { fine: true, ..Series::new(label, style, points) };
    (!tracked.is_empty()).then(|| Panel {
        title: "Eigenvalues of the Hessian".into(),
        x_label: "step".into(),
        y_label: "before the step".into(),
        series: vec![
            line("largest", 0, tracked.iter().map(|t| (t.step, t.most)).collect()),
            line("smallest", 2, tracked.iter().map(|t| (t.step, t.least)).collect()),
            line(&format!("SGD is stable below {:.3}/lr", caption.edge), 1, bounds.collect()),
        ],
        wide: true,
        ..Panel::default()
    })
}

/// Returns the figure of a run; `rates` are the learning rates of its steps, `tracked` their eigenvalues.
pub fn figure(caption: &Caption, metrics: &Metrics, rates: Vec<(f64, f64)>, tracked: &[Tracked]) -> Figure {
    let epochs: Vec<f64> = metrics.column("epoch").unwrap_or_default().into_iter().flatten().collect();
    let panel = |&(title, y_label, factor, log_y, lines): &(&str, &str, f64, bool, &[Line])| {
        let series = lines.iter().filter_map(|&(column, label, style)| {
            let values = metrics.column(column)?;
            let points: Vec<(f64, f64)> =
                epochs.iter().zip(values).filter_map(|(x, y)| Some((*x, factor * y?))).collect();
            let label = match column {
                "train_loss" if !caption.loss_kind.is_empty() => format!("{label}: {}", caption.loss_kind),
                _ => label.to_owned(),
            };
            (!points.is_empty()).then(|| Series::new(&label, style, points))
        });
        let series = series.collect();
        let (title, y_label, wide) = (title.to_owned(), y_label.to_owned(), title == NOISE);
        Panel { title, x_label: "epoch".into(), y_label, series, log_y, wide, ..Panel::default() }
    };
    let there = |(.., lines): &&(&str, &str, f64, bool, &[Line])| lines.iter().any(|l| metrics.column(l.0).is_some());
    let mut panels: Vec<Panel> = PANELS.iter().filter(there).map(panel).collect();
    let rate = Panel {
        title: RATE.into(),
        x_label: "step".into(),
        y_label: "at each step".into(),
        series: vec![Series::new("", 0, rates)],
        ..Panel::default()
    };
    let noisy = panels.iter().position(|p| p.title == NOISE).unwrap_or(panels.len());
    panels.insert(noisy, rate);
    panels.extend(curvature(caption, tracked));
    Figure { notes: vec![caption.settings.clone()], ..Figure::new(&caption.title, panels) }
}

/// Draws the figure of a run from its metrics.csv and steps.jsonl; without the latter the learning rate is left out.
///
/// # Errors
/// If metrics.csv cannot be read or the figure not written.
pub fn draw(caption: &Caption, metrics: &Path, steps: &Path, to: &Path) -> Result<()> {
    let figure = figure(caption, &Metrics::read(metrics)?, rates(steps), &tracked(steps));
    write_atomic(to, figure.to_svg().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_name_what_differs_from_the_defaults_and_the_optimizers_own() {
        let recipe = Recipe { opt: "sam".into(), rho: 0.1, eta: 9.0, crop: 2, threads: 3, ..Recipe::default() };
        let told = settings(&recipe).join(", ");
        assert!(told.starts_with("crop 2, rho 0.1, ") && told.contains("lr 0.1, epochs "), "{told}");
        assert!(!told.contains("eta") && !told.contains("threads") && told.ends_with("seed 0"), "{told}");
    }

    #[test]
    fn the_learning_rate_is_drawn_by_step_and_the_training_loss_has_its_name() {
        let columns = ["epoch", "train_loss", "test_loss"].map(String::from).to_vec();
        let rows = vec![vec![Some(1.0), Some(0.5), Some(0.4)], vec![Some(2.0), Some(0.3), None]];
        let metrics = Metrics { columns, rows };
        let rates: Vec<(f64, f64)> = (1..=40).map(|step| (f64::from(step), 0.01 * f64::from(step))).collect();
        let caption = Caption { loss_kind: "smoothed cross-entropy".into(), ..Caption::default() };
        let figure = figure(&caption, &metrics, rates.clone(), &[]);
        let titles: Vec<&str> = figure.panels.iter().map(|p| p.title.as_str()).collect();
        assert_eq!(titles, ["Loss", RATE]);
        assert_eq!((&figure.panels[1].series[0].points, figure.panels[1].x_label.as_str()), (&rates, "step"));
        assert_eq!(figure.panels[0].series[0].label, "train: smoothed cross-entropy");
        assert_eq!(figure.panels[0].series[1].points, [(1.0, 0.4)]);
    }

    #[test]
    fn tracked_eigenvalues_are_drawn_beside_their_bound() {
        let metrics = Metrics { columns: vec!["epoch".into()], rows: vec![] };
        let of = |step, rate, most| Tracked { step, rate, most, least: -1.0 };
        // 2 (1 + 0.9)/(1 + 1.8) over the rate: 135.7, far above the eigenvalues, then 13.57.
        let caption = Caption::of(&Recipe::default(), "none");
        let figure = figure(&caption, &metrics, vec![], &[of(1.0, 0.01, 5.0), of(101.0, 0.1, 12.0)]);
        let panel = &figure.panels[1];
        assert_eq!(panel.series[0].points, [(1.0, 5.0), (101.0, 12.0)]);
        assert!(panel.series[2].points[0].1.is_nan() && (panel.series[2].points[1].1 - 38.0 / 2.8).abs() < 1e-9);
        assert_eq!(panel.series[2].label, "SGD is stable below 1.357/lr");
    }
}
