//! Which method computes a convolution: a written rule by shape, which SAMCORE_CONV or `--exact` overrides.

use crate::dtype::Element;
use crate::error::{Error, Result, unknown};
use crate::ops::call::ConvShape;

/// How a convolution is computed. The Winograd methods are for 3x3 kernels of stride 1 alone; others are direct always.
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

/// How methods are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Methods {
    /// The method of every convolution that it can compute; None: by the rule.
    pub forced: Option<Method>,
}

impl Methods {
    /// Direct convolution alone.
    pub const EXACT: Methods = Methods { forced: Some(Method::Direct) };

    /// What a run asks for: the rule or SAMCORE_CONV's method, or, with `--exact`, direct convolution alone.
    ///
    /// # Errors
    /// Usage: an unknown name, or one that `--exact` excludes.
    pub fn asked(exact: bool) -> Result<Methods> {
        match Methods::detect()? {
            Methods { forced: Some(method) } if exact && method != Method::Direct => {
                let name = method.name();
                Err(Error::usage(format!("--exact keeps to direct convolution, but SAMCORE_CONV={name}; unset one")))
            }
            _ if exact => Ok(Methods::EXACT),
            methods => Ok(methods),
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

    /// The method that computes `product` of a convolution of shape `s`.
    ///
    /// Winograd for 3x3 kernels of stride 1 with at least 8 channels on both sides: below that the transforms cost what the
    /// products save. F(2x2) forward, as its rounding errors are no wider than those of direct convolution and so flip no
    /// more ReLUs; F(4x4) for gradients, and forward as well where storing in bf16 rounds a thousand times as much.
    pub fn choose(&self, s: &ConvShape, product: Product, stored: Element) -> Method {
        if s.k != 3 || s.stride != 1 || s.pad > 2 {
            return Method::Direct;
        }
        if let Some(method) = self.forced {
            return method;
        }
        if s.ci.min(s.co) < 8 {
            return Method::Direct;
        }
        match product {
            Product::Forward if stored == Element::F32 => Method::F2,
            Product::Forward | Product::BackwardData | Product::BackwardWeight => Method::F4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_goes_by_shape_and_a_forced_method_only_where_it_can() {
        let s = ConvShape { n: 2, h: 9, w: 9, ci: 16, co: 16, k: 3, stride: 1, pad: 1 };
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
        let forced = Methods { forced: Some(Method::F4) };
        let of = |s: &ConvShape| forced.choose(s, Product::Forward, Element::F32);
        assert_eq!((of(&s), of(&others[0]), of(&others[1])), (Method::F4, Method::F4, Method::Direct));
        assert_eq!(Methods::EXACT.choose(&s, Product::BackwardData, Element::F32), Method::Direct);
    }
}
