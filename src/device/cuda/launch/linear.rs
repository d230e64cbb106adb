//! Linear layers: 1x1 convolutions of 1x1 images, with a bias.

use super::conv::{Extras, Job, elementwise};
use super::conv_tiles::Product;
use super::{Launch, Operand, Target};
use crate::device::cuda::rungs::Pass;
use crate::error::{Error, Result};
use crate::ops::call::{Call, ConvShape, Kernel, LinearShape};

fn job<'a>(target: &'a Target, call: &Call) -> Result<(Job<'a>, LinearShape)> {
    let (pass, s, extras) = match &call.kernel {
        Kernel::LinearForward(s) => (Pass::Forward, s, Extras { bias: Some(2), ..Extras::default() }),
        Kernel::LinearBackwardData { shape, add } => {
            (Pass::BackwardData, shape, Extras { add: *add, ..Extras::default() })
        }
        Kernel::LinearBackwardWeight(s) => (Pass::BackwardWeight, s, Extras::default()),
        _ => return Err(Error::internal(format!("'{}' is no linear layer", call.label))),
    };
    let shape = ConvShape { n: s.n, h: 1, w: 1, ci: s.inputs, co: s.outputs, k: 1, stride: 1, pad: 0 };
    // A batch of 128 and 128 outputs are two or four tiles, so that K is cut to fill the card.
    let product = Product { pass, shape, sliced: pass != Pass::BackwardData };
    Ok((Job::new(target, call, product, extras), *s))
}

pub(super) fn workspace(target: &Target, call: &Call) -> usize {
    job(target, call).map_or(0, |(job, _)| job.workspace())
}

pub(super) fn launches(target: &Target, call: &Call) -> Result<Vec<Launch>> {
    let (job, s) = job(target, call)?;
    let mut launches = job.launches(call)?;
    if matches!(call.kernel, Kernel::LinearBackwardWeight(_)) {
        // db: a warp for 32 outputs in each of a block's 8 rows of warps.
        let numbers = [s.n, s.outputs].map(|n| Operand::I32(n as i32));
        let mut args = vec![Operand::Read(1), Operand::Write(1)];
        args.extend(numbers);
        let blocks = s.outputs.div_ceil(32);
        launches.push(elementwise("column_sums", &[("TX", call.reads[1].element)], 256 * blocks, args));
    }
    Ok(launches)
}
