//! Division of a convolution's matrix product: the rung, the tile of a block, the slices of K.
//!
//! Rung and tile are macros of the kernel, so they are chosen as for a batch of [`NOMINAL_BATCH`] and the same binary serves
//! every batch. How far K is sliced is an argument, and is chosen for the batch at hand.

use super::{Target, conv_wgmma};
use crate::device::cuda::rungs::{Pass, Rung, Rungs};
use crate::dtype::DType;
use crate::ops::call::ConvShape;

/// The batch that tiles are chosen for.
const NOMINAL_BATCH: usize = 128;

/// C = A B of a pass of a convolution; `kernels/conv_gather.cuh` has the table of what its rows, columns and depth are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    pub pass: Pass,
    pub shape: ConvShape,
    /// Nothing but a bias follows, so that K may be cut in slices, which another kernel merges.
    pub sliced: bool,
}

impl Product {
    /// Classes of pixels that are computed apart: of `BackwardData` the remainders by the stride.
    pub fn classes(&self) -> usize {
        if self.pass == Pass::BackwardData { self.shape.stride * self.shape.stride } else { 1 }
    }
    /// Rows of C; of the largest class where there are several.
    pub fn rows(&self) -> usize {
        let s = &self.shape;
        match self.pass {
            Pass::Forward => s.n * s.out_h() * s.out_w(),
            Pass::BackwardData => s.n * s.h.div_ceil(s.stride) * s.w.div_ceil(s.stride),
            Pass::BackwardWeight => s.co,
        }
    }
    /// The reads that are multiplied, as A and B, and elements of each: x and w in the forward pass, dy and w in that of the
    /// data, and of x and dy the second first in the other.
    pub fn operands(&self) -> [(usize, usize); 2] {
        let s = &self.shape;
        match self.pass {
            Pass::Forward => [(0, s.x_len()), (1, s.weight_len())],
            Pass::BackwardData => [(0, s.y_len()), (1, s.weight_len())],
            Pass::BackwardWeight => [(1, s.y_len()), (0, s.x_len())],
        }
    }
    pub fn columns(&self) -> usize {
        let s = &self.shape;
        match self.pass {
            Pass::Forward => s.co,
            Pass::BackwardData => s.ci,
            Pass::BackwardWeight => s.k * s.k * s.ci,
        }
    }
    /// Length of the sums; of the longest class where there are several.
    pub fn depth(&self) -> usize {
        let s = &self.shape;
        match self.pass {
            Pass::Forward => s.k * s.k * s.ci,
            Pass::BackwardData => s.k.div_ceil(s.stride).pow(2) * s.co,
            Pass::BackwardWeight => s.n * s.out_h() * s.out_w(),
        }
    }
    /// Returns the product for the batch that macros are chosen for.
    pub fn nominal(&self) -> Product {
        Product { shape: ConvShape { n: NOMINAL_BATCH, ..self.shape }, ..*self }
    }
}

/// The part of C that a block computes: `m` rows by `n` columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    pub rung: Rung,
    pub m: usize,
    pub n: usize,
    /// Of plain: rows and columns between the 4x4 blocks of a thread. Of mma: rows and columns of a warp.
    pub part: [usize; 2],
    /// Blocks that a multiprocessor holds at once.
    blocks: usize,
    /// Speed of the rung with this tile, relative to the largest tile: a larger one reads less from memory for each product.
    rate: f64,
}

const fn tile(rung: Rung, [m, n, rows, columns]: [usize; 4], blocks: usize, rate: f64) -> Tile {
    Tile { rung, m, n, part: [rows, columns], blocks, rate }
}

