//! Report of a comparison in words and tables, and table.md.

use super::plan::Plan;
use super::request::{Budget, course};
use super::results::{MEASURES, Measure, Results, Unit};
use super::statistics::{CONFIDENCE, Estimate};
use super::table::{Table, escape};
use crate::bench::estimate;
use crate::optim::OPTIMIZERS;
use crate::recipe::{SETTINGS, Setting, Value};
use crate::train::shell_word;
use std::time::Duration;

/// table.md. Names out of files and settings are escaped: none becomes markup, in a terminal neither.
pub fn markdown(results: &Results<'_>) -> String {
    let mut text = format!("# {}\n\n", escape(&results.plan.title()));
    summary(results).iter().for_each(|paragraph| text += &format!("{}\n\n", escape(paragraph)));
    for table in tables(results) {
        text += &format!("## {}\n\n{}\n", escape(&table.title), table.markdown());
    }
    notes(results).iter().for_each(|note| text += &format!("- {}\n", escape(note)));
    let repeat = repeat(results.plan);
    // Longer than any run of backticks inside, a fence is closed by nothing there.
    let runs = repeat.split(|c| c != '`').map(str::len);
    let fence = "`".repeat(3.max(1 + runs.max().unwrap_or(0)));
    text + &format!("\nTo repeat it:\n\n{fence}sh\n{repeat}\n{fence}\n")
}

/// A paragraph on how far it is and what was equal, then a sentence for each difference in test accuracy.
pub fn summary(results: &Results<'_>) -> Vec<String> {
    let plan = results.plan;
    let seeds: Vec<String> = plan.request.seeds.iter().map(u64::to_string).collect();
    let budget = match plan.request.budget {
        Budget::EqualGradients => {
            let (gradients, batch) = (count(plan.shares[0].gradients()), plan.request.recipe.batch);
            format!("each optimizer takes {gradients} gradients of batches of {batch} in a run")
        }
        Budget::EqualEpochs => format!("each optimizer takes {} epochs in a run", plan.shares[0].epochs),
    };
    let (done, runs) = (results.done(), plan.runs.len());
    let noun = if seeds.len() == 1 { "seed" } else { "seeds" };
    let mut told = vec![format!("{done} of {runs} runs are done; {noun} {}; {budget}.", seeds.join(", "))];
    told.extend(results.divergences().into_iter().map(|line| format!("{line}. Diverged runs count in no mean.")));
    told.extend(results.stalls().into_iter().map(|line| {
        format!(
            "{line}: the last epoch's training loss and accuracy are those of guessing. Such runs count in the means."
        )
    }));
    for i in 1..plan.shares.len() {
        if let Some(e) = results.difference(i, 0, &MEASURES[0]) {
            told.push(format!("{}: {}.", between(results, i), verdict(&e)));
        }
    }
    told
}

fn between(results: &Results<'_>, i: usize) -> String {
    let name = |i: usize| results.plan.shares[i].optimizer.name;
    format!("{} − {}", name(i), name(0))
}

/// Returns a paired difference in test accuracy in words, and what it allows to say.
pub fn verdict(e: &Estimate) -> String {
    let mean = signed(e.mean, Unit::Share);
    let Some((low, high)) = e.interval() else {
        return format!("{mean} points of test accuracy on one seed, which allows no interval");
    };
    let says = match (low > 0.0, high < 0.0) {
        (true, _) => "lies above 0",
        (_, true) => "lies below 0",
        _ => "holds 0, so these seeds do not tell the two apart",
    };
    let p = e.p_value().map_or(String::new(), |p| format!(", p {}", p_text(p, true)));
    let (low, high) = (signed(low, Unit::Share), signed(high, Unit::Share));
    let (n, percent) = (e.n, 100.0 * CONFIDENCE);
    format!("{mean} points of test accuracy over {n} seeds; the {percent} % interval, {low} to {high}{p}, {says}")
}

