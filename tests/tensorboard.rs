//! TensorBoard itself reads from a run's event files what the records say.
//!
//! Python is `$SAMCORE_PYTHON` or python3. Where it has no tensorboard package the test is skipped, unless
//! `SAMCORE_REQUIRE_TENSORBOARD=1`.

mod common;

use common::{Folder, metrics, names_in, samcore, start, steps_told, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

type Series = BTreeMap<String, Vec<(u64, f64)>>;

/// Returns the series that TensorBoard finds in the run's event files; None if there is no TensorBoard.
fn read(run: &Path) -> Option<Series> {
    let python = std::env::var("SAMCORE_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tensorboard/read.py");
    let done = Command::new(&python).arg(script).arg(run.join("tensorboard")).stdin(Stdio::null()).output();
    let missing = match &done {
        Ok(done) => done.status.code() == Some(77),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    };
    if missing {
        let required = std::env::var("SAMCORE_REQUIRE_TENSORBOARD").is_ok_and(|v| v == "1");
        assert!(!required, "{python} has no tensorboard package (pip install tensorboard)");
        println!("skipped: no tensorboard package (pip install tensorboard)");
        return None;
    }
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["file_version"], 2.0);
    let pairs = |values: &Value| {
        let pairs = values.as_array().unwrap().iter();
        pairs.map(|pair| (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap())).collect()
    };
    Some(told["scalars"].as_object().unwrap().iter().map(|(tag, values)| (tag.clone(), pairs(values))).collect())
}

/// Checks that `series` holds every number of the run's records, and nothing else.
#[track_caller]
fn assert_as_recorded(run: &Path, mut series: Series) {
    let steps: Vec<u64> = metrics(run, "step").iter().map(|cell| cell.parse().unwrap()).collect();
    for (tag, column) in [
        ("train/loss", "train_loss"),
        ("train/accuracy", "train_accuracy"),
        ("val/loss", "val_loss"),
        ("val/accuracy", "val_accuracy"),
        ("test/loss", "test_loss"),
        ("test/accuracy", "test_accuracy"),
        ("speed/images_per_s", "images_per_s"),
    ] {
        let found = series.remove(tag).unwrap_or_else(|| panic!("no {tag}"));
        let cells: Vec<f64> = metrics(run, column).iter().map(|cell| cell.parse().unwrap()).collect();
        assert_eq!(found.iter().map(|pair| pair.0).collect::<Vec<_>>(), steps, "{tag}");
        // The cell is rounded to so many decimals, the event to 24 bits.
        let decimals = if column == "images_per_s" { 0.051 } else { 0.51e-6 };
        for ((step, value), cell) in found.iter().zip(cells) {
            assert!((value - cell).abs() < decimals + cell * 1e-7, "{tag} of step {step}: {value}, not {cell}");
        }
    }
    let text = fs::read_to_string(run.join("steps.jsonl")).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in ["loss", "lr", "grad_norm", "sharpness_gain"] {
        let found = series.remove(&format!("step/{name}")).unwrap_or_else(|| panic!("no step/{name}"));
        // The text is the shortest that reads back to the same f32.
        let told = |row: &Value| (row["step"].as_u64().unwrap(), row[name].as_f64().unwrap() as f32);
        let found: Vec<(u64, f32)> = found.into_iter().map(|(step, value)| (step, value as f32)).collect();
        assert_eq!(found, rows.iter().map(told).collect::<Vec<_>>(), "step/{name}");
    }
    assert!(series.is_empty(), "{series:?}");
}

const LINE: &str = "train --data data --model cnn --opt sam --lr 0.05 --batch 32 --epochs 3 --val-fraction 0.2 \
                    --checkpoint-steps 2 --tensorboard --out run";

#[test]
fn tensorboard_reads_what_the_records_say() {
    let folder = Folder::with_images("tensorboard", 220, 90, 2);
    samcore(&folder.0, LINE).well();
    let run = folder.path("run");
    let Some(series) = read(&run) else { return };
    assert_as_recorded(&run, series);
    let before = names_in(&run.join("tensorboard"));
    samcore(&folder.0, "train --resume run").well();
    assert_eq!(names_in(&run.join("tensorboard")), before, "nothing left to do, nothing written");
}

#[test]
fn steps_that_a_killed_run_had_written_are_replaced_by_those_of_the_resumed_one() {
    let folder = Folder::with_images("tensorboard-resume", 220, 90, 2);
    let run = folder.path("run");
    let mut line = LINE.to_string();
    for steps in [3, 7] {
        let mut child = start(&folder.0, &line);
        wait_until("some steps", || steps_told(&run) >= steps);
        child.kill().unwrap();
        child.wait().unwrap();
        // A record that is torn, as a kill amid a write leaves it.
        let newest = names_in(&run.join("tensorboard")).pop().unwrap();
        let mut file = fs::File::options().append(true).open(run.join("tensorboard").join(newest)).unwrap();
        file.write_all(&[24, 0, 0, 0, 0, 0, 0, 0, 0xA3, 0x7F, 0x4B, 0x22, 9, 0]).unwrap();
        line = "train --resume run".into();
    }
    // Rows behind the checkpoint, as a run that was killed later leaves them.
    samcore(&folder.0, "train --resume run --steps 10").well();
    let saved = fs::read(run.join("last.safetensors")).unwrap();
    samcore(&folder.0, "train --resume run --steps 14").well();
    fs::write(run.join("last.safetensors"), saved).unwrap();
    samcore(&folder.0, "train --resume run").well();
    assert_eq!(names_in(&run.join("tensorboard")).len(), 5);
    let Some(series) = read(&run) else { return };
    assert_as_recorded(&run, series);
}
