//! Winograd's transforms of one tile, `M x M` outputs of a 3x3 kernel, as sums of `A x A` products with `A = M + 2`
//! (Winograd, "Arithmetic complexity of computations", 1980; Lavin and Gray, "Fast algorithms for convolutional neural
//! networks", 2016): y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A.
//!
//! F(2x2) evaluates polynomials at 0, 1, -1 and infinity, F(4x4) at 0, ±sqrt(1/2), ±sqrt(2) and infinity: with the usual ±1
//! and ±2 its rounding errors are twice as large (`cargo bench --bench conv -- errors`). The gradient with respect to the
//! weights is dw = Gᵀ [(Bᵀ x B) ⊙ (A dy Aᵀ)] G, summed over tiles.

// Rows and columns of a matrix are clearer by number, and what is unrolled keeps its sums in registers.
#![allow(clippy::needless_range_loop)]

use crate::device::cpu::stored::Stored;
use crate::device::cpu::tile::Vector;

/// The points of F(4x4) beside 0 and infinity: P, -P, Q and -Q.
const P: f32 = std::f32::consts::FRAC_1_SQRT_2;
const Q: f32 = std::f32::consts::SQRT_2;

/// Bᵀ d
///
/// # Safety
/// As for [`Vector`], as in all of these.
#[inline(always)]
unsafe fn input<V: Vector, const A: usize>(d: &[V; A]) -> [V; A] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut o = [V::zero(); A];
        if A == 4 {
            o[0] = d[0].sub(d[2]);
            o[1] = d[1].add(d[2]);
            o[2] = d[2].sub(d[1]);
            o[3] = d[1].sub(d[3]);
        } else {
            let [p, p2, q, q2, sum] = [P, P * P, Q, Q * Q, P * P + Q * Q].map(|v| V::set(v));
            o[0] = sum.neg_mul_add(d[2], d[4]).add(d[0]);
            let (even, odd) = (q2.neg_mul_add(d[2], d[4]), q2.neg_mul_add(d[1], d[3]));
            o[1] = p.mul_add(odd, even);
            o[2] = p.neg_mul_add(odd, even);
            let (even, odd) = (p2.neg_mul_add(d[2], d[4]), p2.neg_mul_add(d[1], d[3]));
            o[3] = q.mul_add(odd, even);
            o[4] = q.neg_mul_add(odd, even);
            o[5] = sum.neg_mul_add(d[3], d[5]).add(d[1]);
        }
        o
    }
}

/// Aᵀ m
#[inline(always)]
unsafe fn output<V: Vector, const A: usize, const M: usize>(m: &[V; A]) -> [V; M] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut o = [V::zero(); M];
        let (s1, d1) = (m[1].add(m[2]), m[1].sub(m[2]));
        if A == 4 {
            o[0] = m[0].add(s1);
            o[1] = d1.sub(m[3]);
        } else {
            let [p, p2, q, q2] = [P, P * P, Q, Q * Q].map(|v| V::set(v));
            let (s3, d3) = (m[3].add(m[4]), m[3].sub(m[4]));
            let (d1, d3) = (p.mul_add(d1, V::zero()), q.mul_add(d3, V::zero()));
            o[0] = m[0].add(s1.add(s3));
            o[1] = d1.add(d3);
            o[2] = q2.mul_add(s3, p2.mul_add(s1, V::zero()));
            o[3] = q2.mul_add(d3, p2.mul_add(d1, m[5]));
        }
        o
    }
}

/// A y
#[inline(always)]
unsafe fn gradient<V: Vector, const A: usize, const M: usize>(y: &[V; M]) -> [V; A] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut o = [V::zero(); A];
        o[0] = y[0];
        if A == 4 {
            o[1] = y[0].add(y[1]);
            o[2] = y[0].sub(y[1]);
            o[3] = V::zero().sub(y[1]);
        } else {
            let [p, p2, q, q2] = [P, P * P, Q, Q * Q].map(|v| V::set(v));
            let (even, odd) = (p2.mul_add(y[2], y[0]), p2.mul_add(y[3], y[1]));
            o[1] = p.mul_add(odd, even);
            o[2] = p.neg_mul_add(odd, even);
            let (even, odd) = (q2.mul_add(y[2], y[0]), q2.mul_add(y[3], y[1]));
            o[3] = q.mul_add(odd, even);
            o[4] = q.neg_mul_add(odd, even);
            o[5] = y[3];
        }
        o
    }
}

