//! Promises of finetuning: files by PyTorch give PyTorch's outputs, what does not fit is told, layers that are frozen
//! hold still, and rates by group are what they say.

mod common;
#[path = "golden/fixture.rs"]
#[allow(dead_code)]
mod fixture;
#[path = "optimizers/oracle.rs"]
#[allow(dead_code)]
mod oracle;

use common::{Done, Folder, command, files, samcore};
use fixture::{Fixture, error, widen};
use oracle::*;
use samcore::device::DatasetBytes;
use samcore::device::cpu::CpuDevice;
use samcore::graph::{Graph, ImageSource};
use samcore::interp::{self, Inputs};
use samcore::models::resnet::{RESNET18, ResNet, Stem};
use samcore::models::{self, Model, Setup};
use samcore::ops::call::{Augment, Counters, Ingest};
use samcore::ops::ingest_spec;
use samcore::optim::{self, Options};
use samcore::safetensors::{self, Data, Tensor};
use samcore::step::Division;
use samcore::train::checkpoint::{Checkpoint, Remembered, Vectors};
use samcore::train::engine::{self, TEST};
use samcore::train::init::{self, Init};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const AVERAGED: Remembered = Remembered { optimizer: &[], average: true };

/// The ResNet of the committed files: torchvision's names, 8 channels, two stages of one block.
fn narrow(stem: Stem) -> Model {
    let narrow = ResNet { stem, channels: 8, blocks: &[1, 1], ..RESNET18 };
    Model::new("narrow", "", move |g, x, spec| narrow.record(g, x, spec))
}

fn graph(model: &Model, side: usize, c: usize, classes: usize) -> Graph {
    let (mean, std, augment) = ([0.5; 4], [0.25; 4], Augment::default());
    let source = ImageSource { h: side, w: side, c, classes, mean, std, augment };
    models::classifier(model, &source, &Setup::default()).unwrap()
}

fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn begin(graph: &Graph, file: &Path) -> (Vectors, Init) {
    let mut vectors = engine::initial(graph, 3, AVERAGED);
    let init = init::load(file, graph, &mut vectors).unwrap();
    (vectors, init)
}

/// The bytes of images, and their labels.
struct Images {
    bytes: Vec<u8>,
    labels: Vec<u8>,
}

impl Images {
    fn of(golden: &Fixture) -> Images {
        let bytes = |name: &str| golden.get(name).values.iter().map(|v| *v as u8).collect();
        Images { bytes: bytes("images"), labels: bytes("labels") }
    }

    /// The model's outputs in evaluation, by the specs.
    fn logits(&self, graph: &Graph, vectors: &Vectors) -> Vec<f64> {
        let ImageSource { h, w, c, classes, mean, std, augment } = graph.source().unwrap().clone();
        let rows = self.labels.len();
        let counters = Counters { rows: rows as u32, ..Counters::default() };
        let spec = Ingest { n: rows, h, w, c, classes, offset: 0, mean, std, augment };
        let order: Vec<u32> = (0..rows as u32).collect();
        let params = graph.params().list().iter();
        let statistics = graph.statistics().iter();
        let inputs = Inputs {
            rows,
            params: params.map(|p| widen(&vectors.weights[p.offset..][..p.len()])).collect(),
            batch: Some(ingest_spec(&spec, &self.bytes, &self.labels, &order, &counters)),
            running: Some(statistics.map(|s| widen(&vectors.running[s.offset..][..3 * s.channels])).collect()),
            counters,
            ..Inputs::default()
        };
        let values = interp::forward(graph, &inputs);
        values.of(graph.node(graph.loss().unwrap()).inputs[0]).to_vec()
    }

    /// The mean loss in evaluation, by the CPU.
    fn loss(&self, graph: &Graph, vectors: &Vectors) -> f64 {
        let vectors = Vectors { average: None, ..vectors.clone() };
        let (rows, device) = (self.labels.len(), CpuDevice::new(2).unwrap());
        let (mut exec, evaluator) =
            engine::evaluation_only(graph, Box::new(device), ("--batch", rows), &vectors).unwrap();
        let image_len = self.bytes.len() / rows;
        exec.set_dataset(TEST, &DatasetBytes { images: &self.bytes, labels: &self.labels, image_len }).unwrap();
        exec.set_order(TEST, &(0..rows as u32).collect::<Vec<_>>()).unwrap();
        evaluator.run(&mut exec, TEST, rows).unwrap().loss
    }

