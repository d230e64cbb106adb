use super::*;
use crate::ops::call::{Call, Kernel};
use std::collections::BTreeMap;

fn source([h, w, c]: [usize; 3], classes: usize) -> ImageSource {
    ImageSource { h, w, c, classes, mean: [0.5; 4], std: [0.5; 4], augment: Augment::default() }
}

fn graph(name: &str, images: [usize; 3], classes: usize) -> Graph {
    classifier(&find(name).unwrap(), &source(images, classes), &Setup::default()).unwrap()
}

const COLOUR: [usize; 3] = [32, 32, 3];
const GREY: [usize; 3] = [28, 28, 1];

#[test]
fn parameter_counts_are_the_published_ones() {
    for (name, images, classes, count) in [
        ("cnn", GREY, 10, 468_010),
        ("wrn-16-4", COLOUR, 10, 2_748_890),
        ("wrn-16-4", GREY, 10, 2_748_602),
        ("wrn-16-4", COLOUR, 100, 2_772_020),
        ("wrn-16-8", COLOUR, 10, 10_961_370),
        ("wrn-16-8", COLOUR, 100, 11_007_540),
        ("wrn-16-10", COLOUR, 10, 17_116_634),
        ("wrn-16-10", COLOUR, 100, 17_174_324),
        ("wrn-28-10", COLOUR, 10, 36_479_194),
        ("wrn-28-10", COLOUR, 100, 36_536_884),
        ("wrn-40-2", COLOUR, 10, 2_243_546),
        ("wrn-40-2", COLOUR, 100, 2_255_156),
        ("wrn-40-4", COLOUR, 10, 8_949_210),
        ("wrn-40-4", COLOUR, 100, 8_972_340),
        ("wrn-40-10", COLOUR, 10, 55_841_754),
        ("wrn-40-10", COLOUR, 100, 55_899_444),
        ("resnet18", COLOUR, 10, 11_173_962),
        ("resnet18", COLOUR, 100, 11_220_132),
        ("resnet34", COLOUR, 10, 21_282_122),
        ("resnet34", COLOUR, 100, 21_328_292),
        ("resnet20", COLOUR, 10, 269_722),
        ("resnet20", COLOUR, 100, 275_572),
        ("resnet32", COLOUR, 10, 464_154),
        ("resnet32", COLOUR, 100, 470_004),
        ("wide_resnet50_2", COLOUR, 10, 66_854_730),
        ("shake-shake-26-2x32d", COLOUR, 10, 2_923_162),
        ("shake-shake-26-2x32d", COLOUR, 100, 2_934_772),
        ("shake-shake-26-2x64d", COLOUR, 10, 11_653_978),
        ("shake-shake-26-2x64d", COLOUR, 100, 11_677_108),
        ("shake-shake-26-2x96d", COLOUR, 10, 26_192_922),
        ("shake-shake-26-2x96d", COLOUR, 100, 26_227_572),
        ("pyramidnet-110-a270", COLOUR, 10, 28_485_477),
        ("pyramidnet-110-a270", COLOUR, 100, 28_511_307),
        ("pyramidnet-272-a200-bottleneck", COLOUR, 10, 26_210_842),
        ("pyramidnet-272-a200-bottleneck", COLOUR, 100, 26_288_692),
        // ShakeDrop has no parameters.
        ("pyramidnet-272-a200-bottleneck-shakedrop", COLOUR, 100, 26_288_692),
        // torchvision's own, with 1000 classes.
        ("resnet18-imagenet", [224, 224, 3], 1000, 11_689_512),
        ("resnet34-imagenet", [224, 224, 3], 1000, 21_797_672),
        ("wide_resnet50_2", [224, 224, 3], 1000, 68_883_240),
    ] {
        assert_eq!(graph(name, images, classes).params().count(), count, "{name} on {images:?}, {classes} classes");
    }
}

