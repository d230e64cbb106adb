//! What `samcore bench` writes can be read again: by itself for a comparison, and by whoever knows the peers' keys.

mod common;

use common::{Folder, samcore};
use serde_json::Value;
use std::fs;

/// The objects of a text of JSON lines.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// That a result's spread is one: 0 < min <= median <= max.
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
    let loading = lines(&result).pop().unwrap();
    is_spread(&loading["images_per_s"]);
    assert!(loading["load_s"].as_f64() > Some(0.0) && loading["config"]["images"] == 300, "{loading}");
    samcore(&folder.0, "bench --data dta").refused(66, "there is no data set and no folder 'dta'");
}

#[test]
fn places_where_no_file_can_be_are_refused_before_anything_is_timed() {
    let folder = Folder::new("bench-places");
    // A day for each measurement: whatever is timed first would not end.
    let bench = "bench --step cnn --seconds 86400";
    for flag in ["--json", "--tune"] {
        samcore(&folder.0, &format!("{bench} {flag}=.")).refused(73, &format!("{flag}: . is a folder"));
        samcore(&folder.0, &format!("{bench} {flag}=no/file")).refused(73, &format!("{flag}: there is no folder no"));
    }
}
