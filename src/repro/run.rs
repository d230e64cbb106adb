//! Runs a protocol to its end, however often it is stopped, and writes its results after each run.

use super::measure;
use super::plan::Plan;
use super::report;
use super::results::{Done, Results};
use crate::error::{Error, Kind, Result};
use crate::files::write_atomic;
use crate::output;
use crate::protocol::folder::{self, State};
use crate::protocol::results::Outcome;
use crate::protocol::{Run, compare};
use crate::recipe::{Overrides, Value};
use crate::train::divergence::Divergence;
use crate::train::resume;
use crate::train::run_folder::RunFolder;
use std::path::Path;

/// Returns the states of all runs of `plan` in the folder `out`, by arm and seed.
///
/// # Errors
/// CantCreate: something else lies there, or a run with another setting, which is named. Data: damaged files.
pub fn states(plan: &Plan, out: &Path) -> Result<Vec<Vec<State>>> {
    let planned = |name: &str| plan.arms.iter().any(|arm| arm.plan.runs.iter().any(|run| run.name == name));
    for name in folder::entries(out)? {
        let own = report::OUTPUTS.contains(&name.as_str()) || name.starts_with('.');
        if !own && !planned(&name) && !RunFolder::has_run(&out.join(&name)).unwrap_or(false) {
            let message = format!("{} holds {name}, which is no run; give --out another folder", out.display());
            return Err(Error::new(Kind::CantCreate, message));
        }
    }
    let seeds = plan.asked.seeds.len();
    let of = |arm: usize| (0..seeds).map(|seed| state(plan, arm, &planned_run(plan, arm, seed, out)?, out)).collect();
    (0..plan.arms.len()).map(of).collect()
}

/// Returns a run as the plan has it, but with the path of the checkpoint that it began with if it has begun: where that lies
/// by now changes nothing.
fn planned_run(plan: &Plan, arm: usize, seed: usize, out: &Path) -> Result<Run> {
    let mut run = plan.run(arm, seed, out);
    let Some((takes, _)) = plan.arms[arm].method.takes else { return Ok(run) };
    let folder = out.join(&run.name);
    if RunFolder::has_run(&folder)?
        && let Some(Value::Text(before)) = resume::settings(&folder)?.get(takes.setting())
    {
        let place = |path: &str| Path::new(path).iter().rev().take(2).map(|name| name.to_owned()).collect::<Vec<_>>();
        let now = crate::recipe::setting(takes.setting())?.get(&run.recipe).to_string();
        if place(before) == place(&now) {
            let mut given = Overrides::default();
            given.set(takes.setting(), Value::Text(before.clone()));
            run.recipe = run.recipe.with(&given)?;
        }
    }
    Ok(run)
}

fn state(plan: &Plan, arm: usize, run: &Run, out: &Path) -> Result<State> {
    folder::state(&out.join(&run.name), run, &plan.arms[arm].plan)
}

/// Makes all runs of `plan` in the folder `out` that are not done yet, and returns the results of all.
///
/// A run that diverges is recorded as that, and the others go on; it is not tried again while its folder says so.
///
/// # Errors
/// CantCreate: the folder holds something else; nothing is then written. Interrupted: a signal; saved, and the same command
/// continues. NotFinite: all runs diverged. Those of a run, with its name.
pub fn run<'a>(plan: &'a Plan, out: &Path, quiet: bool) -> Result<Results<'a>> {
    // Before anything is written, the lock included: what is refused stays as it is.
    states(plan, out)?;
    let _held = RunFolder::hold(out)?;
    let note = |line: String| {
        if !quiet {
            output::note(&line);
        }
    };
    let mut results = Results::new(plan);
    let order = plan.order();
    let runs = order.len();
    for (number, (arm, seed)) in order.into_iter().enumerate() {
        let run = planned_run(plan, arm, seed, out)?;
        let which = format!("run {} of {runs}, {}", number + 1, run.name);
        let lost = |done: &Done| matches!(done, Done::Diverged(_) | Done::Impossible);
        if plan.arms[arm].after.is_some_and(|first| lost(&results.done[first][seed])) {
            results.done[arm][seed] = Done::Impossible;
            note(format!("{which}: {}", Done::Impossible.describe()));
            continue;
        }
        results.done[arm][seed] = one(plan, arm, &run, out, &which, quiet).map_err(|e| told(e, &which))?;
        report::write(&results, out)?;
    }
    report::write(&results, out)?;
    let [_, finished, diverged] = results.counts();
    if finished == 0 && diverged > 0 {
        return Err(Error::new(Kind::NotFinite, format!("all runs diverged; see {}", out.display())));
    }
    if diverged > 0 {
        output::note(&format!("{diverged} of {runs} runs diverged or had nothing to begin with, and count in no mean"));
    }
    Ok(results)
}

/// Makes one run and its measurements, as far as they are not there.
fn one(plan: &Plan, arm: usize, run: &Run, out: &Path, which: &str, quiet: bool) -> Result<Done> {
    let note = |line: String| {
        if !quiet {
            output::note(&line);
        }
    };
    let folder = out.join(&run.name);
    let state = state(plan, arm, run, out)?;
    match &state {
        State::Finished => note(format!("{which}: done before")),
        State::Diverged(divergence) => {
            note(format!("{which}: {}, before", state.describe()));
            return Ok(Done::Diverged(divergence.clone()));
        }
        _ => {
            note(String::new());
            note(format!("{which}: {} epochs", run.recipe.epochs));
            if let Err(e) = compare::train(&folder, run, &state, quiet) {
                // A run that diverges is a result, and the others go on.
                let divergence = if e.kind == Kind::NotFinite { Divergence::read(&folder)? } else { None };
                let Some(divergence) = divergence else { return Err(e) };
                note(format!("{which}: {e}"));
                return Ok(Done::Diverged(divergence));
            }
        }
    }
    let outcome = Outcome::read(&folder)?;
    let shown = plan.arms[arm].method.shown;
    if shown && plan.arms[arm].measured_images > 0.0 {
        note(format!("{which}: measuring the trained model"));
    }
    let measured = if shown { measure::of_run(&plan.asked.protocol.measured, &run.recipe, &folder)? } else { vec![] };
    Ok(Done::finished(&outcome, measured))
}

/// Returns `e` of the run `which`.
fn told(e: Error, which: &str) -> Error {
    if e.kind != Kind::Interrupted {
        return e.context(which);
    }
    let signal = crate::train::signals::requested().unwrap_or("a signal");
    Error::new(Kind::Interrupted, format!("stopped by {signal} in {which}, saved; the same command goes on"))
}

/// Writes the files of `texts` into `out`, each as a whole.
///
/// # Errors
/// CantCreate, Io: one cannot be written.
pub(super) fn write_all(out: &Path, texts: &[(&str, String)]) -> Result<()> {
    texts.iter().try_for_each(|(name, text)| write_atomic(&out.join(name), text.as_bytes()))
}
