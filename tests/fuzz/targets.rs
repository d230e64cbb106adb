//! The parsers, a row each: everything that reads what comes from outside.

#[path = "data.rs"]
mod data_targets;
#[path = "results.rs"]
mod result_targets;

use data_targets::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use result_targets::*;
use samcore::cli;
use samcore::data::{self, Known, idx, known};
use samcore::error::Result;
use samcore::graph::{Graph, ImageSource, Var};
use samcore::models::{self, Model, Spec};
use samcore::ops::call::Augment;
use samcore::optim;
use samcore::output::printable;
use samcore::recipe::{Kind, Recipe, SETTINGS, Value, setting};
use samcore::train::checkpoint::{self, Checkpoint, Position, Remembered, Subject};
use samcore::train::origin::Origin;
use samcore::train::records::{Extras, Kept, Metrics};
use samcore::train::run_folder::RunFolder;
use samcore::train::{curves, engine, init};
use samcore::{nn, safetensors};
use std::fs;
use std::io::Write;
use std::path::Path;

/// A parser under test.
pub struct Target {
    /// Letters, digits and dashes.
    pub name: &'static str,
    /// Name of the file that each case is written to.
    pub file: &'static str,
    /// Sound contents, which the parser takes.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Parses the file, or the same bytes in memory; whether they were taken. Panics if what it gives cannot be.
    pub parse: fn(&Path, &[u8]) -> bool,
}

#[rustfmt::skip]
pub const TARGETS: &[Target] = &[
    Target { name: "idx", file: "idx-ubyte", seeds: idx_files, parse: parse_idx },
    Target { name: "idx-gz", file: "idx-ubyte.gz", seeds: packed_idx_files, parse: parse_idx },
    Target { name: "idx-gz-packed-anew", file: "idx-ubyte", seeds: idx_files, parse: pack_and_parse_idx },
    Target { name: "data-folder", file: "train-images-idx3-ubyte", seeds: || vec![images(5)], parse: parse_folder },
    Target { name: "cifar-10", file: "data_batch_1.bin", seeds: || vec![cifar_rows(1, 2)], parse: parse_cifar10 },
    Target { name: "cifar-100", file: "train.bin", seeds: || vec![cifar_rows(2, 2)], parse: parse_cifar100 },
    Target { name: "tar-gz", file: "archive.tar.gz", seeds: || archives().iter().map(|b| gzip(b)).collect(), parse: parse_archive },
    Target { name: "tar-gz-packed-anew", file: "archive.tar", seeds: archives, parse: pack_and_parse_archive },
    Target { name: "noise-record", file: "noise.json", seeds: noise_records, parse: parse_noise_record },
    Target { name: "safetensors", file: "weights.safetensors", seeds: weights, parse: parse_safetensors },
    Target { name: "checkpoint", file: "last.safetensors", seeds: checkpoints, parse: |path, _| parse_checkpoint(path) },
    Target { name: "checkpoint-signed-anew", file: "last.safetensors", seeds: checkpoints, parse: sign_and_parse_checkpoint },
    Target { name: "init", file: "init.safetensors", seeds: init_files, parse: parse_init },
    Target { name: "recipe", file: "config.toml", seeds: recipes, parse: parse_recipe },
    Target { name: "metrics", file: "metrics.csv", seeds: || vec![METRICS.into()], parse: parse_metrics },
    Target { name: "comparison-request", file: "compare.toml", seeds: requests, parse: parse_request },
    Target { name: "comparison-metrics", file: "metrics.csv", seeds: || vec![METRICS.into()], parse: parse_compared_metrics },
    Target { name: "comparison-config", file: "config.toml", seeds: compared_configs, parse: parse_compared_config },
    Target { name: "comparison-environment", file: "env.json", seeds: environments, parse: parse_environment },
    Target { name: "comparison-results", file: "results.json", seeds: comparison_results, parse: parse_comparison_results },
    Target { name: "divergence", file: "diverged.json", seeds: divergences, parse: parse_divergence },
    Target { name: "study", file: "corrupt.json", seeds: studies, parse: parse_study },
    Target { name: "bench-result", file: "result.json", seeds: bench_results, parse: parse_bench_result },
    Target { name: "tuning-table", file: "rungs.json", seeds: tuning_tables, parse: parse_tuning_table },
    Target { name: "steps", file: "steps.jsonl", seeds: || vec![STEPS.into()], parse: parse_steps },
    Target { name: "names", file: "names", seeds: || words("cnn sam fashion-mnist weight-decay"), parse: parse_names },
    Target { name: "flag-values", file: "values", seeds: || words("0.1 3 true 0.3,0.6,0.8 cosine reflect 1e-4"), parse: parse_values },
    Target { name: "milestones", file: "milestones", seeds: || words("0.3,0.6,0.8 0.5 1e-9,0.25"), parse: parse_milestones },
    Target { name: "command-line", file: "line", seeds: command_lines, parse: parse_command_line },
];

fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn idx_file(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    file.extend(dims.iter().flat_map(|d| d.to_be_bytes()));
    file.extend(values);
    file
}

/// So many images of 2x3 pixels.
fn images(count: u32) -> Vec<u8> {
    idx_file(&[count, 2, 3], &(0..6 * count).map(|i| i as u8).collect::<Vec<u8>>())
}

fn idx_files() -> Vec<Vec<u8>> {
    let large = idx_file(&[40, 32, 32], &[7; 40 * 1024]);
    // QMNIST's labels: 32-bit integers in eight columns.
    let mut table = idx_file(&[2, 8], &[0, 0, 0, 5].repeat(16));
    table[2] = 12;
    vec![images(5), idx_file(&[7], &[0, 1, 2, 3, 9, 1, 255]), large, table]
}

/// The same as gzip files: of one member, and of two with zeros behind.
fn packed_idx_files() -> Vec<Vec<u8>> {
    let two = |bytes: &[u8]| [gzip(&bytes[..9]), gzip(&bytes[9..]), vec![0; 20]].concat();
    idx_files().iter().flat_map(|bytes| [gzip(bytes), two(bytes)]).collect()
}

fn parse_idx(path: &Path, _: &[u8]) -> bool {
    let taken = [1, 3].map(|rank| {
        let Ok(read) = idx::read(path, rank) else { return false };
        assert_eq!(read.dims.len(), rank);
        assert_eq!(read.dims.iter().product::<usize>(), read.bytes.len());
        true
    });
    taken.contains(&true)
}

/// Damage behind the checksum, which a damaged .gz hardly ever gets to.
fn pack_and_parse_idx(path: &Path, bytes: &[u8]) -> bool {
    let packed = path.with_extension("gz");
    fs::write(&packed, gzip(bytes)).unwrap();
    parse_idx(&packed, bytes)
}

fn parse_folder(path: &Path, _: &[u8]) -> bool {
    let folder = path.parent().unwrap();
    let labels = |count: u32| idx_file(&[count], &vec![1; count as usize]);
    for (name, content) in [
        ("train-labels-idx1-ubyte", labels(5)),
        ("t10k-images-idx3-ubyte", images(2)),
        ("t10k-labels-idx1-ubyte", labels(2)),
    ] {
        if !folder.join(name).exists() {
            fs::write(folder.join(name), content).unwrap();
        }
    }
    let Ok(set) = data::load_folder(folder, None) else { return false };
    assert!(set.mean.iter().chain(&set.std).all(|x| x.is_finite()) && set.std[0] > 0.0);
    set.train.image(set.train.count - 1);
    true
}

