//! Report of a protocol: table.md, table.csv, report.html, and the names of all files.

use super::results::{Done, MAIN, Results, VALIDATION};
use super::run::write_all;
use super::{Measured, Scale, figures};
use crate::error::Result;
use crate::plot::{Figure, escape as html_escape};
use crate::protocol::html::{STYLE, section};
use crate::protocol::report::{count, p_text, plain, signed, verdict};
use crate::protocol::results::Unit;
use crate::protocol::statistics::{CONFIDENCE, Estimate};
use crate::protocol::table::{Table, escape};
use std::path::Path;

/// Files that a protocol writes after each run. `measured.svg` is there where models are measured beside their accuracy.
pub const OUTPUTS: [&str; 8] =
    ["table.md", "table.csv", RESULTS, "accuracy.svg", "differences.svg", "curves.svg", "measured.svg", "report.html"];
pub const RESULTS: &str = "results.json";

/// Writes all files, each as a whole.
///
/// # Errors
/// CantCreate, Io: one cannot be written.
pub fn write(results: &Results<'_>, out: &Path) -> Result<()> {
    let figures = figures::all(results);
    let mut texts = vec![
        ("table.md", markdown(results)),
        ("table.csv", csv(results)),
        (RESULTS, to_text(results)),
        ("report.html", page(results, &figures)),
    ];
    texts.extend(figures.iter().map(|(name, figure)| (*name, figure.to_svg())));
    write_all(out, &texts)
}

/// results.json as the file has it.
pub fn to_text(results: &Results<'_>) -> String {
    format!("{:#}\n", results.to_json())
}

/// Returns table.md.
pub fn markdown(results: &Results<'_>) -> String {
    let mut text = format!("# {}\n\n", escape(&results.plan.title()));
    summary(results).iter().for_each(|paragraph| text += &format!("{}\n\n", escape(paragraph)));
    for table in tables(results) {
        text += &format!("## {}\n\n{}\n", escape(&table.title), table.markdown());
    }
    notes(results).iter().for_each(|note| text += &format!("- {}\n", escape(note)));
    text + &format!("\nTo repeat it:\n\n    {}\n", repeat(results))
}

/// Returns paragraphs on what was run, how far it is, and a sentence for each difference in test accuracy.
pub fn summary(results: &Results<'_>) -> Vec<String> {
    let plan = results.plan;
    let protocol = plan.asked.protocol;
    let mut told: Vec<String> = plan.warning().into_iter().collect();
    told.push(format!("{}. Answers: {}.", capital(protocol.about), protocol.answers));
    if plan.asked.scale == Scale::Small {
        told.push(format!("Small scale: {}", protocol.shrunk));
    }
    told.extend(plan.other_data.clone());
    let [runs, finished, lost] = results.counts();
    let seeds: Vec<String> = plan.asked.seeds.iter().map(u64::to_string).collect();
    let noun = if seeds.len() == 1 { "seed" } else { "seeds" };
    let lost = match lost {
        0 => String::new(),
        lost => format!("; {lost} diverged, or had nothing to begin with, and count in no mean"),
    };
    told.push(format!("{finished} of {runs} runs are done{lost}; {noun} {}.", seeds.join(", ")));
    for arm in results.chosen() {
        let of = &plan.arms[arm];
        let percent = |measure: &str| results.estimate(arm, measure).map_or("–".into(), |e| mean(&e));
        let (validation, test) = (percent(VALIDATION), percent(MAIN));
        told.push(format!(
            "{}: chosen by validation accuracy is {}, with {validation} there and {test} on test images.",
            of.cell(),
            of.method.name
        ));
    }
    for arm in results.shown() {
        if let (Some(e), Some(name)) = (results.difference(arm, MAIN), between(results, arm)) {
            told.push(format!("{name}: {}.", verdict(&e)));
        }
    }
    told
}

/// Returns the tables: results beside published values, paired differences, measurements, published values without a
/// counterpart, single runs.
pub fn tables(results: &Results<'_>) -> Vec<Table> {
    let mut tables = vec![accuracies(results), differences(results)];
    if !matches!(results.plan.asked.protocol.measured, Measured::Nothing) {
        tables.push(measurements(results));
    }
    tables.extend([unmatched(results), runs(results)]);
    tables.retain(|table| !table.rows.is_empty());
    tables
}

/// Returns true for the accuracies in the first table; others are measurements.
fn of_training(measure: &str) -> bool {
    [MAIN, VALIDATION, "train accuracy"].contains(&measure) || measure.starts_with("wrong labels")
}

