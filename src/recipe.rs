//! Every setting of a training run in one plain struct, with its default values.
//!
//! What is true of each setting is said once, in the table [`SETTINGS`]: the reader and writer of config.toml, the
//! command-line flags, the help text and validation all walk it.

mod file;
mod overrides;
mod settings;
mod value;

pub use overrides::Overrides;
#[cfg(test)]
pub(crate) use settings::tests;
pub use settings::{Field, RESUMABLE, SETTINGS, Setting, setting};
pub use value::{Kind, Value};

use crate::data::Labels;
use crate::dtype::DType;
use crate::ops::call::Augment;
use crate::optim::schedule::{Schedule, Shape};

/// What fills the border of an image before it is cropped.
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

/// Which device a run is asked to use.
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
    /// Name of a model; "auto" until the data set has decided. Other models than `cnn` have recipes of their own, which
    /// `cli::flags::resolve` puts between these defaults and what the user gives.
    pub model: String,
    pub dropout: f64,
    pub opt: String,
    /// Radius of SAM's neighbourhood.
    pub rho: f64,
    /// Images that share a perturbation, a divisor of the batch; 0 is the whole batch.
    pub m: usize,
    /// Learning rate at its peak; see [`Schedule`] for this and the next five.
    pub lr: f64,
    /// Peak rate of the last linear layer; 0 is that of the others.
    pub head_lr: f64,
    pub schedule: Shape,
    pub warmup: f64,
    pub milestones: Vec<f64>,
    pub lr_decay: f64,
    pub final_lr: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 is no limit.
    pub clip: f64,
    /// Beginnings of dotted names: parameters and batch-norms below them stay as they are.
    pub freeze: Vec<String>,
    /// What a running average of the weights keeps of itself each step; it is evaluated in their place. 0 is none.
    pub ema: f64,
    pub label_smoothing: f64,
    pub batch: usize,
    /// Parts that a batch is computed in.
    pub accumulate: usize,
    pub eval_batch: usize,
    pub epochs: usize,
    /// Pixels an image is padded by on each side before a random crop; 0 is no crop.
    pub crop: usize,
    pub crop_padding: Padding,
    pub flip: bool,
    /// Side in pixels of the square that is cut out of each training image; 0 is none.
    pub cutout: usize,
    pub seed: u64,
    pub device: Target,
    /// What convolutions and linear layers multiply in.
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
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            data: "fashion-mnist".into(),
            val_fraction: 0.0,
            labels: Labels::Fine,
            model: "auto".into(),
            dropout: 0.0,
            opt: "sgd".into(),
            rho: 0.05,
            m: 0,
            lr: 0.1,
            head_lr: 0.0,
            schedule: Shape::Cosine,
            warmup: 0.2,
            milestones: vec![0.3, 0.6, 0.8],
            lr_decay: 0.2,
            final_lr: 0.0,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 5e-4,
            clip: 0.0,
            freeze: vec![],
            ema: 0.0,
            label_smoothing: 0.0,
            batch: 128,
            accumulate: 1,
            eval_batch: 512,
            epochs: 8,
            crop: 0,
            crop_padding: Padding::Zero,
            flip: true,
            cutout: 0,
            seed: 0,
            device: Target::Auto,
            dtype: DType::F32,
            exact: false,
            threads: 0,
            checkpoint_every: 1,
            checkpoint_steps: 0,
            tensorboard: false,
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

    /// What happens to training images on their way in.
    pub fn augment(&self) -> Augment {
        let reflect = self.crop_padding == Padding::Reflect;
        Augment { crop: self.crop, reflect, flip: self.flip, cutout: self.cutout }
    }

    /// Checks every setting against its own range; reading a file or flags has done so already.
    ///
    /// # Errors
    /// Usage: the first setting out of its range, with the range.
    pub fn validate(&self) -> crate::error::Result<()> {
        SETTINGS.iter().try_for_each(|s| s.check(&s.get(self)).map_err(|e| e.context("recipe")))
    }
}
