//! Optimizers against plain transcriptions of their papers, in f64 on the interpreter.
//!
//! The network is smooth (no ReLU, no max pool), so that f32 and f64 never take different branches; `tests/golden.rs` has
//! the real one.

// Only tests/margins.rs asks for the attacked images.
#[cfg(feature = "mistakes")]
#[path = "optimizers/mistakes.rs"]
mod mistakes;
#[allow(dead_code)]
#[path = "optimizers/oracle.rs"]
mod oracle;
#[path = "optimizers/variants.rs"]
mod variants;

use oracle::*;
use samcore::check::relative_error;
use samcore::error::Result;
use samcore::exec::{Culprit, Exec};
use samcore::graph::{Graph, ImageSource};
use samcore::nn;
use samcore::ops::call::Augment;
use samcore::optim::{self, Optimizer, Options};
use samcore::step::{
    At, By, C, DROPPED, Division, EMA, EMA_RUNNING, FAULT, G, M, ProgramId, RUNNING, Space, Step, Sum, W,
};

const SLOTS: [(&str, f32); 5] = [("lr", 0.5), ("rho", 0.3), ("momentum", 0.9), ("weight_decay", 0.01), ("clip", 0.4)];

#[test]
fn sgd_is_its_transcription() {
    let g = network();
    for (nesterov, slots) in [(false, &SLOTS[..]), (true, &SLOTS[..]), (false, &SLOTS[..3])] {
        let sgd = (optim::find("sgd").unwrap().build)(&Options { nesterov, ..Options::default() });
        let (device, _) = on_device(&g, &*sgd, slots);
        let hand = by_hand(&g, slots, nesterov, |oracle, state, t| {
            let loss = oracle.at(&state.w, None, t);
            (loss.gradient, loss.statistics)
        });
        assert_same("sgd", &g, &device, &hand);
    }
}

#[test]
fn sam_is_its_transcription() {
    let g = network();
    let sam = (optim::find("sam").unwrap().build)(&Options::default());
    let (device, mut exec) = on_device(&g, &*sam, &SLOTS);
    let mut gain = 0.0;
    let hand = by_hand(&g, &SLOTS, true, |oracle, state, t| {
        let first = oracle.at(&state.w, None, t);
        let rho = get(&SLOTS, "rho");
        let second = oracle.at(&moved(&state.w, rho / norm(&first.gradient), &first.gradient), None, t);
        gain = second.value - first.value;
        // The running statistics are those of the first pass.
        (second.gradient, first.statistics)
    });
    assert_same("sam", &g, &device, &hand);
    let reports = exec.program(program(&exec)).reports.clone();
    let reported = reports.iter().find(|r| r.0 == "sharpness_gain").map(|r| exec.read(r.1).unwrap()).unwrap();
    assert!((f64::from(reported) - gain).abs() < 1e-5 * gain.abs().max(0.1), "gain {reported}, by hand {gain}");
}

/// The only program of the exec.
fn program(exec: &Exec) -> ProgramId {
    exec.programs().next().unwrap()
}

#[test]
fn sam_with_rho_zero_has_the_bits_of_sgd() {
    let g = network();
    let run = |name: &str, rho: f32| {
        let optimizer = (optim::find(name).unwrap().build)(&Options::default());
        let slots = SLOTS.map(|(n, v)| if n == "rho" { (n, rho) } else { (n, v) });
        let state = on_device(&g, &*optimizer, &slots).0;
        [state.w, state.m, state.running].concat().into_iter().map(f64::to_bits).collect::<Vec<u64>>()
    };
    assert!(run("sam", 0.0) == run("sgd", 0.05));
    assert!(run("sam", 0.05) != run("sgd", 0.05));
}

/// SAM by hand over a batch in groups of `m` and passes of `part` rows: the mean gradient, and the statistics of each first
/// pass.
fn sam_in_groups(oracle: &Oracle<'_>, w: &[f64], m: usize, part: usize, t: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let (mut sum, mut statistics) = (vec![0.0; w.len()], vec![]);
    for group in (0..ROWS).step_by(m) {
        let mut mean_gradient = |at: &[f64], keep: bool| {
            let mut mean = vec![0.0; w.len()];
            for first in (group..group + m).step_by(part) {
                let loss = oracle.over(first..first + part, None, at, None, t);
                mean = moved(&mean, part as f64 / m as f64, &loss.gradient);
                statistics.extend(keep.then_some(loss.statistics));
            }
            mean
        };
        let g = mean_gradient(w, true);
        let perturbed = moved(w, get(&SLOTS, "rho") / norm(&g), &g);
        sum = moved(&sum, m as f64 / ROWS as f64, &mean_gradient(&perturbed, false));
    }
    (sum, statistics)
}