    /// The mean cross-entropy of `logits`.
    fn loss_of(&self, logits: &[f64]) -> f64 {
        let rows = logits.chunks(logits.len() / self.labels.len()).zip(&self.labels);
        let losses = rows.map(|(row, label)| {
            let top = row.iter().copied().fold(f64::MIN, f64::max);
            top + row.iter().map(|v| (v - top).exp()).sum::<f64>().ln() - row[usize::from(*label)]
        });
        losses.sum::<f64>() / self.labels.len() as f64
    }
}

/// Checks that `file` fits `graph` wholly, and gives the outputs of PyTorch that `golden` has as `name`.
fn assert_outputs(graph: &Graph, file: &Path, golden: &Fixture, name: &str) {
    let (vectors, init) = begin(graph, file);
    assert_eq!((init.parameters[0], init.norms[0]), (init.parameters[1], init.norms[1]), "{init:?}");
    assert_eq!((&init.missing, &init.unused, &init.reshaped), (&vec![], &vec![], &vec![]), "{init:?}");
    assert!(graph.statistics().iter().all(|s| vectors.running[s.offset] == 7.0));
    assert_eq!(vectors.average, Some((vectors.weights.clone(), vectors.running.clone())), "averages begin there too");
    let (images, expected) = (Images::of(golden), &golden.get(name).values);
    let off = error(&images.logits(graph, &vectors), expected);
    // PyTorch's images were rounded to float32.
    assert!(off < 1e-7, "{name}: logits differ by {off:.1e}");
    let (loss, expected) = (images.loss(graph, &vectors), images.loss_of(expected));
    println!("{}: logits differ by {off:.1e}; loss {loss}, PyTorch's {expected}", file.display());
    assert!((loss - expected).abs() < 1e-5 * expected, "{name}: loss {loss}, PyTorch's {expected}");
}

#[test]
fn files_by_pytorch_give_pytorchs_outputs_whatever_their_types_and_wrapper() {
    let (golden, graph) = (Fixture::open("init"), graph(&narrow(Stem::Large), 32, 3, 10));
    for name in ["float32", "mixed"] {
        assert_outputs(&graph, &committed(&format!("init_{name}.safetensors")), &golden, name);
    }
}

/// On the files that `tests/golden/init.py FOLDER resnet18 resnet34 wide_resnet50_2` has made with torchvision.
#[test]
#[ignore = "needs SAMCORE_TORCHVISION, a folder with files of torchvision's models: 410 MB"]
fn torchvisions_own_models_give_torchvisions_outputs() {
    let folder = PathBuf::from(std::env::var("SAMCORE_TORCHVISION").unwrap());
    for (file, model) in
        [("resnet18", "resnet18-imagenet"), ("resnet34", "resnet34-imagenet"), ("wide_resnet50_2", "wide_resnet50_2")]
    {
        let golden = Fixture::open(folder.join(format!("{file}_golden")).to_str().unwrap());
        let graph = graph(&models::find(model).unwrap(), 64, 3, 1000);
        assert_outputs(&graph, &folder.join(format!("{file}.safetensors")), &golden, "float32");
    }
}

#[test]
fn a_stem_for_colours_answers_a_grey_image_as_one_of_equal_colours() {
    let (file, golden) = (committed("init_float32.safetensors"), Fixture::open("init"));
    let [colour, grey] = [3, 1].map(|c| graph(&narrow(Stem::Large), 32, c, 10));
    let (vectors, _) = begin(&colour, &file);
    let (of_grey, init) = begin(&grey, &file);
    assert_eq!((init.summed.as_deref(), init.parameters[0]), (Some("conv1.weight"), init.parameters[1]));
    let Images { bytes, labels } = Images::of(&golden);
    let planes: Vec<&[u8]> = bytes.chunks(32 * 32).step_by(3).collect();
    let thrice = planes.iter().flat_map(|p| [*p; 3].concat()).collect();
    let expected = Images { bytes: thrice, labels: labels.clone() }.logits(&colour, &vectors);
    let got = Images { bytes: planes.concat(), labels }.logits(&grey, &of_grey);
    assert!(error(&got, &expected) < 1e-6);
}