/// Tiles whose rows are pixels, largest first. 160 columns for WideResNets ten wide.
pub const PIXEL_TILES: &[Tile] = &[
    tile(Rung::Mma, [128, 160, 64, 80], 2, 1.0),
    tile(Rung::Mma, [128, 128, 64, 64], 2, 0.97),
    tile(Rung::Mma, [128, 64, 64, 32], 3, 0.8),
    tile(Rung::Mma, [64, 64, 32, 32], 5, 0.6),
    tile(Rung::Mma, [128, 32, 32, 32], 5, 0.5),
    tile(Rung::Plain, [128, 64, 64, 64], 2, 1.0),
    tile(Rung::Plain, [64, 64, 64, 64], 3, 0.8),
    tile(Rung::Plain, [128, 32, 128, 32], 2, 0.7),
    tile(Rung::Plain, [128, 16, 128, 16], 4, 0.5),
];

/// Tiles whose rows are output channels.
pub const CHANNEL_TILES: &[Tile] = &[
    tile(Rung::Mma, [160, 128, 80, 64], 2, 1.0),
    tile(Rung::Mma, [128, 128, 64, 64], 2, 0.97),
    tile(Rung::Mma, [64, 128, 64, 32], 3, 0.8),
    tile(Rung::Mma, [64, 64, 32, 32], 5, 0.6),
    tile(Rung::Mma, [32, 128, 32, 32], 5, 0.5),
    tile(Rung::Plain, [128, 64, 64, 64], 2, 1.0),
    tile(Rung::Plain, [64, 64, 64, 64], 3, 0.8),
    tile(Rung::Plain, [64, 32, 64, 32], 6, 0.6),
    tile(Rung::Plain, [32, 64, 32, 64], 6, 0.6),
    tile(Rung::Plain, [32, 32, 32, 32], 12, 0.4),
];

impl Tile {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        match self.rung {
            Rung::Plain => self.part[0] / 4 * (self.part[1] / 4),
            _ => 128,
        }
    }
    /// Elements of K that a tile of A or B is deep.
    pub fn deep(&self, dtype: DType) -> usize {
        match self.rung {
            Rung::Plain => 16,
            _ => 64 / dtype.storage().bytes(),
        }
    }
    /// Rows that go through the epilogue at a time.
    pub fn band(&self, arch: u32) -> usize {
        // 164 KB for all blocks of a multiprocessor, where later ones with more than 100 KB have 228 KB.
        let narrow = [80, 87].contains(&arch) && self.m * (self.n + 8) * 4 > 80 << 10;
        if self.rung == Rung::Plain || narrow { self.part[0] } else { self.m }
    }
    /// Bytes of dynamic shared memory.
    pub fn shared(&self, target: &Target, pass: Pass) -> usize {
        let stages = match self.rung {
            // Two pairs of tiles of f32, rows padded by 4.
            Rung::Plain => 2 * 16 * (self.m + 4 + self.n + 4) * 4,
            // Four pairs; the lines of K of a tile that is not K-major are padded by 8.
            _ => {
                let k_major = |rows: usize| rows * 64;
                let bytes = target.dtype.storage().bytes();
                let other = |columns: usize| self.deep(target.dtype) * (columns + 8) * bytes;
                4 * match pass {
                    Pass::Forward => k_major(self.m) + k_major(self.n),
                    Pass::BackwardData => k_major(self.m) + other(self.n),
                    Pass::BackwardWeight => other(self.m) + other(self.n),
                }
            }
        };
        stages.max(4 * self.band(target.arch) * (self.n + 8))
    }
    /// Time that `blocks` blocks of this tile take with sums of length `depth`, in multiply-adds of a multiprocessor.
    fn time(&self, processors: usize, blocks: usize, depth: f64) -> f64 {
        // As many rounds as the card can be filled, then what is left; one block alone keeps a multiprocessor half busy.
        let full = blocks / (processors * self.blocks) * self.blocks;
        let left = (blocks % (processors * self.blocks)).div_ceil(processors);
        let busy = if left == 1 { 1.5f64.min(self.blocks as f64) } else { left as f64 };
        (full as f64 + busy) * (self.m * self.n) as f64 * depth / self.rate
    }
}