/// The tables of a report: optimizers, paired differences, single runs.
pub fn tables(results: &Results<'_>) -> Vec<Table> {
    let mut tables = vec![optimizers(results)];
    if results.plan.shares.len() > 1 {
        tables.push(differences(results));
    }
    tables.push(runs(results));
    tables
}

fn title_of(measure: &Measure, results: &Results<'_>) -> String {
    match measure.key {
        "best_epoch_test_accuracy" if results.best_on() == "test" => format!("{} (optimistic)", measure.title),
        "best_epoch_test_accuracy" => format!("{} (by validation)", measure.title),
        "train_loss" => {
            let kind = results.plan.request.recipe.loss_kind();
            if kind.is_empty() { measure.title.to_owned() } else { format!("{} ({kind})", measure.title) }
        }
        _ => measure.title.to_owned(),
    }
}

fn optimizers(results: &Results<'_>) -> Table {
    let mut table = Table::new("Means over seeds", 1, &["optimizer", "epochs", "gradient evaluations", "seeds"]);
    table.header.extend(MEASURES.iter().map(|m| title_of(m, results)));
    for (i, share) in results.plan.shares.iter().enumerate() {
        let (name, gradients) = (share.optimizer.name.to_owned(), count(share.gradients()));
        let mut row = vec![name, share.epochs.to_string(), gradients, seeds_of(results, i)];
        row.extend(MEASURES.iter().map(|m| results.estimate(i, m).map_or("–".into(), |e| mean(&e, m.unit))));
        table.rows.push(row);
    }
    table
}

/// The number of finished seeds of share `share`: of how many, where some have diverged, and how many are at chance.
fn seeds_of(results: &Results<'_>, share: usize) -> String {
    let (done, asked) = (results.of(share).count(), results.plan.request.seeds.len());
    let seeds = if results.diverged_of(share).count() > 0 { format!("{done} of {asked}") } else { done.to_string() };
    match results.at_chance(share).len() {
        0 => seeds,
        stalled => format!("{seeds} ({stalled} at chance)"),
    }
}

fn differences(results: &Results<'_>) -> Table {
    let interval = format!("{} % interval", 100.0 * CONFIDENCE);
    let title = format!("Paired differences to {}", results.plan.shares[0].optimizer.name);
    let mut table = Table::new(&title, 2, &["difference", "in", "seeds", "mean", &interval, "p"]);
    for i in 1..results.plan.shares.len() {
        for measure in MEASURES.iter().filter(|m| m.paired) {
            let Some(e) = results.difference(i, 0, measure) else { continue };
            let ends = |(low, high)| format!("{} to {}", signed(low, measure.unit), signed(high, measure.unit));
            let in_points = if measure.unit == Unit::Share { ", points" } else { "" };
            table.rows.push(vec![
                between(results, i),
                format!("{}{in_points}", title_of(measure, results)),
                e.n.to_string(),
                signed(e.mean, measure.unit),
                e.interval().map_or("–".into(), ends),
                e.p_value().map_or("–".into(), |p| p_text(p, false)),
            ]);
        }
    }
    table
}

fn runs(results: &Results<'_>) -> Table {
    let mut table = Table::new("Runs", 1, &["folder"]);
    table.header.extend(MEASURES.iter().map(|m| match m.unit {
        Unit::Seconds => "seconds".to_owned(),
        _ => title_of(m, results),
    }));
    table.header.insert(3, "in epoch".into());
    for ((run, outcome), diverged) in results.plan.runs.iter().zip(&results.outcomes).zip(&results.diverged) {
        let mut row = vec![match diverged {
            Some(d) => format!("{}, diverged in step {}", run.name, d.step),
            None => run.name.clone(),
        }];
        let cell = |m: &Measure| {
            let value = outcome.as_ref().and_then(m.of);
            value.map_or("–".into(), |v| format!("{}{}", plain(v, m.unit), sign(m.unit)))
        };
        row.extend(MEASURES.iter().map(cell));
        let epoch = outcome.as_ref().and_then(|o| o.best_epoch());
        row.insert(3, epoch.map_or("–".into(), |epoch| epoch.to_string()));
        table.rows.push(row);
    }
    table
}

