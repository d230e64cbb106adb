//! Every tile of every rung computes on the emulator what the CPU's convolutions do, and so do its epilogues. The cases of the
//! table of operations are small; here are the layers that the large tiles are for, of one image.

use super::conv_tests::{call, target};
use super::conv_tiles::{CHANNEL_TILES, PIXEL_TILES, Product, Tile, choose};
use crate::device::cpu::simd::Isa;
use crate::device::cpu::{Workers, conv, method::Methods};
use crate::device::cuda::device::CudaDevice;
use crate::device::cuda::emulator::{Emulator, Options};
use crate::device::cuda::rungs::{Pass, Rung, Rungs};
use crate::device::{Device, Layout};
use crate::dtype::DType;
use crate::ops::call::{Call, ConvShape, Counters, Groups, Kernel, Loc, Memory, NormShape};
use crate::rng::{Draws, stream};

fn normal(seed: u64, len: usize) -> Vec<f32> {
    let mut draws = Draws::new(seed, stream("test"), 0, 0);
    (0..len).map(|_| draws.normal() as f32).collect()
}

/// Runs one call on `reads` and on what its writes hold before, and gives what they hold then.
fn run(device: &mut CudaDevice, mut call: Call, reads: &[Vec<f32>], before: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut arena = 0;
    for loc in call.reads.iter_mut().chain(&mut call.writes).chain(&mut call.workspace) {
        *loc = Loc { memory: Memory::Arena, offset: arena, ..*loc };
        arena += loc.cells().next_multiple_of(16);
    }
    device.allocate(&Layout { arena, ..Layout::default() }).unwrap();
    let poison = Loc::new(Memory::Arena, 0, arena);
    device.upload(poison, &vec![f32::NAN; arena]).unwrap();
    for (loc, values) in call.reads.iter().zip(reads).chain(call.writes.iter().zip(before)) {
        device.upload(*loc, values).unwrap();
    }
    device.run(std::slice::from_ref(&call), &Counters::default()).unwrap_or_else(|e| panic!("{:?}: {e}", call.kernel));
    let download = |loc: &Loc| {
        let mut values = vec![0.0; loc.len];
        device.download(*loc, &mut values).unwrap();
        values
    };
    call.writes.iter().map(download).collect()
}

/// |got - expected| / |expected|.
fn distance(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |v: f64| v * v;
    let apart: f64 = got.iter().zip(expected).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = expected.iter().map(|v| square(f64::from(*v))).sum();
    (apart / size).sqrt()
}

/// Mean and M2 of each group of rows of `y [rows, c]`, as `[groups, 2, c]`.
fn moments(y: &[f32], c: usize, groups: Groups) -> Vec<f32> {
    let mut out = Vec::new();
    for rows in y.chunks(groups.pixels * c) {
        let n = (rows.len() / c) as f64;
        let column = |k: usize| rows.iter().skip(k).step_by(c).map(|v| f64::from(*v));
        let means: Vec<f64> = (0..c).map(|k| column(k).sum::<f64>() / n).collect();
        out.extend(means.iter().map(|m| *m as f32));
        out.extend((0..c).map(|k| column(k).map(|v| (v - means[k]) * (v - means[k])).sum::<f64>() as f32));
    }
    out
}

/// dweight then dbias of the batch-norm, summed over all groups of partial sums, or from the definition.
fn sums(norm: &NormShape, x: &[f32], [stats, weight, bias]: [&[f32]; 3], dx: &[f32]) -> Vec<f32> {
    let mut out = vec![0f64; 2 * norm.c];
    for (at, (x, d)) in x.iter().zip(dx).enumerate() {
        let k = at % norm.c;
        let inverse = 1.0 / (f64::from(stats[2 * norm.c + k] / stats[k]) + f64::from(norm.eps())).sqrt();
        let xhat = (f64::from(*x) - f64::from(stats[norm.c + k])) * inverse;
        if xhat * f64::from(weight[k]) + f64::from(bias[k]) > 0.0 {
            out[k] += f64::from(*d) * xhat;
            out[norm.c + k] += f64::from(*d);
        }
    }
    out.iter().map(|v| *v as f32).collect()
}

struct Bench {
    workers: Workers,
    dtype: DType,
    rung: Rung,
    used: Vec<Tile>,
}

