//! PyramidNets (Han, Kim and Kim, "Deep Pyramidal Residual Networks", CVPR 2017), whose channels grow from block to block,
//! with the parameter names of dyhan0920/PyramidNet-PyTorch; with ShakeDrop (Yamada et al. 2018) behind each block's
//! residual branch if asked for.

use super::{Build, Spec, number};
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::nn;
use crate::ops::{AvgPool, PadShortcut};

/// Largest depth and growth that a name may ask for: far above all published ones, far below what overflows.
const DEEPEST: usize = 2000;
const LARGEST: usize = 10_000;
/// Channels of the stem.
const FIRST: usize = 16;
/// Probability that ShakeDrop changes the last block; that of block l of L is l / L of it.
const DROPPED: f64 = 0.5;

/// A PyramidNet for images of CIFAR's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PyramidNet {
    /// 6n + 2, with bottlenecks 9n + 2.
    pub depth: usize,
    /// Channels that all blocks together add.
    pub alpha: usize,
    /// conv1x1, conv3x3 and conv1x1 to four times the channels, in place of two conv3x3.
    pub bottleneck: bool,
    pub shake_drop: bool,
}

/// Returns the builder of the network called `name`; None unless it begins with "pyramidnet".
///
/// # Errors
/// Usage: D is not 6n + 2 (9n + 2 with bottlenecks) with n >= 1, alpha is 0, or the name is not of the form.
pub(super) fn parse(name: &str) -> Option<Result<Build>> {
    let words = name.strip_prefix("pyramidnet")?;
    let build = |net: PyramidNet| -> Build { Box::new(move |g, x, spec| net.record(g, x, spec)) };
    Some(read(words).map(build).map_err(|e| e.context(name)))
}

/// The network of "-272-a200-bottleneck-shakedrop".
fn read(words: &str) -> Result<PyramidNet> {
    let parts = || {
        let (words, shake_drop) = words.strip_suffix("-shakedrop").map_or((words, false), |rest| (rest, true));
        let (words, bottleneck) = words.strip_suffix("-bottleneck").map_or((words, false), |rest| (rest, true));
        let (depth, alpha) = words.strip_prefix('-')?.split_once("-a")?;
        Some(PyramidNet { depth: number(depth)?, alpha: number(alpha)?, bottleneck, shake_drop })
    };
    let Some(net) = parts() else {
        return Err(Error::usage(
            "a PyramidNet is named pyramidnet-D-aA, by depth and added channels, such as pyramidnet-110-a270; -bottleneck \
             and then -shakedrop may follow",
        ));
    };
    if net.depth > DEEPEST || net.alpha > LARGEST {
        return Err(Error::usage(format!("D may be at most {DEEPEST}, A at most {LARGEST}")));
    }
    let unit = net.unit();
    if net.depth < unit + 2 || net.depth % unit != 2 {
        let below = (net.depth.max(unit + 2) - 2) / unit * unit + 2;
        let of = if net.bottleneck { "with bottlenecks" } else { "without bottlenecks" };
        return Err(Error::usage(format!("{of} D must be {unit}n + 2, such as {below} or {}", below + unit)));
    }
    if net.alpha == 0 {
        return Err(Error::usage("A must be at least 1"));
    }
    Ok(net)
}

impl PyramidNet {
    /// Layers that the three stages have for each of their n blocks.
    fn unit(&self) -> usize {
        if self.bottleneck { 9 } else { 6 }
    }

    /// Blocks of all three stages.
    fn blocks(&self) -> usize {
        3 * ((self.depth - 2) / self.unit())
    }

    /// Channels of block `l`, the first being 1: 16 + alpha l / blocks to the nearest integer, a half to the even one.
    fn channels(&self, l: usize) -> usize {
        (FIRST as f64 + (self.alpha * l) as f64 / self.blocks() as f64).round_ties_even() as usize
    }

    /// Probability that block `l` stays as it is under ShakeDrop.
    fn kept(&self, l: usize) -> f32 {
        (1.0 - DROPPED * l as f64 / self.blocks() as f64) as f32
    }

    /// conv3x3 16, batch-norm, three stages of equally many blocks (the second and third halve the image), batch-norm, ReLU,
    /// mean over the image, fc. Returns the logits.
    ///
    /// # Errors
    /// If the input is not an image, or its sides are no multiples of 4.
    pub fn record(&self, g: &mut Graph, x: Var, spec: &Spec) -> Result<Var> {
        let (height, width, _) = g.shape(x).image("pyramidnet")?;
        if !height.is_multiple_of(4) || !width.is_multiple_of(4) {
            return Err(Error::usage(
                "both sides must be multiples of 4: they are halved twice by means of 2x2 pixels",
            ));
        }
        let mut h = nn::conv(g, x, "conv1", FIRST, 3, 1, 1)?;
        h = nn::batch_norm(g, h, "bn1")?;
        let stage_blocks = self.blocks() / 3;
        for l in 1..=self.blocks() {
            let (stage, i) = ((l - 1) / stage_blocks, (l - 1) % stage_blocks);
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            h = self.block(g, h, &format!("layer{}.{i}", stage + 1), l, stride, spec.taps)?;
        }
        h = nn::batch_norm(g, h, "bn_final")?;
        h = nn::relu(g, h, "relu_final")?;
        h = nn::global_avg_pool(g, h, "avgpool")?;
        nn::linear(g, h, "fc", spec.classes)
    }

