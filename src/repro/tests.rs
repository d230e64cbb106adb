//! Promises of the table of protocols: each can be planned, is small enough, and says what was published.

use super::plan::Asked;
use super::results::{MAIN, Results};
use super::*;
use crate::bench::estimate;
use crate::error::unknown;
use crate::files::TestFolder;
use crate::protocol::folder::State;
use crate::recipe::{Overrides, Value};
use std::time::Duration;

/// Multiply-add limit in GFLOP/s of two quiet cores of the EPYC that docs/performance.md measures.
const QUIET: f64 = 539.0;
/// Most time of one protocol at small scale, and of all together.
const LIMITS: [u64; 2] = [40 * 60, 4 * 3600];

/// CIFAR-10's files with `train` and `test` images of noise.
fn cifar(folder: &TestFolder, train: usize, test: usize) -> Overrides {
    let row = |r: usize| {
        let pixel = move |i: usize| ((r * 31 + i).wrapping_mul(2_654_435_761) >> 16) as u8;
        [(r % 10) as u8].into_iter().chain((0..3072).map(pixel))
    };
    for i in 1..=5 {
        let content: Vec<u8> = (0..train / 5).flat_map(row).collect();
        std::fs::write(folder.0.join(format!("data_batch_{i}.bin")), content).unwrap();
    }
    std::fs::write(folder.0.join("test_batch.bin"), (0..test).flat_map(row).collect::<Vec<u8>>()).unwrap();
    let mut given = Overrides::default();
    given.set("data", Value::Text(folder.0.display().to_string()));
    given
}

fn plan(protocol: &'static Protocol, seeds: u64, replaced: Overrides) -> Plan {
    Plan::new(Asked { protocol, scale: Scale::Small, seeds: (0..seeds).collect(), replaced }).unwrap()
}

fn replaced(of: &Protocol, data: &Overrides) -> Overrides {
    if of.name == "report-fashion" { Overrides::default() } else { data.clone() }
}

/// Operations of all runs and measurements.
fn flops(plan: &Plan) -> f64 {
    let of = |arm: &Arm| arm.flops().iter().sum::<f64>();
    plan.arms.iter().map(|arm| plan.asked.seeds.len() as f64 * of(arm)).sum()
}

#[test]
fn every_protocol_can_be_planned_and_takes_no_more_time_at_small_scale_than_promised() {
    let folder = TestFolder::new("protocols");
    let data = cifar(&folder, 10_000, 10_000);
    let mut all = Duration::ZERO;
    for protocol in PROTOCOLS {
        let plan = plan(protocol, protocol.seeds[0], replaced(protocol, &data));
        let time = estimate::duration(flops(&plan), QUIET);
        println!("{}: {:.1} minutes", protocol.name, time.as_secs_f64() / 60.0);
        assert!(time <= Duration::from_secs(LIMITS[0]), "{}: {time:?}", protocol.name);
        all += time;
        assert_eq!(plan.changes, Vec::<String>::new(), "{}", protocol.name);
        let states = vec![vec![State::ToDo; plan.asked.seeds.len()]; plan.arms.len()];
        let text = plan.text(&states, Some(QUIET));
        assert!(text.contains(protocol.answers) && text.contains("gradient evaluations; about"), "{text}");
        let mut names: Vec<&str> = plan.arms.iter().map(|arm| arm.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), plan.arms.len(), "{}: two arms share a folder", protocol.name);
    }
    println!("all: {:.1} minutes", all.as_secs_f64() / 60.0);
    assert!(all <= Duration::from_secs(LIMITS[1]), "{all:?}");
}

