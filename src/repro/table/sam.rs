//! Protocols of the SAM paper (Foret et al. 2021, arXiv:2010.01412).

use super::{CIFAR_200, EVALUATION, EVALUATION_OF_SHORT_RUNS, ONLY, SAM, SGD, level, method};
use crate::repro::{Grid, Measured, Method, Protocol, Published, Settings, Takes};

const FORET: &str = "Foret et al. 2021, table 1: 200 epochs, the original CIFAR-10";
const NOISE_TABLE: &str = "Foret et al. 2021, table 4: ResNet-32, 200 epochs, the original CIFAR-10";
const GASTALDI: &str = "Gastaldi 2017: 1,800 epochs";
const HAN: &str = "Han et al. 2017: PyramidNet-272 a200, 300 epochs";

const fn published(
    row: &'static str,
    column: &'static str,
    method: &'static str,
    value: &'static str,
    source: &'static str,
) -> Published {
    Published { row, column, method, measure: "test accuracy", value, source }
}

/// Twice the epochs for the method whose step takes half the gradients.
const TWO: &[Method] = &[method("SGD", SGD).longer(2), method("SAM", SAM).against("SGD")];
/// On eight devices the paper perturbs by each one's 32 images of a batch of 256.
const SAM_M32: Settings = &[("opt", "sam"), ("m", "32")];

pub const TABLE1: Protocol = Protocol {
    name: "sam-table1",
    about: "networks and augmentations on CIFAR-10: SAM against SGD with twice the epochs",
    answers: "SAM paper, table 1",
    seeds: [3, 5],
    small: Grid {
        shared: &[CIFAR_200, &[("train-images", "320"), ("batch", "64")], EVALUATION],
        rows: &[
            level("wrn-10-1", "WRN-28-10", &[("model", "wrn-10-1")]),
            level("shake-shake-8-2x16d", "Shake-Shake 26 2x96d", SHAKE_SMALL),
            level("pyramidnet-8-a12", "PyramidNet", PYRAMID_SMALL),
        ],
        columns: &[
            level("basic", "basic", &[("augment", "basic")]),
            level("cutout", "cutout", &[("augment", "cutout")]),
        ],
        methods: TWO,
    },
    paper: Grid {
        shared: &[CIFAR_200, &[("batch", "256")]],
        rows: &[
            level("wrn-28-10", "WRN-28-10", &[("model", "wrn-28-10")]),
            level("shake-shake-26-2x96d", "Shake-Shake 26 2x96d", SHAKE),
            level("pyramidnet-272-a200", "PyramidNet", PYRAMID),
        ],
        columns: &[
            level("basic", "basic", &[("augment", "basic")]),
            level("cutout", "cutout", &[("augment", "cutout")]),
            level("aa", "aa", &[("augment", "aa")]),
        ],
        methods: &[method("SGD", SGD).longer(2), method("SAM", SAM_M32).against("SGD")],
    },
    measured: Measured::Nothing,
    choice: false,
    published: &[
        published("WRN-28-10", "basic", "SGD", "96.5 %", FORET),
        published("WRN-28-10", "basic", "SAM", "97.3 %", FORET),
        published("WRN-28-10", "cutout", "SGD", "97.4 %", FORET),
        published("WRN-28-10", "cutout", "SAM", "97.7 %", FORET),
        published("WRN-28-10", "aa", "SGD", "97.7 %", FORET),
        published("WRN-28-10", "aa", "SAM", "97.9 %", FORET),
        published("Shake-Shake 26 2x96d", "basic", "SGD", "97.14 %", GASTALDI),
        published("PyramidNet", "basic", "SGD", "96.69 %", HAN),
    ],
    shrunk: "320 of 50,000 training images in batches of 64; wrn-10-1, shake-shake-8-2x16d and pyramidnet-8-a12 in place of \
             WRN-28-10, Shake-Shake 26 2x96d and PyramidNet-272; crop and flip, and cutout, without AutoAugment; one \
             perturbation for the whole batch; 3 seeds in place of 5. The 200 epochs of SAM and 400 of SGD stay.",
    notes: &["The paper counts the better of SGD's scores after 200 and after 400 epochs; here it has the 400."],
};

const SHAKE_SMALL: Settings =
    &[("model", "shake-shake-8-2x16d"), ("lr", "0.02"), ("weight-decay", "1e-3"), ("rho", "0.02")];
const PYRAMID_SMALL: Settings =
    &[("model", "pyramidnet-8-a12"), ("lr", "0.05"), ("weight-decay", "5e-4"), ("rho", "0.05")];
const SHAKE: Settings = &[("model", "shake-shake-26-2x96d"), ("lr", "0.02"), ("weight-decay", "1e-3"), ("rho", "0.02")];
const PYRAMID: Settings =
    &[("model", "pyramidnet-272-a200-bottleneck"), ("lr", "0.05"), ("weight-decay", "5e-4"), ("rho", "0.05")];