    /// BN-conv-BN-ReLU-conv-BN, with bottlenecks BN-conv-BN-ReLU-conv-BN-ReLU-conv-BN, beside the input: where the image is
    /// halved the mean of 2x2 pixels, with channels of zeros behind those there are.
    fn block(&self, g: &mut Graph, x: Var, name: &str, l: usize, stride: usize, taps: bool) -> Result<Var> {
        let part = |what: &str| format!("{name}.{what}");
        let channels = self.channels(l);
        // Channels, kernel and stride of each convolution.
        let convolutions = match self.bottleneck {
            false => vec![(channels, 3, stride), (channels, 3, 1)],
            true => vec![(channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1)],
        };
        let mut h = nn::batch_norm(g, x, &part("bn1"))?;
        for (n, &(channels, k, stride)) in (1..).zip(&convolutions) {
            h = nn::conv(g, h, &part(&format!("conv{n}")), channels, k, stride, k / 2)?;
            h = nn::tap(g, h, &part(&format!("tap{n}")), taps)?;
            h = nn::batch_norm(g, h, &part(&format!("bn{}", n + 1)))?;
            if n < convolutions.len() {
                h = nn::relu(g, h, &part(&format!("relu{n}")))?;
            }
        }
        if self.shake_drop {
            h = nn::shake_drop(g, h, &part("shake_drop"), self.kept(l))?;
        }
        let mut beside = x;
        if stride > 1 {
            beside = nn::avg_pool(g, beside, &part("downsample"), AvgPool { window: stride, stride })?;
        }
        let channels = |v: Var| g.shape(v).0.last().copied().unwrap_or(0);
        let after = channels(h) - channels(beside);
        if after > 0 {
            let shortcut = PadShortcut { stride: 1, shift: 0, before: 0, after };
            beside = nn::pad_shortcut(g, beside, &part("shortcut"), shortcut)?;
        }
        nn::add(g, beside, h, &part("add"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_make_no_network_are_refused_with_the_rule() {
        let form = "a PyramidNet is named pyramidnet-D-aA, by depth and added channels, such as pyramidnet-110-a270; \
                    -bottleneck and then -shakedrop may follow";
        for (name, message) in [
            ("pyramidnet-111-a270", "without bottlenecks D must be 6n + 2, such as 110 or 116"),
            ("pyramidnet-2-a48", "without bottlenecks D must be 6n + 2, such as 8 or 14"),
            ("pyramidnet-110-a270-bottleneck-shakedrop", ""),
            ("pyramidnet-270-a200-bottleneck", "with bottlenecks D must be 9n + 2, such as 263 or 272"),
            ("pyramidnet-5-a200-bottleneck-shakedrop", "with bottlenecks D must be 9n + 2, such as 11 or 20"),
            ("pyramidnet-110-a0", "A must be at least 1"),
            ("pyramidnet-2006-a48", "D may be at most 2000, A at most 10000"),
            ("pyramidnet-110-a99999999999999999999999", "D may be at most 2000, A at most 10000"),
            ("pyramidnet", form),
            ("pyramidnet-110", form),
            ("pyramidnet-110-270", form),
            ("pyramidnet-110-a270-shakedrop-bottleneck", form),
            ("pyramidnet-110-a270-", form),
            ("pyramidnet-0110-a270", form),
            ("pyramidnet110-a270", form),
        ] {
            let network = parse(name).unwrap();
            if message.is_empty() {
                assert!(network.is_ok(), "{name}");
                continue;
            }
            let error = network.err().unwrap();
            assert_eq!((error.to_string(), error.exit_code()), (format!("{name}: {message}"), 2));
        }
        assert!(parse("cnn").is_none());
        for name in ["pyramidnet-8-a1", "pyramidnet-272-a200-bottleneck", "pyramidnet-110-a270-shakedrop"] {
            assert!(parse(name).unwrap().is_ok(), "{name}");
        }
    }

    #[test]
    fn channels_and_probabilities_go_from_block_to_block_in_equal_steps() {
        let net = PyramidNet { depth: 110, alpha: 270, bottleneck: false, shake_drop: true };
        assert_eq!([1, 2, 3, 18, 53, 54].map(|l| net.channels(l)), [21, 26, 31, 106, 281, 286]);
        assert_eq!([1, 27, 54].map(|l| net.kept(l)), [1.0 - 0.5 / 54.0, 0.75, 0.5]);
        let deep = PyramidNet { depth: 272, alpha: 200, bottleneck: true, shake_drop: true };
        // 18.2, 20.4, 22.7, … of 90 blocks.
        assert_eq!([1, 2, 3, 45, 90].map(|l| deep.channels(l)), [18, 20, 23, 116, 216]);
    }
}