impl Bench {
    /// Compares the three passes of a layer with the CPU's, epilogues included.
    fn check(&mut self, s: ConvShape) {
        let rungs = Rungs { forced: Some(self.rung), ..Rungs::default() };
        let target = super::Target { rungs: rungs.clone(), ..target(90, self.dtype) };
        let options = Options { processors: target.processors, ..Options::default() };
        let (dtype, stored) = (self.dtype, self.dtype.storage());
        // Values are rounded as they are stored.
        let tolerance = match dtype {
            DType::Bf16 => 3e-3,
            DType::F16 => 4e-4,
            DType::F32 | DType::Tf32 => 1e-5,
        };
        let fresh = || {
            let emulator = Emulator::new(options.clone()).unwrap();
            CudaDevice::new(Box::new(emulator), dtype, rungs.clone(), 1).unwrap()
        };
        let draw = |seed, len| -> Vec<f32> { normal(seed, len).iter().map(|v| dtype.round(*v)).collect() };
        let (x, w, dy) = (draw(1, s.x_len()), draw(2, s.weight_len()), draw(3, s.y_len()));
        let work = conv::forward_workspace::<f32>(&self.workers, &s)
            .max(conv::backward_data_workspace::<f32>(&self.workers, &s))
            .max(conv::backward_weight_workspace::<f32>(&self.workers, &s));
        let mut work = vec![0.0; work];

        let kernel = Kernel::ConvForward(s);
        let residual = draw(4, s.y_len());
        let mut y = vec![0.0; s.y_len()];
        conv::forward(&self.workers, &s, &x, &w, None, &mut y, None, &mut work);
        y.iter_mut().zip(&residual).for_each(|(y, r)| *y += r);
        let got = run(&mut fresh(), call(&target, &kernel, stored), &[x.clone(), w.clone(), residual], &[]);
        assert!(distance(&got[0], &y) < tolerance, "{kernel:?} {dtype:?}: {:e}", distance(&got[0], &y));
        let groups = super::groups(&target, &kernel).unwrap();
        let apart = distance(&got[1], &moments(&got[0], s.co, groups));
        assert!(apart < 1e-6, "statistics of {kernel:?} {dtype:?}: {apart:e}");

        let norm = NormShape {
            n: s.n,
            h: s.h,
            w: s.w,
            c: s.ci,
            eps_bits: 1e-5f32.to_bits(),
            running: false,
            relu: true,
            window: 1,
        };
        let kernel = Kernel::ConvBackwardData { shape: s, add: true, norm: Some(norm) };
        let before = draw(5, s.x_len());
        let mut dx = before.clone();
        conv::backward_data(&self.workers, &s, &dy, &w, &mut dx, true, None, &mut work);
        let norm_x = draw(6, s.x_len());
        let count = vec![(s.n * s.h * s.w) as f32; s.ci];
        let m2 = count.iter().map(|n| 1.3 * n).collect();
        let stats = [count, normal(7, s.ci), m2].concat();
        let (weight, bias) = (normal(8, s.ci), normal(9, s.ci));
        let reads = [dy.clone(), w, norm_x.clone(), stats.clone(), weight.clone(), bias.clone()];
        let got = run(&mut fresh(), call(&target, &kernel, stored), &reads, &[before]);
        assert!(distance(&got[0], &dx) < tolerance, "{kernel:?} {dtype:?}: {:e}", distance(&got[0], &dx));
        let mut all = vec![0.0; 2 * s.ci];
        got[1].chunks(2 * s.ci).for_each(|part| all.iter_mut().zip(part).for_each(|(a, p)| *a += p));
        let apart = distance(&all, &sums(&norm, &norm_x, [&stats, &weight, &bias], &got[0]));
        assert!(apart < 1e-5, "sums of {kernel:?} {dtype:?}: {apart:e}");

        let kernel = Kernel::ConvBackwardWeight(s);
        let mut dw = vec![0.0; s.weight_len()];
        conv::backward_weight(&self.workers, &s, &x, &dy, &mut dw, &mut work);
        let got = run(&mut fresh(), call(&target, &kernel, stored), &[x, dy], &[]);
        assert!(distance(&got[0], &dw) < 1e-5, "{kernel:?} {dtype:?}: {:e}", distance(&got[0], &dw));

        for pass in [Pass::Forward, Pass::BackwardData, Pass::BackwardWeight] {
            let product = Product { pass, shape: s, sliced: pass == Pass::BackwardWeight };
            self.used.push(choose(&target, &product));
        }
    }
}

#[test]
fn every_tile_computes_what_the_cpu_does() {
    // (h = w, ci, co, k, stride), of one image; tiles are chosen as for a batch of 128. Few shapes that take all tiles.
    const MMA: &[[usize; 5]] =
        &[[9, 8, 8, 3, 2], [14, 40, 160, 3, 1], [28, 16, 160, 3, 1], [16, 128, 8, 1, 1], [32, 8, 256, 3, 1]];
    const PLAIN: &[[usize; 5]] =
        &[[9, 3, 10, 3, 2], [28, 65, 65, 1, 1], [16, 40, 32, 1, 1], [4, 1, 256, 1, 1], [4, 128, 512, 3, 2]];
    let mut used = Vec::new();
    for (rung, dtype, shapes) in [
        (Rung::Mma, DType::Bf16, MMA),
        (Rung::Mma, DType::Tf32, &MMA[..3]),
        (Rung::Mma, DType::F16, &MMA[..1]),
        (Rung::Plain, DType::F32, PLAIN),
        (Rung::Plain, DType::Bf16, &PLAIN[..1]),
    ] {
        let workers = Workers { methods: Methods::EXACT, ..Workers::new(1, Isa::best()) };
        let mut bench = Bench { workers, dtype, rung, used: Vec::new() };
        for &[h, ci, co, k, stride] in shapes {
            bench.check(ConvShape { n: 1, h, w: h, ci, co, k, stride, pad: k / 2 });
        }
        used.extend(bench.used);
    }
    for tile in PIXEL_TILES.iter().chain(CHANNEL_TILES) {
        assert!(used.contains(tile), "no shape here takes {tile:?}");
    }
}
