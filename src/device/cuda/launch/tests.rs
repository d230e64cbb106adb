//! Checks of the launches of every call of the table of operations, in every dtype, without a GPU.

use super::super::driver::Grid;
use super::*;
use crate::check;
use crate::device::cpu::CpuDevice;
use crate::device::cuda::sources;
use crate::dtype::{DType, Element};
use crate::ops::OPS;
use crate::ops::call::Loc;

fn target(dtype: DType) -> Target {
    Target { arch: 90, processors: 132, dtype, rungs: Rungs::default() }
}

/// Calls of all cases and benchmarks, but those of convolutions and linear layers.
fn calls() -> Vec<Call> {
    let cases = OPS.iter().flat_map(|row| [(row.cases)(), (row.bench)()].concat());
    let mut all = Vec::new();
    for case in cases {
        let ready = check::ready(&case, Box::new(CpuDevice::new(1).expect("a CPU")), 1).expect("the CPU runs it");
        all.extend(ready.calls().iter().filter(|call| !is_matmul(&call.kernel)).cloned());
    }
    all
}

fn is_matmul(kernel: &Kernel) -> bool {
    use Kernel::*;
    matches!(
        kernel,
        ConvForward(_)
            | ConvBackwardData { .. }
            | ConvBackwardWeight(_)
            | LinearForward(_)
            | LinearBackwardData { .. }
            | LinearBackwardWeight(_)
    )
}

/// The call with those operands in `element` that a device of that storage may keep so.
fn stored(call: &Call, element: Element) -> Call {
    use Kernel::*;
    let (reads, writes): (&[usize], &[usize]) = match call.kernel {
        NormApply(_) | Relu | Copy { .. } | MaxPool(_) | AvgPool(_) | PadShortcut(_) | Dropout { .. } | Tap { .. } => {
            (&[0], &[0])
        }
        AvgPoolBackward { .. } | PadShortcutBackward { .. } | ScaleRows { .. } => (&[0], &[0]),
        ReluBackward { .. } | Add | MaxPoolBackward { .. } | MixRows(_) => (&[0, 1], &[0]),
        NormBackwardData { .. } => (&[0, 4], &[0]),
        NormBackwardSums(_) => (&[0, 4], &[]),
        TapBackward { .. } => (&[0, 2], &[0]),
        TapDelta { .. } => (&[0, 1], &[]),
        BatchStats { .. } => (&[0], &[]),
        Ingest(_) | CrossEntropyBackward { .. } => (&[], &[0]),
        _ => (&[], &[]),
    };
    let mut call = call.clone();
    reads.iter().for_each(|i| call.reads[*i].element = element);
    writes.iter().for_each(|i| call.writes[*i].element = element);
    call
}

/// The kernel's parameters as its source declares them: "const TX *x", "int count".
fn parameters(launch: &Launch) -> Vec<String> {
    let text = sources::text(launch.module.file).expect("embedded");
    let declared = text.match_indices(&format!("{}(", launch.kernel)).find_map(|(at, name)| {
        let line = text[..at].rfind("extern \"C\" __global__")?;
        let between = &text[line..at];
        (!between.contains('{')).then(|| text[at + name.len()..].split(')').next().unwrap_or_default())
    });
    let declared = declared.unwrap_or_else(|| panic!("{} has no kernel {}", launch.module.file, launch.kernel));
    // A parameter without a type is a macro of several.
    let unfolded = text.replace("\\\n", " ");
    let whole = |name: &str| {
        let line = unfolded.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
        line.unwrap_or(name).to_owned()
    };
    let parameters: Vec<String> = declared.split(',').map(|p| whole(p.trim())).collect();
    let each = parameters.iter().flat_map(|p| p.split(','));
    each.map(|p| p.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn every_call_has_launches_that_fit_their_kernels() {
    for call in calls() {
        for dtype in DType::ALL {
            let name = dtype.name();
            let call = stored(&call, dtype.storage());
            let what = format!("{:?} in {name}", call.kernel);
            let launches = launches(&target(dtype), &call).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(!launches.is_empty(), "{what}");
            for launch in &launches {
                let (Grid { blocks, threads, .. }, args) = (launch.grid, &launch.args);
                assert!(blocks.iter().all(|b| *b > 0) && threads % 32 == 0 && threads <= 1024, "{what}: {launch:?}");
                let declared = parameters(launch);
                assert_eq!(declared.len(), args.len(), "{what}: {} takes {declared:?}", launch.kernel);
                for (parameter, operand) in declared.iter().zip(args) {
                    let fits = match operand {
                        Operand::I32(_) => parameter.starts_with("int "),
                        Operand::U32(_) => parameter.starts_with("u32 "),
                        Operand::F32(_) => parameter.starts_with("float "),
                        Operand::Read(n) => parameter.contains('*') && *n < call.reads.len(),
                        Operand::Write(n) => parameter.contains('*') && *n < call.writes.len(),
                        Operand::Work(_) => parameter.contains('*') && workspace(&target(dtype), &call) > 0,
                        Operand::Counters => parameter.contains("Counters *"),
                        Operand::Datasets => parameter.contains("Dataset *"),
                        Operand::Table(_) => parameter.contains("const u32 *") || parameter.contains("Chunk *"),
                        Operand::Map(..) => parameter.contains("TMap "),
                    };
                    assert!(fits, "{what}: {} gets {operand:?} as '{parameter}'", launch.kernel);
                }
            }
        }
    }
}

#[test]
fn operands_name_their_types_each_for_itself() {
    let place = |element| Loc { element, ..Loc::new(crate::ops::call::Memory::Arena, 0, 64) };
    let call = Call {
        kernel: Kernel::Add,
        reads: vec![place(Element::Bf16), place(Element::F32)],
        writes: vec![place(Element::F16)],
        workspace: None,
        label: "sum".into(),
    };
    let launch = &launches(&target(DType::Bf16), &call).expect("a sum of mixed types")[0];
    let types: Vec<_> = launch.module.defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(types, ["TX=bf16", "TD=f32", "TY=f16"]);
}

#[test]
fn what_cannot_be_launched_says_why() {
    let v = |len| Loc::new(crate::ops::call::Memory::Vector(0), 0, len);
    let relu = Call { kernel: Kernel::Relu, reads: vec![v(1 << 31)], writes: vec![v(1 << 31)], ..call("huge") };
    let stuck = Call {
        kernel: Kernel::Scalar(vec![crate::ops::call::Scale::Const(1.0), crate::ops::call::Scale::Mul]),
        writes: vec![v(1), v(1)],
        ..call("stuck")
    };
    let untyped = Loc { element: Element::F16, ..v(512) };
    let norm = Call {
        kernel: Kernel::Norm(std::iter::once(0..512).collect()),
        reads: vec![untyped],
        writes: vec![v(1)],
        ..call("narrow")
    };
    for (call, words) in [(relu, "smaller batch"), (stuck, "lacks operands"), (norm, "f16, not f32")] {
        let error = launches(&target(DType::F16), &call).expect_err("it must fail").to_string();
        assert!(error.contains(words) && error.contains(&call.label), "{error}");
    }
}

fn call(label: &str) -> Call {
    Call { kernel: Kernel::Guard, reads: vec![], writes: vec![], workspace: None, label: label.into() }
}
