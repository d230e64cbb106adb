//! `samcore data`: known data sets, fetching and verifying them, and label noise.

use super::flags::{Named, apply, flag, flag_like, path, path_flag, switch, text, value};
use super::meter::Meter;
use super::{Subcommand, print, run_action, subcommands};
use crate::data::fetch::{Order, Outcome, Patience, Progress, fetch};
use crate::data::known::home;
use crate::data::layout::{self, DataFiles};
use crate::data::noise::Noise;
use crate::data::verify::{FileReport, HalfReport, Report, Verdict, verify};
use crate::data::{DATASETS, Known, known};
use crate::error::{Error, Kind as ErrorKind, Result, unknown};
use crate::output::{print_line, printable};
use crate::recipe::{Kind, Recipe, Value};
use crate::train::progress::Style;
use clap::{Arg, ArgMatches, Command, ValueHint};
use serde_json::json;
use std::ops::Bound::{Excluded, Included};
use std::path::PathBuf;

/// The actions of `samcore data`, in the order of its help text.
pub const ACTIONS: &[Subcommand] = &[
    Subcommand { name: "list", about: "Show the data sets known by name", build: build_list, run: run_list },
    Subcommand { name: "fetch", about: "Download a known data set", build: build_fetch, run: run_fetch },
    Subcommand {
        name: "verify",
        about: "Check the files and labels of a data set",
        build: build_verify,
        run: run_verify,
    },
    Subcommand {
        name: "noise",
        about: "Copy a data set and make some of its training labels wrong",
        build: build_noise,
        run: run_noise,
    },
];

const RATE: Kind = Kind::Number(Excluded(0.0), Included(1.0));

pub fn build(command: Command) -> Command {
    command.subcommands(subcommands(ACTIONS))
}

/// # Errors
/// Usage: no action is named; those of the action.
pub fn run(matches: &ArgMatches) -> Result<()> {
    run_action("data", ACTIONS, matches)
}

/// The argument that an action is about; completion offers the known sets.
fn named(name: &'static str, placeholder: &'static str) -> Arg {
    let names = DATASETS.iter().map(|known| known.name).collect();
    Arg::new(name).value_name(placeholder).required(true).value_parser(Named(names)).hide_possible_values(true)
}

fn data_or_folder() -> Arg {
    named("data", "DATA").value_hint(ValueHint::DirPath).help("data set by name, or its folder")
}

fn build_list(command: Command) -> Command {
    command.arg(switch("json", "write the result as one JSON object"))
}

fn build_fetch(command: Command) -> Command {
    command.args([
        named("name", "NAME").help("data set, as 'samcore data list' shows them"),
        path_flag("out", "DIR", "where its folder is made [as 'samcore data list' says]"),
        flag("url", Kind::Text, "address of the folder with its archives [those of 'samcore data list --json']", None),
    ])
}

fn build_verify(command: Command) -> Command {
    command.args([data_or_folder(), switch("json", "write the result as one JSON object")])
}

fn build_noise(command: Command) -> Command {
    command.args([
        data_or_folder(),
        path_flag("out", "DIR", "the new folder").required(true),
        flag("rate", RATE, "probability that a label is replaced by a random one", None).required(true),
        flag_like("seed", "seed"),
        flag_like("labels", "labels"),
        switch("symmetric", "draw among the other classes; the default").conflicts_with("all-classes"),
        switch("all-classes", "draw among all classes, the right one too"),
    ])
}