/// Returns the optimizers' own settings, if any has some.
fn own_settings(plan: &Plan) -> Option<String> {
    let told = plan.shares.iter().enumerate().filter_map(|(i, share)| {
        let recipe = &plan.runs.iter().find(|run| run.share == i)?.recipe;
        let own = SETTINGS.iter().filter(|s| share.optimizer.settings.contains(&s.name));
        let own: Vec<String> = own.map(|s| format!("--{} {}", s.name, s.get(recipe))).collect();
        (!own.is_empty()).then(|| format!("{} with {}", share.optimizer.name, own.join(" ")))
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| format!("Optimizers' own settings: {}.", told.join("; ")))
}

/// Returns notes on how to read the numbers.
pub fn notes(results: &Results<'_>) -> Vec<String> {
    let plan = results.plan;
    let percent = 100.0 * CONFIDENCE;
    let mut notes = vec![match plan.request.seeds.len() {
        1 => "There is one seed: how much of a difference is chance cannot be said. Ask for more --seeds.".to_owned(),
        _ => format!(
            "± is half the width of the {percent} % interval of the mean over seeds (Student's t with n − 1 degrees \
             of freedom). Paired differences are taken seed by seed: one seed gives all optimizers the same \
             initial weights and, epoch by epoch, the same order of images and the same draws. p is two-sided, against \
             a mean of 0."
        ),
    }];
    notes.push(format!(
        "Test accuracy and losses are those after the last epoch, on {} test images. {}",
        count(plan.data.images[2] as f64),
        match results.best_on() {
            "test" => "The best epoch is chosen by those same test images, which makes it optimistic: it is shown, \
                       not to be quoted. With --val-fraction it is chosen on images held out."
                .to_owned(),
            _ => format!(
                "The best epoch is chosen by accuracy on {} training images held out, and measured on the test images.",
                count(plan.data.images[1] as f64)
            ),
        }
    ));
    notes.extend(own_settings(plan));
    notes.push("Train accuracy and loss are means over the last epoch as it went, augmented images included.".into());
    let kind = plan.request.recipe.loss_kind();
    if !kind.is_empty() {
        notes.push(format!(
            "The train loss is the {kind} loss that is trained with; test losses are plain cross-entropy."
        ));
    }
    notes.push(
        "Seconds are training and evaluation together; they compare only between runs on one idle machine.".into(),
    );
    let mixed = ["commit", "cpu", "instructions"].into_iter().filter(|key| results.environment(key).len() > 1);
    for key in mixed {
        notes.push(format!("The runs differ in {key}: {}.", results.environment(key).join(", ")));
    }
    notes
}

/// The command line that asks for the same. Settings are spelled out, so that it holds whatever another version has for
/// defaults, but for those in which optimizers differ by their own defaults.
pub fn repeat(plan: &Plan) -> String {
    let request = &plan.request;
    let seeds: Vec<String> = request.seeds.iter().map(u64::to_string).collect();
    let seeds = match seeds.len() {
        n if request.seeds.iter().copied().eq(0..n as u64) => n.to_string(),
        1 => format!("{},", seeds[0]),
        _ => seeds.join(","),
    };
    let own = [("opt", request.optimizers.join(",")), ("seeds", seeds), ("budget", request.budget.name().to_owned())];
    let owned = |s: &Setting| OPTIMIZERS.iter().any(|row| row.settings.contains(&s.name));
    let compared = |s: &Setting| plan.shares.iter().any(|share| share.optimizer.settings.contains(&s.name));
    let same = |s: &Setting| plan.runs.iter().all(|run| s.get(&run.recipe) == s.get(&request.recipe));
    // Of the settings of single optimizers, those of others change nothing, and those in which the runs differ are each
    // optimizer's defaults.
    let common = course().filter(|s| !owned(s) || compared(s) && same(s));
    let settings = common.map(|s| (s.name, s.get(&request.recipe))).map(|(name, value)| match value {
        Value::List(v) if v.is_empty() => (name, String::new()),
        value => (name, value.to_string()),
    });
    let mut text = "samcore compare".to_owned();
    let mut length = text.len();
    for (name, value) in own.into_iter().chain(settings) {
        let word = format!("--{name} {}", shell_word(&value));
        if length + word.len() > 96 {
            text += " \\\n   ";
            length = 3;
        }
        length += 1 + word.len();
        text += &format!(" {word}");
    }
    text
}

/// "93.78 ± 0.10 %".
fn mean(e: &Estimate, unit: Unit) -> String {
    let half = e.half.filter(|_| unit != Unit::Seconds);
    let half = half.map_or(String::new(), |half| format!(" ± {}", plain(half, unit)));
    format!("{}{half}{}", plain(e.mean, unit), sign(unit))
}

/// Returns a number without its unit: a share in percent.
pub fn plain(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Share => format!("{:.2}", 100.0 * value),
        Unit::Loss => format!("{value:.4}"),
        Unit::Seconds => format!("{value:.0}"),
    }
}

