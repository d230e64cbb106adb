//! Choice of a convolution's method: a rule by shape, which SAMCORE_CONV or `--exact` overrides.

use crate::dtype::Element;
use crate::error::{Error, Result, unknown};
use crate::ops::call::ConvShape;

/// Method of a convolution. The Winograd methods are for 3x3 kernels of stride 1 alone; all others are direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Every product of the definition.
    Direct,
    /// F(2x2, 3x3): 2.25 times fewer products.
    F2,
    /// F(4x4, 3x3): 4 times fewer products, and a wider error.
    F4,
}

impl Method {
    /// Names as the environment variable SAMCORE_CONV has them.
    pub const ALL: [(Method, &'static str); 3] = [(Method::Direct, "direct"), (Method::F2, "f2"), (Method::F4, "f4")];

    pub fn name(self) -> &'static str {
        Method::ALL[self as usize].1
    }
}

/// The three products of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    Forward,
    BackwardData,
    BackwardWeight,
}

/// Rule by which methods are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Methods {
    /// The method of every convolution that it can compute; None: by the rule.
    pub forced: Option<Method>,
}

impl Methods {
    /// Direct convolution alone.
    pub const EXACT: Methods = Methods { forced: Some(Method::Direct) };

    /// Direct convolution alone, as `--exact` asks for.
    ///
    /// # Errors
    /// Usage: SAMCORE_CONV has named another method.
    pub fn exact(self) -> Result<Methods> {
        match self.forced {
            Some(method) if method != Method::Direct => {
                let name = method.name();
                Err(Error::usage(format!("--exact keeps to direct convolution, but SAMCORE_CONV={name}; unset one")))
            }
            _ => Ok(Methods::EXACT),
        }
    }

    /// The rule, or the method that SAMCORE_CONV names.
    ///
    /// # Errors
    /// Usage: an unknown name.
    pub fn detect() -> Result<Methods> {
        let Ok(name) = std::env::var("SAMCORE_CONV") else { return Ok(Methods::default()) };
        let names: Vec<&str> = Method::ALL.iter().map(|m| m.1).collect();
        let method = Method::ALL.iter().find(|m| m.1 == name).ok_or_else(|| unknown("SAMCORE_CONV", &name, &names))?;
        Ok(Methods { forced: Some(method.0) })
    }

    /// Returns the method that computes `product` of a convolution of shape `s`.
    ///
    /// Among the methods that are precise enough it is the one with the fewest products, weighed by the cost of its
    /// transforms. Forward that is F(2x2), whose rounding errors are no wider than those of direct convolution and flip no more
    /// ReLUs. Gradients may take F(4x4), and so may forward where storing in bf16 rounds a thousand times as much. Direct
    /// convolution is taken where channels or tiles are so few that the transforms cost more than the products save.
    pub fn choose(&self, s: &ConvShape, product: Product, stored: Element) -> Method {
        if s.k != 3 || s.stride != 1 || s.pad > 2 {
            return Method::Direct;
        }
        if let Some(method) = self.forced {
            return method;
        }
        let [h, w] = if product == Product::BackwardData { [s.h, s.w] } else { [s.out_h(), s.out_w()] };
        if s.ci.min(s.co) < LEAST_CHANNELS || s.n * h.div_ceil(4) * w.div_ceil(4) < LEAST_TILES {
            return Method::Direct;
        }
        let low = product == Product::Forward && stored == Element::F32;
        let cost = |method: &Method| match method {
            Method::Direct => 100 * inside(s.h, s.out_h(), s.pad) * inside(s.w, s.out_w(), s.pad),
            Method::F2 => 115 * 16 * h.div_ceil(2) * w.div_ceil(2),
            Method::F4 => 130 * 36 * h.div_ceil(4) * w.div_ceil(4),
        };
        let methods = Method::ALL.into_iter().map(|m| m.0).filter(|m| !(low && *m == Method::F4));
        methods.min_by_key(cost).unwrap_or(Method::Direct)
    }
}

/// Fewer channels than this fill too little of a vector.
const LEAST_CHANNELS: usize = 8;
/// Fewer 4x4 tiles in a batch than this are fewer than the rows of a block of the matrix product.
const LEAST_TILES: usize = 16;

/// Pairs of an input and an output position of one axis that a tap joins.
fn inside(source: usize, out: usize, pad: usize) -> usize {
    (0..out).map(|o| (o..o + 3).filter(|at| *at >= pad && *at < source + pad).count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_goes_by_shape_and_a_forced_method_only_where_it_can() {
        let s = ConvShape { n: 2, h: 16, w: 16, ci: 16, co: 16, k: 3, stride: 1, pad: 1 };
        let rule = |s: &ConvShape, stored| {
            [Product::Forward, Product::BackwardData, Product::BackwardWeight]
                .map(|p| Methods::default().choose(s, p, stored))
        };
        assert_eq!(rule(&s, Element::F32), [Method::F2, Method::F4, Method::F4]);
        assert_eq!(rule(&s, Element::Bf16), [Method::F4; 3]);
        let others = [
            ConvShape { ci: 3, ..s },
            ConvShape { stride: 2, ..s },
            ConvShape { k: 1, pad: 0, ..s },
            ConvShape { k: 5, pad: 2, ..s },
        ];
        for other in others {
            assert_eq!(rule(&other, Element::F32), [Method::Direct; 3], "{other:?}");
        }
        // Most taps of a small image's border meet no pixel; a few tiles do not pay for transforming the weights.
        let side = |side, n| rule(&ConvShape { n, h: side, w: side, ..s }, Element::F32);
        assert_eq!(side(1, 128), [Method::Direct; 3]);
        assert_eq!(side(2, 128), [Method::Direct; 3]);
        assert_eq!(side(6, 128), [Method::F2; 3]);
        assert_eq!(side(8, 2), [Method::Direct; 3]);
        let forced = Methods { forced: Some(Method::F4) };
        let of = |s: &ConvShape| forced.choose(s, Product::Forward, Element::F32);
        assert_eq!((of(&s), of(&others[0]), of(&others[1])), (Method::F4, Method::F4, Method::Direct));
        assert_eq!(Methods::EXACT.choose(&s, Product::BackwardData, Element::F32), Method::Direct);
    }
}
