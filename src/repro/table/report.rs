//! Protocols of the report that this project starts from: SAM for 50 epochs against SGD for 100.

use super::{EVALUATION_OF_SHORT_RUNS, ONLY, SAM, SGD, level, method};
use crate::repro::{Grid, Measured, Method, Protocol, Published, Settings};

const REPORT: &str = "the report that this project starts from";

const fn published(row: &'static str, method: &'static str, value: &'static str) -> Published {
    Published { row, column: "", method, measure: "test accuracy", value, source: REPORT }
}

/// One epoch of SAM counts as two of SGD.
const TWO: &[Method] = &[method("SGD", SGD).longer(2), method("SAM", SAM).against("SGD")];
const EPOCHS: Settings = &[("epochs", "50"), ("batch", "128")];

pub const CIFAR: Protocol = Protocol {
    name: "report-cifar",
    about: "wide_resnet50_2 on CIFAR-10: SAM for 50 epochs against SGD for 100",
    answers: "the report, its table for CIFAR-10",
    seeds: [3, 3],
    small: Grid {
        shared: &[EPOCHS, &[("data", "cifar-10"), ("train-images", "2560")], EVALUATION_OF_SHORT_RUNS],
        rows: &[level("resnet18-imagenet", "wide_resnet50_2", &[("model", "resnet18-imagenet")])],
        columns: ONLY,
        methods: TWO,
    },
    paper: Grid {
        shared: &[EPOCHS, &[("data", "cifar-10")]],
        rows: &[level("wide_resnet50_2", "wide_resnet50_2", &[("model", "wide_resnet50_2")])],
        columns: ONLY,
        methods: TWO,
    },
    measured: Measured::Nothing,
    choice: false,
    published: &[
        published("wide_resnet50_2", "SGD", "79 % (77 % after 50 epochs)"),
        published("wide_resnet50_2", "SAM", "77 to 78 %"),
    ],
    shrunk: "2,560 of 50,000 training images; torchvision's ResNet-18 in place of its wide_resnet50_2, with the same stem for \
             ImageNet. Batches of 128 and the 50 and 100 epochs stay.",
    notes: &["Learning rate, schedule and rho are those of the network's recipe here."],
};

pub const FASHION: Protocol = Protocol {
    name: "report-fashion",
    about: "a small CNN on Fashion-MNIST: SAM for 50 epochs against SGD for 100",
    answers: "the report, its table for Fashion-MNIST",
    seeds: [3, 3],
    small: Grid {
        shared: &[EPOCHS, &[("data", "fashion-mnist"), ("train-images", "5000")], EVALUATION_OF_SHORT_RUNS],
        rows: &[level("cnn", "CNN", &[("model", "cnn")])],
        columns: ONLY,
        methods: TWO,
    },
    paper: Grid {
        shared: &[EPOCHS, &[("data", "fashion-mnist")]],
        rows: &[level("cnn", "CNN", &[("model", "cnn")])],
        columns: ONLY,
        methods: TWO,
    },
    measured: Measured::Nothing,
    choice: false,
    published: &[published("CNN", "SGD", "85 to 86 %"), published("CNN", "SAM", "39 % (72 % after 10 epochs)")],
    shrunk: "5,000 of 60,000 training images. The network, batches of 128 and the 50 and 100 epochs stay.",
    notes: &[
        "The network is samcore's cnn with its recipe, a learning rate that falls along a cosine; the report has no schedule.",
    ],
};
