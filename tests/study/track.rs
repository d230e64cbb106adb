//! `train --track`: curvature in the records of a run, whose weights it leaves as they are.

use crate::common::{Folder, metrics, samcore};
use serde_json::Value;
use std::fs;

const TRAIN: &str = "train --data data --model cnn --opt sam --lr 0.05 --epochs 2 --batch 32 --quiet";
const TRACK: &str = "--track hessian,sharpness --track-every 3 --track-images 8";

/// The objects of a run's steps.jsonl.
fn steps(folder: &Folder, run: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.path(run).join("steps.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The tensors of the last checkpoint: all bytes behind its header, which tells of time.
fn tensors(folder: &Folder, run: &str) -> Vec<u8> {
    let bytes = fs::read(folder.path(run).join("last.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].to_vec()
}

#[test]
fn a_tracked_run_has_the_same_weights_and_its_curvature_in_the_records() {
    let folder = Folder::with_images("track", 96, 60, 2);
    samcore(&folder.0, &format!("{TRAIN} --out plain")).well();
    samcore(&folder.0, &format!("{TRAIN} {TRACK} --threads 1 --out tracked")).well();
    assert!(tensors(&folder, "plain") == tensors(&folder, "tracked"));
    for column in ["train_loss", "test_loss", "grad_norm"] {
        assert_eq!(metrics(&folder.path("plain"), column), metrics(&folder.path("tracked"), column));
    }
    let rows = steps(&folder, "tracked");
    assert_eq!(rows.len(), 6);
    for (row, plain) in rows.iter().zip(steps(&folder, "plain")) {
        // Before step 1, and every third step from there on.
        let due = row["step"].as_u64().unwrap() % 3 == 1;
        for name in ["lambda_max", "lambda_min", "sharpness"] {
            assert_eq!(row.get(name).is_some_and(Value::is_number), due, "{row}");
            assert_eq!(plain.get(name), None);
        }
        assert_eq!(row["loss"], plain["loss"]);
        if due {
            let value = |name: &str| row[name].as_f64().unwrap();
            assert!(value("lambda_max") > 0.0 && value("lambda_max") > value("lambda_min"), "{row}");
            assert!(value("sharpness") > 0.0, "{row}");
        }
    }
    let figure = fs::read_to_string(folder.path("tracked/curves.svg")).unwrap();
    assert!(figure.contains("Eigenvalues of the Hessian") && figure.contains("SGD is stable below 1.357/lr"));
    samcore(&folder.0, "plot tracked --out again").well();
    assert_eq!(fs::read_to_string(folder.path("again/curves.svg")).unwrap(), figure);

    // Stopped before a step that is tracked, and behind one.
    samcore(&folder.0, &format!("{TRAIN} {TRACK} --out halves --steps 3")).well();
    samcore(&folder.0, "train --resume halves --steps 4 --quiet").well();
    samcore(&folder.0, "train --resume halves --quiet").well();
    assert!(tensors(&folder, "halves") == tensors(&folder, "tracked"));
    assert_eq!(steps(&folder, "halves"), rows);
    samcore(&folder.0, &format!("{TRAIN} --track hesian --out none"))
        .refused(2, "unknown --track 'hesian'; did you mean 'hessian'?");
    samcore(&folder.0, &format!("{TRAIN} --track hessian --track-every 0 --out none")).refused(2, "track-every");
    assert!(!folder.path("none").exists());
}
