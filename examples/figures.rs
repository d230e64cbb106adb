//! Draws the figures of benches/results that come from scripts, in the style of all others.
//!
//!     cargo run --release --example figures -- label-noise benches/results/label_noise_40.json docs/label_noise.svg
//!     cargo run --release --example figures -- run benches/results/sam_default.json docs/sam_default.svg
//!
//! The first takes what benches/label_noise.py writes, the second what benches/accuracy.py does, of which it draws the
//! first seed. Finished runs, comparisons and studies are drawn by `samcore plot`.

use samcore::error::{Error, Result};
use samcore::files::write_atomic;
use samcore::output::note;
use samcore::plot::{Figure, Panel, Series};
use samcore::recipe::{Recipe, Value as Setting, setting};
use samcore::train::curves::{self, Caption};
use samcore::train::records::Metrics;
use serde_json::Value;
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["label-noise", from, to] => draw(from, to, label_noise),
        ["run", from, to] => draw(from, to, run),
        _ => Err(Error::usage("give 'label-noise' or 'run', a JSON file and the SVG file to write")),
    };
    if let Err(e) = done {
        note(&format!("figures: {e}"));
        std::process::exit(e.exit_code());
    }
}

fn draw(from: &str, to: &str, figure: fn(&Value) -> Option<Figure>) -> Result<()> {
    let bytes = std::fs::read(from).map_err(|e| Error::io("read", Path::new(from), &e))?;
    let json = serde_json::from_slice(&bytes).map_err(|e| Error::data(format!("{from}: {e}")))?;
    let figure = figure(&json).ok_or_else(|| Error::data(format!("{from} is not such a result")))?;
    write_atomic(Path::new(to), figure.to_svg().as_bytes())
}

fn numbers(list: &Value) -> Option<Vec<f64>> {
    list.as_array()?.iter().map(Value::as_f64).collect()
}

/// Test accuracy of each group of runs, then what becomes of the images with wrong labels over the gradients taken.
fn label_noise(result: &Value) -> Option<Figure> {
    let groups = result["groups"].as_array()?;
    let mut accuracy = Panel {
        title: "Accuracy on the clean test images after training".into(),
        y_label: "%".into(),
        wide: true,
        ..percent()
    };
    let views = [("learned", "True class predicted"), ("memorised", "Wrong label predicted")];
    let mut curves = views.map(|(_, title)| Panel {
        title: title.into(),
        x_label: "gradients per image".into(),
        y_label: "% of wrongly labelled".into(),
        ..percent()
    });
    for (i, group) in groups.iter().enumerate() {
        let (epochs, gradients) = (group["epochs"].as_u64()?, group["gradients"].as_f64()?);
        let runs = group["runs"].as_array()?;
        let (name, radius) = match group["rho"].as_f64() {
            Some(rho) => ("SAM", format!(", ρ {rho}")),
            None => ("SGD", String::new()),
        };
        let fewer = if runs.len() == result["seeds"].as_array()?.len() {
            String::new()
        } else {
            format!(", {} seeds", runs.len())
        };
        let label = format!("{name}{radius}, {epochs} epochs{fewer}");
        accuracy.x_names.push(format!("{name}{radius}\n{epochs} epochs"));
        let summary = &group["summary"]["test_accuracy"];
        let (mean, half) = (100.0 * summary["mean"].as_f64()?, 100.0 * summary["half_width"].as_f64().unwrap_or(0.0));
        let at = i as f64;
        let each =
            runs.iter().map(|run| Some((at + 0.16, 100.0 * run["test_accuracy"].as_f64()?))).collect::<Option<_>>()?;
        let band = vec![((mean - half).max(0.0), (mean + half).min(100.0))];
        accuracy.series.push(Series { dots: true, band, ..Series::new(&label, i, vec![(at, mean)]) });
        accuracy.series.push(Series { fine: true, dots: true, ..Series::new("", i, each) });
        for (panel, (key, _)) in curves.iter_mut().zip(views) {
            let all = runs.iter().map(|run| numbers(&run["curves"][key])).collect::<Option<Vec<_>>>()?;
            let mean = |e: usize| 100.0 * all.iter().filter_map(|run| run.get(e)).sum::<f64>() / all.len() as f64;
            let points = (0..epochs as usize).map(|e| ((e + 1) as f64 * gradients, mean(e))).collect();
            panel.series.push(Series::new(&label, i, points));
        }
    }
    let [learned, memorised] = curves;
    let seeds = result["seeds"].as_array()?.len();
    let notes = vec![
        format!(
            "Means over {seeds} seeds where no other number is given; bars: 95 % intervals of the mean (Student's t), \
             cut at 0 and 100 %; rings: single runs. SGD takes one gradient of each image an epoch, SAM two."
        ),
        result["command"].as_str()?.to_owned(),
    ];
    let title = format!("{} % label noise: SGD and SAM", 100.0 * result["noise"].as_f64()?);
    Some(Figure { notes, ..Figure::new(&title, vec![accuracy, learned, memorised]) })
}

fn percent() -> Panel {
    Panel { compared: "percent", reach: vec![0.0, 100.0], ..Panel::default() }
}

/// The curves of the first run. Its learning rates are those of the schedule that its command line asks for.
fn run(result: &Value) -> Option<Figure> {
    let run = &result["runs"][0];
    let mut recipe = Recipe { seed: run["seed"].as_u64()?, model: "cnn".into(), ..Recipe::default() };
    let words: Vec<&str> = result["command"].as_str()?.split(' ').skip(2).collect();
    for pair in words.chunks(2) {
        let (name, word) = (pair[0].strip_prefix("--")?, *pair.get(1)?);
        let number =
            |value: f64| if value.fract() == 0.0 { Setting::Count(value as u64) } else { Setting::Number(value) };
        let value = word.parse().map_or_else(|_| Setting::Text(word.into()), number);
        setting(name).and_then(|s| s.set(&mut recipe, value)).ok()?;
    }
    let epochs = run["epochs"].as_array()?;
    let columns: Vec<String> = epochs.first()?.as_object()?.keys().cloned().collect();
    let row = |epoch: &Value| columns.iter().map(|name| epoch[name].as_f64()).collect();
    let metrics = Metrics { rows: epochs.iter().map(row).collect(), columns };
    let total = run["result"]["steps"].as_u64()?;
    let schedule = recipe.schedule();
    let rates = (0..total).map(|step| ((step + 1) as f64, f64::from(schedule.lr(step, total)))).collect();
    Some(curves::figure(&Caption::of(&recipe, &recipe.data), &metrics, rates, &[]))
}
