//! Which method computes a convolution: a written rule by shape, which SAMCORE_CONV or `--exact` overrides.

use crate::error::{Result, unknown};
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
    /// more ReLUs; F(4x4) for gradients.
    pub fn choose(&self, s: &ConvShape, product: Product) -> Method {
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
            Product::Forward => Method::F2,
            Product::BackwardData | Product::BackwardWeight => Method::F4,
        }
    }
}