#[test]
fn m_sam_and_accumulation_are_their_transcriptions() {
    let g = network();
    let sam = (optim::find("sam").unwrap().build)(&Options::default());
    for (m, accumulate, part) in [(4, 1, 4), (0, 4, 4), (8, 4, 4), (8, 1, 8)] {
        let division = Division::of(ROWS, m, accumulate).unwrap();
        let (device, mut exec) = recorded(&g, &SLOTS, &data(), |recorder| {
            recorder.program("step", division, |step| sam.record(0, step)).unwrap()
        });
        let m = if m == 0 { ROWS } else { m };
        let oracle = Oracle { g: &g, data: data() };
        let mut hand = start(&g);
        for t in 0..STEPS {
            let (gradient, statistics) = sam_in_groups(&oracle, &hand.w, m, part, t);
            descend(&mut hand, &gradient, &SLOTS, true);
            // Each first pass moves the running statistics, as it does in PyTorch.
            statistics.iter().for_each(|s| fold(&mut hand, s));
        }
        assert_same(&format!("m {m} in parts of {part}"), &g, &device, &hand);
        // Hits are counted over the whole batch, whatever its parts.
        let reports = exec.program(program(&exec)).reports.clone();
        let hits = reports.iter().find(|r| r.0 == "hits").map(|r| exec.read(r.1).unwrap()).unwrap();
        assert!(hits.fract() == 0.0 && (0.0..=ROWS as f32).contains(&hits), "{hits} hits");
    }
}

#[test]
fn a_batch_in_one_group_and_one_part_has_the_bits_of_plain_sam() {
    let g = network();
    let sam = (optim::find("sam").unwrap().build)(&Options::default());
    let plain = on_device(&g, &*sam, &SLOTS).0;
    let division = Division::of(ROWS, ROWS, 1).unwrap();
    let (divided, _) = recorded(&g, &SLOTS, &data(), |recorder| {
        recorder.program("step", division, |step| sam.record(0, step)).unwrap()
    });
    assert!((plain.w, plain.m, plain.running) == (divided.w, divided.m, divided.running));
}

#[test]
fn frozen_layers_hold_still_with_their_statistics_and_the_head_has_its_own_rate() {
    let g = network();
    let frozen = |name: &str| name.starts_with("conv.") || name.starts_with("bn.");
    let slots = [&SLOTS[..], &[("group1_lr", 0.05)]].concat();
    let sam = (optim::find("sam").unwrap().build)(&Options::default());
    let (device, _) = recorded(&g, &slots, &data(), |recorder| {
        recorder.freeze(|p| frozen(&p.name));
        recorder.rates(|p| usize::from(p.name == "fc.weight")).unwrap();
        recorder.program("step", Division::whole(ROWS), |step| sam.record(0, step)).unwrap()
    });
    let oracle = Oracle { g: &g, data: data() };
    let mut hand = start(&g);
    let before = (hand.w.clone(), hand.running.clone());
    for t in 0..STEPS {
        let gradient = |w: &[f64]| {
            let mut gradient = oracle.over(0..ROWS, Some(&hand.running), w, None, t).gradient;
            for p in g.params().list().iter().filter(|p| frozen(&p.name)) {
                gradient[p.offset..p.offset + p.len()].fill(0.0);
            }
            gradient
        };
        let first = gradient(&hand.w);
        let second = gradient(&moved(&hand.w, get(&slots, "rho") / norm(&first), &first));
        // Decay and descent of the whole vector, of which only the trained parameters count, each at its rate.
        let unmoved = hand.w.clone();
        descend(&mut hand, &second, &slots, true);
        for p in g.params().list() {
            let share = match &p.name[..] {
                "fc.weight" => 0.05 / get(&slots, "lr"),
                name if frozen(name) => 0.0,
                _ => 1.0,
            };
            for (i, before) in unmoved.iter().enumerate().skip(p.offset).take(p.len()) {
                hand.w[i] = before + share * (hand.w[i] - before);
                hand.m[i] = if frozen(&p.name) { 0.0 } else { hand.m[i] };
            }
        }
    }
    assert_same("frozen", &g, &device, &hand);
    assert_eq!(device.running, before.1);
    for p in g.params().list().iter().filter(|p| frozen(&p.name)) {
        assert_eq!(device.w[p.offset..p.offset + p.len()], before.0[p.offset..p.offset + p.len()], "{}", p.name);
    }
}

