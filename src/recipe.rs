//! Every setting of a training run in one plain struct, with its default values.
//!
//! What is true of each setting is said once, in the table [`SETTINGS`]: the reader and writer of config.toml, the
//! command-line flags, the help text and validation all walk it.

mod file;
mod overrides;
mod presets;
mod resolve;
mod settings;
mod value;

pub use overrides::Overrides;
pub use presets::PRESET;
pub use resolve::recipe_of;
#[cfg(test)]
pub(crate) use settings::tests;
pub use settings::{Field, RESUMABLE, SETTINGS, Setting, setting};
pub use value::{Kind, Value, rate_of};

use crate::data::Labels;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ops::call::Augment;
use crate::optim::schedule::{Schedule, Shape};
use crate::optim::{Corruption, Norm, Options};

/// Fill of the border of an image before it is cropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Zeros after normalisation, which is the mean pixel.
    Zero,
    /// The image mirrored, without repeating the border.
    Reflect,
}

impl Padding {
    pub const ALL: [Padding; 2] = [Padding::Zero, Padding::Reflect];
    /// Names as flags and config.toml have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 2] = ["zero", "reflect"];
}

/// Named recipes of augmentation, which give crop, flip, cutout and AutoAugment their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Augmentation {
    /// Each of these settings as it is.
    Own,
    None,
    /// Crop and flip.
    Basic,
    /// Crop, flip and cutout.
    Cutout,
    /// AutoAugment's policy beside them.
    Auto,
}

impl Augmentation {
    pub const ALL: [Augmentation; 5] =
        [Augmentation::Own, Augmentation::None, Augmentation::Basic, Augmentation::Cutout, Augmentation::Auto];
    /// Names as flags and config.toml have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 5] = ["own", "none", "basic", "cutout", "aa"];
}

/// Training loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    CrossEntropy,
    /// Reed et al. 2015: part of each target is what the model says itself, as probabilities.
    ReedSoft,
    /// Reed et al. 2015: part of each target is the class that the model finds most likely.
    ReedHard,
}

impl Loss {
    pub const ALL: [Loss; 3] = [Loss::CrossEntropy, Loss::ReedSoft, Loss::ReedHard];
    /// Names as flags and config.toml have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 3] = ["cross-entropy", "reed-soft", "reed-hard"];
}

/// Value of a setting that names a file, where there is none.
pub const NO_FILE: &str = "none";

/// Device that a run is asked to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The best that this machine has.
    Auto,
    Cpu,
    /// The NVIDIA GPU of that number.
    Cuda(usize),
    /// The GPU's kernels, run on the CPU.
    Emu,
}

