//! `samcore compare`.

use super::flags::{
    flag, given_by_flags, path, path_flag, resolve, setting_flags, switch, text, value, without_effect,
};
use super::print;
use crate::bench::estimate;
use crate::bench::limits::fma_gflops;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::output::note;
use crate::protocol::request::{OWN, parse_optimizers, parse_seeds};
use crate::protocol::{self, Budget, Place, Plan, Request, folder, report};
use crate::recipe::{Kind, Overrides, Recipe, Value};
use crate::train::run_folder::RunFolder;
use crate::train::{engine, signals};
use clap::{Arg, ArgMatches, Command};
use serde_json::json;
use std::time::Duration;

const BUDGET: Kind = Kind::Choice(&Budget::NAMES);

/// The comparison that the command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    /// The request of --config or, on --resume, of the comparison's folder, with the flags on top.
    pub request: Request,
    /// The settings of runs that were given, which stand above those of the model.
    pub given: Overrides,
    /// The comparison has begun, and has every setting.
    pub resumed: bool,
    pub place: Place,
    /// Only tell what would be done.
    pub dry_run: bool,
    pub json: bool,
}

pub fn build(command: Command) -> Command {
    let defaults = Request::default();
    let opt = Value::Text(defaults.optimizers.join(","));
    let seeds = Value::Text(defaults.seeds.len().to_string());
    let budget = Value::Text(defaults.budget.name().into());
    let own = [
        flag("opt", Kind::Text, "optimizers with commas; differences are to the first", Some(&opt))
            .value_name("NAME,…"),
        flag("seeds", Kind::Text, "number of seeds, from 0 on, or the seeds with commas", Some(&seeds)).value_name("N"),
        flag("budget", BUDGET, "what is equal for all optimizers", Some(&budget)),
        path_flag("config", "FILE", "read a compare.toml or a run's config.toml; flags override it"),
        path_flag("out", "DIR", "folder of the comparison, new or to be resumed [runs/DATE-TIME-NAME]"),
        Arg::new("name")
            .long("name")
            .value_name("NAME")
            .help("end of the name of the folder in runs")
            .conflicts_with("out"),
        path_flag("resume", "DIR", "resume the comparison in DIR").conflicts_with_all(["config", "out", "name"]),
        switch("dry-run", "only show the runs, their cost and about how long they will take"),
        switch("json", "write results.json to stdout instead of the table"),
        switch("quiet", "show no progress"),
    ];
    let epochs =
        format!("passes over the training images for the most expensive optimizer [{}]", defaults.recipe.epochs);
    let shared = setting_flags().filter(|arg| !OWN.contains(&arg.get_id().as_str()));
    let shared = shared.map(|arg| if arg.get_id() == "epochs" { arg.help(epochs.clone()) } else { arg });
    command.args(own.map(|arg| arg.help_heading("Comparison"))).args(shared)
}

/// # Errors
/// Usage: a wrong value. Data, NoInput: a file that cannot be read.
pub fn args(matches: &ArgMatches) -> Result<Args> {
    let resume = path(matches, "resume").map(|path| RunFolder::named(&path)).transpose()?;
    let config = path(matches, "config");
    let (begun, settings) = match (&resume, &config) {
        (Some(folder), _) => (folder::request_of(folder)?, Overrides::default()),
        (None, Some(file)) => Request::read(file)?,
        (None, None) => (Request::default(), Overrides::default()),
    };
    let flags = given_by_flags(matches, &OWN)?;
    let mut request = begun.clone();
    request.recipe = request.recipe.with(&flags)?;
    // Each run has its own optimizer and seed, whatever those of a config.toml are.
    let given = settings.with(flags.clone()).without(&OWN);
    let kept = |name| begun.given.contains(&name) && (resume.is_some() || given.get(name).is_some());
    request.give(|name| kept(name) || flags.get(name).is_some());
    if let Some(names) = text(matches, "opt") {
        request.optimizers = parse_optimizers(&names);
    }
    if let Some(seeds) = text(matches, "seeds") {
        request.seeds = parse_seeds(&seeds).map_err(|e| Error::usage(format!("--seeds {e}")))?;
    }
    if let Some(Value::Text(name)) = value(matches, "budget", BUDGET)? {
        request.budget = Budget::of(&name)?;
    }
    if let Some(folder) = &resume {
        request.check_same(&begun, folder, ErrorKind::Usage)?;
    }
    request.validate()?;
    let (quiet, json) = (matches.get_flag("quiet"), matches.get_flag("json"));
    let resumed = resume.is_some();
    let place = Place { out: resume.or_else(|| path(matches, "out")), name: text(matches, "name"), quiet };
    Ok(Args { request, given, resumed, place, dry_run: matches.get_flag("dry-run"), json })
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let Args { mut request, given, resumed, place, dry_run, json } = args(matches)?;
    if !place.quiet {
        let optimizers: Vec<&str> = request.optimizers.iter().map(String::as_str).collect();
        without_effect(matches, &request.recipe, &optimizers).iter().for_each(|line| note(line));
    }
    let plan = if resumed {
        let folder = place.out.clone().unwrap_or_default();
        let data = folder::data(&folder, &mut request.recipe)?;
        Plan::on(&data, request)?
    } else {
        let (recipe, data) = resolve(&given)?;
        request.recipe = Recipe { opt: request.recipe.opt, seed: request.recipe.seed, ..recipe };
        Plan::on(&data, request)?
    };
    if dry_run {
        return tell_plan(&plan, &place, json);
    }
    signals::install()?;
    let (folder, results) = protocol::compare(&plan, &place)?;
    note("");
    note(&format!("results in {}: {}", folder.display(), folder::OUTPUTS.join(", ")));
    print(&if json { results.to_text() } else { report::markdown(&results) })
}

