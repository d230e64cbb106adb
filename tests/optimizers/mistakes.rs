//! SAM's mistakes against their transcriptions in f64, and the correct SAM among them.

use super::{SLOTS, get};
use crate::oracle::*;
use samcore::optim::mistakes::{MISTAKES, NONE, applied};
use samcore::optim::{self, Optimizer, Options};

fn sam_with(mistake: &str) -> Box<dyn Optimizer> {
    let (row, options) = (optim::find("sam").unwrap(), Options::default());
    applied(mistake, row, (row.build)(&options), &options).unwrap()
}

#[test]
fn each_mistake_is_its_transcription_and_none_is_sam() {
    let g = network();
    for mistake in MISTAKES.iter().map(|(name, _)| *name).chain([NONE]) {
        // A radius so many times as large would amplify the rounding of f32.
        let rho = get(&SLOTS, "rho") as f32 / if mistake == "rho-on-sum" { ROWS as f32 } else { 1.0 };
        // Clipping would hide what momentum collects.
        let slots = &SLOTS.map(|(name, value)| if name == "rho" { (name, rho) } else { (name, value) })[..4];
        let (rho, momentum) = (get(slots, "rho"), get(slots, "momentum"));
        let (device, _) = on_device(&g, &*sam_with(mistake), slots);
        let oracle = Oracle { g: &g, data: data() };
        let mut hand = start(&g);
        for t in 0..STEPS {
            let first = oracle.at(&hand.w, None, t);
            let e: Vec<f64> = first.gradient.iter().map(|x| rho / norm(&first.gradient) * x).collect();
            let times = match mistake {
                "perturbed-twice" => 2.0,
                "rho-on-sum" => ROWS as f64,
                _ => 1.0,
            };
            let second = oracle.at(&moved(&hand.w, times, &e), None, t);
            match mistake {
                "not-restored" | "perturbed-twice" => hand.w = moved(&hand.w, 1.0, &e),
                "momentum-first" => {
                    let less = moved(&first.gradient, -1.0, &second.gradient);
                    hand.m = moved(&hand.m, 1.0 / momentum, &less);
                }
                _ => {}
            }
            descend(&mut hand, &second.gradient, slots, true);
            let statistics = match mistake {
                "stats-second" => vec![second.statistics],
                "stats-both" => vec![first.statistics, second.statistics],
                "stats-frozen" => vec![],
                _ => vec![first.statistics],
            };
            statistics.iter().for_each(|s| fold(&mut hand, s));
        }
        assert_same(mistake, &g, &device, &hand);
        let correct = on_device(&g, &*sam_with(NONE), slots).0;
        let same = (&device.w, &device.m, &device.running) == (&correct.w, &correct.m, &correct.running);
        assert_eq!(same, mistake == NONE, "{mistake}");
    }
}

#[test]
fn other_optimizers_have_no_mistakes_and_unknown_names_are_refused() {
    let (row, options) = (optim::find("sgd").unwrap(), Options::default());
    let error = applied("stats-both", row, (row.build)(&options), &options).err().unwrap();
    assert_eq!(error.to_string(), "--mistake stats-both is one of SAM's steps; --opt sgd has none");
    let error = applied("stats-bot", row, (row.build)(&options), &options).err().unwrap();
    assert_eq!(error.to_string(), "unknown mistake 'stats-bot'; did you mean 'stats-both'?");
    assert!(applied(NONE, row, (row.build)(&options), &options).is_ok());
}
