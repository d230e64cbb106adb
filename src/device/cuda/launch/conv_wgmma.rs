//! Convolutions of stride 1 through `wgmma` and TMA (`kernels/conv_wgmma.cu`): how they are cut, their tensor maps, their launches.

use super::conv::{check_sizes, convert, merge_slices};
use super::conv_tiles::{LARGEST, PER_WORD, Product, rung};
use super::{Launch, Operand, Target};
use crate::device::cuda::driver::{Grid, MapShape, Module};
use crate::device::cuda::rungs::{Pass, Rung};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ops::call::{Call, ConvShape, Groups, Kernel, Loc, NormShape};

/// Bytes of shared memory that the ring may take: 227 KiB, of which 1 KiB holds the barriers.
const SHARED: usize = 226 << 10;
/// Bytes of a line of 64 elements.
const LINE: usize = 128;
/// Bytes that parts of the workspace begin at multiples of.
const PART: usize = 256;

/// A box of whole image rows: `height` rows of `images` images; of several images it has all rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PixelBox {
    height: usize,
    images: usize,
    pixels: usize,
}

impl PixelBox {
    /// The largest of at most `most` pixels; None if an image row has more.
    fn largest(s: &ConvShape, most: usize) -> Option<PixelBox> {
        let (height, images) = match (1..=s.h).rev().find(|h| s.h.is_multiple_of(*h) && h * s.w <= most)? {
            whole if whole == s.h => (whole, (most / (whole * s.w)).min(256)),
            part => (part, 1),
        };
        Some(PixelBox { height, images, pixels: images * height * s.w })
    }
    /// Returns how many there are in the batch.
    fn count(&self, s: &ConvShape) -> usize {
        if self.images > 1 { s.n.div_ceil(self.images) } else { s.n * (s.h / self.height) }
    }
}

/// Division of a product.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tile {
    /// Rows of C that a block has room for, and columns.
    m: usize,
    n: usize,
    /// Warpgroups that multiply.
    consumers: usize,
    pixels: PixelBox,
    stages: usize,
}

/// Rows of a tile and the warpgroups that share them: blocks of 64 rows, one or two each.
const ROWS: [(usize, usize); 4] = [(256, 2), (192, 3), (128, 2), (64, 1)];
/// Columns of a tile. 160 for WideResNets ten wide.
const COLUMNS: [usize; 9] = [256, 192, 160, 128, 96, 80, 64, 32, 16];

impl Tile {
    fn new(product: &Product, m: usize, n: usize, consumers: usize) -> Option<Tile> {
        // Sums of a thread: 160 registers of its 232 hold them (of its 152: 96).
        let sums = m / (64 * consumers) * n / 2;
        if sums > if consumers == 3 { 96 } else { 160 } {
            return None;
        }
        let s = &product.shape;
        let weight = product.pass == Pass::BackwardWeight;
        if weight && !s.ci.is_multiple_of(n) {
            return None;
        }
        // K is pixels in the one, rows are in the others.
        let pixels = PixelBox::largest(s, if weight { 64.max(s.w) } else { m })?;
        let mut tile = Tile { m, n, consumers, pixels, stages: 0 };
        tile.stages = (SHARED / tile.stage(product.pass)).min(8);
        (tile.stages >= 3 && tile.epilogue() <= SHARED && tile.pixels.pixels <= 256).then_some(tile)
    }
    /// Bytes of a stage of the ring.
    fn stage(&self, pass: Pass) -> usize {
        let boxes = |columns: usize, lines: usize| columns.div_ceil(64) * lines * LINE;
        match pass {
            Pass::Forward => (self.m + self.n) * LINE,
            Pass::BackwardData => self.m * LINE + boxes(self.n, 64),
            Pass::BackwardWeight => {
                let lines = self.pixels.pixels.next_multiple_of(16);
                boxes(self.m, lines) + boxes(self.n, lines)
            }
        }
    }
    /// Bytes of shared memory that the epilogue takes: a band of rows padded by 8.
    fn epilogue(&self) -> usize {
        4 * 64 * self.consumers * (self.n + 8)
    }
    fn shared(&self, pass: Pass) -> usize {
        (self.stages * self.stage(pass)).max(self.epilogue())
    }
    fn row_tiles(&self, product: &Product) -> usize {
        match product.pass {
            Pass::BackwardWeight => product.rows().div_ceil(self.m),
            _ => self.pixels.count(&product.shape),
        }
    }
    fn blocks(&self, product: &Product) -> usize {
        self.row_tiles(product) * product.columns().div_ceil(self.n)
    }
    /// Multiply-adds of a block that count, for 1 of K, over their rate. At full rate a tile reads at most as much for
    /// each as one of 128 x 256: what the second-level cache gives.
    fn cost(&self) -> f64 {
        let (m, n) = (self.m as f64, self.n as f64);
        let bytes = (1.0 / m + 1.0 / n) / (1.0 / 128.0 + 1.0 / 256.0);
        m * n * bytes.max(1.0)
    }
    /// The one that should take least time, for the batch that tiles are chosen for.
    fn choose(target: &Target, product: &Product) -> Option<Tile> {
        let nominal = product.nominal();
        let time = |tile: &Tile| {
            let blocks = tile.blocks(&nominal);
            // K of the weights' gradient is sliced until the card is full.
            let waves = match product.pass {
                Pass::BackwardWeight => blocks as f64,
                _ => blocks.div_ceil(target.processors) as f64,
            };
            waves * tile.cost()
        };
        let all = ROWS.iter().flat_map(|&(m, consumers)| COLUMNS.iter().map(move |&n| (m, n, consumers)));
        let tiles = all.filter_map(|(m, n, consumers)| Tile::new(product, m, n, consumers));
        tiles.min_by(|a, b| time(a).total_cmp(&time(b)))
    }
}