#[test]
fn another_class_count_begins_the_head_anew_and_takes_the_rest() {
    let (file, graph) = (committed("init_float32.safetensors"), graph(&narrow(Stem::Large), 32, 3, 7));
    let (vectors, init) = begin(&graph, &file);
    assert_eq!(init.head, Some(("fc".into(), 10, 7)));
    assert_eq!(init.parameters[0] + 2, init.parameters[1]);
    let initial = engine::initial(&graph, 3, AVERAGED);
    for p in graph.params().list() {
        let part = |v: &Vectors| v.weights[p.offset..][..p.len()].to_vec();
        assert_eq!(part(&vectors) == part(&initial), p.name.starts_with("fc."), "{}", p.name);
    }
    let lines = init.lines();
    let first = "begins with 18 of 20 parameters and the statistics of 6 of 6 batch-norms of ";
    assert!(lines[0].starts_with(first), "{lines:?}");
    assert_eq!(lines[1..], ["  fc starts from initial values: 10 classes in the file, 7 here"]);
}

#[test]
fn what_does_not_fit_is_listed_by_name_and_stays_as_it_was() {
    let folder = Folder::new("finetune-lists");
    let mut tensors = safetensors::read(&committed("init_float32.safetensors")).unwrap().tensors;
    tensors.retain(|t| !["bn1.bias", "layer1.0.bn1.running_var"].contains(&&t.name[..]));
    tensors.push(Tensor { name: "layer3.0.conv1.weight".into(), shape: vec![1], data: Data::F32(vec![1.0]) });
    let file = folder.path("other.safetensors");
    safetensors::write(&file, &tensors, &Default::default()).unwrap();
    let graph = graph(&narrow(Stem::Small), 32, 3, 10);
    let (vectors, init) = begin(&graph, &file);
    assert_eq!(init.missing, ["bn1.bias", "layer1.0.bn1.running_var"]);
    assert_eq!(init.unused, ["layer3.0.conv1.weight"]);
    assert_eq!(init.reshaped, [("conv1.weight".into(), vec![8, 3, 7, 7], vec![8, 3, 3, 3])]);
    assert_eq!((init.parameters, init.norms, init.loaded.len()), ([18, 20], [5, 6], 28));
    // Half of a batch-norm's statistics is worse than none.
    let norm = graph.statistics().iter().find(|s| s.name == "layer1.0.bn1").unwrap();
    let (c, running) = (norm.channels, &vectors.running[norm.offset..]);
    assert!(running[..2 * c].iter().all(|v| *v == 0.0) && running[2 * c..3 * c].iter().all(|v| *v == 1.0));
    let lines = init.lines();
    assert_eq!(
        lines[1..],
        [
            "  of another shape in the file: conv1.weight [8, 3, 7, 7], here [8, 3, 3, 3]",
            "  not in the file: bn1.bias, layer1.0.bn1.running_var",
            "  not in the model: layer3.0.conv1.weight",
        ]
    );
}

