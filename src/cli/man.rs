//! `samcore man`: a manual page for the program and one for each command, from the table of flags.

use super::flags::{Named, path, path_flag, text};
use super::{COMMANDS, Subcommand, command, data, print, study};
use crate::error::{Error, KINDS, Result, unknown};
use crate::files::write_atomic;
use crate::output::prints_to_terminal;
use clap::{Arg, ArgMatches, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use std::io::Write;
use std::process::{Command as Process, Stdio};

/// Command lines worth knowing, and what they do.
pub const EXAMPLES: &[(&str, &str)] = &[
    ("samcore train --opt sam --rho 0.05 --epochs 8 --out runs/sam", "Train with SAM on Fashion-MNIST."),
    (
        "samcore eval runs/sam/best.safetensors --split test --json",
        "Measure the best weights of that run, the result as JSON.",
    ),
    ("samcore study corrupt runs/sam/best.safetensors --out corrupt", "How much accuracy corrupted parameters cost."),
    ("samcore study sharpness runs/sam/best.safetensors", "How the loss grows around the trained weights."),
    ("samcore repro sam-rho --dry-run", "What an experiment of a paper consists of, and what it costs here."),
    ("samcore train --resume runs/sam", "Resume after Ctrl-C, a kill or a power cut."),
    ("samcore train --config runs/sam/config.toml --seed 1", "The same run from another seed."),
    ("samcore train --tensorboard --out runs/watched && tensorboard --logdir runs", "Watch runs in TensorBoard."),
    ("samcore check conv2d cnn", "Check an operation and a model against their definitions."),
    ("samcore data fetch cifar-10", "Download a data set, or continue an interrupted download."),
    (
        "samcore data noise cifar-10 --rate 0.4 --out noisy",
        "A copy in which two of five training labels are wrong, for --data noisy.",
    ),
    ("samcore info --model cnn", "Layers, parameters and cost of a model."),
    ("samcore completions bash > ~/.local/share/bash-completion/completions/samcore", "Complete in bash."),
    ("samcore man --out ~/.local/share/man/man1", "Install these pages."),
];

/// Variables that the program heeds.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("SAMCORE_DATA", "Folder that holds the known data sets; looked in before data, here and beside the program."),
    ("SAMCORE_ISA", "avx512, avx2 or plain: an instruction set below the CPU's best."),
    ("SAMCORE_CONV", "direct, f2 or f4: how a CPU computes 3x3 convolutions of stride 1, instead of by the rule."),
    (
        "SAMCORE_CACHE",
        "Folder for compiled kernels, writable by you alone, instead of samcore in XDG_CACHE_HOME or ~/.cache.",
    ),
    ("SAMCORE_KERNELS", "Folder to read kernel sources from (a copy of kernels/), instead of those in the program."),
    ("SAMCORE_NVRTC", "File of NVIDIA's run-time compiler (libnvrtc.so.13), instead of the one that is found."),
    ("CUDA_LAUNCH_BLOCKING", "With 1, every launch on a GPU is waited for, so that an error names its kernel."),
    ("SAMCORE_RUNGS", "plain, mma, wgmma, or a table that bench --tune wrote: which convolution kernels a GPU takes."),
    ("COLUMNS", "Width of the progress line, instead of the terminal's."),
    ("NO_COLOR", "If set and not empty, progress is shown without colour."),
    ("TERM", "With dumb, progress is shown in plain lines."),
];

const FOLDER: &str = "A run leaves these in its folder, runs/DATE-TIME-NAME or that of --out.";
const FILES: &[(&str, &str)] = &[
    ("config.toml", "Every setting, resolved; --config takes it for the same run again."),
    ("env.json", "Versions, commit, machine, date and command line."),
    ("metrics.csv", "A row an epoch."),
    ("steps.jsonl", "An object a step."),
    ("curves.svg", "Both as a figure."),
    ("tensorboard/", "Both as event files, with --tensorboard."),
    ("last.safetensors", "All that --resume needs."),
    ("best.safetensors", "Weights and statistics of the best epoch."),
];

