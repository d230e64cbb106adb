//! Promises of a run's result: evaluation agrees with the records, weights travel to PyTorch, and training learns.

mod common;

use common::{Folder, metrics, samcore, write_images};
use samcore::device::cpu::CpuDevice;
use samcore::graph::ImageSource;
use samcore::models;
use samcore::ops::call::Augment;
use samcore::safetensors::{self, Data};
use samcore::train::checkpoint::{Checkpoint, Remembered, signed};
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
    for (flags, images) in [("train", 184), ("val", 46), ("train --subset all", 230)] {
        let line = format!("eval run/last.safetensors --split {flags} --json");
        assert_eq!(samcore(&folder.0, &line).well().json()["images"], images, "{flags}");
    }
    let held_out = samcore(&folder.0, "eval run/last.safetensors --split val --json").well().json();
    assert_eq!(format!("{:.6}", held_out["loss"].as_f64().unwrap()), metrics(&run, "val_loss")[3]);
    let text = samcore(&folder.0, "eval run/last.safetensors").well();
    let accuracy = metrics(&run, "test_accuracy")[3].parse::<f64>().unwrap();
    let start = format!("cnn after step 20 on 130 test images of data: accuracy {:.2} %", 100.0 * accuracy);
    assert!(text.stdout.starts_with(&start), "{}", text.stdout);
}

/// The loss that is trained with may be another one: validation and test losses are plain cross-entropy all the same, and the
/// records name the training loss.
#[test]
fn test_losses_are_cross_entropy_whatever_a_run_trains_with() {
    let folder = Folder::with_images("plain-loss", 96, 60, 2);
    for (i, (flags, kind)) in [
        ("", ""),
        ("--label-smoothing 0.1", "smoothed"),
        ("--loss reed-soft", "reed-soft"),
        ("--loss reed-hard --beta 0.5", "reed-hard"),
        ("--mixup 1", "mixed"),
        ("--mixup 0.5 --label-smoothing 0.2 --loss reed-soft", "mixed smoothed reed-soft"),
    ]
    .into_iter()
    .enumerate()
    {
        let line = format!(
            "train --data data --model cnn --lr 0.05 --epochs 1 --batch 32 --val-fraction 0.2 {flags} --out run{i}"
        );
        let trained = samcore(&folder.0, &line).well();
        let title = if kind.is_empty() { "  train loss  ".to_owned() } else { format!("  {kind} loss  ") };
        assert!(trained.stderr.contains(&title), "{}", trained.stderr);
        let run = folder.path(&format!("run{i}"));
        let result = samcore(&folder.0, &format!("eval run{i}/last.safetensors --json")).well().json();
        let told = format!("{:.6}", result["loss"].as_f64().unwrap());
        assert_eq!(told, metrics(&run, "test_loss")[0], "{flags}");
        let header = std::fs::read_to_string(run.join("metrics.csv")).unwrap();
        assert_eq!(header.contains("train_loss_kind"), !kind.is_empty());
        if !kind.is_empty() {
            assert_eq!(metrics(&run, "train_loss_kind"), [kind]);
            let curves = std::fs::read_to_string(run.join("curves.svg")).unwrap();
            // The legend may cut a long name off; the note below the figure has all of it, in lines.
            let words: Vec<&str> = kind.split(' ').collect();
            assert!(curves.contains("train:"), "{flags}");
            assert!(words.iter().all(|word| curves.contains(word)), "{flags}");
        }
    }
}

