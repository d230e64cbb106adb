//! `samcore bench`.

mod profile_text;
mod text;

use super::flags::{Named, apply, flag, flag_like, path, path_flag, switch, text as given, value};
use super::print;
use crate::bench::compare::{self, Comparison, Figure};
use crate::bench::limits::Limits;
use crate::bench::steps::{Task, Work};
use crate::bench::trace::Trace;
use crate::bench::{loading, operations, profile, steps, tune};
use crate::device::cuda::rungs::Rung;
use crate::device::{Device, cpu::CpuDevice};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::files::{self, write_atomic};
use crate::models;
use crate::ops::OPS;
use crate::ops::case::Case;
use crate::optim::OPTIMIZERS;
use crate::output::show;
use crate::recipe::{Kind, Recipe, Target, Value as Setting};
use crate::train::engine;
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The measurement that the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Operations whose names contain this.
    Operations(String),
    Steps(Vec<Work>),
    /// Each kernel for the convolutions of these models.
    Tune(Vec<String>),
    /// Loading of the data set of this name, or in this folder.
    Data(String),
    /// Nothing: only the names of the operations' cases.
    List(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    pub what: What,
    /// Time for each measurement.
    pub budget: Duration,
    /// Its device and threads count here.
    pub recipe: Recipe,
    pub dtypes: Vec<DType>,
    /// File of the results as JSON lines; "-" is stdout, which then holds nothing else.
    pub json: Option<PathBuf>,
    /// An earlier such file.
    pub compare: Option<PathBuf>,
    /// File of the table of the fastest kernels.
    pub tune: Option<PathBuf>,
    /// File of the trace of a step's calls, if they are to be timed.
    pub profile: Option<PathBuf>,
}

const SECONDS: Kind = Kind::Number(Excluded(0.0), Included(86_400.0));
const MODE: Kind = Kind::Choice(&["train", "gradient", "eval"]);
/// Seconds for each measurement, unless --seconds says otherwise: a call repeats after milliseconds, a step may take one.
const BUDGET: f64 = 1.0;
const STEPS_BUDGET: f64 = 10.0;
/// Images a step, as the peers are timed with.
const TRAIN_BATCH: &str = "128";
const EVAL_BATCH: &str = "512";
const TRACE: &str = "samcore-trace.json";
const MOST_IMAGES: u64 = u32::MAX as u64;

pub fn build(command: Command) -> Command {
    const OTHERS: [&str; 3] = ["filter", "data", "list"];
    // Clap asks for no flag that cannot be there, so what belongs to --step must exclude the same.
    let of_step = |arg: Arg| arg.requires("step").conflicts_with_all(OTHERS);
    let named = |arg: Arg, names: Vec<&'static str>| arg.value_parser(Named(names)).hide_possible_values(true);
    let list = |name, values, help| of_step(Arg::new(name).long(name).value_name(values).help(help));
    let dtypes = format!("what convolutions and linear layers multiply in ({}) [f32]", DType::NAMES.join(", "));
    command.args([
        Arg::new("filter").value_name("FILTER").help("one operation, or the cases whose names contain this [all]"),
        named(Arg::new("step").long("step").value_name("MODEL,…"), models::names().collect())
            .help("time whole steps of these models instead")
            .conflicts_with_all(OTHERS),
        named(
            list("opt", "NAME,…", "optimizers whose steps are timed [sam]".into()),
            OPTIMIZERS.iter().map(|row| row.name).collect(),
        ),
        list("batch", "N,…", format!("images per step [{TRAIN_BATCH}; eval: {EVAL_BATCH}]")),
        named(Arg::new("dtype").long("dtype").value_name("NAME,…").help(dtypes), DType::NAMES.to_vec()),
        flag_like("device", "device"),
        of_step(path_flag(
            "tune",
            "FILE",
            "time every kernel for the convolutions of --step's models; write the fastest there",
        )),
        of_step(path_flag(
            "profile",
            "FILE",
            "also time the step call by call, and write a trace that ui.perfetto.dev opens",
        ))
        .conflicts_with("tune")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value(TRACE),
        of_step(flag(
            "mode",
            MODE,
            "training steps, a gradient alone, or evaluation",
            Some(&Setting::Text("train".into())),
        )),
        flag("data", Kind::Text, "time loading and augmenting this data set or folder instead", None)
            .conflicts_with_all(["filter", "list"]),
        flag("seconds", SECONDS, &format!("time for each measurement [{BUDGET}; steps: {STEPS_BUDGET}]"), None),
        flag_like("exact", "exact"),
        flag_like("threads", "threads"),
        path_flag("json", "FILE", "write the results as JSON lines; -: to stdout, instead of tables"),
        path_flag("compare", "FILE", "show ratios to an earlier --json FILE"),
        switch("list", "only list the operations' cases"),
    ])
}

