//! Shake-Shake networks (Gastaldi, "Shake-Shake regularization", 2017), as in xgastaldi/shake-shake, with the parameter names
//! of owruby/shake-shake_pytorch; the stem's batch-norm, which that port leaves out, is `bn_in`.
//!
//! Between stages the shortcut has two paths: every second pixel of the activated input, and every second pixel of that
//! moved right and down by one, zeros behind it, as in the official code. (The ports to PyTorch move it left and up.)

use super::{Build, Spec, number};
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::nn;
use crate::ops::PadShortcut;

/// Largest depth and width that a name may ask for: far above all published ones, far below what overflows.
const DEEPEST: usize = 1000;
const WIDEST: usize = 4096;
/// Branches of a block.
const BRANCHES: usize = 2;

/// Returns the builder of the network called `name`; None unless it begins with "shake-shake".
///
/// # Errors
/// Usage: D is not 6n + 2 with n >= 1, the branches are not two, W is not even, or the name is not of the form.
pub(super) fn parse(name: &str) -> Option<Result<Build>> {
    let numbers = name.strip_prefix("shake-shake")?;
    let build = |(depth, width)| -> Build { Box::new(move |g, x, spec| shake_shake(g, x, depth, width, spec)) };
    Some(size(numbers).map(build).map_err(|e| e.context(name)))
}

/// Depth and width of "-26-2x32d".
fn size(numbers: &str) -> Result<(usize, usize)> {
    let parts = || {
        let (depth, rest) = numbers.strip_prefix('-')?.split_once('-')?;
        let (branches, width) = rest.strip_suffix('d')?.split_once('x')?;
        Some((number(depth)?, number(branches)?, number(width)?))
    };
    let Some((depth, branches, width)) = parts() else {
        return Err(Error::usage(
            "a Shake-Shake network is named shake-shake-D-BxWd, by depth, branches and channels of the first stage, such \
             as shake-shake-26-2x32d",
        ));
    };
    if branches != BRANCHES {
        return Err(Error::usage(format!("B must be {BRANCHES}: two branches are mixed")));
    }
    if depth > DEEPEST || width > WIDEST {
        return Err(Error::usage(format!("D may be at most {DEEPEST}, W at most {WIDEST}")));
    }
    if depth < 8 || depth % 6 != 2 {
        let below = (depth.max(8) - 2) / 6 * 6 + 2;
        return Err(Error::usage(format!("D must be 6n + 2, such as {below} or {}", below + 6)));
    }
    if width == 0 || !width.is_multiple_of(2) {
        let even = (width + 1).max(2);
        return Err(Error::usage(format!("W must be even, for the shortcut's two halves, such as {even}")));
    }
    Ok((depth, width))
}

/// conv3x3 16, batch-norm, three stages of (depth - 2) / 6 blocks with 1, 2 and 4 times `width` channels (the second and
/// third halve the image), ReLU, mean over the image, fc.
///
/// # Errors
/// If the input is not an image.
pub fn shake_shake(g: &mut Graph, x: Var, depth: usize, width: usize, spec: &Spec) -> Result<Var> {
    let mut h = nn::conv(g, x, "c_in", 16, 3, 1, 1)?;
    h = nn::batch_norm(g, h, "bn_in")?;
    for stage in 0..3 {
        for i in 0..(depth - 2) / 6 {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            h = block(g, h, &format!("layer{}.{i}", stage + 1), width << stage, stride, spec.taps)?;
        }
    }
    h = nn::relu(g, h, "relu")?;
    h = nn::global_avg_pool(g, h, "pool")?;
    nn::linear_zero_bias(g, h, "fc_out", spec.classes)
}

