//! Promises of a comparison: the same results however often it is stopped; runs from elsewhere are taken as they are.

mod common;
#[path = "compare/repro.rs"]
mod repro;

use common::{Done, Folder, files, samcore, send, start, steps_told, wait_until};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// 220 images of 14x14 pixels, of which 6 batches make an epoch: 12 steps of SAM, 24 of SGD.
fn small(name: &str) -> Folder {
    Folder::with_images(name, 220, 90, 2)
}

const SETTINGS: &str = "--data data --model cnn --batch 32 --eval-batch 64 --lr 0.05 --rho 0.1";
const COMPARE: &str = "--opt sgd,sam --seeds 2 --epochs 2";

/// results.json without what tells of time and machine.
fn timeless(folder: &Path) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for key in ["seconds", "images_per_s", "environment"] {
                    map.remove(key);
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut json = serde_json::from_slice(&fs::read(folder.join("results.json")).unwrap()).unwrap();
    strip(&mut json);
    json
}

#[test]
fn a_comparison_that_is_stopped_and_killed_comes_to_the_same_results() {
    let folder = small("compare");
    let line = format!("compare {SETTINGS} {COMPARE} --checkpoint-steps 2");
    let whole = samcore(&folder.0, &format!("{line} --out whole --json")).well();
    let results = timeless(&folder.path("whole"));
    assert_eq!(fs::read_to_string(folder.path("whole/results.json")).unwrap(), whole.stdout);
    assert_eq!((&results["complete"], &results["runs_done"]), (&true.into(), &4.into()));
    for (run, steps) in [("sgd-seed0", 24), ("sam-seed0", 12), ("sgd-seed1", 24), ("sam-seed1", 12)] {
        assert_eq!(steps_told(&folder.path("whole").join(run)), steps, "{run}");
    }
    let steps: Vec<_> = results["optimizers"].as_array().unwrap().iter().map(|o| &o["gradient_evaluations"]).collect();
    assert_eq!(steps, [24.0, 24.0]);

    // Stopped in the first run, killed in the second and the third, then left alone.
    let mut next = format!("{line} --out broken --threads 1");
    for (run, after, signal) in [("sgd-seed0", 3, "TERM"), ("sam-seed0", 5, "KILL"), ("sgd-seed1", 1, "KILL")] {
        let child = start(&folder.0, &next);
        wait_until("some steps", || steps_told(&folder.path("broken").join(run)) >= after);
        send(signal, &child);
        let done = Done::of(child.wait_with_output().unwrap());
        if signal == "TERM" {
            assert_eq!(done.code, 75, "{}", done.stderr);
            let message = "samcore: stopped by SIGTERM in run 1 of 4, sgd-seed0, saved; resume with: samcore ";
            let (_, resume) = done.stderr.split_once(message).unwrap_or_else(|| panic!("{}", done.stderr));
            next = resume.trim().to_owned();
            assert_eq!(next, "compare --resume broken");
        }
    }
    // The same command does what --resume does.
    let done = samcore(&folder.0, &format!("{line} --out broken")).well();
    assert!(done.stderr.contains("run 1 of 4, sgd-seed0: done before"), "{}", done.stderr);
    assert_eq!(timeless(&folder.path("broken")), results);
    let names = |name: &str| files_of(&folder.path(name));
    assert_eq!(names("broken"), names("whole"));

    // `plot` makes the same report from results.json alone, and a run's figure from its records.
    let figure = fs::read_to_string(folder.path("whole/curves.svg")).unwrap();
    assert!(figure.contains("Bands: from the lowest") && figure.contains("sam: rho 0.1, epochs 2"), "{figure}");
    for name in ["compare.toml", "results.json"] {
        fs::create_dir_all(folder.path("moved")).unwrap();
        fs::copy(folder.path("whole").join(name), folder.path("moved").join(name)).unwrap();
    }
    samcore(&folder.0, "plot moved").well();
    for name in ["table.md", "results.json", "curves.svg"] {
        let [before, after] = ["whole", "moved"].map(|f| fs::read_to_string(folder.path(f).join(name)).unwrap());
        assert!(before == after, "{name}: {after}");
    }
    let figure = fs::read_to_string(folder.path("whole/sam-seed1/curves.svg")).unwrap();
    assert_eq!(samcore(&folder.0, "plot whole/sam-seed1 --out drawn").well().stdout, "drawn/curves.svg\n");
    assert!(fs::read_to_string(folder.path("drawn/curves.svg")).unwrap() == figure);

    // Nothing left to do: results are only told again.
    let again = samcore(&folder.0, "compare --resume whole --json --quiet").well();
    assert_eq!(again.stdout, whole.stdout);
}

