//! Runs a plan to its end, however often it is stopped, and writes what has come out after each run.

use super::folder::{self, REQUEST, RESULTS, State};
use super::plan::{Plan, Run};
use super::results::Results;
use super::{figure, html, report};
use crate::bench::estimate;
use crate::data;
use crate::error::{Error, Kind, Result};
use crate::files::{MAX_JSON, read_bytes, write_atomic};
use crate::models;
use crate::output;
use crate::study::track;
use crate::train::divergence::Divergence;
use crate::train::run_folder::RunFolder;
use crate::train::{Session, Where, resume, shell_word, signals};
use std::path::{Path, PathBuf};

/// Folder and output of a comparison.
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
/// began them. A run that has diverged is recorded as that, and not tried again. Results are written after each run.
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
    let mut left = vec![];
    for (i, state) in states.iter().enumerate() {
        let which = format!("run {} of {runs}, {}", i + 1, plan.runs[i].name);
        match state {
            State::Finished => {
                note(format!("{which}: done before"));
                results.add(i, &path)?;
            }
            State::Diverged(divergence) => {
                note(format!("{which}: {}, before", state.describe()));
                results.diverged[i] = Some(divergence.clone());
            }
            _ => left.push(i),
        }
    }
    for i in &left {
        let run = &plan.runs[*i];
        let which = format!("run {} of {runs}, {}", i + 1, run.name);
        note(String::new());
        note(format!("{which}: {} epochs", run.recipe.epochs));
        let folder = path.join(&run.name);
        match train(&folder, run, &states[*i], place.quiet) {
            Ok(()) => results.add(*i, &path)?,
            Err(e) => {
                // A run that diverges is a result, and the others go on.
                let divergence = if e.kind == Kind::NotFinite { Divergence::read(&folder)? } else { None };
                let Some(divergence) = divergence else { return Err(told(e, &which, &path)) };
                note(format!("{which}: {e}"));
                results.diverged[*i] = Some(divergence);
            }
        }
        write(&results, &path)?;
    }
    if left.is_empty() {
        write(&results, &path)?;
    }
    let diverged = results.diverged.iter().flatten().count();
    if results.done() == 0 && diverged > 0 {
        let message = format!("all runs diverged: {}; see {}", results.divergences().join("; "), path.display());
        return Err(Error::new(Kind::NotFinite, message));
    }
    if diverged > 0 {
        let which = results.divergences().join("; ");
        output::note(&format!("{diverged} of {runs} runs diverged and count nowhere: {which}"));
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
    folder::check_init(plan, &states)?;
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
///
/// # Errors
/// Interrupted: a signal has come. Those of the run.
pub fn train(path: &Path, run: &Run, state: &State, quiet: bool) -> Result<()> {
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
    let data = match &place.resume {
        Some(folder) => resume::data(folder, &recipe)?,
        None => data::load_as(&recipe.data, recipe.labels)?,
    };
    let mut session = Session::with_model(&models::find(&recipe.model)?, data, recipe, &place)?;
    track::attach(&mut session)?;
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
    Error::new(Kind::Interrupted, format!("stopped by {signal} in {which}, saved; resume with: {line}"))
}

/// The command line that goes on with the comparison in `folder`, ready to be pasted into a shell.
pub fn resume_line(folder: &Path) -> String {
    format!("samcore compare --resume {}", shell_word(&folder.display().to_string()))
}

/// Writes the report of the comparison in `folder` to the folder `to`, from its results.json alone: no run needs to be there.
/// Returns the names of the files, among which results.json itself is not.
///
/// # Errors
/// NoInput, Data: `folder` is not that of a comparison, or has no sound results.json. Those of [`Plan::new`] and [`write()`].
pub fn redraw(folder: &Path, to: &Path) -> Result<Vec<&'static str>> {
    let plan = Plan::new(folder::request_of(folder)?)?;
    let path = folder.join(RESULTS);
    let bytes = read_bytes(&path, MAX_JSON)?;
    let wrong = |e: &dyn std::fmt::Display| Error::data(format!("{}: {e}", path.display()));
    let json = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
    let results = Results::from_json(&plan, &json).map_err(|e| wrong(&e))?;
    let drawn: Vec<_> = texts(&results).into_iter().filter(|(name, _)| *name != RESULTS).collect();
    drawn.into_iter().map(|(name, text)| write_atomic(&to.join(name), text.as_bytes()).map(|()| name)).collect()
}

/// Writes results.json, table.md, curves.svg and report.html, each as a whole.
///
/// # Errors
/// CantCreate, Io: one cannot be written.
pub fn write(results: &Results<'_>, folder: &Path) -> Result<()> {
    let mut all = texts(results).into_iter();
    all.try_for_each(|(name, text)| write_atomic(&folder.join(name), text.as_bytes()))
}

/// The files of a comparison: name and text.
fn texts(results: &Results<'_>) -> impl IntoIterator<Item = (&'static str, String)> + use<> {
    let figure = figure::curves(results);
    let texts = [report::markdown(results), html::page(results, &figure), results.to_text(), figure.to_svg()];
    folder::OUTPUTS.into_iter().zip(texts)
}