#[test]
fn parameter_counts_of_every_depth_and_width_are_the_sums_of_their_layers() {
    let conv = |ci: usize, co: usize, k: usize| ci * co * k * k;
    let norm = |c: usize| 2 * c;
    for (n, k) in [(1, 1), (1, 3), (2, 1), (4, 2), (6, 10)] {
        let mut sum = conv(3, 16, 3) + norm(64 * k) + 64 * k * 10 + 10;
        let mut ci = 16;
        for co in [16 * k, 32 * k, 64 * k] {
            let inner = norm(co) + conv(co, co, 3);
            sum += norm(ci) + conv(ci, co, 3) + inner + if ci == co { 0 } else { conv(ci, co, 1) };
            sum += (n - 1) * (norm(co) + conv(co, co, 3) + inner);
            ci = co;
        }
        let name = format!("wrn-{}-{k}", 6 * n + 4);
        assert_eq!(graph(&name, COLOUR, 10).params().count(), sum, "{name}");
    }
    for (name, n) in [("resnet20", 3), ("resnet32", 5), ("resnet56", 9), ("resnet110", 18)] {
        let mut sum = conv(3, 16, 3) + norm(16) + 64 * 10 + 10;
        for (ci, co) in [(16, 16), (16, 32), (32, 64)] {
            sum += conv(ci, co, 3) + (2 * n - 1) * conv(co, co, 3) + 2 * n * norm(co);
        }
        assert_eq!(graph(name, COLOUR, 10).params().count(), sum, "{name}");
    }
}

#[test]
fn flop_counts_are_those_of_the_textbook() {
    // cnn: 37.38 MFLOP forward an image, as counted for the peers. The others by hand, two flops a multiply-add, in thousands.
    for (name, images, thousands) in
        [("cnn", GREY, 37_380), ("resnet20", COLOUR, 81_102), ("wrn-28-10", COLOUR, 10_486_657)]
    {
        assert_eq!(graph(name, images, 10).flops() / 1000 / 10, thousands / 10, "{name}");
    }
}

/// File shapes of all parameters by name.
fn shapes(name: &str) -> BTreeMap<String, Vec<usize>> {
    let g = graph(name, COLOUR, 10);
    assert_eq!(g.statistics().len(), g.params().list().iter().filter(|p| p.shape.len() == 1).count() / 2);
    g.params().list().iter().map(|p| (p.name.clone(), p.file_shape())).collect()
}

/// Parameters of a network that a function spells out: `tensor(name, dimensions)`, for batch-norms `norm(name, channels)`.
#[derive(Default)]
struct Expected(BTreeMap<String, Vec<usize>>);

impl Expected {
    fn conv(&mut self, name: String, co: usize, ci: usize, k: usize) {
        self.0.insert(format!("{name}.weight"), vec![co, ci, k, k]);
    }
    fn norm(&mut self, name: String, c: usize) {
        self.0.insert(format!("{name}.weight"), vec![c]);
        self.0.insert(format!("{name}.bias"), vec![c]);
    }
    fn linear(&mut self, name: &str, inputs: usize) {
        self.0.insert(format!("{name}.weight"), vec![10, inputs]);
        self.0.insert(format!("{name}.bias"), vec![10]);
    }
}

#[test]
fn wide_resnet50_2_has_the_names_and_shapes_of_torchvision() {
    let mut all = Expected::default();
    all.conv("conv1".into(), 64, 3, 7);
    all.norm("bn1".into(), 64);
    let mut inputs = 64;
    for (stage, blocks) in [(1, 3), (2, 4), (3, 6), (4, 3)] {
        let (width, outputs) = (128 << (stage - 1), 256 << (stage - 1));
        for i in 0..blocks {
            let layer = format!("layer{stage}.{i}");
            for (n, co, ci, k) in [(1, width, inputs, 1), (2, width, width, 3), (3, outputs, width, 1)] {
                all.conv(format!("{layer}.conv{n}"), co, ci, k);
                all.norm(format!("{layer}.bn{n}"), co);
            }
            if i == 0 {
                all.conv(format!("{layer}.downsample.0"), outputs, inputs, 1);
                all.norm(format!("{layer}.downsample.1"), outputs);
            }
            inputs = outputs;
        }
    }
    all.linear("fc", 2048);
    assert_eq!(shapes("wide_resnet50_2"), all.0);
}

#[test]
fn resnet18_has_the_names_and_shapes_of_torchvision_but_for_its_stem() {
    let mut all = Expected::default();
    all.conv("conv1".into(), 64, 3, 3);
    all.norm("bn1".into(), 64);
    let mut inputs = 64;
    for stage in 1..=4 {
        let channels = 64 << (stage - 1);
        for i in 0..2 {
            let layer = format!("layer{stage}.{i}");
            for (n, ci) in [(1, inputs), (2, channels)] {
                all.conv(format!("{layer}.conv{n}"), channels, ci, 3);
                all.norm(format!("{layer}.bn{n}"), channels);
            }
            if inputs != channels {
                all.conv(format!("{layer}.downsample.0"), channels, inputs, 1);
                all.norm(format!("{layer}.downsample.1"), channels);
            }
            inputs = channels;
        }
    }
    all.linear("fc", 512);
    assert_eq!(shapes("resnet18"), all.0);
}

