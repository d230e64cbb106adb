//! The command line: a table of commands, their help, and how errors reach the user.

mod bench;
mod check;
mod compare;
mod completions;
mod data;
mod eval;
pub mod flags;
mod info;
mod man;
mod meter;
mod plot;
mod repro;
mod study;
mod train;

use crate::device::cuda::cache;
use crate::error::{Error, KINDS, Result, nearest};
use crate::files::outlive_size_limit;
use crate::output::{self, note, print};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command};
use std::ffi::OsString;

/// A subcommand of `samcore`.
pub struct Subcommand {
    pub name: &'static str,
    /// One line for the list of commands.
    pub about: &'static str,
    /// Adds the command's own flags.
    pub build: fn(Command) -> Command,
    pub run: fn(&ArgMatches) -> Result<()>,
}

/// All subcommands, in the order of the help text.
pub const COMMANDS: &[Subcommand] = &[
    Subcommand { name: "train", about: "Train a model, or resume a run", build: train::build, run: train::run },
    Subcommand { name: "eval", about: "Measure a checkpoint on a data set", build: eval::build, run: eval::run },
    Subcommand {
        name: "compare",
        about: "Train optimizers on one budget over several seeds, and compare them",
        build: compare::build,
        run: compare::run,
    },
    Subcommand {
        name: "repro",
        about: "Repeat the experiments of the papers, published values beside one's own",
        build: repro::build,
        run: repro::run,
    },
    Subcommand {
        name: "study",
        about: "Study a trained model: corrupted parameters, sharpness",
        build: study::build,
        run: study::run,
    },
    Subcommand {
        name: "plot",
        about: "Draw the figures of a run, comparison or study again",
        build: plot::build,
        run: plot::run,
    },
    Subcommand {
        name: "info",
        about: "Show a model's layers, parameters and cost",
        build: info::build,
        run: info::run,
    },
    Subcommand {
        name: "check",
        about: "Check operations and models against their definitions",
        build: check::build,
        run: check::run,
    },
    Subcommand {
        name: "bench",
        about: "Time operations, steps and data loading here",
        build: bench::build,
        run: bench::run,
    },
    Subcommand { name: "data", about: "Fetch, verify and change data sets", build: data::build, run: data::run },
    Subcommand {
        name: "completions",
        about: "Write the completions of a shell",
        build: completions::build,
        run: completions::run,
    },
    Subcommand { name: "man", about: "Write the manual pages", build: man::build, run: man::run },
];

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("SAMCORE_COMMIT"), ")");

/// Runs the program on its arguments, its own name first. Errors go to stderr; returned is the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    let done = outlive_size_limit().and_then(|()| dispatch(arguments)).and_then(|()| output::finish());
    cache::remove_all();
    match done {
        Ok(()) => 0,
        Err(e) => {
            e.lines().for_each(|line| note(&line));
            e.exit_code()
        }
    }
}

/// Makes a panic, which is a mistake of this program, end it in one line, without a backtrace and from any thread.
pub fn end_panics_in_one_line() {
    std::panic::set_hook(Box::new(|info| {
        let what = info.payload_as_str().unwrap_or("a panic").replace('\n', " ");
        let place = info.location().map_or(String::new(), |at| format!(" at {}:{}", at.file(), at.line()));
        let error = Error::internal(format!("internal error: {what}{place}; please report it with the command line"));
        error.lines().for_each(|line| note(&line));
        std::process::exit(error.exit_code());
    }));
}

fn dispatch(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return print(&e.render().to_string());
        }
        Err(e) => return Err(usage_error(&e)),
    };
    let called = matches.subcommand().and_then(|(name, own)| Some((COMMANDS.iter().find(|c| c.name == name)?, own)));
    match called {
        Some((command, own)) => (command.run)(own),
        None => {
            let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
            Err(Error::usage(format!("a command is missing: {}; see 'samcore --help'", names.join(", "))))
        }
    }
}

/// The whole command line as clap has it.
pub fn command() -> Command {
    Command::new("samcore")
        .about("Trains networks from scratch to study why some of them generalize")
        .version(VERSION)
        .override_usage("samcore <COMMAND> [OPTIONS]")
        .after_help(after_help())
        .subcommands(subcommands(COMMANDS))
}

/// The commands of a table as clap has them.
fn subcommands(table: &'static [Subcommand]) -> impl Iterator<Item = Command> {
    table.iter().map(|c| {
        // The last of a flag given twice counts, so that a script can append to its own defaults.
        let own = Command::new(c.name).about(c.about).args_override_self(true);
        (c.build)(own.after_help("Values in [brackets] are the defaults."))
    })
}

