//! The figure of a comparison: all optimizers over the gradients they have taken.

use super::results::{Outcome, Results};
use crate::plot::{Figure, Panel, Series};

/// A panel: title, y label, column of metrics.csv, factor, and whether it shows only the second half of the budget,
/// where what optimizers differ in is not dwarfed by what all of them have learned.
type View = (&'static str, &'static str, &'static str, f64, bool);

const VIEWS: [View; 4] = [
    ("Test accuracy", "%", "test_accuracy", 100.0, false),
    ("Test accuracy, second half", "%", "test_accuracy", 100.0, true),
    ("Train loss", "cross-entropy", "train_loss", 1.0, false),
    ("Test loss, second half", "cross-entropy", "test_loss", 1.0, true),
];

/// Of each optimizer the mean over its finished seeds as a line, from the lowest to the highest seed as a band, and
/// each seed as a fine line.
pub fn curves(results: &Results<'_>) -> Figure {
    let plan = results.plan;
    let most = plan.shares.iter().map(|s| s.gradients()).fold(0.0, f64::max);
    let panel = |&(title, y_label, column, factor, second_half): &View| {
        let series = (0..plan.shares.len()).flat_map(|i| {
            let outcomes: Vec<&Outcome> = results.of(i).map(|(_, outcome)| outcome).collect();
            let values: Vec<Vec<f64>> = outcomes.iter().map(|o| o.column(column)).collect();
            let share = &plan.shares[i];
            let at = |epoch: usize| share.gradients_after(epoch + 1);
            let mut epochs: Vec<usize> = (0..share.epochs).filter(|e| !second_half || at(*e) >= 0.5 * most).collect();
            // Rows of an epoch may be lost.
            let value = |v: &Vec<f64>, e: usize| v.get(e).filter(|v| v.is_finite()).map(|v| factor * v);
            let across = |e: usize| values.iter().filter_map(move |v| value(v, e));
            epochs.retain(|e| values.is_empty() || across(*e).count() > 0);
            let mut lines: Vec<Series> = Vec::new();
            if values.len() > 1 {
                lines.extend(values.iter().map(|v| {
                    let points = epochs.iter().filter_map(|e| Some((at(*e), value(v, *e)?)));
                    Series { fine: true, ..Series::new("", i, points.collect()) }
                }));
            }
            let mean = |e: &usize| (at(*e), across(*e).sum::<f64>() / across(*e).count() as f64);
            let band =
                |e: &usize| across(*e).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
            let mut line = Series::new(share.optimizer.name, i, epochs.iter().map(mean).collect());
            if values.len() > 1 {
                line.band = epochs.iter().map(band).collect();
            }
            if !values.is_empty() {
                lines.push(line);
            }
            lines
        });
        let x_label = format!("gradient evaluations (batches of {})", plan.request.recipe.batch);
        Panel { title: title.into(), x_label, y_label: y_label.into(), series: series.collect(), ..Panel::default() }
    };
    Figure::new(&plan.title(), VIEWS.iter().map(panel).collect())
}