fn run_list(matches: &ArgMatches) -> Result<()> {
    let roots = known::roots();
    let found = |known: &Known| known.find(&roots).ok();
    // Gives the answer of training for a folder with files missing.
    let wrong = |known: &Known| found(known).and_then(|folder| layout::of_format(&folder, known.format).err());
    let size = |known: &Known| known.archives.iter().map(|archive| archive.id.len).sum::<u64>();
    let others = others(&roots);
    if matches.get_flag("json") {
        let row = |known: &Known| {
            json!({
                "name": known.name,
                "about": known.about,
                "folder": found(known).map(|folder| folder.display().to_string()),
                "wrong": wrong(known).map(|e| e.to_string()),
                "download_bytes": size(known),
                "url": known.urls.first(),
                "urls": known.urls,
                "archives": known.archives.iter().map(|archive| {
                    json!({"name": archive.name, "bytes": archive.id.len, "sha256": archive.id.sha256})
                }).collect::<Vec<_>>(),
            })
        };
        let paths = |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let result = json!({
            "data_sets": DATASETS.iter().map(row).collect::<Vec<_>>(),
            "others": paths(&others),
            "looked_in": paths(&roots),
            "fetched_into": home().display().to_string(),
        });
        return print(&format!("{result:#}\n"));
    }
    let mut text = String::new();
    for known in DATASETS {
        let place = match (found(known), wrong(known)) {
            (_, Some(e)) => printable(&e.to_string()).into_owned(),
            (Some(folder), None) => printable(&folder.display().to_string()).into_owned(),
            (None, None) => format!("not here; samcore data fetch {}", known.name),
        };
        let megabytes = format!("{:.1} MB", size(known) as f64 / 1e6);
        text += &format!("{:<14} {}\n{:<14} download {megabytes}; {place}\n", known.name, known.about, "");
    }
    let shown = |path: &PathBuf| printable(&path.display().to_string()).into_owned();
    let listed = |paths: &[PathBuf]| paths.iter().map(shown).collect::<Vec<_>>().join(", ");
    if !others.is_empty() {
        text += &format!("\nother data sets: {}\n", listed(&others));
    }
    text += &format!("\nlooked in {}\n'samcore data fetch' puts data sets into {}\n", listed(&roots), shown(&home()));
    print(&text)
}

/// The data sets in `roots` that are in no known one's folder, as `--data` takes them.
fn others(roots: &[PathBuf]) -> Vec<PathBuf> {
    let is_known =
        |set: &DataFiles| DATASETS.iter().any(|known| roots.iter().any(|r| r.join(known.folder) == set.folder));
    let sets = roots.iter().flat_map(|root| layout::all(root).unwrap_or_default());
    sets.filter(|set| !is_known(set)).map(|set| set.address()).collect()
}

fn run_fetch(matches: &ArgMatches) -> Result<()> {
    let name = text(matches, "name").unwrap_or_default();
    let names: Vec<&str> = DATASETS.iter().map(|known| known.name).collect();
    let known = Known::by_name(&name).ok_or_else(|| unknown("data set", &name, &names))?;
    let url = text(matches, "url");
    if let Some(wrong) = url.as_ref().filter(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        return Err(Error::usage(format!("--url must begin with http:// or https://, not '{wrong}'")));
    }
    let out = path(matches, "out").unwrap_or_else(home);
    let order = Order { known, url: url.as_deref(), out: &out, patience: Patience::default() };
    let mut meter = DownloadMeter::new();
    let outcome = fetch(&order, &mut |progress| meter.show(progress));
    meter.end();
    match outcome? {
        Outcome::Complete(folder) => print_line(&format!("{name} is complete in {}", folder.display())),
        Outcome::Fetched(folder) => {
            print_line(&format!("{name} is in {}; every file is the original", folder.display()))
        }
    }
}

/// Shows how far a download has come: a line for each file.
struct DownloadMeter {
    meter: Meter,
    name: String,
}

impl DownloadMeter {
    fn new() -> DownloadMeter {
        DownloadMeter { meter: Meter::new(Style::detect(false)), name: String::new() }
    }

    fn show(&mut self, progress: &Progress<'_>) {
        let begins = self.name != progress.name;
        if begins {
            self.end();
            *self = DownloadMeter { name: progress.name.into(), ..DownloadMeter::new() };
        }
        if begins || progress.done == progress.total || self.meter.is_due() {
            self.meter.show(&progress_line(progress, self.meter.seconds()));
        }
    }

    fn end(&mut self) {
        self.meter.keep();
    }
}

/// "cifar-10-binary.tar.gz: 85.0 of 170.1 MB, 50 %, 12.5 MB/s, 7 s left".
fn progress_line(progress: &Progress<'_>, seconds: f64) -> String {
    let Progress { name, done, total, before } = *progress;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let mut line = format!("{name}: {:.1} of {:.1} MB", megabytes(done), megabytes(total));
    line += &format!(", {} %", 100 * done / total.max(1));
    let rate = (done - before) as f64 / seconds;
    // The first moments tell nothing about the rate.
    if seconds > 0.5 && rate > 0.0 {
        line += &format!(", {:.1} MB/s", rate / 1e6);
        if done < total {
            line += &format!(", {:.0} s left", (total - done) as f64 / rate);
        }
    }
    line
}

/// # Errors
/// Data: the set is damaged; the table is printed before.
fn run_verify(matches: &ArgMatches) -> Result<()> {
    let report = verify(&text(matches, "data").unwrap_or_default())?;
    print(&if matches.get_flag("json") { to_json(&report) } else { to_text(&report) })?;
    report.conclusion.map(|_| ())
}

