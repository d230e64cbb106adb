//! Results of `samcore bench` can be read again: by itself for a comparison, and by the peers' script.

mod common;

use common::{Folder, samcore};
use serde_json::Value;
use std::fs;

/// The objects of a text of JSON lines.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Checks that a result's spread is ordered: 0 < min <= median <= max.
#[track_caller]
fn is_spread(spread: &Value) {
    let [min, median, max] = ["min", "median", "max"].map(|key| spread[key].as_f64().unwrap());
    assert!(0.0 < min && min <= median && median <= max, "{spread}");
}

#[test]
fn operations_are_compared_with_an_earlier_result_by_name() {
    let folder = Folder::new("bench-operations");
    let bench = "bench fold_stats --seconds 0.001 --threads 1";
    samcore(&folder.0, &format!("{bench} --json old.json")).well();
    let old = lines(&fs::read_to_string(folder.path("old.json")).unwrap());
    let names: Vec<&str> = old.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names[3..], ["fold_stats 64 channels, fault 0", "fold_stats 256 channels, fault 0"]);
    assert!(names[..3].iter().all(|name| name.starts_with("limit: ")), "{names:?}");
    old[3..].iter().for_each(|line| is_spread(&line["ms"]));
    assert!(old[0]["environment"]["cpu"].is_string() && old[0]["environment"]["arguments"].is_null(), "{}", old[0]);

    let text = samcore(&folder.0, &format!("{bench} --compare old.json")).well().stdout;
    for name in names {
        assert!(text.lines().any(|line| line.contains(name) && line.contains(" then, ")), "{name}: {text}");
    }
    assert!(text.contains("the machine itself runs at "), "{text}");
    let json = samcore(&folder.0, &format!("{bench} --compare old.json --json -")).well().stdout;
    assert_eq!(lines(&json).len(), old.len());

    fs::write(folder.path("cut.json"), "{\"name\": \"a\"").unwrap();
    samcore(&folder.0, &format!("{bench} --compare cut.json")).refused(65, "cut.json: line 1: no whole JSON value");
    // A name is an operation's own where there is one: 'relu' times no batch-norm that has a relu in it.
    let json = samcore(&folder.0, "bench relu --seconds 0.001 --threads 1 --json -").well().stdout;
    let timed: Vec<String> = lines(&json).iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect();
    assert!(
        timed.len() > 3 && timed.iter().all(|name| name.starts_with("limit: ") || name.starts_with("relu ")),
        "{timed:?}"
    );
    samcore(&folder.0, "bench conv3d").refused(2, "no case has 'conv3d' in its name");
}

#[test]
fn steps_have_the_keys_of_the_peers_and_data_loading_its_times() {
    let folder = Folder::with_images("bench-steps", 300, 40, 3);
    for (flags, opt) in [("--opt sgd", "sgd"), ("--mode gradient", "gradient"), ("--mode eval", "eval")] {
        let flags = format!("bench --step cnn {flags} --batch 2 --seconds 0.01 --threads 1 --json -");
        let result = lines(&samcore(&folder.0, &flags).well().stdout).pop().unwrap();
        is_spread(&result["images_per_s"]);
        let config = &result["config"];
        assert_eq!((&config["model"], &config["opt"], &config["batch"]), (&"cnn".into(), &opt.into(), &2.into()));
        for key in ["ms_per_step", "steps", "gflops", "forward_flops_per_image", "arena_bytes", "vector_bytes"] {
            assert!(result[key].as_f64() > Some(0.0), "{key}: {result}");
        }
    }
    let result = samcore(&folder.0, "bench --data data --seconds 0.01 --json -").well().stdout;
    let mut results = lines(&result);
    let augmenting = results.pop().unwrap();
    for key in ["images_per_s", "autoaugment_images_per_s", "ingest_images_per_s"] {
        is_spread(&augmenting[key]);
    }
    assert_eq!((&augmenting["config"]["threads"], &augmenting["config"]["cutout"]), (&1.into(), &16.into()));
    let loading = results.pop().unwrap();
    is_spread(&loading["images_per_s"]);
    assert!(loading["load_s"].as_f64() > Some(0.0) && loading["config"]["images"] == 300, "{loading}");
    samcore(&folder.0, "bench --data dta").refused(66, "there is no data set and no folder 'dta'");
}

#[test]
fn a_profile_tells_of_every_call_and_leaves_a_trace_with_a_process_for_each_work() {
    let folder = Folder::new("bench-profile");
    let bench = "bench --step cnn --batch 2 --seconds 0.01 --threads 1";
    let results = lines(&samcore(&folder.0, &format!("{bench} --opt sgd,sam --profile --json -")).well().stdout);
    let trace: Value = serde_json::from_str(&fs::read_to_string(folder.path("samcore-trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for (pid, opt) in [(1, "sgd"), (2, "sam")] {
        let prefix = format!("profile of step cnn {opt}, batch 2, f32: ");
        let named = |line: &Value| line["name"].as_str().unwrap().strip_prefix(&prefix).map(str::to_owned);
        let rows: Vec<(String, &Value)> = results.iter().filter_map(|line| Some((named(line)?, line))).collect();
        let (kinds, calls): (Vec<_>, Vec<_>) = rows.iter().partition(|(name, _)| name.starts_with("kind "));
        let (total, calls): (Vec<_>, Vec<_>) = calls.into_iter().partition(|(name, _)| name == "all calls");
        rows.iter().for_each(|(_, line)| is_spread(&line["ms"]));
        is_spread(&total[0].1["whole_step_ms"]);
        for lines in [&kinds, &calls] {
            let share: f64 = lines.iter().map(|(_, line)| line["share_of_step"].as_f64().unwrap()).sum();
            assert!((share - 1.0).abs() < 1e-4, "{opt}: {share}");
        }
        for (name, _) in calls {
            let event =
                events.iter().find(|e| e["pid"] == pid && e["name"] == **name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(event["ph"], "X", "{event}");
            for key in ["ts", "dur", "tid"] {
                assert!(event[key].is_number(), "{key}: {event}");
            }
            for key in ["shape", "flops", "bytes"] {
                assert!(!event["args"][key].is_null(), "{key}: {event}");
            }
            assert!(kinds.iter().any(|(kind, _)| kind[5..] == *event["cat"].as_str().unwrap()), "{event}");
        }
    }
    let text = samcore(&folder.0, &format!("{bench} --profile=other.json")).well().stdout;
    assert!(text.contains("conv2.backward_weight") && text.contains("whole steps, in turns"), "{text}");
    assert!(folder.path("other.json").exists());
}

#[test]
fn places_where_no_file_can_be_are_refused_before_anything_is_timed() {
    let folder = Folder::new("bench-places");
    // A day for each measurement: whatever is timed first would not end.
    let bench = "bench --step cnn --seconds 86400";
    for flag in ["--json", "--profile"] {
        samcore(&folder.0, &format!("{bench} {flag}=.")).refused(73, &format!("{flag}: . is a folder"));
        samcore(&folder.0, &format!("{bench} {flag}=no/file")).refused(73, &format!("{flag}: there is no folder no"));
    }
    samcore(&folder.0, &format!("{bench} --tune=no/file")).refused(73, "--tune: there is no folder no");
    samcore(&folder.0, "bench conv2d --profile").refused(2, "--profile");
}
