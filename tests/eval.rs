//! Promises of a run's result: evaluation agrees with the records, weights travel to PyTorch, and training learns.

mod common;

use common::{Folder, metrics, samcore, write_images};
use samcore::device::cpu::CpuDevice;
use samcore::graph::ImageSource;
use samcore::models;
use samcore::ops::call::Augment;
use samcore::safetensors::{self, Data};
use samcore::train::checkpoint::{Checkpoint, Remembered};
use samcore::train::engine;
use std::path::Path;

#[test]
fn evaluation_agrees_with_the_records_of_the_run() {
    let folder = Folder::with_images("agrees", 230, 130, 2);
    let line = "train --data data --model cnn --opt sam --lr 0.05 --epochs 4 --batch 32 --val-fraction 0.2 --dropout 0.2 --out run";
    let trained = samcore(&folder.0, &format!("{line} --json")).well();
    assert!(trained.stderr.contains("184 training, 46 validation, 130 test images"), "{}", trained.stderr);
    assert!(trained.stderr.contains("each epoch leaves out 24 images"), "{}", trained.stderr);
    let run = folder.path("run");
    let best = trained.json()["best_epoch"].as_u64().unwrap() as usize;
    let by_validation = metrics(&run, "val_accuracy").into_iter().enumerate().rev();
    assert_eq!(by_validation.max_by(|a, b| a.1.cmp(&b.1)).map(|(i, _)| i + 1), Some(best), "the first best epoch");
    for (file, epoch) in [("best", best), ("last", 4)] {
        let done = samcore(&folder.0, &format!("eval run/{file}.safetensors --json")).well();
        assert_eq!(done.stderr, "");
        let result = done.json();
        assert_eq!((&result["images"], &result["step"]), (&130.into(), &(5 * epoch).into()));
        for (column, key) in [("test_accuracy", "accuracy"), ("test_loss", "loss")] {
            let told = format!("{:.6}", result[key].as_f64().unwrap());
            assert_eq!(told, metrics(&run, column)[epoch - 1], "{column} of {file}");
        }
    }
    let train = samcore(&folder.0, "eval run/last.safetensors --split train --json").well().json();
    assert_eq!((&train["images"], &train["split"]), (&230.into(), &"train".into()));
    let text = samcore(&folder.0, "eval run/last.safetensors").well();
    let accuracy = metrics(&run, "test_accuracy")[3].parse::<f64>().unwrap();
    let start = format!("cnn after step 20 on 130 test images of data: accuracy {:.2} %", 100.0 * accuracy);
    assert!(text.stdout.starts_with(&start), "{}", text.stdout);
}

#[test]
fn every_image_counts_once_whatever_the_batch() {
    let folder = Folder::with_images("batches", 160, 131, 2);
    samcore(&folder.0, "train --data data --model cnn --lr 0.05 --epochs 2 --batch 32 --out run").well();
    let eval = |batch: usize, threads: usize| {
        let line = format!("eval run/last.safetensors --batch {batch} --threads {threads} --json");
        let result = samcore(&folder.0, &line).well().json();
        (result["accuracy"].as_f64().unwrap(), result["loss"].as_f64().unwrap())
    };
    let (accuracy, loss) = eval(1, 1);
    assert!((accuracy * 131.0 - (accuracy * 131.0).round()).abs() < 1e-9, "a whole number of 131 images");
    for (batch, threads) in [(2, 2), (50, 1), (130, 2), (131, 1), (512, 2)] {
        let (other_accuracy, other_loss) = eval(batch, threads);
        assert_eq!(other_accuracy, accuracy, "batch {batch}");
        assert!((other_loss - loss).abs() < 1e-6 * loss, "batch {batch}: {other_loss}, not {loss}");
    }
    assert_eq!(eval(50, 1), eval(50, 2));
}

#[test]
fn images_that_do_not_fit_the_checkpoint_are_refused() {
    let folder = Folder::with_images("fit", 64, 40, 2);
    write_images(&folder.path("large"), 64, 40, 1);
    // The first four images of Fashion-MNIST have the labels 9, 0, 0 and 3.
    write_images(&folder.path("four"), 4, 1, 2);
    samcore(&folder.0, "train --data four --model cnn --epochs 1 --batch 2 --out four-run").well();
    samcore(&folder.0, "train --data data --model cnn --epochs 1 --batch 16 --out run").well();
    for (line, code, message) in [
        ("eval run/last.safetensors --data large", 65, "is for 14x14x1 images of 10 classes, large has 28x28x1 of 10"),
        ("eval run/last.safetensors --data lagre", 66, "there is no data set and no folder 'lagre'"),
        ("eval run/nosuch.safetensors", 66, "cannot read run/nosuch.safetensors"),
        ("eval run", 66, "cannot read run: it is not a file"),
        ("eval run/config.toml", 65, "run/config.toml is not a sound safetensors file"),
    ] {
        samcore(&folder.0, line).refused(code, message);
    }
    samcore(&folder.0, "eval run/best.safetensors --data four").well();
    std::fs::rename(folder.path("data"), folder.path("elsewhere")).unwrap();
    samcore(&folder.0, "eval run/last.safetensors").refused(66, "unless --data gives others: there is no data set");
    samcore(&folder.0, "eval run/last.safetensors --data elsewhere").well();
}

