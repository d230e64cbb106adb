//! Targets of what comparisons and benchmarks have written.

use super::{METRICS, text};
use samcore::bench::compare::{self, Comparison};
use samcore::device::cuda::rungs::Rungs;
use samcore::error::Kind;
use samcore::optim;
use samcore::protocol::folder::{self, State};
use samcore::protocol::plan::Subject;
use samcore::protocol::{self, Plan, Request, Results, Run, Share};
use samcore::recipe::Recipe;
use samcore::study::restore::{Restored, restore};
use samcore::study::{hessian, interpolate, landscape};
use samcore::train::divergence::Divergence;
use std::fs;
use std::path::Path;

pub fn requests() -> Vec<Vec<u8>> {
    let request = Request { optimizers: vec!["sam".into()], seeds: vec![7, 1 << 40], ..Request::default() };
    let by_hand = "opt = [\n  \"sgd\",\n]\nseeds = [0x10, 1_0]\nbudget = 'equal-epochs'\nlr = 0.2 # mine\n";
    vec![
        Request::default().to_toml().into(),
        request.to_toml().into(),
        by_hand.into(),
        Recipe::default().to_toml().into(),
    ]
}

pub fn parse_request(path: &Path, bytes: &[u8]) -> bool {
    let read = Request::read(path);
    let Ok((request, settings)) = Request::from_toml(&text(bytes), "case") else { return false };
    request.validate().unwrap();
    // A run's own optimizer and seed say nothing in a request, and are not written.
    let (again, _) = Request::from_toml(&request.to_toml(), "again").unwrap();
    assert_eq!(again.difference(&request), Ok(None));
    if std::str::from_utf8(bytes).is_ok() {
        assert_eq!(read, Ok((request, settings)));
    }
    true
}

/// A comparison of one run, of two epochs of 4 steps.
fn plan() -> Plan {
    let recipe = Recipe { model: "cnn".into(), opt: "sam".into(), epochs: 2, data: "none".into(), ..Recipe::default() };
    let request =
        Request { recipe: recipe.clone(), optimizers: vec!["sam".into()], seeds: vec![0], ..Request::default() };
    let share = Share {
        optimizer: optim::find("sam").unwrap(),
        gradients_per_step: 2.0,
        epochs: 2,
        steps: 8,
        flops: 1e9,
        image_flops: 1e6,
    };
    let run = Run { name: "sam-seed0".into(), share: 0, recipe, content: Default::default() };
    let data = Subject { name: "none".into(), known: false, images: [512, 0, 10], classes: 10 };
    Plan { request, shares: vec![share], runs: vec![run], data, steps_per_epoch: 4, init: Ok(()) }
}

pub fn compared_configs() -> Vec<Vec<u8>> {
    vec![plan().runs[0].recipe.to_toml().into()]
}