/// # Errors
/// Usage: a wrong value, or a name that is not known.
pub fn args(matches: &ArgMatches) -> Result<Args> {
    let mut recipe = Recipe::default();
    for name in ["device", "exact", "threads"] {
        apply(matches, name, name, &mut recipe)?;
    }
    let dtypes: Vec<DType> = words(&given(matches, "dtype").unwrap_or("f32".into()))
        .iter()
        .map(|word| match Kind::Choice(&DType::NAMES).parse(word) {
            Ok(_) => Ok(DType::ALL.into_iter().find(|d| d.name() == word).unwrap_or_default()),
            Err(e) => Err(Error::usage(format!("--dtype {e}"))),
        })
        .collect::<Result<_>>()?;
    let filter = given(matches, "filter").unwrap_or_default();
    let (what, seconds) = match (given(matches, "step"), given(matches, "data")) {
        (Some(models), _) if matches.contains_id("tune") => (What::Tune(words(&models)), BUDGET),
        (Some(models), _) => (What::Steps(works(matches, &models, &dtypes)?), STEPS_BUDGET),
        (None, Some(data)) => (What::Data(data), BUDGET),
        (None, None) if matches.get_flag("list") => (What::List(filter), BUDGET),
        (None, None) => (What::Operations(filter), BUDGET),
    };
    let seconds = match value(matches, "seconds", SECONDS)? {
        Some(Setting::Number(seconds)) => seconds,
        _ => seconds,
    };
    let budget = Duration::from_secs_f64(seconds);
    let [json, compare, tune, profile] = ["json", "compare", "tune", "profile"].map(|name| path(matches, name));
    Ok(Args { what, budget, recipe, dtypes, json, compare, tune, profile })
}

/// Every combination of the lists given.
fn works(matches: &ArgMatches, models: &str, dtypes: &[DType]) -> Result<Vec<Work>> {
    let list = |name: &str, default: &str| words(&given(matches, name).unwrap_or(default.into()));
    let mode = match value(matches, "mode", MODE)? {
        Some(Setting::Text(mode)) => mode,
        _ => "train".into(),
    };
    if mode != "train" && matches.contains_id("opt") {
        return Err(Error::usage(format!("--opt has no meaning with --mode {mode}, which takes no step")));
    }
    let (tasks, batch) = match mode.as_str() {
        "eval" => (vec![Task::Evaluate], EVAL_BATCH),
        "gradient" => (vec![Task::Gradient], TRAIN_BATCH),
        _ => (list("opt", "sam").into_iter().map(Task::Train).collect(), TRAIN_BATCH),
    };
    let batches = list("batch", batch);
    let mut works = Vec::new();
    for model in words(models) {
        for task in &tasks {
            for batch in &batches {
                for &dtype in dtypes {
                    let kind = Kind::Count(1, MOST_IMAGES);
                    let count = kind.parse(batch).map_err(|e| Error::usage(format!("--batch {e}")))?;
                    let Setting::Count(batch) = count else { continue };
                    let work = Work { model: model.clone(), task: task.clone(), batch: batch as usize, dtype };
                    work.check()?;
                    works.push(work);
                }
            }
        }
    }
    Ok(works)
}

/// The words of a comma-separated list; an empty one stays, to be told as unknown.
fn words(list: &str) -> Vec<String> {
    list.split(',').map(|word| word.trim().to_owned()).collect()
}

/// Results as they come: shown at once, kept for the file and the comparison.
struct Results {
    json: Option<PathBuf>,
    lines: Vec<Value>,
    failed: Option<Error>,
}

impl Results {
    fn to_stdout(&self) -> bool {
        self.json.as_deref().is_some_and(|path| path.as_os_str() == "-")
    }

    /// Shows `text`, where stdout is not for JSON.
    fn show(&self, text: &str) {
        if !self.to_stdout() {
            show(text);
        }
    }

    fn add(&mut self, line: Value) {
        if self.to_stdout() {
            show(&format!("{line}\n"));
        }
        self.lines.push(line);
    }

    /// Writes a file; the first that cannot be written is reported when all others are.
    fn write(&mut self, path: &Path, text: &str) {
        if let Err(e) = write_atomic(path, text.as_bytes()) {
            self.failed.get_or_insert(e);
        }
    }

