//! Tests of records: what is written, cut back and read.

use super::*;
use crate::error::Kind;
use crate::files::TestFolder;

const STEPS_PER_EPOCH: u64 = 4;
const NONE: Extras = Extras { validation: false, noise: false, waited: false, loss_kind: false };

fn write_steps(records: &mut Records, steps: std::ops::RangeInclusive<u64>, extras: Extras) {
    for step in steps {
        let epoch = (step - 1) / STEPS_PER_EPOCH + 1;
        let loss = 2.0 / step as f32;
        let scalars = [("sharpness_gain", if step == 3 { f32::NAN } else { 0.1 * loss })];
        let (hits, epoch) = (step as u32, epoch as u32);
        let row = StepRow { step, epoch, loss, hits, lr: 0.1, grad_norm: 1e-9, scalars: &scalars };
        records.step(&row).unwrap();
        if step % STEPS_PER_EPOCH == 0 {
            let scores = Scores { loss: 0.25, accuracy: 8.0 / 9.0 };
            let row = EpochRow { epoch, step, train: scores, test: Some(scores), lr: 0.1, ..EpochRow::default() };
            let noise = NoiseScores { clean: Some(0.75), learned: Some(0.5), memorised: None };
            let noise = extras.noise.then_some(noise);
            let validation = extras.validation.then_some(scores);
            let row = EpochRow { validation, noise, sharpness_gain: Some(0.5), ..row };
            records.epoch(&row).unwrap();
        }
    }
    records.flush().unwrap();
}

#[test]
fn files_say_what_the_rows_said() {
    let scratch = TestFolder::new("records");
    let folder = RunFolder::create(&scratch.0, "", Some(&scratch.0)).unwrap();
    write_steps(&mut Records::create(&folder, NONE).unwrap(), 1..=4, NONE);
    let steps = std::fs::read_to_string(folder.steps()).unwrap();
    let lines: Vec<&str> = steps.lines().collect();
    let first = r#"{"step":1,"epoch":1,"hits":1,"loss":2.0,"lr":0.1,"grad_norm":1e-9,"sharpness_gain":0.2}"#;
    assert_eq!((lines.len(), lines[0]), (4, first));
    let third: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
    assert!(third["sharpness_gain"].is_null() && third["step"] == 3);
    assert_eq!(rates(&folder.steps()), [1.0, 2.0, 3.0, 4.0].map(|step| (step, 0.1)));
    assert_eq!(rates(&folder.curves()), []);
    assert_eq!(
        std::fs::read_to_string(folder.metrics()).unwrap(),
        "epoch,step,train_loss,train_accuracy,test_loss,test_accuracy,lr,grad_norm,sharpness_gain,seconds,images_per_s\n\
         1,4,0.250000,0.888889,0.250000,0.888889,0.1,0,0.5,0.000,0.0\n"
    );
    let noisy = Extras { noise: true, ..NONE };
    write_steps(&mut Records::create(&folder, noisy).unwrap(), 1..=4, noisy);
    let metrics = Metrics::read(&folder.metrics()).unwrap();
    let [clean, learned, memorised] = ["clean_accuracy", "learned", "memorised"].map(|c| metrics.column(c).unwrap());
    assert_eq!((clean, learned, memorised), (vec![Some(0.75)], vec![Some(0.5)], vec![None]));
}

#[test]
fn only_runs_with_autoaugment_tell_how_long_they_waited_for_it() {
    let scratch = TestFolder::new("waited");
    let folder = RunFolder::create(&scratch.0, "", Some(&scratch.0)).unwrap();
    let mut records = Records::create(&folder, Extras { waited: true, ..NONE }).unwrap();
    records.epoch(&EpochRow { waited: Some(0.25), ..EpochRow::default() }).unwrap();
    records.flush().unwrap();
    assert_eq!(Metrics::read(&folder.metrics()).unwrap().column("waited"), Some(vec![Some(0.25)]));
}

#[test]
fn a_run_of_an_earlier_version_keeps_its_columns_and_a_word_is_no_number() {
    let scratch = TestFolder::new("loss-kind");
    let folder = RunFolder::create(&scratch.0, "", Some(&scratch.0)).unwrap();
    let smoothed = Extras { loss_kind: true, ..NONE };
    let row = |step| EpochRow { epoch: 1, step, loss_kind: "smoothed".into(), ..EpochRow::default() };
    for (began_with, column) in [(NONE, None), (smoothed, Some(vec![None, None]))] {
        let mut records = Records::create(&folder, began_with).unwrap();
        records.epoch(&row(4)).unwrap();
        records.flush().unwrap();
        let mut records = Kept::read(&folder, smoothed, 4).unwrap().open().unwrap();
        records.epoch(&row(8)).unwrap();
        records.flush().unwrap();
        let metrics = Metrics::read(&folder.metrics()).unwrap();
        assert_eq!((metrics.column(LOSS_KIND), metrics.column("step")), (column, Some(vec![Some(4.0), Some(8.0)])));
        assert_eq!(metrics.column("train_loss"), Some(vec![Some(0.0); 2]));
    }
    assert!(std::fs::read_to_string(folder.metrics()).unwrap().contains("8,0.000000,smoothed,0.000000,"));
}