/// Returns true if the rung can take this convolution.
pub(super) fn fits(s: &ConvShape, dtype: DType) -> bool {
    let geometry = s.stride == 1 && matches!((s.k, s.pad), (3, 1) | (1, 0));
    let halves = matches!(dtype, DType::Bf16 | DType::F16);
    let channels = s.ci.is_multiple_of(16) && s.co.is_multiple_of(16);
    // Rows of one pixel are matrices: a linear layer.
    geometry && halves && channels && (2..=64).contains(&s.w)
}

/// Options of a call beside its product; numbers are those of its reads.
struct Job {
    product: Product,
    tile: Tile,
    residual: bool,
    statistics: bool,
    add: bool,
    norm: Option<NormShape>,
}

fn product(kernel: &Kernel) -> Option<Product> {
    let (pass, shape) = match kernel {
        Kernel::ConvForward(shape) => (Pass::Forward, shape),
        Kernel::ConvBackwardData { shape, .. } => (Pass::BackwardData, shape),
        Kernel::ConvBackwardWeight(shape) => (Pass::BackwardWeight, shape),
        _ => return None,
    };
    Some(Product { pass, shape: *shape, sliced: pass == Pass::BackwardWeight })
}

/// Returns true if this rung runs the kernel.
pub(super) fn takes(target: &Target, kernel: &Kernel) -> bool {
    product(kernel).is_some_and(|p| rung(target, &p) == Rung::Wgmma && Tile::choose(target, &p).is_some())
}

/// Returns the groups of the sums over pixels that the kernel writes beside its output.
pub(super) fn groups(target: &Target, kernel: &Kernel) -> Option<Groups> {
    let product = product(kernel)?;
    let sums = match kernel {
        Kernel::ConvForward(_) => true,
        Kernel::ConvBackwardData { norm: Some(norm), .. } => norm.window == 1,
        _ => false,
    };
    let tile = Tile::choose(target, &product).filter(|_| sums)?;
    Some(Groups::of(product.rows(), tile.pixels.pixels))
}

impl Job {
    fn new(target: &Target, call: &Call) -> Result<Job> {
        let refused = || Error::internal(format!("'{}' is not for wgmma", call.label));
        let product = product(&call.kernel).ok_or_else(refused)?;
        let tile = Tile::choose(target, &product).ok_or_else(refused)?;
        let mut job = Job { product, tile, residual: false, statistics: false, add: false, norm: None };
        match &call.kernel {
            Kernel::ConvForward(_) => {
                job.residual = call.reads.len() > 2;
                job.statistics = call.writes.len() > 1;
            }
            Kernel::ConvBackwardData { add, norm, .. } => {
                job.add = *add;
                job.norm = *norm;
            }
            _ => {}
        }
        if job.norm.is_some_and(|n| n.window > 1) {
            return Err(Error::internal(format!("'{}' cannot sum through a pool", call.label)));
        }
        Ok(job)
    }