#[test]
fn the_running_average_of_weights_is_its_formula() {
    let g = network();
    let slots = [&SLOTS[..], &[("ema_keep", 0.75)]].concat();
    let sgd = (optim::find("sgd").unwrap().build)(&Options::default());
    let (device, mut exec) = recorded(&g, &slots, &data(), |recorder| {
        let record = |step: &mut Step<'_, '_>| sgd.record(0, step).and_then(|()| step.average());
        recorder.program("step", Division::whole(ROWS), record).unwrap()
    });
    let oracle = Oracle { g: &g, data: data() };
    let mut hand = start(&g);
    // Nothing was put there, so that both averages start from 0.
    let (mut average, mut running) = (vec![0.0; hand.w.len()], vec![0.0; hand.running.len()]);
    for t in 0..STEPS {
        let loss = oracle.at(&hand.w, None, t);
        descend(&mut hand, &loss.gradient, &SLOTS, true);
        fold(&mut hand, &loss.statistics);
        let keep = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| 0.75 * a + 0.25 * b).collect::<Vec<f64>>();
        (average, running) = (keep(&average, &hand.w), keep(&running, &hand.running));
    }
    assert_same("sgd", &g, &device, &hand);
    for (name, expected) in [(EMA, average), (EMA_RUNNING, running)] {
        let got = exec.vector(name).and_then(|at| exec.download_from(at)).unwrap();
        let error = relative_error(&got, &expected);
        assert!(error < 1e-5, "{name} differs by {error:.1e}");
    }
}

/// AMO in the words of Wei & Ma 2020: tests that steps over taps can be written, and are right.
struct Amo {
    inner: usize,
}

impl Optimizer for Amo {
    fn record(&self, _phase: usize, s: &mut Step<'_, '_>) -> Result<()> {
        let (d, gd) = (s.vector("delta", Space::Taps), s.vector("delta_gradient", Space::Taps));
        let (keep, eta) = (s.slot("keep"), s.slot("eta"));
        s.set(d, Sum::zero())?;
        for _ in 0..self.inner {
            let p = s.pass(At::of(C).taps(d), By::taps(), s.all(), gd)?;
            s.set(d, keep * d + eta * p.g)?;
        }
        let p = s.pass(At::of(C).taps(d), By::params(), s.all(), G)?;
        s.finish(p.g, &[p.stats], false);
        Ok(())
    }
}

#[test]
fn amo_is_its_transcription() {
    let g = network();
    let slots = [("lr", 0.5), ("momentum", 0.9), ("weight_decay", 0.01), ("eta", 0.5), ("keep", 0.75)];
    let (device, _) = on_device(&g, &Amo { inner: 2 }, &slots);
    let hand = by_hand(&g, &slots, false, |oracle, state, t| {
        let mut delta = vec![0.0; ROWS * 64 * 8];
        for _ in 0..2 {
            let tap = oracle.at(&state.w, Some(&delta), t).tap;
            delta = delta.iter().zip(&tap).map(|(d, g)| 0.75 * d + 0.5 * g).collect();
        }
        let loss = oracle.at(&state.w, Some(&delta), t);
        (loss.gradient, loss.statistics)
    });
    assert_same("amo", &g, &device, &hand);
}

#[test]
fn a_zero_gradient_leaves_the_perturbation_out_and_is_counted() {
    // Equal images, zero weights and two balanced classes: the softmax is exactly 1/2, and everything cancels exactly.
    let mut g = Graph::new();
    let batch = g.images(ImageSource { classes: 2, augment: Augment::default(), ..source() });
    let h = nn::global_avg_pool(&mut g, batch.images, "pool").unwrap();
    let h = nn::linear(&mut g, h, "fc", 2).unwrap();
    nn::cross_entropy(&mut g, h, batch.targets, batch.weights, 0.0).unwrap();
    let sam = (optim::find("sam").unwrap().build)(&Options::default());
    let data = Data { images: vec![7; ROWS * 128], labels: (0..ROWS).map(|i| (i % 2) as u8).collect() };
    let (_, mut exec) = on_data(&g, &*sam, &[("rho", 0.3)], &data);
    let zeros = vec![0.0; g.params().vector_len()];
    exec.upload(W, &zeros).unwrap();
    exec.upload(C, &zeros).unwrap();
    exec.set_slot("lr", 0.1).unwrap();
    exec.set_slot(DROPPED, 0.0).unwrap();
    let program = program(&exec);
    for _ in 0..3 {
        exec.run(program, &counters(0)).unwrap();
    }
    assert_eq!(exec.slot_value(DROPPED).unwrap(), 3.0);
    assert_eq!(exec.slot_value(FAULT).unwrap(), 0.0);
    assert_eq!(exec.download(W).unwrap(), zeros);
}