#[test]
fn wide_resnets_and_cifar_resnets_have_the_names_and_shapes_of_the_usual_ports() {
    let mut all = Expected::default();
    all.conv("conv1".into(), 16, 3, 3);
    let mut inputs = 16;
    for stage in 1..=3 {
        let channels = 32 << (stage - 1);
        for i in 0..2 {
            let layer = format!("block{stage}.layer.{i}");
            all.norm(format!("{layer}.bn1"), inputs);
            all.conv(format!("{layer}.conv1"), channels, inputs, 3);
            all.norm(format!("{layer}.bn2"), channels);
            all.conv(format!("{layer}.conv2"), channels, channels, 3);
            if i == 0 {
                all.conv(format!("{layer}.convShortcut"), channels, inputs, 1);
            }
            inputs = channels;
        }
    }
    all.norm("bn1".into(), 128);
    all.linear("fc", 128);
    assert_eq!(shapes("wrn-16-2"), all.0);

    let mut all = Expected::default();
    all.conv("conv1".into(), 16, 3, 3);
    all.norm("bn1".into(), 16);
    let mut inputs = 16;
    for stage in 1..=3 {
        let channels = 16 << (stage - 1);
        for i in 0..3 {
            let layer = format!("layer{stage}.{i}");
            for (n, ci) in [(1, inputs), (2, channels)] {
                all.conv(format!("{layer}.conv{n}"), channels, ci, 3);
                all.norm(format!("{layer}.bn{n}"), channels);
            }
            inputs = channels;
        }
    }
    all.linear("linear", 64);
    assert_eq!(shapes("resnet20"), all.0);
}

#[test]
fn shake_shake_has_the_names_and_shapes_of_the_usual_port_but_for_its_stems_batch_norm() {
    let mut all = Expected::default();
    all.conv("c_in".into(), 16, 3, 3);
    all.norm("bn_in".into(), 16);
    let mut inputs = 16;
    for stage in 1..=3 {
        let channels = 8 << stage;
        for i in 0..2 {
            let layer = format!("layer{stage}.{i}");
            for branch in 1..=2 {
                for (n, ci) in [(1, inputs), (4, channels)] {
                    all.conv(format!("{layer}.branch{branch}.{n}"), channels, ci, 3);
                    all.norm(format!("{layer}.branch{branch}.{}", n + 1), channels);
                }
            }
            // The first stage has the stem's 16 channels, and so no shortcut of its own.
            if inputs != channels {
                all.conv(format!("{layer}.shortcut.conv1"), channels / 2, inputs, 1);
                all.conv(format!("{layer}.shortcut.conv2"), channels / 2, inputs, 1);
                all.norm(format!("{layer}.shortcut.bn"), channels);
            }
            inputs = channels;
        }
    }
    all.linear("fc_out", 64);
    assert_eq!(shapes("shake-shake-14-2x16d"), all.0);
}

#[test]
fn pyramidnets_have_the_names_and_shapes_of_the_usual_port() {
    for (name, bottleneck) in [("pyramidnet-14-a12-shakedrop", false), ("pyramidnet-20-a12-bottleneck", true)] {
        let mut all = Expected::default();
        all.conv("conv1".into(), 16, 3, 3);
        all.norm("bn1".into(), 16);
        let mut inputs = 16;
        for l in 1..=6usize {
            // Six blocks add two channels each.
            let (layer, channels) = (format!("layer{}.{}", l.div_ceil(2), (l + 1) % 2), 16 + 2 * l);
            let outputs = if bottleneck { 4 * channels } else { channels };
            let convolutions = match bottleneck {
                false => vec![(channels, inputs, 3), (channels, channels, 3)],
                true => vec![(channels, inputs, 1), (channels, channels, 3), (outputs, channels, 1)],
            };
            all.norm(format!("{layer}.bn1"), inputs);
            for (n, (co, ci, k)) in (1..).zip(convolutions) {
                all.conv(format!("{layer}.conv{n}"), co, ci, k);
                all.norm(format!("{layer}.bn{}", n + 1), co);
            }
            inputs = outputs;
        }
        all.norm("bn_final".into(), inputs);
        all.linear("fc", inputs);
        assert_eq!(shapes(name), all.0, "{name}");
    }
}