#[test]
fn a_run_that_diverges_is_a_result_and_the_others_go_on() {
    let folder = small("compare-diverges");
    // The largest perturbation that f32 has makes every loss of SAM infinite.
    let line = format!("compare --data data --model cnn --batch 32 --lr 0.05 --rho 1e38 {COMPARE} --out c");
    let done = samcore(&folder.0, &line).well();
    assert!(done.stderr.contains("2 of 4 runs diverged"), "{}", done.stderr);
    for text in [&done.stdout, &done.stderr] {
        assert!(
            text.contains("sam: 0 of 2 seeds; seed 0 diverged in step 1 of 12, seed 1 diverged in step 1 of 12"),
            "{text}"
        );
    }
    assert!(fs::read_to_string(folder.path("c/report.html")).unwrap().contains("seed 0 diverged in step 1"));
    let results = timeless(&folder.path("c"));
    assert_eq!((&results["complete"], &results["runs_done"]), (&true.into(), &2.into()));
    assert_eq!(results["runs"][1]["diverged"]["step"], 1);
    assert_eq!(results["optimizers"][1]["seeds_diverged"], serde_json::json!([0, 1]));
    // They are not tried again.
    let again = samcore(&folder.0, "compare --resume c").well();
    assert!(again.stderr.contains("sam-seed1: diverged in step 1 of 12"), "{}", again.stderr);
    assert_eq!(timeless(&folder.path("c")), results);
    // Where nothing is left there is no result.
    let line = line.replace("--opt sgd,sam", "--opt sam");
    let none = samcore(&folder.0, &line.replace("--out c", "--out none"));
    assert_eq!(none.code, 76, "{}", none.stderr);
    assert!(none.stderr.contains("all runs diverged") && folder.path("none/table.md").exists(), "{}", none.stderr);
}