    /// Writes the file of --json, if there is one.
    fn write_lines(&mut self) {
        let Some(path) = self.json.clone().filter(|_| !self.to_stdout()) else { return };
        let text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        self.write(&path, &text);
    }
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let Args { what, budget, recipe, dtypes, json, compare, tune, profile } = args(matches)?;
    // Everything that can be refused is refused before minutes are spent.
    let mut results = Results { json, lines: vec![], failed: None };
    let json = results.json.as_deref().filter(|_| !results.to_stdout());
    for (flag, file) in [("--json", json), ("--profile", profile.as_deref()), ("--tune", tune.as_deref())] {
        file.map_or(Ok(()), |file| check_place(flag, file))?;
    }
    if let What::List(filter) | What::Operations(filter) = &what {
        let names = operations::names(filter)?;
        if let What::List(_) = what {
            return print(&names.iter().map(|name| format!("{name}\n")).collect::<String>());
        }
    }
    if let What::Tune(models) = &what {
        models.iter().try_for_each(|name| models::find(name).map(|_| ()))?;
        engine::device_on_rung(&mut recipe.clone(), Rung::Plain)?;
    }
    let earlier = compare.as_deref().map(compare::read).transpose()?;
    let device = |dtype: DType| engine::device(&mut Recipe { dtype, ..recipe.clone() });
    // First of all, because it tells the time since the process began.
    let loading = match &what {
        What::Data(name) => Some(loading::time_loading(name, device(dtypes[0])?, budget)?),
        _ => None,
    };
    let mut limits: BTreeMap<&str, Limits> = BTreeMap::new();
    for dtype in &dtypes {
        // A CPU's are those of f32, whatever the dtype: one measurement, and one result of each name.
        let known = limits.values().find(|of| of.fma_one.is_some()).cloned();
        let of = match known {
            Some(of) => of,
            None => {
                let of = limits_of(&recipe, device(*dtype)?)?;
                results.show(&text::limits(&of));
                of.to_json().into_iter().for_each(|line| results.add(line));
                of
            }
        };
        limits.insert(dtype.name(), of);
    }
    if let Some(loading) = &loading {
        results.show(&text::loading(loading));
        results.add(loading.to_json());
    }
    if let What::Data(name) = &what
        && let Some(augmenting) = loading::time_augmenting(name, budget)?
    {
        results.show(&text::augmenting(&augmenting));
        results.add(augmenting.to_json());
    }
    match &what {
        What::Operations(filter) => {
            results.show(text::OPERATIONS);
            for ((name, case), dtype) in
                OPS.iter().flat_map(|row| operations::cases(row, filter)).flat_map(|case| each(&case, &dtypes))
            {
                let name = if dtypes.len() > 1 { format!("{name}, {}", dtype.name()) } else { name };
                let (context, limits) = (|e: Error| e.context(&name), &limits[dtype.name()]);
                let calls = operations::time_case(&case, device(dtype)?, budget).map_err(context)?;
                results.show(&text::case(&name, &calls, limits));
                calls.iter().for_each(|call| results.add(call.to_json(&name, limits)));
            }
            results.show(text::OPERATIONS_FOOT);
        }
        What::Steps(works) => {
            results.show(text::STEPS);
            let mut profiles = Vec::new();
            for work in works {
                let (context, limits) = (|e: Error| e.context(work.name()), &limits[work.dtype.name()]);
                let times = steps::time_steps(work, device(work.dtype)?, budget).map_err(context)?;
                results.show(&text::step(&times, limits));
                results.add(times.to_json(limits));
                if profile.is_some() {
                    profiles.push(profile::profile(work, device(work.dtype)?, budget).map_err(context)?);
                }
            }
            let mut trace = Trace::default();
            for profile in &profiles {
                let limits = &limits[profile.work.dtype.name()];
                results.show(&profile_text::profile(profile, limits));
                profile.to_json(limits).into_iter().for_each(|line| results.add(line));
                trace.add(profile, limits);
            }
            if let Some(file) = &profile {
                results.write(file, &trace.to_json());
                results.show(&profile_text::foot(file));
            }
        }
        What::Tune(models) => {
            let with = |rung, dtype| engine::device_on_rung(&mut Recipe { dtype, ..recipe.clone() }, rung);
            let table = tune::tune(models, &dtypes, &with, budget, &mut |row| {
                results.show(&text::tuned(row));
                results.add(row.to_json());
            })?;
            if let Some(path) = &tune {
                results.write(path, &table.to_json());
            }
        }
        What::Data(_) | What::List(_) => {}
    }
    results.write_lines();
    if let (Some(then), Some(path)) = (earlier, compare) {
        let now: Vec<Figure> = results.lines.iter().map(Figure::of).collect::<Result<_>>()?;
        results.show(&text::comparison(&Comparison::of(&then, &now), &path));
    }
    results.failed.map_or(Ok(()), Err)
}

