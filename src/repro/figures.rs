//! Figures of a protocol: accuracies, paired differences, curves, and measurements of the trained models.

use super::Measured;
use super::results::{Done, MAIN, Results};
use crate::plot::{Figure, Level, Panel, Series};
use crate::protocol::statistics::Estimate;

/// Distance of two methods' marks over one name.
const APART: f64 = 0.07;

/// Returns the figures and the names of their files.
pub fn all(results: &Results<'_>) -> Vec<(&'static str, Figure)> {
    let mut figures = vec![("accuracy.svg", accuracy(results)), ("curves.svg", curves(results))];
    if results.shown().any(|arm| results.against(arm).is_some()) {
        figures.insert(1, ("differences.svg", differences(results)));
    }
    if !matches!(results.plan.asked.protocol.measured, Measured::Nothing) {
        figures.push(("measured.svg", measured(results)));
    }
    figures
}

fn accuracy(results: &Results<'_>) -> Figure {
    let panel = |row: &str| Panel {
        y_label: "test accuracy, %".into(),
        ..bars(results, row, |arm| results.estimate(arm, MAIN))
    };
    figure(results, "test accuracy", panel, "Marks: means over seeds. Bars: 95 % intervals of the mean.")
}

fn differences(results: &Results<'_>) -> Figure {
    let panel = |row: &str| Panel {
        y_label: "difference, points".into(),
        levels: vec![Level { label: "no difference".into(), y: 0.0, dotted: true }],
        ..bars(results, row, |arm| results.difference(arm, MAIN))
    };
    let note =
        "Marks: means of the differences seed by seed. Bars: 95 % intervals. A bar that reaches 0 tells nothing apart.";
    figure(results, "paired differences in test accuracy", panel, note)
}

fn figure(results: &Results<'_>, what: &str, panel: impl Fn(&str) -> Panel, note: &str) -> Figure {
    let grid = results.plan.asked.protocol.grid(results.plan.asked.scale);
    let panels = grid.rows.iter().map(|row| Panel { title: row.name.into(), wide: true, ..panel(row.name) }).collect();
    let title = format!("{}: {what}", results.plan.title());
    Figure { notes: notes(results, note), columns: 1, ..Figure::new(&title, panels) }
}

fn notes(results: &Results<'_>, note: &str) -> Vec<String> {
    [note.to_owned()].into_iter().chain(results.plan.warning()).collect()
}

/// Means with intervals of one row: over its columns, a series for each method; over the methods where there is one column.
fn bars(results: &Results<'_>, row: &str, of: impl Fn(usize) -> Option<Estimate>) -> Panel {
    let plan = results.plan;
    let grid = plan.asked.protocol.grid(plan.asked.scale);
    let arms: Vec<usize> = results.shown().filter(|arm| plan.arms[*arm].row.name == row).collect();
    let point = |arm: usize, x: f64| {
        let e = of(arm)?;
        let (low, high) = e.interval().unwrap_or((e.mean, e.mean));
        Some(((x, 100.0 * e.mean), (100.0 * low, 100.0 * high)))
    };
    let series = |label: &str, style: usize, points: Vec<((f64, f64), (f64, f64))>| {
        let (points, mut band): (Vec<_>, Vec<_>) = points.into_iter().unzip();
        // One seed has no interval.
        if plan.asked.seeds.len() == 1 {
            band.clear();
        }
        Series { dots: true, band, ..Series::new(label, style, points) }
    };
    let with_value: Vec<usize> = arms.iter().copied().filter(|arm| of(*arm).is_some()).collect();
    if grid.columns.len() == 1 {
        let points = with_value.iter().enumerate().filter_map(|(x, arm)| point(*arm, x as f64)).collect();
        // Beside six others the value alone has room.
        let name = |arm: &usize| match plan.arms[*arm].method.name.rsplit_once(", ") {
            Some((_, value)) if plan.asked.protocol.choice => value.replacen(' ', "\n", 1),
            _ => plan.arms[*arm].method.name.replacen(", ", "\n", 1),
        };
        let names = with_value.iter().map(name).collect();
        return Panel { series: vec![series("mean over seeds", 0, points)], x_names: names, ..Panel::default() };
    }
    let methods: Vec<&str> = grid.methods.iter().filter(|m| m.shown).map(|m| m.name).collect();
    let of_method = |(style, method): (usize, &&str)| {
        let aside = APART * (style as f64 - 0.5 * (methods.len() - 1) as f64);
        let of_column = |(x, column): (usize, &super::Level)| {
            let at = |arm: &&usize| {
                let arm = &plan.arms[**arm];
                arm.column.name == column.name && arm.method.name == *method
            };
            point(*with_value.iter().find(at)?, x as f64 + aside)
        };
        let points: Vec<_> = grid.columns.iter().enumerate().filter_map(of_column).collect();
        (!points.is_empty()).then(|| series(method, style, points))
    };
    let series = methods.iter().enumerate().filter_map(of_method).collect();
    Panel { series, x_names: grid.columns.iter().map(|column| column.name.into()).collect(), ..Panel::default() }
}

