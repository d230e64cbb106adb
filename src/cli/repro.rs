//! `samcore repro`.

use super::flags::{Named, flag, given_by_flags, path, path_flag, setting_flags, switch, text, value};
use super::print;
use crate::bench::limits::fma_gflops;
use crate::error::{Error, Result};
use crate::output::note;
use crate::protocol::folder::State;
use crate::protocol::request::parse_seeds;
use crate::recipe::{Kind, Value};
use crate::repro::plan::{Asked, OWN};
use crate::repro::{self, PROTOCOLS, Plan, Scale, report};
use crate::train::{engine, signals};
use clap::{Arg, ArgMatches, Command};
use serde_json::json;
use std::path::{Path, PathBuf};

const SCALE: Kind = Kind::Choice(&Scale::NAMES);
/// The word in place of a protocol's name that lists them all.
const LIST: &str = "list";

pub fn build(command: Command) -> Command {
    let names = PROTOCOLS.iter().map(|p| p.name).chain([LIST]).collect();
    let protocol = Arg::new("protocol").value_name("NAME").required(true).value_parser(Named(names));
    let scale = Value::Text(Scale::Small.name().into());
    let own = [
        protocol.hide_possible_values(true).help("a protocol, or 'list', which describes them all"),
        flag("scale", SCALE, "the papers' sizes, or what a CPU can do", Some(&scale)),
        flag("seeds", Kind::Text, "number of seeds, from 0 on, or the seeds with commas [the protocol's]", None)
            .value_name("N"),
        path_flag("out", "DIR", "folder of the runs and results, new or to be continued [runs/repro-NAME-SCALE]"),
        switch("dry-run", "only show the runs, their cost and about how long they will take"),
        switch("json", "write results.json to stdout instead of the table"),
        switch("quiet", "show no progress"),
    ];
    // The protocol has a value for each; help that named those of train would be wrong.
    let settings = setting_flags().filter(|arg| !OWN.contains(&arg.get_id().as_str())).map(|arg| {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let plain = help.rsplit_once(" [").map_or(help.as_str(), |(text, _)| text).to_owned();
        arg.help(plain)
    });
    command.args(own.map(|arg| arg.help_heading("Protocol"))).args(settings).after_help(
        "Settings replace the protocol's own in all of its runs, and results say which were changed.\n\
         'samcore repro list' describes the protocols.",
    )
}

/// Reads what the command line asks for.
///
/// # Errors
/// Usage: a wrong value, or there is no such protocol.
fn asked(matches: &ArgMatches) -> Result<Asked> {
    let protocol = repro::find(&text(matches, "protocol").unwrap_or_default())?;
    let scale = match value(matches, "scale", SCALE)? {
        Some(Value::Text(name)) => Scale::of(&name)?,
        _ => Scale::Small,
    };
    let seeds = match text(matches, "seeds") {
        Some(seeds) => parse_seeds(&seeds).map_err(|e| Error::usage(format!("--seeds {e}")))?,
        None => (0..protocol.seeds[scale as usize]).collect(),
    };
    if let Some(twice) = seeds.iter().enumerate().find(|(i, seed)| seeds[..*i].contains(seed)) {
        return Err(Error::usage(format!("--seeds names {} twice; once is enough", twice.1)));
    }
    Ok(Asked { protocol, scale, seeds, replaced: given_by_flags(matches, &OWN)? })
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    if text(matches, "protocol").as_deref() == Some(LIST) {
        return list(matches.get_flag("json"));
    }
    let asked = asked(matches)?;
    let own = || PathBuf::from("runs").join(format!("repro-{}-{}", asked.protocol.name, asked.scale.name()));
    let out = path(matches, "out").unwrap_or_else(own);
    let (as_json, quiet) = (matches.get_flag("json"), matches.get_flag("quiet"));
    let plan = Plan::new(asked)?;
    let states = repro::run::states(&plan, &out)?;
    let recipe = &plan.arms[0].plan.request.recipe;
    // A GPU's speed is not known before it has worked.
    let gflops = fma_gflops(&*engine::device(&mut recipe.clone())?, 30);
    if matches.get_flag("dry-run") {
        return match as_json {
            true => print(&format!("{:#}\n", dry_run(&plan, &states, &out, gflops))),
            false => print(&plan.text(&states, gflops)),
        };
    }
    signals::install()?;
    if !quiet {
        plan.text(&states, gflops).lines().for_each(note);
        note(&format!("folder {}; Ctrl-C saves, and the same command goes on", out.display()));
    }
    let results = repro::run(&plan, &out, quiet)?;
    note("");
    note(&format!("results in {}: report.html, table.md and others", out.display()));
    print(&if as_json { report::to_text(&results) } else { report::markdown(&results) })
}

/// Describes the protocols: what they answer, how many runs they are, what is shrunk.
fn list(as_json: bool) -> Result<()> {
    let described = PROTOCOLS.iter().map(|p| {
        let sizes = Scale::ALL.map(|scale| {
            let grid = p.grid(scale);
            grid.rows.len() * grid.columns.len() * grid.methods.len() * p.seeds[scale as usize] as usize
        });
        (p, sizes)
    });
    if as_json {
        let entry = |(p, [small, paper]): (&repro::Protocol, [usize; 2])| {
            let published: Vec<_> = p
                .published
                .iter()
                .map(|v| {
                    json!({
                        "row": v.row, "column": v.column, "method": v.method, "measure": v.measure, "value": v.value,
                        "source": v.source,
                    })
                })
                .collect();
            json!({
                "name": p.name, "about": p.about, "answers": p.answers, "runs": {"small": small, "paper": paper},
                "shrunk": p.shrunk, "published": published,
            })
        };
        let all: Vec<_> = described.map(entry).collect();
        return print(&format!("{:#}\n", json!(all)));
    }
    let entry = |(p, [small, paper]): (&repro::Protocol, [usize; 2])| {
        let published = match p.published.len() {
            0 => "no published values".to_owned(),
            n => format!("{n} published values"),
        };
        format!(
            "{}\n    {}\n    answers: {}\n    {small} runs at small scale, {paper} at paper scale; {published}\n    \
             small: {}\n\n",
            p.name, p.about, p.answers, p.shrunk
        )
    };
    let text: String = described.map(entry).collect();
    print(&format!("{text}'samcore repro NAME --dry-run' tells what one costs on this machine.\n"))
}

fn dry_run(plan: &Plan, states: &[Vec<State>], out: &Path, gflops: Option<f64>) -> serde_json::Value {
    let arm = |(arm, states): (&repro::Arm, &Vec<State>)| {
        let share = arm.share();
        json!({
            "arm": arm.name, "row": arm.row.name, "column": arm.column.name, "method": arm.method.name,
            "runs": arm.plan.runs.iter().map(|run| &run.name).collect::<Vec<_>>(),
            "states": states.iter().map(State::describe).collect::<Vec<_>>(),
            "epochs": share.epochs, "steps": share.steps, "gradient_evaluations": share.gradients(),
            "flops": arm.flops().iter().sum::<f64>(),
        })
    };
    let left = plan.flops_left(states);
    let seconds = |gflops| crate::bench::estimate::duration(left, gflops).as_secs_f64().ceil();
    json!({
        "protocol": plan.asked.protocol.name, "scale": plan.asked.scale.name(), "folder": out.display().to_string(),
        "changed_by_flags": plan.changes, "arms": plan.arms.iter().zip(states).map(arm).collect::<Vec<_>>(),
        "flops_left": left, "estimated_seconds_left": gflops.map(|g| if left > 0.0 { seconds(g) } else { 0.0 }),
    })
}