/// A run that averages its weights is evaluated by the average, wherever that happens; the other weights are there on request.
#[test]
fn the_average_that_a_run_was_evaluated_by_is_what_is_measured() {
    let folder = Folder::with_images("average", 96, 60, 2);
    let common = "train --data data --model cnn --lr 0.05 --epochs 3 --batch 32 --quiet";
    let eval = |file: &str, flags: &str| samcore(&folder.0, &format!("eval {file}.safetensors {flags} --json"));
    let loss = |done: common::Done| format!("{:.6}", done.well().json()["loss"].as_f64().unwrap());
    for (by, flags) in [("ema", "--ema 0.7"), ("swa", "--swa 0.3"), ("swa", "--swa 0.9 --steps 8")] {
        let out = format!("{by}{}", flags.len());
        let trained = samcore(&folder.0, &format!("{common} {flags} --json --out {out}")).well().json();
        let told = format!("{:.6}", trained["test_loss"].as_f64().unwrap());
        let last = eval(&format!("{out}/last"), "").well().json();
        assert_eq!((&last["weights"], &last["averaged_by"]), (&"average".into(), &by.into()));
        assert_eq!(loss(eval(&format!("{out}/last"), "")), told, "{flags}");
        assert_eq!(loss(eval(&format!("{out}/last"), "--weights average")), told);
    }
    assert_ne!(loss(eval("ema9/last", "--weights raw")), loss(eval("ema9/last", "")));
    let text = samcore(&folder.0, "eval ema9/last.safetensors").well().stdout;
    assert!(text.contains("\nweights: the running average (ema); --weights raw takes the others\n"), "{text}");
    eval("ema9/best", "--weights raw").refused(2, "holds the running average alone; give last.safetensors");
    let study = samcore(&folder.0, "study sharpness ema9/last.safetensors --images 0 --m 96 --rho 0.01 --json").well();
    let train = eval("ema9/last", "--split train").well().json();
    let (a, b) = (study.json()["loss"].as_f64().unwrap(), train["loss"].as_f64().unwrap());
    assert!((a - b).abs() < 1e-5 * b && study.json()["source"]["weights"] == "average", "{a} {b}");
    // A run that begins with it begins with the average too.
    let begun =
        samcore(&folder.0, &format!("{common} --init ema9/last.safetensors --steps 0 --json --out begun")).well();
    assert_eq!(format!("{:.6}", begun.json()["test_loss"].as_f64().unwrap()), loss(eval("ema9/last", "")));
    let relabelled =
        samcore(&folder.0, &format!("{common} --relabel ema9/last.safetensors --steps 1 --out relabelled"));
    let says = "--relabel: predictions are those of the running average in ema9/last.safetensors\n";
    assert!(relabelled.stderr.contains(says), "{}", relabelled.stderr);
    // A run without an average says nothing of one.
    samcore(&folder.0, &format!("{common} --epochs 1 --out plain")).well();
    assert!(!samcore(&folder.0, "eval plain/last.safetensors").well().stdout.contains("weights"));
    eval("plain/last", "--weights average").refused(2, "plain/last.safetensors has no running average");
}

/// A file of weights that have diverged is sound, and evaluating it is no success.
#[test]
fn weights_that_have_diverged_are_evaluated_to_no_success() {
    let folder = Folder::with_images("eval-nan", 64, 40, 2);
    samcore(&folder.0, "train --data data --model cnn --epochs 1 --batch 32 --quiet --out run").well();
    let file = folder.path("run/best.safetensors");
    let mut contents = safetensors::read(&file).unwrap();
    let bias = contents.tensors.iter_mut().find(|t| t.name == "fc2.bias").unwrap();
    let safetensors::Data::F32(values) = &mut bias.data else { panic!("{:?}", bias.name) };
    values[0] = f32::NAN;
    safetensors::write(&file, &contents.tensors, &signed(&contents.metadata, &contents.tensors)).unwrap();
    let done = samcore(&folder.0, "eval run --json");
    assert_eq!((done.code, &done.json()["loss"]), (76, &serde_json::Value::Null), "{}", done.stderr);
    assert!(done.stderr.ends_with("the loss of run/best.safetensors is not finite: its weights have diverged\n"));
}

