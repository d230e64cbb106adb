//! The table of models.

use super::resnet::{RESNET18, RESNET18_IMAGENET, RESNET34, RESNET34_IMAGENET, WIDE_RESNET50_2, cifar_resnet};
use super::{Build, Model, Settings, Spec, cnn, pyramidnet, shake_shake, wide_resnet};
use crate::error::Result;
use crate::graph::{Graph, Var};

/// One line of the table of models.
pub struct Row {
    /// A model's name, or the pattern of many: "wrn-D-K".
    pub name: &'static str,
    pub about: &'static str,
    /// Images `[h, w, c]` that it is made for.
    pub images: [usize; 3],
    /// Rows and side of the images that its gradients are checked on in f64: few, but at least 16 values a channel in the
    /// last batch-norm, and 32 in wide_resnet50_2, for with fewer float32 alone is far off.
    pub check: [usize; 2],
    /// Its own settings above the defaults of a run, which are `cnn`'s; of one setting the last counts.
    pub recipe: &'static [Settings],
    pub names: Names,
}

/// The models that a row names.
pub enum Names {
    /// One model of that name.
    One(fn(&mut Graph, Var, &Spec) -> Result<Var>),
    /// A pattern.
    Many {
        /// Some of its names, the smallest network first.
        examples: &'static [&'static str],
        /// The network of a name; None if the name is not of this pattern, an error if its numbers make no network.
        parse: fn(&str) -> Option<Result<Build>>,
    },
}

impl Row {
    /// The model named `name`, if that is one of this row's.
    pub fn open(&self, name: &str) -> Option<Result<Model>> {
        let build = match self.names {
            Names::One(build) => (name == self.name).then(|| -> Result<Build> { Ok(Box::new(build)) })?,
            Names::Many { parse, .. } => parse(name)?,
        };
        let Row { about, images, check, recipe, .. } = *self;
        Some(build.map(|build| Model { name: name.to_owned(), about, images, check, recipe, build }))
    }

    /// Names of models of this row: its own, or some of the pattern's.
    pub fn examples(&self) -> Vec<&'static str> {
        match self.names {
            Names::One(_) => vec![self.name],
            Names::Many { examples, .. } => examples.to_vec(),
        }
    }
}

const CIFAR: [usize; 3] = [32, 32, 3];
const IMAGENET: [usize; 3] = [224, 224, 3];

/// The usual recipe of residual networks on CIFAR: Zagoruyko and Komodakis' 200 epochs at batch 128, with the cosine of the
/// SAM paper's code, down to 0 without warm-up, in place of their steps (x 0.2 at 30, 60 and 80 %).
const ON_CIFAR: Settings = &[
    ("epochs", "200"),
    ("batch", "128"),
    ("lr", "0.1"),
    ("schedule", "cosine"),
    ("warmup", "0"),
    ("momentum", "0.9"),
    ("nesterov", "true"),
    ("weight-decay", "5e-4"),
    ("rho", "0.05"),
    ("crop", "4"),
    ("crop-padding", "zero"),
    ("flip", "true"),
];
/// The borders of a crop in the wide ResNets' and in the SAM paper's code.
const REFLECT: Settings = &[("crop-padding", "reflect")];
/// He et al. for their small networks.
const LESS_DECAY: Settings = &[("weight-decay", "1e-4")];
/// With 110 layers the full rate is too much at first (He et al., section 4.2): one epoch of warm-up.
const WARM_UP: Settings = &[("warmup", "0.005")];
/// Gastaldi's 1800 epochs at rate 0.2, with the SAM paper's rho for them.
const SHAKEN: Settings = &[("epochs", "1800"), ("lr", "0.2"), ("weight-decay", "1e-4"), ("rho", "0.02")];
/// Han, Kim and Kim's 300 epochs with their steps, for CIFAR-10; for CIFAR-100 their rate is 0.5.
const PYRAMID: Settings = &[
    ("epochs", "300"),
    ("schedule", "step"),
    ("milestones", "0.5,0.75"),
    ("lr-decay", "0.1"),
    ("weight-decay", "1e-4"),
];
/// The report that compares SAM with SGD at twice as many epochs.
const REPORT: Settings = &[("epochs", "50")];

/// Models that a check takes where none is named: one for each way to build, small enough for f64.
pub const REPRESENTATIVES: &[&str] =
    &["cnn", "wrn-10-1", "resnet18", "resnet20", "shake-shake-8-2x16d", "pyramidnet-11-a12-bottleneck-shakedrop"];