pub fn build(command: Command) -> Command {
    let name = |id: &'static str, placeholder: &'static str, names| {
        Arg::new(id).value_name(placeholder).value_parser(Named(names)).hide_possible_values(true)
    };
    command.args([
        name("about", "COMMAND", names(COMMANDS)).help("page of this command [of samcore as a whole]"),
        name("action", "ACTION", [names(data::ACTIONS), names(study::ACTIONS)].concat())
            .help("page of this action of the command, as in 'man data fetch'"),
        path_flag("out", "DIR", "write all pages to files in DIR [one page to stdout]"),
    ])
}

fn names(table: &[Subcommand]) -> Vec<&'static str> {
    table.iter().map(|c| c.name).collect()
}

/// The actions of a command, of which most have none.
fn actions(command: &str) -> &'static [Subcommand] {
    match command {
        "data" => data::ACTIONS,
        "study" => study::ACTIONS,
        _ => &[],
    }
}

/// Returns the subject of each page: nothing for the program, a command, or a command and its action.
fn pages() -> Vec<Vec<&'static str>> {
    let of = |c: &Subcommand| {
        let own = names(actions(c.name)).into_iter().map(|action| vec![c.name, action]);
        [vec![c.name]].into_iter().chain(own).collect::<Vec<_>>()
    };
    [vec![]].into_iter().chain(COMMANDS.iter().flat_map(of)).collect()
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let about: Vec<String> = ["about", "action"].iter().filter_map(|id| text(matches, id)).collect();
    let about: Vec<&str> = about.iter().map(String::as_str).collect();
    check(&about)?;
    let Some(folder) = path(matches, "out") else { return show(&page(&about)?) };
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create folder", &folder, &e))?;
    for of in pages().iter().filter(|of| of.starts_with(&about)) {
        write_atomic(&folder.join(file_name(of)), page(of)?.as_bytes())?;
    }
    Ok(())
}

/// Writes a page to stdout: formatted on a terminal, by man where there is one, and as it is to a file or pipe.
fn show(page: &str) -> Result<()> {
    if !prints_to_terminal() {
        return print(page);
    }
    if formatted(page).is_some() { Ok(()) } else { print(&plain_text(page)) }
}