/// G: what each of the `A` points is of the three weights of a kernel row.
pub(super) const fn points(a: usize) -> &'static [[f32; 3]] {
    const F2: [[f32; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
    const F4: [[f32; 3]; 6] = [
        [1.0, 0.0, 0.0],
        [-2.0 / 3.0, -2.0 / 3.0 * P, -1.0 / 3.0],
        [-2.0 / 3.0, 2.0 / 3.0 * P, -1.0 / 3.0],
        [1.0 / 6.0, Q / 6.0, 1.0 / 3.0],
        [1.0 / 6.0, -Q / 6.0, 1.0 / 3.0],
        [0.0, 0.0, 1.0],
    ];
    if a == 4 { &F2 } else { &F4 }
}

/// Layout of the points of tiles: point p of tile t, channels from c on, is at `p * plane + t * row + c`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Planes {
    pub plane: usize,
    pub row: usize,
    /// Channels.
    pub c: usize,
}

/// Tiles in a copy of the source with a halo: the tile in row r and column t starts at `r * down + t * across`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Rows of tiles, and tiles in each.
    pub rows: usize,
    pub cols: usize,
    /// Elements of one row of pixels of the copy.
    pub pitch: usize,
    pub down: usize,
    pub across: usize,
}

/// Bᵀ x B of all tiles of `grid` in `copy`, to `planes` of `to`.
///
/// # Safety
/// As for [`Vector`]; `copy` holds `M + 2` rows and columns from the start of each tile on, rounded up to whole vectors of
/// channels behind the last pixel, and `to` all planes.
#[inline(always)]
pub(super) unsafe fn inputs<V: Vector, const A: usize>(grid: &Grid, planes: &Planes, copy: *const f32, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        for (row, col) in (0..grid.rows).flat_map(|r| (0..grid.cols).map(move |c| (r, c))) {
            let (from, tile) = (row * grid.down + col * grid.across, row * grid.cols + col);
            for c in (0..planes.c).step_by(V::COUNT) {
                let (from, to) = (copy.add(from + c), to.add(tile * planes.row + c));
                let mut half = [[V::zero(); A]; A];
                for j in 0..A {
                    let mut d = [V::zero(); A];
                    for i in 0..A {
                        d[i] = V::load(from.add(i * grid.pitch + j * planes.c));
                    }
                    half[j] = input(&d);
                }
                for i in 0..A {
                    let mut d = [V::zero(); A];
                    for j in 0..A {
                        d[j] = half[j][i];
                    }
                    let o = input(&d);
                    for j in 0..A {
                        o[j].store(to.add((i * A + j) * planes.plane));
                    }
                }
            }
        }
    }
}

/// A dy Aᵀ of all tiles of `grid` in `copy`, to `planes` of `to`.
///
/// # Safety
/// As for [`inputs`], with `M` rows and columns a tile.
#[inline(always)]
pub(super) unsafe fn gradients<V: Vector, const A: usize, const M: usize>(
    grid: &Grid,
    planes: &Planes,
    copy: *const f32,
    to: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for (row, col) in (0..grid.rows).flat_map(|r| (0..grid.cols).map(move |c| (r, c))) {
            let (from, tile) = (row * grid.down + col * grid.across, row * grid.cols + col);
            for c in (0..planes.c).step_by(V::COUNT) {
                let (from, to) = (copy.add(from + c), to.add(tile * planes.row + c));
                let mut half = [[V::zero(); A]; M];
                for j in 0..M {
                    let mut d = [V::zero(); M];
                    for i in 0..M {
                        d[i] = V::load(from.add(i * grid.pitch + j * planes.c));
                    }
                    half[j] = gradient(&d);
                }
                for i in 0..A {
                    let mut d = [V::zero(); M];
                    for j in 0..M {
                        d[j] = half[j][i];
                    }
                    let o: [V; A] = gradient(&d);
                    for j in 0..A {
                        o[j].store(to.add((i * A + j) * planes.plane));
                    }
                }
            }
        }
    }
}

/// Destination of the outputs of tiles: an image's rows and columns from the first tile's on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outputs {
    /// Rows and columns of pixels that there are; tiles reach beyond them.
    pub rows: usize,
    pub cols: usize,
    /// Elements of one row of pixels.
    pub pitch: usize,
}