#[test]
fn rows_of_the_table_agree_with_themselves() {
    for protocol in PROTOCOLS {
        for scale in Scale::ALL {
            let grid = protocol.grid(scale);
            let of = |name: &str| grid.methods.iter().position(|m| m.name == name);
            for (i, method) in grid.methods.iter().enumerate() {
                let earlier = |other: &str| of(other).is_some_and(|at| at < i);
                assert!(method.takes.is_none_or(|(_, other)| earlier(other)), "{}: {}", protocol.name, method.name);
                assert!(method.against.is_none_or(earlier), "{}: {}", protocol.name, method.name);
            }
            let levels = grid.rows.iter().chain(grid.columns).map(|level| level.settings);
            let methods = grid.methods.iter().map(|method| method.settings);
            for settings in grid.shared.iter().copied().chain(levels).chain(methods) {
                Overrides::parse(settings).unwrap();
            }
            // What was published of a paper's own network stands beside it at paper scale.
            for p in protocol.published.iter().filter(|_| scale == Scale::Paper) {
                let row = grid.rows.iter().any(|row| row.stands_for == p.row);
                let column = grid.columns.iter().any(|column| column.stands_for == p.column);
                assert!(row && column && of(p.method).is_some(), "{}: {} {}", protocol.name, p.row, p.method);
            }
        }
        assert!(protocol.published.iter().all(|p| !p.value.contains("[R]") && !p.source.is_empty()));
        assert!(!protocol.shrunk.is_empty() && protocol.about.len() < 100, "{}", protocol.name);
    }
    let names: Vec<&str> = PROTOCOLS.iter().map(|p| p.name).collect();
    let expected = unknown("protocol", "sam-nois", &names).to_string();
    assert!(expected.ends_with("did you mean 'sam-noise'?"));
    assert_eq!(find("sam-nois").err().map(|e| e.to_string()), Some(expected));
}

#[test]
fn settings_that_a_protocol_varies_cannot_be_replaced_and_others_are_told() {
    let folder = TestFolder::new("replaced");
    let data = cifar(&folder, 100, 20);
    let rho = find("sam-rho").unwrap();
    let refused = data.clone().with(Overrides::parse(&[("rho", "0.1")]).unwrap());
    let asked = Asked { protocol: rho, scale: Scale::Small, seeds: vec![0], replaced: refused };
    let e = Plan::new(asked).err().unwrap();
    assert_eq!(e.exit_code(), 2);
    assert!(e.to_string().starts_with("--rho 0.1: runs of sam-rho differ in --rho; leave it out"), "{e}");

    let small = [("epochs", "1"), ("train-images", "100"), ("batch", "32"), ("threads", "1")];
    let plan = plan(rho, 1, data.clone().with(Overrides::parse(&small).unwrap()));
    assert_eq!(plan.changes, ["--epochs 1", "--train-images 100", "--batch 32", "1 of 3 seeds"]);
    assert!(plan.warning().unwrap().starts_with("Shrunk by flags: --epochs 1, "), "{:?}", plan.warning());
    assert!(plan.other_data[0].contains("in place of cifar-10, 100 training and 20 test images"));
    // SGD still has twice the epochs, and all arms have as many gradients.
    let epochs: Vec<usize> = plan.arms.iter().map(|arm| arm.share().epochs).collect();
    assert_eq!(epochs, [2, 1, 1, 1, 1, 1, 1]);
    assert!(plan.arms.iter().all(|arm| arm.share().gradients() == 4.0));
    assert_eq!(plan.arms[3].plan.runs[0].recipe.rho, 0.05);
    assert_eq!(plan.arms[3].plan.runs[0].name, "wrn-10-1-sam-rho-0.05-seed0");
}

#[test]
fn published_values_stand_beside_the_arm_that_stands_for_them() {
    let folder = TestFolder::new("published");
    let small = Overrides::parse(&[("epochs", "1"), ("train-images", "64"), ("batch", "32")]).unwrap();
    let data = cifar(&folder, 100, 20).with(small);
    for (protocol, name, value) in [
        ("sam-table1", "wrn-10-1-basic-sam", "97.3 %"),
        ("sam-table1", "wrn-10-1-cutout-sgd", "97.4 %"),
        ("sam-noise", "wrn-10-1-60-bootstrap-sam", "91.8 %"),
        ("amo-table1", "wrn-10-1-no-augmentation-amo", "93.26 %"),
        ("report-cifar", "resnet18-imagenet-sam", "77 to 78 %"),
    ] {
        let plan = plan(find(protocol).unwrap(), 1, data.clone());
        let results = Results::new(&plan);
        let arm = plan.arms.iter().position(|arm| arm.name == name).unwrap_or_else(|| panic!("no arm {name}"));
        assert_eq!(results.published(arm, MAIN).map(|p| p.value), Some(value), "{name}");
    }
    // AutoAugment is left out at small scale: its values are listed by themselves.
    let plan = plan(find("sam-table1").unwrap(), 1, data);
    let left: Vec<&str> = Results::new(&plan).unmatched().iter().map(|p| p.value).collect();
    assert_eq!(left, ["97.7 %", "97.9 %"]);
    let text = report::markdown(&Results::new(&plan));
    assert!(text.contains("0 of 12 runs are done") && text.contains("97.9 %"), "{text}");
}