#[test]
fn every_block_draws_for_itself_and_later_blocks_of_a_pyramid_are_dropped_more() {
    use crate::ops::Op;
    let g = graph("shake-shake-26-2x32d", COLOUR, 10);
    let streams = g.vars().filter_map(|v| if let Op::Shake(s) = g.node(v).op { Some(s.stream) } else { None });
    assert_eq!(streams.collect::<std::collections::BTreeSet<u32>>().len(), 12);
    let g = graph("pyramidnet-272-a200-bottleneck-shakedrop", COLOUR, 10);
    let drops = g.vars().filter_map(|v| if let Op::ShakeDrop(s) = g.node(v).op { Some(s) } else { None });
    let drops: Vec<_> = drops.collect();
    assert_eq!((drops.len(), drops[0].p, drops[89].p), (90, (1.0 - 0.5 / 90.0) as f32, 0.5));
    assert!(drops.is_sorted_by(|a, b| a.p > b.p));
    assert_eq!(drops.iter().map(|d| d.stream).collect::<std::collections::BTreeSet<u32>>().len(), 90);
}

#[test]
fn initial_weights_follow_the_recipes() {
    let g = graph("wrn-16-2", COLOUR, 10);
    let values = |name: &str| g.params().list().iter().find(|p| p.name == name).unwrap().init(0);
    assert_eq!(values("fc.bias"), [0.0; 10]);
    // 36,864 draws of variance 2 / fan-out, fan-out = 64 * 9.
    let conv = values("block2.layer.1.conv1.weight");
    let variance = conv.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / conv.len() as f64;
    assert!((variance * 288.0 - 1.0).abs() < 0.02, "{variance}");
}

#[test]
fn dropout_stands_between_the_two_convolutions_of_each_wide_block() {
    let g = classifier(&find("wrn-16-2").unwrap(), &source(COLOUR, 10), &Setup::new(0.3, 0.0)).unwrap();
    let dropouts: Vec<Var> = g.vars().filter(|v| matches!(g.node(*v).op, crate::ops::Op::Dropout(_))).collect();
    assert_eq!(dropouts.len(), 6);
    for v in dropouts {
        let name = g.node(v).name.strip_suffix(".dropout").unwrap().to_owned();
        assert_eq!(g.node(g.node(v).inputs[0]).name, format!("{name}.relu2"));
        assert!(g.consumers(v).all(|c| g.node(c).name == format!("{name}.conv2")));
    }
}

#[test]
fn taps_stand_behind_the_convolutions_of_residual_blocks_and_are_left_out_unless_asked_for() {
    for (name, images, count) in [
        ("cnn", GREY, 4),
        ("wrn-16-1", COLOUR, 12),
        ("wrn-28-1", COLOUR, 24),
        ("resnet18", COLOUR, 16),
        ("resnet20", COLOUR, 18),
        ("wide_resnet50_2", COLOUR, 48),
        ("shake-shake-8-2x4d", COLOUR, 12),
        ("pyramidnet-8-a6", COLOUR, 6),
        ("pyramidnet-11-a12-bottleneck-shakedrop", COLOUR, 9),
    ] {
        let setup = Setup { taps: true, ..Setup::default() };
        let g = classifier(&find(name).unwrap(), &source(images, 10), &setup).unwrap();
        assert_eq!(g.taps().len(), count, "{name}");
        for v in g.taps() {
            let marked = g.node(g.node(*v).inputs[0]);
            assert!(matches!(marked.op, crate::ops::Op::Conv2d(_)), "{name}: {}", marked.name);
            // Convolutions of Shake-Shake have numbers for names.
            if marked.name.contains("conv") {
                assert_eq!(g.node(*v).name, marked.name.replace("conv", "tap"), "{name}");
            }
        }
        assert_eq!(graph(name, images, 10).taps().len(), 0, "{name}");
    }
}