/// Checks that the file of `flag` can be written, before minutes are spent.
///
/// # Errors
/// CantCreate: it is a folder, or its folder is missing.
pub(super) fn check_place(flag: &str, file: &Path) -> Result<()> {
    files::check_place(file).map_err(|e| e.context(flag))
}

/// The limits that a device of that recipe is held against.
fn limits_of(recipe: &Recipe, device: Box<dyn Device>) -> Result<Limits> {
    match device.own_memory() {
        true => Limits::measure_kernels(device, recipe.device == Target::Emu),
        false => {
            let (threads, dtype) = (device.threads(), device.dtype());
            // One pool at a time.
            drop(device);
            Ok(Limits::measure(&CpuDevice::new(threads)?.with_dtype(dtype)?))
        }
    }
}

/// A case in each dtype.
fn each(case: &(String, Case), dtypes: &[DType]) -> Vec<((String, Case), DType)> {
    dtypes.iter().map(|dtype| (case.clone(), *dtype)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        let command = build(Command::new("bench"));
        let matches = command.try_get_matches_from(std::iter::once("bench").chain(line.split_whitespace()));
        args(&matches.map_err(|e| Error::usage(e.kind().to_string()))?)
    }

    #[test]
    fn lists_are_combined_and_have_the_peers_defaults() {
        let works = |line: &str| match parse(line).unwrap().what {
            What::Steps(works) => works.iter().map(Work::name).collect::<Vec<_>>(),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(works("--step cnn"), ["step cnn sam, batch 128, f32"]);
        assert_eq!(works("--step cnn --mode eval"), ["step cnn eval, batch 512, f32"]);
        assert_eq!(works("--step cnn --mode gradient"), ["step cnn gradient, batch 128, f32"]);
        assert_eq!(
            works("--step cnn --opt sgd,sam --batch 32,64 --dtype f32"),
            [
                "step cnn sgd, batch 32, f32",
                "step cnn sgd, batch 64, f32",
                "step cnn sam, batch 32, f32",
                "step cnn sam, batch 64, f32",
            ]
        );
        assert_eq!(parse("--step cnn").unwrap().budget, Duration::from_secs(10));
        let args = parse("conv2d --seconds 0.5 --threads 1").unwrap();
        assert_eq!((args.what, args.budget), (What::Operations("conv2d".into()), Duration::from_millis(500)));
        assert_eq!(args.recipe.threads, 1);
        for (line, file) in [("", None), ("--profile", Some(TRACE)), ("--profile=a.json", Some("a.json"))] {
            assert_eq!(parse(&format!("--step cnn {line}")).unwrap().profile, file.map(PathBuf::from));
        }
    }

    #[test]
    fn what_cannot_be_measured_is_refused_before_anything_is() {
        for (line, message) in [
            ("--step cnm", "unknown model 'cnm'; did you mean 'cnn'?"),
            ("--step cnn,", "unknown model ''; known: "),
            ("--step cnn --opt sag", "unknown optimizer 'sag'; did you mean 'sam'?"),
            ("--step cnn --dtype f32,f8", "--dtype must be one of f32, tf32, bf16, f16, not 'f8'"),
            ("--step cnn --batch 8,0", "--batch must be a whole number from 1 to 4294967295, not '0'"),
            ("--step cnn --mode test", "--mode must be one of train, gradient, eval, not 'test'"),
            ("--step cnn --mode eval --opt sam", "--opt has no meaning with --mode eval"),
            ("--step cnn --mode gradient --opt sam", "--opt has no meaning with --mode gradient"),
            ("--seconds 0", "--seconds must be a number above 0 to 86400, not '0'"),
            ("--seconds nan", "--seconds must be a number above 0 to 86400, not 'nan'"),
            ("relu --step cnn", "cannot be used"),
            ("--data fashion-mnist --list", "cannot be used"),
            ("--batch 8", "required"),
            ("conv2d --batch 8", "cannot be used"),
            ("--profile", "required"),
            ("conv2d --profile", "cannot be used"),
            ("--step cnn --profile trace.json", "cannot be used"),
            ("--step cnn --profile --tune rungs.json", "cannot be used"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.to_string().contains(message), "{line}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