/// Mean test accuracy over the gradients taken, a panel for each cell.
fn curves(results: &Results<'_>) -> Figure {
    let plan = results.plan;
    let mut panels: Vec<Panel> = vec![];
    for arm in results.shown() {
        let of = &plan.arms[arm];
        if panels.last().is_none_or(|panel| panel.title != of.cell()) {
            panels.push(Panel {
                title: of.cell(),
                x_label: "gradient evaluations".into(),
                y_label: "test accuracy, %".into(),
                compared: "accuracy",
                ..Panel::default()
            });
        }
        let runs: Vec<&Vec<f64>> = results.done[arm]
            .iter()
            .filter_map(|done| if let Done::Finished { curve, .. } = done { Some(curve) } else { None })
            .collect();
        let style = plan.asked.protocol.grid(plan.asked.scale).methods.iter().position(|m| m.name == of.method.name);
        let mean = |epoch: usize| {
            let values: Vec<f64> = runs.iter().filter_map(|curve| curve.get(epoch).copied()).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (of.share().gradients_after(epoch + 1), 100.0 * mean)
        };
        let points = (0..of.share().epochs).map(mean).filter(|(_, y)| y.is_finite()).collect();
        if let Some(panel) = panels.last_mut() {
            panel.series.push(Series::new(of.method.name, style.unwrap_or(0), points));
        }
    }
    let title = format!("{}: test accuracy in training", plan.title());
    Figure { notes: notes(results, "Lines: means over seeds."), ..Figure::new(&title, panels) }
}

/// Accuracy over the size of corruptions, a panel for each norm and number of entries; or clean beside attacked accuracy.
fn measured(results: &Results<'_>) -> Figure {
    let plan = results.plan;
    let attacked = matches!(plan.asked.protocol.measured, Measured::Attack(_));
    let mut panels: Vec<Panel> = vec![];
    for arm in results.shown() {
        let of = &plan.arms[arm];
        for measure in results.measures() {
            let Some(e) = results.estimate(arm, &measure) else { continue };
            let Some((title, label, x)) = place(&measure, attacked) else { continue };
            let title = if plan.arms[0].cell() == of.cell() { title } else { format!("{}: {title}", of.cell()) };
            let label = if results.shown().count() == 1 { label } else { format!("{}, {label}", of.method.name) };
            let at = panels.iter().position(|panel| panel.title == title).unwrap_or_else(|| {
                panels.push(panel(title, x.is_none()));
                panels.len() - 1
            });
            let panel = &mut panels[at];
            let style = panel.series.iter().position(|series| series.label == label).unwrap_or_else(|| {
                let style = panel.series.len();
                panel.series.push(Series::new(&label, style, vec![]));
                style
            });
            let x = x.unwrap_or_else(|| panel.series[style].points.len() as f64);
            panel.series[style].points.push((x, 100.0 * e.mean));
        }
    }
    let title = format!("{}: measured on the trained models", plan.title());
    let alone = results.shown().count() == 1;
    if let Some(e) = results.shown().next().filter(|_| alone).and_then(|arm| results.estimate(arm, MAIN)) {
        let level = Level { label: "as trained".into(), y: 100.0 * e.mean, dotted: true };
        panels.iter_mut().for_each(|panel| panel.levels = vec![level.clone()]);
    }
    // Names of several methods need the width.
    let columns = if alone { 2 } else { 1 };
    Figure { notes: notes(results, "Marks: means over seeds."), columns, ..Figure::new(&title, panels) }
}

fn panel(title: String, named: bool) -> Panel {
    let x_names = if named { vec!["clean".into(), "attacked".into()] } else { vec![] };
    Panel {
        title,
        x_label: if named { String::new() } else { "ε".into() },
        y_label: "test accuracy, %".into(),
        log_x: !named,
        x_names,
        compared: "measured",
        reach: vec![0.0],
        wide: named,
        ..Panel::default()
    }
}

/// Returns the panel and the line of a measure, and its place along the x axis where that is a number. Where images were
/// `attacked`, accuracy stands beside that on clean ones.
fn place(measure: &str, attacked: bool) -> Option<(String, String, Option<f64>)> {
    if attacked && (measure == MAIN || measure.starts_with("attacked")) {
        return Some(("clean and attacked test images".into(), "accuracy".into(), None));
    }
    let (rest, size) = measure.split_once(", eps = ")?;
    let (kind, panel) = rest.split_once(", ")?;
    Some((panel.into(), kind.into(), size.parse().ok()))
}