/// The bytes of a file in which tensors of all types stand beside those given.
fn with_other_types(tensors: &[Tensor]) -> Vec<u8> {
    let plain = safetensors::to_bytes(tensors, &Default::default()).unwrap();
    let (len, rest) = plain.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(len.try_into().unwrap()) as usize);
    let mut header = std::str::from_utf8(header).unwrap().trim_end().trim_end_matches('}').to_owned() + "}";
    let mut data = data.to_vec();
    for (name, dtype, shape, bytes) in
        [("step", "I32", "[]", 4), ("mask", "BOOL", "[3]", 3), ("fft", "C64", "[2]", 16), ("w8", "F8_E4M3", "[5]", 5)]
    {
        let (start, end) = (data.len(), data.len() + bytes);
        header += &format!(r#","{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#);
        data.resize(end, 1);
    }
    header += "}";
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[test]
fn names_with_any_text_in_front_and_unused_tensors_of_any_type_are_no_obstacle() {
    let folder = Folder::new("finetune-foreign");
    let graph = graph(&narrow(Stem::Large), 32, 3, 10);
    let sound = || safetensors::read(&committed("init_float32.safetensors")).unwrap().tensors;
    let (expected, _) = begin(&graph, &committed("init_float32.safetensors"));
    let file = folder.path("foreign.safetensors");
    let renamed = |to: &str| -> Vec<Tensor> {
        sound().into_iter().map(|t| Tensor { name: format!("{to}{}", t.name), ..t }).collect()
    };
    for (to, prefix) in [
        ("", ""),
        ("module.", ""),
        ("_orig_mod.module.model.", ""),
        ("backbone.", "backbone."),
        ("ema_model.module.", "ema_model.module."),
        ("Model.net.", "Model.net."),
    ] {
        fs::write(&file, with_other_types(&renamed(to))).unwrap();
        let (vectors, init) = begin(&graph, &file);
        assert_eq!((vectors.weights == expected.weights, vectors.running == expected.running), (true, true), "{to}");
        assert_eq!((&init.prefix[..], init.unused.join(" ")), (prefix, "fft mask step w8".to_string()), "{to}");
        let line = format!("  names in the file begin with {prefix}");
        assert_eq!(init.lines().contains(&line), !prefix.is_empty(), "{to}: {:?}", init.lines());
    }
    // A wrapper's model before any other, and a second name for the same values.
    for other in ["ema_model.", "module."] {
        let tensors = [renamed("model."), renamed(other)].concat();
        safetensors::write(&file, &tensors, &Default::default()).unwrap();
        let (vectors, init) = begin(&graph, &file);
        assert!(vectors.weights == expected.weights && init.unused.len() >= sound().len() - 6, "{other}");
    }
    // Counts of batches in the types and shapes that programs write.
    for (shape, data) in [(vec![1], Data::I64(vec![40])), (vec![], Data::F32(vec![40.0]))] {
        let mut tensors = sound();
        for t in tensors.iter_mut().filter(|t| t.name.ends_with("num_batches_tracked")) {
            (t.shape, t.data) = (shape.clone(), data.clone());
        }
        safetensors::write(&file, &tensors, &Default::default()).unwrap();
        let (vectors, init) = begin(&graph, &file);
        let norm = &graph.statistics()[0];
        assert_eq!((vectors.running[norm.offset], init.unused.len()), (40.0, 0));
    }
}

#[test]
fn files_that_cannot_be_begun_with_are_refused_with_the_tensor() {
    let folder = Folder::new("finetune-refused");
    let graph = graph(&narrow(Stem::Large), 32, 3, 10);
    let sound = || safetensors::read(&committed("init_float32.safetensors")).unwrap().tensors;
    let floats = |t: &mut Tensor, value: f32| match &mut t.data {
        Data::F32(values) => values[0] = value,
        other => panic!("{} is of type {}", t.name, other.dtype()),
    };
    let with = |name: &str, change: &dyn Fn(&mut Tensor)| {
        let mut tensors = sound();
        change(tensors.iter_mut().find(|t| t.name == name).unwrap());
        tensors
    };
    let renamed = |to: &str| -> Vec<Tensor> {
        sound().into_iter().map(|t| Tensor { name: format!("{to}{}", t.name), ..t }).collect()
    };
    let mut twice = sound();
    let bias = twice.iter().find(|t| t.name == "fc.bias").unwrap().clone();
    twice.push(Tensor { name: "module.fc.bias".into(), data: Data::F32(vec![0.5; bias.data.len()]), ..bias });
    let whole = |t: &mut Tensor| t.data = Data::I64(vec![0; t.data.len()]);
    for (tensors, message) in [
        (with("bn1.bias", &|t| floats(t, f32::NAN)), "tensor 'bn1.bias' holds a value that is not finite"),
        (with("fc.weight", &|t| floats(t, f32::INFINITY)), "tensor 'fc.weight' holds a value that is not finite"),
        (with("bn1.running_var", &|t| floats(t, -1.0)), "tensor 'bn1.running_var' holds a variance below 0"),
        (with("fc.bias", &whole), "tensor 'fc.bias' is of type I64; weights are read from F32, F64, F16 and BF16"),
        (twice, "'fc.bias' and 'module.fc.bias' are the same tensor"),
        (
            renamed("encoder_"),
            "it has no parameter of the model; its names begin with encoder_bn1, encoder_layer1, encoder_layer2 and 5 more, the \
             model's with conv1, bn1, layer1 and 2 more",
        ),
        (
            [renamed("student."), renamed("teacher.")].concat(),
            "it holds several models, whose names begin with 'student.', 'teacher.'; keep the tensors of one of them",
        ),
        (vec![], "it holds no tensors"),
    ] {
        let file = folder.path("wrong.safetensors");
        safetensors::write(&file, &tensors, &Default::default()).unwrap();
        let refused = init::load(&file, &graph, &mut engine::initial(&graph, 0, AVERAGED)).unwrap_err();
        assert_eq!(refused.exit_code(), 65);
        assert!(refused.to_string().contains(message), "{refused}");
        assert!(refused.to_string().starts_with(&format!("--init {}", file.display())), "{refused}");
    }
}

const GROUPS: [(&str, f32); 4] = [("lr", 0.5), ("rho", 0.3), ("momentum", 0.9), ("weight_decay", 0.01)];

#[test]
fn rates_by_group_are_their_transcription() {
    let g = network();
    let rates = [("group1_lr", 0.05), ("group2_lr", 0.2)];
    let slots = [&GROUPS[..], &rates].concat();
    let group = |name: &str| ["bn.weight", "fc.weight"].iter().position(|n| *n == name).map_or(0, |i| i + 1);
    let sam = (optim::find("sam").unwrap().build)(&Options::default());
    let (device, _) = recorded(&g, &slots, &data(), |recorder| {
        recorder.rates(|p| group(&p.name)).unwrap();
        recorder.program("step", Division::whole(ROWS), |step| sam.record(0, step)).unwrap()
    });
    let oracle = Oracle { g: &g, data: data() };
    let mut hand = start(&g);
    for t in 0..STEPS {
        let first = oracle.at(&hand.w, None, t);
        let perturbed = moved(&hand.w, get(&GROUPS, "rho") / norm(&first.gradient), &first.gradient);
        let second = oracle.at(&perturbed, None, t);
        // What the gradient is scaled by for descent does not depend on the rate: only the last factor does.
        let before = hand.w.clone();
        descend(&mut hand, &second.gradient, &GROUPS, true);
        fold(&mut hand, &first.statistics);
        for p in g.params().list() {
            let of = group(&p.name);
            let share = if of == 0 { 1.0 } else { f64::from(rates[of - 1].1) / get(&GROUPS, "lr") };
            for (w, before) in hand.w.iter_mut().zip(&before).skip(p.offset).take(p.len()) {
                *w = before + share * (*w - before);
            }
        }
    }
    assert_same("rates by group", &g, &device, &hand);
}

const COMMON: &str = "train --data data --model cnn --batch 32 --eval-batch 64 --seed 7 --lr 0.05";
const TUNED: &str = "--init first/best.safetensors --freeze conv1,bn1,conv2,bn2 --epochs 2 \
                     --group-lr conv3=0.02,bn3=0.03,conv4=0.01,bn4=0.04,fc1.weight=0.06,fc1.bias=0.07,fc2=0.1";

/// A run in `first`, on 220 images of 14x14 pixels.
fn first_run(name: &str) -> Folder {
    let folder = Folder::with_images(name, 220, 90, 2);
    samcore(&folder.0, &format!("{COMMON} --epochs 1 --out first")).well();
    folder
}

fn tensors(file: &Path) -> Vec<Tensor> {
    safetensors::read(file).unwrap().tensors
}

/// `conv` freezes every layer whose name begins so, as the list of all of them does.
#[test]
fn the_beginning_of_names_freezes_all_layers_that_have_it() {
    let folder = first_run("finetune-prefix");
    let line = format!("{COMMON} --init first/best.safetensors --epochs 1");
    samcore(&folder.0, &format!("{line} --freeze conv --out short")).well();
    samcore(&folder.0, &format!("{line} --freeze conv1,conv2,conv3,conv4 --out whole")).well();
    let weights = |run: &str| tensors(&folder.path(run).join("best.safetensors"));
    assert!(weights("short") == weights("whole"));
    let first = weights("first");
    for tensor in weights("short").iter().filter(|t| t.name.ends_with("weight")) {
        let same = first.iter().any(|t| t.name == tensor.name && t.data == tensor.data);
        assert_eq!(same, tensor.name.starts_with("conv"), "{}", tensor.name);
    }
    samcore(&folder.0, &format!("{line} --freeze cinv --out none")).refused(2, "cinv");
}

#[test]
fn frozen_layers_keep_the_files_weights_and_statistics_and_the_others_learn() {
    let folder = first_run("finetune-frozen");
    for opt in ["sgd", "sam"] {
        let run = folder.path(opt);
        samcore(&folder.0, &format!("{COMMON} {TUNED} --opt {opt} --out {}", run.display())).well();
        let before = tensors(&folder.path("first/best.safetensors"));
        let after = tensors(&run.join("last.safetensors"));
        for t in &before {
            let layer = t.name.split('.').next().unwrap();
            let still = ["conv1", "bn1", "conv2", "bn2"].contains(&layer);
            let now = after.iter().find(|a| a.name == t.name).unwrap();
            assert_eq!(now == t, still, "{opt}: {}", t.name);
        }
    }
}

#[test]
fn a_run_begins_where_the_file_ends_and_says_what_it_took() {
    let folder = first_run("finetune-told");
    let line = format!("{COMMON} --init first/last.safetensors --ema 0.9 --steps 0 --json --out again");
    let done = samcore(&folder.0, &line).well();
    let first = common::metrics(&folder.path("first"), "test_loss");
    assert_eq!(format!("{:.6}", done.json()["test_loss"].as_f64().unwrap()), first[0]);
    let told = "begins with 16 of 16 parameters and the statistics of 4 of 4 batch-norms of first/last.safetensors\n";
    assert!(done.stderr.contains(told), "{}", done.stderr);
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(folder.path(name)).unwrap()).unwrap() };
    let bytes = fs::read(folder.path("first/last.safetensors")).unwrap();
    let origin = &read("again/env.json")["init"];
    assert_eq!(origin["file"], "first/last.safetensors");
    assert_eq!(origin["bytes"], bytes.len());
    assert_eq!(origin["sha256"], samcore::files::sha256_hex(&bytes));
    let listed = read("again/init.json");
    assert_eq!(listed["loaded"].as_array().unwrap().len(), 16 + 2 * 4);
    for nothing in ["missing", "unused", "other_shape"] {
        assert_eq!(listed[nothing].as_array().unwrap().len(), 0, "{nothing}");
    }
    assert!(!folder.path("first/init.json").exists());
}

