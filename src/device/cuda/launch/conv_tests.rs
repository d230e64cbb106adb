//! Launches of convolutions and linear layers are plain data: what is promised of them needs no GPU.

use super::super::driver::Module;
use super::super::rungs::{Pass, Rung, Rungs};
use super::{Launch, Operand, Target, groups, launches, workspace};
use crate::dtype::{DType, Element};
use crate::ops::OPS;
use crate::ops::call::{Call, ConvShape, Kernel, LinearShape, Loc, Memory, NormShape};
use crate::ops::{Op, case::Body};

/// Every case of conv2d and linear, to check and to time, and the layers of WRN-28-10.
pub fn kernels(scale: usize) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let mut conv = |shape: ConvShape| {
        let norm = NormShape {
            n: shape.n,
            h: shape.h,
            w: shape.w,
            c: shape.ci,
            eps_bits: 1e-5f32.to_bits(),
            running: false,
            relu: true,
            window: 1,
        };
        kernels.push(Kernel::ConvForward(shape));
        kernels.push(Kernel::ConvBackwardData { shape, add: true, norm: None });
        kernels.push(Kernel::ConvBackwardData { shape, add: false, norm: Some(norm) });
        kernels.push(Kernel::ConvBackwardWeight(shape));
    };
    for (h, ci, co, stride) in
        [(32, 16, 160, 1), (32, 160, 160, 1), (32, 160, 320, 2), (16, 320, 320, 1), (8, 640, 640, 1)]
    {
        conv(ConvShape { n: 128 * scale, h, w: h, ci, co, k: 3, stride, pad: 1 });
    }
    let mut linear = Vec::new();
    for row in OPS.iter().filter(|row| ["conv2d", "linear"].contains(&row.name)) {
        for case in (row.cases)().into_iter().chain((row.bench)()) {
            let Body::Graph(graph) = case.body else { continue };
            let (x, w, n) = (&graph.feeds[0].0.0, &graph.params[0].0.0, case.rows * scale);
            match graph.ops[0].0 {
                Op::Conv2d(op) => {
                    let (stride, pad) = (op.stride, op.pad);
                    conv(ConvShape { n, h: x[0], w: x[1], ci: x[2], co: w[0], k: w[1], stride, pad });
                }
                _ => linear.push(LinearShape { n, inputs: w[1], outputs: w[0] }),
            }
        }
    }
    for shape in linear {
        kernels.push(Kernel::LinearForward(shape));
        kernels.push(Kernel::LinearBackwardData { shape, add: true });
        kernels.push(Kernel::LinearBackwardWeight(shape));
    }
    kernels
}

pub fn target(arch: u32, dtype: DType) -> Target {
    Target { arch, processors: 132, dtype, rungs: Rungs::default() }
}

/// A call of the kernel with operands as a plan would place them; activations and weights are stored as `stored`.
pub fn call(target: &Target, kernel: &Kernel, stored: Element) -> Call {
    let place = |id: u32, len: usize, element| Loc { memory: Memory::Temp(id), offset: 0, len, element };
    let low = |id, len| place(id, len, stored);
    let wide = |id, len| place(id, len, Element::F32);
    let partials = |c: usize| groups(target, kernel).map(|g| wide(9, 2 * g.count * c));
    let (reads, writes) = match kernel {
        Kernel::ConvForward(s) => {
            let mut writes = vec![low(8, s.y_len())];
            writes.extend(partials(s.co));
            (vec![low(0, s.x_len()), low(1, s.weight_len()), low(2, s.y_len())], writes)
        }
        Kernel::ConvBackwardData { shape: s, norm, .. } => {
            let mut reads = vec![low(0, s.y_len()), low(1, s.weight_len())];
            let mut writes = vec![low(8, s.x_len())];
            if norm.is_some() {
                reads.extend([low(2, s.x_len()), wide(3, 3 * s.ci), wide(4, s.ci), wide(5, s.ci)]);
                writes.extend(partials(s.ci));
            }
            (reads, writes)
        }
        Kernel::ConvBackwardWeight(s) => (vec![low(0, s.x_len()), low(1, s.y_len())], vec![wide(8, s.weight_len())]),
        Kernel::LinearForward(s) => {
            let reads = vec![low(0, s.n * s.inputs), low(1, s.inputs * s.outputs), wide(2, s.outputs)];
            (reads, vec![wide(8, s.n * s.outputs)])
        }
        Kernel::LinearBackwardData { shape: s, .. } => {
            (vec![wide(0, s.n * s.outputs), low(1, s.inputs * s.outputs)], vec![low(8, s.n * s.inputs)])
        }
        Kernel::LinearBackwardWeight(s) => {
            let writes = vec![wide(8, s.inputs * s.outputs), wide(9, s.outputs)];
            (vec![low(0, s.n * s.inputs), wide(1, s.n * s.outputs)], writes)
        }
        other => panic!("{other:?} is no matrix product"),
    };
    let mut call = Call { kernel: kernel.clone(), reads, writes, workspace: None, label: "case".into() };
    let cells = workspace(target, &call);
    call.workspace = (cells > 0).then(|| wide(10, cells));
    call
}

fn built(target: &Target, kernel: &Kernel) -> (Call, Vec<Launch>) {
    let call = call(target, kernel, target.dtype.storage());
    let launches = launches(target, &call).unwrap_or_else(|e| panic!("{kernel:?} on {target:?}: {e}"));
    (call, launches)
}

fn everywhere() -> impl Iterator<Item = (Target, Kernel)> {
    let targets = [75, 80, 90, 120].into_iter().flat_map(|arch| DType::ALL.map(move |dtype| target(arch, dtype)));
    targets.flat_map(|target| kernels(1).into_iter().map(move |kernel| (target.clone(), kernel)))
}