    /// Slices of K and boxes of pixels in each.
    fn slices(&self, target: &Target) -> (usize, usize) {
        if self.product.pass != Pass::BackwardWeight {
            return (1, 0);
        }
        let boxes = self.tile.pixels.count(&self.product.shape);
        let len = self.product.rows() * self.product.columns();
        let time = |count: usize| {
            let waves = (self.tile.blocks(&self.product) * count).div_ceil(target.processors);
            let depth = boxes.div_ceil(count) * self.tile.pixels.pixels.next_multiple_of(16);
            let words = if count == 1 { 0 } else { count * len };
            (waves * depth) as f64 * self.tile.cost() + words as f64 * PER_WORD / target.processors as f64
        };
        // A slice of fewer boxes than stages only fills its ring.
        let most = (boxes / 4).min(LARGEST / len).clamp(1, 256);
        let count = (1..=most).min_by(|&a, &b| time(a).total_cmp(&time(b))).unwrap_or(1);
        let span = boxes.div_ceil(count);
        (boxes.div_ceil(span), span)
    }

    /// Returns true if an operand must be converted to the type and alignment that TMA takes.
    fn is_converted(target: &Target, loc: &Loc) -> bool {
        loc.element != target.dtype.storage() || !loc.offset.is_multiple_of(4)
    }

    /// Bytes of workspace before each of: A converted, B converted, the slices; and of all.
    fn parts(&self, target: &Target, call: &Call) -> [usize; 4] {
        let mut parts = [0; 4];
        for (i, (read, len)) in self.product.operands().into_iter().enumerate() {
            let converted = call.reads.get(read).is_some_and(|loc| Job::is_converted(target, loc));
            let bytes = if converted { len * target.dtype.storage().bytes() } else { 0 };
            parts[i + 1] = parts[i] + bytes.next_multiple_of(PART);
        }
        let count = self.slices(target).0;
        let words = if count > 1 { count * self.product.rows() * self.product.columns() } else { 0 };
        parts[3] = parts[2] + 4 * words;
        parts
    }

    fn launches(&self, target: &Target, call: &Call) -> Result<Vec<Launch>> {
        let parts = self.parts(target, call);
        check_sizes(call, &self.product.shape, parts[3].div_ceil(4))?;
        let mut launches = Vec::new();
        let mut operands = Vec::new();
        for (i, (read, len)) in self.product.operands().into_iter().enumerate() {
            let loc = call.reads.get(read).filter(|loc| loc.len == len);
            let loc = loc.ok_or_else(|| Error::internal(format!("'{}' lacks its read {read}", call.label)))?;
            if !Job::is_converted(target, loc) {
                operands.push(Operand::Read(read));
                continue;
            }
            launches.push(convert(read, parts[i], len, loc.element, target.dtype.storage()));
            operands.push(Operand::Work(parts[i]));
        }
        let (count, span) = self.slices(target);
        launches.push(self.multiply(
            target,
            call,
            &operands,
            if count > 1 { Some(parts[2]) } else { None },
            count,
            span,
        ));
        if count > 1 {
            launches.push(merge_slices(call, &self.product, parts[2], count, None));
        }
        Ok(launches)
    }

    /// The tensor map of an image tensor of `c` channels, or of the weights.
    fn image_map(&self, target: &Target, operand: &Operand, c: usize) -> Operand {
        let s = &self.product.shape;
        let PixelBox { height, images, .. } = self.tile.pixels;
        let shape = MapShape {
            dims: [c, s.w, s.h, s.n].map(|d| d as u64).to_vec(),
            strides: [c, s.w * c, s.h * s.w * c].map(|d| 2 * d as u64).to_vec(),
            tile: [64, s.w, height, images].map(|d| d as u32).to_vec(),
            bf16: target.dtype == DType::Bf16,
        };
        Operand::Map(Box::new(operand.clone()), shape)
    }

    fn weight_map(&self, target: &Target, operand: &Operand, lines: usize) -> Operand {
        let ConvShape { ci, co, k, .. } = self.product.shape;
        let shape = MapShape {
            dims: [ci, k * k, co].map(|d| d as u64).to_vec(),
            strides: [ci, k * k * ci].map(|d| 2 * d as u64).to_vec(),
            tile: [64, 1, lines].map(|d| d as u32).to_vec(),
            bf16: target.dtype == DType::Bf16,
        };
        Operand::Map(Box::new(operand.clone()), shape)
    }

