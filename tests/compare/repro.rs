//! Promises of `samcore repro`: the same results however often it is stopped, marked as what they are.

use super::{Done, samcore, send, small, start, steps_told, timeless, wait_until};
use std::fs;

/// Settings that make a protocol's runs take a second on the images of [`small`].
const TINY: &str = "--data data --batch 32 --train-images 64 --epochs 1 --eval-batch 64 --checkpoint-steps 1";

#[test]
fn a_protocol_that_is_stopped_comes_to_the_same_results_and_says_that_it_was_shrunk() {
    let folder = small("repro");
    let line = format!("repro report-fashion {TINY} --seeds 2 --epochs 4 --lr 0.05");
    let plan = samcore(&folder.0, &format!("{line} --out whole --dry-run")).well();
    assert!(!folder.path("whole").exists());
    for part in ["| cnn-sgd | ", "4 runs, 64 gradient evaluations; about ", "Shrunk by flags: "] {
        let text = plan.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let whole = samcore(&folder.0, &format!("{line} --out whole --json --quiet")).well();
    let results = timeless(&folder.path("whole"));
    assert_eq!(fs::read_to_string(folder.path("whole/results.json")).unwrap(), whole.stdout);
    assert_eq!((&results["complete"], &results["runs_done"]), (&true.into(), &4.into()));
    assert_eq!(results["paired_differences"][0]["differences"]["test accuracy"]["n"], 2);
    let epochs: Vec<_> = results["arms"].as_array().unwrap().iter().map(|arm| &arm["epochs"]).collect();
    assert_eq!(epochs, [8, 4]);

    let child = start(&folder.0, &format!("{line} --out broken"));
    wait_until("some steps", || steps_told(&folder.path("broken/cnn-sgd-seed0")) >= 2);
    send("USR1", &child);
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.code, 75, "{}", done.stderr);
    let message = "stopped by SIGUSR1 in run 1 of 4, cnn-sgd-seed0, saved; the same command goes on";
    assert!(done.stderr.contains(message), "{}", done.stderr);
    let done = samcore(&folder.0, &format!("{line} --out broken")).well();
    assert!(done.stderr.contains("cnn-sgd-seed0: 8 epochs"), "{}", done.stderr);
    assert_eq!(timeless(&folder.path("broken")), results);
    let again = samcore(&folder.0, &format!("{line} --out broken")).well();
    assert!(again.stderr.contains("run 4 of 4, cnn-sam-seed1: done before"), "{}", again.stderr);

    // What was shrunk and what was published stands in every output, and the page loads nothing.
    let page = fs::read_to_string(folder.path("whole/report.html")).unwrap();
    let table = fs::read_to_string(folder.path("whole/table.md")).unwrap();
    for text in [&page, &table] {
        for part in
            ["Shrunk by flags: ", "--epochs 4", "39 % (72 % after 10 epochs)", "Data: data in place of fashion-mnist"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    assert!(["http", "src=", "@import", "url(", "<script"].iter().all(|part| !outside.contains(part)));
    let csv = fs::read_to_string(folder.path("whole/table.csv")).unwrap();
    assert!(csv.lines().nth(2).is_some_and(|l| l.starts_with("cnn,,SGD,train accuracy,2,0.")), "{csv}");
    assert!(fs::read_to_string(folder.path("whole/differences.svg")).unwrap().contains("Shrunk by flags"));

    // Other runs, strangers and other settings are refused and left as they are.
    let other = line.replace("--lr 0.05", "--lr 0.06");
    samcore(&folder.0, &format!("{other} --out whole")).refused(73, "cnn-sgd-seed0 is a run with --lr 0.05, not 0.06");
    samcore(&folder.0, &format!("{line} --out data")).refused(73, "data holds t10k-images-idx3-ubyte, which is no run");
    samcore(&folder.0, "repro report-fashon --dry-run").refused(2, "did you mean 'report-fashion'?");
    samcore(&folder.0, "repro sam-table1 --model cnn").refused(2, "--model cnn: runs of sam-table1 differ in --model");
}

#[test]
fn bootstraps_begin_with_the_run_of_the_same_seed_wherever_the_folder_lies() {
    let folder = small("repro-noise");
    let line = format!("repro sam-noise {TINY} --seeds 1");
    let child = start(&folder.0, &format!("{line} --out one"));
    wait_until("the second run of a bootstrap", || {
        steps_told(&folder.path("one/wrn-10-1-20-bootstrap-mixup-seed0")) >= 1
    });
    send("TERM", &child);
    assert_eq!(Done::of(child.wait_with_output().unwrap()).code, 75);
    fs::rename(folder.path("one"), folder.path("two")).unwrap();
    let done = samcore(&folder.0, &format!("{line} --out two --json")).well();
    let results: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&results["runs_done"], &results["complete"]), (&20.into(), &true.into()));
    assert_eq!(results["arms"][4]["published"]["test accuracy"]["value"], "95.4 %");
    let config = |name: &str| fs::read_to_string(folder.path("two").join(name).join("config.toml")).unwrap();
    assert!(config("wrn-10-1-80-bootstrap-sam-seed0").contains("two/wrn-10-1-80-sam-seed0/last.safetensors"));
    assert!(folder.path("two/wrn-10-1-20-bootstrap-mixup-seed0/labels.json").exists());
}

#[test]
fn trained_models_are_measured_and_a_run_that_diverges_is_shown_as_such() {
    let folder = small("repro-measured");
    let results = |line: &str| -> serde_json::Value {
        let done = samcore(&folder.0, &format!("repro {line} {TINY} --seeds 1 --json --quiet")).well();
        serde_json::from_str(&done.stdout).unwrap()
    };
    let mean = |arm: &serde_json::Value, measure: &str| arm["estimates"][measure]["mean"].as_f64().unwrap();
    let robust = results("amo-robust --out robust --pgd-steps 2");
    for arm in robust["arms"].as_array().unwrap() {
        assert!(mean(arm, "attacked, 20 steps, radius 0.031") <= mean(arm, "test accuracy"), "{arm}");
    }
    let corrupted = results("corruption-training --out corrupted");
    let sgd = &corrupted["arms"][0];
    assert!((mean(sgd, "random, p = 2, n = all, eps = 0.1") - mean(sgd, "test accuracy")).abs() < 0.1, "{sgd}");
    assert!(folder.path("corrupted/measured.svg").exists());
    assert!(
        fs::read_to_string(folder.path("corrupted/table.md")).unwrap().contains("gradient-based, p = inf, n = 1000")
    );

    // The largest perturbation that f32 has makes every loss of SAM infinite.
    let lost = results("report-fashion --rho 1e38 --out lost");
    assert_eq!((&lost["runs_done"], &lost["runs_diverged"], &lost["complete"]), (&1.into(), &1.into(), &true.into()));
    let table = fs::read_to_string(folder.path("lost/table.md")).unwrap();
    assert!(table.contains("diverged in step 1 of 2") && table.contains("1 of 2 runs are done; 1 diverged"), "{table}");
}