#[test]
fn a_finetuning_run_comes_to_the_same_bits_stopped_or_not_and_does_not_need_its_file_again() {
    let folder = first_run("finetune-resume");
    let whole = |run: &str, extra: &str| {
        samcore(&folder.0, &format!("{COMMON} {TUNED} --opt sam --out {run} {extra}")).well();
    };
    for threads in [1, 2, 3, 8] {
        whole(&format!("t{threads}"), &format!("--threads {threads}"));
    }
    whole("stopped", "--steps 7");
    fs::remove_file(folder.path("first/best.safetensors")).unwrap();
    samcore(&folder.0, "train --resume stopped").well();
    let bits = |run: &str| {
        let last = Checkpoint::open(&folder.path(run).join("last.safetensors")).unwrap();
        (
            last.position.step,
            fs::read(folder.path(run).join("steps.jsonl")).unwrap(),
            tensors(&folder.path(run).join("last.safetensors")),
        )
    };
    let expected = bits("t1");
    for run in ["t2", "t3", "t8", "stopped"] {
        assert!(bits(run) == expected, "{run}");
    }
}

#[test]
fn damaged_files_are_refused_in_one_line_and_leave_nothing() {
    let folder = first_run("finetune-damaged");
    let sound = fs::read(folder.path("first/last.safetensors")).unwrap();
    let mut flipped = sound.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let before = files(&folder.path("first")).len();
    for (bytes, message) in [
        (&sound[..sound.len() - 5], "is not a sound safetensors file"),
        (&sound[..6], "is not a sound safetensors file"),
        (&flipped[..], "its SHA-256 does not match its content"),
        (b"PK\x03\x04 and so on", "it looks like a zip archive"),
        (b"", "0 bytes are too few"),
    ] {
        fs::write(folder.path("wrong.safetensors"), bytes).unwrap();
        let line = format!("{COMMON} --init wrong.safetensors --out run");
        samcore(&folder.0, &line).refused(65, message);
        assert!(!folder.path("run").exists(), "{message}");
    }
    // Not a file at all, which would never end.
    let line = format!("{COMMON} --init /dev/zero --out run");
    Done::of(command(&folder.0, &line.split_whitespace().collect::<Vec<_>>()).output().unwrap()).refused(66, "--init");
    assert_eq!(files(&folder.path("first")).len(), before);
}