/// Two branches, mixed at random, beside the identity; where the number of channels changes, beside the shortcut.
fn block(g: &mut Graph, x: Var, name: &str, channels: usize, stride: usize, taps: bool) -> Result<Var> {
    let part = |what: &str| format!("{name}.{what}");
    // The branches and the shortcut begin with the same ReLU.
    let a = nn::relu(g, x, &part("relu"))?;
    let first = branch(g, a, &part("branch1"), channels, stride, taps)?;
    let second = branch(g, a, &part("branch2"), channels, stride, taps)?;
    let h = nn::shake(g, first, second, &part("shake"))?;
    let same = g.shape(x).0.last() == Some(&channels);
    let beside = if same { x } else { shortcut(g, a, &part("shortcut"), channels, stride)? };
    nn::add(g, beside, h, &part("add"))
}

/// conv-BN-ReLU-conv-BN. The numbers count the layers of the port's branch, whose first, the ReLU, comes before it here.
fn branch(g: &mut Graph, x: Var, name: &str, channels: usize, stride: usize, taps: bool) -> Result<Var> {
    let part = |n: usize| format!("{name}.{n}");
    let h = nn::conv(g, x, &part(1), channels, 3, stride, 1)?;
    let h = nn::tap(g, h, &format!("{name}.tap1"), taps)?;
    let h = nn::batch_norm(g, h, &part(2))?;
    let h = nn::relu(g, h, &part(3))?;
    let h = nn::conv(g, h, &part(4), channels, 3, 1, 1)?;
    let h = nn::tap(g, h, &format!("{name}.tap2"), taps)?;
    nn::batch_norm(g, h, &part(5))
}

/// The two paths, a 1x1 convolution to half of the channels on each, side by side, and a batch-norm.
fn shortcut(g: &mut Graph, x: Var, name: &str, channels: usize, stride: usize) -> Result<Var> {
    let part = |what: &str| format!("{name}.{what}");
    let half = channels / 2;
    let plain = PadShortcut { stride: 1, shift: 0, before: 0, after: 0 };
    let first = nn::conv(g, x, &part("conv1"), half, 1, stride, 0)?;
    let shifted = nn::pad_shortcut(g, x, &part("shift"), PadShortcut { stride, shift: 1, ..plain })?;
    let second = nn::conv(g, shifted, &part("conv2"), half, 1, 1, 0)?;
    let left = nn::pad_shortcut(g, first, &part("left"), PadShortcut { after: half, ..plain })?;
    let right = nn::pad_shortcut(g, second, &part("right"), PadShortcut { before: half, ..plain })?;
    let both = nn::add(g, left, right, &part("concat"))?;
    nn::batch_norm(g, both, &part("bn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_make_no_network_are_refused_with_the_rule() {
        let form = "a Shake-Shake network is named shake-shake-D-BxWd, by depth, branches and channels of the first stage, \
                    such as shake-shake-26-2x32d";
        for (name, message) in [
            ("shake-shake-27-2x32d", "D must be 6n + 2, such as 26 or 32"),
            ("shake-shake-2-2x32d", "D must be 6n + 2, such as 8 or 14"),
            ("shake-shake-26-2x33d", "W must be even, for the shortcut's two halves, such as 34"),
            ("shake-shake-26-2x0d", "W must be even, for the shortcut's two halves, such as 2"),
            ("shake-shake-26-3x32d", "B must be 2: two branches are mixed"),
            ("shake-shake-1004-2x32d", "D may be at most 1000, W at most 4096"),
            ("shake-shake-26-2x99999999999999999999999d", "D may be at most 1000, W at most 4096"),
            ("shake-shake", form),
            ("shake-shake-26", form),
            ("shake-shake-26-2x32", form),
            ("shake-shake-26-32d", form),
            ("shake-shake-26-2x032d", form),
            ("shake-shake26-2x32d", form),
            ("shake-shake-26-2x32d-", form),
        ] {
            let error = parse(name).unwrap().err().unwrap();
            assert_eq!((error.to_string(), error.exit_code()), (format!("{name}: {message}"), 2));
        }
        assert!(parse("cnn").is_none());
        for name in ["shake-shake-8-2x2d", "shake-shake-26-2x96d", "shake-shake-998-2x16d"] {
            assert!(parse(name).unwrap().is_ok(), "{name}");
        }
    }
}