/// The state dict of the same model in PyTorch, but for `num_batches_tracked`.
const PYTORCH: [(&str, &[usize]); 24] = [
    ("conv1.weight", &[32, 1, 3, 3]),
    ("bn1.weight", &[32]),
    ("bn1.bias", &[32]),
    ("bn1.running_mean", &[32]),
    ("bn1.running_var", &[32]),
    ("conv2.weight", &[32, 32, 3, 3]),
    ("bn2.weight", &[32]),
    ("bn2.bias", &[32]),
    ("bn2.running_mean", &[32]),
    ("bn2.running_var", &[32]),
    ("conv3.weight", &[64, 32, 3, 3]),
    ("bn3.weight", &[64]),
    ("bn3.bias", &[64]),
    ("bn3.running_mean", &[64]),
    ("bn3.running_var", &[64]),
    ("conv4.weight", &[64, 64, 3, 3]),
    ("bn4.weight", &[64]),
    ("bn4.bias", &[64]),
    ("bn4.running_mean", &[64]),
    ("bn4.running_var", &[64]),
    ("fc1.weight", &[128, 3136]),
    ("fc1.bias", &[128]),
    ("fc2.weight", &[10, 128]),
    ("fc2.bias", &[10]),
];

#[test]
fn the_best_weights_are_a_pytorch_state_dict_of_what_the_device_computes_with() {
    let folder = Folder::with_images("names", 64, 30, 1);
    samcore(&folder.0, "train --data data --epochs 1 --batch 32 --out run").well();
    let file = folder.path("run/best.safetensors");
    let contents = safetensors::read(&file).unwrap();
    assert_eq!(contents.tensors.len(), PYTORCH.len() + 4);
    let floats = |name: &str| match contents.get(name) {
        Some(tensor) => match &tensor.data {
            Data::F32(values) => (tensor.shape.as_slice(), values.as_slice()),
            Data::I64(_) => panic!("{name} holds whole numbers"),
        },
        None => panic!("{name} is missing"),
    };
    for (name, shape) in PYTORCH {
        assert_eq!(floats(name).0, shape, "{name}");
    }
    for i in 1..=4 {
        let batches = contents.get(&format!("bn{i}.num_batches_tracked")).unwrap();
        assert_eq!((&batches.shape, &batches.data), (&vec![], &Data::I64(vec![2])));
    }
    assert_eq!(contents.metadata.get("format").map(String::as_str), Some("pt"));

    // The weights as they lie on the device, to compare element by element.
    let opened = Checkpoint::open(&file).unwrap();
    let source = ImageSource {
        h: 28,
        w: 28,
        c: 1,
        classes: 10,
        mean: opened.subject.mean,
        std: opened.subject.std,
        augment: Augment::default(),
    };
    let graph = models::classifier(&models::find("cnn").unwrap(), &source, &models::Setup::default()).unwrap();
    let vectors = opened.vectors(&graph, Remembered::default(), &file).unwrap();
    let (mut exec, _) =
        engine::evaluation_only(&graph, Box::new(CpuDevice::new(1).unwrap()), ("--batch", 1), &vectors).unwrap();
    let weights = engine::take(&mut exec, Remembered::default()).unwrap().weights;
    let on_device = |name: &str, index: usize| {
        let param = graph.params().list().iter().find(|p| p.name == name).unwrap();
        weights[param.offset + index]
    };
    let ((_, conv), (_, fc)) = (floats("conv3.weight"), floats("fc1.weight"));
    // [co, ci, kh, kw] there is [co, kh, kw, ci] here.
    for (co, ci, kh, kw) in [(0, 0, 0, 0), (63, 31, 2, 2), (5, 17, 0, 2), (40, 3, 2, 1)] {
        let (there, here) = (((co * 32 + ci) * 3 + kh) * 3 + kw, ((co * 3 + kh) * 3 + kw) * 32 + ci);
        assert_eq!(conv[there], on_device("conv3.weight", here), "{co} {ci} {kh} {kw}");
    }
    // PyTorch flattens [c, h, w], we [h, w, c]: 64 channels of 7x7.
    for (row, c, h, w) in [(0, 0, 0, 0), (127, 63, 6, 6), (9, 50, 1, 5), (100, 2, 4, 0)] {
        let (there, here) = (row * 3136 + (c * 7 + h) * 7 + w, row * 3136 + (h * 7 + w) * 64 + c);
        assert_eq!(fc[there], on_device("fc1.weight", here), "{row} {c} {h} {w}");
    }
}

/// A fifth of an epoch of Fashion-MNIST, with a rate that comes down in time. SAM's rho is small, for so few steps are too
/// few to pay for a wider neighbourhood.
#[test]
fn two_hundred_steps_on_fashion_mnist_pass_85_percent() {
    let folder = Folder::new("fashion");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fashion-mnist");
    let schedule = "--lr 0.02 --schedule step --warmup 0 --milestones 0.13,0.18 --lr-decay 0.2";
    for optimizer in ["sgd", "sam"] {
        let line = format!(
            "train --data {} --opt {optimizer} --rho 0.01 --batch 64 --flip false --epochs 1 --steps 200 {schedule} --json --out {optimizer}",
            data.display()
        );
        let result = samcore(&folder.0, &line).well().json();
        let accuracy = result["test_accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.85 && accuracy < 0.95, "{optimizer}: {accuracy}");
        assert_eq!((&result["steps"], &result["complete"]), (&200.into(), &false.into()));
    }
}
