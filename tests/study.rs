//! Promises of `samcore study`: corruptions and sharpness are what their formulas say, the same for any number of threads.

mod common;
#[path = "study/hessian.rs"]
mod hessian;
#[path = "study/interpolate.rs"]
mod interpolate;
#[path = "study/landscape.rs"]
mod landscape;
#[path = "study/track.rs"]
mod track;

use common::{Folder, idx, names_in, samcore, start, wait_until};
use samcore::data;
use samcore::device::cpu::CpuDevice;
use samcore::graph::{Graph, ImageSource};
use samcore::nn;
use samcore::ops::call::Augment;
use samcore::optim::Norm;
use samcore::study::{Direction, Layer, Probe};
use samcore::train::checkpoint::Vectors;
use samcore::train::engine::{TEST, TRAIN};
use serde_json::Value;
use std::fs;

/// A small trained model in `run/last.safetensors`.
fn trained(name: &str) -> Folder {
    let folder = Folder::with_images(name, 96, 60, 2);
    let line = "train --data data --model cnn --lr 0.05 --epochs 3 --batch 32 --quiet --out run";
    samcore(&folder.0, line).well();
    folder
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"))
}

/// Images of one pixel, 1 (class 0) and 0 (class 1), and a linear layer of zeros. The logits are 0, the loss ln 2, the
/// gradient of the weights (-1/4, 1/4) and that of the biases 0. The corruption of length sqrt(2) makes the weights (-1, 1):
/// the first image's loss becomes ln(1 + e^2), and its class 1.
#[test]
fn a_linear_model_is_corrupted_as_worked_out_by_hand() {
    let folder = Folder::new("study-linear");
    for split in ["train", "t10k"] {
        fs::write(folder.path(&format!("{split}-images-idx3-ubyte")), idx(&[2, 1, 1], &[255, 0])).unwrap();
        fs::write(folder.path(&format!("{split}-labels-idx1-ubyte")), idx(&[2], &[0, 1])).unwrap();
    }
    let data = data::load(folder.0.to_str().unwrap()).unwrap();
    let (mean, std, augment) = ([0.0; 4], [1.0; 4], Augment::default());
    let mut graph = Graph::new();
    let batch = graph.images(ImageSource { h: 1, w: 1, c: 1, classes: 2, mean, std, augment });
    let logits = nn::linear(&mut graph, batch.images, "fc", 2).unwrap();
    nn::cross_entropy(&mut graph, logits, batch.targets, batch.weights, 0.0).unwrap();

    let weights = vec![0.0; graph.params().vector_len()];
    let vectors = Vectors { weights: weights.clone(), ..Vectors::default() };
    // Batches of one: the gradient is a mean over two of them, and of five rows: three of them pad.
    for rows in [1, 5] {
        let device = Box::new(CpuDevice::new(1).unwrap());
        let mut probe = Probe::new(&graph, device, &[rows], &vectors, 0).unwrap();
        probe.set_dataset(TRAIN, &data.train).unwrap();
        probe.set_dataset(TEST, &data.test).unwrap();
        let slope = probe.slope(&weights, TRAIN, &[0, 1]).unwrap();
        assert!((slope.loss - 2f64.ln()).abs() < 1e-6, "{}", slope.loss);
        let params = graph.params().list();
        let of = |i: usize| slope.gradient[params[i].offset..][..2].to_vec();
        assert_eq!((of(0), of(1)), (vec![-0.25, 0.25], vec![0.0, 0.0]));

        let clean = probe.scores(&weights, TEST, &[0, 1]).unwrap();
        assert_eq!(clean.accuracy, 0.5, "equal logits are class 0");
        let direction = Direction::steepest(&slope.gradient, &Layer::whole(&graph), 4, Norm::Two);
        let corrupted = direction.corrupted(&weights, 2f64.sqrt());
        assert_eq!(corrupted[params[0].offset..][..2], [-1.0, 1.0]);
        let scores = probe.scores(&corrupted, TEST, &[0, 1]).unwrap();
        let expected = ((1.0 + 2f64.exp()).ln() + 2f64.ln()) / 2.0;
        assert!((scores.loss - expected).abs() < 1e-6 && scores.accuracy == 0.0, "{scores:?}");
    }
}