/// Names in a folder.
fn files_of(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn runs_that_train_has_made_are_taken_and_what_differs_is_named() {
    let folder = small("compare-taken");
    let train = |opt: &str, epochs: u32, more: &str| {
        samcore(&folder.0, &format!("train {SETTINGS} --opt {opt} --epochs {epochs} {more}")).well()
    };
    train("sam", 2, "--seed 0 --threads 1 --out all/sam-seed0");
    // SGD has no use for rho.
    train("sgd", 4, "--seed 0 --rho 3 --steps 7 --out all/sgd-seed0");
    let before = files(&folder.path("all/sam-seed0"));
    let line = format!("compare {SETTINGS} --seeds 1 --epochs 2 --out all");

    let plan = samcore(&folder.0, &format!("{line} --dry-run")).well().stdout;
    assert!(plan.contains("| sgd-seed0 | to be resumed after step 7 |"), "{plan}");
    assert!(plan.contains("| sam-seed0 | done "), "{plan}");
    let plan = samcore(&folder.0, &format!("{line} --dry-run --json")).well().json();
    assert_eq!((&plan["runs"][0]["epochs"], &plan["runs"][1]["state"]), (&4.into(), &"done".into()));
    // What is done takes no more time.
    let seconds = |run: usize| plan["runs"][run]["estimated_seconds_left"].as_f64().unwrap();
    assert!(seconds(0) > 0.0 && seconds(1) == 0.0, "{plan}");
    assert_eq!(files_of(&folder.path("all")), ["sam-seed0", "sgd-seed0"], "a dry run writes nothing");

    samcore(&folder.0, &format!("{line} --rho 0.2")).refused(73, "sam-seed0 is a run with --rho 0.1, not 0.2");
    assert_eq!(files_of(&folder.path("all")), ["sam-seed0", "sgd-seed0"], "nor does one that is refused");
    let done = samcore(&folder.0, &line).well();
    assert!(done.stdout.starts_with("# cnn on data: sgd, sam\n"), "{}", done.stdout);
    assert_eq!(done.stdout, fs::read_to_string(folder.path("all/table.md")).unwrap());
    assert!(files(&folder.path("all/sam-seed0")) == before, "a finished run is left alone");
    assert_eq!(steps_told(&folder.path("all/sgd-seed0")), 24);

    samcore(&folder.0, &format!("{line} --seeds 2")).refused(73, "all holds a comparison with --seeds 0, not 0,1");
    samcore(&folder.0, "compare --resume all --lr 0.1").refused(2, "all holds a comparison with --lr 0.05, not 0.1");
    samcore(&folder.0, "compare --resume data").refused(66, "data is not the folder of a comparison");
    samcore(&folder.0, &format!("compare {SETTINGS} --out data")).refused(73, "data holds t10k-images-idx3-ubyte");
    samcore(&folder.0, &format!("compare {SETTINGS} --batch 221 --out new")).refused(2, "--batch 221 is more than");
    assert!(!folder.path("new").exists());
    // A comparison is repeated by its own file.
    samcore(&folder.0, "compare --config all/compare.toml --out again --quiet").well();
    assert_eq!(timeless(&folder.path("again")), timeless(&folder.path("all")));
}

#[test]
fn a_comparison_belongs_to_one_process() {
    let folder = small("compare-lock");
    let line = format!("compare {SETTINGS} --seeds 1 --epochs 40 --out one");
    let child = start(&folder.0, &line);
    wait_until("the first step", || steps_told(&folder.path("one/sgd-seed0")) >= 1);
    samcore(&folder.0, &line).refused(73, "one is in use by another samcore process");
    send("INT", &child);
    let done = Done::of(child.wait_with_output().unwrap());
    assert!(done.code == 75 && done.stderr.contains("stopped by SIGINT (Ctrl-C) in run 1 of 2"), "{}", done.stderr);
}

#[test]
fn a_comparison_is_resumed_from_any_folder_and_its_data_may_move_but_not_change() {
    let folder = small("compare-moved");
    let line = format!("compare {SETTINGS} --seeds 1 --epochs 1");
    samcore(&folder.0, &format!("{line} --out whole")).well();
    let run = format!("train {SETTINGS} --opt sgd --epochs 2 --steps 4 --out part/sgd-seed0");
    let start = || {
        let _ = fs::remove_dir_all(folder.path("part"));
        samcore(&folder.0, &run).well();
        fs::copy(folder.path("whole/compare.toml"), folder.path("part/compare.toml")).unwrap();
    };
    let result = |name: &str| timeless(&folder.path(name))["optimizers"].clone();
    start();
    let elsewhere = Folder::new("compare-elsewhere");
    samcore(&elsewhere.0, &format!("compare --resume {}", folder.path("part").display())).well();
    assert_eq!(result("part"), result("whole"));

    start();
    fs::rename(folder.path("data"), folder.path("moved")).unwrap();
    common::write_images(&folder.path("data"), 220, 90, 2);
    let labels = folder.path("data/train-labels-idx1-ubyte");
    let mut other = fs::read(&labels).unwrap();
    other[8] = (other[8] + 1) % 10;
    fs::write(&labels, other).unwrap();
    samcore(&folder.0, "compare --resume part").refused(73, "sgd-seed0 is a run with other training labels than those");
    samcore(&folder.0, "compare --resume part --data moved").well();
    assert_eq!(result("part"), result("whole"));
}