fn verdict(file: &FileReport) -> &'static str {
    match file.verdict {
        Verdict::Original => "original",
        Verdict::Noisy => "original but for noisy labels",
        Verdict::Different => "different",
        Verdict::Sound => "sound",
        Verdict::Damaged(_) => "damaged",
    }
}

fn file_name(file: &FileReport) -> String {
    file.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn to_text(report: &Report) -> String {
    let mut text = format!("{:<28} {:>11}  {:<64}\n", "file", "bytes", "SHA-256, unpacked");
    for file in &report.files {
        let name = printable(&file_name(file)).into_owned();
        match &file.verdict {
            Verdict::Damaged(_) => text += &format!("{name:<28} {:>11}  {}\n", "", verdict(file)),
            _ => text += &format!("{name:<28} {:>11}  {:<64}  {}\n", file.len, file.sha256, verdict(file)),
        }
    }
    if let [train, test] = &report.halves[..] {
        let [h, w, c] = train.size;
        let count = |half: &HalfReport| half.counts.iter().sum::<usize>();
        text += &format!("\n{:<28} {:>11} {:>11}\n", "class", train.name, test.name);
        for (name, (train, test)) in report.class_names.iter().zip(train.counts.iter().zip(&test.counts)) {
            text += &format!("{:<28} {train:>11} {test:>11}\n", printable(name));
        }
        text += &format!("{:<28} {:>11} {:>11}   images of {h}x{w}x{c}\n", "all", count(train), count(test));
    }
    report.missing.iter().for_each(|line| text += &format!("{}\n", printable(line)));
    match &report.conclusion {
        Ok(what) => text + &format!("\n{}\n", printable(&format!("{}: {what}", report.folder.display()))),
        Err(_) => text,
    }
}

fn to_json(report: &Report) -> String {
    let file = |file: &FileReport| {
        let known = !matches!(file.verdict, Verdict::Damaged(_));
        json!({
            "name": file_name(file),
            "bytes": known.then_some(file.len),
            "sha256": known.then_some(&file.sha256),
            "verdict": verdict(file),
        })
    };
    let half = |half: &HalfReport| {
        let counts: serde_json::Map<String, serde_json::Value> =
            report.class_names.iter().zip(&half.counts).map(|(name, count)| (name.clone(), json!(count))).collect();
        json!({"split": half.name, "images": half.counts.iter().sum::<usize>(), "size": half.size, "classes": counts})
    };
    let result = json!({
        "folder": report.folder.display().to_string(),
        "compared_with": report.known.map(|known| known.name),
        "sound": report.conclusion.is_ok(),
        "conclusion": report.conclusion.as_ref().map_or_else(|e| e.to_string(), String::clone),
        "files": report.files.iter().map(file).collect::<Vec<_>>(),
        "missing_classes": report.missing,
        "splits": report.halves.iter().map(half).collect::<Vec<_>>(),
    });
    format!("{result:#}\n")
}

fn run_noise(matches: &ArgMatches) -> Result<()> {
    let mut recipe = Recipe::default();
    for name in ["seed", "labels"] {
        apply(matches, name, name, &mut recipe)?;
    }
    let Some(Value::Number(rate)) = value(matches, "rate", RATE)? else {
        return Err(Error::new(ErrorKind::Usage, "--rate is missing"));
    };
    let all_classes = matches.get_flag("all-classes");
    let noise = Noise { rate, seed: recipe.seed, all_classes, labels: recipe.labels };
    let out = path(matches, "out").unwrap_or_default();
    let done = noise.write(&text(matches, "data").unwrap_or_default(), &out)?;
    let missing: String = done.missing.iter().map(|line| format!("{}; none is drawn\n", printable(line))).collect();
    print(&format!(
        "{} of {} training labels are wrong in {} ({:.2} %; {} were drawn)\n{missing}",
        done.changed,
        done.images,
        printable(&out.display().to_string()),
        100.0 * done.changed as f64 / done.images as f64,
        done.drawn
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress_gives_rate_and_time_left_of_this_connection() {
        let progress = |done| Progress { name: "a.gz", done, total: 100_000_000, before: 10_000_000 };
        assert_eq!(progress_line(&progress(10_000_000), 0.0), "a.gz: 10.0 of 100.0 MB, 10 %");
        assert_eq!(progress_line(&progress(60_000_000), 4.0), "a.gz: 60.0 of 100.0 MB, 60 %, 12.5 MB/s, 3 s left");
        assert_eq!(progress_line(&progress(100_000_000), 9.0), "a.gz: 100.0 of 100.0 MB, 100 %, 10.0 MB/s");
    }
}