/// The softmax of a wrong class is about 1e-40 where the right one is ahead by 92: gradients are finite, rho / |g| is not.
#[test]
fn a_gradient_too_small_to_divide_by_leaves_every_optimizer_on_its_way() {
    let build = |taps: bool| {
        let mut g = Graph::new();
        let batch = g.images(ImageSource { classes: 2, augment: Augment::default(), ..source() });
        let h = nn::conv(&mut g, batch.images, "conv", 8, 3, 1, 1).unwrap();
        let h = nn::tap(&mut g, h, "tap", taps).unwrap();
        let h = nn::batch_norm(&mut g, h, "bn").unwrap();
        let h = nn::global_avg_pool(&mut g, h, "pool").unwrap();
        let h = nn::linear(&mut g, h, "fc", 2).unwrap();
        nn::cross_entropy(&mut g, h, batch.targets, batch.weights, 0.0).unwrap();
        g
    };
    let data = Data { labels: vec![0; ROWS], ..data() };
    for row in optim::OPTIMIZERS {
        let (g, options) = (build(row.taps), Options::default());
        let optimizer = (row.build)(&options);
        let record = |recorder: &mut samcore::step::Recorder<'_>| {
            let phases = 0..optimizer.phases();
            phases
                .map(|p| recorder.program(row.name, Division::whole(ROWS), |s| optimizer.record(p, s)).unwrap())
                .collect()
        };
        let slots = [("rho", 0.05), ("corruption_eps", 0.05), ("eta", 0.01), ("alpha", 0.7), ("sigma", 1.0)];
        let (_, mut exec) = in_phases(&g, &slots, &data, record, |t| optimizer.phase(t));
        let bias = g.params().list().iter().find(|p| p.name == "fc.bias").unwrap().offset;
        for ahead in [80.0, 88.0, 92.0, 100.0, 104.0] {
            let mut weights = exec.download(W).unwrap();
            (weights[bias], weights[bias + 1]) = (ahead, 0.0);
            exec.upload(W, &weights).unwrap();
            exec.upload(C, &weights).unwrap();
            for (step, program) in exec.programs().enumerate() {
                exec.run(program, &counters(step)).unwrap();
            }
            assert_eq!(exec.slot_value(FAULT).unwrap(), 0.0, "{} where a class is {ahead} ahead", row.name);
            assert_eq!(exec.download(W).unwrap(), weights, "{} at rate 0", row.name);
        }
        let divides = !["sgd", "msam", "amo", "robust-amo"].contains(&row.name);
        assert_eq!(exec.slot_value(DROPPED).unwrap() > 0.0, divides, "{}", row.name);
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_every_later_update_and_the_call_is_named() {
    let g = network();
    let sgd = (optim::find("sgd").unwrap().build)(&Options::default());
    let (_, mut exec) = on_device(&g, &*sgd, &SLOTS);
    let program = program(&exec);
    let mut weights = exec.download(W).unwrap();
    // Finite weights whose products are not.
    for (name, value) in [("bn.weight", 1e37), ("fc.weight", 1e10)] {
        let p = g.params().list().iter().find(|p| p.name == name).unwrap();
        weights[p.offset..p.offset + p.len()].fill(value);
    }
    let before = [exec.download(W).unwrap(), exec.download(M).unwrap(), exec.download(RUNNING).unwrap()];
    for vector in [W, C] {
        exec.upload(vector, &weights).unwrap();
    }
    exec.run(program, &counters(0)).unwrap();
    assert_eq!(exec.slot_value(FAULT).unwrap(), 1.0);
    let culprit = exec.find_fault(program, &counters(0), &[]).unwrap();
    assert_eq!(culprit, Some(Culprit::Call("pass1.fc.forward".into())));
    // Back to finite weights: the flag stays, and nothing moves.
    exec.upload(W, &before[0]).unwrap();
    exec.upload(C, &vec![0.5; weights.len()]).unwrap();
    exec.run(program, &counters(1)).unwrap();
    assert_eq!(exec.download(C).unwrap(), before[0], "the compute copy is that of the weights again");
    let after = [exec.download(W).unwrap(), exec.download(M).unwrap(), exec.download(RUNNING).unwrap()];
    assert_eq!(before, after);
}
