//! Whatever comes in gets a clear answer, from the real program: one line that names file, byte, flag or operation, an exit
//! code of the documented list, no panic, and nothing in the folder is changed.

mod common;

#[path = "bad_input/checkpoints.rs"]
mod checkpoints;
#[path = "bad_input/command_lines.rs"]
mod command_lines;
#[path = "bad_input/data_files.rs"]
mod data_files;
#[path = "bad_input/disks.rs"]
mod disks;

use common::{Done, Folder};
use samcore::error::KINDS;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Runs the program in `folder` on the words of `line`, away from this machine's own data sets.
fn samcore(folder: &Path, line: &str) -> Done {
    let mut command = common::command(folder, &line.split_whitespace().collect::<Vec<_>>());
    command.env_remove("SAMCORE_DATA").env_remove("XDG_DATA_HOME").env("HOME", folder);
    Done::of(command.output().unwrap())
}

/// Checks that `line` ends with `code` and one message that contains all `words`, and changes nothing. `what` names the mistake.
#[track_caller]
fn refused(folder: &Folder, what: &str, line: &str, code: i32, words: &[&str]) {
    let before = tree(&folder.0);
    let done = samcore(&folder.0, line);
    answered(&done, what, line, code, words);
    // A report on damaged files is still a report.
    assert!(done.stdout.is_empty() || line.starts_with("data verify"), "{what}: {line}: {}", done.stdout);
    let (before, after): (Vec<_>, Vec<_>) = (before.into_iter().collect(), tree(&folder.0).into_iter().collect());
    let paths = |tree: &[(PathBuf, Entry)]| tree.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&before), paths(&after), "{what}: {line}");
    for (before, after) in before.iter().zip(&after) {
        assert!(before.1 == after.1, "{what}: {line}: {} has changed", before.0.display());
    }
}

/// Checks that a process ended with `code` and one message that contains all `words`.
#[track_caller]
fn answered(done: &Done, what: &str, line: &str, code: i32, words: &[&str]) {
    let told = format!("{what}: samcore {line}: exit code {}: {}", done.code, done.stderr);
    assert_eq!(done.code, code, "{told}");
    assert!(KINDS.iter().any(|kind| kind.1 == code), "{told}");
    assert!(!done.stderr.contains("panicked"), "{told}");
    assert!(done.stderr.starts_with("samcore: ") && done.stderr.lines().count() == 1, "{told}");
    for word in words {
        assert!(done.stderr.contains(word), "{told}does not say '{word}'");
    }
}

/// Content of a path; for large files the length and the time of change.
#[derive(PartialEq)]
enum Entry {
    Folder,
    File(Vec<u8>),
    Large(u64, SystemTime),
}

/// Everything below `folder`.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut tree = BTreeMap::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let meta = fs::metadata(&path).unwrap();
        let entry = match (meta.is_dir(), meta.len()) {
            (true, _) => {
                tree.extend(self::tree(&path));
                Entry::Folder
            }
            (false, len) if len > 8 << 20 => Entry::Large(len, meta.modified().unwrap()),
            _ => Entry::File(fs::read(&path).unwrap()),
        };
        tree.insert(path, entry);
    }
    tree
}