fn weights() -> Vec<Vec<u8>> {
    let tensors = [
        safetensors::Tensor { name: "w".into(), shape: vec![2, 3], data: safetensors::Data::F32(vec![0.5; 6]) },
        safetensors::Tensor { name: "n".into(), shape: vec![], data: safetensors::Data::I64(vec![3]) },
    ];
    let ours = safetensors::to_bytes(&tensors, &Default::default()).unwrap();
    let header = r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[1,1],"data_offsets":[4,6]},"c":{"dtype":"F64","shape":[],"data_offsets":[6,14]}}"#;
    let mut theirs = (header.len() as u64).to_le_bytes().to_vec();
    theirs.extend(header.bytes().chain([0; 14]));
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F4","shape":[4],"data_offsets":[1,3]},"c":{"dtype":"BOOL","shape":[2],"data_offsets":[3,5]}}"#;
    let mut others = (header.len() as u64).to_le_bytes().to_vec();
    others.extend(header.bytes().chain([1; 5]));
    vec![ours, theirs, others]
}

fn parse_safetensors(_: &Path, bytes: &[u8]) -> bool {
    let Ok(contents) = safetensors::read_from(&mut &bytes[..], bytes.len() as u64, "case") else { return false };
    for tensor in &contents.tensors {
        assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len(), "{}", tensor.name);
    }
    let kept: Vec<_> =
        contents.tensors.iter().filter(|t| !matches!(t.data, safetensors::Data::Other(..))).cloned().collect();
    let again = safetensors::to_bytes(&kept, &contents.metadata).unwrap();
    let again = safetensors::read_from(&mut &again[..], again.len() as u64, "again").unwrap();
    assert_eq!(again.tensors.len(), kept.len());
    true
}

fn tiny(g: &mut Graph, x: Var, spec: &Spec) -> Result<Var> {
    let h = nn::conv(g, x, "conv", 2, 3, 1, 1)?;
    let h = nn::batch_norm(g, h, "bn")?;
    nn::linear(g, h, "fc", spec.classes)
}

const SIDE: usize = 2;
const CLASSES: usize = 2;

fn graph() -> Graph {
    let (mean, std, augment) = ([0.5; 4], [0.25; 4], Augment::default());
    let source = ImageSource { h: SIDE, w: SIDE, c: 1, classes: CLASSES, mean, std, augment };
    models::classifier(&Model::new("tiny", "", tiny), &source, &models::Setup::default()).unwrap()
}

/// What a run that averages its weights keeps.
const KEPT: Remembered = Remembered { optimizer: &["momentum"], average: true };

fn checkpoints() -> Vec<Vec<u8>> {
    let graph = graph();
    let (mean, std) = ([0.5; 4], [0.25; 4]);
    let subject =
        Subject { model: "cnn".into(), data: "data".into(), h: SIDE, w: SIDE, c: 1, classes: CLASSES, mean, std };
    let position = Position { step: 7, loss_sum: 1.25, hits: 3, gain_sum: f64::NAN, ..Position::default() };
    let vectors = engine::initial(&graph, 1, KEPT);
    let path = std::env::temp_dir().join(format!("samcore-fuzz-{}.safetensors", std::process::id()));
    let origin = Origin::of(&Recipe::default(), None);
    Checkpoint { subject, position, origin, vectors }.write(&graph, &path, false).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    vec![bytes]
}

/// As it is opened to be evaluated and to go on.
fn parse_checkpoint(path: &Path) -> bool {
    let Ok(opened) = Checkpoint::open(path) else { return false };
    let _ = (opened.subject.to_string(), models::find(&opened.subject.model), opened.recipe(path));
    let graph = graph();
    for remembered in [Remembered::default(), KEPT] {
        let Ok(vectors) = opened.vectors(&graph, remembered, path) else { return false };
        assert_eq!(vectors.weights.len(), graph.params().vector_len());
    }
    true
}

/// Damage behind the SHA-256, which a damaged checkpoint never gets to.
fn sign_and_parse_checkpoint(path: &Path, bytes: &[u8]) -> bool {
    let Ok(contents) = safetensors::read_from(&mut &bytes[..], bytes.len() as u64, "case") else { return false };
    // Writing adds "format" where it is not there, which would break the signature; values of other types are not kept.
    let other = |t: &safetensors::Tensor| matches!(t.data, safetensors::Data::Other(..));
    if !contents.metadata.contains_key("format") || contents.tensors.iter().any(other) {
        return false;
    }
    safetensors::write(path, &contents.tensors, &checkpoint::signed(&contents.metadata, &contents.tensors)).unwrap();
    parse_checkpoint(path)
}