pub fn environments() -> Vec<Vec<u8>> {
    let seeds =
        [r#"{"samcore":"0.1.0","commit":"abc","threads":2,"cpu":"A <fast> one","date":"2026-01-01"}"#, "[1,null]"];
    seeds.map(|seed| seed.as_bytes().to_vec()).to_vec()
}

/// The run's folder as a comparison finds it, with the file under test in it.
fn compared(path: &Path, bytes: &[u8]) -> bool {
    let (plan, root) = (plan(), path.parent().unwrap().join("comparison"));
    let run = root.join(&plan.runs[0].name);
    fs::create_dir_all(&run).unwrap();
    let defaults = [("config.toml", compared_configs().remove(0)), ("metrics.csv", METRICS.to_vec())];
    for (name, content) in defaults {
        if !run.join(name).exists() {
            fs::write(run.join(name), content).unwrap();
        }
    }
    fs::write(run.join(path.file_name().unwrap()), bytes).unwrap();
    let state = folder::state(&run, &plan.runs[0], &plan);
    if let Err(e) = &state {
        assert!([Kind::Data, Kind::CantCreate].contains(&e.kind), "{e}");
    }
    let mut results = Results::new(&plan);
    let added = results.add(0, &root);
    protocol::compare::write(&results, &root).unwrap();
    state == Ok(State::Finished) && added.is_ok()
}

pub fn parse_compared_metrics(path: &Path, bytes: &[u8]) -> bool {
    compared(path, bytes)
}

pub fn parse_compared_config(path: &Path, bytes: &[u8]) -> bool {
    compared(path, bytes)
}

/// Its environment decides nothing, so that whether it is JSON is all there is to tell.
pub fn parse_environment(path: &Path, bytes: &[u8]) -> bool {
    assert!(compared(path, bytes));
    serde_json::from_slice::<serde_json::Value>(bytes).is_ok()
}

/// What a comparison wrote before its first run, and with one run finished.
pub fn comparison_results() -> Vec<Vec<u8>> {
    let plan = plan();
    let empty = Results::new(&plan).to_json().to_string();
    let root = std::env::temp_dir().join(format!("samcore-fuzz-results-{}", std::process::id()));
    let run = root.join(&plan.runs[0].name);
    fs::create_dir_all(&run).unwrap();
    fs::write(run.join("config.toml"), compared_configs().remove(0)).unwrap();
    fs::write(run.join("metrics.csv"), METRICS).unwrap();
    let mut results = Results::new(&plan);
    results.add(0, &root).unwrap();
    fs::remove_dir_all(&root).unwrap();
    vec![empty.into(), results.to_json().to_string().into()]
}

pub fn parse_comparison_results(path: &Path, bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice(bytes) else { return false };
    let plan = plan();
    let Ok(results) = Results::from_json(&plan, &json) else { return false };
    protocol::compare::write(&results, path.parent().unwrap()).unwrap();
    true
}

pub fn divergences() -> Vec<Vec<u8>> {
    let record = Divergence { step: 3, total: 12, culprit: "pass1.fc2: loss".into() };
    vec![record.to_json().to_string().into()]
}

pub fn parse_divergence(path: &Path, _: &[u8]) -> bool {
    match Divergence::read(path.parent().unwrap()) {
        Ok(record) => record.is_some(),
        Err(e) => {
            assert!(e.kind == Kind::Data, "{e}");
            false
        }
    }
}

/// What each study writes, with one row of each kind.
pub fn studies() -> Vec<Vec<u8>> {
    let source = r#""source":{"checkpoint":"a/last.safetensors","model":"cnn","data":"fashion-mnist","step":3,"classes":10,
        "weights":"average","training_images":{"subset":"run","images":24},"device":"cpu"}"#;
    let row = r#""p":"2","n":"all","changed":64,"eps":1.0,"accuracy":0.25,"loss":2.25,"first_order":0.5"#;
    let corrupt = format!(
        r#"{{"study":"corrupt",{source},"test_images":16,"gradient_images":24,"parameters":74794,"weight_norm":22.5,
        "gradient_norm":0.4,"train_loss":2.2,"clean":{{"accuracy":0.2,"loss":null}},"rows":[
        {{"layer":"all","kind":"gradient","seed":null,{row}}},{{"layer":"all","kind":"random","seed":0,{row}}},
        {{"layer":"conv1","kind":"gradient","seed":null,{row}}}]}}"#
    );
    let row = r#""m":8,"groups":3,"rho":0.05,"sharpness":0.1,"standard_error":0.01,"loss":0.5,"zero_gradients":0"#;
    let sharpness = format!(
        r#"{{"study":"sharpness",{source},"images":24,"steps":1,"scaled":"all","gradient_norm":1.5,"loss":0.4,"rows":[
        {{"kind":"plain",{row}}},{{"kind":"adaptive",{row}}}]}}"#
    );
    let block = r#""parameters":90,"h":0.01,"disagreement":0.001,"gradient_noise":1e-6,"asymmetry":1e-3,
        "eigenvalues":[{"value":2.5,"residual":0.1}],"smallest":{"value":-0.5,"residual":null},"trace":4.5,
        "trace_standard_error":0.25,"density":[[-0.5,0.25],[2.5,0.75]]"#;
    let hessian = format!(
        r#"{{"study":"hessian",{source},"images":24,"k":1,"lanczos_steps":2,"density_samples":1,"trace_samples":3,"seed":0,
        "loss":0.5,"gradient_norm":1.5,"weight_norm":2.5,"blocks":[
        {{"operator":"hessian","layer":"all",{block}}},{{"operator":"gauss-newton","layer":"fc",{block}}}]}}"#
    );
    let surface = format!(
        r#"{{{source},"weight_norm":2.5,"direction_norms":[2.0,2.1],"cosine":0.01,"loss":[9,8,7,6,0.5,6,7,8,null],
        "accuracy":[0.1,0.2,0.3,0.4,0.9,0.4,0.3,0.2,0.1]}}"#
    );
    let landscape = format!(
        r#"{{"study":"landscape","dim":2,"points":3,"range":1.0,"images":24,"seed":0,"surfaces":[{surface},{surface}]}}"#
    );
    let line = r#""train_loss":[0.5,2,0.4],"train_accuracy":[0.9,0.2,0.9],"test_loss":[0.6,null,0.5],"test_accuracy":[0.8,0.1,0.8]"#;
    let end = source.replacen(r#""source":"#, "", 1);
    let interpolate = format!(
        r#"{{"study":"interpolate","points":3,"images":24,"test_images":16,"ends":[{end},{end}],"distance":2.5,"lines":[
        {{"statistics":"interpolated",{line}}},{{"statistics":"estimated",{line}}}]}}"#
    );
    vec![corrupt.into(), sharpness.into(), hessian.into(), landscape.into(), interpolate.into()]
}

