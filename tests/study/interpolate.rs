//! `study interpolate`: the ends are the models, a line from a model to itself is flat, statistics are estimated.

use crate::common::{samcore, start, wait_until};
use serde_json::Value;
use std::fs;

fn column(line: &Value, key: &str) -> Vec<f64> {
    line[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn the_ends_of_a_line_are_the_models_and_a_line_to_itself_is_flat() {
    let folder = super::trained("interpolate");
    let train = "train --data data --model cnn --lr 0.05 --epochs 3 --batch 32 --quiet --seed 1 --out other";
    samcore(&folder.0, train).well();
    let line =
        "study interpolate run/last.safetensors other/last.safetensors --points 5 --images 0 --test-images 0 --quiet";
    samcore(&folder.0, &format!("{line} --out line --threads 1")).well();
    samcore(&folder.0, &format!("{line} --out again --threads 2")).well();
    for file in ["interpolate.csv", "interpolate.npz", "interpolate.svg"] {
        let [a, b] = ["line", "again"].map(|out| fs::read(folder.path(out).join(file)).unwrap());
        assert!(a == b, "{file}");
    }
    let json: Value = serde_json::from_slice(&fs::read(folder.path("line").join("interpolate.json")).unwrap()).unwrap();
    let [interpolated, estimated] = [0, 1].map(|i| &json["lines"][i]);
    assert_eq!((&interpolated["statistics"], &estimated["statistics"]), (&"interpolated".into(), &"estimated".into()));
    for (end, run) in [(0, "run"), (4, "other")] {
        let own = samcore(&folder.0, &format!("eval {run}/last.safetensors --json")).well().json();
        let found = column(interpolated, "test_loss")[end];
        assert!((found - own["loss"].as_f64().unwrap()).abs() < 1e-6, "{run}: {found} {own}");
        assert_eq!(column(interpolated, "test_accuracy")[end], own["accuracy"].as_f64().unwrap());
    }
    assert!(column(interpolated, "train_loss") != column(estimated, "train_loss"));
    let losses = column(interpolated, "train_loss");
    let above = |i: usize| losses[i] - ((1.0 - i as f64 / 4.0) * losses[0] + i as f64 / 4.0 * losses[4]);
    let highest = (0..5).map(above).fold(0.0, f64::max);
    assert!((json["lines"][0]["train_barrier"]["loss"].as_f64().unwrap() - highest).abs() < 1e-12);
    samcore(&folder.0, "plot line --out drawn").well();
    let [a, b] = ["line", "drawn"].map(|out| fs::read(folder.path(out).join("interpolate.svg")).unwrap());
    assert!(a == b);

    // A journal of other batches is of other statistics.
    let stopped = format!("{line} --out stopped --batch 32").replace("--points 5", "--points 201");
    let mut child = start(&folder.0, &stopped);
    let journal = folder.path("stopped").join("interpolate.journal");
    wait_until("the first points", || fs::read_to_string(&journal).is_ok_and(|text| text.lines().count() > 3));
    child.kill().unwrap();
    child.wait().unwrap();
    samcore(&folder.0, &stopped.replace("--batch 32", "--batch 16")).refused(73, "batch");

    let itself = line.replace("other/last", "run/last") + " --json";
    let flat = samcore(&folder.0, &itself).well().json();
    assert_eq!(flat["distance"], 0.0);
    let estimated = column(&flat["lines"][1], "train_loss");
    assert!(estimated.iter().all(|loss| *loss == estimated[0]), "{estimated:?}");
    assert!(column(&flat["lines"][0], "train_loss").iter().all(|loss| *loss == losses[0]));

    let other = "train --data data --model resnet20 --epochs 1 --batch 32 --steps 1 --quiet --out net";
    samcore(&folder.0, other).well();
    let refused = samcore(&folder.0, &line.replace("other/last.safetensors", "net"));
    refused.refused(65, "the other end, net: this is another model, resnet20");
}