/// A checkpoint, and weights of another program whose names have a prefix and whose head has other classes.
fn init_files() -> Vec<Vec<u8>> {
    let f32 = |name: &str, shape: &[usize]| {
        let data = safetensors::Data::F32(vec![0.25; shape.iter().product()]);
        safetensors::Tensor { name: name.into(), shape: shape.to_vec(), data }
    };
    let tensors = [f32("model.conv.weight", &[2, 1, 3, 3]), f32("model.bn.running_mean", &[2]), f32("fc.bias", &[5])];
    let theirs = safetensors::to_bytes(&tensors, &Default::default()).unwrap();
    checkpoints().into_iter().chain([theirs]).collect()
}

/// As `--init` reads it.
fn parse_init(path: &Path, _: &[u8]) -> bool {
    let graph = graph();
    let mut vectors = engine::initial(&graph, 1, KEPT);
    let before = vectors.weights.len();
    let Ok(read) = init::load(path, &graph, &mut vectors) else { return false };
    assert!(!read.loaded.is_empty() && vectors.weights.len() == before);
    assert!(vectors.weights.iter().chain(&vectors.running).all(|x| x.is_finite()), "weights are finite");
    true
}

fn recipes() -> Vec<Vec<u8>> {
    let mine = Recipe { opt: "sam".into(), milestones: vec![], data: "a \"b\" \\ ä".into(), ..Recipe::default() };
    let by_hand = "# mine\nseed = 0x10\nrho = 0 # off\nlr = 1_0e-2\nmilestones = [0.5, 0.75,]\ndata = 'x'\n";
    vec![Recipe::default().to_toml().into(), mine.to_toml().into(), by_hand.into(), b"a.b = {c = [[1], {}]}".to_vec()]
}

fn parse_recipe(path: &Path, bytes: &[u8]) -> bool {
    let read = Recipe::read(path);
    let Ok(recipe) = Recipe::from_toml(&text(bytes), "case") else { return false };
    recipe.validate().unwrap();
    assert_eq!(Recipe::from_toml(&recipe.to_toml(), "again"), Ok(recipe.clone()));
    if std::str::from_utf8(bytes).is_ok() {
        assert_eq!(read, Ok(recipe.clone()));
    }
    rates_are_sound(&recipe);
    true
}

/// Learning rates are finite unless their peak overflows an f32, and never negative.
fn rates_are_sound(recipe: &Recipe) {
    let schedule = recipe.schedule();
    for total in [1, 2, 7, 1000, u64::MAX] {
        for step in [0, 1, total / 3, total / 2, total - 1, total, u64::MAX] {
            let lr = schedule.lr(step, total);
            assert!(lr >= 0.0 && f64::from(lr) <= 1.0001 * recipe.lr.max(1e-30), "step {step} of {total}: {lr}");
        }
    }
}

const METRICS: &[u8] =
    b"epoch,step,train_loss,train_accuracy,test_loss,test_accuracy,lr,grad_norm,sharpness_gain,seconds,images_per_s
1,4,0.500000,0.800000,0.400000,0.850000,0.1,1.5,0.05,1.000,100.0
2,8,0.250000,0.888889,0.250000,0.888889,0.1,0,,2.000,100.0
";
const STEPS: &[u8] = br#"{"step":1,"epoch":1,"hits":1,"loss":2.0,"lr":0.1,"grad_norm":1e-9,"sharpness_gain":0.2}
{"step":2,"epoch":1,"hits":1,"loss":null,"lr":0.1,"grad_norm":1e-9,"sharpness_gain":null}
{"step":3,"epoch":2,"hits":1,"loss":1.0,"lr":0.1,"grad_norm":1e-9,"sharpness_gain":0.2}
"#;