/// Aᵀ m A of `grid.rows` rows of tiles (numbered from the start of `from`), to the image rows at `to`; `add`, of the same
/// form, is added, and may be `to` itself; null for nothing.
///
/// # Safety
/// As for [`Vector`]; all planes, and all rows and columns of `outputs`, are there.
#[inline(always)]
pub(super) unsafe fn outputs<V: Vector, T: Stored, const A: usize, const M: usize>(
    grid: [usize; 2],
    planes: &Planes,
    from: *const f32,
    outputs: &Outputs,
    add: *const T,
    to: *mut T,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for (row, col) in (0..grid[0]).flat_map(|r| (0..grid[1]).map(move |c| (r, c))) {
            let tile = row * grid[1] + col;
            let (high, wide) = ((outputs.rows - row * M).min(M), (outputs.cols - col * M).min(M));
            let at = row * M * outputs.pitch + col * M * planes.c;
            for c in (0..planes.c).step_by(V::COUNT) {
                let count = V::COUNT.min(planes.c - c);
                let from = from.add(tile * planes.row + c);
                let mut half = [[V::zero(); M]; A];
                for j in 0..A {
                    let mut d = [V::zero(); A];
                    for i in 0..A {
                        d[i] = V::load(from.add((i * A + j) * planes.plane));
                    }
                    half[j] = output(&d);
                }
                for i in 0..M {
                    if i >= high {
                        break;
                    }
                    let mut d = [V::zero(); A];
                    for j in 0..A {
                        d[j] = half[j][i];
                    }
                    let o: [V; M] = output(&d);
                    for j in 0..M {
                        if j >= wide {
                            break;
                        }
                        let at = at + i * outputs.pitch + j * planes.c + c;
                        let mut value = o[j];
                        if !add.is_null() {
                            value = value.add(T::load_lanes(add.add(at), count));
                        }
                        T::store_lanes(value, to.add(at), count);
                    }
                }
            }
        }
    }
}

/// G w Gᵀ of `count` kernels (at most a vector) whose weights for tap (i, j) lie at `from + (3 i + j) * tap`, to
/// `to + (A i + j) * plane`; with `flipped` of the kernel turned by 180 degrees.
///
/// # Safety
/// As for [`Vector`]; a whole vector may be written at every point.
#[inline(always)]
pub(super) unsafe fn weights<V: Vector, T: Stored, const A: usize>(
    from: *const T,
    tap: usize,
    count: usize,
    flipped: bool,
    to: *mut f32,
    plane: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let g = points(A);
        let mut w = [[V::zero(); 3]; 3];
        for (i, j) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))) {
            let at = if flipped { 8 - (3 * i + j) } else { 3 * i + j };
            w[i][j] = T::load_lanes(from.add(at * tap), count);
        }
        let mut half = [[V::zero(); 3]; A];
        for (i, j) in (0..A).flat_map(|i| (0..3).map(move |j| (i, j))) {
            for k in 0..3 {
                half[i][j] = V::set(g[i][k]).mul_add(w[k][j], half[i][j]);
            }
        }
        for (i, j) in (0..A).flat_map(|i| (0..A).map(move |j| (i, j))) {
            let mut sum = V::zero();
            for k in 0..3 {
                sum = V::set(g[j][k]).mul_add(half[i][k], sum);
            }
            sum.store(to.add((i * A + j) * plane));
        }
    }
}

/// Gᵀ u G of `count` kernels whose points lie at `from + (A i + j) * plane` (in `slots` sums, `slot` apart, which are added
/// in order), to the taps at `to + (3 i + j) * tap`.
///
/// # Safety
/// As for [`Vector`]; a whole vector may be read at every point.
#[inline(always)]
pub(super) unsafe fn weight_gradients<V: Vector, const A: usize>(
    from: *const f32,
    plane: usize,
    (slots, slot): (usize, usize),
    to: *mut f32,
    tap: usize,
    count: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let g = points(A);
        let mut half = [[V::zero(); 3]; A];
        for (i, j) in (0..A).flat_map(|i| (0..A).map(move |j| (i, j))) {
            let mut u = V::load(from.add((i * A + j) * plane));
            for s in 1..slots {
                u = u.add(V::load(from.add(s * slot + (i * A + j) * plane)));
            }
            for k in 0..3 {
                half[i][k] = V::set(g[j][k]).mul_add(u, half[i][k]);
            }
        }
        for (a, b) in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
            let mut sum = V::zero();
            for i in 0..A {
                sum = V::set(g[i][a]).mul_add(half[i][b], sum);
            }
            sum.store_first(to.add((3 * a + b) * tap), count);
        }
    }
}
