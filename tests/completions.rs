//! The completions that a real bash gives, where there is one.

mod common;

use common::{Folder, samcore};
use std::fs;
use std::process::{Command, Stdio};

/// Returns bash's offers for the last, unfinished word of a command line.
fn offered(folder: &Folder, words: &[&str]) -> Option<Vec<String>> {
    let script = format!(
        "source completions.bash; COMP_WORDS=({}); COMP_CWORD={}; _samcore samcore {:?} {:?}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let done =
        Command::new("bash").args(["--norc", "-c", &script]).current_dir(&folder.0).stdin(Stdio::null()).output();
    let done = match done {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: no bash");
            return None;
        }
        other => other.unwrap(),
    };
    let mut offered: Vec<String> = String::from_utf8(done.stdout).unwrap().lines().map(str::to_string).collect();
    offered.retain(|word| !word.is_empty());
    offered.sort();
    Some(offered)
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let folder = Folder::new("completions");
    fs::write(folder.path("completions.bash"), samcore(&folder.0, "completions bash").well().stdout).unwrap();
    fs::create_dir(folder.path("my-images")).unwrap();
    for (words, expected) in [
        (&["samcore", "ev"][..], &["eval"][..]),
        (&["samcore", "study", "c"], &["corrupt"]),
        (&["samcore", "train", "--check"], &["--checkpoint-every", "--checkpoint-steps"]),
        (&["samcore", "train", "--opt", "s"], &["sam", "sam-on", "sgd"]),
        (&["samcore", "train", "--lr", "1", "--schedule", "co"], &["constant", "cosine"]),
        (&["samcore", "train", "--data", "fash"], &["fashion-mnist"]),
        (&["samcore", "train", "--nesterov", ""], &["false", "true"]),
        (&["samcore", "eval", "--split", "t"], &["test", "train"]),
        (&["samcore", "check", "conv2"], &["conv2d"]),
        (&["samcore", "completions", "z"], &["zsh"]),
        (&["samcore", "data", "ve"], &["verify"]),
        (&["samcore", "data", "fetch", "cifar-1"], &["cifar-10", "cifar-100"]),
        (&["samcore", "data", "noise", "--la"], &["--labels"]),
        (&["samcore", "data", "noise", "--labels", "c"], &["coarse"]),
        (&["samcore", "compare", "--budget", "equal-e"], &["equal-epochs"]),
        (&["samcore", "repro", "sam-r"], &["sam-rho"]),
        (&["samcore", "repro", "sam-rho", "--scale", "p"], &["paper"]),
        (&["samcore", "man", "comp"], &["compare", "completions"]),
        (&["samcore", "compare", "--opt", "sgd,as"], &["sgd,asam"]),
        (&["samcore", "compare", "--opt", "sgd,asam,v"], &["sgd,asam,vasso"]),
        (&["samcore", "bench", "--step", "cnn", "--dtype", "f32,b"], &["f32,bf16"]),
    ] {
        let Some(offered) = offered(&folder, words) else { return };
        assert_eq!(offered, expected, "{words:?}");
    }
}

#[test]
fn names_that_complete_do_not_change_what_a_wrong_one_is_told() {
    let folder = Folder::new("completions-wrong");
    for (line, message) in [
        ("train --opt sdg --data none", "unknown optimizer 'sdg'; did you mean 'sgd'?"),
        (
            "train --schedule cosin",
            "--schedule must be one of cosine, step, constant, one-cycle, not 'cosin'; did you mean 'cosine'?",
        ),
        ("train --flip=yes", "--flip must be true or false, not 'yes'"),
        ("info --model cmn", "unknown model 'cmn'; did you mean 'cnn'?"),
        ("check rellu", "unknown operation or model 'rellu'; did you mean 'relu'?"),
        ("completions", "the following required arguments were not provided: <SHELL>"),
        ("completions bsah", "unknown shell 'bsah'; did you mean 'bash'?"),
        ("man chekc", "unknown command 'chekc'; did you mean 'check'?"),
        ("data fetch cifar10", "unknown data set 'cifar10'; did you mean 'cifar-10'?"),
        ("man data verfy", "unknown action of 'data' 'verfy'; did you mean 'verify'?"),
        ("train --opt", "a value is required for '--opt <NAME>' but none was supplied"),
    ] {
        samcore(&folder.0, line).refused(2, message);
    }
}
