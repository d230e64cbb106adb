//! `samcore info`: the machine, the models there are, or one model's layers, parameters and cost.

use super::flags::{apply, count, flag, flag_like, own_settings, switch, text};
use super::print;
use crate::data;
use crate::device::cuda::driver::Driver;
use crate::device::cuda::{Emulation, Emulator, nvidia, nvrtc};
use crate::device::{Device, cpu::CpuDevice};
use crate::error::{Error, Result, unknown};
use crate::exec::Recording;
use crate::graph::{Graph, ImageSource, Var};
use crate::models::{self, Model, Setup};
use crate::ops::Op;
use crate::ops::call::{Augment, Call};
use crate::optim::{self, OptimizerRow};
use crate::recipe::{Kind, Overrides, Recipe, SETTINGS, Setting, Value};
use crate::step::{Division, Recorder};
use crate::train::{engine, environment};
use clap::{Arg, ArgMatches, Command};
use serde_json::json;

/// The question of the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    /// All models, with their recipes.
    pub models: bool,
    /// One model in detail. If neither: the machine, and what there is by name.
    pub model: Option<String>,
    pub classes: usize,
    /// None: as in the images that the model is made for, like `size`.
    pub channels: Option<usize>,
    /// Side of the square input in pixels.
    pub size: Option<usize>,
    pub batch: usize,
    /// Settings of the planned step: its device and dtype count here.
    pub recipe: Recipe,
    pub json: bool,
}

/// Name, largest value, default (if it is not the model's) and help of the flags that are whole numbers from 1.
const COUNTS: [(&str, u64, Option<u64>, &str); 4] = [
    ("classes", 1_000_000, Some(10), "number of classes"),
    ("channels", 4, None, "channels of an image [the model's usual ones]"),
    ("size", 4096, None, "side of an image in pixels [the model's usual one]"),
    ("batch", u32::MAX as u64, Some(128), "images per step, for memory and cost"),
];
/// Topics that may be listed beside the machine.
const TOPICS: [&str; 1] = ["models"];

pub fn build(command: Command) -> Command {
    let number = |(name, max, default, help): (&'static str, u64, Option<u64>, &str)| {
        flag(name, Kind::Count(1, max), help, default.map(Value::Count).as_ref())
    };
    command
        .arg(
            Arg::new("topic")
                .value_name("TOPIC")
                .help("models: each model with its parameters and recipe [the machine]"),
        )
        .arg(flag("model", Kind::Text, "summary of this model", None).conflicts_with("topic"))
        .args(COUNTS.map(number))
        .args([flag_like("device", "device"), flag_like("dtype", "dtype"), flag_like("exact", "exact")])
        .arg(switch("json", "write the result as one JSON object"))
}

/// # Errors
/// Usage: a wrong value.
pub fn args(matches: &ArgMatches) -> Result<Args> {
    let topic = text(matches, "topic");
    if let Some(word) = topic.as_deref().filter(|word| !TOPICS.contains(word)) {
        if models::open(word).is_some() {
            let line = format!("samcore info --model {word}");
            return Err(Error::usage(format!("unknown topic '{word}'; it is a model, which --model takes: {line}")));
        }
        return Err(unknown("topic", word, &TOPICS));
    }
    let mut counts = [None; 4];
    for (to, (name, max, default, _)) in counts.iter_mut().zip(COUNTS) {
        *to = count(matches, name, 1, max)?.or(default).map(|n| n as usize);
    }
    let [classes, channels, size, batch] = counts;
    let (classes, batch) = (classes.unwrap_or_default(), batch.unwrap_or_default());
    let json = matches.get_flag("json");
    let mut recipe = Recipe::default();
    for name in ["device", "dtype", "exact"] {
        apply(matches, name, name, &mut recipe)?;
    }
    Ok(Args { models: topic.is_some(), model: text(matches, "model"), classes, channels, size, batch, recipe, json })
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    let args = args(matches)?;
    let text = match &args.model {
        Some(name) => model_info(&models::find(name)?, &args)?,
        None if args.models => models_info(args.json)?,
        None => machine_info(args.json)?,
    };
    print(&text)
}

/// Returns the length of the longest word, which is the width of its column.
fn longest<'a>(words: impl Iterator<Item = &'a str>) -> usize {
    words.map(|word| word.chars().count()).max().unwrap_or(0)
}

/// The settings in which a model's own recipe differs from the defaults of a run, with their values.
fn differences(recipe: &[models::Settings]) -> Result<Vec<(&'static Setting, Value)>> {
    let defaults = Recipe::default();
    let own = defaults.clone().with(&Overrides::parse(recipe.iter().copied().flatten())?)?;
    let differs = SETTINGS.iter().map(|s| (s, s.get(&own))).filter(|(s, value)| *value != s.get(&defaults));
    Ok(differs.collect())
}

