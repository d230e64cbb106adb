//! Tells the binary which commit and compiler it was built from: `SAMCORE_COMMIT` and `SAMCORE_RUSTC`, "unknown" where
//! that cannot be found out. A build without git, or from an unpacked archive, is a build like any other.
//!
//! Embeds every file of `kernels/`, so that the binary needs no files beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // Naming the files to watch keeps cargo from running this script again at every change of a source file.
    println!("cargo::rerun-if-changed=build.rs");
    embed_kernels();
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    export("SAMCORE_RUSTC", output(Command::new(rustc).arg("--version")));
    export("SAMCORE_COMMIT", commit());
}

fn export(name: &str, value: Option<String>) {
    println!("cargo::rustc-env={name}={}", value.as_deref().unwrap_or("unknown"));
}

/// The commit that is checked out here, if this folder is the top of a checkout and not merely somewhere inside one.
fn commit() -> Option<String> {
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // HEAD changes with the branch, the branch's own file with each commit, packed-refs in place of it after `git gc`.
    let branch = git(&["symbolic-ref", "-q", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", &branch, "packed-refs"].into_iter().filter(|n| !n.is_empty()) {
        // A watched file that is missing would make cargo run this script every time.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|p| Path::new(p).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    output(Command::new("git").args(arguments))
}

/// Returns the output of a command that ends well, without the line's end.
fn output(command: &mut Command) -> Option<String> {
    let done = command.output().ok().filter(|done| done.status.success())?;
    Some(String::from_utf8(done.stdout).ok()?.trim().to_string())
}

/// Writes `kernels.rs`: the table `EMBEDDED` of names and texts of all files below `kernels/`.
fn embed_kernels() {
    println!("cargo::rerun-if-changed=kernels");
    let variable = |name| PathBuf::from(std::env::var_os(name).expect("cargo sets it"));
    let root = variable("CARGO_MANIFEST_DIR").join("kernels");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let mut table = String::from(
        "/// Name below `kernels/` and text of every kernel source.\npub const EMBEDDED: &[(&str, &str)] = &[\n",
    );
    for file in files {
        let name = file.strip_prefix(&root).expect("found below it").display().to_string();
        table += &format!("    ({name:?}, include_str!({:?})),\n", file.display().to_string());
    }
    table += "];\n";
    std::fs::write(variable("OUT_DIR").join("kernels.rs"), table).expect("OUT_DIR is writable");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).expect("kernels/ is part of the source");
    for path in entries.map(|entry| entry.expect("kernels/ is readable").path()) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| ["cu", "cuh", "h", "cpp"].iter().any(|known| e == *known)) {
            files.push(path);
        }
    }
}