fn parse_metrics(path: &Path, bytes: &[u8]) -> bool {
    // Drawn after each epoch.
    let _ = Metrics::read(path);
    // The file as metrics and, whatever it is, as steps.
    let _ = curves::draw(&curves::Caption::default(), path, path, &path.with_extension("svg"));
    parse_records(path, bytes, "epoch,")
}

fn parse_steps(path: &Path, bytes: &[u8]) -> bool {
    parse_records(path, bytes, "")
}

/// As records are cut back when a run goes on.
fn parse_records(path: &Path, bytes: &[u8], header: &str) -> bool {
    let folder = path.parent().unwrap();
    if !folder.join("config.toml").exists() {
        fs::write(folder.join("config.toml"), "").unwrap();
    }
    let folder = RunFolder::reopen(folder).unwrap();
    for step in [u64::MAX, 6, 2, 0] {
        let Ok(kept) = Kept::read(&folder, Extras::default(), step) else { return false };
        assert!(kept.last() <= step && kept.losses(2).iter().all(|line| line.contains("has lost")));
        kept.open().unwrap().flush().unwrap();
        let kept = fs::read(path).unwrap();
        assert!(bytes.starts_with(&kept) || kept.starts_with(header.as_bytes()), "what is kept was there before");
    }
    true
}

fn parse_names(_: &Path, bytes: &[u8]) -> bool {
    let name = text(bytes);
    let message = known::no_such(&name).to_string();
    assert!(message.contains(&*printable(&name)));
    let found = [models::find(&name).is_ok(), optim::find(&name).is_ok(), Known::by_name(&name).is_some()];
    found.contains(&true) || setting(&name).is_ok()
}

fn parse_values(_: &Path, bytes: &[u8]) -> bool {
    let word = text(bytes);
    let mut taken = false;
    for s in SETTINGS {
        let Ok(value) = s.kind.parse(&word) else { continue };
        // Any text is a text.
        taken |= !matches!(s.kind, Kind::Text);
        assert_eq!(s.kind.parse(&value.to_string()), Ok(value.clone()), "{}", s.name);
        let mut recipe = Recipe::default();
        s.set(&mut recipe, value.clone()).unwrap();
        assert_eq!(s.get(&recipe), value, "{}", s.name);
        assert_eq!(Recipe::from_toml(&recipe.to_toml(), "again"), Ok(recipe), "{}", s.name);
    }
    taken
}

fn parse_milestones(_: &Path, bytes: &[u8]) -> bool {
    let Ok(Value::List(milestones)) = Kind::Shares.parse(&text(bytes)) else { return false };
    let shape = samcore::optim::schedule::Shape::Step;
    rates_are_sound(&Recipe { milestones, schedule: shape, ..Recipe::default() });
    true
}

fn command_lines() -> Vec<Vec<u8>> {
    let lines = [
        "train --opt sam --rho 0.05 --epochs 8 --out runs/sam --flip --json",
        "train --resume runs/sam --threads=2 --quiet",
        "eval runs/sam/best.safetensors --split test",
        "check conv2d cnn --seed 3",
        "info --model cnn --classes 100",
        "man data fetch --out x",
        "compare --opt sgd,sam --seeds 3 --budget equal-gradients --dry-run --out x",
        "bench --step cnn --opt sam --batch 8,16 --json out.json --compare old.json",
        "data noise cifar-10 --rate 0.4 --all-classes --out noisy",
        "data fetch fashion-mnist --url http://127.0.0.1:1",
    ];
    lines.map(|line| line.as_bytes().to_vec()).to_vec()
}

/// Every wrong command line gets one line.
fn parse_command_line(_: &Path, bytes: &[u8]) -> bool {
    let line = text(bytes).replace(['\0', '\n', '\r'], "");
    let words = ["samcore"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
    let Err(e) = cli::command().try_get_matches_from(words) else { return true };
    assert!(e.exit_code() == 0 || !cli::usage_error(&e).to_string().contains('\n'));
    false
}
