//! curves.svg: what metrics.csv says, as a figure.

use super::records::Metrics;
use crate::error::Result;
use crate::files::write_atomic;
use crate::plot::{Figure, Panel, Series};
use std::path::Path;

/// A line of the figure: column of metrics.csv, its name, its colour, whether it is a share shown in percent.
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
        "Gradient and sharpness",
        "mean over the epoch",
        1.0,
        true,
        &[("grad_norm", "|g|", 4), ("sharpness_gain", "L(w + ε) − L(w)", 3)],
    ),
    (
        "Noisy labels",
        "% of the training images",
        100.0,
        false,
        &[
            ("clean_accuracy", "right labels, predicted so", 0),
            ("learned", "wrong labels, right all the same", 2),
            ("memorised", "wrong labels, predicted so", 3),
        ],
    ),
    ("Learning rate", "at the end of the epoch", 1.0, false, &[("lr", "", 6)]),
];

/// Draws the figure of a run from its metrics.csv. `loss_kind` names the training loss where it is not cross-entropy.
///
/// # Errors
/// If metrics.csv cannot be read or the figure not written.
pub fn draw(title: &str, loss_kind: &str, metrics: &Path, to: &Path) -> Result<()> {
    let metrics = Metrics::read(metrics)?;
    let epochs: Vec<f64> = metrics.column("epoch").unwrap_or_default().into_iter().flatten().collect();
    let panel = |&(title, y_label, factor, log_y, lines): &(&str, &str, f64, bool, &[Line])| {
        let series = lines.iter().filter_map(|&(column, label, color)| {
            let values = metrics.column(column)?;
            let points: Vec<(f64, f64)> =
                epochs.iter().zip(values).filter_map(|(x, y)| Some((*x, factor * y?))).collect();
            let label = match column {
                "train_loss" if !loss_kind.is_empty() => format!("{label}, {loss_kind}"),
                _ => label.to_owned(),
            };
            (!points.is_empty()).then(|| Series::new(&label, color, points))
        });
        let series = series.collect();
        Panel { title: title.into(), x_label: "epoch".into(), y_label: y_label.into(), series, log_x: false, log_y }
    };
    let there = |(.., lines): &&(&str, &str, f64, bool, &[Line])| lines.iter().any(|l| metrics.column(l.0).is_some());
    let figure = Figure { columns: 2, ..Figure::new(title, PANELS.iter().filter(there).map(panel).collect()) };
    write_atomic(to, figure.to_svg().as_bytes())
}
