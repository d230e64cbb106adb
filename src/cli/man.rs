//! `samcore man`: a manual page for the program and one for each command, from the table of flags.

use super::flags::{Named, path, path_flag, text};
use super::{COMMANDS, command, print};
use crate::error::{Error, KINDS, Result, unknown};
use crate::files::write_atomic;
use clap::{Arg, ArgMatches, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

/// Command lines worth knowing, and what they do.
pub const EXAMPLES: &[(&str, &str)] = &[
    ("samcore train --opt sam --rho 0.05 --epochs 8 --out runs/sam", "Train with SAM on Fashion-MNIST."),
    (
        "samcore eval runs/sam/best.safetensors --split test --json",
        "Measure the best weights of that run, the result as JSON.",
    ),
    ("samcore train --resume runs/sam", "Go on after Ctrl-C, a kill or a power cut."),
    ("samcore train --config runs/sam/config.toml --seed 1", "The same run from another seed."),
    ("samcore train --tensorboard --out runs/watched && tensorboard --logdir runs", "Watch runs in TensorBoard."),
    ("samcore check conv2d cnn", "Hold an operation and a model to their definitions."),
    ("samcore info --model cnn", "Layers, parameters and cost of a model."),
    ("samcore completions bash > ~/.local/share/bash-completion/completions/samcore", "Complete in bash."),
    ("samcore man --out ~/.local/share/man/man1", "Install these pages."),
];

/// Variables that the program heeds.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("SAMCORE_DATA", "Folder that holds the known data sets; looked in before data, here and beside the program."),
    ("SAMCORE_ISA", "avx512, avx2 or plain: the instruction set to use, for a lesser one than the CPU has."),
    ("COLUMNS", "Width of the progress line, where the terminal's is not the one to use."),
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
    let about = Arg::new("about").value_name("COMMAND").value_parser(Named(names())).hide_possible_values(true);
    command.args([
        about.help("page of this command [of samcore as a whole]"),
        path_flag("out", "DIR", "write all pages to files in DIR [one page to stdout]"),
    ])
}

fn names() -> Vec<&'static str> {
    COMMANDS.iter().map(|c| c.name).collect()
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let about = text(matches, "about");
    if let Some(word) = about.as_deref().filter(|word| !names().contains(word)) {
        return Err(unknown("command", word, &names()));
    }
    let Some(folder) = path(matches, "out") else { return print(&page(about.as_deref())?) };
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create folder", &folder, &e))?;
    let pages: Vec<Option<&str>> = match &about {
        Some(name) => vec![Some(name)],
        None => [None].into_iter().chain(names().into_iter().map(Some)).collect(),
    };
    for of in pages {
        write_atomic(&folder.join(file_name(of)), page(of)?.as_bytes())?;
    }
    Ok(())
}

fn file_name(of: Option<&str>) -> String {
    of.map_or("samcore.1".into(), |name| format!("samcore-{name}.1"))
}

/// The page of one command, or of the program: what the flags say, then what the tables of this program say.
fn page(of: Option<&str>) -> Result<String> {
    let mut whole = command().disable_help_subcommand(true);
    whole.build();
    let shown = of.and_then(|name| whole.find_subcommand(name)).unwrap_or(&whole).clone();
    // An empty date would be left out and the others take its place.
    let man = Man::new(shown).date(" ").source(concat!("samcore ", env!("CARGO_PKG_VERSION"))).manual("User Commands");
    let mut parts = vec![Man::render_title, Man::render_name_section, Man::render_synopsis_section];
    parts.extend([Man::render_description_section, Man::render_options_section]);
    if of.is_none() {
        parts.push(Man::render_subcommands_section);
    }
    let mut text = Vec::new();
    for part in parts {
        part(&man, &mut text).map_err(|e| Error::internal(format!("cannot write a manual page: {e}")))?;
    }
    let mut page = String::from_utf8_lossy(&text).into_owned();
    if of.is_some() {
        page += &section("DEFAULTS", "Values in [brackets] are the defaults.", [], roman);
    }
    let codes = KINDS.iter().map(|(_, code, meaning)| (code.to_string(), *meaning));
    page += &section("EXIT STATUS", "", [("0".to_string(), "done")].into_iter().chain(codes), bold);
    page += &section("ENVIRONMENT", "", rows(ENVIRONMENT), bold);
    if of.is_none_or(|name| name == "train") {
        page += &section("FILES", FOLDER, rows(FILES), italic);
    }
    let belongs = |line: &str| of.is_none_or(|name| line.split_whitespace().nth(1) == Some(name));
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
    fn plain(of: Option<&str>) -> String {
        let marks = [("\\-", "-"), ("\\*(Aq", "'"), ("\\fB", ""), ("\\fI", ""), ("\\fR", "")];
        marks.iter().fold(page(of).unwrap(), |page, (mark, text)| page.replace(mark, text))
    }

    #[test]
    fn each_page_has_every_flag_of_its_command() {
        let mut whole = command();
        whole.build();
        for name in names() {
            let page = plain(Some(name));
            let of = whole.find_subcommand(name).unwrap();
            assert!(page.contains(&format!("samcore-{name} - {}", of.get_about().unwrap())), "{page}");
            for arg in of.get_arguments() {
                let (long, help) = (arg.get_long().unwrap_or_default(), arg.get_help().unwrap().to_string());
                assert!(page.contains(&format!("--{long}")) || arg.is_positional(), "{name}: --{long}");
                assert!(page.contains(&help), "{name}: {help}");
            }
        }
    }

    #[test]
    fn the_whole_programs_page_has_commands_codes_variables_files_and_examples() {
        let page = plain(None);
        for name in names() {
            assert!(page.contains(&format!("samcore-{name}(1)")), "{page}");
        }
        for (title, terms) in [("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES), ("EXAMPLES", EXAMPLES)] {
            let (_, section) = page.split_once(&format!(".SH {title}\n")).unwrap();
            for (term, meaning) in terms {
                assert!(section.contains(&format!(".TP\n{term}\n{meaning}\n")), "{term}: {section}");
            }
        }
        for (_, code, meaning) in KINDS {
            assert!(page.contains(&format!(".TP\n{code}\n{meaning}\n")), "{page}");
        }
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
        for of in [None].into_iter().chain(names().into_iter().map(Some)) {
            assert_eq!(std::fs::read_to_string(folder.join(file_name(of))).unwrap(), page(of).unwrap());
        }
        let e = call(&["trian"]).unwrap_err();
        assert_eq!((e.kind, e.to_string()), (Kind::Usage, "unknown command 'trian'; did you mean 'train'?".into()));
    }
}
