//! Runs a plan to its end, however often it is stopped, and writes what has come out after each run.

use super::folder::{self, REQUEST, State};
use super::plan::{Plan, Run};
use super::results::Results;
use super::{figure, html, report};
use crate::bench::estimate;
use crate::data;
use crate::error::{Error, Kind, Result};
use crate::files::write_atomic;
use crate::models;
use crate::output;
use crate::train::run_folder::RunFolder;
use crate::train::{Session, Where, shell_word, signals};
use std::path::{Path, PathBuf};

/// Where a comparison goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// Its folder: new, or one that an equal comparison has begun; None: a new one below `runs`.
    pub out: Option<PathBuf>,
    /// Last part of the new folder's name.
    pub name: Option<String>,
    pub quiet: bool,
}

/// Makes all runs of `plan` that are not done yet; returns the folder, and the results of all of them.
///
/// Runs that lie there with the plan's settings are kept if they are finished and resumed if they are not, whoever
/// began them. Results are written anew after each run.
///
/// # Errors
/// CantCreate: the folder holds something else; nothing is then written. Interrupted: a signal; saved, the message
/// holds the line that goes on. Those of a run, with its name.
pub fn compare<'a>(plan: &'a Plan, place: &Place) -> Result<(PathBuf, Results<'a>)> {
    let (held, states) = open(plan, place)?;
    let path = held.path().to_path_buf();
    write_atomic(&path.join(REQUEST), plan.request.to_toml().as_bytes())?;
    let note = |line: String| {
        if !place.quiet {
            output::note(&line);
        }
    };
    note(format!("{}; seeds {:?}; folder {}", plan.title(), plan.request.seeds, path.display()));
    let mut results = Results::new(plan);
    let runs = plan.runs.len();
    let (done, left): (Vec<usize>, Vec<usize>) = (0..runs).partition(|i| states[*i] == State::Finished);
    for i in done {
        note(format!("run {} of {runs}, {}: done before", i + 1, plan.runs[i].name));
        results.add(i, &path)?;
    }
    for i in &left {
        let run = &plan.runs[*i];
        let which = format!("run {} of {runs}, {}", i + 1, run.name);
        note(String::new());
        note(format!("{which}: {} epochs", run.recipe.epochs));
        train(&path.join(&run.name), run, &states[*i], place.quiet).map_err(|e| told(e, &which, &path))?;
        results.add(*i, &path)?;
        write(&results, &path)?;
    }
    if left.is_empty() {
        write(&results, &path)?;
    }
    Ok((path, results))
}

/// The folder of the comparison, made and held, and how far its runs have come.
fn open(plan: &Plan, place: &Place) -> Result<(RunFolder, Vec<State>)> {
    if let Some(out) = &place.out {
        folder::check(out, plan)?;
    }
    // Before anything is written, the lock included: what is refused stays as it is.
    let states = folder::states(place.out.as_ref(), plan)?;
    let held = match &place.out {
        Some(out) => RunFolder::hold(out)?,
        None => {
            let own = || format!("compare-{}-{}", plan.request.optimizers.join("-"), plan.request.recipe.model);
            RunFolder::create("runs".as_ref(), &place.name.clone().unwrap_or_else(own), None)?
        }
    };
    Ok((held, states))
}

/// Begins `run` in the folder `path`, or goes on with it, to its end.
fn train(path: &Path, run: &Run, state: &State, quiet: bool) -> Result<()> {
    if let Some(signal) = signals::requested() {
        return Err(Error::new(Kind::Interrupted, format!("stopped by {signal}")));
    }
    let (recipe, place) = match state {
        State::Unfinished(recipe, _) => {
            ((**recipe).clone(), Where { resume: Some(path.into()), quiet, ..Where::default() })
        }
        _ => (run.recipe.clone(), Where { out: Some(path.into()), quiet, ..Where::default() }),
    };
    if *state == State::Stillborn {
        folder::clear(path)?;
    }
    let data = data::load_as(&recipe.data, recipe.labels)?;
    let mut session = Session::with_model(&models::find(&recipe.model)?, data, recipe, &place)?;
    if !quiet {
        estimate::warn(&session);
    }
    session.run()?;
    Ok(())
}

/// `e` of the run `which`, with the line that goes on with the comparison in `folder`.
fn told(e: Error, which: &str, folder: &Path) -> Error {
    if e.kind != Kind::Interrupted {
        return e.context(which);
    }
    let signal = signals::requested().unwrap_or("a signal");
    let line = resume_line(folder);
    Error::new(Kind::Interrupted, format!("stopped by {signal} in {which}, saved; go on with: {line}"))
}

/// The command line that goes on with the comparison in `folder`, ready to be pasted into a shell.
pub fn resume_line(folder: &Path) -> String {
    format!("samcore compare --resume {}", shell_word(&folder.display().to_string()))
}

/// Writes results.json, table.md, curves.svg and report.html, each as a whole.
///
/// # Errors
/// CantCreate, Io: one cannot be written.
pub fn write(results: &Results<'_>, folder: &Path) -> Result<()> {
    let figure = figure::curves(results).to_svg();
    let texts = [report::markdown(results), html::page(results, &figure), results.to_text(), figure];
    folder::OUTPUTS.iter().zip(texts).try_for_each(|(name, text)| write_atomic(&folder.join(name), text.as_bytes()))
}