impl Target {
    /// Names as flags and config.toml have them; `cuda:N` is the GPU number N.
    pub const NAMES: [&'static str; 4] = ["auto", "cpu", "cuda", "emu"];

    /// The device of that name.
    pub fn parse(name: &str) -> Option<Target> {
        Some(match name {
            "auto" => Target::Auto,
            "cpu" => Target::Cpu,
            "cuda" => Target::Cuda(0),
            "emu" => Target::Emu,
            _ => Target::Cuda(name.strip_prefix("cuda:")?.parse().ok().filter(|n| *n < 1024)?),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Auto => f.write_str("auto"),
            Target::Cpu => f.write_str("cpu"),
            Target::Cuda(0) => f.write_str("cuda"),
            Target::Cuda(n) => write!(f, "cuda:{n}"),
            Target::Emu => f.write_str("emu"),
        }
    }
}

/// A training run. Two runs with equal recipes on the same kind of device give the same bits.
///
/// Real numbers are f64 here and are rounded to f32 where the device gets them.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Name of a data set, or a folder that holds one.
    pub data: String,
    /// Share of the training images held out for validation.
    pub val_fraction: f64,
    pub labels: Labels,
    /// Training images that are used, drawn by the seed; 0 is all.
    pub train_images: usize,
    /// Probability that a training label is replaced by a random one.
    pub label_noise: f64,
    /// Draw it from all classes, instead of from the others.
    pub noise_all: bool,
    /// Checkpoint whose predictions take the place of the training labels; [`NO_FILE`] is none.
    pub relabel: String,
    /// Name of a model; "auto" until the data set has decided. Other models than `cnn` have recipes of their own, which
    /// `cli::flags::resolve` puts between these defaults and what the user gives.
    pub model: String,
    /// Checkpoint whose weights the run begins with; [`NO_FILE`] is none.
    pub init: String,
    pub dropout: f64,
    pub loss: Loss,
    /// Share of the given target in the losses of Reed et al.; 0 is what they found best.
    pub beta: f64,
    pub opt: String,
    /// Radius of SAM's neighbourhood.
    pub rho: f64,
    /// Share of the steps over which the radius rises from 0, 0 to below 1.
    pub rho_warmup: f64,
    /// Images that share a perturbation, a divisor of the batch; 0 is the whole batch.
    pub m: usize,
    /// Steps from one that looks for a perturbation to the next.
    pub every: usize,
    pub rho_min: f64,
    pub alpha: f64,
    pub eta: f64,
    pub sigma: f64,
    pub lambda: f64,
    pub theta: f64,
    /// All-layer margins: steps, rate and decay of the perturbation of activations.
    pub inner_steps: usize,
    pub inner_lr: f64,
    pub inner_decay: f64,
    /// Adversarial training: steps, radius and rate of the perturbation of the input, in units of pixel values from 0 to 1.
    pub pgd_steps: usize,
    pub pgd_eps: f64,
    pub pgd_lr: f64,
    /// Parameter corruption: which norm, its size, and most parameters changed (0: all).
    pub corruption_p: Norm,
    pub corruption_eps: f64,
    pub corruption_n: usize,
    /// Learning rate at its peak; see [`Schedule`] for this and the next five.
    pub lr: f64,
    /// Peak rate of the last linear layer; 0 is that of the others.
    pub head_lr: f64,
    /// Peak rates of layers: "layer4=0.01".
    pub group_lr: Vec<String>,
    pub schedule: Shape,
    pub warmup: f64,
    pub milestones: Vec<f64>,
    pub lr_decay: f64,
    pub final_lr: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
    /// Weight decay as part of the loss, so that it shapes perturbations too.
    pub l2_in_loss: bool,
    /// Largest norm of the gradient; 0 is no limit.
    pub clip: f64,
    /// Beginnings of dotted names: parameters and batch-norms below them stay as they are.
    pub freeze: Vec<String>,
    /// Share of itself that a running average of the weights keeps each step; it is evaluated in their place. 0 is none.
    pub ema: f64,
    /// Share of the run behind which the weights at the end of each epoch are averaged; 0 is none.
    pub swa: f64,
    /// Learning rate from there on; 0 is that of the schedule.
    pub swa_lr: f64,
    pub label_smoothing: f64,
    pub batch: usize,
    /// Parts that a batch is computed in.
    pub accumulate: usize,
    /// Epochs from one evaluation to the next.
    pub eval_every: usize,
    pub eval_batch: usize,
    pub epochs: usize,
    /// The named recipe that gave the next five their values.
    pub augmentation: Augmentation,
    /// Pixels an image is padded by on each side before a random crop; 0 is no crop.
    pub crop: usize,
    pub crop_padding: Padding,
    pub flip: bool,
    /// Side in pixels of the square that is cut out of each training image; 0 is none.
    pub cutout: usize,
    pub autoaugment: bool,
    /// Parameter of the beta distribution that images are mixed by; 0 is none.
    pub mixup: f64,
    pub seed: u64,
    pub device: Target,
    /// Precision of the multiplications of convolutions and linear layers.
    pub dtype: DType,
    /// Direct convolution alone, where the CPU would take Winograd's method.
    pub exact: bool,
    /// CPU threads; 0 is all.
    pub threads: usize,
    /// Epochs from one checkpoint to the next.
    pub checkpoint_every: usize,
    /// Steps from one checkpoint to the next within an epoch; 0 is none.
    pub checkpoint_steps: usize,
    /// Event files for TensorBoard beside the records.
    pub tensorboard: bool,
    /// Curvature that is measured while training: names of [`TRACKED`].
    pub track: Vec<String>,
    /// Steps from one measurement of it to the next, and training images that it is of (0: all).
    pub track_every: usize,
    pub track_images: usize,
    /// A mistake in SAM's step, by name.
    #[cfg(feature = "mistakes")]
    pub mistake: String,
}

/// Measurements that a run can make while it trains.
pub const TRACKED: [&str; 2] = ["hessian", "sharpness"];

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            data: "fashion-mnist".into(),
            val_fraction: 0.0,
            labels: Labels::Fine,
            train_images: 0,
            label_noise: 0.0,
            noise_all: false,
            relabel: NO_FILE.into(),
            model: "auto".into(),
            init: NO_FILE.into(),
            dropout: 0.0,
            loss: Loss::CrossEntropy,
            beta: 0.0,
            opt: "sgd".into(),
            rho: 0.05,
            rho_warmup: 0.0,
            m: 0,
            every: 1,
            rho_min: 0.0,
            alpha: 0.4,
            eta: 0.01,
            sigma: 1.0,
            lambda: 0.6,
            theta: 0.4,
            inner_steps: 1,
            inner_lr: 0.01,
            inner_decay: 0.0,
            pgd_steps: 7,
            pgd_eps: 0.031,
            pgd_lr: 0.008,
            corruption_p: Norm::Two,
            corruption_eps: 0.05,
            corruption_n: 0,
            lr: 0.1,
            head_lr: 0.0,
            group_lr: vec![],
            schedule: Shape::Cosine,
            warmup: 0.2,
            milestones: vec![0.3, 0.6, 0.8],
            lr_decay: 0.2,
            final_lr: 0.0,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 5e-4,
            l2_in_loss: false,
            clip: 0.0,
            freeze: vec![],
            ema: 0.0,
            swa: 0.0,
            swa_lr: 0.0,
            label_smoothing: 0.0,
            batch: 128,
            accumulate: 1,
            eval_every: 1,
            eval_batch: 512,
            epochs: 8,
            augmentation: Augmentation::Own,
            crop: 0,
            crop_padding: Padding::Zero,
            flip: true,
            cutout: 0,
            autoaugment: false,
            mixup: 0.0,
            seed: 0,
            device: Target::Auto,
            dtype: DType::F32,
            exact: false,
            threads: 0,
            checkpoint_every: 1,
            checkpoint_steps: 0,
            tensorboard: false,
            track: vec![],
            track_every: 100,
            track_images: 500,
            #[cfg(feature = "mistakes")]
            mistake: crate::optim::mistakes::NONE.into(),
        }
    }
}

