//! Optimizers that perturb activations, inputs or parts of the weights against plain transcriptions of their papers, in f64 on
//! the interpreter.

#[allow(dead_code)]
#[path = "optimizers/oracle.rs"]
mod oracle;

use oracle::*;
use samcore::graph::Graph;
use samcore::nn;
use samcore::optim::{self, Options};

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
