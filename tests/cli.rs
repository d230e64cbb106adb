//! Promises of the command line, made by the real program: help, exit codes, and one clear line for each mistake.

mod common;

use common::{Folder, files, samcore as run, write_images};
use samcore::data;
use samcore::error::Result;
use samcore::graph::{Graph, Var};
use samcore::models::{Model, Spec};
use samcore::nn;
use samcore::recipe::Recipe;
use samcore::safetensors;
use samcore::train::{Session, Where};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Exit code, stdout and stderr.
fn samcore(arguments: &[&str]) -> (i32, String, String) {
    let done = common::Done::of(common::command(Path::new("."), arguments).output().unwrap());
    (done.code, done.stdout, done.stderr)
}

/// A file for one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &[u8]) -> Scratch {
        let path = std::env::temp_dir().join(format!("samcore-cli-{}-{name}", std::process::id()));
        fs::write(&path, content).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let (code, help, errors) = samcore(&["--help"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    for command in samcore::cli::COMMANDS {
        assert!(help.contains(&format!("  {}", command.name)) && help.contains(command.about), "{help}");
        let (code, own, errors) = samcore(&[command.name, "--help"]);
        assert_eq!((code, errors.as_str()), (0, ""));
        assert!(own.starts_with(command.about) && own.contains(&format!("Usage: samcore {}", command.name)), "{own}");
    }
    for (_, code, meaning) in samcore::error::KINDS {
        assert!(help.contains(&format!("{code:3}  {meaning}\n")), "{help}");
    }
    let (code, version, _) = samcore(&["--version"]);
    assert!(code == 0 && version.starts_with(concat!("samcore ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn each_mistake_gets_one_line_on_stderr_and_its_exit_code() {
    let file = |name: &str, content: &[u8]| Scratch::new(name, content);
    let (typo, range) = (file("typo.toml", b"lr = 0.1\nbacth = 64\n"), file("range.toml", b"momentum = 1.0\n"));
    let binary = file("binary.toml", b"lr = \xff\xfe");
    let path = |scratch: &Scratch| scratch.0.to_str().unwrap().to_string();
    let (typo_path, range_path, binary_path) = (path(&typo), path(&range), path(&binary));
    for (arguments, code, message) in [
        (vec![], 2, "a command is missing"),
        (vec!["trian"], 2, "unknown command 'trian'; did you mean 'train'?"),
        (vec!["train", "--epoch", "3"], 2, "unknown flag '--epoch'; did you mean '--epochs'?"),
        (vec!["train", "--lr", "0"], 2, "--lr must be a number above 0, not '0'"),
        (vec!["train", "--rho", "nan"], 2, "--rho must be a number of at least 0, not 'nan'"),
        (vec!["train", "--batch", "0"], 2, "--batch must be a whole number from 1"),
        (vec!["train", "--schedule", "cos"], 2, "--schedule must be one of cosine, step, constant, one-cycle"),
        (vec!["train", "--device", "cqu"], 2, "not 'cqu'; did you mean 'cpu'?"),
        (vec!["train", "--lr"], 2, "a value is required for '--lr <X>'"),
        (vec!["train", "--model", "wrn-17-4"], 2, "wrn-17-4: D must be 6n + 4, such as 16 or 22"),
        (vec!["train", "--model", "wrn-16-0"], 2, "wrn-16-0: K must be at least 1"),
        (vec!["train", "--model", "wrn-16"], 2, "wrn-16: a wide ResNet is named wrn-D-K"),
        (vec!["train", "--model", "resnet19"], 2, "unknown model 'resnet19'; did you mean 'resnet18'?"),
        (vec!["train", "--opt", "samm", "--data", "/no/such"], 2, "unknown optimizer 'samm'; did you mean 'sam'?"),
        (vec!["info", "modles"], 2, "unknown topic 'modles'; did you mean 'models'?"),
        (vec!["train", "--config", &typo_path], 65, "typo.toml line 2: unknown key 'bacth'; did you mean 'batch'?"),
        (vec!["train", "--config", &range_path], 65, "range.toml line 1: momentum must be a number from 0 to below 1"),
        (vec!["train", "--config", &binary_path], 65, "binary.toml: byte 5 is not UTF-8 text"),
        (vec!["train", "--config", "/no/such.toml"], 66, "cannot read /no/such.toml"),
        (vec!["train", "--resume", "/no/such/run"], 66, "/no/such/run is not the folder of a run"),
        (vec!["eval"], 2, "<CHECKPOINT>"),
        (
            vec!["eval", "x", "--split", "tset"],
            2,
            "--split must be one of test, train, not 'tset'; did you mean 'test'?",
        ),
        (vec!["info", "--classes", "none"], 2, "--classes must be a whole number from 1"),
        (vec!["check", "--seed", "-3"], 2, "--seed must be a whole number from 0"),
    ] {
        let (found, output, errors) = samcore(&arguments);
        assert_eq!((found, output.as_str()), (code, ""), "{arguments:?}: {errors}");
        assert!(errors.starts_with("samcore: ") && errors.contains(message), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{arguments:?}: {errors}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error_but_a_full_disk_is() {
    let help = |out: Stdio| {
        let done = Command::new(env!("CARGO_BIN_EXE_samcore")).arg("--help").stdout(out).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(help(writer.into()), (0, String::new()));
    if let Ok(full) = File::options().write(true).open("/dev/full") {
        let (code, errors) = help(full.into());
        assert!(code == 74 && errors.starts_with("samcore: cannot write to stdout: "), "{code}: {errors}");
    }
}

#[test]
fn a_run_that_cannot_begin_says_why_and_leaves_no_folder() {
    let folder = Folder::with_images("begin", 40, 20, 2);
    write_images(&folder.path("labels-missing"), 40, 20, 2);
    fs::remove_file(folder.path("labels-missing/t10k-labels-idx1-ubyte")).unwrap();
    write_images(&folder.path("cut"), 40, 20, 2);
    let images = fs::read(folder.path("cut/train-images-idx3-ubyte")).unwrap();
    fs::write(folder.path("cut/train-images-idx3-ubyte"), &images[..1000]).unwrap();
    write_images(&folder.path("tiny"), 8, 8, 10);
    for (flags, code, message) in [
        ("--data data --model cnm", 2, "unknown model 'cnm'; did you mean 'cnn'?"),
        ("--data data --model transformer", 2, "unknown model 'transformer'; known: cnn, wrn-D-K, resnet18"),
        ("--data data --model cnn --opt sag", 2, "unknown optimizer 'sag'; did you mean 'sam'?"),
        ("--data data", 2, "no model is chosen by itself for 14x14x1 images; give --model, one of: cnn"),
        (
            "--data fashion-mnsit",
            66,
            "there is no data set and no folder 'fashion-mnsit'; did you mean 'fashion-mnist'?",
        ),
        ("--data .", 66, "has no train-images-idx3-ubyte"),
        ("--data labels-missing --model cnn", 66, "labels-missing has no t10k-labels-idx1-ubyte"),
        ("--data data/train-images-idx3-ubyte", 66, "is a file; give the folder that holds it"),
        ("--data cut --model cnn", 65, "train-images-idx3-ubyte is truncated: it ends at byte 1000 of 7856"),
        ("--data tiny --model cnn --batch 4", 2, "model cnn on 3x3x1 images: pool2: max_pool"),
        ("--data data --model cnn --batch 41", 2, "--batch 41 is more than the 40 training images of data"),
        ("--data data --model cnn --batch 32 --val-fraction 0.5", 2, "--batch 32 is more than the 20 training images"),
        ("--data data --model cnn --val-fraction 0.001", 2, "a validation fraction of 0.001 leaves 0 of 40 images"),
        (
            "--data data --model cnn --batch 8 --crop 14 --crop-padding reflect",
            2,
            "--crop 14 mirrors more than the image has",
        ),
    ] {
        run(&folder.0, &format!("train {flags} --out run")).refused(code, message);
        assert!(!folder.path("run").exists(), "{flags}");
    }
    run(&folder.0, "train --data data --model cnn --batch 8 --name a/b").refused(2, "--name must consist of letters");
    run(&folder.0, "train --data data --model cnn --batch 8 --out data/train-images-idx3-ubyte")
        .refused(73, "cannot create folder");
}

#[test]
fn a_models_own_recipe_yields_to_the_config_file_and_that_to_flags() {
    let folder = Folder::with_images("recipe", 40, 20, 2);
    fs::write(folder.path("mine.toml"), "model = \"wrn-10-1\"\nlr = 0.02\nwarmup = 0.1\n").unwrap();
    let line = "train --data data --config mine.toml --warmup 0.3 --batch 8 --eval-batch 20 --steps 1 --out run";
    run(&folder.0, line).well();
    let config = fs::read_to_string(folder.path("run/config.toml")).unwrap();
    for (key, from) in [
        ("model = \"wrn-10-1\"", "the file"),
        ("warmup = 0.3", "a flag over the file"),
        ("lr = 0.02", "the file over the model"),
        ("epochs = 200", "the model over the default"),
        ("crop_padding = \"reflect\"", "the model over the default"),
        ("label_smoothing = 0.0", "the default"),
    ] {
        assert!(config.lines().any(|line| line == key), "{key} of {from}: {config}");
    }
}

/// Two layers, a model that the table does not have.
fn perceptron(g: &mut Graph, x: Var, spec: &Spec) -> Result<Var> {
    let h = nn::linear(g, x, "hidden", 16)?;
    let h = nn::relu(g, h, "relu")?;
    nn::linear(g, h, "out", spec.classes)
}

#[test]
fn checkpoints_that_are_damaged_or_of_something_else_are_refused_by_name() {
    let folder = Folder::with_images("damaged", 40, 20, 2);
    let line = "train --data data --model cnn --batch 16 --epochs 2 --lr 0.05";
    run(&folder.0, &format!("{line} --steps 3 --out run")).well();
    let last = folder.path("run/last.safetensors");
    let sound = fs::read(&last).unwrap();
    let both = |message: &str| {
        let before = files(&folder.path("run"));
        run(&folder.0, "train --resume run").refused(65, message);
        run(&folder.0, "eval run/last.safetensors").refused(65, message);
        assert!(files(&folder.path("run")) == before, "nothing has changed");
    };
    for byte in [sound.len() - 1, sound.len() / 2] {
        let mut flipped = sound.clone();
        flipped[byte] ^= 4;
        fs::write(&last, flipped).unwrap();
        both("run/last.safetensors is not a sound samcore checkpoint: its SHA-256 does not match its content");
    }
    fs::write(&last, &sound[..sound.len() - 7]).unwrap();
    both("run/last.safetensors is not a sound safetensors file");
    fs::write(&last, &sound).unwrap();
    let mut contents = safetensors::read(&last).unwrap();
    contents.metadata.insert("samcore.format_version".into(), "2".into());
    safetensors::write(&last, &contents.tensors, &contents.metadata).unwrap();
    both("it has format version 2, this samcore reads up to 1; update it");
    contents.metadata.clear();
    safetensors::write(&last, &contents.tensors, &contents.metadata).unwrap();
    both("it has no format version; files of other programs have weights alone");

    // Another model, and the same one on other images.
    let recipe = Recipe { batch: 16, epochs: 1, lr: 0.05, ..Recipe::default() };
    let model = Model::new("perceptron", "two layers", perceptron);
    let images = data::load(folder.path("data").to_str().unwrap()).unwrap();
    let place = Where { out: Some(folder.path("other")), quiet: true, ..Where::default() };
    Session::with_model(&model, images, recipe, &place).unwrap().run().unwrap();
    fs::copy(folder.path("other/last.safetensors"), &last).unwrap();
    run(&folder.0, "eval run/last.safetensors").refused(65, "run/last.safetensors: unknown model 'perceptron'");
    run(&folder.0, "train --resume run").refused(65, "run/last.safetensors is of perceptron on");
    run(&folder.0, "train --resume other").refused(2, "unknown model 'perceptron'");
    write_images(&folder.path("large"), 40, 20, 1);
    run(&folder.0, "train --data large --batch 16 --epochs 1 --out large-run").well();
    fs::copy(folder.path("large-run/last.safetensors"), &last).unwrap();
    run(&folder.0, "train --resume run").refused(65, "the run is of cnn on 14x14x1 images of 10 classes of data");

    fs::remove_file(&last).unwrap();
    run(&folder.0, "train --resume run")
        .refused(66, "run has no checkpoint to go on from; begin anew with --config run/config.toml");
    run(&folder.0, "train --resume data").refused(66, "data is not the folder of a run: it has no config.toml");

    // None of this has kept the run from going on.
    fs::write(&last, &sound).unwrap();
    run(&folder.0, "train --resume run").well();
    run(&folder.0, &format!("{line} --out unbroken")).well();
    assert!(fs::read(&last).unwrap() == fs::read(folder.path("unbroken/last.safetensors")).unwrap());
}

#[test]
fn info_tells_of_the_machine_and_of_models() {
    let folder = Folder::new("info");
    let machine = run(&folder.0, "info --json").well().json();
    for key in ["samcore", "commit", "rustc", "cpu", "instructions", "os", "date", "device"] {
        assert!(machine[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {machine}");
    }
    assert!(machine["threads"].as_u64().is_some_and(|n| n > 0));
    let text = run(&folder.0, "info").well().stdout;
    for (list, names) in
        [("models", ["cnn"].as_slice()), ("optimizers", &["sgd", "sam"]), ("data_sets", &["fashion-mnist"])]
    {
        for name in names {
            assert!(machine[list].as_array().unwrap().contains(&(*name).into()), "{list}: {machine}");
            assert!(text.contains(&format!("\n  {name} ")), "{text}");
        }
    }
    let flags = "info --model cnn --classes 100 --channels 3 --size 32";
    let model = run(&folder.0, &format!("{flags} --json")).well().json();
    // By hand: convolutions 864 + 9,216 + 18,432 + 36,864, norms 2 * 192, fc1 4,096 * 128 + 128, fc2 128 * 100 + 100.
    assert_eq!((&model["parameters"], &model["input"]), (&603_076.into(), &serde_json::json!([32, 32, 3])));
    let layers = model["layers"].as_array().unwrap();
    let sum = |key: &str| layers.iter().map(|layer| layer[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("parameters"), sum("flops")), (603_076, model["forward_flops_per_image"].as_u64().unwrap()));
    let text = run(&folder.0, flags).well().stdout;
    assert!(text.contains("input 32x32x3, 100 classes") && text.contains("603076"), "{text}");
    for layer in layers {
        assert!(text.lines().any(|line| line.starts_with(layer["name"].as_str().unwrap())), "{text}");
    }
    // Without sizes, a model is shown on the images that it is made for.
    let model = run(&folder.0, "info --model wrn-28-10 --json").well().json();
    assert_eq!((&model["parameters"], &model["input"]), (&36_479_194.into(), &serde_json::json!([32, 32, 3])));
    let listed = run(&folder.0, "info models --json").well().json();
    let listed = listed["models"].as_array().unwrap().clone();
    assert!(listed.iter().map(|m| m["name"].as_str().unwrap()).eq(samcore::models::names()));
    let wide = listed.iter().find(|m| m["name"] == "wrn-16-4").unwrap();
    assert_eq!((&wide["parameters"], &wide["recipe"]["epochs"]), (&2_748_890.into(), &200.into()));
    let text = run(&folder.0, "info models").well().stdout;
    assert!(text.contains("\nwrn-D-K          --crop 4 --crop-padding reflect --warmup 0 --epochs 200\n"), "{text}");
    run(&folder.0, "info --model cnnn").refused(2, "unknown model 'cnnn'; did you mean 'cnn'?");
    run(&folder.0, "info --model cnn --size 3").refused(2, "model cnn on 3x3x1 images");
}

#[test]
fn check_proves_what_is_named_and_knows_no_other_names() {
    let folder = Folder::new("check");
    let result = run(&folder.0, "check relu add --json --threads 1").well().json();
    assert_eq!(result["passed"], true);
    let checks = result["checks"].as_array().unwrap();
    assert_eq!(checks.iter().map(|check| check["name"].as_str().unwrap()).collect::<Vec<_>>(), ["relu", "add"]);
    for check in checks {
        let cases = check["cases"].as_array().unwrap();
        assert!(!cases.is_empty() && cases.iter().all(|case| case["passed"] == true), "{check}");
    }
    let list = run(&folder.0, "check --list").well().stdout;
    let names = samcore::ops::OPS.iter().map(|row| row.name).chain(samcore::models::MODELS.iter().map(|m| m.name));
    for (name, line) in names.zip(list.lines()) {
        assert!(line.starts_with(&format!("{name} ")) && line.len() > name.len() + 8, "{line}");
    }
    run(&folder.0, "check wrn-11-1").refused(2, "wrn-11-1: D must be 6n + 4, such as 10 or 16");
    run(&folder.0, "check rellu").refused(2, "unknown operation or model 'rellu'; did you mean 'relu'?");
    run(&folder.0, "check relu nosuch")
        .refused(2, "unknown operation or model 'nosuch'; known: conv2d, batch_norm, relu");
}