    fn multiply(
        &self,
        target: &Target,
        call: &Call,
        operands: &[Operand],
        slices: Option<usize>,
        count: usize,
        span: usize,
    ) -> Launch {
        let Job { product, tile, .. } = self;
        let s = &product.shape;
        let out = slices.map_or(Operand::Write(0), Operand::Work);
        // Pointers that the kernel does not look at hold the output's address.
        let partials = if self.statistics || self.norm.is_some() { Operand::Write(1) } else { out.clone() };
        let (kernel, args) = match product.pass {
            Pass::Forward => {
                let residual = if self.residual { Operand::Read(2) } else { out.clone() };
                let [x, w] =
                    [self.image_map(target, &operands[0], s.ci), self.weight_map(target, &operands[1], tile.n)];
                ("conv_forward", vec![x, w, out, residual, partials, Operand::I32(s.n as i32)])
            }
            Pass::BackwardData => {
                let [dy, w] = [self.image_map(target, &operands[0], s.co), self.weight_map(target, &operands[1], 64)];
                let mut args = vec![dy, w, out.clone()];
                args.extend((2..6).map(|i| if self.norm.is_some() { Operand::Read(i) } else { out.clone() }));
                args.extend([partials, Operand::I32(s.n as i32)]);
                ("conv_backward_data", args)
            }
            Pass::BackwardWeight => {
                let [dy, x] = [self.image_map(target, &operands[0], s.co), self.image_map(target, &operands[1], s.ci)];
                let numbers = [tile.pixels.count(s), span].map(|n| Operand::I32(n as i32));
                let mut args = vec![dy, x, out];
                args.extend(numbers);
                ("conv_backward_weight", args)
            }
        };
        let grid = Grid {
            blocks: [tile.blocks(product) as u32, 1, count as u32],
            threads: 128 * (tile.consumers as u32 + 1),
            shared: tile.shared(product.pass) as u32,
        };
        let module = Module { file: "conv_wgmma.cu", defines: self.defines(target, call, slices.is_some()) };
        Launch { module, kernel, grid, args }
    }

    fn defines(&self, target: &Target, call: &Call, sliced: bool) -> Vec<(&'static str, String)> {
        let Job { product, tile, .. } = self;
        let ConvShape { n: _, h, w, ci, co, k, stride, pad } = product.shape;
        let mut defines = vec![("PASS", product.pass.name().to_owned())];
        let mut number = |name, value: usize| defines.push((name, value.to_string()));
        let geometry =
            [("CI", ci), ("CO", co), ("KS", k), ("STRIDE", stride), ("PAD", pad), ("HEIGHT", h), ("WIDTH", w)];
        geometry.into_iter().for_each(|(name, value)| number(name, value));
        let PixelBox { height, images, .. } = tile.pixels;
        let cut = [
            ("TILE_M", tile.m),
            ("TILE_N", tile.n),
            ("CONSUMERS", tile.consumers),
            ("STAGES", tile.stages),
            ("BOX_H", height),
            ("BOX_N", images),
        ];
        cut.into_iter().for_each(|(name, value)| number(name, value));
        // The epilogue's own operands need vectors of 16 bytes at most.
        let norm_x = self.norm.and_then(|_| call.reads.get(2));
        let residual = if self.residual { call.reads.get(2) } else { None };
        let touched = call.writes.first().into_iter().chain(norm_x).chain(residual);
        let unaligned = touched.into_iter().any(|loc| !loc.offset.is_multiple_of(4)) && !sliced;
        let flags = [
            ("UNALIGNED", unaligned),
            ("RESIDUAL", self.residual),
            ("ADD", self.add),
            ("STATISTICS", self.statistics),
            ("NORM", self.norm.is_some()),
            ("RELU", self.norm.is_some_and(|n| n.relu)),
            ("RUNNING", self.norm.is_some_and(|n| n.running)),
        ];
        flags.into_iter().filter(|f| f.1).for_each(|(name, _)| number(name, 1));
        let stored = if sliced { Element::F32 } else { call.writes[0].element };
        let storage = target.dtype.storage();
        let mut types = vec![("TA", storage), ("TB", storage), ("TC", stored)];
        types.extend(residual.map(|loc| ("TR", loc.element)));
        types.extend(norm_x.map(|loc| ("TN", loc.element)));
        defines.extend(types.into_iter().map(|(name, element)| (name, element.name().to_owned())));
        defines.extend(self.norm.map(|n| ("EPS_BITS", format!("{:#x}u", n.eps_bits))));
        defines
    }
}

pub(super) fn workspace(target: &Target, call: &Call) -> usize {
    Job::new(target, call).map_or(0, |job| job.parts(target, call)[3].div_ceil(4))
}

pub(super) fn launches(target: &Target, call: &Call) -> Result<Vec<Launch>> {
    Job::new(target, call)?.launches(target, call)
}
