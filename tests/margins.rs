//! Optimizers that perturb activations, inputs or parts of the weights against plain transcriptions of their papers, in f64 on
//! the interpreter.

#[allow(dead_code)]
#[path = "optimizers/oracle.rs"]
mod oracle;

use oracle::*;
use samcore::graph::Graph;
use samcore::nn;
use samcore::optim::{self, Corruption, Norm, Options};

/// Smooth, as that of `oracle`, with two taps of different lengths.
fn network() -> Graph {
    let mut g = Graph::new();
    let batch = g.images(source());
    let h = nn::conv(&mut g, batch.images, "conv1", 8, 3, 1, 1).unwrap();
    let h = nn::tap(&mut g, h, "tap1", true).unwrap();
    let h = nn::batch_norm(&mut g, h, "bn").unwrap();
    let h = nn::conv(&mut g, h, "conv2", 4, 3, 2, 1).unwrap();
    let h = nn::tap(&mut g, h, "tap2", true).unwrap();
    let h = nn::global_avg_pool(&mut g, h, "pool").unwrap();
    let h = nn::linear(&mut g, h, "fc", CLASSES).unwrap();
    nn::cross_entropy(&mut g, h, batch.targets, batch.weights, 0.1).unwrap();
    g
}

const BASE: [(&str, f32); 4] = [("lr", 0.5), ("momentum", 0.9), ("weight_decay", 0.01), ("clip", 0.4)];

#[test]
fn amo_is_its_transcription() {
    let g = network();
    let slots = [&BASE[..], &[("inner_lr", 0.7), ("inner_decay", 0.2)]].concat();
    let (eta, decay) = (get(&slots, "inner_lr"), get(&slots, "inner_decay"));
    for (inner_steps, nesterov) in [(1, true), (3, false)] {
        let amo = (optim::find("amo").unwrap().build)(&Options { nesterov, inner_steps, ..Options::default() });
        let (device, _) = on_device(&g, &*amo, &slots);
        let hand = by_hand(&g, &slots, nesterov, |oracle, state, t| {
            let mut delta = vec![0.0; ROWS * (64 * 8 + 16 * 4)];
            let mut statistics = vec![];
            for i in 0..inner_steps {
                let loss = oracle.at(&state.w, Some(&delta), t);
                delta = delta.iter().zip(&loss.tap).map(|(d, g)| (1.0 - eta * decay) * d + eta * g).collect();
                if i == 0 {
                    statistics = loss.statistics;
                }
            }
            assert!(norm(&delta) > 1e-3, "the perturbation shows");
            (oracle.at(&state.w, Some(&delta), t).gradient, statistics)
        });
        assert_same(&format!("amo, {inner_steps} inner steps"), &g, &device, &hand);
    }
}

#[test]
fn robust_amo_is_its_transcription() {
    let g = network();
    // A radius that the steps reach, and some pixels' ends too.
    let own = [("inner_lr", 0.7), ("inner_decay", 0.2), ("pgd_eps", 0.05), ("pgd_lr", 0.03)];
    let slots = [&BASE[..], &own].concat();
    let [eta, decay, radius, rate] = own.map(|(name, _)| get(&slots, name));
    let (mean, std) = (f64::from(source().mean[0]), f64::from(source().std[0]));
    for (inner_steps, pgd_steps) in [(1, 1), (2, 3)] {
        let options = Options { inner_steps, pgd_steps, ..Options::default() };
        let amo = (optim::find("robust-amo").unwrap().build)(&options);
        let (device, _) = on_device(&g, &*amo, &slots);
        let hand = by_hand(&g, &slots, true, |oracle, state, t| {
            let at =
                |taps: Option<&[f64]>, input: &[f64]| oracle.attacked(0..ROWS, None, &state.w, taps, Some(input), t);
            let mut attack = vec![0.0; ROWS * 128];
            for _ in 0..pgd_steps {
                let loss = at(None, &attack);
                for ((d, g), x) in attack.iter_mut().zip(&loss.input).zip(&loss.images) {
                    let moved = (*d + rate / std * g.signum()).clamp(-radius / std, radius / std);
                    *d = (x + moved).clamp(-mean / std, (1.0 - mean) / std) - x;
                }
            }
            let mut delta = vec![0.0; ROWS * (64 * 8 + 16 * 4)];
            let mut statistics = vec![];
            for i in 0..inner_steps {
                let loss = at(Some(&delta), &attack);
                delta = delta.iter().zip(&loss.tap).map(|(d, g)| (1.0 - eta * decay) * d + eta * g).collect();
                if i == 0 {
                    statistics = loss.statistics;
                }
            }
            (at(Some(&delta), &attack).gradient, statistics)
        });
        assert_same(&format!("robust amo, {pgd_steps} steps of the attack"), &g, &device, &hand);
    }
}

/// `v` at its `n` places of largest magnitude, 0 elsewhere.
fn largest(v: &[f64], n: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_by(|a, b| v[*b].abs().total_cmp(&v[*a].abs()));
    let mut kept = vec![0.0; v.len()];
    order[..n].iter().for_each(|i| kept[*i] = v[*i]);
    kept
}

#[test]
fn corruption_is_its_transcription() {
    let g = network();
    for (norm_is, eps, n) in
        [(Norm::Two, 0.3, 0), (Norm::Two, 0.3, 20), (Norm::Infinity, 0.02, 0), (Norm::Infinity, 0.02, 50)]
    {
        let slots = [&BASE[..], &[("corruption_eps", eps)]].concat();
        let options = Options { corruption: Corruption { norm: norm_is, n }, ..Options::default() };
        let corruption = (optim::find("corruption").unwrap().build)(&options);
        let (device, _) = on_device(&g, &*corruption, &slots);
        let eps = f64::from(eps);
        let hand = by_hand(&g, &slots, true, |oracle, state, t| {
            let first = oracle.at(&state.w, None, t);
            let worst = if n == 0 { first.gradient.clone() } else { largest(&first.gradient, n) };
            let a = match norm_is {
                Norm::Two => moved(&vec![0.0; worst.len()], eps / norm(&worst), &worst),
                // signum gives 1 at 0.
                Norm::Infinity => worst.iter().map(|v| if *v == 0.0 { 0.0 } else { eps * v.signum() }).collect(),
            };
            (oracle.at(&moved(&state.w, 1.0, &a), None, t).gradient, first.statistics)
        });
        assert_same(&format!("corruption, p {norm_is:?}, n {n}"), &g, &device, &hand);
    }
}

#[test]
fn corruption_of_all_weights_in_the_2_norm_has_the_bits_of_sam() {
    let g = network();
    let run = |name: &str, size: &'static str| {
        let optimizer = (optim::find(name).unwrap().build)(&Options::default());
        let state = on_device(&g, &*optimizer, &[&BASE[..], &[(size, 0.3)]].concat()).0;
        [state.w, state.m, state.running].concat().into_iter().map(f64::to_bits).collect::<Vec<u64>>()
    };
    assert!(run("corruption", "corruption_eps") == run("sam", "rho"));
}