#[test]
fn an_interrupted_run_leaves_the_same_bytes_as_an_unbroken_one() {
    for extras in [NONE, Extras { validation: true, noise: true, waited: true, loss_kind: true }] {
        let scratch = TestFolder::new(&format!("resume-{}", extras.noise));
        let folder = RunFolder::create(&scratch.0, "", Some(&scratch.0)).unwrap();
        let read = || [folder.metrics(), folder.steps()].map(|p| std::fs::read(p).unwrap());
        write_steps(&mut Records::create(&folder, extras).unwrap(), 1..=11, extras);
        let unbroken = read();
        // Killed behind step `end` with a checkpoint at step `saved`, some bytes of the next rows already out.
        for (saved, end, torn) in [(0, 3, ""), (4, 4, "{\"step\":"), (6, 11, "9"), (8, 9, "\u{fffd}"), (11, 11, "{}")] {
            let mut records = Records::create(&folder, extras).unwrap();
            write_steps(&mut records, 1..=end, extras);
            for file in [&mut records.metrics, &mut records.steps] {
                file.write(torn.as_bytes()).unwrap();
            }
            records.flush().unwrap();
            let kept = Kept::read(&folder, extras, saved).unwrap();
            assert_eq!((kept.last(), kept.losses(STEPS_PER_EPOCH)), (saved, vec![]));
            let mut resumed = kept.open().unwrap();
            write_steps(&mut resumed, saved + 1..=11, extras);
            assert_eq!(read(), unbroken, "saved at {saved}, killed behind {end}");
        }
    }
}

#[test]
fn lost_rows_are_named_and_records_continue_behind_them() {
    let scratch = TestFolder::new("lost");
    let folder = RunFolder::create(&scratch.0, "", Some(&scratch.0)).unwrap();
    let fresh = || write_steps(&mut Records::create(&folder, NONE).unwrap(), 1..=9, NONE);
    let losses = |step| Kept::read(&folder, NONE, step).unwrap().losses(STEPS_PER_EPOCH);
    let cut = |path: &Path, bytes: u64| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
    };
    let [metrics, steps] = [folder.metrics(), folder.steps()];
    let told = |path: &Path, rows: &str| {
        format!("{} has lost {rows}, which the checkpoint includes; it continues behind them", path.display())
    };
    fresh();
    assert_eq!(losses(9), Vec::<String>::new());
    cut(&steps, 1);
    cut(&metrics, 1);
    assert_eq!(losses(9), [told(&steps, "step 9"), told(&metrics, "epoch 2")]);
    assert_eq!(losses(7), Vec::<String>::new(), "rows that the checkpoint does not include are no loss");
    std::fs::remove_file(&steps).unwrap();
    std::fs::write(&metrics, "epo").unwrap();
    assert_eq!(losses(9), [told(&steps, "steps 1 to 9"), told(&metrics, "epochs 1 to 2")]);
    assert!(!steps.exists() && std::fs::read(&metrics).unwrap() == b"epo", "reading changes nothing");
    write_steps(&mut Kept::read(&folder, NONE, 9).unwrap().open().unwrap(), 10..=12, NONE);
    assert_eq!(Metrics::read(&metrics).unwrap().column("step"), Some(vec![Some(12.0)]));
    assert_eq!(losses(12), Vec::<String>::new(), "said once");
}

#[test]
fn damaged_records_are_refused_with_a_way_to_resume() {
    let scratch = TestFolder::new("damaged");
    let folder = RunFolder::create(&scratch.0, "", Some(&scratch.0)).unwrap();
    write_steps(&mut Records::create(&folder, NONE).unwrap(), 1..=5, NONE);
    let refused = |message: &str| {
        let e = Kept::read(&folder, NONE, 9).err().unwrap();
        assert_eq!((e.kind, e.to_string().contains(message)), (Kind::Data, true), "{e}");
    };
    std::fs::write(folder.steps(), "{\"step\":1}\nsoup\n{\"step\":3}\n").unwrap();
    refused("steps.jsonl line 2 is not a record: soup; restore the file, or move it away to resume without it");
    std::fs::write(folder.metrics(), "epoch,loss\n").unwrap();
    refused("metrics.csv line 1 should be epoch,step,");
}

#[test]
fn metrics_are_read_back_with_empty_cells_and_without_a_torn_line() {
    let scratch = TestFolder::new("metrics");
    let path = scratch.0.join("metrics.csv");
    std::fs::write(&path, "epoch,step,gain\n1,4,\n2,8,0.5\n3,1").unwrap();
    let metrics = Metrics::read(&path).unwrap();
    assert_eq!(metrics.column("gain"), Some(vec![None, Some(0.5)]));
    assert_eq!(metrics.column("loss"), None);
    for (text, message) in [("", "line 1: there is no header"), ("a,b\n1\n", "line 2: 1 cells below 2 columns")] {
        std::fs::write(&path, text).unwrap();
        assert!(Metrics::read(&path).unwrap_err().to_string().ends_with(message));
    }
    std::fs::write(&path, "a,b\n1,x\n").unwrap();
    assert!(Metrics::read(&path).unwrap_err().to_string().ends_with("line 2: 'x' is not a number"));
}