fn tell_plan(plan: &Plan, place: &Place, as_json: bool) -> Result<()> {
    if let Some(out) = &place.out {
        folder::check(out, plan)?;
    }
    let states = folder::states(place.out.as_ref(), plan)?;
    folder::check_init(plan, &states)?;
    let times = times(plan, &states)?;
    if !as_json {
        return print(&report::plan_text(plan, &states, times.as_deref()));
    }
    let seconds = |i: usize| times.as_ref().map(|times| times[i].as_secs_f64().ceil());
    let run = |(i, (run, state)): (usize, (&protocol::Run, &folder::State))| {
        let share = &plan.shares[run.share];
        json!({
            "folder": run.name,
            "optimizer": run.recipe.opt,
            "seed": run.recipe.seed,
            "epochs": share.epochs,
            "steps": share.steps,
            "gradient_evaluations": share.gradients(),
            "state": state.describe(),
            "estimated_seconds_left": seconds(i),
        })
    };
    let runs: Vec<_> = plan.runs.iter().zip(&states).enumerate().map(run).collect();
    let all = (0..plan.runs.len()).map(seconds).sum::<Option<f64>>();
    let plan = json!({"steps_per_epoch": plan.steps_per_epoch, "runs": runs, "estimated_seconds_left": all});
    print(&format!("{plan:#}\n"))
}

/// Returns how long what is left of each run takes on this machine, by an estimate; None on a GPU.
fn times(plan: &Plan, states: &[folder::State]) -> Result<Option<Vec<Duration>>> {
    let device = engine::device(&mut plan.request.recipe.clone())?;
    let Some(gflops) = fma_gflops(&*device, 30) else { return Ok(None) };
    let time = |(run, state): (&protocol::Run, &folder::State)| {
        let share = &plan.shares[run.share];
        let flops = share.flops * state.left(share.steps);
        if flops > 0.0 { estimate::duration(flops, gflops) } else { Duration::ZERO }
    };
    Ok(Some(plan.runs.iter().zip(states).map(time).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TestFolder;
    use crate::protocol::request::course;
    use crate::recipe::tests::other_value;

    fn parse(words: &[&str]) -> Result<Args> {
        let words = ["samcore", "compare"].iter().chain(words);
        let matches = crate::cli::command().try_get_matches_from(words).unwrap();
        args(matches.subcommand().unwrap().1)
    }

    #[test]
    fn flags_and_files_say_what_is_asked() {
        assert_eq!(parse(&[]).unwrap().request, Request::default());
        for s in course() {
            let mut expected = Request { given: vec![s.name], ..Request::default() };
            s.set(&mut expected.recipe, other_value(s)).unwrap();
            let flag = format!("--{}={}", s.name, other_value(s));
            assert_eq!(parse(&[&flag]).unwrap().request, expected, "{}", s.name);
        }
        let scratch = TestFolder::new("compare-args");
        let begun = parse(&["--opt", "sam, sgd", "--seeds", "3,5", "--budget", "equal-epochs", "--lr", "0.2"]).unwrap();
        let Request { recipe, optimizers, seeds, budget, .. } = &begun.request;
        assert_eq!((recipe.lr, optimizers.join(" "), &seeds[..]), (0.2, "sam sgd".into(), &[3, 5][..]));
        assert_eq!(*budget, Budget::EqualEpochs);
        std::fs::write(scratch.0.join(folder::REQUEST), begun.request.to_toml()).unwrap();
        let path = scratch.0.to_str().unwrap();
        // The machine is this one, whatever the comparison began on.
        let resumed = parse(&["--resume", path, "--threads", "2"]).unwrap();
        assert_eq!((resumed.request.recipe.threads, resumed.request.difference(&begun.request)), (2, Ok(None)));
        assert_eq!(resumed.place.out.as_ref(), Some(&scratch.0));
        let file = scratch.0.join(folder::REQUEST);
        let changed = parse(&["--config", file.to_str().unwrap(), "--seeds", "1"]).unwrap();
        assert_eq!((changed.request.seeds, changed.place.out), (vec![0], None));
    }

    #[test]
    fn mistakes_name_their_flag() {
        for (words, message) in [
            (["--seeds", "no"], "--seeds must be a number of seeds from 1 to 1000, or seeds with a comma"),
            (["--seeds", "1,1"], "--seeds names 1 twice; once is enough"),
            (["--seeds", "1,9223372036854775808"], "recipe: seed must be a whole number from 0"),
            (["--opt", "sgd,sgd"], "--opt names sgd twice; once is enough"),
            (["--opt", "sgd,"], "unknown optimizer ''"),
            (["--budget", "equal"], "--budget must be one of equal-gradients, equal-epochs, not 'equal'"),
            (["--rho", "-1"], "--rho must be a number of at least 0, not '-1'"),
        ] {
            let e = parse(&words).unwrap_err();
            assert!(e.exit_code() == 2 && e.to_string().starts_with(message), "{e}");
        }
    }
}