/// Every model that can be listed, with its parameters for 10 classes, and every row's recipe.
fn models_info(as_json: bool) -> Result<String> {
    let (mut text, mut objects) = (String::new(), vec![]);
    let width = longest(models::names());
    text += &format!("{:<width$} {:>9} {:>12}  {}\n", "model", "images", "parameters", "with 10 classes");
    for name in models::names() {
        let model = models::find(name)?;
        let parameters =
            models::classifier(&model, &source(model.images, 10), &models::Setup::default())?.params().count();
        let images = model.images.map(|n| n.to_string()).join("x");
        text += &format!("{name:<width$} {images:>9} {parameters:>12}  {}\n", model.about);
        let recipe = differences(model.recipe)?.into_iter().map(|(s, value)| (s.key(), value.to_json()));
        objects.push(json!({
            "name": name,
            "about": model.about,
            "images": model.images,
            "parameters": parameters,
            "recipe": recipe.collect::<serde_json::Map<_, _>>(),
        }));
    }
    if as_json {
        return Ok(format!("{:#}\n", json!({ "models": objects })));
    }
    text += "\nrecipe, where it differs from the defaults of 'samcore train --help'; flags and --config override it:\n";
    let width = longest(models::MODELS.iter().map(|row| row.name));
    for row in models::MODELS {
        let own = differences(row.recipe)?.into_iter().map(|(s, value)| format!("--{} {value}", s.name));
        let own: Vec<String> = own.collect();
        text +=
            &format!("{:<width$} {}\n", row.name, if own.is_empty() { "the defaults".into() } else { own.join(" ") });
    }
    Ok(text)
}

/// Images `[h, w, c]` of no data set in particular.
fn source([h, w, c]: [usize; 3], classes: usize) -> ImageSource {
    ImageSource { h, w, c, classes, mean: [0.5; 4], std: [0.5; 4], augment: Augment::default() }
}

/// Device, threads, versions, and what there is by name.
fn machine_info(as_json: bool) -> Result<String> {
    let device = CpuDevice::new(0)?;
    let environment = environment::environment(device.isa().name(), device.threads());
    let models: Vec<_> = models::MODELS.iter().map(|m| (m.name, m.about.to_owned())).collect();
    let optimizers: Vec<_> = optim::OPTIMIZERS.iter().map(|o| (o.name, optimizer_line(o))).collect();
    let datasets: Vec<_> = data::DATASETS.iter().map(|d| (d.name, d.about.to_owned())).collect();
    let groups = [("models", models), ("optimizers", optimizers), ("data sets", datasets)];
    let gpus = gpus();
    let nvrtc = nvrtc::version().map(|(major, minor)| format!("{major}.{minor}"));
    let told = |found: &Result<String>| found.clone().unwrap_or_else(|e| format!("none: {e}"));
    let emulator = Emulator::new(Emulation::default()).map(|e| e.properties().name.clone());
    if as_json {
        let mut all = environment;
        all["device"] = json!(device.describe());
        all["gpus"] = json!(gpus.as_deref().unwrap_or_default());
        all["nvrtc"] = json!(nvrtc.as_ref().ok());
        all["emulator"] = json!(emulator.as_ref().ok());
        for (name, rows) in groups {
            all[name.replace(' ', "_")] = rows.iter().map(|r| r.0).collect();
        }
        return Ok(format!("{all:#}\n"));
    }
    let mut text = format!("device        {}\n", device.describe());
    for key in ["cpu", "instructions", "threads", "samcore", "commit", "rustc", "os"] {
        let value = &environment[key];
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text += &format!("{key:<13} {value}\n");
    }
    text += &match &gpus {
        Ok(names) => names.iter().enumerate().map(|(n, name)| format!("cuda:{n:<8} {name}\n")).collect(),
        Err(e) => format!("{:<13} none: {e}\n", "gpu"),
    };
    text += &format!("{:<13} {}\n{:<13} {}\n", "nvrtc", told(&nvrtc), "emu", told(&emulator));
    let width = longest(groups.iter().flat_map(|(_, rows)| rows).map(|(name, _)| *name));
    for (name, rows) in groups {
        text += &format!("\n{name}:\n");
        rows.iter().for_each(|(name, about)| text += &format!("  {name:<width$} {about}\n"));
    }
    Ok(text)
}

/// Names of the GPUs.
fn gpus() -> Result<Vec<String>> {
    (0..nvidia::count()?).map(nvidia::name).collect()
}

/// Returns a line on an optimizer: its paper, the cost of a step, and its own settings.
fn optimizer_line(row: &OptimizerRow) -> String {
    let own = own_settings(row);
    let own = if own.is_empty() { String::new() } else { format!("; {own}") };
    let options = Recipe::of_optimizer(row).unwrap_or_default().options();
    let gradients = ((row.gradients)(&options) * 100.0).round() / 100.0;
    format!("{} ({}); gradients a step: {gradients}{own}", row.about, row.paper)
}

const MEBI: f64 = (1 << 20) as f64;

/// One line of a model's summary.
struct Layer {
    name: String,
    op: &'static str,
    shape: String,
    parameters: usize,
    flops: u64,
}

