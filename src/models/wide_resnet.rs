//! Wide residual networks, WRN-D-K (Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016): D layers, K times as
//! wide as the pre-activation ResNet of that depth. Names as in the usual PyTorch port (xternalz/WideResNet-pytorch).

use super::{Build, Spec, number};
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::nn;

/// Largest depth and widening factor that a name may ask for: far above all published ones, far below what overflows.
const DEEPEST: usize = 1000;
const WIDEST: usize = 1000;

/// Returns the builder of the network called `name`; None unless it begins with "wrn".
///
/// # Errors
/// Usage: D is not 6n + 4 with n >= 1, K is not a number from 1, or the name is not of the form wrn-D-K.
pub(super) fn parse(name: &str) -> Option<Result<Build>> {
    let numbers = name.strip_prefix("wrn")?;
    let build = |(depth, width)| -> Build { Box::new(move |g, x, spec| wide_resnet(g, x, depth, width, spec)) };
    Some(size(numbers).map(build).map_err(|e| e.context(name)))
}

/// Depth and widening factor of "-28-10".
fn size(numbers: &str) -> Result<(usize, usize)> {
    let words = numbers.strip_prefix('-').and_then(|n| n.split_once('-'));
    let Some((Some(depth), Some(width))) = words.map(|(d, k)| (number(d), number(k))) else {
        return Err(Error::usage("a wide ResNet is named wrn-D-K, by depth and widening factor, such as wrn-28-10"));
    };
    if depth > DEEPEST || width > WIDEST {
        return Err(Error::usage(format!("D may be at most {DEEPEST}, K at most {WIDEST}")));
    }
    if depth < 10 || depth % 6 != 4 {
        let below = (depth.max(10) - 4) / 6 * 6 + 4;
        return Err(Error::usage(format!("D must be 6n + 4, such as {below} or {}", below + 6)));
    }
    if width == 0 {
        return Err(Error::usage("K must be at least 1"));
    }
    Ok((depth, width))
}

/// conv3x3 16, three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels (the second and third
/// halve the image), batch-norm, ReLU, mean over the image, fc.
///
/// # Errors
/// If the input is not an image.
pub fn wide_resnet(g: &mut Graph, x: Var, depth: usize, width: usize, spec: &Spec) -> Result<Var> {
    let mut h = nn::conv(g, x, "conv1", 16, 3, 1, 1)?;
    for (stage, (channels, stride)) in [(16, 1), (32, 2), (64, 2)].into_iter().enumerate() {
        for i in 0..(depth - 4) / 6 {
            let name = format!("block{}.layer.{i}", stage + 1);
            h = block(g, h, &name, channels * width, if i == 0 { stride } else { 1 }, spec)?;
        }
    }
    h = nn::batch_norm(g, h, "bn1")?;
    h = nn::relu(g, h, "relu")?;
    h = nn::global_avg_pool(g, h, "pool")?;
    nn::linear_zero_bias(g, h, "fc", spec.classes)
}

/// BN-ReLU-conv-BN-ReLU-dropout-conv beside the identity. Where the number of channels changes, a 1x1 convolution of the
/// activated input takes the identity's place. There is a tap behind both 3x3 convolutions.
fn block(g: &mut Graph, x: Var, name: &str, channels: usize, stride: usize, spec: &Spec) -> Result<Var> {
    let part = |what: &str| format!("{name}.{what}");
    let a = nn::batch_norm(g, x, &part("bn1"))?;
    let a = nn::relu(g, a, &part("relu1"))?;
    let h = nn::conv(g, a, &part("conv1"), channels, 3, stride, 1)?;
    let h = nn::tap(g, h, &part("tap1"), spec.taps)?;
    let h = nn::batch_norm(g, h, &part("bn2"))?;
    let h = nn::relu(g, h, &part("relu2"))?;
    let h = nn::dropout(g, h, &part("dropout"), spec.dropout)?;
    let h = nn::conv(g, h, &part("conv2"), channels, 3, 1, 1)?;
    let h = nn::tap(g, h, &part("tap2"), spec.taps)?;
    let same = g.shape(x).0.last() == Some(&channels);
    let shortcut = if same { x } else { nn::conv(g, a, &part("convShortcut"), channels, 1, stride, 0)? };
    nn::add(g, shortcut, h, &part("add"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_make_no_network_are_refused_with_the_rule() {
        let form = "a wide ResNet is named wrn-D-K, by depth and widening factor, such as wrn-28-10";
        for (name, message) in [
            ("wrn-17-4", "D must be 6n + 4, such as 16 or 22"),
            ("wrn-15-4", "D must be 6n + 4, such as 10 or 16"),
            ("wrn-21-1", "D must be 6n + 4, such as 16 or 22"),
            ("wrn-27-10", "D must be 6n + 4, such as 22 or 28"),
            ("wrn-4-1", "D must be 6n + 4, such as 10 or 16"),
            ("wrn-0-1", "D must be 6n + 4, such as 10 or 16"),
            ("wrn-16-0", "K must be at least 1"),
            ("wrn-1006-1", "D may be at most 1000, K at most 1000"),
            ("wrn-16-1001", "D may be at most 1000, K at most 1000"),
            ("wrn-16-99999999999999999999999", "D may be at most 1000, K at most 1000"),
            ("wrn", form),
            ("wrn-16", form),
            ("wrn-16-", form),
            ("wrn--4", form),
            ("wrn-+16-4", form),
            ("wrn-016-4", form),
            ("wrn-16-4-2", form),
            ("wrn_16_4", form),
        ] {
            let error = parse(name).unwrap().err().unwrap();
            assert_eq!((error.to_string(), error.exit_code()), (format!("{name}: {message}"), 2));
        }
        assert!(parse("cnn").is_none());
        for name in ["wrn-10-1", "wrn-16-4", "wrn-1000-1", "wrn-40-1000"] {
            assert!(parse(name).unwrap().is_ok(), "{name}");
        }
    }
}
