//! `samcore check`.

use super::flags::{Named, apply, flag, flag_like, switch, text};
use super::print;
use crate::check::{Finding, ModelCheck, Verdict, check_case, check_model};
use crate::device::cuda::{Emulation, Order};
use crate::error::{Error, Kind as ErrorKind, Result, unknown};
use crate::models::{self, MODELS, Model};
use crate::ops::OPS;
use crate::ops::case::Case;
use crate::output::show;
use crate::recipe::{Kind, Recipe, Target};
use crate::train::engine;
use clap::{Arg, ArgMatches, Command};
use serde_json::json;

/// The checks that the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    /// Operations or models; empty: all.
    pub names: Vec<String>,
    /// A model whose gradients are to be checked as a whole.
    pub model: Option<String>,
    /// Only cases whose labels contain this.
    pub case: String,
    /// Its seed, threads, device and dtype count here.
    pub recipe: Recipe,
    pub emulation: Emulation,
    pub json: bool,
    /// Only list all names.
    pub list: bool,
}

pub fn build(command: Command) -> Command {
    let names = Arg::new("names").value_name("NAME").num_args(0..).value_parser(Named(names()));
    command.args([
        names.hide_possible_values(true).help("operations or models [all operations, a model of each kind]"),
        flag("model", Kind::Text, "check this model as a whole", None),
        flag("case", Kind::Text, "only the operations' cases whose labels contain this", None),
        flag_like("seed", "seed"),
        flag_like("device", "device"),
        flag_like("dtype", "dtype"),
        flag_like("exact", "exact"),
        flag_like("threads", "threads"),
        switch("sanitize", "emulator: report races, uninitialised and out-of-bounds accesses by file and line"),
        flag("order", Kind::Text, "emulator: order of threads: ascending, descending, or a number to shuffle by", None),
        switch("eager", "emulator: finish asynchronous copies and products at once, not as late as allowed"),
        switch("json", "write the result as one JSON object"),
        switch("list", "list all names"),
    ])
}

/// Everything that can be checked.
fn names() -> Vec<&'static str> {
    OPS.iter().map(|r| r.name).chain(models::names()).collect()
}

/// # Errors
/// Usage: a wrong value.
pub fn args(matches: &ArgMatches) -> Result<Args> {
    let mut recipe = Recipe::default();
    for name in ["seed", "device", "dtype", "exact", "threads"] {
        apply(matches, name, name, &mut recipe)?;
    }
    let names = matches.get_many::<String>("names").map(|names| names.cloned().collect()).unwrap_or_default();
    let (json, list) = (matches.get_flag("json"), matches.get_flag("list"));
    let order = match text(matches, "order").as_deref() {
        None | Some("ascending") => Order::Ascending,
        Some("descending") => Order::Descending,
        Some(word) => Order::Shuffled(word.parse().map_err(|_| {
            Error::usage(format!("--order must be ascending, descending or a whole number, not '{word}'"))
        })?),
    };
    let (sanitize, eager) = (matches.get_flag("sanitize"), matches.get_flag("eager"));
    let emulation = Emulation { sanitize, eager, order, ..Emulation::default() };
    if emulation != Emulation::default() && recipe.device != Target::Emu {
        return Err(Error::usage("--sanitize, --order and --eager are the emulator's: give --device emu as well"));
    }
    let case = text(matches, "case").unwrap_or_default();
    Ok(Args { names, model: text(matches, "model"), case, recipe, emulation, json, list })
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let args = args(matches)?;
    if args.list {
        let rows = OPS.iter().map(|r| (r.name, r.about)).chain(MODELS.iter().map(|m| (m.name, m.about)));
        return print(&rows.map(|(name, about)| format!("{name:<20} {about}\n")).collect::<String>());
    }
    let wanted: Vec<&str> = args.names.iter().chain(&args.model).map(String::as_str).collect();
    let models = chosen_models(&wanted)?;
    let chosen = |name: &str| wanted.is_empty() || wanted.contains(&name);
    let make = || engine::device_with(&mut args.recipe.clone(), &args.emulation);
    // A missing device is reported once, not as a failure of the first case.
    make()?;
    let (mut failed, mut found) = (0, models.len());
    let mut results = Vec::new();
    let mut tell = |name: &str, verdicts: &[Verdict]| {
        failed += verdicts.iter().filter(|v| !v.passed()).count();
        if args.json {
            results.push(to_json(name, verdicts));
            return;
        }
        show(&to_text(name, verdicts));
    };
    for row in OPS.iter().filter(|r| chosen(r.name)) {
        let cases: Vec<Case> = (row.cases)().into_iter().filter(|case| case.label.contains(&args.case)).collect();
        found += cases.len();
        let check = |case: &Case| {
            check_case(case, &make, args.recipe.seed).map_err(|e| e.context(format!("{}, {}", row.name, case.label)))
        };
        let verdicts = cases.iter().map(check).collect::<Result<Vec<_>>>()?;
        if !verdicts.is_empty() {
            tell(row.name, &verdicts);
        }
    }
    for model in models {
        let graph = models::to_check(&model, args.recipe.augment(), 0.0)?;
        let check = ModelCheck { name: &model.name, graph: &graph, rows: model.check[0], seed: args.recipe.seed };
        tell(&model.name, &[check_model(&check, &make)?]);
    }
    if found == 0 {
        return Err(Error::usage(format!("--case: no case has '{}' in its label", args.case)));
    }
    if args.json {
        let result = json!({"passed": failed == 0, "seed": args.recipe.seed, "checks": results});
        show(&format!("{result:#}\n"));
    }
    match failed {
        0 => Ok(()),
        n => Err(Error::new(ErrorKind::CheckFailed, format!("{n} cases failed"))),
    }
}

/// The models among the names wanted; if none is named at all, those that stand for all.
fn chosen_models(wanted: &[&str]) -> Result<Vec<Model>> {
    if wanted.is_empty() {
        return models::REPRESENTATIVES.iter().copied().map(models::find).collect();
    }
    let mut chosen = vec![];
    for word in wanted.iter().filter(|word| OPS.iter().all(|row| row.name != **word)) {
        let model = models::open(word).unwrap_or_else(|| {
            let names = names();
            Err(unknown("operation or model", word, &names))
        });
        chosen.push(model?);
    }
    Ok(chosen)
}

fn to_json(name: &str, verdicts: &[Verdict]) -> serde_json::Value {
    let finding = |f: &Finding| json!({"what": f.what, "error": f.error, "limit": f.limit, "passed": f.passed()});
    let case = |v: &Verdict| {
        let findings: Vec<_> = v.findings.iter().map(finding).collect();
        json!({"case": v.label, "passed": v.passed(), "findings": findings})
    };
    json!({"name": name, "cases": verdicts.iter().map(case).collect::<Vec<_>>()})
}

/// One line a case: the comparison that came nearest to its limit, or those that went beyond it.
fn to_text(name: &str, verdicts: &[Verdict]) -> String {
    let passed = verdicts.iter().filter(|v| v.passed()).count();
    let mut text = format!("{name}: {passed} of {} cases passed\n", verdicts.len());
    for v in verdicts {
        let state = if v.passed() { "ok  " } else { "FAIL" };
        let shown: Vec<String> = v
            .findings
            .iter()
            .filter(|f| if v.passed() { v.worst() == Some(f) } else { !f.passed() })
            .map(|f| format!("{} {:.1e} of {:.0e}", f.what, f.error, f.limit))
            .collect();
        text += &format!("  {state} {}: {}\n", v.label, shown.join("; "));
    }
    text
}