/// The grid that the report and the paper search, on a tenth of the training images held out.
const RHOS: &[Method] = &[
    method("SGD", SGD).longer(2),
    method("SAM, rho 0.001", &[("opt", "sam"), ("rho", "0.001")]).against("SGD"),
    method("SAM, rho 0.02", &[("opt", "sam"), ("rho", "0.02")]).against("SGD"),
    method("SAM, rho 0.05", &[("opt", "sam"), ("rho", "0.05")]).against("SGD"),
    method("SAM, rho 0.1", &[("opt", "sam"), ("rho", "0.1")]).against("SGD"),
    method("SAM, rho 0.2", &[("opt", "sam"), ("rho", "0.2")]).against("SGD"),
    method("SAM, rho 0.5", &[("opt", "sam"), ("rho", "0.5")]).against("SGD"),
];

pub const RHO: Protocol = Protocol {
    name: "sam-rho",
    about: "the radius rho over its grid, chosen on a tenth of the training images held out",
    answers: "SAM paper, appendix C, and the report's search for rho",
    seeds: [3, 3],
    small: Grid {
        shared: &[CIFAR_200, &[("train-images", "1024"), ("batch", "64"), ("val-fraction", "0.1")], EVALUATION],
        rows: &[level("wrn-10-1", "WRN-28-10", &[("model", "wrn-10-1")])],
        columns: ONLY,
        methods: RHOS,
    },
    paper: Grid {
        shared: &[CIFAR_200, &[("batch", "128"), ("val-fraction", "0.1")]],
        rows: &[level("wrn-28-10", "WRN-28-10", &[("model", "wrn-28-10")])],
        columns: ONLY,
        methods: RHOS,
    },
    measured: Measured::Nothing,
    choice: true,
    published: &[published(
        "WRN-28-10",
        "",
        "SAM, rho 0.05",
        "chosen for CIFAR-10",
        "Foret et al. 2021, appendix C: rho 0.05 for WRN-28-10 on CIFAR-10",
    )],
    shrunk: "1,024 of 50,000 training images, of which a tenth is held out, in batches of 64; wrn-10-1 in place of WRN-28-10. \
             The grid, the 200 epochs of SAM and 400 of SGD stay.",
    notes: &[
        "The choice rests on the mean validation accuracy over all seeds; about a hundred held-out images a seed tell apart \
             only radii that are far apart.",
    ],
};

/// Mixup's parameter: the SAM paper takes the best of 1, 8, 16 and 32.
const MIXUP: Settings = &[("opt", "sgd"), ("mixup", "1")];
const NOISY: &[Method] = &[
    method("SGD", SGD),
    method("Mixup", MIXUP).against("SGD"),
    method("Bootstrap + Mixup", MIXUP).taking(Takes::Labels, "Mixup").against("SGD"),
    method("SAM", SAM).against("SGD"),
    method("Bootstrap + SAM", SAM).taking(Takes::Labels, "SAM").against("SGD"),
];

const fn noise(row: &'static str, column: &'static str, method: &'static str, value: &'static str) -> Published {
    published(row, column, method, value, NOISE_TABLE)
}

pub const NOISE: Protocol = Protocol {
    name: "sam-noise",
    about: "wrong training labels: SGD, Mixup, Bootstrap + Mixup, SAM, Bootstrap + SAM at 20 to 80 %",
    answers: "SAM paper, table 4",
    seeds: [3, 5],
    small: Grid {
        shared: &[CIFAR_200, &[("train-images", "384"), ("batch", "64")], EVALUATION],
        rows: &[level("wrn-10-1", "ResNet-32", &[("model", "wrn-10-1")])],
        columns: RATES,
        methods: NOISY,
    },
    paper: Grid {
        shared: &[CIFAR_200, &[("batch", "128"), ("weight-decay", "1e-4")]],
        rows: &[level("resnet32", "ResNet-32", &[("model", "resnet32")])],
        columns: RATES,
        methods: NOISY,
    },
    measured: Measured::Nothing,
    choice: false,
    published: &[
        noise("ResNet-32", "20 %", "SGD", "84.8 %"),
        noise("ResNet-32", "40 %", "SGD", "68.8 %"),
        noise("ResNet-32", "60 %", "SGD", "48.2 %"),
        noise("ResNet-32", "80 %", "SGD", "26.2 %"),
        noise("ResNet-32", "20 %", "Mixup", "93.0 %"),
        noise("ResNet-32", "40 %", "Mixup", "90.0 %"),
        noise("ResNet-32", "60 %", "Mixup", "83.8 %"),
        noise("ResNet-32", "80 %", "Mixup", "70.2 %"),
        noise("ResNet-32", "20 %", "Bootstrap + Mixup", "93.3 %"),
        noise("ResNet-32", "40 %", "Bootstrap + Mixup", "92.0 %"),
        noise("ResNet-32", "60 %", "Bootstrap + Mixup", "87.6 %"),
        noise("ResNet-32", "80 %", "Bootstrap + Mixup", "72.0 %"),
        noise("ResNet-32", "20 %", "SAM", "95.1 %"),
        noise("ResNet-32", "40 %", "SAM", "93.4 %"),
        noise("ResNet-32", "60 %", "SAM", "90.5 %"),
        noise("ResNet-32", "80 %", "SAM", "77.9 %"),
        noise("ResNet-32", "20 %", "Bootstrap + SAM", "95.4 %"),
        noise("ResNet-32", "40 %", "Bootstrap + SAM", "94.2 %"),
        noise("ResNet-32", "60 %", "Bootstrap + SAM", "91.8 %"),
        noise("ResNet-32", "80 %", "Bootstrap + SAM", "79.9 %"),
    ],
    shrunk: "384 of 50,000 training images in batches of 64; wrn-10-1 in place of ResNet-32; 3 seeds in place of 5. The rates \
             of noise, the methods, rho and the 200 epochs stay.",
    notes: &[
        "As in the paper's table every method has 200 epochs, so SAM takes twice the gradients of the others.",
        "A bootstrap takes its first run from the method of the same name without it: the same seed, noise and epochs.",
        "Mixup's parameter is 1; the paper takes the best of 1, 8, 16 and 32.",
    ],
};

