//! The `wgmma` rung on the shapes of real networks, held to the plain rung. Inputs are small multiples of a half, so that products
//! and sums are exact in any order, and what both rungs store must be equal to the bit.

use samcore::device::cuda::driver::Module;
use samcore::device::cuda::emulator::present_or_skip;
use samcore::device::cuda::launch::{Target, launches};
use samcore::device::cuda::rungs::{Rung, Rungs};
use samcore::device::cuda::{CudaDevice, Emulation, Emulator};
use samcore::device::{Device, Layout};
use samcore::dtype::{DType, Element};
use samcore::ops::call::{Call, ConvShape, Counters, Kernel, Loc, Memory, NormShape};

fn shape(n: usize, side: usize, ci: usize, co: usize, k: usize) -> ConvShape {
    ConvShape { n, h: side, w: side, ci, co, k, stride: 1, pad: k / 2 }
}

/// Chunks of channels that end early, boxes of a part of an image, of one and of several, rows that fill no tile.
fn shapes() -> Vec<ConvShape> {
    vec![
        shape(1, 32, 160, 160, 3),
        shape(1, 16, 16, 160, 3),
        shape(2, 16, 320, 80, 3),
        shape(5, 8, 192, 64, 3),
        shape(2, 28, 32, 48, 3),
        shape(3, 8, 96, 176, 1),
        ConvShape { h: 6, w: 10, ..shape(3, 0, 48, 32, 3) },
    ]
}

/// Hands out places of the arena.
#[derive(Default)]
struct Arena(usize);

impl Arena {
    fn place(&mut self, len: usize, element: Element) -> Loc {
        let loc = Loc { memory: Memory::Arena, offset: self.0, len, element };
        self.0 += loc.cells().next_multiple_of(64);
        loc
    }
}

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + i / 13 + seed * 3) % 5) as f32 * 0.5 - 1.0).collect()
}

fn device(rung: Rung, dtype: DType, emulation: &Emulation) -> CudaDevice {
    let rungs = Rungs { forced: Some(rung), ..Rungs::default() };
    let emulator = Emulator::new(emulation.clone()).expect("a C++ compiler");
    CudaDevice::new(Box::new(emulator), dtype, rungs, 1).unwrap()
}

/// Results of a pass: its output, and for each channel the two sums over pixels, of all groups together.
struct Left {
    output: Vec<f32>,
    sums: Vec<[f64; 2]>,
}

fn run(device: &mut CudaDevice, kernel: Kernel, seed: usize) -> Left {
    let low = device.dtype().storage();
    let (s, forward, norm) = match &kernel {
        Kernel::ConvForward(s) => (*s, true, None),
        Kernel::ConvBackwardData { shape, norm, .. } => (*shape, false, *norm),
        Kernel::ConvBackwardWeight(s) => (*s, false, None),
        other => panic!("{other:?}"),
    };
    let mut arena = Arena::default();
    let mut inputs = Vec::new();
    let mut read = |arena: &mut Arena, len, element, seed| {
        let loc = arena.place(len, element);
        inputs.push((loc, values(len, seed)));
        loc
    };
    let weight = matches!(kernel, Kernel::ConvBackwardWeight(_));
    let (len, channels) = if forward { (s.y_len(), s.co) } else { (s.x_len(), s.ci) };
    let mut reads = Vec::new();
    if weight {
        reads.push(read(&mut arena, s.x_len(), low, 1));
        reads.push(read(&mut arena, s.y_len(), low, 2));
    } else {
        reads.push(read(&mut arena, if forward { s.x_len() } else { s.y_len() }, low, 1));
        reads.push(read(&mut arena, s.weight_len(), low, 2));
    }
    if forward && seed.is_multiple_of(2) {
        reads.push(read(&mut arena, s.y_len(), low, 3));
    }
    if norm.is_some() {
        reads.push(read(&mut arena, s.x_len(), low, 4));
        // Count, mean, M2; then weight and bias.
        let stats = arena.place(3 * s.ci, Element::F32);
        inputs.push((stats, [vec![8.0; s.ci], vec![0.25; s.ci], vec![2.0; s.ci]].concat()));
        reads.push(stats);
        for v in [1.5, -0.25] {
            let loc = arena.place(s.ci, Element::F32);
            inputs.push((loc, vec![v; s.ci]));
            reads.push(loc);
        }
    }
    let len = if weight { s.weight_len() } else { len };
    let output = arena.place(len, if weight { Element::F32 } else { low });
    inputs.push((output, values(len, 5))); // where the pass adds, there is something
    let groups = if forward || norm.is_some() { device.groups(&kernel) } else { None };
    let partials = groups.map(|g| arena.place(2 * g.count * channels, Element::F32));
    let mut writes = vec![output];
    writes.extend(partials);
    let mut call = Call { kernel, reads, writes, workspace: None, label: "case".into() };
    let cells = device.workspace(&call);
    call.workspace = (cells > 0).then(|| arena.place(cells, Element::F32));
    device.allocate(&Layout { arena: arena.0, vectors: vec![], scalars: 1 }).unwrap();
    for (loc, values) in &inputs {
        device.upload(*loc, values).unwrap();
    }
    device.run(&[call], &Counters::default()).unwrap();

    let mut left = Left { output: vec![0.0; output.len], sums: vec![[0.0; 2]; channels] };
    device.download(output, &mut left.output).unwrap();
    let (Some(groups), Some(partials)) = (groups, partials) else { return left };
    let mut sums = vec![0.0; partials.len];
    device.download(partials, &mut sums).unwrap();
    for group in 0..groups.count {
        let n = if group + 1 == groups.count { groups.last } else { groups.pixels } as f64;
        for (channel, total) in left.sums.iter_mut().enumerate() {
            let at = |i: usize| f64::from(sums[(2 * group + i) * channels + channel]);
            // Statistics are means and M2: as sums and sums of squares they add up.
            let (a, b) = if forward { (n * at(0), at(1) + n * at(0) * at(0)) } else { (at(0), at(1)) };
            *total = [total[0] + a, total[1] + b];
        }
    }
    left
}

