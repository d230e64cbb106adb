//! Protocols of parameter corruption (Sun et al. 2021, arXiv:2006.05620).

use super::{CIFAR_200, EVALUATION, ONLY, SGD, level, method};
use crate::optim::Norm;
use crate::repro::{Corruption, Grid, Measured, Method, Protocol, Published};

const SUN: &str = "Sun et al. 2021: ResNet-34 on CIFAR-10, 94.3 % uncorrupted";

const ONE: &[Method] = &[method("SGD", SGD)];

pub const TABLE1: Protocol = Protocol {
    name: "corruption-table1",
    about: "accuracy under random and under gradient-based corruption of all parameters",
    answers: "parameter corruption paper, table 1",
    seeds: [3, 3],
    small: Grid {
        shared: &[CIFAR_200, &[("train-images", "1024"), ("batch", "128")], EVALUATION],
        rows: &[level("resnet20", "ResNet-34", &[("model", "resnet20")])],
        columns: ONLY,
        methods: ONE,
    },
    paper: Grid {
        shared: &[CIFAR_200, &[("batch", "128")]],
        rows: &[level("resnet34", "ResNet-34", &[("model", "resnet34")])],
        columns: ONLY,
        methods: ONE,
    },
    measured: Measured::Corruption(Corruption {
        sizes: &[(Norm::Two, &[0.1, 1.0, 10.0]), (Norm::Infinity, &[1e-4, 1e-3, 1e-2])],
        entries: &["all", "100"],
        seeds: 3,
        depth: 0,
        whole: true,
        images: [1024, 2000],
    }),
    choice: false,
    published: &[
        Published {
            row: "ResNet-34",
            column: "",
            method: "SGD",
            measure: "gradient-based, p = inf, n = all, eps = 0.001",
            value: "36.1 %",
            source: SUN,
        },
        Published {
            row: "ResNet-34",
            column: "",
            method: "SGD",
            measure: "random, p = inf, n = all, eps = 0.001",
            value: "94.3 %, unchanged",
            source: SUN,
        },
    ],
    shrunk: "1,024 of 50,000 training images; resnet20 in place of ResNet-34; the gradient is over 1,024 training images, \
             accuracy on 2,000 test images. The 200 epochs stay.",
    notes: &[
        "The published 36.1 % is for n = k (all parameters) at eps = 0.001. It is read as p = inf, since a change of the weights \
             whose 2-norm is 0.001 could not do that.",
    ],
};

pub const LAYERS: Protocol = Protocol {
    name: "corruption-layers",
    about: "accuracy when one layer's parameters are corrupted by their gradients",
    answers: "parameter corruption paper, its map of layers",
    seeds: [3, 3],
    small: Grid {
        shared: &[CIFAR_200, &[("train-images", "1024"), ("batch", "128")], EVALUATION],
        rows: &[level("resnet20", "ResNet-34", &[("model", "resnet20")])],
        columns: ONLY,
        methods: ONE,
    },
    paper: Grid {
        shared: &[CIFAR_200, &[("batch", "128")]],
        rows: &[level("resnet34", "ResNet-34", &[("model", "resnet34")])],
        columns: ONLY,
        methods: ONE,
    },
    measured: Measured::Corruption(Corruption {
        sizes: &[(Norm::Two, &[1.0, 10.0, 100.0])],
        entries: &["100"],
        seeds: 0,
        depth: 1,
        whole: false,
        images: [1024, 2000],
    }),
    choice: false,
    published: &[
        layer("layer1, p = 2, n = 100, eps = 100", "13.5 %"),
        layer("layer2, p = 2, n = 100, eps = 100", "13.2 %"),
        layer("layer3, p = 2, n = 100, eps = 100", "11.8 %"),
        layer("layer4, p = 2, n = 100, eps = 100", "92.5 %"),
    ],
    shrunk: "1,024 of 50,000 training images; resnet20, which has three groups of blocks, in place of ResNet-34, which has four. \
             The 200 epochs stay.",
    notes: &[],
};

const fn layer(measure: &'static str, value: &'static str) -> Published {
    Published { row: "ResNet-34", column: "", method: "SGD", measure, value, source: SUN }
}

const TRAINED: &[Method] = &[
    method("SGD", SGD).longer(2),
    method("Corruption, p = inf", &[("opt", "corruption"), ("corruption-p", "inf"), ("corruption-eps", "2e-4")])
        .against("SGD"),
    method(
        "Corruption, p = 2, n = 1000",
        &[("opt", "corruption"), ("corruption-p", "2"), ("corruption-eps", "0.05"), ("corruption-n", "1000")],
    )
    .against("SGD"),
];

pub const TRAINING: Protocol = Protocol {
    name: "corruption-training",
    about: "corruption-resistant training against SGD with twice the epochs: accuracy and robustness",
    answers: "parameter corruption paper, its tables on corruption-resistant training",
    seeds: [3, 3],
    small: Grid {
        shared: &[CIFAR_200, &[("train-images", "1024"), ("batch", "128")], EVALUATION],
        rows: &[level("wrn-10-1", "CIFAR-10", &[("model", "wrn-10-1")])],
        columns: ONLY,
        methods: TRAINED,
    },
    paper: Grid {
        shared: &[CIFAR_200, &[("batch", "128")]],
        rows: &[level("resnet34", "CIFAR-10", &[("model", "resnet34")])],
        columns: ONLY,
        methods: TRAINED,
    },
    measured: Measured::Corruption(Corruption {
        sizes: &[(Norm::Two, &[0.1, 1.0]), (Norm::Infinity, &[1e-4, 1e-3])],
        entries: &["all", "1000"],
        seeds: 1,
        depth: 0,
        whole: true,
        images: [1024, 2000],
    }),
    choice: false,
    published: &[Published {
        row: "CIFAR-10",
        column: "",
        method: "Corruption, p = 2, n = 1000",
        measure: "test accuracy",
        value: "+1.0 to +1.9 points over SGD",
        source: "Sun et al. 2021: eps from 0.05 to 1, the best p and eps for each network",
    }],
    shrunk: "1,024 of 50,000 training images; wrn-10-1 in place of ResNet-34. The 200 epochs stay.",
    notes: &["The radii are ours: the paper chooses p and eps for each network."],
};