/// Every model.
pub const MODELS: &[Row] = &[
    Row {
        name: "cnn",
        about: "four convolutions of 32, 32, 64 and 64 channels, two poolings, a hidden layer of 128",
        images: [28, 28, 1],
        check: [4, 28],
        recipe: &[],
        names: Names::One(cnn::cnn),
    },
    Row {
        name: "wrn-D-K",
        about: "wide ResNet of depth D = 6n + 4, K times as wide (Zagoruyko and Komodakis 2016)",
        images: CIFAR,
        check: [4, 16],
        recipe: &[ON_CIFAR, REFLECT],
        names: Names::Many {
            examples: &["wrn-10-1", "wrn-16-4", "wrn-16-8", "wrn-28-10", "wrn-40-2"],
            parse: wide_resnet::parse,
        },
    },
    Row {
        name: "resnet18",
        about: "ResNet-18 with a 3x3 stem for small images (He et al. 2016)",
        images: CIFAR,
        check: [4, 16],
        recipe: &[ON_CIFAR],
        names: Names::One(|g, x, spec| RESNET18.record(g, x, spec)),
    },
    Row {
        name: "resnet34",
        about: "ResNet-34 with a 3x3 stem for small images",
        images: CIFAR,
        check: [4, 16],
        recipe: &[ON_CIFAR],
        names: Names::One(|g, x, spec| RESNET34.record(g, x, spec)),
    },
    Row {
        name: "resnet18-imagenet",
        about: "torchvision's ResNet-18, ImageNet stem included: weights of --init match wholly",
        images: IMAGENET,
        check: [32, 32],
        recipe: &[ON_CIFAR],
        names: Names::One(|g, x, spec| RESNET18_IMAGENET.record(g, x, spec)),
    },
    Row {
        name: "resnet34-imagenet",
        about: "torchvision's ResNet-34, ImageNet stem included",
        images: IMAGENET,
        check: [32, 32],
        recipe: &[ON_CIFAR],
        names: Names::One(|g, x, spec| RESNET34_IMAGENET.record(g, x, spec)),
    },
    Row {
        name: "resnet20",
        about: "ResNet-20 for CIFAR, shortcuts without parameters (He et al. 2016, section 4.2)",
        images: CIFAR,
        check: [4, 16],
        recipe: &[ON_CIFAR, LESS_DECAY],
        names: Names::One(|g, x, spec| cifar_resnet(g, x, 20, spec)),
    },
    Row {
        name: "resnet32",
        about: "the same with 32 layers",
        images: CIFAR,
        check: [4, 16],
        recipe: &[ON_CIFAR, LESS_DECAY],
        names: Names::One(|g, x, spec| cifar_resnet(g, x, 32, spec)),
    },
    Row {
        name: "resnet56",
        about: "the same with 56 layers",
        images: CIFAR,
        check: [4, 16],
        recipe: &[ON_CIFAR, LESS_DECAY],
        names: Names::One(|g, x, spec| cifar_resnet(g, x, 56, spec)),
    },
    Row {
        name: "resnet110",
        about: "the same with 110 layers",
        images: CIFAR,
        check: [4, 16],
        recipe: &[ON_CIFAR, LESS_DECAY, WARM_UP],
        names: Names::One(|g, x, spec| cifar_resnet(g, x, 110, spec)),
    },
    Row {
        name: "wide_resnet50_2",
        about: "torchvision's wide ResNet-50-2, ImageNet stem included",
        images: CIFAR,
        check: [32, 32],
        recipe: &[ON_CIFAR, REPORT],
        names: Names::One(|g, x, spec| WIDE_RESNET50_2.record(g, x, spec)),
    },
    Row {
        name: "shake-shake-D-BxWd",
        about: "Shake-Shake of depth D = 6n + 2, B = 2 branches of W, 2W and 4W channels (Gastaldi 2017)",
        images: CIFAR,
        check: [4, 16],
        recipe: &[ON_CIFAR, SHAKEN],
        names: Names::Many {
            examples: &["shake-shake-8-2x16d", "shake-shake-26-2x32d", "shake-shake-26-2x64d", "shake-shake-26-2x96d"],
            parse: shake_shake::parse,
        },
    },
    Row {
        name: "pyramidnet-D-aA",
        about: "PyramidNet of depth D = 6n + 2 that adds A channels; -bottleneck: D = 9n + 2; -shakedrop behind it",
        images: CIFAR,
        check: [4, 16],
        recipe: &[ON_CIFAR, PYRAMID],
        names: Names::Many {
            examples: &[
                "pyramidnet-8-a12",
                "pyramidnet-110-a270",
                "pyramidnet-110-a270-shakedrop",
                "pyramidnet-272-a200-bottleneck",
                "pyramidnet-272-a200-bottleneck-shakedrop",
            ],
            parse: pyramidnet::parse,
        },
    },
];
