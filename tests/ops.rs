//! Every operation, fused call and vector kernel against its spec, on every thread count; whole models' gradients.

use samcore::check::{ModelCheck, Verdict, check_model, check_row, run_case};
use samcore::device::Device;
use samcore::device::cpu::CpuDevice;
use samcore::dtype::DType;
use samcore::error::Result;
use samcore::models::resnet::{ResNet, WIDE_RESNET50_2};
use samcore::models::{self, Model};
use samcore::ops::OPS;
use samcore::ops::call::Augment;

fn cpu(threads: usize, dtype: DType) -> impl Fn() -> Result<Box<dyn Device>> {
    move || Ok(Box::new(CpuDevice::new(threads)?.with_dtype(dtype)?) as Box<dyn Device>)
}

/// Panics with every finding that is beyond its limit.
fn assert_passed(name: &str, verdicts: &[Verdict]) {
    let failed: Vec<String> = verdicts
        .iter()
        .flat_map(|v| v.findings.iter().filter(|f| !f.passed()).map(move |f| (v, f)))
        .map(|(v, f)| format!("{name}, {}: {}: {:.2e}, allowed {:.0e}", v.label, f.what, f.error, f.limit))
        .collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    assert!(verdicts.iter().all(Verdict::passed), "{name}: a case was not checked at all");
}

fn whole_table(dtype: DType) {
    for row in OPS {
        assert_passed(row.name, &check_row(row, &cpu(2, dtype), 1).unwrap());
        for case in (row.cases)() {
            let run = |threads| run_case(&case, &cpu(threads, dtype), 1).unwrap();
            let one = run(1);
            for threads in [2, 3, 8] {
                let same = one.same_bits(&run(threads));
                assert!(same, "{}, {}: other bits on {threads} threads", row.name, case.label);
            }
        }
    }
}

#[test]
fn every_operation_agrees_with_its_spec_and_with_itself_for_every_thread_count() {
    whole_table(DType::F32);
}

#[test]
fn so_it_does_in_bf16() {
    whole_table(DType::Bf16);
}

#[test]
fn the_gradients_of_models_agree_with_the_interpreter() {
    models_agree(DType::F32);
}

#[test]
fn so_they_do_in_bf16() {
    models_agree(DType::Bf16);
}

fn models_agree(dtype: DType) {
    let augment = Augment { crop: 2, flip: true, ..Augment::default() };
    // wide_resnet50_2's own function with few channels and blocks: the whole of it takes minutes in f64.
    let small = ResNet { channels: 8, blocks: &[1, 1], ..WIDE_RESNET50_2 };
    let small = Model::new("bottleneck", "", move |g, x, spec| small.record(g, x, spec));
    let models = models::REPRESENTATIVES.iter().map(|name| models::find(name).unwrap());
    for model in models.chain([small]) {
        let graph = models::to_check(&model, augment, 0.2).unwrap();
        let check = ModelCheck { name: &model.name, graph: &graph, rows: model.check[0], seed: 1 };
        let verdict = check_model(&check, &cpu(2, dtype)).unwrap();
        assert_passed(&model.name, &[verdict]);
    }
}