fn accuracies(results: &Results<'_>) -> Table {
    let measures: Vec<String> = results.measures().into_iter().filter(|m| of_training(m)).collect();
    let title = "Means over seeds beside published values";
    // An axis of one value needs no column.
    let columns = results.plan.asked.protocol.grid(results.plan.asked.scale).columns.len() > 1;
    let words = if columns { &["row", "column", "method"][..] } else { &["row", "method"] };
    let mut table = Table::new(title, words.len(), words);
    table.header.extend(["epochs", "gradient evaluations", "seeds"].map(str::to_owned));
    table.header.extend(measures.iter().cloned());
    table.header.extend(["published".to_owned(), "of".to_owned()]);
    for arm in results.shown() {
        let (of, share) = (&results.plan.arms[arm], results.plan.arms[arm].share());
        let done = results.estimate(arm, MAIN).map_or(0, |e| e.n);
        let mut row = vec![of.row.name.to_owned(), of.method.name.into()];
        if columns {
            row.insert(1, of.column.name.into());
        }
        row.extend([share.epochs.to_string(), count(share.gradients()), done.to_string()]);
        row.extend(measures.iter().map(|m| results.estimate(arm, m).map_or("–".into(), |e| mean(&e))));
        let published = results.published(arm, MAIN);
        row.push(published.map_or("–".into(), |p| p.value.into()));
        row.push(published.map_or("–".into(), |p| p.row.into()));
        table.rows.push(row);
    }
    table
}

fn differences(results: &Results<'_>) -> Table {
    let interval = format!("{} % interval", 100.0 * CONFIDENCE);
    let header = ["difference", "in, points", "seeds", "mean", &interval, "p"];
    let mut table = Table::new("Paired differences", 2, &header);
    for arm in results.shown() {
        let Some(name) = between(results, arm) else { continue };
        // Accuracies on the images that are trained on compare no methods that train on other labels.
        let compared = |m: &String| [MAIN, VALIDATION].contains(&m.as_str()) || !of_training(m);
        for measure in results.measures().into_iter().filter(compared) {
            let Some(e) = results.difference(arm, &measure) else { continue };
            let ends = |(low, high)| format!("{} to {}", signed(low, Unit::Share), signed(high, Unit::Share));
            table.rows.push(vec![
                name.clone(),
                measure,
                e.n.to_string(),
                signed(e.mean, Unit::Share),
                e.interval().map_or("–".into(), ends),
                e.p_value().map_or("–".into(), |p| p_text(p, false)),
            ]);
        }
    }
    table
}

fn measurements(results: &Results<'_>) -> Table {
    let header = ["row", "method", "test accuracy", "seeds", "mean", "published"];
    let mut table = Table::new("Measured on the trained models", 3, &header);
    for arm in results.shown() {
        for measure in results.measures().iter().filter(|m| *m == MAIN || !of_training(m)) {
            let Some(e) = results.estimate(arm, measure) else { continue };
            let of = &results.plan.arms[arm];
            let name = if measure == MAIN { "as trained, all test images".into() } else { measure.clone() };
            let published =
                results.published(arm, measure).map_or("–".into(), |p| format!("{} ({})", p.value, p.row));
            table.rows.push(vec![of.cell(), of.method.name.into(), name, e.n.to_string(), mean(&e), published]);
        }
    }
    table
}

fn unmatched(results: &Results<'_>) -> Table {
    let header = ["row", "column", "method", "measure", "published"];
    let mut table = Table::new("Published values without a counterpart here", 4, &header);
    for p in results.unmatched() {
        table.rows.push([p.row, p.column, p.method, p.measure, p.value].map(str::to_owned).to_vec());
    }
    table
}

fn runs(results: &Results<'_>) -> Table {
    let mut table = Table::new("Runs", 2, &["folder", "state", "seed", "epochs", MAIN, "seconds"]);
    for (arm, seed) in results.plan.order() {
        let (run, done) = (&results.plan.arms[arm].plan.runs[seed], &results.done[arm][seed]);
        let (accuracy, seconds) = match done {
            Done::Finished { values, seconds, .. } => {
                let accuracy = values.iter().find(|(name, _)| name == MAIN);
                let accuracy = accuracy.map_or("–".into(), |(_, v)| format!("{} %", plain(*v, Unit::Share)));
                (accuracy, format!("{seconds:.0}"))
            }
            _ => ("–".into(), "–".into()),
        };
        let (seed, epochs) = (run.recipe.seed.to_string(), run.recipe.epochs.to_string());
        table.rows.push(vec![run.name.clone(), done.describe(), seed, epochs, accuracy, seconds]);
    }
    table
}

/// "wrn-10-1, basic: SAM − SGD".
fn between(results: &Results<'_>, arm: usize) -> Option<String> {
    let (of, other) = (&results.plan.arms[arm], &results.plan.arms[results.against(arm)?]);
    Some(format!("{}: {} − {}", of.cell(), of.method.name, other.method.name))
}

