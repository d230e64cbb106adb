//! Convolutions and linear layers as launches: the product, the operands brought to its type, the slices merged.

use super::conv_tiles::{Product, Slices, Tile, blocks, choose, unaligned};
use super::{Launch, Operand, Target, conv_wgmma};
use crate::device::cuda::driver::{Grid, Module};
use crate::device::cuda::rungs::{Pass, Rung};
use crate::dtype::Element;
use crate::error::{Error, Result};
use crate::ops::call::{Call, ConvShape, Groups, Kernel, Loc, NormShape};

/// Bytes that parts of the workspace begin at multiples of.
const PART: usize = 64;

/// Epilogue of a product; the numbers are those of the call's reads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Extras {
    pub bias: Option<usize>,
    pub residual: Option<usize>,
    /// dx is added to what is there.
    pub add: bool,
    /// Partial statistics, as the second write.
    pub statistics: bool,
    /// The batch-norm whose sums are the second write; its x, statistics, weight and bias are reads 2 to 5.
    pub norm: Option<NormShape>,
}

/// A product with its operands, ready to be turned into launches.
pub(super) struct Job<'a> {
    product: Product,
    extras: Extras,
    tile: Tile,
    slices: Slices,
    /// C is the sum of what lies in the workspace.
    merged: bool,
    /// The operands A and B: number among the reads, elements, type as stored, type as multiplied.
    operands: [(usize, usize, Element, Element); 2],
    target: &'a Target,
    /// Vectors of 16 bytes (8 for types of two) can be read and written everywhere.
    vectors: bool,
}

