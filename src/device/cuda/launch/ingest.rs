//! The launch of `ingest.cu`.

use super::operands::{flag, int, ints, line, must_be_f32, read, typed, write};
use super::{Launch, Operand, Target};
use crate::device::cuda::driver::Module;
use crate::error::{Error, Result};
use crate::ops::call::{Call, Kernel};
use crate::rng;
use Operand::{Counters, Datasets, F32, Read, U32, Write};

const THREADS: u32 = 256;
/// Channels that the kernel has means and deviations for.
const MOST_CHANNELS: usize = 4;

pub(super) fn launches(_target: &Target, call: &Call) -> Result<Vec<Launch>> {
    let Kernel::Ingest(s) = &call.kernel else {
        return Err(Error::internal(format!("'{}' is no ingest", call.label)));
    };
    if s.c > MOST_CHANNELS {
        return Err(Error::usage(format!(
            "'{}' of {} channels; at most {MOST_CHANNELS} are possible",
            call.label, s.c
        )));
    }
    let x = write(call, 0)?;
    int(call, x.len)?;
    must_be_f32(call, write(call, 1)?, "targets")?;
    must_be_f32(call, write(call, 2)?, "weights")?;
    let mut args = vec![Counters, Datasets];
    if s.augment.mixup {
        must_be_f32(call, read(call, 0)?, "share")?;
        args.push(Read(0));
    }
    args.extend([Write(0), Write(1), Write(2)]);
    args.extend(ints(call, &[s.offset, s.h, s.w, s.c, s.classes])?);
    args.extend(s.mean.iter().chain(&s.std).map(|v| F32(*v)));
    args.push(int(call, s.augment.crop)?);
    args.extend([flag(s.augment.reflect), flag(s.augment.flip), int(call, s.augment.cutout)?]);
    args.push(U32(rng::stream("ingest")));
    let module = Module { file: "ingest.cu", defines: vec![typed("TX", x)] };
    let kernel = if s.augment.mixup { "ingest_mixed" } else { "ingest" };
    Ok(vec![line(&module, kernel, s.n, THREADS, args)])
}
