//! The CPU's instruction sets, and the compilation of one loop for each of them.

use crate::error::{Error, Kind, Result, unknown};

/// An instruction set that kernels exist for, in ascending order. Bits are promised per instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// No assumption beyond the target's baseline.
    Plain,
    /// 8 lanes: avx2 and fma.
    Avx2,
    /// 16 lanes: avx512f, bw, dq and vl.
    Avx512,
}

impl Isa {
    /// Names as the environment variable SAMCORE_ISA and `info` give them.
    pub const ALL: [(Isa, &'static str); 3] = [(Isa::Plain, "plain"), (Isa::Avx2, "avx2"), (Isa::Avx512, "avx512")];

    /// The best set that this CPU has.
    pub fn best() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                return Isa::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Isa::Avx2;
            }
        }
        Isa::Plain
    }

    /// `best`, or a lesser one that SAMCORE_ISA names.
    ///
    /// # Errors
    /// An unknown name, or a set that this CPU does not have.
    pub fn detect() -> Result<Isa> {
        let Ok(name) = std::env::var("SAMCORE_ISA") else { return Ok(Isa::best()) };
        let names: Vec<&str> = Isa::ALL.iter().map(|i| i.1).collect();
        let isa = Isa::ALL.iter().find(|i| i.1 == name).ok_or_else(|| unknown("SAMCORE_ISA", &name, &names))?.0;
        isa.check().map_err(|e| e.context(format!("SAMCORE_ISA={name}")))?;
        Ok(isa)
    }

    /// The sets that this CPU has, in ascending order.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().map(|i| i.0).filter(|i| *i <= Isa::best())
    }

    /// # Errors
    /// If this CPU does not have the set.
    pub fn check(self) -> Result<()> {
        if self <= Isa::best() {
            return Ok(());
        }
        let message = format!("this CPU has no {} instructions; its best are {}", self.name(), Isa::best().name());
        Err(Error::new(Kind::Unavailable, message))
    }

    pub fn name(self) -> &'static str {
        Isa::ALL[self as usize].1
    }
}

/// Defines `fn name(isa, args)` that runs `body(args)` compiled for `isa`; it may be generic over types.
///
/// `body` must be `#[inline(always)]`, as must be what it calls in its loops: it is inlined into one function for each
/// instruction set, whose wider vectors the compiler then uses. Bodies written without `mul_add` give the same bits on
/// all of them. (A macro, because a function generic over the set cannot carry `#[target_feature]`.)
macro_rules! per_isa {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$($t:ident: $bound:path),+>)? ($($arg:ident: $ty:ty),* $(,)?) = $body:path;
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($t: $bound),+>)? (isa: $crate::device::cpu::simd::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn wide $(<$($t: $bound),+>)? ($($arg: $ty),*) {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn half $(<$($t: $bound),+>)? ($($arg: $ty),*) {
                    $body($($arg),*)
                }
                use $crate::device::cpu::simd::Isa;
                match isa {
                    // SAFETY: `Isa::detect` and `CpuDevice::with_isa` let only sets pass that this CPU has.
                    Isa::Avx512 => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    Isa::Avx2 => return unsafe { half($($arg),*) },
                    Isa::Plain => {}
                }
            }
            let _ = isa;
            $body($($arg),*)
        }
    };
}
pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn scaled_sum(x: &[f32], y: &mut [f32], a: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * *x;
        }
    }
    per_isa! { fn scaled_add(x: &[f32], y: &mut [f32], a: f32) = scaled_sum; }

    #[test]
    fn bodies_without_mul_add_give_the_same_bits_on_every_isa() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut plain = vec![0.1f32; 1000];
        scaled_add(Isa::Plain, &x, &mut plain, 1.7);
        for isa in Isa::available() {
            let mut y = vec![0.1f32; 1000];
            scaled_add(isa, &x, &mut y, 1.7);
            assert_eq!(y, plain);
        }
    }
}
