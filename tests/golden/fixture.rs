//! Reads a fixture with all its digits: samcore's own reader rounds F64 to f32, behind which a wrong spec could hide.

use std::collections::BTreeMap;
use std::path::Path;

pub struct Tensor {
    /// PyTorch's order: NCHW, OIHW.
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Tensor {
    /// Dimensions and values as samcore has them: those of four dimensions `[a, b, h, w]` become `[a, h, w, b]` (NHWC,
    /// KRSC), all others stay.
    pub fn channels_last(&self) -> (Vec<usize>, Vec<f64>) {
        let &[a, b, h, w] = &self.shape[..] else { return (self.shape.clone(), self.values.clone()) };
        let from = |i: usize| {
            let (channel, pixel, image) = (i % b, i / b % (h * w), i / (b * h * w));
            (image * b + channel) * h * w + pixel
        };
        (vec![a, h, w, b], (0..self.values.len()).map(|i| self.values[from(i)]).collect())
    }

    /// The one value of a scalar.
    pub fn value(&self) -> f64 {
        assert_eq!(self.values.len(), 1);
        self.values[0]
    }
}

pub struct Fixture {
    tensors: BTreeMap<String, Tensor>,
    /// The metadata.
    pub notes: serde_json::Value,
}

impl Fixture {
    /// The fixture `tests/golden/<name>.safetensors`.
    pub fn open(name: &str) -> Fixture {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("safetensors");
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (len, rest) = bytes.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(len.try_into().unwrap()) as usize);
        let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(header).unwrap();
        let notes = serde_json::from_str(header["__metadata__"]["golden"].as_str().unwrap()).unwrap();
        let entries = header.into_iter().filter(|entry| entry.0 != "__metadata__");
        let tensors = entries.map(|(name, entry)| {
            let numbers = |key: &str| -> Vec<usize> {
                entry[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
            };
            let offsets = numbers("data_offsets");
            let bytes = &data[offsets[0]..offsets[1]];
            let values: Vec<f64> = match entry["dtype"].as_str().unwrap() {
                "F32" => bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
                "F64" => bytes.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
                "I64" => bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
                other => panic!("{name} is of type {other}"),
            };
            let shape = numbers("shape");
            assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
            (name, Tensor { shape, values })
        });
        Fixture { tensors: tensors.collect(), notes }
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.find(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
}

/// 2-norm.
pub fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Relative error in the 2-norm; the absolute one where `expected` is 0.
pub fn error(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let difference = norm(got.iter().zip(expected).map(|(g, e)| g - e));
    let size = norm(expected.iter().copied());
    if size > 0.0 { difference / size } else { difference }
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}