impl Recipe {
    /// The learning-rate schedule that these settings describe.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            shape: self.schedule,
            lr: self.lr,
            warmup: self.warmup,
            final_lr: self.final_lr,
            milestones: self.milestones.clone(),
            decay: self.lr_decay,
        }
    }

    /// Returns the share of the radius that step `step` (from 0) of `total` has: rising linearly over the first
    /// `rho_warmup * total` steps, rounded, of which the first is above 0 and the one behind the last is the first at 1.
    pub fn rho_share(&self, step: u64, total: u64) -> f64 {
        let rise = (self.rho_warmup * total as f64).round();
        if (step as f64) < rise { (step + 1) as f64 / (rise + 1.0) } else { 1.0 }
    }

    /// Returns the number that, divided by the learning rate, is the largest eigenvalue at which gradient descent with this
    /// momentum is stable on a quadratic function: 2 (1 + b), with Nesterov's 2 (1 + b)/(1 + 2b) (Cohen et al. 2021,
    /// arXiv:2103.00065).
    pub fn edge(&self) -> f64 {
        let b = self.momentum;
        if self.nesterov { 2.0 * (1.0 + b) / (1.0 + 2.0 * b) } else { 2.0 * (1.0 + b) }
    }

    /// Returns the options of the optimizer's recording.
    pub fn options(&self) -> Options {
        Options {
            nesterov: self.nesterov,
            every: self.every,
            inner_steps: self.inner_steps,
            pgd_steps: self.pgd_steps,
            corruption: Corruption { norm: self.corruption_p, n: self.corruption_n },
        }
    }

    /// Returns the augmentation of training images.
    pub fn augment(&self) -> Augment {
        let reflect = self.crop_padding == Padding::Reflect;
        Augment { crop: self.crop, reflect, flip: self.flip, cutout: self.cutout, mixup: self.mixup > 0.0 }
    }

    /// Returns what kind of loss the run trains with: "smoothed", "mixed reed-soft", empty for plain cross-entropy.
    /// Validation and test losses are plain cross-entropy in every run.
    pub fn loss_kind(&self) -> String {
        let reed = match self.loss {
            Loss::CrossEntropy => "",
            Loss::ReedSoft => "reed-soft",
            Loss::ReedHard => "reed-hard",
        };
        let mixed = if self.mixup > 0.0 { "mixed" } else { "" };
        let smoothed = if self.label_smoothing > 0.0 { "smoothed" } else { "" };
        [mixed, smoothed, reed].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Returns whether epoch `epoch`, from 1, ends with an evaluation.
    pub fn evaluates(&self, epoch: u64) -> bool {
        epoch.is_multiple_of(self.eval_every as u64) || epoch == self.epochs as u64
    }

    /// Returns how many of the first `epochs` epochs end with an evaluation.
    pub fn evaluations(&self, epochs: u64) -> u64 {
        let every = self.eval_every as u64;
        epochs / every + u64::from(epochs == self.epochs as u64 && !epochs.is_multiple_of(every))
    }

    /// The first step of a run of `total` behind which SWA averages.
    pub fn swa_start(&self, total: u64) -> u64 {
        (self.swa * total as f64).ceil() as u64
    }

    /// Checks every setting against its own range, which reading a file or flags has done already, and what they are
    /// together.
    ///
    /// # Errors
    /// Usage: the first setting out of its range, with the range; settings that do not go together.
    pub fn validate(&self) -> Result<()> {
        SETTINGS.iter().try_for_each(|s| s.check(&s.get(self)).map_err(|e| e.context("recipe")))?;
        self.check_together()
    }

    /// Checks that settings go together, as far as they alone can tell.
    ///
    /// # Errors
    /// Usage: the first two that do not, by their flags.
    pub fn check_together(&self) -> Result<()> {
        let Recipe { ema, swa, rho, rho_min, .. } = *self;
        if swa > 0.0 && ema > 0.0 {
            return Err(Error::usage(format!("--swa {swa} and --ema {ema} both average the weights; give one")));
        }
        if self.opt == "gsam" && rho_min > rho {
            return Err(Error::usage(format!(
                "--rho-min {rho_min} is above --rho {rho}, from which GSAM goes down to it"
            )));
        }
        if self.l2_in_loss && self.dtype.storage() != Element::F32 {
            let dtype = self.dtype.name();
            return Err(Error::usage(format!("--l2-in-loss needs weights in f32, which --dtype {dtype} has not")));
        }
        Ok(())
    }
}