impl<'a> Job<'a> {
    pub fn new(target: &'a Target, call: &Call, product: Product, extras: Extras) -> Job<'a> {
        let reads = product.operands();
        let small = extras.norm.map_or(0..0, |_| 3..6);
        let aligned = |loc: &Loc| loc.offset.is_multiple_of(4);
        let large = call.reads.iter().enumerate().filter(|(i, _)| !small.contains(i) && extras.bias != Some(*i));
        let vectors = large.map(|(_, loc)| loc).chain(&call.writes).chain(&call.workspace).all(aligned);
        let mut tile = choose(target, &product);
        if !vectors && tile.rung != Rung::Plain {
            tile = unaligned(target, &product, &tile);
        }
        let wanted = |stored: Element| if tile.rung == Rung::Plain { stored } else { target.dtype.storage() };
        let operands = reads.map(|(i, len)| {
            let stored = call.reads.get(i).map_or(Element::F32, |loc| loc.element);
            (i, len, stored, wanted(stored))
        });
        let slices = |product: &Product| Slices::choose(target, product, &tile).0;
        let merged = match product.pass {
            // Slices and dw are of one type: the kernel need not know which it writes.
            Pass::BackwardWeight => slices(&product).count > 1,
            // Slices need another kernel, so the batch at hand must not decide.
            _ => slices(&product.nominal()).count > 1,
        };
        let slices = slices(&Product { sliced: merged, ..product });
        Job { product, extras, tile, slices, merged, operands, target, vectors }
    }

    /// Bytes of workspace before each of: A converted, B converted, the slices; and of all.
    fn parts(&self) -> [usize; 4] {
        let mut parts = [0; 4];
        for (i, (_, len, stored, wanted)) in self.operands.iter().enumerate() {
            let bytes = if stored == wanted { 0 } else { len * wanted.bytes() };
            parts[i + 1] = parts[i] + bytes.next_multiple_of(PART);
        }
        let c = self.product.rows() * self.product.columns();
        parts[3] = parts[2] + if self.merged { 4 * self.slices.count * c } else { 0 };
        parts
    }

    /// Cells of workspace.
    pub fn workspace(&self) -> usize {
        self.parts()[3].div_ceil(4)
    }

    pub fn launches(&self, call: &Call) -> Result<Vec<Launch>> {
        self.check(call)?;
        let parts = self.parts();
        let mut launches = Vec::new();
        let mut operands = Vec::new();
        for (i, &(read, len, stored, wanted)) in self.operands.iter().enumerate() {
            if stored == wanted {
                operands.push(Operand::Read(read));
                continue;
            }
            launches.push(convert(read, parts[i], len, stored, wanted));
            operands.push(Operand::Work(parts[i]));
        }
        launches.push(self.product(call, &operands));
        if self.merged {
            launches.push(merge_slices(call, &self.product, parts[2], self.slices.count, self.extras.bias));
        }
        Ok(launches)
    }

    /// # Errors
    /// What the kernels' int indices and words of taps cannot count, or a workspace that was asked for otherwise.
    fn check(&self, call: &Call) -> Result<()> {
        let s = &self.product.shape;
        if s.k > 15 {
            return Err(Error::usage(format!(
                "'{}' is a convolution of {2}x{2} taps ({1:?}): CUDA kernels take at most 15x15; --device cpu takes any",
                call.label, s, s.k
            )));
        }
        check_sizes(call, s, self.workspace())
    }

    fn product(&self, call: &Call, operands: &[Operand]) -> Launch {
        let Job { product, extras, tile, slices, .. } = self;
        let s = &product.shape;
        let parts = self.parts();
        let out = if self.merged { Operand::Work(parts[2]) } else { Operand::Write(0) };
        // Pointers that the kernel does not look at hold the output's address.
        let read = |i: Option<usize>| i.map_or(out.clone(), Operand::Read);
        let partials = if extras.statistics || extras.norm.is_some() { Operand::Write(1) } else { out.clone() };
        let mut args = operands.to_vec();
        args.push(out.clone());
        match product.pass {
            Pass::Forward => args.extend([read(extras.residual), read(extras.bias), partials]),
            Pass::BackwardData => {
                args.extend((2..6).map(|i| read(extras.norm.map(|_| i))));
                args.push(partials);
            }
            Pass::BackwardWeight => {}
        }
        args.push(Operand::I32(s.n as i32));
        if product.pass != Pass::BackwardData {
            args.push(Operand::I32(slices.span as i32));
        }
        let depths = if product.pass == Pass::BackwardData { product.classes() } else { slices.count };
        Launch {
            module: Module { file: file(tile.rung), defines: self.defines(call) },
            kernel: match product.pass {
                Pass::Forward => "conv_forward",
                Pass::BackwardData => "conv_backward_data",
                Pass::BackwardWeight => "conv_backward_weight",
            },
            grid: Grid {
                blocks: [blocks(product, tile) as u32, 1, depths as u32],
                threads: tile.threads() as u32,
                shared: tile.shared(self.target, product.pass) as u32,
            },
            args,
        }
    }

    fn defines(&self, call: &Call) -> Vec<(&'static str, String)> {
        let Job { product, extras, tile, .. } = self;
        let sliced = self.merged && product.pass == Pass::Forward;
        let ConvShape { n: _, h, w, ci, co, k, stride, pad } = product.shape;
        let mut defines = vec![("PASS", product.pass.name().to_owned())];
        let mut number = |name, value: usize| defines.push((name, value.to_string()));
        let geometry =
            [("CI", ci), ("CO", co), ("KS", k), ("STRIDE", stride), ("PAD", pad), ("HEIGHT", h), ("WIDTH", w)];
        geometry.into_iter().for_each(|(name, value)| number(name, value));
        number("TILE_M", tile.m);
        number("TILE_N", tile.n);
        if tile.rung == Rung::Plain {
            let four = self.vectors && ci.is_multiple_of(4) && co.is_multiple_of(4);
            number("RM", tile.m / tile.part[0]);
            number("RN", tile.n / tile.part[1]);
            number("CHUNK", if four { 4 } else { 1 });
        } else {
            number("WARP_M", tile.part[0]);
            number("WARP_N", tile.part[1]);
            number("BAND", tile.band(self.target.arch));
        }
        let flags = [
            ("UNALIGNED", !self.vectors),
            ("SLICED", sliced),
            ("BIAS", extras.bias.is_some() && !sliced),
            ("RESIDUAL", extras.residual.is_some()),
            ("ADD", extras.add),
            ("STATISTICS", extras.statistics),
            ("NORM", extras.norm.is_some()),
            ("RELU", extras.norm.is_some_and(|n| n.relu)),
            ("RUNNING", extras.norm.is_some_and(|n| n.running)),
        ];
        flags.into_iter().filter(|f| f.1).for_each(|(name, _)| number(name, 1));
        let stored = if self.merged { Element::F32 } else { call.writes[0].element };
        let mut types = vec![("TA", self.operands[0].3), ("TB", self.operands[1].3), ("TC", stored)];
        types.extend(extras.residual.map(|i| ("TR", call.reads[i].element)));
        types.extend(extras.norm.map(|_| ("TN", call.reads[2].element)));
        defines.extend(types.into_iter().map(|(name, element)| (name, element.name().to_owned())));
        defines.extend(extras.norm.map(|n| ("EPS_BITS", format!("{:#x}u", n.eps_bits))));
        defines
    }
}

fn file(rung: Rung) -> &'static str {
    match rung {
        Rung::Plain => "conv_plain.cu",
        Rung::Mma => "conv_mma.cu",
        Rung::Wgmma => "conv_wgmma.cu",
    }
}