/// Returns notes on how to read the numbers, and the sources of published values.
pub fn notes(results: &Results<'_>) -> Vec<String> {
    let asked = &results.plan.asked;
    let percent = 100.0 * CONFIDENCE;
    let mut notes = vec![match asked.seeds.len() {
        1 => "There is one seed: how much of a difference is chance cannot be said. Ask for more --seeds.".to_owned(),
        _ => format!(
            "± is half the width of the {percent} % interval of the mean over seeds (Student's t with n − 1 degrees of \
             freedom). Differences are taken seed by seed: one seed gives all methods of a cell the same training images, \
             initial weights and order of images. p is two-sided, against a mean of 0."
        ),
    }];
    notes.push("Accuracies are those after the last epoch, on the data set's own test images.".into());
    if !asked.protocol.published.is_empty() && asked.scale == Scale::Small {
        notes.push(
            "Published values are of the networks named beside them, trained on all images: they are context for the \
             direction of a difference, not values to be reached."
                .into(),
        );
    }
    notes.extend(asked.protocol.notes.iter().map(|note| (*note).to_owned()));
    let mut sources: Vec<&str> = vec![];
    for p in asked.protocol.published {
        if !sources.contains(&p.source) {
            sources.push(p.source);
        }
    }
    if !sources.is_empty() {
        notes.push(format!("Published values: {}.", sources.join("; ")));
    }
    notes
}

/// Returns the command line that asks for the same.
pub fn repeat(results: &Results<'_>) -> String {
    let asked = &results.plan.asked;
    let seeds: Vec<String> = asked.seeds.iter().map(u64::to_string).collect();
    let seeds = match asked.seeds.len() {
        n if asked.seeds.iter().copied().eq(0..n as u64) => n.to_string(),
        1 => format!("{},", seeds[0]),
        _ => seeds.join(","),
    };
    let mut line = format!("samcore repro {} --scale {} --seeds {seeds}", asked.protocol.name, asked.scale.name());
    for (name, value) in asked.replaced.iter() {
        line += &format!(" --{name} {}", crate::train::shell_word(&value.to_string()));
    }
    line
}

/// Returns table.csv: a line for each arm and measure, shares from 0 to 1.
pub fn csv(results: &Results<'_>) -> String {
    let mut text = "row,column,method,measure,seeds,mean,low,high,published,source,against,difference,difference_low,\
                    difference_high,p\n"
        .to_owned();
    for arm in results.shown() {
        let of = &results.plan.arms[arm];
        for measure in results.measures() {
            let (own, published) = (results.estimate(arm, &measure), results.published(arm, &measure));
            if own.is_none() && published.is_none() {
                continue;
            }
            let difference = results.difference(arm, &measure);
            let number = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
            let ends = |e: &Option<Estimate>| {
                let interval = e.as_ref().and_then(Estimate::interval);
                [number(interval.map(|i| i.0)), number(interval.map(|i| i.1))]
            };
            let ([low, high], [from, to]) = (ends(&own), ends(&difference));
            let fields = [
                of.row.name.into(),
                of.column.name.into(),
                of.method.name.into(),
                measure,
                own.map_or(0, |e| e.n).to_string(),
                number(own.map(|e| e.mean)),
                low,
                high,
                published.map_or(String::new(), |p| p.value.into()),
                published.map_or(String::new(), |p| p.source.into()),
                if difference.is_some() { of.method.against.unwrap_or_default().into() } else { String::new() },
                number(difference.map(|e| e.mean)),
                from,
                to,
                number(difference.and_then(|e| e.p_value())),
            ];
            text += &(fields.map(|field| quoted(&field)).join(",") + "\n");
        }
    }
    text
}

/// A field of a CSV file.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

/// Returns report.html: tables, figures and notes on a page that needs nothing else.
pub fn page(results: &Results<'_>, figures: &[(&str, Figure)]) -> String {
    let title = html_escape(&results.plan.title());
    let summary = summary(results);
    let summary: String = summary.iter().map(|p| format!("<p>{}</p>\n", html_escape(p))).collect();
    let mut tables = tables(results).into_iter().map(|table| section(&table));
    let first = tables.next().unwrap_or_default();
    let rest: String = tables.collect();
    let figures: String = figures
        .iter()
        .map(|(_, figure)| {
            let (wide, narrow) = (figure.to_svg(), figure.to_narrow_svg());
            format!("<div class=\"wide\">{wide}</div>\n<div class=\"narrow\">{narrow}</div>\n")
        })
        .collect();
    let notes: String = notes(results).iter().map(|note| format!("<li>{}</li>\n", html_escape(note))).collect();
    let repeat = html_escape(&repeat(results));
    let version = concat!(env!("CARGO_PKG_VERSION"), ", commit ", env!("SAMCORE_COMMIT"));
    let written = crate::clock::utc_iso8601();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{summary}{first}\
         <h2>Figures</h2>\n{figures}{rest}<h2>How to read the numbers</h2>\n<ul>\n{notes}</ul>\n\
         <h2>How to repeat it</h2>\n<pre>{repeat}</pre>\n\
         <footer>Written {written} by samcore {version}.</footer>\n</main>\n</body>\n</html>\n"
    )
}

/// "41.20 ± 0.80 %".
fn mean(e: &Estimate) -> String {
    let half = e.half.map_or(String::new(), |half| format!(" ± {}", plain(half, Unit::Share)));
    format!("{}{half} %", plain(e.mean, Unit::Share))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