/// Training images are those that the run trained on, under the labels that it had for them, and the result says so.
#[test]
fn training_images_are_the_runs_own_with_its_own_labels() {
    let folder = Folder::with_images("own-images", 220, 60, 2);
    let settings = "--model cnn --lr 0.05 --epochs 2 --batch 32 --seed 7 --quiet";
    let line = format!("train --data data {settings} --train-images 100 --label-noise 0.4 --json --out run");
    let wrong = samcore(&folder.0, &line).well().json()["labels"]["wrong"].as_u64().unwrap();
    let eval = |flags: &str| samcore(&folder.0, &format!("eval run/last.safetensors {flags} --json")).well().json();
    let own = eval("--split train");
    assert_eq!(own["training_images"]["subset"], "run");
    assert_eq!((&own["images"], &own["training_images"]["labels"]), (&100.into(), &"run".into()));
    assert_eq!(own["training_images"]["wrong_labels"], wrong);
    let clean = eval("--split train --labels clean");
    assert_eq!((&clean["images"], &clean["training_images"]["labels"]), (&100.into(), &"clean".into()));
    assert!(clean["loss"] != own["loss"] && clean["training_images"]["wrong_labels"].is_null());
    let run = folder.path("run");
    let last = |column: &str| metrics(&run, column).last().unwrap().parse::<f64>().unwrap();
    // What the model predicts as it is labelled: right labels that it has learned, wrong ones that it has memorised.
    let share = wrong as f64 / 100.0;
    let expected = (1.0 - share) * last("clean_accuracy") + share * last("memorised");
    assert!((own["accuracy"].as_f64().unwrap() - expected).abs() < 1e-5);
    let expected = (1.0 - share) * last("clean_accuracy") + share * last("learned");
    assert!((clean["accuracy"].as_f64().unwrap() - expected).abs() < 1e-5);
    assert_eq!(
        eval("--split train --subset all")["training_images"]["wrong_labels"].as_u64().map(|n| n > wrong),
        Some(true)
    );

    let text = samcore(&folder.0, "eval run/last.safetensors --split train").well().stdout;
    let says = format!(
        "images: 100 of the run's own, of 220 in the data set; labels as the run trained on them, {wrong} of them wrong\n"
    );
    assert!(text.ends_with(&says), "{text}");
    let study = "study corrupt run/last.safetensors --norm 2 --eps 1 --n all --seeds 1 --depth 0 --images 0";
    let result = samcore(&folder.0, &format!("{study} --json")).well().json();
    assert_eq!(
        (&result["gradient_images"], &result["source"]["training_images"]["labels"]),
        (&100.into(), &"run".into())
    );
    let text = samcore(&folder.0, &format!("{study} --labels clean --subset all")).well().stdout;
    assert!(text.starts_with("training images: 220 of all 220 in the data set; labels clean\n"), "{text}");

    // A checkpoint knows its run wherever it lies. One of an earlier version does not, and the result says so.
    std::fs::create_dir(folder.path("alone")).unwrap();
    let file = folder.path("alone/last.safetensors");
    std::fs::copy(folder.path("run/last.safetensors"), &file).unwrap();
    let alone = samcore(&folder.0, "eval alone/last.safetensors --split train --json").well().json();
    assert_eq!((&alone["loss"], &alone["images"]), (&own["loss"], &100.into()));
    let mut contents = safetensors::read(&file).unwrap();
    assert!(contents.metadata.remove("samcore.settings").is_some());
    safetensors::write(&file, &contents.tensors, &signed(&contents.metadata, &contents.tensors)).unwrap();
    let text = samcore(&folder.0, "eval alone/last.safetensors --split train").well().stdout;
    let says = "images: 220 of all 220 in the data set; labels as in the files (it records no settings, and no config.toml of its \
                run lies beside it)\n";
    assert!(text.ends_with(says), "{text}");
    for flags in ["--split train --subset run", "--split train --labels run"] {
        samcore(&folder.0, &format!("eval alone/last.safetensors {flags}"))
            .refused(2, "run: the run of alone/last.safetensors is not known");
    }
    samcore(&folder.0, "eval run/last.safetensors --split val").refused(2, "it trained without --val-fraction");
    // The run's data are known by their content: wherever they lie, and not if they have changed.
    std::fs::rename(folder.path("data"), folder.path("moved")).unwrap();
    let train =
        |flags: &str| samcore(&folder.0, &format!("eval run/last.safetensors --data moved --split train {flags}"));
    let moved = train("--json").well().json();
    assert_eq!((&moved["loss"], &moved["images"]), (&own["loss"], &100.into()));
    let labels = folder.path("moved/train-labels-idx1-ubyte");
    let original = std::fs::read(&labels).unwrap();
    let mut changed = original.clone();
    changed[8..].iter_mut().for_each(|label| *label = 9 - *label);
    std::fs::write(&labels, changed).unwrap();
    let text = train("").well().stdout;
    let says = "labels as in the files (moved has other training labels than the run's)\n";
    assert!(text.contains("images: 100 of the run's own") && text.ends_with(says), "{text}");
    train("--labels run")
        .refused(65, "--labels run: moved has other training labels than those that the run trained on");
    std::fs::write(&labels, original).unwrap();
    let images = folder.path("moved/t10k-images-idx3-ubyte");
    let mut changed = std::fs::read(&images).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&images, &changed).unwrap();
    let text = train("").well().stdout;
    assert!(text.ends_with("labels as in the files (moved is not the data that the run trained on)\n"), "{text}");
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&images, changed).unwrap();
    std::fs::rename(folder.path("moved"), folder.path("data")).unwrap();
    // Predicted labels are those of the run too.
    let line = format!("train --data data {settings} --relabel run/last.safetensors --out second");
    samcore(&folder.0, &line).well();
    let second = samcore(&folder.0, "eval second/last.safetensors --split train --json").well().json();
    assert_ne!(
        second["loss"],
        samcore(&folder.0, "eval second/last.safetensors --split train --labels clean --json").well().json()["loss"]
    );
    std::fs::remove_file(folder.path("second/labels.idx1-ubyte")).unwrap();
    samcore(&folder.0, "eval second/last.safetensors --split train")
        .refused(66, "--labels clean takes those of the data set");
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
        ("eval .", 66, "is a folder without best.safetensors or last.safetensors"),
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
            other => panic!("{name} is of type {}", other.dtype()),
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
