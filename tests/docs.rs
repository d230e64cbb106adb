//! The documents agree with the tables and scripts: commands, flags and exit codes that they name exist.

use samcore::error::KINDS;
use samcore::models::MODELS;
use samcore::ops::OPS;
use samcore::optim::OPTIMIZERS;
use samcore::recipe::SETTINGS;
use std::collections::BTreeSet;

fn read(path: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Paths of all documents: the README, CONTRIBUTING, and everything in docs/.
fn documents() -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut pages: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    pages.retain(|name| name.ends_with(".md"));
    pages.sort();
    let pages = pages.into_iter().map(|name| format!("docs/{name}"));
    ["README.md", "CONTRIBUTING.md", "data/README.md"].map(String::from).into_iter().chain(pages).collect()
}

#[test]
fn the_readme_lists_every_exit_code() {
    let readme = read("README.md");
    for (_, code, meaning) in KINDS {
        assert!(readme.contains(&format!("| {code} | {meaning} |")), "README.md has no row for exit code {code}");
    }
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let command = "cargo test --locked";
    assert!(read("README.md").contains(&format!("\n    {command}\n")));
    assert!(read(".ci/run").lines().any(|line| line == command));
}

/// Every long flag of a command and of those below it.
fn add_flags(command: &clap::Command, to: &mut BTreeSet<String>) {
    to.extend(command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)));
    // Clap adds these two itself.
    to.extend(["help".to_owned(), "version".to_owned()]);
    command.get_subcommands().for_each(|below| add_flags(below, to));
}

/// Command lines of a document's code blocks, without the comment behind them. Lines that go on behind a backslash are joined.
fn command_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.strip_prefix("    ")?.trim_start().strip_prefix("samcore "));
    let lines = lines.map(|line| line.split(['#', '>', '|']).next().unwrap_or(line).trim());
    lines.filter(|line| !line.contains('…')).map(String::from).collect()
}

#[test]
fn every_command_line_of_the_documents_can_be_read() {
    let mut read_lines = 0;
    for file in documents() {
        for line in command_lines(&read(&file)) {
            let words = ["samcore"].into_iter().chain(line.split_whitespace());
            if let Err(e) = samcore::cli::command().try_get_matches_from(words) {
                assert_eq!(e.exit_code(), 0, "{file}: samcore {line}: {e}");
            }
            read_lines += 1;
        }
    }
    assert!(read_lines > 50, "{read_lines} command lines");
}

#[test]
fn every_flag_that_the_documents_name_exists() {
    // Cargo's, and those of the scripts.
    let others = [
        "release",
        "locked",
        "example",
        "test",
        "bench",
        "nocapture",
        "check",
        "table",
        "path",
        "python",
        "build",
        "works",
        "rounds",
        "model",
        "data",
        "rho",
        "checkpoint",
        "ignored",
        "sweep",
        "gpus",
        "quick",
        "only",
        "samcore",
        "sanitizer",
        "images",
        "help",
        "features",
    ];
    let mut known: BTreeSet<String> = others.map(str::to_owned).into();
    add_flags(&samcore::cli::command(), &mut known);
    for file in documents() {
        // Lines with arrows are diagrams.
        let text: String = read(&file).lines().filter(|line| !line.contains("-->")).flat_map(|l| [l, "\n"]).collect();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).filter_map(|w| w.strip_prefix("--"));
        for flag in words.filter(|w| w.starts_with(|c: char| c.is_ascii_alphabetic())) {
            assert!(known.contains(flag), "{file} names --{flag}, which is no flag");
        }
    }
}

#[test]
fn an_optimizers_own_settings_are_settings() {
    for row in OPTIMIZERS {
        for name in row.settings {
            assert!(SETTINGS.iter().any(|s| s.name == *name), "{} has no setting {name}", row.name);
        }
    }
}

#[test]
fn names_in_the_tables_are_unique() {
    let tables: [(&str, Vec<&str>); 3] = [
        ("operation", OPS.iter().map(|o| o.name).collect()),
        ("model", MODELS.iter().map(|m| m.name).collect()),
        ("optimizer", OPTIMIZERS.iter().map(|o| o.name).collect()),
    ];
    for (what, mut names) in tables {
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "two rows of the {what} table share a name");
    }
}