#[test]
fn every_case_becomes_launches_that_a_card_takes() {
    for (target, kernel) in everywhere() {
        let (call, launches) = built(&target, &kernel);
        for launch in &launches {
            let [x, y, z] = launch.grid.blocks;
            assert!((1..=i32::MAX as u32).contains(&x) && y == 1 && (1..=65535).contains(&z), "{launch:?}");
            // sm_80 has 163 KB of shared memory a block, later cards for desks 99; sm_75 has 64, sm_90 227.
            let (threads, shared) = match (launch.module.file, target.arch) {
                ("conv_wgmma.cu", _) => (512, 226),
                (_, 75) => (256, 64),
                _ => (256, 99),
            };
            assert!(launch.grid.threads.is_multiple_of(32) && launch.grid.threads <= threads, "{launch:?}");
            assert!(launch.grid.shared <= shared << 10, "{launch:?}");
            for arg in &launch.args {
                match arg {
                    Operand::Read(i) => assert!(*i < call.reads.len(), "{launch:?}"),
                    Operand::Write(i) => assert!(*i < call.writes.len(), "{launch:?}"),
                    Operand::Work(at) => {
                        let bytes = 4 * call.workspace.map_or(0, |w| w.cells());
                        assert!(*at < bytes && at.is_multiple_of(16), "{launch:?}");
                    }
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn one_binary_serves_every_batch() {
    for (arch, dtype, scale) in [(80, DType::Bf16, 2), (90, DType::F16, 3), (75, DType::F32, 7)] {
        let target = target(arch, dtype);
        for (one, many) in kernels(1).iter().zip(&kernels(scale)) {
            // Slices are merged by a kernel of their own, if there are several.
            let modules = |kernel| -> Vec<Module> {
                let of_products = |m: &Module| m.file != "conv_reduce.cu";
                built(&target, kernel).1.into_iter().map(|l| l.module).filter(of_products).collect()
            };
            assert_eq!(modules(one), modules(many), "{one:?}, {many:?}");
        }
    }
}

#[test]
fn tensor_cores_are_used_where_they_can_be() {
    let wide = Kernel::ConvForward(ConvShape { n: 128, h: 32, w: 32, ci: 160, co: 160, k: 3, stride: 1, pad: 1 });
    let first = Kernel::ConvForward(ConvShape { n: 128, h: 32, w: 32, ci: 3, co: 16, k: 3, stride: 1, pad: 1 });
    let cases = [
        (&wide, 90, DType::Bf16, "conv_wgmma.cu"),
        (&wide, 120, DType::Bf16, "conv_mma.cu"),
        (&wide, 80, DType::Tf32, "conv_mma.cu"),
        (&wide, 75, DType::Bf16, "conv_plain.cu"),
        (&wide, 90, DType::F32, "conv_plain.cu"),
        (&first, 90, DType::Bf16, "conv_plain.cu"),
    ];
    for (kernel, arch, dtype, file) in cases {
        let (_, launches) = built(&target(arch, dtype), kernel);
        assert_eq!(launches[0].module.file, file, "{kernel:?} on sm_{arch} in {dtype:?}");
    }
    let mut target = target(90, DType::Bf16);
    let Kernel::ConvForward(shape) = wide else { unreachable!() };
    target.rungs.table.insert(Rungs::key(Pass::Forward, &shape, DType::Bf16), Rung::Plain);
    assert_eq!(built(&target, &wide).1[0].module.file, "conv_plain.cu");
    target.rungs.forced = Some(Rung::Mma);
    assert_eq!(built(&target, &wide).1[0].module.file, "conv_mma.cu");
}

#[test]
fn operands_of_another_type_or_alignment_are_taken() {
    let shape = ConvShape { n: 2, h: 8, w: 8, ci: 32, co: 64, k: 3, stride: 1, pad: 1 };
    let target = target(80, DType::Bf16);
    let kernel = Kernel::ConvForward(shape);
    let mixed = call(&target, &kernel, Element::F32);
    let files: Vec<_> = launches(&target, &mixed).unwrap().iter().map(|l| (l.module.file, l.kernel)).collect();
    let convert = ("conv_reduce.cu", "convert");
    assert_eq!(files, [convert, convert, ("conv_mma.cu", "conv_forward")]);

    let mut shifted = call(&target, &kernel, Element::Bf16);
    shifted.reads[0].offset = 1;
    let launch = &launches(&target, &shifted).unwrap()[0];
    let define = |name| launch.module.defines.iter().find(|d| d.0 == name).map(|d| d.1.clone());
    assert_eq!((launch.module.file, define("CHUNK")), ("conv_plain.cu", Some("1".into())));
    // Its sums over pixels are still those that the planner knows.
    let promised = groups(&target, &kernel).unwrap().pixels.to_string();
    assert_eq!(define("TILE_M"), Some(promised));
}

#[test]
fn what_kernels_cannot_count_is_refused_with_its_name() {
    let base = ConvShape { n: 1, h: 32, w: 32, ci: 4, co: 4, k: 17, stride: 1, pad: 8 };
    for (shape, words) in [(base, "17x17"), (ConvShape { n: 1 << 20, k: 3, pad: 1, ..base }, "4294967296 elements")] {
        let target = target(80, DType::F32);
        let call = call(&target, &Kernel::ConvForward(shape), Element::F32);
        let message = launches(&target, &call).unwrap_err().to_string();
        assert!(message.contains("'case'") && message.contains(words), "{message}");
    }
}
