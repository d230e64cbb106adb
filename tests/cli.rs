//! Promises of the command line, made by the real program: help, exit codes, and one clear line for each mistake.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Exit code, stdout and stderr.
fn samcore(arguments: &[&str]) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_samcore")).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (done.status.code().unwrap(), text(&done.stdout), text(&done.stderr))
}

/// A file for one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &[u8]) -> Scratch {
        let path = std::env::temp_dir().join(format!("samcore-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let (code, help, errors) = samcore(&["--help"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    for command in samcore::cli::COMMANDS {
        assert!(help.contains(&format!("  {}", command.name)) && help.contains(command.about), "{help}");
        let (code, own, errors) = samcore(&[command.name, "--help"]);
        assert_eq!((code, errors.as_str()), (0, ""));
        assert!(own.starts_with(command.about) && own.contains(&format!("Usage: samcore {}", command.name)), "{own}");
    }
    for (_, code, meaning) in samcore::error::KINDS {
        assert!(help.contains(&format!("{code:3}  {meaning}\n")), "{help}");
    }
    let (code, version, _) = samcore(&["--version"]);
    assert!(code == 0 && version.starts_with(concat!("samcore ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn each_mistake_gets_one_line_on_stderr_and_its_exit_code() {
    let file = |name: &str, content: &[u8]| Scratch::new(name, content);
    let (typo, range) = (file("typo.toml", b"lr = 0.1\nbacth = 64\n"), file("range.toml", b"momentum = 1.0\n"));
    let binary = file("binary.toml", b"lr = \xff\xfe");
    let path = |scratch: &Scratch| scratch.0.to_str().unwrap().to_string();
    let (typo_path, range_path, binary_path) = (path(&typo), path(&range), path(&binary));
    for (arguments, code, message) in [
        (vec![], 2, "a command is missing"),
        (vec!["trian"], 2, "unknown command 'trian'; did you mean 'train'?"),
        (vec!["train", "--epoch", "3"], 2, "unknown flag '--epoch'; did you mean '--epochs'?"),
        (vec!["train", "--lr", "0"], 2, "--lr must be a number above 0, not '0'"),
        (vec!["train", "--rho", "nan"], 2, "--rho must be a number of at least 0, not 'nan'"),
        (vec!["train", "--batch", "0"], 2, "--batch must be a whole number from 1"),
        (vec!["train", "--schedule", "cos"], 2, "--schedule must be one of cosine, step, constant, one-cycle"),
        (vec!["train", "--device", "cqu"], 2, "not 'cqu'; did you mean 'cpu'?"),
        (vec!["train", "--lr"], 2, "a value is required for '--lr <X>'"),
        (vec!["train", "--config", &typo_path], 65, "typo.toml line 2: unknown key 'bacth'; did you mean 'batch'?"),
        (vec!["train", "--config", &range_path], 65, "range.toml line 1: momentum must be a number from 0 to below 1"),
        (vec!["train", "--config", &binary_path], 65, "binary.toml: byte 5 is not UTF-8 text"),
        (vec!["train", "--config", "/no/such.toml"], 66, "cannot read /no/such.toml"),
        (vec!["train", "--resume", "/no/such/run"], 66, "/no/such/run is not the folder of a run"),
        (vec!["eval"], 2, "<CHECKPOINT>"),
        (
            vec!["eval", "x", "--split", "tset"],
            2,
            "--split must be one of test, train, not 'tset'; did you mean 'test'?",
        ),
        (vec!["info", "--classes", "none"], 2, "--classes must be a whole number from 1"),
        (vec!["check", "--seed", "-3"], 2, "--seed must be a whole number from 0"),
    ] {
        let (found, output, errors) = samcore(&arguments);
        assert_eq!((found, output.as_str()), (code, ""), "{arguments:?}: {errors}");
        assert!(errors.starts_with("samcore: ") && errors.contains(message), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{arguments:?}: {errors}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error_but_a_full_disk_is() {
    let help = |out: Stdio| {
        let done = Command::new(env!("CARGO_BIN_EXE_samcore")).arg("--help").stdout(out).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(help(writer.into()), (0, String::new()));
    if let Ok(full) = File::options().write(true).open("/dev/full") {
        let (code, errors) = help(full.into());
        assert!(code == 74 && errors.starts_with("samcore: cannot write to stdout: "), "{code}: {errors}");
    }
}