/// Checks that kernels can index the tensors of a convolution, and that its workspace has `need` cells.
///
/// # Errors
/// Usage: a tensor too large; internal: a workspace that was asked for otherwise.
pub(super) fn check_sizes(call: &Call, s: &ConvShape, need: usize) -> Result<()> {
    let largest = s.x_len().max(s.y_len()).max(s.weight_len());
    if i32::try_from(largest).is_err() {
        return Err(Error::usage(format!(
            "'{}' has a tensor of {largest} elements: kernels count to 2^31; take a smaller batch, or \
             compute it in parts (--accumulate)",
            call.label
        )));
    }
    let has = call.workspace.map_or(0, |loc| loc.cells());
    if has < need {
        return Err(Error::internal(format!("'{}' has {has} cells of workspace, needs {need}", call.label)));
    }
    Ok(())
}

/// Brings the `len` elements of a read to another type, `at` bytes into the workspace.
pub(super) fn convert(read: usize, at: usize, len: usize, from: Element, to: Element) -> Launch {
    let args = vec![Operand::Read(read), Operand::Work(at), Operand::I32(len as i32)];
    elementwise("convert", &[("TX", from), ("TC", to)], len, args)
}

/// Adds up `count` slices of C that lie `at` bytes into the workspace, and a bias, which is that read.
pub(super) fn merge_slices(call: &Call, product: &Product, at: usize, count: usize, bias: Option<usize>) -> Launch {
    let len = product.rows() * product.columns();
    let (bias, columns) = match bias {
        Some(read) => (Operand::Read(read), product.columns()),
        None => (Operand::Work(at), 0),
    };
    let mut args = vec![Operand::Work(at), Operand::Write(0), bias];
    args.extend([count, len, columns].map(|n| Operand::I32(n as i32)));
    let threads = if len.is_multiple_of(4) { len / 4 } else { len };
    elementwise("merge_slices", &[("TC", call.writes[0].element)], threads, args)
}

/// A launch of `kernels/conv_reduce.cu` with that many threads in all.
pub(super) fn elementwise(
    kernel: &'static str,
    types: &[(&'static str, Element)],
    threads: usize,
    args: Vec<Operand>,
) -> Launch {
    let defines = types.iter().map(|(name, element)| (*name, element.name().to_owned())).collect();
    let grid = Grid { blocks: [threads.div_ceil(256).max(1) as u32, 1, 1], threads: 256, shared: 0 };
    Launch { module: Module { file: "conv_reduce.cu", defines }, kernel, grid, args }
}

fn job<'a>(target: &'a Target, call: &Call) -> Result<Job<'a>> {
    let (product, extras) = match &call.kernel {
        Kernel::ConvForward(shape) => {
            let residual = (call.reads.len() > 2).then_some(2);
            let extras = Extras { residual, statistics: call.writes.len() > 1, ..Extras::default() };
            (Product { pass: Pass::Forward, shape: *shape, sliced: false }, extras)
        }
        Kernel::ConvBackwardData { shape, add, norm } => {
            let extras = Extras { add: *add, norm: *norm, ..Extras::default() };
            (Product { pass: Pass::BackwardData, shape: *shape, sliced: false }, extras)
        }
        Kernel::ConvBackwardWeight(shape) => {
            (Product { pass: Pass::BackwardWeight, shape: *shape, sliced: true }, Extras::default())
        }
        _ => return Err(Error::internal(format!("'{}' is no convolution", call.label))),
    };
    if extras.norm.is_some_and(|n| n.window > 1) {
        return Err(Error::internal(format!("'{}' cannot sum through a pool", call.label)));
    }
    Ok(Job::new(target, call, product, extras))
}

pub(super) fn workspace(target: &Target, call: &Call) -> usize {
    if conv_wgmma::takes(target, &call.kernel) {
        return conv_wgmma::workspace(target, call);
    }
    job(target, call).map_or(0, |job| job.workspace())
}

pub(super) fn launches(target: &Target, call: &Call) -> Result<Vec<Launch>> {
    if conv_wgmma::takes(target, &call.kernel) {
        return conv_wgmma::launches(target, call);
    }
    job(target, call)?.launches(call)
}

pub(super) fn groups(target: &Target, kernel: &Kernel) -> Option<Groups> {
    if conv_wgmma::takes(target, kernel) {
        return conv_wgmma::groups(target, kernel);
    }
    match kernel {
        Kernel::ConvForward(shape) => {
            let product = Product { pass: Pass::Forward, shape: *shape, sliced: false };
            Some(Groups::of(product.rows(), choose(target, &product).m))
        }
        Kernel::ConvBackwardData { shape, norm: Some(norm), .. } if norm.window == 1 => {
            let product = Product { pass: Pass::BackwardData, shape: *shape, sliced: false };
            let groups = Groups::of(product.rows(), choose(target, &product).m);
            Some(Groups { count: groups.count * product.classes(), ..groups })
        }
        _ => None,
    }
}