fn sign(unit: Unit) -> &'static str {
    if unit == Unit::Share { " %" } else { "" }
}

/// Returns a number with its sign, a true minus.
pub fn signed(value: f64, unit: Unit) -> String {
    let text = plain(value.abs(), unit);
    let zero = text.chars().all(|c| "0.".contains(c));
    match (zero, value < 0.0) {
        (true, _) => text,
        (_, true) => format!("−{text}"),
        _ => format!("+{text}"),
    }
}

/// Returns a p-value for a table, or for a sentence: "= 0.012".
pub fn p_text(p: f64, in_words: bool) -> String {
    let decimals = if p < 0.01 { 4 } else { 3 };
    match p {
        p if p < 0.0001 => "< 0.0001".into(),
        p if in_words => format!("= {p:.decimals$}"),
        p => format!("{p:.decimals$}"),
    }
}

/// A number of things with its thousands apart: "7,488"; fractions only where there are any.
pub fn count(value: f64) -> String {
    let whole = format!("{:.0}", value.trunc());
    let digits = whole.len();
    let mut text = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (digits - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value.fract().abs() < 1e-6 { text } else { format!("{text}{}", &format!("{:.1}", value.fract())[1..]) }
}

/// The plan as a table for people, with how far each run has come and about how long it takes from there, where that is known.
pub fn plan_text(plan: &Plan, states: &[super::folder::State], times: Option<&[Duration]>) -> String {
    let [trained, held_out, tested] = plan.data.images.map(|n| count(n as f64));
    let held_out = if plan.data.images[1] > 0 { format!("{held_out} validation, ") } else { String::new() };
    let steps = plan.steps_per_epoch;
    let mut text = format!(
        "{}\n{trained} training, {held_out}{tested} test images; {steps} steps of {} images an epoch\n\n",
        plan.title(),
        plan.request.recipe.batch
    );
    let header = ["run", "state", "seed", "epochs", "steps", "gradients a step", "gradient evaluations", "time left"];
    let columns = if times.is_some() { header.len() } else { header.len() - 1 };
    let mut table = Table::new("", 2, &header[..columns]);
    for (i, (run, state)) in plan.runs.iter().zip(states).enumerate() {
        let share = &plan.shares[run.share];
        table.rows.push(vec![
            run.name.clone(),
            state.describe(),
            run.recipe.seed.to_string(),
            share.epochs.to_string(),
            count(share.steps as f64),
            share.gradients_per_step.to_string(),
            count(share.gradients()),
        ]);
        let left = times.map(|times| if times[i].is_zero() { "none".into() } else { estimate::about(times[i]) });
        table.rows[i].extend(left);
    }
    text += &table.markdown();
    let all: f64 = plan.runs.iter().map(|run| plan.shares[run.share].gradients()).sum();
    let time = match times {
        Some(times) => {
            let left = times.iter().fold(Duration::ZERO, |sum, time| sum.saturating_add(*time));
            format!("; {} on this machine, by an estimate", estimate::about(left))
        }
        None => String::new(),
    };
    text + &format!("\n{} runs, {} gradient evaluations{time}\n", plan.runs.len(), count(all))
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{plan, results};
    use super::super::{figure, html};
    use super::*;

    /// The text with single spaces: how wide columns are is not promised.
    fn squeezed(results: &Results<'_>) -> String {
        let text = markdown(results);
        text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_report_says_what_its_numbers_say() {
        let plan = plan(&["sgd", "sam"], 3);
        for (accuracies, says) in [
            // Differences of 1.0, 1.1 and 1.2 points: 0.248 is 4.3027 * 0.1 / sqrt(3).
            ([0.90, 0.91, 0.91, 0.921, 0.92, 0.932], "the 95 % interval, +0.85 to +1.35, p = 0.0027, lies above 0."),
            ([0.91, 0.90, 0.921, 0.91, 0.932, 0.92], "the 95 % interval, −1.35 to −0.85, p = 0.0027, lies below 0."),
            ([0.90, 0.91, 0.91, 0.90, 0.92, 0.92], "holds 0, so these seeds do not tell the two apart."),
            ([0.9; 6], "the 95 % interval, 0.00 to 0.00, holds 0, so these seeds do not tell the two apart."),
        ] {
            let text = markdown(&results(&plan, &accuracies));
            assert!(text.contains("\nsam − sgd: ") && text.contains(says), "{text}");
        }
        let text = squeezed(&results(&plan, &[0.90, 0.91, 0.91, 0.921, 0.92, 0.932]));
        for part in [
            "6 of 6 runs are done; seeds 0, 1, 2; each optimizer takes 2,808 gradients of batches of 128 in a run.",
            "| sgd | 6 | 2,808 | 3 | 91.00 ± 2.48 % | 91.10 ± 2.48 % |",
            "| sam − sgd | test accuracy, points | 3 | +1.10 | +0.85 to +1.35 | 0.0027 |",
            "| sam − sgd | test loss | 3 | −0.0110 | −0.0135 to −0.0085 |",
            "The best epoch is chosen by those same test images, which makes it optimistic",
            "samcore compare --opt sgd,sam --seeds 3 --budget equal-gradients --data fashion-mnist",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn one_seed_has_no_interval_and_says_so() {
        let plan = plan(&["sgd", "sam"], 1);
        let text = squeezed(&results(&plan, &[0.90, 0.9123]));
        assert!(
            text.contains("sam − sgd: +1.23 points of test accuracy on one seed, which allows no interval."),
            "{text}"
        );
        assert!(text.contains("There is one seed: how much of a difference is chance cannot be said."), "{text}");
        assert!(!text.contains('±') && text.contains("| +1.23 | – | – |"), "{text}");
        assert!(text.contains(" --seeds 1 ") && text.contains("; seed 0;"), "{text}");
        // Before any run is done there are tables too.
        let text = markdown(&super::super::Results::new(&plan));
        assert!(text.contains("0 of 2 runs are done"), "{text}");
    }

    #[test]
    fn the_page_stands_alone_with_tables_figure_settings_and_environment() {
        let mut plan = plan(&["sgd", "sam"], 2);
        plan.data.name = "a<b> & \"c\"".into();
        let results = results(&plan, &[0.90, 0.91, 0.91, 0.92]);
        let page = html::page(&results, &figure::curves(&results));
        for part in [
            "<title>cnn on a&lt;b&gt; &amp; &quot;c&quot;: sgd, sam</title>",
            "<svg ",
            "Test accuracy",
            "<div class=\"narrow\"><svg ",
            "Bands: from the lowest",
            "<td class=\"word\">A &lt;fast&gt; one</td>",
            "<td class=\"word\">weight-decay</td><td class=\"word\">0.0005</td>",
            "<td class=\"word\">commit</td><td class=\"word\">abc</td>",
            "<td class=\"word\">sam-seed1</td>",
            "samcore compare --opt sgd,sam --seeds 2 --budget equal-gradients --data ",
            " \\\n    --val-fraction 0 ",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        for part in ["http", "src=", "@import", "url(", "<script"] {
            assert!(!outside.contains(part), "the page must load nothing: {part}");
        }
        // A band for each optimizer in each of three panels, which are there for wide and for narrow screens.
        assert_eq!(page.matches("fill-opacity").count(), 2 * 3 * 2);
    }

    #[test]
    fn no_name_becomes_markup_in_table_md() {
        let mut plan = plan(&["sgd"], 1);
        plan.data.name = "<img src=x>\n## |".into();
        plan.request.recipe.data = "a\n```\n<script>".into();
        let text = markdown(&results(&plan, &[0.9]));
        assert!(text.starts_with("# cnn on \\<img src=x> ## \\|: sgd\n"), "{text}");
        let (_, code) = text.split_once("To repeat it:").unwrap();
        assert!(code.starts_with("\n\n````sh\n") && code.ends_with("\n````\n"), "{code}");
        assert!(code.contains("--data $'a\\x0a```\\x0a<script>'"), "{code}");
    }

    /// One of sgd's three runs ends after two epochs, and one of sam's has a last epoch without a finite loss.
    #[test]
    fn runs_that_end_early_are_drawn_up_to_there_and_are_in_no_mean() {
        let plan = plan(&["sgd", "sam"], 3);
        let mut results = results(&plan, &[0.90, 0.91, 0.92, 0.93, 0.94, 0.95]);
        let metrics = |results: &mut Results<'_>, i: usize| results.outcomes[i].as_mut().unwrap().metrics.clone();
        let mut short = metrics(&mut results, 0);
        short.rows.truncate(2);
        results.outcomes[0].as_mut().unwrap().metrics = short;
        let mut broken = metrics(&mut results, 1);
        let at = broken.columns.iter().position(|c| c == "test_loss").unwrap();
        broken.rows[2][at] = Some(f64::NAN);
        results.outcomes[1].as_mut().unwrap().metrics = broken;
        let figure = figure::curves(&results);
        for panel in &figure.panels {
            let ended: Vec<usize> = panel.series.iter().filter(|s| s.ended).map(|s| s.points.len()).collect();
            let lost = usize::from(panel.title == "Test loss");
            assert_eq!(ended, [2, 3 - lost], "{}", panel.title);
            let whole: Vec<_> = panel.series.iter().filter(|s| !s.ended).collect();
            assert_eq!(whole.iter().map(|s| s.points.len()).collect::<Vec<_>>(), [6, 3]);
            assert!(whole.iter().all(|s| s.points.iter().chain(&s.band).all(|p| p.1.is_finite())));
        }
        // Mean of 0.92 and 0.94.
        assert!((figure.panels[0].series[1].points[5].1 - 93.0).abs() < 1e-9);
        assert!(figure.notes[0].contains("this run ended early"), "{:?}", figure.notes);
        assert!(figure.notes[2].starts_with("sgd: epochs 6; sam: rho 0.05, epochs 3"), "{:?}", figure.notes);
    }

    #[test]
    fn counts_have_their_thousands_apart() {
        for (value, text) in
            [(0.0, "0"), (999.0, "999"), (7488.0, "7,488"), (1234567.0, "1,234,567"), (1500.25, "1,500.2")]
        {
            assert_eq!(count(value), text);
        }
    }
}