pub fn parse_study(_: &Path, bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice(bytes) else { return false };
    if let Some(figures) =
        hessian::figures(&json).or_else(|| landscape::figures(&json)).or_else(|| interpolate::figures(&json))
    {
        assert!(figures.iter().all(|(_, svg)| svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>")));
        return true;
    }
    let Some(study) = restore(&json) else { return false };
    let figures = match study {
        Restored::Corrupt(source, study) => {
            [Some(study.curves(&source).to_svg()), study.map(&source).map(|m| m.to_svg())]
        }
        Restored::Sharpness(source, study) => [Some(study.curves(&source).to_svg()), None],
    };
    assert!(figures.into_iter().flatten().all(|svg| svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>")));
    true
}

pub fn bench_results() -> Vec<Vec<u8>> {
    let lines = r#"{"name":"limits fma","gflops":{"median":100.5,"min":99.0,"max":101.0},"threads":2}
{"name":"limits copy","gb_per_s":{"median":20,"min":19,"max":21}}

{"name":"step cnn sam, batch 128, f32","images_per_s":{"median":1e3,"min":9e2,"max":1.1e3},"opt":"sam"}
{"name":"relu 8x8","ms":{"median":0.25}}
"#;
    vec![lines.into(), r#"{"name":"ä","ms":{"median":1e-300}}"#.into()]
}

pub fn parse_bench_result(path: &Path, bytes: &[u8]) -> bool {
    let Ok(figures) = compare::parse(bytes) else {
        assert!(compare::read(path).is_err());
        return false;
    };
    assert_eq!(compare::read(path), Ok(figures.clone()));
    let same = Comparison::of(&figures, &figures);
    assert!(same.pairs.len() == figures.len() && same.pairs.iter().all(|pair| pair.speed == 1.0));
    let none = Comparison::of(&figures, &[]);
    assert_eq!(none.missing.len(), figures.len());
    true
}

pub fn tuning_tables() -> Vec<Vec<u8>> {
    let tables = [
        r#"{"rungs": {"forward 32x32x160 -> 160, 3x3, stride 1, pad 1, bf16": "wgmma", "backward_data 8x8x1 -> 2": "plain"}}"#,
        "{\n  \"rungs\": {}\n}\n",
    ];
    tables.map(|table| table.as_bytes().to_vec()).to_vec()
}

pub fn parse_tuning_table(path: &Path, _: &[u8]) -> bool {
    let Ok(read) = Rungs::load(path) else { return false };
    fs::write(path, read.to_json()).unwrap();
    let again = Rungs::load(path).unwrap();
    assert_eq!((again.table.len(), again.hash()), (read.table.len(), read.hash()));
    true
}