/// Has `man` show the page; None where there is none that can.
fn formatted(page: &str) -> Option<()> {
    let mut man = Process::new("man").args(["-l", "-"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    // A reader who leaves the pager early closes the pipe.
    let _ = man.stdin.take()?.write_all(page.as_bytes());
    man.wait().ok()?.success().then_some(())
}

/// Returns a page without its markup: headings at the left, all else indented.
fn plain_text(page: &str) -> String {
    let marks = [("\\-", "-"), ("\\*(Aq", "'"), ("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\&", ""), ("\\\\", "\\")];
    let plain = |line: &str| marks.iter().fold(line.to_owned(), |line, (mark, text)| line.replace(mark, text));
    let (mut text, mut term) = (String::new(), false);
    for line in page.lines() {
        let (request, rest) = line.split_once(' ').unwrap_or((line, ""));
        match request {
            ".SH" => text += &format!("\n{}\n", plain(rest).trim_matches('"')),
            ".TP" => term = true,
            _ if line.starts_with('.') || line.is_empty() => {}
            _ if term => {
                text += &format!("\n    {}\n", plain(line));
                term = false;
            }
            _ => text += &format!("        {}\n", plain(line)),
        }
    }
    text.trim_start().to_owned()
}

/// Checks that there is a page about this.
fn check(about: &[&str]) -> Result<()> {
    match *about {
        [command, ..] if !names(COMMANDS).contains(&command) => Err(unknown("command", command, &names(COMMANDS))),
        [command, action] if actions(command).is_empty() => {
            Err(Error::usage(format!("'{command}' has no actions, and so no '{action}'")))
        }
        [command, action] if !names(actions(command)).contains(&action) => {
            Err(unknown(&format!("action of '{command}'"), action, &names(actions(command))))
        }
        _ => Ok(()),
    }
}

fn file_name(of: &[&str]) -> String {
    format!("{}.1", [&["samcore"], of].concat().join("-"))
}

/// The page of one command, or of the program: what the flags say, then what the tables of this program say.
fn page(of: &[&str]) -> Result<String> {
    let whole = command().disable_help_subcommand(true);
    let mut whole = whole.mut_subcommands(|c| c.disable_help_subcommand(true));
    whole.build();
    let found = of.iter().try_fold(&whole, |command, name| command.find_subcommand(name));
    let shown = found.unwrap_or(&whole).clone();
    let has_parts = shown.has_subcommands();
    // An empty date would be left out and the others take its place.
    let man = Man::new(shown).date(" ").source(concat!("samcore ", env!("CARGO_PKG_VERSION"))).manual("User Commands");
    let mut parts = vec![Man::render_title, Man::render_name_section, Man::render_synopsis_section];
    parts.extend([Man::render_description_section, Man::render_options_section]);
    if has_parts {
        parts.push(Man::render_subcommands_section);
    }
    let mut text = Vec::new();
    for part in parts {
        part(&man, &mut text).map_err(|e| Error::internal(format!("cannot write a manual page: {e}")))?;
    }
    let mut page = String::from_utf8_lossy(&text).into_owned();
    if !has_parts {
        page += &section("DEFAULTS", "Values in [brackets] are the defaults.", [], roman);
    }
    let codes = KINDS.iter().map(|(_, code, meaning)| (code.to_string(), *meaning));
    page += &section("EXIT STATUS", "", [("0".to_string(), "done")].into_iter().chain(codes), bold);
    page += &section("ENVIRONMENT", "", rows(ENVIRONMENT), bold);
    if of.is_empty() || of == ["train"] {
        page += &section("FILES", FOLDER, rows(FILES), italic);
    }
    let belongs =
        |line: &str| line.split_whitespace().skip(1).zip(of).filter(|(word, of)| word == *of).count() == of.len();
    let examples: Vec<(String, &str)> = rows(EXAMPLES).filter(|(line, _)| belongs(line)).collect();
    if !examples.is_empty() {
        page += &section("EXAMPLES", "", examples, bold);
    }
    Ok(page)
}

fn rows(table: &'static [(&str, &str)]) -> impl Iterator<Item = (String, &'static str)> {
    table.iter().map(|(term, meaning)| (term.to_string(), *meaning))
}

/// A section with some words in front and terms that are explained, each in a paragraph of its own.
fn section<'a>(
    title: &str,
    words: &str,
    terms: impl IntoIterator<Item = (String, &'a str)>,
    face: fn(String) -> Inline,
) -> String {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    if !words.is_empty() {
        roff.text([roman(words)]);
    }
    for (term, meaning) in terms {
        roff.control("TP", []);
        roff.text([face(term)]);
        roff.text([roman(meaning)]);
    }
    roff.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::files::TestFolder;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// As a reader sees it, but for the requests at the beginnings of lines.
    fn plain(of: &[&str]) -> String {
        let marks = [("\\-", "-"), ("\\*(Aq", "'"), ("\\fB", ""), ("\\fI", ""), ("\\fR", "")];
        marks.iter().fold(page(of).unwrap(), |page, (mark, text)| page.replace(mark, text))
    }

    #[test]
    fn each_page_has_every_flag_of_its_command_and_leads_to_those_below_it() {
        let mut whole = command();
        whole.build();
        let pages = pages();
        assert_eq!(pages.len(), 1 + COMMANDS.len() + data::ACTIONS.len() + study::ACTIONS.len());
        for path in &pages {
            let page = plain(path);
            let of = path.iter().fold(&whole, |command, name| command.find_subcommand(name).unwrap());
            let title = [&["samcore"], &path[..]].concat().join("-");
            assert!(page.contains(&format!("{title} - {}", of.get_about().unwrap())), "{page}");
            for arg in of.get_arguments().filter(|arg| arg.get_help().is_some()) {
                let (long, help) = (arg.get_long().unwrap_or_default(), arg.get_help().unwrap().to_string());
                assert!(page.contains(&format!("--{long}")) || arg.is_positional(), "{path:?}: --{long}");
                assert!(page.contains(&help), "{path:?}: {help}");
            }
            for below in pages.iter().filter(|below| below.len() == path.len() + 1 && below.starts_with(path)) {
                assert!(page.contains(&file_name(below).replace(".1", "(1)")), "{below:?}: {page}");
            }
            assert!(!page.contains("-help(1)"), "{path:?}: there is no such page");
        }
    }

    #[test]
    fn a_page_without_markup_has_its_headings_flags_and_examples() {
        for of in pages() {
            let text = plain_text(&page(&of).unwrap());
            assert!(text.lines().all(|line| !line.starts_with('.') && !line.contains('\\')), "{text}");
            for part in ["NAME\n", "SYNOPSIS\n", "EXIT STATUS\n"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        let fetch = plain_text(&page(&["data", "fetch"]).unwrap());
        assert!(fetch.contains("\n    samcore data fetch cifar-10\n"), "{fetch}");
    }

    #[test]
    fn the_whole_programs_page_has_codes_variables_files_and_examples() {
        let page = plain(&[]);
        for (title, terms) in [("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES), ("EXAMPLES", EXAMPLES)] {
            let (_, section) = page.split_once(&format!(".SH {title}\n")).unwrap();
            for (term, meaning) in terms {
                assert!(section.contains(&format!(".TP\n{term}\n{meaning}\n")), "{term}: {section}");
            }
        }
        for (_, code, meaning) in KINDS {
            assert!(page.contains(&format!(".TP\n{code}\n{meaning}\n")), "{page}");
        }
        let fetch = plain(&["data", "fetch"]);
        assert!(
            fetch.contains("samcore data fetch cifar-10\n") && !fetch.contains("samcore data noise cifar-10"),
            "{fetch}"
        );
    }

    /// The names behind every look at a variable in the sources below `folder`.
    fn variables_in(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                variables_in(&path, found);
                continue;
            }
            let source = std::fs::read_to_string(path).unwrap();
            let looks = source.split("env::var").skip(1).filter_map(|rest| rest.split_once("(\""));
            let names = looks.filter(|(between, _)| between.is_empty() || *between == "_os");
            found.extend(names.map(|(_, rest)| rest.split('"').next().unwrap_or_default().to_string()));
        }
    }

    #[test]
    fn every_variable_that_the_program_heeds_is_documented() {
        let mut found = BTreeSet::new();
        variables_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        found.retain(|name| name.starts_with("SAMCORE_") && !name.starts_with("SAMCORE_TEST_"));
        assert!(found.contains("SAMCORE_DATA"), "{found:?}");
        for name in found {
            assert!(ENVIRONMENT.iter().any(|e| e.0 == name), "{name} belongs into the table ENVIRONMENT");
        }
    }

    #[test]
    fn examples_are_command_lines_that_can_be_read() {
        for (line, _) in EXAMPLES {
            let words = line.split(" && ").next().unwrap().split(" > ").next().unwrap().split_whitespace();
            command().try_get_matches_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }

    #[test]
    fn pages_go_to_a_folder_and_unknown_ones_are_refused() {
        let scratch = TestFolder::new("man");
        let folder = scratch.0.join("man1");
        let call = |words: &[&str]| {
            let matches = command().try_get_matches_from(["samcore", "man"].iter().chain(words)).unwrap();
            run(matches.subcommand().unwrap().1)
        };
        call(&["--out", folder.to_str().unwrap()]).unwrap();
        for of in pages() {
            assert_eq!(std::fs::read_to_string(folder.join(file_name(&of))).unwrap(), page(&of).unwrap());
        }
        for (words, message) in [
            (&["trian"][..], "unknown command 'trian'; did you mean 'train'?"),
            (&["data", "fecth"], "unknown action of 'data' 'fecth'; did you mean 'fetch'?"),
            (&["train", "fetch"], "'train' has no actions, and so no 'fetch'"),
        ] {
            let e = call(words).unwrap_err();
            assert_eq!((e.kind, e.to_string()), (Kind::Usage, message.into()));
        }
    }
}