#[test]
fn corruptions_keep_to_their_set_and_the_gradient_based_one_grows_the_loss_most() {
    let folder = trained("study-corrupt");
    let flags = "--eps 0,0.3,1 --eps-inf 0,0.01 --n all,10,1% --seeds 2 --images 0 --test-images 0";
    let line = format!("study corrupt run/last.safetensors {flags} --csv points.csv --out result --json");
    let result = samcore(&folder.0, &line).well().json();
    let clean = samcore(&folder.0, "eval run/last.safetensors --json").well().json();
    assert_eq!(result["clean"]["accuracy"], clean["accuracy"]);
    assert_eq!((&result["test_images"], &result["gradient_images"]), (&60.into(), &96.into()));

    let rows = result["rows"].as_array().unwrap();
    // Five sizes, each with three numbers of entries in three ways, and in the ten layers of cnn.
    assert_eq!(rows.len(), 5 * (3 * 3 + 10));
    for row in rows {
        let at_most = match row["n"].as_str().unwrap() {
            "all" => 200_000,
            "1%" => 2000,
            n => n.parse().unwrap(),
        };
        let changed = row["changed"].as_u64().unwrap();
        assert!(changed <= at_most && (changed > 0) == (number(row, "eps") > 0.0), "{row}");
        if number(row, "eps") == 0.0 {
            assert_eq!((&row["accuracy"], &row["loss"]), (&result["clean"]["accuracy"], &result["clean"]["loss"]));
        }
        let same = |other: &&Value| ["layer", "p", "n", "eps"].iter().all(|key| other[key] == row[key]);
        let steepest = rows.iter().filter(same).find(|other| other["kind"] == "gradient").unwrap();
        assert!(number(steepest, "first_order") >= number(row, "first_order"), "{row}");
        // g/|g| . g is |g|.
        if row["layer"] == "all" && row["p"] == "2" && row["n"] == "all" && row["kind"] == "gradient" {
            let expected = number(row, "eps") * number(&result, "gradient_norm");
            assert!((number(row, "first_order") - expected).abs() <= 1e-6 * expected, "{row}");
        }
    }
    assert_eq!(result["damage"].as_array().unwrap().len(), 2 * 3);

    let csv = fs::read_to_string(folder.path("points.csv")).unwrap();
    assert_eq!(csv.lines().next(), Some("layer,p,n,changed,eps,kind,seed,accuracy,loss,first_order"));
    assert_eq!(csv.lines().count(), 2 + rows.len());
    assert!(csv.lines().all(|line| line.split(',').count() == 10));
    assert_eq!(names_in(&folder.path("result")), ["corrupt.csv", "corrupt.json", "corrupt.svg", "layers.svg"]);
    assert_eq!(fs::read_to_string(folder.path("result/corrupt.csv")).unwrap(), csv);
    let file: Value = serde_json::from_slice(&fs::read(folder.path("result/corrupt.json")).unwrap()).unwrap();
    assert_eq!(file, result);

    // The figures say of which checkpoint they are, what chance is, and what was before any corruption; `plot` draws the same.
    let figures =
        ["corrupt.svg", "layers.svg"].map(|name| fs::read_to_string(folder.path("result").join(name)).unwrap());
    assert!(figures.iter().all(|svg| svg.contains("run/last.safetensors, step 9.")), "{}", figures[0]);
    for part in ["chance, 10 %", "uncorrupted, ", "band from the"] {
        assert!(figures[0].contains(part), "{part}: {}", figures[0]);
    }
    let drawn = samcore(&folder.0, "plot result --out again").well().stdout;
    assert_eq!(drawn, "again/corrupt.svg\nagain/layers.svg\n");
    let again = ["corrupt.svg", "layers.svg"].map(|name| fs::read_to_string(folder.path("again").join(name)).unwrap());
    assert!(again == figures);

    samcore(&folder.0, "study corrupt run/last.safetensors --layers conv9 --out none")
        .refused(2, "--layers conv9: the model has no layer of that name; did you mean 'conv");
    samcore(&folder.0, "study sharpness run/last.safetensors --m 97 --images 0 --out none")
        .refused(2, "--m 97 is more than the 96 images that are measured");
    samcore(&folder.0, "study corrupt run/last.safetensors --out result")
        .refused(73, "--out: result is not empty; give another folder");
    assert!(!folder.path("none").exists());
}

