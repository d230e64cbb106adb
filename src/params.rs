//! The layout of parameters: one padded vector in forward order, and how each tensor appears in files.

use crate::dtype::Element;
use crate::ops::call::{BLOCK, Cast, Ranges};
use crate::ops::value::ParamKind;
use crate::rng::{Draws, stream};

/// Order of the tensor's dimensions in files, which follow PyTorch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileLayout {
    /// The order in memory.
    Same,
    /// KRSC here, `[co, ci, k, k]` there.
    ConvOihw,
    /// Inputs in h, w, c order here, in c, h, w order there (PyTorch flattens NCHW).
    LinearChw { h: usize, w: usize, c: usize },
}

/// One named parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Dotted name as in the usual PyTorch model: "conv1.weight".
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: ParamKind,
    pub layout: FileLayout,
    /// First element in the parameter vector, a multiple of [`BLOCK`].
    pub offset: usize,
}

impl Param {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Elements of the segment, padding included.
    pub fn padded(&self) -> usize {
        self.len().next_multiple_of(BLOCK)
    }

    /// Dimensions as files give them.
    pub fn file_shape(&self) -> Vec<usize> {
        match (&self.layout, self.shape.as_slice()) {
            (FileLayout::ConvOihw, &[co, kh, kw, ci]) => vec![co, ci, kh, kw],
            _ => self.shape.clone(),
        }
    }

    /// Position in memory of each element in file order.
    fn file_order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.len());
        match (&self.layout, self.shape.as_slice()) {
            (FileLayout::ConvOihw, &[co, kh, kw, ci]) => {
                for o in 0..co {
                    for i in 0..ci {
                        for tap in 0..kh * kw {
                            order.push((o * kh * kw + tap) * ci + i);
                        }
                    }
                }
            }
            (&FileLayout::LinearChw { h, w, c }, &[outputs, inputs]) => {
                for o in 0..outputs {
                    for channel in 0..c {
                        for pixel in 0..h * w {
                            order.push(o * inputs + pixel * c + channel);
                        }
                    }
                }
            }
            _ => order.extend(0..self.len()),
        }
        order
    }

    /// Values in memory order, permuted to file order.
    pub fn to_file(&self, values: &[f32]) -> Vec<f32> {
        self.file_order().into_iter().map(|i| values[i]).collect()
    }

    /// Values in file order, permuted to memory order.
    pub fn from_file(&self, values: &[f32]) -> Vec<f32> {
        let mut memory = vec![0.0; values.len()];
        for (value, at) in values.iter().zip(self.file_order()) {
            memory[at] = *value;
        }
        memory
    }

    /// Initial values, drawn from the stream of the parameter's own name: adding a layer does not change the others.
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let mut draws = Draws::new(seed, stream(&self.name), 0, 0);
        let bounded = |inputs: usize, draws: &mut Draws| {
            let bound = 1.0 / (inputs as f64).sqrt();
            (0..self.len()).map(|_| draws.uniform(-bound, bound) as f32).collect()
        };
        match self.kind {
            ParamKind::ConvWeight => {
                let fan_out: usize = self.shape[..3].iter().product();
                let std = (2.0 / fan_out as f64).sqrt();
                (0..self.len()).map(|_| (draws.normal() * std) as f32).collect()
            }
            ParamKind::LinearWeight => bounded(self.shape[1], &mut draws),
            ParamKind::LinearBias { inputs } => bounded(inputs, &mut draws),
            ParamKind::NormWeight => vec![1.0; self.len()],
            ParamKind::NormBias | ParamKind::ZeroBias => vec![0.0; self.len()],
        }
    }
}

/// All parameters of a graph, in forward order.
#[derive(Clone, Debug, Default)]
pub struct Params {
    list: Vec<Param>,
    len: usize,
}

impl Params {
    pub(crate) fn push(&mut self, name: String, shape: Vec<usize>, kind: ParamKind, layout: FileLayout) -> usize {
        let param = Param { name, shape, kind, layout, offset: self.len };
        self.len += param.padded();
        self.list.push(param);
        self.list.len() - 1
    }
    pub fn list(&self) -> &[Param] {
        &self.list
    }
    /// Elements of the padded parameter vector.
    pub fn vector_len(&self) -> usize {
        self.len
    }
    /// Number of trainable values, padding not counted.
    pub fn count(&self) -> usize {
        self.list.iter().map(Param::len).sum()
    }

    /// The chosen parameters as ranges, neighbours merged. Padding is included: it holds zeros and stays zero.
    pub fn ranges(&self, chosen: impl Fn(&Param) -> bool) -> Ranges {
        let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
        for p in self.list.iter().filter(|p| chosen(p)) {
            let end = p.offset + p.padded();
            match ranges.last_mut() {
                Some(last) if last.end == p.offset => last.end = end,
                _ => ranges.push(p.offset..end),
            }
        }
        ranges.into()
    }

    /// Returns the storage of the vector with weights of convolutions and linear layers as `element`.
    pub fn cast(&self, element: Element) -> Cast {
        let mut starts = vec![Cast::WIDE; self.len / BLOCK];
        for p in self.list.iter().filter(|p| p.kind.is_factor()) {
            starts[p.offset / BLOCK..][..p.padded() / BLOCK].fill(p.offset as u32);
        }
        Cast { element, starts: starts.into() }
    }

    /// The padded vector of initial values.
    pub fn init(&self, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; self.len];
        for p in &self.list {
            values[p.offset..p.offset + p.len()].copy_from_slice(&p.init(seed));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_layouts_round_trip_and_match_pytorch_order() {
        let mut params = Params::default();
        params.push("c.weight".into(), vec![2, 3, 3, 4], ParamKind::ConvWeight, FileLayout::ConvOihw);
        let chw = FileLayout::LinearChw { h: 2, w: 3, c: 5 };
        params.push("f.weight".into(), vec![3, 30], ParamKind::LinearWeight, chw);
        for p in params.list() {
            let values: Vec<f32> = (0..p.len()).map(|i| i as f32).collect();
            assert_eq!(p.from_file(&p.to_file(&values)), values);
        }
        // Element (o=1, kh=2, kw=0, ci=3) of the convolution is [1, 3, 2, 0] of OIHW.
        let conv = &params.list()[0];
        let values: Vec<f32> = (0..conv.len()).map(|i| i as f32).collect();
        assert_eq!(conv.to_file(&values)[((4 + 3) * 3 + 2) * 3], values[((3 + 2) * 3) * 4 + 3]);
        // Input (h=1, w=2, c=4) of output 2 is column c*6 + h*3 + w there.
        let linear = &params.list()[1];
        let values: Vec<f32> = (0..linear.len()).map(|i| i as f32).collect();
        assert_eq!(linear.to_file(&values)[60 + 4 * 6 + 3 + 2], values[60 + (3 + 2) * 5 + 4]);
    }

    #[test]
    fn masks_merge_neighbours_and_segments_are_padded() {
        let mut params = Params::default();
        for (name, kind) in [("a", ParamKind::NormWeight), ("b", ParamKind::NormBias), ("c", ParamKind::NormWeight)] {
            params.push(name.into(), vec![10], kind, FileLayout::Same);
        }
        assert_eq!(params.vector_len(), 3 * BLOCK);
        assert_eq!(&*params.ranges(|_| true), std::slice::from_ref(&(0..3 * BLOCK)));
        assert_eq!(&*params.ranges(|p| p.kind == ParamKind::NormWeight), [0..BLOCK, 2 * BLOCK..3 * BLOCK]);
    }
}