/// The kernel of a product: the rung that was asked for, or tuned, or the highest, and the tile that should take least time.
pub fn choose(target: &Target, product: &Product) -> Tile {
    let rung = rung(target, product);
    fastest(target, product, rung, |_| true)
}

/// Returns a plain tile for operands that are not aligned for vectors, with rows grouped as `tile` does.
pub fn unaligned(target: &Target, product: &Product, tile: &Tile) -> Tile {
    // Sums over pixels have been promised in groups of tile.m rows.
    fastest(target, product, Rung::Plain, |t| product.pass == Pass::BackwardWeight || t.m == tile.m)
}

fn fastest(target: &Target, product: &Product, rung: Rung, fits: impl Fn(&Tile) -> bool) -> Tile {
    let tiles = if product.pass == Pass::BackwardWeight { CHANNEL_TILES } else { PIXEL_TILES };
    let nominal = product.nominal();
    let time = |t: &Tile| Slices::choose(target, &nominal, t).1;
    let candidates = tiles.iter().filter(|t| t.rung == rung && fits(t));
    *candidates.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(&PIXEL_TILES[PIXEL_TILES.len() - 1])
}

/// The rung of a product: the one that was asked for, or tuned, or the highest that takes it.
pub fn rung(target: &Target, product: &Product) -> Rung {
    let can = |rung: Rung| rung.fits(target.arch, target.dtype) && takes(rung, &product.shape, target.dtype);
    let tuned = || target.rungs.table.get(&Rungs::key(product.pass, &product.shape, target.dtype)).copied();
    let highest = [Rung::Wgmma, Rung::Mma].into_iter().find(|&r| can(r)).unwrap_or(Rung::Plain);
    target.rungs.forced.filter(|&r| can(r)).or_else(|| tuned().filter(|&r| can(r))).unwrap_or(highest)
}

fn takes(rung: Rung, s: &ConvShape, dtype: DType) -> bool {
    let chunk = 16 / dtype.storage().bytes();
    match rung {
        Rung::Plain => true,
        Rung::Mma => s.ci.is_multiple_of(chunk) && s.co.is_multiple_of(chunk),
        Rung::Wgmma => conv_wgmma::fits(s, dtype),
    }
}

/// Blocks that compute C of a product, its slices and classes not counted.
pub fn blocks(product: &Product, tile: &Tile) -> usize {
    product.rows().div_ceil(tile.m) * product.columns().div_ceil(tile.n)
}

/// Multiply-adds of a multiprocessor in the time that a word of a slice takes to memory and back: 700 on an H200, with about
/// 2 T multiply-adds and 23 GB a second for each of them. Only the order of magnitude matters.
pub const PER_WORD: f64 = 700.0;
/// Most words of all slices: 64 MiB.
pub const LARGEST: usize = 16 << 20;

/// Into how many slices of how many tiles K is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slices {
    pub count: usize,
    pub span: usize,
}

impl Slices {
    /// The count that should take least time, and that time: more slices fill the card, but each is written and read again.
    pub fn choose(target: &Target, product: &Product, tile: &Tile) -> (Slices, f64) {
        let deep = tile.deep(target.dtype);
        let total = product.depth().div_ceil(deep).max(1);
        let len = product.rows() * product.columns();
        let of = |count: usize| {
            let slices = Slices { count: total.div_ceil(total.div_ceil(count)), span: total.div_ceil(count) };
            let blocks = blocks(product, tile) * product.classes() * slices.count;
            let words = if slices.count == 1 { 0 } else { slices.count * len };
            let sums = tile.time(target.processors, blocks, (slices.span * deep) as f64);
            (slices, sums + words as f64 * PER_WORD / target.processors as f64)
        };
        // A slice of fewer than 4 tiles would only fill its pipeline.
        let most = if product.sliced { (total / 4).min(LARGEST / len.max(1)).clamp(1, 256) } else { 1 };
        (2..=most).map(of).fold(of(1), |best, next| if next.1 < best.1 { next } else { best })
    }
}
