//! Residual networks (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016): those of ImageNet with
//! torchvision's names, and those of CIFAR with the names of akamaster/pytorch_resnet_cifar10.

use super::Spec;
use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::nn;
use crate::ops::{MaxPool, PadShortcut};

/// The layers before the first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// conv3x3: for images of 32x32 pixels.
    Small,
    /// conv7x7 with stride 2 and a 3x3 max pool with stride 2: for ImageNet.
    Large,
}

/// The two convolutions of ResNet-18 and 34, or the three of 50 and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// conv3x3, conv3x3.
    Basic,
    /// conv1x1, conv3x3, conv1x1 to four times the stage's channels. The first two have `widening` times the stage's
    /// channels: 1, or 2 in the wide ResNets of torchvision.
    Bottleneck { widening: usize },
}

/// A residual network with torchvision's names and layout.
#[derive(Clone, Copy, Debug)]
pub struct ResNet {
    pub stem: Stem,
    pub block: Block,
    /// Channels of stem and first stage; each later stage has twice as many and halves the image.
    pub channels: usize,
    /// Blocks of each stage.
    pub blocks: &'static [usize],
}

pub const RESNET18: ResNet = ResNet { stem: Stem::Small, block: Block::Basic, channels: 64, blocks: &[2, 2, 2, 2] };
pub const RESNET34: ResNet = ResNet { blocks: &[3, 4, 6, 3], ..RESNET18 };
/// torchvision's `resnet18` and `resnet34`, stem included.
pub const RESNET18_IMAGENET: ResNet = ResNet { stem: Stem::Large, ..RESNET18 };
pub const RESNET34_IMAGENET: ResNet = ResNet { stem: Stem::Large, ..RESNET34 };
/// torchvision's `wide_resnet50_2`.
pub const WIDE_RESNET50_2: ResNet =
    ResNet { stem: Stem::Large, block: Block::Bottleneck { widening: 2 }, channels: 64, blocks: &[3, 4, 6, 3] };

impl ResNet {
    /// Records the network and returns the logits.
    ///
    /// # Errors
    /// If the input is not an image.
    pub fn record(&self, g: &mut Graph, x: Var, spec: &Spec) -> Result<Var> {
        let mut h = match self.stem {
            Stem::Small => nn::conv(g, x, "conv1", self.channels, 3, 1, 1)?,
            Stem::Large => nn::conv(g, x, "conv1", self.channels, 7, 2, 3)?,
        };
        h = nn::batch_norm(g, h, "bn1")?;
        h = nn::relu(g, h, "relu")?;
        if self.stem == Stem::Large {
            h = nn::max_pool_of(g, h, "maxpool", MaxPool { window: 3, stride: 2, pad: 1 })?;
        }
        for (stage, blocks) in self.blocks.iter().enumerate() {
            for i in 0..*blocks {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                h = self.block(g, h, &format!("layer{}.{i}", stage + 1), self.channels << stage, stride, spec.taps)?;
            }
        }
        h = nn::global_avg_pool(g, h, "avgpool")?;
        nn::linear(g, h, "fc", spec.classes)
    }

    fn block(&self, g: &mut Graph, x: Var, name: &str, channels: usize, stride: usize, taps: bool) -> Result<Var> {
        let part = |what: &str| format!("{name}.{what}");
        // Channels, kernel and stride of each convolution. A bottleneck's stride is its 3x3's (torchvision, "v1.5").
        let convolutions = match self.block {
            Block::Basic => vec![(channels, 3, stride), (channels, 3, 1)],
            Block::Bottleneck { widening: w } => {
                vec![(w * channels, 1, 1), (w * channels, 3, stride), (4 * channels, 1, 1)]
            }
        };
        let mut h = x;
        for (n, &(channels, k, stride)) in (1..).zip(&convolutions) {
            h = nn::conv(g, h, &part(&format!("conv{n}")), channels, k, stride, k / 2)?;
            h = nn::tap(g, h, &part(&format!("tap{n}")), taps)?;
            h = nn::batch_norm(g, h, &part(&format!("bn{n}")))?;
            if n < convolutions.len() {
                h = nn::relu(g, h, &part(&format!("relu{n}")))?;
            }
        }
        let shortcut = if g.shape(x) == g.shape(h) {
            x
        } else {
            let channels = convolutions.last().map_or(channels, |c| c.0);
            let s = nn::conv(g, x, &part("downsample.0"), channels, 1, stride, 0)?;
            nn::batch_norm(g, s, &part("downsample.1"))?
        };
        let sum = nn::add(g, h, shortcut, &part("add"))?;
        nn::relu(g, sum, &part("relu"))
    }
}

/// The ResNet of section 4.2 for CIFAR, of depth 6n + 2: conv3x3 16, three stages of n basic blocks with 16, 32 and 64
/// channels, mean over the image, fc. Shortcuts have no parameters (option A).
///
/// # Errors
/// If the input is not an image.
pub fn cifar_resnet(g: &mut Graph, x: Var, depth: usize, spec: &Spec) -> Result<Var> {
    let mut h = nn::conv(g, x, "conv1", 16, 3, 1, 1)?;
    h = nn::batch_norm(g, h, "bn1")?;
    h = nn::relu(g, h, "relu")?;
    for stage in 0..3 {
        for i in 0..(depth - 2) / 6 {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            h = cifar_block(g, h, &format!("layer{}.{i}", stage + 1), 16 << stage, stride, spec.taps)?;
        }
    }
    h = nn::global_avg_pool(g, h, "avgpool")?;
    nn::linear(g, h, "linear", spec.classes)
}

fn cifar_block(g: &mut Graph, x: Var, name: &str, channels: usize, stride: usize, taps: bool) -> Result<Var> {
    let part = |what: &str| format!("{name}.{what}");
    let h = nn::conv(g, x, &part("conv1"), channels, 3, stride, 1)?;
    let h = nn::tap(g, h, &part("tap1"), taps)?;
    let h = nn::batch_norm(g, h, &part("bn1"))?;
    let h = nn::relu(g, h, &part("relu1"))?;
    let h = nn::conv(g, h, &part("conv2"), channels, 3, 1, 1)?;
    let h = nn::tap(g, h, &part("tap2"), taps)?;
    let h = nn::batch_norm(g, h, &part("bn2"))?;
    let shortcut = if stride == 1 {
        x
    } else {
        // Twice the channels: a quarter of them zeros in front of those there are, a quarter behind.
        let shortcut = PadShortcut { stride, shift: 0, before: channels / 4, after: channels / 4 };
        nn::pad_shortcut(g, x, &part("shortcut"), shortcut)?
    };
    let sum = nn::add(g, h, shortcut, &part("add"))?;
    nn::relu(g, sum, &part("relu"))
}
