//! `study landscape`: the surface goes through the model, its directions are filter-normalised, and it resumes.

use crate::common::{Folder, samcore, start, wait_until};
use samcore::graph::{Graph, ImageSource};
use samcore::nn;
use samcore::ops::call::Augment;
use samcore::study::landscape::{cosine, direction};
use serde_json::Value;
use std::fs;

const FLAGS: &str = "--points 5 --images 48 --seed 3 --quiet";

fn read(folder: &Folder, out: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.path(out).join("landscape.json")).unwrap()).unwrap()
}

#[test]
fn a_directions_filters_are_as_long_as_the_weights_and_biases_do_not_move() {
    let mut graph = Graph::new();
    let (mean, std, augment) = ([0.0; 4], [1.0; 4], Augment::default());
    let batch = graph.images(ImageSource { h: 4, w: 4, c: 3, classes: 5, mean, std, augment });
    let x = nn::conv(&mut graph, batch.images, "conv", 6, 3, 1, 1).unwrap();
    let x = nn::batch_norm(&mut graph, x, "bn").unwrap();
    nn::linear(&mut graph, x, "fc", 5).unwrap();
    let weights: Vec<f32> = (0..graph.params().vector_len()).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    let [a, b] = [0, 1].map(|which| direction(&graph, &weights, 7, which));
    assert!(a == direction(&graph, &weights, 7, 0) && a != b && a != direction(&graph, &weights, 8, 0));
    let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    for param in graph.params().list() {
        let filter = if param.shape.len() > 1 { param.len() / param.shape[0] } else { param.len() };
        for first in (param.offset..param.offset + param.len()).step_by(filter) {
            let expected = if param.shape.len() > 1 { norm(&weights[first..first + filter]) } else { 0.0 };
            let found = norm(&a[first..first + filter]);
            assert!((found - expected).abs() <= 1e-5 * expected, "{} at {first}: {found} {expected}", param.name);
        }
    }
    assert!(cosine(&a, &b).abs() < 0.2 && (cosine(&a, &a) - 1.0).abs() < 1e-9);
}

#[test]
fn a_landscape_has_the_model_in_its_middle_and_the_same_bits_after_a_stop_and_on_other_threads() {
    let folder = super::trained("landscape");
    let line = format!("study landscape run/last.safetensors {FLAGS}");
    samcore(&folder.0, &format!("{line} --threads 2 --out whole")).well();
    let whole = read(&folder, "whole");
    let surface = &whole["surfaces"][0];
    let eval = "eval run/last.safetensors --split train --json";
    let all = samcore(&folder.0, &line.replace("--images 48", "--images 0 --dim 1 --points 3 --json")).well().json();
    let middle = all["surfaces"][0]["loss"][1].as_f64().unwrap();
    let own = samcore(&folder.0, eval).well().json()["loss"].as_f64().unwrap();
    assert!((middle - own).abs() < 1e-6 * own, "{middle} {own}");
    assert_eq!(surface["loss"].as_array().unwrap().len(), 25);
    let near = |key: usize| surface["loss"][key].as_f64().unwrap();
    assert!(near(0) > near(12), "the loss grows away from a trained model");

    samcore(&folder.0, &format!("{line} --threads 1 --out one")).well();
    assert!(read(&folder, "one")["surfaces"][0]["loss"] == surface["loss"]);
    // Stopped as soon as some points are there.
    let mut child =
        start(&folder.0, &line.replace("--points 5", "--points 15").replace("--quiet", "--quiet --out stopped"));
    let journal = folder.path("stopped").join("landscape.journal");
    wait_until("the first points", || fs::read_to_string(&journal).is_ok_and(|text| text.lines().count() > 3));
    child.kill().unwrap();
    child.wait().unwrap();
    for out in ["stopped", "through"] {
        samcore(&folder.0, &line.replace("--points 5", &format!("--points 15 --out {out}"))).well();
    }
    for file in ["landscape.csv", "landscape.npz", "landscape.svg"] {
        let [a, b] = ["stopped", "through"].map(|out| fs::read(folder.path(out).join(file)).unwrap());
        assert!(a == b, "{file}");
    }
    samcore(&folder.0, "plot whole --out drawn").well();
    let [a, b] = ["whole", "drawn"].map(|out| fs::read(folder.path(out).join("landscape.svg")).unwrap());
    assert!(a == b);
}

#[test]
fn two_models_lie_side_by_side_and_another_model_is_refused() {
    let folder = super::trained("landscape-two");
    let line = format!("study landscape run {FLAGS} --json");
    let both = samcore(&folder.0, &format!("{line} --beside run/last.safetensors")).well().json();
    assert_eq!(both["surfaces"].as_array().unwrap().len(), 2);
    let train = "train --data data --model resnet20 --epochs 1 --batch 32 --steps 1 --quiet --out other";
    samcore(&folder.0, train).well();
    samcore(&folder.0, &format!("{line} --beside other")).refused(65, "this is another model");
    samcore(&folder.0, &line.replace("--points 5", "--points 4")).refused(2, "--points 4 must be odd");
    samcore(&folder.0, &format!("{line} --range 0")).refused(2, "--range");
}
