//! AutoAugment (Cubuk et al., CVPR 2019, arXiv:1805.09501) with the policy found on CIFAR-10, on the host.
//!
//! An image draws one of 95 sub-policies; its two operations are applied one after the other, each with a probability of its
//! own. Draws are keyed by (seed, "autoaugment", epoch, index of the image), so that they depend neither on threads nor on
//! what was done before.

mod mixup;
mod operations;
mod policy;

pub use mixup::mixup_share;
pub use operations::{Canvas, Operation, Strength};
pub use policy::{CIFAR, Choice, SubPolicy};

use crate::data::DataSet;
use crate::error::{Error, Result};
use crate::rng::{below, draw, stream};

const STREAM: u32 = stream("autoaugment");

/// Augments images of one shape, one at a time.
pub struct AutoAugment {
    canvas: Canvas,
    seed: u64,
    h: usize,
    w: usize,
}

impl AutoAugment {
    /// Returns AutoAugment for the images of `data`. Pixels from beyond the border have the data's mean colour.
    ///
    /// # Errors
    /// Usage: images of neither 1 nor 3 channels.
    pub fn new(data: &DataSet, seed: u64) -> Result<AutoAugment> {
        let (c, h, w) = (data.train.c, data.train.h, data.train.w);
        if c != 1 && c != 3 {
            let name = &data.name;
            return Err(Error::usage(format!("--autoaugment is for images of 1 or 3 channels; {name} has {c}")));
        }
        let fill = data.mean.map(|mean| (255.0 * mean).round() as u8);
        Ok(AutoAugment { canvas: Canvas::new(c, h, w, fill), seed, h, w })
    }

    /// Augments `image`, which is number `index` of its data set, as it is seen in `epoch`.
    pub fn apply(&mut self, epoch: u32, index: u32, image: &mut [u8]) {
        let words = draw(self.seed, STREAM, epoch, index, 0);
        let sub_policy = &CIFAR[below(words[0], CIFAR.len() as u32) as usize];
        for (number, choice) in sub_policy.iter().enumerate() {
            if below(words[1 + number], 10) >= choice.tenths {
                continue;
            }
            let negative = words[3] >> (31 - number) & 1 == 1;
            let mut strength = Strength { level: choice.level, negative, centre: [0, 0] };
            if choice.operation == Operation::Cutout {
                let places = draw(self.seed, STREAM, epoch, index, 1);
                let [row, column] = [places[2 * number], places[2 * number + 1]];
                strength.centre = [below(row, self.h as u32) as usize, below(column, self.w as u32) as usize];
            }
            self.canvas.apply(choice.operation, &strength, image);
        }
    }
}
