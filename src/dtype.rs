//! Number formats: what is stored, and what is computed in.

/// Storage of one element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Element {
    #[default]
    F32,
    /// 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// IEEE binary16: 5 bits of exponent, 10 of mantissa.
    F16,
}

impl Element {
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 | Element::F16 => 2,
        }
    }
    /// Cells of 4 bytes that `len` elements fill.
    pub const fn cells(self, len: usize) -> usize {
        (len * self.bytes()).div_ceil(4)
    }
    /// The type's name in kernels.
    pub const fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::Bf16 => "bf16",
            Element::F16 => "f16",
        }
    }
    /// `value` as it is after being stored, to nearest, ties to even.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Element::F32 => value,
            Element::Bf16 => half::bf16::from_f32(value).to_f32(),
            Element::F16 => half::f16::from_f32(value).to_f32(),
        }
    }
    /// Stores `values`, two or four bytes each, little-endian.
    pub fn pack(self, values: &[f32], to: &mut Vec<u8>) {
        match self {
            Element::F32 => values.iter().for_each(|v| to.extend(v.to_le_bytes())),
            Element::Bf16 => values.iter().for_each(|v| to.extend(half::bf16::from_f32(*v).to_le_bytes())),
            Element::F16 => values.iter().for_each(|v| to.extend(half::f16::from_f32(*v).to_le_bytes())),
        }
    }
    /// Reads back what `pack` stored.
    pub fn unpack(self, bytes: &[u8], to: &mut [f32]) {
        let chunks = bytes.chunks_exact(self.bytes());
        match self {
            Element::F32 => {
                to.iter_mut().zip(chunks).for_each(|(v, b)| *v = f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            }
            Element::Bf16 => {
                to.iter_mut().zip(chunks).for_each(|(v, b)| *v = half::bf16::from_le_bytes([b[0], b[1]]).to_f32());
            }
            Element::F16 => {
                to.iter_mut().zip(chunks).for_each(|(v, b)| *v = half::f16::from_le_bytes([b[0], b[1]]).to_f32());
            }
        }
    }
}

/// Precision of the multiplications of convolutions and linear layers. Sums, statistics and master weights are f32 in all
/// of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DType {
    #[default]
    F32,
    /// Stored as f32; tensor cores round both factors to 10 bits of mantissa.
    Tf32,
    Bf16,
    F16,
}

impl DType {
    /// Names as flags and config.toml have them, in the order of `ALL`.
    pub const NAMES: [&'static str; 4] = ["f32", "tf32", "bf16", "f16"];
    pub const ALL: [DType; 4] = [DType::F32, DType::Tf32, DType::Bf16, DType::F16];
    /// Returns the storage of activations, their gradients and the compute copy of weights.
    pub const fn storage(self) -> Element {
        match self {
            DType::F32 | DType::Tf32 => Element::F32,
            DType::Bf16 => Element::Bf16,
            DType::F16 => Element::F16,
        }
    }
    pub fn name(self) -> &'static str {
        DType::NAMES[self as usize]
    }
    /// Rounds a factor as [`Element::round`] does, or as tensor cores do.
    pub fn round(self, value: f32) -> f32 {
        match self {
            // cvt.rna.tf32: to nearest, ties away from zero; 13 bits of mantissa are dropped.
            DType::Tf32 if value.is_finite() => f32::from_bits((value.to_bits() + 0x1000) & !0x1fff),
            _ => self.storage().round(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_rounded() {
        let values = [1.0, -0.1, 65504.0, 3e38, f32::INFINITY, 1e-9];
        for element in [Element::F32, Element::Bf16, Element::F16] {
            let mut bytes = Vec::new();
            element.pack(&values, &mut bytes);
            assert_eq!(bytes.len(), values.len() * element.bytes());
            let mut back = [0.0; 6];
            element.unpack(&bytes, &mut back);
            assert_eq!(back, values.map(|v| element.round(v)));
        }
        assert_eq!(DType::Tf32.round(1.0 + 1.0 / 2048.0), 1.0 + 1.0 / 1024.0);
    }
}