fn layers(graph: &Graph) -> Vec<Layer> {
    let operations = graph.vars().filter_map(|v| Some((v, graph.node(v).op.operation()?)));
    operations
        .map(|(v, operation)| {
            let node = graph.node(v);
            let own = |i: &&Var| matches!(graph.node(**i).op, Op::Param(_));
            Layer {
                name: node.name.clone(),
                op: operation.name(),
                shape: node.shape.to_string(),
                parameters: node.inputs.iter().filter(own).map(|i| graph.shape(*i).len()).sum(),
                flops: graph.node_flops(v),
            }
        })
        .collect()
}

/// Cost of a training step: bytes of memory planned, flops, bytes that must move.
struct Cost {
    optimizer: &'static str,
    memory: usize,
    flops: u64,
    moved: u64,
}

fn cost(model: &Model, source: &ImageSource, row: &OptimizerRow, batch: usize, recipe: &Recipe) -> Result<Cost> {
    let graph = &models::classifier(model, source, &Setup { taps: row.taps, ..Setup::default() })?;
    let device = engine::device(&mut recipe.clone())?;
    let optimizer = (row.build)(&Recipe::of_optimizer(row)?.options());
    let mut recorder = Recorder::new(graph, &*device);
    for phase in 0..optimizer.phases() {
        recorder.program(row.name, Division::whole(batch), |step| optimizer.record(phase, step))?;
    }
    let recording = Recording::of(recorder);
    // A step's, on average over all phases.
    let mean = |of: fn(&Call) -> u64| {
        let steps = recording.programs().iter().map(|p| p.calls.iter().map(of).sum::<u64>() as f64);
        steps.enumerate().map(|(phase, cost)| optimizer.share(phase) * cost).sum::<f64>() as u64
    };
    Ok(Cost {
        optimizer: row.name,
        memory: recording.layout().bytes(),
        flops: mean(Call::flops),
        moved: mean(Call::bytes),
    })
}

/// Layers, shapes, parameters, flops and planned memory of a model.
fn model_info(model: &Model, args: &Args) -> Result<String> {
    let Args { classes, batch, .. } = *args;
    let (size, channels) = (args.size.unwrap_or(model.images[0]), args.channels.unwrap_or(model.images[2]));
    let source = source([size, size, channels], classes);
    let graph = models::classifier(model, &source, &Setup::default())?;
    let layers = layers(&graph);
    let (parameters, flops) = (graph.params().count(), graph.flops());
    let costs: Vec<Cost> =
        optim::OPTIMIZERS.iter().map(|o| cost(model, &source, o, batch, &args.recipe)).collect::<Result<_>>()?;
    if args.json {
        let layers: Vec<_> = layers
            .iter()
            .map(
                |l| json!({"name": l.name, "op": l.op, "shape": l.shape, "parameters": l.parameters, "flops": l.flops}),
            )
            .collect();
        let result = json!({
            "model": model.name,
            "input": [size, size, channels],
            "classes": classes,
            "layers": layers,
            "parameters": parameters,
            "forward_flops_per_image": flops,
            "batch": batch,
            "steps": costs.iter().map(|c| json!({"optimizer": c.optimizer, "planned_bytes": c.memory,
                "flops": c.flops, "least_bytes_moved": c.moved})).collect::<Vec<_>>(),
        });
        return Ok(format!("{result:#}\n"));
    }
    let mut text = format!("{}: {}\ninput {size}x{size}x{channels}, {classes} classes\n\n", model.name, model.about);
    let row =
        |[name, op, output, parameters, flops]: [&str; 5]| [name, op, output, parameters, flops].map(str::to_owned);
    let mut rows = vec![row(["layer", "op", "output", "parameters", "flops"])];
    rows.extend(layers.iter().map(|l| row([&l.name, l.op, &l.shape, &l.parameters.to_string(), &l.flops.to_string()])));
    rows.push(row(["total", "", "", &parameters.to_string(), &flops.to_string()]));
    let width = |column: usize| longest(rows.iter().map(|row| row[column].as_str()));
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(width);
    for [name, op, output, parameters, flops] in &rows {
        text += &format!("{name:<a$}  {op:<b$}  {output:>c$}  {parameters:>d$}  {flops:>e$}\n");
    }
    text += "\n";
    text += "flops: one image, forward, a multiply-add counted as two\n";
    let width = longest(costs.iter().map(|c| c.optimizer));
    text += &format!("\n{:<width$} {:>12} {:>12} {:>14}\n", "step", "MiB planned", "GFLOP", "MiB moved");
    for c in costs {
        let (memory, moved) = (c.memory as f64 / MEBI, c.moved as f64 / MEBI);
        text += &format!("{:<width$} {memory:>12.1} {:>12.2} {moved:>14.1}\n", c.optimizer, c.flops as f64 / 1e9);
    }
    let of = engine::device(&mut args.recipe.clone())?.describe();
    text += &format!("a step: batch {batch}, planned for {of}; moved: every operand of every call once\n");
    Ok(text)
}
