//! The figure of a comparison: all optimizers over the gradients they have taken.

use super::plan::{Plan, Share};
use super::results::{Outcome, Results};
use crate::plot::{Figure, Panel, Series};
use crate::recipe::Recipe;
use crate::train::curves;

/// A panel: title, y label, column of metrics.csv, factor, and the word that panels with one y range share.
type View = (&'static str, &'static str, &'static str, f64, &'static str);

const VIEWS: [View; 3] = [
    ("Test accuracy", "%", "test_accuracy", 100.0, ""),
    ("Train loss", "cross-entropy", "train_loss", 1.0, "loss"),
    ("Test loss", "cross-entropy", "test_loss", 1.0, "loss"),
];

/// Returns true if a run of `recipe` ended early or has an epoch without finite losses, as one that diverges does. Figures
/// show such a run by itself, up to its end, and leave it out of means.
pub fn ended_early(outcome: &Outcome, recipe: &Recipe) -> bool {
    let lacks = |column, due: &dyn Fn(u64) -> bool| {
        let values = outcome.column(column);
        let there = |epoch: u64| values.get(epoch as usize - 1).is_some_and(|v| v.is_finite());
        (1..=recipe.epochs as u64).any(|epoch| due(epoch) && !there(epoch))
    };
    let evaluated = |epoch| recipe.evaluates(epoch);
    lacks("train_loss", &|_| true) || lacks("test_loss", &evaluated) || lacks("test_accuracy", &evaluated)
}

/// Returns the recipe of the runs of share `share`, but for their seeds.
fn recipe_of(plan: &Plan, share: usize) -> Option<&Recipe> {
    plan.runs.iter().find(|run| run.share == share).map(|run| &run.recipe)
}

/// Draws for each optimizer the mean over its finished seeds as a line, a band from the lowest to the highest seed, and a fine
/// line for each run that ended early.
pub fn curves(results: &Results<'_>) -> Figure {
    let plan = results.plan;
    let most = plan.shares.iter().map(Share::gradients).fold(0.0, f64::max);
    let kind = plan.request.recipe.loss_kind();
    let panel = |(i, &(title, y_label, column, factor, compared)): (usize, &View)| {
        // Losses of two kinds have no common scale.
        let (y_label, compared) = match column {
            "train_loss" if !kind.is_empty() => (format!("{kind} loss"), ""),
            _ => (y_label.to_owned(), if kind.is_empty() { compared } else { "" }),
        };
        Panel {
            title: title.into(),
            x_label: "gradient evaluations".into(),
            y_label,
            series: (0..plan.shares.len()).flat_map(|share| lines(results, share, column, factor)).collect(),
            wide: i == 0,
            compared,
            focus: Some(0.5 * most),
            ..Panel::default()
        }
    };
    Figure { notes: notes(results), ..Figure::new(&plan.title(), VIEWS.iter().enumerate().map(panel).collect()) }
}

fn early_of(results: &Results<'_>, share: usize, outcome: &Outcome) -> bool {
    recipe_of(results.plan, share).is_some_and(|recipe| ended_early(outcome, recipe))
}

/// The lines of one optimizer in one panel.
fn lines(results: &Results<'_>, share: usize, column: &str, factor: f64) -> Vec<Series> {
    let of = &results.plan.shares[share];
    let points = |values: &[f64]| {
        let at = |(epoch, value): (usize, &f64)| (of.gradients_after(epoch + 1), factor * value);
        values.iter().enumerate().map(at).filter(|(_, value)| value.is_finite()).collect::<Vec<_>>()
    };
    let (early, whole): (Vec<&Outcome>, Vec<&Outcome>) =
        results.of(share).map(|(_, outcome)| outcome).partition(|outcome| early_of(results, share, outcome));
    let early = early.iter().map(|outcome| Series {
        fine: true,
        ended: true,
        ..Series::new("", share, points(&outcome.column(column)))
    });
    let mut lines: Vec<Series> = early.collect();
    let values: Vec<Vec<f64>> = whole.iter().map(|outcome| outcome.column(column)).collect();
    let across = |epoch: usize| values.iter().map(move |v| v[epoch]);
    let mean = |epoch: usize| across(epoch).sum::<f64>() / values.len() as f64;
    let range = |epoch| across(epoch).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    // Without a whole run the name is still in the legend.
    let epochs = if values.is_empty() { 0 } else { of.epochs };
    let means: Vec<f64> = (0..epochs).map(mean).collect();
    let mut line = Series::new(of.optimizer.name, share, points(&means));
    if values.len() > 1 {
        // A point of the line has a part of the band, and an epoch without an evaluation has neither.
        let drawn = (0..epochs).filter(|epoch| means[*epoch].is_finite());
        line.band = drawn.map(range).map(|(low, high)| (factor * low, factor * high)).collect();
    }
    lines.push(line);
    lines
}

/// Returns notes on lines, bands and marks, and on settings: those of all runs, then those in which optimizers differ.
fn notes(results: &Results<'_>) -> Vec<String> {
    let plan = results.plan;
    let seeds = plan.request.seeds.len();
    let mut lines = match seeds {
        1 => format!("One run each, seed {}.", plan.request.seeds[0]),
        _ => format!("Lines: mean over {seeds} seeds. Bands: from the lowest to the highest seed."),
    };
    lines += " The second half of the budget sets the y ranges; steeper beginnings are cut off.";
    let early = |share: usize| results.of(share).any(|(_, outcome)| early_of(results, share, outcome));
    if (0..plan.shares.len()).any(early) {
        lines += " A cross in a circle: this run ended early; means leave it out.";
    }
    let (all, own) = settings(plan);
    vec![lines, format!("All: {}.", all.join(", ")), format!("{}.", own.join("; "))]
}

/// The settings that all runs share, and for each optimizer its name with its others. The seed is none of them.
fn settings(plan: &Plan) -> (Vec<String>, Vec<String>) {
    let of = |share: usize| {
        let told = recipe_of(plan, share).map(curves::settings).unwrap_or_default();
        told.into_iter().filter(|s| !s.starts_with("seed ")).collect::<Vec<_>>()
    };
    let each: Vec<Vec<String>> = (0..plan.shares.len()).map(of).collect();
    let common = |s: &String| plan.shares.len() > 1 && each.iter().all(|other| other.contains(s));
    let all = each.first().into_iter().flatten().filter(|s| common(s)).cloned().collect();
    let own = plan.shares.iter().zip(&each).map(|(share, settings)| {
        let own: Vec<&str> = settings.iter().filter(|s| !common(s)).map(String::as_str).collect();
        format!("{}: {}", share.optimizer.name, own.join(", "))
    });
    (all, own.collect())
}
