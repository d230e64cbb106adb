//! The table of all settings.

use super::value::{Kind, Value};
use super::{Augmentation, Loss, Padding, Recipe, Target};
use crate::data::Labels;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::optim::Norm;
use crate::optim::schedule::Shape;
use std::ops::Bound::{Excluded, Included, Unbounded};

/// One setting of a run.
pub struct Setting {
    /// As a flag has it, `weight-decay`; [`Setting::key`] is its name in config.toml.
    pub name: &'static str,
    /// Heading under which help and config.toml list it.
    pub section: &'static str,
    pub kind: Kind,
    /// One line for help and config.toml.
    pub help: &'static str,
    /// Its field in the recipe.
    pub field: fn(&mut Recipe) -> Field<'_>,
}

/// A place in a recipe.
pub enum Field<'a> {
    Switch(&'a mut bool),
    Size(&'a mut usize),
    Seed(&'a mut u64),
    Number(&'a mut f64),
    Text(&'a mut String),
    List(&'a mut Vec<f64>),
    Names(&'a mut Vec<String>),
    Labels(&'a mut Labels),
    Shape(&'a mut Shape),
    Padding(&'a mut Padding),
    Augmentation(&'a mut Augmentation),
    Loss(&'a mut Loss),
    Norm(&'a mut Norm),
    Target(&'a mut Target),
    DType(&'a mut DType),
}

impl Setting {
    /// Its name in config.toml: `weight_decay`.
    pub fn key(&self) -> String {
        self.name.replace('-', "_")
    }

    pub fn get(&self, recipe: &Recipe) -> Value {
        // A field is found in a recipe that may be changed; the copy is a few hundred bytes, at the start of a run.
        match (self.field)(&mut recipe.clone()) {
            Field::Switch(v) => Value::Switch(*v),
            Field::Size(v) => Value::Count(*v as u64),
            Field::Seed(v) => Value::Count(*v),
            Field::Number(v) => Value::Number(*v),
            Field::Text(v) => Value::Text(v.clone()),
            Field::List(v) => Value::List(v.clone()),
            Field::Names(v) => Value::Names(v.clone()),
            Field::Labels(v) => Value::Text(Labels::NAMES[*v as usize].into()),
            Field::Shape(v) => Value::Text(Shape::NAMES[*v as usize].into()),
            Field::Padding(v) => Value::Text(Padding::NAMES[*v as usize].into()),
            Field::Augmentation(v) => Value::Text(Augmentation::NAMES[*v as usize].into()),
            Field::Loss(v) => Value::Text(Loss::NAMES[*v as usize].into()),
            Field::Norm(v) => Value::Text(Norm::NAMES[*v as usize].into()),
            Field::Target(v) => Value::Text(v.to_string()),
            Field::DType(v) => Value::Text(v.name().into()),
        }
    }

    /// Puts `value` in its place.
    ///
    /// # Errors
    /// Usage: the value is of another kind or out of range; the message begins with "must be".
    pub fn set(&self, recipe: &mut Recipe, value: Value) -> Result<()> {
        self.kind.check(&value)?;
        match ((self.field)(recipe), value) {
            (Field::Switch(place), Value::Switch(v)) => *place = v,
            (Field::Size(place), Value::Count(v)) => *place = v as usize,
            (Field::Seed(place), Value::Count(v)) => *place = v,
            (Field::Number(place), Value::Number(v)) => *place = v,
            (Field::Text(place), Value::Text(v)) => *place = v,
            (Field::List(place), Value::List(v)) => *place = v,
            (Field::Names(place), Value::Names(v)) => *place = v,
            (Field::Labels(place), Value::Text(v)) => *place = named(&v, &Labels::NAMES, &Labels::ALL)?,
            (Field::Shape(place), Value::Text(v)) => *place = named(&v, &Shape::NAMES, &Shape::ALL)?,
            (Field::Padding(place), Value::Text(v)) => *place = named(&v, &Padding::NAMES, &Padding::ALL)?,
            (Field::Augmentation(place), Value::Text(v)) => {
                *place = named(&v, &Augmentation::NAMES, &Augmentation::ALL)?;
            }
            (Field::Loss(place), Value::Text(v)) => *place = named(&v, &Loss::NAMES, &Loss::ALL)?,
            (Field::Norm(place), Value::Text(v)) => *place = named(&v, &Norm::NAMES, &Norm::ALL)?,
            (Field::Target(place), Value::Text(v)) => {
                let target = Target::parse(&v);
                *place = target.ok_or_else(|| crate::error::unknown("device", &v, &Target::NAMES))?;
            }
            (Field::DType(place), Value::Text(v)) => *place = named(&v, &DType::NAMES, &DType::ALL)?,
            (_, value) => return Err(Error::internal(format!("setting {} cannot hold {value:?}", self.name))),
        }
        Ok(())
    }

    /// Checks that the setting may have this value.
    ///
    /// # Errors
    /// Usage: "lr must be a number above 0, not -1".
    pub fn check(&self, value: &Value) -> Result<()> {
        self.kind.check(value).map_err(|e| Error::usage(format!("{} {e}", self.name)))
    }
}

fn named<T: Copy>(name: &str, names: &[&str], all: &[T]) -> Result<T> {
    let found = names.iter().zip(all).find(|(n, _)| **n == name);
    found.map(|(_, value)| *value).ok_or_else(|| crate::error::unknown("name", name, names))
}

/// The setting with this flag name.
///
/// # Errors
/// Usage: there is none; the nearest name is suggested.
pub fn setting(name: &str) -> Result<&'static Setting> {
    let names: Vec<&str> = SETTINGS.iter().map(|s| s.name).collect();
    SETTINGS.iter().find(|s| s.name == name).ok_or_else(|| crate::error::unknown("setting", name, &names))
}

const DATA: &str = "Data";
const MODEL: &str = "Model";
const OPTIMIZER: &str = "Optimizer";
/// Settings that one or two optimizers have; the table of optimizers says which.
const OWN: &str = "Settings of single optimizers";
const LEARNING_RATE: &str = "Learning rate";
const RUN: &str = "Length and batches";
/// The section of the settings that leave the course of a run alone, and may therefore change when it is resumed.
pub const RESUMABLE: &str = "Machine and checkpoints";

const POSITIVE: Kind = Kind::Number(Excluded(0.0), Unbounded);
const NOT_NEGATIVE: Kind = Kind::Number(Included(0.0), Unbounded);
const SHARE: Kind = Kind::Number(Included(0.0), Excluded(1.0));
/// Devices count epochs, samples and rows in 32 bits.
const MOST: u64 = u32::MAX as u64;
/// Largest seed: TOML's whole numbers are signed.
const LARGEST_SEED: u64 = i64::MAX as u64;

const fn row(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    field: fn(&mut Recipe) -> Field<'_>,
    help: &'static str,
) -> Setting {
    Setting { name, section, kind, help, field }
}

/// All settings, in the order of help and config.toml. Defaults stand in `Recipe::default`.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    row(DATA, "data", Kind::Text, |r| Field::Text(&mut r.data),
        "data set by name ('samcore data list') or folder"),
    row(DATA, "val-fraction", SHARE, |r| Field::Number(&mut r.val_fraction),
        "share of the training images held out for validation"),
    row(DATA, "labels", Kind::Choice(&Labels::NAMES), |r| Field::Labels(&mut r.labels),
        "which labels of CIFAR-100"),
    row(DATA, "train-images", Kind::Count(0, MOST), |r| Field::Size(&mut r.train_images),
        "training images used, drawn by the seed; 0: all"),
    row(DATA, "label-noise", SHARE, |r| Field::Number(&mut r.label_noise),
        "probability that a training label becomes a random one"),
    row(DATA, "noise-all", Kind::Switch, |r| Field::Switch(&mut r.noise_all),
        "draw it from all classes, the right one included"),
    row(DATA, "relabel", Kind::Text, |r| Field::Text(&mut r.relabel),
        "checkpoint whose predictions replace the training labels"),
    row(DATA, "augment", Kind::Choice(&Augmentation::NAMES), |r| Field::Augmentation(&mut r.augmentation),
        "preset of the five below"),
    row(DATA, "crop", Kind::Count(0, 64), |r| Field::Size(&mut r.crop),
        "random crop out of the image padded by N pixels; 0: none"),
    row(DATA, "crop-padding", Kind::Choice(&Padding::NAMES), |r| Field::Padding(&mut r.crop_padding),
        "how the padding of a crop is filled"),
    row(DATA, "flip", Kind::Switch, |r| Field::Switch(&mut r.flip),
        "mirror half of the images left-right"),
    row(DATA, "cutout", Kind::Count(0, 64), |r| Field::Size(&mut r.cutout),
        "erase a square of N pixels at a random place; 0: none"),
    row(DATA, "autoaugment", Kind::Switch, |r| Field::Switch(&mut r.autoaugment),
        "AutoAugment's CIFAR policy"),
    row(DATA, "mixup", NOT_NEGATIVE, |r| Field::Number(&mut r.mixup),
        "mix pairs of images by shares from Beta(X, X); 0: none"),

    row(MODEL, "model", Kind::Text, |r| Field::Text(&mut r.model),
        "model by name, see 'samcore info models'; auto: by the data"),
    row(MODEL, "init", Kind::Text, |r| Field::Text(&mut r.init),
        "safetensors file whose weights the run begins with"),
    row(MODEL, "loss", Kind::Choice(&Loss::NAMES), |r| Field::Loss(&mut r.loss),
        "loss by name"),
    row(MODEL, "beta", SHARE, |r| Field::Number(&mut r.beta),
        "share of the given target in Reed's losses; 0: 0.95, hard 0.8"),
    row(MODEL, "dropout", SHARE, |r| Field::Number(&mut r.dropout),
        "probability of dropping an activation, in cnn and wrn-D-K"),
    row(MODEL, "label-smoothing", SHARE, |r| Field::Number(&mut r.label_smoothing),
        "share of each target spread over all classes"),

    row(OPTIMIZER, "opt", Kind::Text, |r| Field::Text(&mut r.opt),
        "optimizer by name, such as sgd or sam"),
    row(OPTIMIZER, "rho", NOT_NEGATIVE, |r| Field::Number(&mut r.rho),
        "radius of the neighbourhood"),
    row(OPTIMIZER, "rho-warmup", SHARE, |r| Field::Number(&mut r.rho_warmup),
        "share of the steps over which rho rises from 0"),
    row(OPTIMIZER, "m", Kind::Count(0, MOST), |r| Field::Size(&mut r.m),
        "images that share a perturbation (m-SAM); 0: the batch"),
    row(OPTIMIZER, "every", Kind::Count(1, MOST), |r| Field::Size(&mut r.every),
        "perturb in every N-th step only"),
    #[cfg(feature = "mistakes")]
    row(OPTIMIZER, "mistake", Kind::Text, |r| Field::Text(&mut r.mistake),
        "a mistake by name that SAM's steps make"),
    row(OPTIMIZER, "momentum", SHARE, |r| Field::Number(&mut r.momentum),
        "momentum of the descent"),
    row(OPTIMIZER, "nesterov", Kind::Switch, |r| Field::Switch(&mut r.nesterov),
        "Nesterov's momentum"),
    row(OPTIMIZER, "weight-decay", NOT_NEGATIVE, |r| Field::Number(&mut r.weight_decay),
        "weight decay, added to the gradient"),
    row(OPTIMIZER, "l2-in-loss", Kind::Switch, |r| Field::Switch(&mut r.l2_in_loss),
        "weight decay as part of the loss, so perturbations see it"),
    row(OPTIMIZER, "clip", NOT_NEGATIVE, |r| Field::Number(&mut r.clip),
        "largest norm of the gradient; 0: no limit"),
    row(OPTIMIZER, "freeze", Kind::Names, |r| Field::Names(&mut r.freeze),
        "layers that stay fixed, by the beginnings of their names"),
    row(OPTIMIZER, "ema", SHARE, |r| Field::Number(&mut r.ema),
        "decay of a running average of the weights; 0: no average"),
    row(OPTIMIZER, "swa", SHARE, |r| Field::Number(&mut r.swa),
        "average the weights after this share of the run; 0: never"),
    row(OPTIMIZER, "swa-lr", NOT_NEGATIVE, |r| Field::Number(&mut r.swa_lr),
        "learning rate while averaging; 0: as scheduled"),

    row(OWN, "rho-min", NOT_NEGATIVE, |r| Field::Number(&mut r.rho_min),
        "GSAM: radius where the learning rate is 0"),
    row(OWN, "alpha", NOT_NEGATIVE, |r| Field::Number(&mut r.alpha),
        "GSAM, LookSAM: weight of the orthogonal part"),
    row(OWN, "eta", NOT_NEGATIVE, |r| Field::Number(&mut r.eta),
        "ASAM: added to each |w|"),
    row(OWN, "sigma", NOT_NEGATIVE, |r| Field::Number(&mut r.sigma),
        "F-SAM: share of the mean gradient that is subtracted"),
    row(OWN, "lambda", SHARE, |r| Field::Number(&mut r.lambda),
        "F-SAM: decay of the mean gradient"),
    row(OWN, "theta", Kind::Number(Excluded(0.0), Included(1.0)), |r| Field::Number(&mut r.theta),
        "VaSSO: weight of a new gradient in the mean"),
    row(OWN, "inner-steps", Kind::Count(1, 1000), |r| Field::Size(&mut r.inner_steps),
        "AMO: steps of the perturbation (t)"),
    row(OWN, "inner-lr", NOT_NEGATIVE, |r| Field::Number(&mut r.inner_lr),
        "AMO: its rate (eta)"),
    row(OWN, "inner-decay", NOT_NEGATIVE, |r| Field::Number(&mut r.inner_decay),
        "AMO: its decay (lambda)"),
    row(OWN, "pgd-steps", Kind::Count(1, 1000), |r| Field::Size(&mut r.pgd_steps),
        "robust AMO: steps of the attack on the images"),
    row(OWN, "pgd-eps", NOT_NEGATIVE, |r| Field::Number(&mut r.pgd_eps),
        "robust AMO: radius of the attack, for pixels from 0 to 1"),
    row(OWN, "pgd-lr", NOT_NEGATIVE, |r| Field::Number(&mut r.pgd_lr),
        "robust AMO: step size of the attack"),
    row(OWN, "corruption-p", Kind::Choice(&Norm::NAMES), |r| Field::Norm(&mut r.corruption_p),
        "corruption: which norm"),
    row(OWN, "corruption-eps", NOT_NEGATIVE, |r| Field::Number(&mut r.corruption_eps),
        "corruption: its size"),
    row(OWN, "corruption-n", Kind::Count(0, MOST), |r| Field::Size(&mut r.corruption_n),
        "corruption: largest number of parameters changed; 0: all"),

    row(LEARNING_RATE, "lr", POSITIVE, |r| Field::Number(&mut r.lr),
        "peak learning rate"),
    row(LEARNING_RATE, "head-lr", NOT_NEGATIVE, |r| Field::Number(&mut r.head_lr),
        "peak rate of the last linear layer; 0: as the others"),
    row(LEARNING_RATE, "group-lr", Kind::Rates, |r| Field::Names(&mut r.group_lr),
        "peak rates by layer: layer4=0.01,fc=0.1"),
    row(LEARNING_RATE, "schedule", Kind::Choice(&Shape::NAMES), |r| Field::Shape(&mut r.schedule),
        "shape of the learning rate"),
    row(LEARNING_RATE, "warmup", SHARE, |r| Field::Number(&mut r.warmup),
        "share of steps with linear warm-up (one-cycle: rise; 0 is 0.25)"),
    row(LEARNING_RATE, "final-lr", Kind::Number(Included(0.0), Included(1.0)), |r| Field::Number(&mut r.final_lr),
        "rate at the end of cosine and one-cycle, as a share of lr"),
    row(LEARNING_RATE, "milestones", Kind::Shares, |r| Field::List(&mut r.milestones),
        "shares of the run at which step applies lr-decay"),
    row(LEARNING_RATE, "lr-decay", Kind::Number(Excluded(0.0), Included(1.0)), |r| Field::Number(&mut r.lr_decay),
        "factor of the rate at each milestone"),

    row(RUN, "epochs", Kind::Count(1, MOST), |r| Field::Size(&mut r.epochs),
        "passes over the training images"),
    row(RUN, "batch", Kind::Count(1, MOST), |r| Field::Size(&mut r.batch),
        "images per training step"),
    row(RUN, "accumulate", Kind::Count(1, MOST), |r| Field::Size(&mut r.accumulate),
        "parts in which a batch is computed, one after the other"),
    row(RUN, "eval-every", Kind::Count(1, MOST), |r| Field::Size(&mut r.eval_every),
        "epochs between evaluations; the last epoch always has one"),
    row(RUN, "eval-batch", Kind::Count(1, MOST), |r| Field::Size(&mut r.eval_batch),
        "images per evaluation step"),
    row(RUN, "seed", Kind::Count(0, LARGEST_SEED), |r| Field::Seed(&mut r.seed),
        "seed of all random draws"),

    row(RESUMABLE, "device", Kind::Device, |r| Field::Target(&mut r.device),
        "device to compute on"),
    row(RESUMABLE, "dtype", Kind::Choice(&DType::NAMES), |r| Field::DType(&mut r.dtype),
        "number format; a CPU has f32, bf16"),
    row(RESUMABLE, "exact", Kind::Switch, |r| Field::Switch(&mut r.exact),
        "only direct convolution, not Winograd's method"),
    row(RESUMABLE, "threads", Kind::Count(0, 1024), |r| Field::Size(&mut r.threads),
        "CPU threads; 0: all. Results do not depend on it"),
    row(RESUMABLE, "checkpoint-every", Kind::Count(1, MOST), |r| Field::Size(&mut r.checkpoint_every),
        "epochs between checkpoints"),
    row(RESUMABLE, "checkpoint-steps", Kind::Count(0, MOST), |r| Field::Size(&mut r.checkpoint_steps),
        "steps between checkpoints; 0: only at ends of epochs"),
    row(RESUMABLE, "tensorboard", Kind::Switch, |r| Field::Switch(&mut r.tensorboard),
        "also write event files for TensorBoard"),
    row(RESUMABLE, "track", Kind::Names, |r| Field::Names(&mut r.track),
        "measure hessian, sharpness or both while training"),
    row(RESUMABLE, "track-every", Kind::Count(1, MOST), |r| Field::Size(&mut r.track_every),
        "steps from one such measurement to the next"),
    row(RESUMABLE, "track-images", Kind::Count(0, MOST), |r| Field::Size(&mut r.track_images),
        "training images of these measurements; 0: all"),
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn defaults_pass_their_own_check_and_names_are_unique() {
        Recipe::default().validate().unwrap();
        for s in SETTINGS {
            assert_eq!(SETTINGS.iter().filter(|other| other.name == s.name).count(), 1, "{}", s.name);
            assert!(s.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{}", s.name);
        }
    }

    /// Another value than the default, allowed by the kind.
    pub(crate) fn other_value(s: &Setting) -> Value {
        match (s.kind, s.get(&Recipe::default())) {
            (Kind::Switch, Value::Switch(v)) => Value::Switch(!v),
            (Kind::Count(..), Value::Count(v)) => Value::Count(v + 1),
            (Kind::Number(..), Value::Number(v)) => Value::Number(v / 3.0 + 0.1),
            (Kind::Names, _) => Value::Names(vec!["conv1".into(), "a.\\\"\u{7f}\u{0}é".into()]),
            (Kind::Rates, _) => Value::Names(vec!["layer4=0.01".into(), "é=1e-7".into()]),
            (Kind::Shares, _) => Value::List(vec![0.1, 1.0 / 3.0]),
            (Kind::Choice(names), Value::Text(v)) => {
                Value::Text(names.iter().find(|n| **n != v).unwrap_or(&"").to_string())
            }
            (Kind::Device, _) => Value::Text("cuda:3".into()),
            (Kind::Text, _) => Value::Text("a \"quoted\" \\ näme\n\t\u{7f}".into()),
            (kind, value) => panic!("{} is {kind:?} but holds {value:?}", s.name),
        }
    }

    #[test]
    fn each_setting_has_a_field_of_its_own_that_keeps_what_is_set() {
        for s in SETTINGS {
            let mut recipe = Recipe::default();
            s.set(&mut recipe, other_value(s)).unwrap();
            for other in SETTINGS {
                let expected = if other.name == s.name { other_value(s) } else { other.get(&Recipe::default()) };
                assert_eq!(other.get(&recipe), expected, "{} after setting {}", other.name, s.name);
            }
        }
    }

    #[test]
    fn no_setting_takes_a_value_of_another_kind_or_out_of_range() {
        for s in SETTINGS {
            let mut recipe = Recipe::default();
            let wrong = [Value::Switch(true), Value::Count(1), Value::Number(f64::NAN), Value::List(vec![2.0])];
            let refused = wrong.into_iter().filter(|v| s.set(&mut recipe, v.clone()).is_err()).count();
            let own_kind = matches!(s.kind, Kind::Switch | Kind::Count(..));
            assert_eq!(refused, 4 - usize::from(own_kind), "{}", s.name);
            assert!(s.set(&mut recipe, Value::Text(String::new())).is_err(), "{}", s.name);
        }
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_setting() {
        let wrong = Recipe { lr: -1.0, ..Recipe::default() };
        assert_eq!(wrong.validate().unwrap_err().to_string(), "recipe: lr must be a number above 0, not -1");
        let typo = setting("weight-decai").err().map(|e| e.to_string());
        assert_eq!(typo.as_deref(), Some("unknown setting 'weight-decai'; did you mean 'weight-decay'?"));
    }
}