#[test]
fn passes_that_carry_no_taps_are_planned_as_if_the_model_had_none() {
    use crate::plan::{Key, Wrt, plan};
    let device = crate::device::cpu::CpuDevice::new(1).unwrap();
    for (name, images) in [("cnn", GREY), ("wrn-16-1", COLOUR), ("resnet20", COLOUR), ("resnet18", COLOUR)] {
        let marked = Setup { taps: true, ..Setup::default() };
        let marked = classifier(&find(name).unwrap(), &source(images, 10), &marked).unwrap();
        let plain = graph(name, images, 10);
        for key in [Key::train(2, plain.all_params()), Key::evaluate(2)] {
            let calls = |g: &Graph| plan(g, &key, &device).unwrap().calls;
            assert!(calls(&marked) == calls(&plain), "{name}");
        }
        // Differentiated by, but at 0: nothing is copied.
        let key = Key { wrt: Wrt { taps: true, ..Wrt::default() }, ..Key::train(2, crate::plan::nowhere()) };
        let calls = plan(&marked, &key, &device).unwrap().calls;
        let copies = |c: &&Call| matches!(c.kernel, Kernel::Copy { .. }) && c.label.contains("tap");
        assert_eq!(calls.iter().find(copies), None, "{name}");
        assert_eq!(calls.iter().filter(|c| matches!(c.kernel, Kernel::TapDelta { .. })).count(), marked.taps().len());
    }
}

#[test]
fn other_sizes_channels_and_class_counts_build_and_too_small_ones_say_so() {
    for name in names() {
        let model = find(name).unwrap();
        for (images, classes) in [(COLOUR, 100), (GREY, 2), ([33, 47, 4], 7)] {
            // Means of 2x2 pixels halve even sides alone.
            let images = if name.starts_with("pyramidnet") && images[0] == 33 { [36, 48, 4] } else { images };
            let g = classifier(&model, &source(images, classes), &Setup::new(0.3, 0.1)).unwrap();
            assert_eq!(g.shape(g.node(g.loss().unwrap()).inputs[0]).0, [classes], "{name}");
        }
    }
    let error = classifier(&find("cnn").unwrap(), &source([3, 3, 1], 10), &Setup::default()).unwrap_err().to_string();
    assert!(error.contains("cnn") && error.contains("3x3"), "{error}");
    let pyramid = find("pyramidnet-8-a12").unwrap();
    let error = classifier(&pyramid, &source([33, 48, 3], 10), &Setup::default()).unwrap_err().to_string();
    let told = "model pyramidnet-8-a12 on 33x48x3 images: both sides must be multiples of 4: ";
    assert!(error.starts_with(told), "{error}");
}

#[test]
fn names_are_found_and_slips_are_put_right() {
    for name in names().chain(["wrn-22-3", "wrn-40-14"]) {
        assert_eq!(find(name).unwrap().name, name);
    }
    let known = "known: cnn, wrn-D-K, resnet18, resnet34, resnet18-imagenet, resnet34-imagenet, resnet20, resnet32, \
                 resnet56, resnet110, wide_resnet50_2, shake-shake-D-BxWd, pyramidnet-D-aA";
    for (name, message) in [
        ("cnm", "unknown model 'cnm'; did you mean 'cnn'?"),
        ("resnet19", "unknown model 'resnet19'; did you mean 'resnet18'?"),
        ("wideresnet50_2", "unknown model 'wideresnet50_2'; did you mean 'wide_resnet50_2'?"),
        ("WRN_22_3", "unknown model 'WRN_22_3'; did you mean 'wrn-22-3'?"),
        ("wm-28-10", "unknown model 'wm-28-10'; did you mean 'wrn-28-10'?"),
        ("wrn-D-K", "wrn-D-K: a wide ResNet is named wrn-D-K, by depth and widening factor, such as wrn-28-10"),
        ("wrn-17-4", "wrn-17-4: D must be 6n + 4, such as 16 or 22"),
        (
            "shake-shake-26",
            "shake-shake-26: a Shake-Shake network is named shake-shake-D-BxWd, by depth, branches and \
                            channels of the first stage, such as shake-shake-26-2x32d",
        ),
        ("Shake_Shake_26_2x32d", "unknown model 'Shake_Shake_26_2x32d'; did you mean 'shake-shake-26-2x32d'?"),
        (
            "densenet121",
            &format!("unknown model 'densenet121'; {}", known.replace("known:", "it is not built in, these are:")),
        ),
        ("something", &format!("unknown model 'something'; {known}")),
        ("", &format!("unknown model ''; {known}")),
    ] {
        assert_eq!(find(name).err().map(|e| (e.to_string(), e.exit_code())), Some((message.to_string(), 2)), "{name}");
    }
}
