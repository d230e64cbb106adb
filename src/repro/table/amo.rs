//! Protocols of all-layer margin optimization (Wei and Ma 2020, arXiv:1910.04284).

use super::{CIFAR_200, EVALUATION, ONLY, SGD, STEPS, level, method};
use crate::repro::{Attack, Grid, Level, Measured, Method, Protocol, Published, Settings};

const WEI: &str = "Wei and Ma 2020, table 1: 200 epochs, the original CIFAR-10";

const fn published(row: &'static str, column: &'static str, method: &'static str, value: &'static str) -> Published {
    Published { row, column, method, measure: "test accuracy", value, source: WEI }
}

const METHODS: &[Method] = &[method("SGD", SGD), method("AMO", &[("opt", "amo")]).against("SGD")];
const CASES: &[Level] = &[
    level("basic", "basic", &[("augment", "basic")]),
    level("no augmentation", "no augmentation", &[("augment", "none")]),
    level("20 % random labels", "20 % random labels", RANDOM_LABELS),
];
/// Drawn from all classes, so that 18 % are wrong.
const RANDOM_LABELS: Settings = &[("augment", "basic"), ("label-noise", "0.2"), ("noise-all", "true")];

pub const TABLE1: Protocol = Protocol {
    name: "amo-table1",
    about: "all-layer margin optimization against SGD: augmented, not augmented, with random labels",
    answers: "AMO paper, table 1",
    seeds: [3, 3],
    small: Grid {
        shared: &[CIFAR_200, STEPS, &[("train-images", "1024"), ("batch", "128")], EVALUATION],
        rows: &[level("wrn-10-1", "WRN-16-10", &[("model", "wrn-10-1")])],
        columns: CASES,
        methods: METHODS,
    },
    paper: Grid {
        shared: &[CIFAR_200, STEPS, &[("batch", "128")]],
        rows: &[
            level("wrn-16-10", "WRN-16-10", &[("model", "wrn-16-10")]),
            level("wrn-28-10", "WRN-28-10", &[("model", "wrn-28-10")]),
        ],
        columns: CASES,
        methods: METHODS,
    },
    measured: Measured::Nothing,
    choice: false,
    published: &[
        published("WRN-16-10", "basic", "SGD", "95.85 %"),
        published("WRN-16-10", "basic", "AMO", "96.58 %"),
        published("WRN-16-10", "no augmentation", "SGD", "90.41 %"),
        published("WRN-16-10", "no augmentation", "AMO", "93.26 %"),
        published("WRN-16-10", "20 % random labels", "SGD", "90.57 %"),
        published("WRN-16-10", "20 % random labels", "AMO", "93.28 %"),
        published("WRN-28-10", "basic", "SGD", "96.18 %"),
        published("WRN-28-10", "basic", "AMO", "97.00 %"),
        published("WRN-28-10", "no augmentation", "SGD", "91.72 %"),
        published("WRN-28-10", "no augmentation", "AMO", "93.53 %"),
    ],
    shrunk: "1,024 of 50,000 training images; wrn-10-1 in place of WRN-16-10 and WRN-28-10; CIFAR-10 alone. Batches of 128, the \
             rates and their steps, and the 200 epochs stay.",
    notes: &["As in the paper both methods have the same epochs: a step of AMO takes two gradients, one of SGD one."],
};

/// The attack of training, with more steps.
const ATTACK: Attack = Attack { steps: 20, radius: 0.031, rate: 0.008, images: 2000 };
const ROBUST_METHODS: &[Method] = &[
    method("SGD", SGD),
    // Without a step of the activations' perturbation, robust AMO is training on attacked images.
    method("PGD training", &[("opt", "robust-amo"), ("inner-lr", "0")]).against("SGD"),
    method("Robust AMO", &[("opt", "robust-amo")]).against("PGD training"),
];

pub const ROBUST: Protocol = Protocol {
    name: "amo-robust",
    about: "robust AMO against training on attacked images, tested on clean and on attacked images",
    answers: "AMO paper, its experiment on adversarial training",
    seeds: [3, 3],
    small: Grid {
        shared: &[CIFAR_200, STEPS, &[("train-images", "512"), ("batch", "128")], EVALUATION],
        rows: &[level("wrn-10-1", "", &[("model", "wrn-10-1")])],
        columns: ONLY,
        methods: ROBUST_METHODS,
    },
    paper: Grid {
        shared: &[CIFAR_200, STEPS, &[("batch", "128")]],
        rows: &[level("wrn-16-10", "", &[("model", "wrn-16-10")])],
        columns: ONLY,
        methods: ROBUST_METHODS,
    },
    measured: Measured::Attack(ATTACK),
    choice: false,
    published: &[],
    shrunk: "512 of 50,000 training images; wrn-10-1 in place of a WRN-16-10. The attack, batches of 128 and the 200 epochs stay.",
    notes: &[
        "Attacked: 2,000 test images after 20 steps of projected gradient descent from the images themselves, with the radius \
             and rate of training. There is no published value whose attack and network are these.",
        "PGD training is robust AMO with an inner rate of 0, which takes one gradient a step that it does not use.",
    ],
};
