//! Promises of runs that are not evaluated after each epoch.

use super::{COMMON, Folder, assert_same, metrics, samcore};
use samcore::train::checkpoint::Checkpoint;
use std::fs;
use std::path::Path;

/// 96 images, 24 of them held out, of which 2 batches make an epoch; all that an evaluation could disturb is in it.
const LINE: &str = "--opt sam --rho 0.1 --lr 0.05 --epochs 7 --val-fraction 0.25 --dropout 0.3 --augment aa --swa 0.5";
/// Epochs from 1 that are evaluated, of 7.
const DUE: [usize; 3] = [3, 6, 7];

fn best_epoch(run: &Path) -> u64 {
    Checkpoint::open(&run.join("best.safetensors")).unwrap().position.best_epoch
}

#[test]
fn runs_that_are_evaluated_less_often_have_the_same_weights_and_resume_to_the_same_records() {
    let folder = Folder::with_images("eval-every", 96, 40, 2);
    let [each, third] = ["each", "third"].map(|name| folder.path(name));
    samcore(&folder.0, &format!("{COMMON} {LINE} --out each")).well();
    let line = format!("{COMMON} {LINE} --eval-every 3 --tensorboard");
    let done = samcore(&folder.0, &format!("{line} --out third --json")).well();
    for column in ["train_loss", "train_accuracy", "lr", "grad_norm", "sharpness_gain"] {
        assert_eq!(metrics(&each, column), metrics(&third, column), "{column}");
    }
    for column in ["val_loss", "val_accuracy", "test_loss", "test_accuracy"] {
        let expected = metrics(&each, column).into_iter().enumerate();
        let expected = expected.map(|(i, text)| if DUE.contains(&(i + 1)) { text } else { String::new() });
        assert_eq!(metrics(&third, column), expected.collect::<Vec<_>>(), "{column}");
    }
    let steps = |run: &Path| fs::read(run.join("steps.jsonl")).unwrap();
    assert!(steps(&each) == steps(&third));
    let [a, b] = [&each, &third].map(|run| samcore::safetensors::read(&run.join("last.safetensors")).unwrap());
    assert!(a.tensors == b.tensors, "an evaluation changes nothing about the course of a run");
    // The best epoch is the first with the highest validation accuracy among those that are evaluated.
    let accuracies: Vec<f64> = metrics(&each, "val_accuracy").iter().map(|text| text.parse().unwrap()).collect();
    let best = DUE.into_iter().rev().max_by(|a, b| accuracies[a - 1].total_cmp(&accuracies[b - 1])).unwrap();
    assert_eq!(best_epoch(&third), best as u64);
    assert_eq!(done.json()["best_epoch"], best);
    assert_eq!(format!("{:.6}", done.json()["test_accuracy"].as_f64().unwrap()), metrics(&each, "test_accuracy")[6]);
    assert!(done.stderr.lines().any(|line| line.contains("  –  ")), "{}", done.stderr);

    // Stopped at the end of an epoch without an evaluation, within one, and behind one with it.
    for stops in [vec![2], vec![8], vec![5, 12]] {
        let out = format!("broken-{}", stops[0]);
        let mut next = format!("{line} --out {out}");
        for stop in &stops {
            let told = samcore(&folder.0, &format!("{next} --steps {stop} --json")).well().json();
            assert!(told["test_accuracy"].is_f64() && told["complete"] == false, "{told}");
            next = format!("train --resume {out}");
        }
        samcore(&folder.0, &next).well();
        assert_same(&folder.path(&out), &third);
    }
    samcore(&folder.0, "train --resume broken-2 --eval-every 2").refused(2, "--eval-every cannot change on --resume");
}

#[test]
fn a_comparison_and_its_figures_cope_with_epochs_without_an_evaluation() {
    let folder = Folder::with_images("eval-every-compare", 32, 16, 4);
    let line = "compare --data data --model cnn --batch 16 --seeds 2 --epochs 3 --eval-every 2 --out c --quiet --json";
    let results = samcore(&folder.0, line).well().json();
    assert_eq!(results["optimizers"][1]["test_accuracy"]["n"], 2);
    let [sgd, sam] = [0, 1].map(|run| &results["runs"][run]["epochs"]["test_loss"]);
    let there = |values: &serde_json::Value| {
        let values = values.as_array().unwrap();
        values.iter().map(|value| u8::from(value.is_f64())).collect::<Vec<_>>()
    };
    assert_eq!((there(sgd), there(sam)), (vec![0, 1, 0, 1, 0, 1], vec![0, 1, 1]));
    let figure = fs::read_to_string(folder.path("c/curves.svg")).unwrap();
    assert!(!figure.contains("ended early") && !figure.contains("NaN") && !figure.contains("inf"), "{figure}");
    samcore(&folder.0, "plot c --out drawn").well();
    assert!(fs::read_to_string(folder.path("drawn/curves.svg")).unwrap() == figure);
}