/// Runs the action of `command` that the command line names.
///
/// # Errors
/// Usage: none is named; those of the action.
fn run_action(command: &str, actions: &[Subcommand], matches: &ArgMatches) -> Result<()> {
    let called = matches.subcommand().and_then(|(name, own)| Some((actions.iter().find(|a| a.name == name)?, own)));
    match called {
        Some((action, own)) => (action.run)(own),
        None => {
            let names: Vec<&str> = actions.iter().map(|a| a.name).collect();
            let message = format!("an action is missing: {}; see 'samcore {command} --help'", names.join(", "));
            Err(Error::usage(message))
        }
    }
}

fn after_help() -> String {
    let codes = KINDS.iter().map(|(_, code, meaning)| format!("  {code:3}  {meaning}\n"));
    let examples: Vec<String> = man::EXAMPLES.iter().take(2).map(|(line, _)| format!("  {line}")).collect();
    format!(
        "'samcore <COMMAND> --help' lists the flags of a command.\n\n\
         Exit codes:\n    0  done\n{}\n\
         Examples:\n{}",
        codes.collect::<String>(),
        examples.join("\n")
    )
}

/// One line for a command line that clap cannot read.
pub fn usage_error(e: &clap::Error) -> Error {
    let told = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => vec![],
    };
    let (what, word, near) = match e.kind() {
        ErrorKind::UnknownArgument => ("flag", ContextKind::InvalidArg, ContextKind::SuggestedArg),
        ErrorKind::InvalidSubcommand => ("command", ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
        _ => {
            let text = e.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let first: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            return Error::usage(first.join(" "));
        }
    };
    let word = told(word).pop().unwrap_or_default();
    let what = if what == "flag" && !word.starts_with('-') { "argument" } else { what };
    // Clap's idea of near is wider: without a command 'plot' it suggested 'completions' for it.
    let (suggested, plain) = (told(near), word.split('=').next().unwrap_or_default());
    let near = nearest(plain, suggested.iter().map(String::as_str));
    let hint = near.map_or("'--help' lists all".to_string(), |name| format!("did you mean '{name}'?"));
    Error::usage(format!("unknown {what} '{word}'; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn command_lines_that_cannot_be_read_get_one_line() {
        let names = COMMANDS.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
        let missing = format!("a command is missing: {names}; see 'samcore --help'");
        for (line, message) in [
            ("samcore", &missing[..]),
            ("samcore trian", "unknown command 'trian'; did you mean 'train'?"),
            ("samcore dance", "unknown command 'dance'; '--help' lists all"),
            ("samcore compel", "unknown command 'compel'; '--help' lists all"),
            ("samcore train --weigth-decay 1", "unknown flag '--weigth-decay'; did you mean '--weight-decay'?"),
            ("samcore data", "an action is missing: list, fetch, verify, noise; see 'samcore data --help'"),
            (
                "samcore study",
                "an action is missing: corrupt, sharpness, hessian, landscape, interpolate; see 'samcore study --help'",
            ),
            ("samcore data fech", "unknown command 'fech'; did you mean 'fetch'?"),
            ("samcore data fetch cifar10", "unknown data set 'cifar10'; did you mean 'cifar-10'?"),
            ("samcore data fetch cifar-10 --url ftp://x", "--url must begin with http:// or https://, not 'ftp://x'"),
            ("samcore data noise a --out b --rate 0", "--rate must be a number above 0 to 1, not '0'"),
            ("samcore train --zzzzzzz", "unknown flag '--zzzzzzz'; '--help' lists all"),
            ("samcore train folder", "unknown argument 'folder'; '--help' lists all"),
            ("samcore train --lr", "a value is required for '--lr <X>' but none was supplied"),
            ("samcore train --json=1", "unexpected value '1' for '--json' found; no more were expected"),
            ("samcore eval", "the following required arguments were not provided: <CHECKPOINT>"),
            ("samcore train --out a --name b", "the argument '--out <DIR>' cannot be used with '--name <NAME>'"),
            ("samcore compare --name b --out a", "the argument '--name <NAME>' cannot be used with '--out <DIR>'"),
            (
                "samcore train --resume a --config b",
                "the argument '--resume <DIR>' cannot be used with '--config <FILE>'",
            ),
        ] {
            let e = dispatch(line.split(' ').map(OsString::from)).unwrap_err();
            assert_eq!((e.to_string().as_str(), e.exit_code()), (message, 2), "{line}");
        }
    }
}