/// Rates of noise, with the paper's rho for them.
const RATES: &[crate::repro::Level] = &[
    level("20 %", "20 %", &[("label-noise", "0.2"), ("rho", "0.1")]),
    level("40 %", "40 %", &[("label-noise", "0.4"), ("rho", "0.1")]),
    level("60 %", "60 %", &[("label-noise", "0.6"), ("rho", "0.1")]),
    level("80 %", "80 %", &[("label-noise", "0.8"), ("rho", "0.05")]),
];

/// Short runs at a low rate from trained weights.
const SHORT: Settings = &[("epochs", "50"), ("lr", "0.01"), ("schedule", "cosine"), ("warmup", "0"), ("batch", "128")];
const BEFORE: Settings = &[("opt", "sgd"), ("data", "cifar-10"), ("lr", "0.1"), ("augment", "basic")];
const TUNED: &[Method] = &[
    method("pretraining", BEFORE).hidden(),
    method("SGD", SGD).longer(2).taking(Takes::Weights, "pretraining"),
    method("SAM", SAM).taking(Takes::Weights, "pretraining").against("SGD"),
    method("SGD, from scratch", &[("opt", "sgd"), ("lr", "0.1")]).longer(2).against("SGD"),
];
const TUNED_SMALL: &[Method] = &[
    method("pretraining", BEFORE_SMALL).hidden(),
    method("SGD", SGD).longer(2).taking(Takes::Weights, "pretraining"),
    method("SAM", SAM).taking(Takes::Weights, "pretraining").against("SGD"),
    method("SGD, from scratch", &[("opt", "sgd"), ("lr", "0.1")]).longer(2).against("SGD"),
];
const BEFORE_SMALL: Settings =
    &[("opt", "sgd"), ("data", "cifar-10"), ("lr", "0.1"), ("augment", "basic"), ("train-images", "10000")];

pub const FINETUNE: Protocol = Protocol {
    name: "sam-finetune",
    about: "finetuning of a trained network on another data set: SAM against SGD with twice the epochs",
    answers: "SAM paper, its finetuning experiments, on data sets that are here",
    seeds: [3, 3],
    small: Grid {
        shared: &[SHORT, &[("train-images", "1000")], EVALUATION_OF_SHORT_RUNS],
        rows: &[level("wrn-10-1 on Fashion-MNIST", "", &[("model", "wrn-10-1"), ("data", "fashion-mnist")])],
        columns: ONLY,
        methods: TUNED_SMALL,
    },
    paper: Grid {
        shared: &[SHORT],
        rows: &[level("wrn-28-10 on Fashion-MNIST", "", &[("model", "wrn-28-10"), ("data", "fashion-mnist")])],
        columns: ONLY,
        methods: TUNED,
    },
    measured: Measured::Nothing,
    choice: false,
    published: &[],
    shrunk: "wrn-10-1, trained by SGD for 50 epochs on 10,000 images of CIFAR-10, then finetuned on 1,000 images of \
             Fashion-MNIST.",
    notes: &[
        "The paper's networks, trained on other data sets than these, are not here: no value of it stands beside these. This asks \
             the same of CIFAR-10 and Fashion-MNIST, whose images are grey, so the stem of the network is summed over its input \
             channels.",
        "Weights come from the pretraining run of the same seed; SGD, from scratch has the same epochs without them.",
    ],
};