fn kernels(s: ConvShape) -> Vec<Kernel> {
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
    vec![
        Kernel::ConvForward(s),
        Kernel::ConvBackwardData { shape: s, add: false, norm: Some(norm) },
        Kernel::ConvBackwardData { shape: s, add: true, norm: None },
        Kernel::ConvBackwardData { shape: s, add: true, norm: Some(norm) },
        Kernel::ConvBackwardWeight(s),
    ]
}

fn holds(dtype: DType, emulation: &Emulation, shapes: &[ConvShape]) {
    for (seed, s) in shapes.iter().enumerate() {
        for kernel in kernels(*s) {
            let what = format!("{kernel:?} in {dtype:?}, {emulation:?}");
            let plain = run(&mut device(Rung::Plain, dtype, &Emulation::default()), kernel.clone(), seed);
            let fast = run(&mut device(Rung::Wgmma, dtype, emulation), kernel, seed);
            let wrong = plain.output.iter().zip(&fast.output).position(|(a, b)| a.to_bits() != b.to_bits());
            let pair = wrong.map(|i| (i, plain.output[i], fast.output[i]));
            assert_eq!(pair, None, "{what}");
            for (channel, (a, b)) in plain.sums.iter().zip(&fast.sums).enumerate() {
                let near = (0..2).all(|i| (a[i] - b[i]).abs() <= 1e-4 * (1.0 + a[i].abs() + a[1].abs()));
                assert!(near, "{what}: channel {channel}: {a:?}, {b:?}");
            }
        }
    }
}

#[test]
fn every_pass_stores_what_the_plain_rung_stores() {
    if !present_or_skip() {
        return;
    }
    // Tiles are chosen as for an H200.
    let large = Emulation { processors: 132, ..Emulation::default() };
    holds(DType::Bf16, &large, &shapes());
    holds(DType::F16, &Emulation { eager: true, ..large }, &shapes()[4..]);
}

#[test]
fn no_pass_races_or_reads_what_was_never_written() {
    if !present_or_skip() {
        return;
    }
    let checked = Emulation { sanitize: true, ..Emulation::default() };
    holds(DType::Bf16, &checked, &shapes()[4..]);
}

#[test]
fn the_rung_is_used_where_it_is_asked_for() {
    let target = Target {
        arch: 90,
        processors: 132,
        dtype: DType::Bf16,
        rungs: Rungs { forced: Some(Rung::Wgmma), ..Rungs::default() },
    };
    let place = |len, element| Loc { memory: Memory::Arena, offset: 0, len, element };
    let s = shape(128, 32, 160, 160, 3);
    let call = Call {
        kernel: Kernel::ConvForward(s),
        reads: vec![place(s.x_len(), Element::Bf16), place(s.weight_len(), Element::Bf16)],
        writes: vec![place(s.y_len(), Element::Bf16)],
        workspace: None,
        label: "case".into(),
    };
    let Module { file, defines } = &launches(&target, &call).unwrap()[0].module;
    let define = |name| defines.iter().find(|d| d.0 == name).map(|d| d.1.as_str());
    assert_eq!(*file, "conv_wgmma.cu");
    assert_eq!([define("TILE_M"), define("TILE_N"), define("STAGES")], [Some("256"), Some("160"), Some("4")]);
}