#[test]
fn sharpness_is_the_slope_for_small_radii_and_more_steps_never_find_less() {
    let folder = trained("study-sharpness");
    let study = |flags: &str| {
        let line = format!("study sharpness run/last.safetensors --images 0 {flags} --json");
        samcore(&folder.0, &line).well().json()
    };
    let result = study("--m 8,96 --rho 0,0.001,0.1 --adaptive-rho 0,0.1 --out result");
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * (3 + 2));
    for row in rows {
        assert_eq!(number(row, "groups"), 96.0 / number(row, "m"));
        if number(row, "rho") == 0.0 {
            assert_eq!(number(row, "sharpness"), 0.0, "{row}");
        }
    }
    let small = rows.iter().find(|r| r["kind"] == "plain" && number(r, "m") == 96.0 && number(r, "rho") == 0.001);
    let (found, expected) = (number(small.unwrap(), "sharpness"), 0.001 * number(&result, "gradient_norm"));
    assert!((found - expected).abs() < 0.05 * expected, "{found}, not {expected}");
    assert_eq!(names_in(&folder.path("result")), ["sharpness.csv", "sharpness.json", "sharpness.svg"]);
    let figure = fs::read_to_string(folder.path("result/sharpness.svg")).unwrap();
    assert!(figure.contains("run/last.safetensors, step 9.") && figure.contains("one standard error"), "{figure}");
    samcore(&folder.0, "plot result --out again").well();
    assert_eq!(fs::read_to_string(folder.path("again/sharpness.svg")).unwrap(), figure);
    samcore(&folder.0, "plot data").refused(66, "data is the folder of no run, comparison or study");
    let csv = fs::read_to_string(folder.path("result/sharpness.csv")).unwrap();
    assert_eq!(csv.lines().next(), Some("kind,m,groups,rho,sharpness,standard_error,loss,zero_gradients"));
    assert_eq!(csv.lines().count(), 1 + rows.len());

    // A folder with all its files is refused; one that a study could not finish is finished.
    let same =
        "study sharpness run/last.safetensors --images 0 --m 8,96 --rho 0,0.001,0.1 --adaptive-rho 0,0.1 --out result";
    samcore(&folder.0, same).refused(73, "--out: result is not empty; give another folder");
    fs::remove_file(folder.path("result/sharpness.json")).unwrap();
    fs::write(folder.path("result/sharpness.svg"), "").unwrap();
    samcore(&folder.0, same).well();
    assert_eq!(fs::read_to_string(folder.path("result/sharpness.svg")).unwrap(), figure);
    fs::remove_file(folder.path("result/sharpness.json")).unwrap();
    fs::write(folder.path("result/notes.txt"), "mine").unwrap();
    samcore(&folder.0, same).refused(73, "--out: result is not empty; give another folder");

    let more = study("--m 8,96 --rho 0,0.001,0.1 --adaptive-rho 0,0.1 --steps 3");
    for (one, three) in rows.iter().zip(more["rows"].as_array().unwrap()) {
        assert!(number(three, "sharpness") >= number(one, "sharpness"), "{one} {three}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let folder = trained("study-threads");
    let hessian = "--k 2 --lanczos-steps 3 --trace-samples 1 --depth 0";
    for (action, flags) in [
        ("corrupt", "--eps 1 --eps-inf 0.01 --n all,5 --seeds 1"),
        ("sharpness", "--m 8,64 --steps 2"),
        ("hessian", hessian),
    ] {
        let csv = |threads: usize| {
            let line = format!(
                "study {action} run/last.safetensors {flags} --batch 40 --threads {threads} --images 90 --csv {threads}.csv --quiet"
            );
            let done = samcore(&folder.0, &line).well();
            assert_eq!(done.stderr, "");
            fs::read_to_string(folder.path(&format!("{threads}.csv"))).unwrap()
        };
        assert_eq!(csv(1), csv(2), "{action}");
    }
}

#[test]
fn a_killed_study_goes_on_with_the_same_command_and_gives_the_same_result() {
    let folder = trained("study-killed");
    let flags = "study sharpness run/last.safetensors --kind plain --rho 0.05 --m 1 --images 40 --steps 40 --quiet";
    let mut running = start(&folder.0, &format!("{flags} --out killed"));
    let journal = folder.path("killed/sharpness.journal");
    let lines = || fs::read_to_string(&journal).unwrap_or_default().lines().count();
    wait_until("four lines of the journal", || lines() >= 4);
    running.kill().unwrap();
    running.wait().unwrap();
    let kept = lines();
    assert!((4..41).contains(&kept), "{kept} lines");
    let other = flags.replace("--steps 40", "--steps 41");
    samcore(&folder.0, &format!("{other} --out killed"))
        .refused(73, "steps is 40 there and 41 here; give another --out");
    assert_eq!(lines(), kept);
    let resumed = samcore(&folder.0, &format!("{flags} --out killed --json")).well().json();
    let whole = samcore(&folder.0, &format!("{flags} --json")).well().json();
    assert_eq!(resumed, whole);
    assert_eq!(names_in(&folder.path("killed")), ["sharpness.csv", "sharpness.json", "sharpness.svg"]);
}
