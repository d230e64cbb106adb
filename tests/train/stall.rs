//! Promises of a radius that rises, and of runs that stand still.

use super::{COMMON, Folder, samcore};
use samcore::safetensors::Tensor;
use std::fs;
use std::path::Path;

fn weights(run: &Path) -> Vec<Tensor> {
    samcore::safetensors::read(&run.join("last.safetensors")).unwrap().tensors
}

#[test]
fn the_radius_rises_over_its_share_of_the_steps() {
    let folder = Folder::with_images("rho-warmup", 96, 16, 4);
    let run = |name: &str, settings: &str| {
        let line =
            format!("{COMMON} --opt sam --schedule constant --warmup 0 --batch 32 --epochs 3 {settings} --out {name}");
        samcore(&folder.0, &line).well();
        weights(&folder.path(name))
    };
    // 9 steps, of which 3 rise: 1/4, 2/4, 3/4 of the radius.
    let rising = |steps: u32| run(&format!("rising-{steps}"), &format!("--rho 0.4 --rho-warmup 0.333 --steps {steps}"));
    assert!(rising(1) == run("first", "--rho 0.1 --steps 1"), "the first step has a quarter of the radius");
    assert!(rising(2) != run("constant", "--rho 0.1 --steps 2"));
    let whole = run("whole", "--rho 0.4 --rho-warmup 0.333");
    assert!(whole != run("none", "--rho 0.4"));
    run("stopped", "--rho 0.4 --rho-warmup 0.333 --steps 2");
    samcore(&folder.0, "train --resume stopped").well();
    assert!(weights(&folder.path("stopped")) == whole, "a resumed run knows how far the radius had risen");
    let done = samcore(&folder.0, &format!("{COMMON} --opt sgd --rho-warmup 0.5 --epochs 1 --out sgd")).well();
    assert!(done.stderr.contains("--rho-warmup changes nothing"), "{}", done.stderr);
}

#[test]
fn a_run_that_learns_nothing_says_so_once_and_a_comparison_counts_it() {
    let folder = Folder::with_images("stall", 96, 16, 4);
    let line = |set: &str| {
        format!(
            "compare --data {set} --model cnn --batch 32 --opt sgd,sam --seeds 2 --epochs 3 --lr 0.001 --out c-{set} --json"
        )
    };
    // Images without content: nothing is to be learned from them.
    fs::create_dir(folder.path("blank")).unwrap();
    for entry in fs::read_dir(folder.path("data")).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = fs::read(entry.path()).unwrap();
        if entry.file_name().to_string_lossy().contains("images") {
            bytes[16..].fill(0);
        }
        fs::write(folder.path("blank").join(entry.file_name()), bytes).unwrap();
    }
    let done = samcore(&folder.0, &line("blank")).well();
    let results = done.json();
    let stalled = |i: usize| results["optimizers"][i]["seeds_at_chance"].clone();
    assert_eq!((stalled(0), stalled(1)), (serde_json::json!([0, 1]), serde_json::json!([0, 1])));
    let said: Vec<&str> = done.stderr.lines().filter(|line| line.contains("learned nothing")).collect();
    assert_eq!(said.len(), 4, "once a run: {}", done.stderr);
    assert!(said.iter().any(|line| line.contains("rho/|g|") && line.contains("--rho-warmup")), "{said:?}");
    let table = fs::read_to_string(folder.path("c-blank/table.md")).unwrap();
    assert!(table.contains("sam: 2 of 2 seeds at chance (seeds 0, 1)") && table.contains("2 (2 at chance)"), "{table}");

    let learned = format!("{COMMON} --opt sam --lr 0.05 --epochs 4 --out learned");
    let done = samcore(&folder.0, &learned).well();
    assert!(!done.stderr.contains("learned nothing"), "{}", done.stderr);
}
