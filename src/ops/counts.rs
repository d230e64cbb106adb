//! Lower bounds on the cost of a call: floating-point operations, and bytes that must move.

use super::call::{Call, Kernel};

impl Call {
    /// Multiply-adds counted as two. Calls that only move memory count 0: their bytes are what they cost.
    pub fn flops(&self) -> u64 {
        match &self.kernel {
            Kernel::ConvForward(s) | Kernel::ConvBackwardWeight(s) | Kernel::ConvBackwardData { shape: s, .. } => {
                s.flops()
            }
            Kernel::LinearForward(s)
            | Kernel::LinearBackwardWeight(s)
            | Kernel::LinearBackwardData { shape: s, .. } => 2 * (s.n * s.inputs * s.outputs) as u64,
            _ => 0,
        }
    }

    /// Bytes of all operands, each once: the least that a device without caches that outlive a call can move. A masked
    /// vector call counts its ranges only, an ingest call one byte a pixel read.
    pub fn bytes(&self) -> u64 {
        let whole: usize = self.reads.iter().chain(&self.writes).map(|l| l.len * l.element.bytes()).sum();
        let vectors = |ranges: &[std::ops::Range<usize>]| {
            let covered: usize = ranges.iter().map(|r| r.len()).sum();
            let operands = self.reads.iter().chain(&self.writes).filter(|l| l.len > 1).count();
            4 * (covered * operands) as u64
        };
        match &self.kernel {
            Kernel::Norm(ranges) | Kernel::Dot(ranges) | Kernel::Set { ranges, .. } => vectors(ranges),
            Kernel::Perturbation { ranges, .. } | Kernel::Largest { ranges, .. } => vectors(ranges),
            // Read and written in place.
            Kernel::Unscale(ranges) => 2 * vectors(ranges),
            Kernel::Update(update) => vectors(&update.ranges),
            Kernel::Ingest(s) => whole as u64 + (s.n * s.h * s.w * s.c) as u64,
            _ => whole as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::call::{ConvShape, Loc, Memory};

    #[test]
    fn counts_are_those_of_the_textbook() {
        let at = |len| Loc::new(Memory::Arena, 0, len);
        let call = |kernel, reads: &[usize], writes: &[usize]| Call {
            kernel,
            reads: reads.iter().map(|l| at(*l)).collect(),
            writes: writes.iter().map(|l| at(*l)).collect(),
            workspace: None,
            label: String::new(),
        };
        // conv2 of cnn: 14.45 MFLOP an image.
        let s = ConvShape { n: 2, h: 28, w: 28, ci: 32, co: 32, k: 3, stride: 1, pad: 1 };
        let conv = call(Kernel::ConvForward(s), &[s.x_len(), s.weight_len()], &[s.y_len()]);
        assert_eq!(conv.flops(), 2 * 14_450_688);
        assert_eq!(conv.bytes(), 4 * (2 * 2 * 784 * 32 + 9216));
        // A norm over 512 of 1024 elements.
        let masked = call(Kernel::Norm([0..256, 512..768].into_iter().collect()), &[1024], &[1]);
        assert_eq!((masked.flops(), masked.bytes()), (0, 4 * 512));
    }
}
