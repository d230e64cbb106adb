use super::*;
use crate::files::TestFolder;
use crate::rng::{Draws, stream};

fn tensor(name: &str, shape: &[usize], data: Data) -> Tensor {
    Tensor { name: name.into(), shape: shape.into(), data }
}

fn parse(bytes: &[u8]) -> Result<Contents> {
    read_from(&mut &bytes[..], bytes.len() as u64, "w.safetensors")
}

/// A file of this header and that much data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn sample() -> Contents {
    let values = vec![0.0, -0.0, 1.5e-42, f32::MAX, f32::NEG_INFINITY, 3.25];
    let tensors = vec![
        tensor("conv1.weight", &[2, 3], Data::F32(values)),
        tensor("bn1.num_batches_tracked", &[], Data::I64(vec![i64::MIN])),
        tensor("empty", &[0, 4], Data::F32(vec![])),
        tensor("odd \"name\"\\\n\u{1}é", &[3, 1], Data::F32(vec![1.0, 2.0, 3.0])),
        tensor("steps", &[2], Data::I64(vec![1, -1])),
    ];
    let metadata = Metadata::from([("format".into(), "pt".into()), ("seed".into(), "7\n\"".into())]);
    Contents { tensors, metadata }
}

#[test]
fn what_is_written_is_read_bit_for_bit() {
    let folder = TestFolder::new("safetensors");
    let path = folder.0.join("a.safetensors");
    let Contents { tensors, metadata } = sample();
    write(&path, &tensors, &metadata).unwrap();
    assert_eq!(read(&path).unwrap(), sample());
    assert_eq!(read(&path).unwrap().get("steps").unwrap().data, Data::I64(vec![1, -1]));
    assert_eq!(std::fs::read(&path).unwrap(), to_bytes(&tensors, &metadata).unwrap());

    // -0.0 == 0.0 and a NaN differs from itself, so the bits are compared for those.
    let odd = [f32::from_bits(0x7FC0_1234), -0.0];
    let bytes = to_bytes(&[tensor("x", &[2], Data::F32(odd.into()))], &Metadata::new()).unwrap();
    let Data::F32(values) = &parse(&bytes).unwrap().tensors[0].data else { panic!() };
    assert_eq!([values[0].to_bits(), values[1].to_bits()], odd.map(f32::to_bits));
}

/// Byte for byte as Python's safetensors 0.8 writes it: sorted by width of element, then by name.
#[test]
fn a_file_from_python_loads_and_every_float_becomes_f32() {
    let header = r#"{"__metadata__":{"format":"pt"},"bn.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"fc.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[24,26]},"h":{"dtype":"F16","shape":[2],"data_offsets":[26,30]}}"#;
    let data = b"\x07\0\0\0\0\0\0\0\0\0\x80?\0\0 \xc0\0\0\0?\0\0@@\xc0?\0<\0\xb8";
    let read = parse(&file(header, data)).unwrap();
    let expected = vec![
        tensor("bn.num_batches_tracked", &[], Data::I64(vec![7])),
        tensor("fc.weight", &[2, 2], Data::F32(vec![1.0, -2.5, 0.5, 3.0])),
        tensor("b", &[1], Data::F32(vec![1.5])),
        tensor("h", &[2], Data::F32(vec![1.0, -0.5])),
    ];
    assert_eq!(read.tensors, expected);
    assert_eq!(read.metadata, Metadata::from([("format".into(), "pt".into())]));

    // Largest, smallest normal, smallest subnormal, infinity: 65504, 2^-14, 2^-24.
    let halves: Vec<u8> = [0x7BFFu16, 0x0400, 0x8001, 0xFC00].iter().flat_map(|h| h.to_le_bytes()).collect();
    let read = parse(&file(r#"{"h":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}"#, &halves)).unwrap();
    let values = vec![65504.0, 2f32.powi(-14), -(2f32.powi(-24)), f32::NEG_INFINITY];
    assert_eq!(read.tensors[0].data, Data::F32(values));

    let doubles: Vec<u8> = (0..1000).flat_map(|i| f64::from(i).to_le_bytes()).collect();
    let read = parse(&file(r#"{"d":{"shape":[1000],"data_offsets":[0,8000],"dtype":"F64"}}  "#, &doubles)).unwrap();
    assert_eq!(read.tensors[0].data, Data::F32((0..1000).map(|i| i as f32).collect()));
}

#[test]
fn written_data_is_aligned_and_marked_for_pytorch() {
    let bytes = to_bytes(&sample().tensors, &Metadata::new()).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(header_len % 8, 0);
    let text = std::str::from_utf8(&bytes[8..8 + header_len]).unwrap();
    assert!(text.starts_with(r#"{"__metadata__":{"format":"pt"},"conv1.weight":{"#), "{text}");
    let header: serde_json::Value = serde_json::from_str(text).unwrap();
    for tensor in &sample().tensors {
        let start = header[&tensor.name]["data_offsets"][0].as_u64().unwrap() as usize;
        assert_eq!(start % tensor.data.alignment(), 0, "{}", tensor.name);
    }
}

/// A zip archive as far as its first file's name.
fn zip(name: &str) -> Vec<u8> {
    let mut bytes = b"PK\x03\x04".to_vec();
    bytes.resize(26, 0);
    bytes.extend([name.len() as u8, 0, 0, 0]);
    bytes.extend(name.bytes());
    bytes
}

#[test]
fn tensors_of_every_type_are_read_past_and_single_integers_are_read() {
    let one = |dtype: &str, shape: &str, data: &[u8]| {
        let entry = |name: &str, dtype: &str, shape: &str, start: usize, end: usize| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
        };
        let n = data.len();
        let header = format!("{{{},{}}}", entry("x", dtype, shape, 0, n), entry("last", "F32", "[]", n, n + 4));
        let contents = parse(&file(&header, &[data, &1.5f32.to_le_bytes()].concat())).unwrap();
        assert_eq!(contents.get("last").unwrap().data, Data::F32(vec![1.5]), "{dtype}");
        contents.tensors[0].data.clone()
    };
    for (dtype, data, value) in [
        ("U8", &[200][..], 200),
        ("I8", &[0xfe], -2),
        ("U16", &[1, 128], 32769),
        ("I16", &[0xfe, 0xff], -2),
        ("U32", &[1, 0, 0, 128], 2147483649),
        ("I32", &[7, 0, 0, 0], 7),
        ("U64", &[0xff; 8], i64::MAX),
    ] {
        assert_eq!(one(dtype, "[]", data), Data::I64(vec![value]), "{dtype}");
        let twice = one(dtype, "[2,1]", &[data, data].concat());
        assert_eq!((twice.dtype(), twice.len()), (dtype, 2));
        assert_eq!(one(dtype, "[0,3]", &[]).len(), 0, "{dtype}");
    }
    for (dtype, shape, bytes, values) in [
        ("BOOL", "[]", 1, 1),
        ("C64", "[3]", 24, 3),
        ("F8_E4M3", "[5]", 5, 5),
        ("F8_E5M2", "[1,5]", 5, 5),
        ("F8_E8M0", "[]", 1, 1),
        ("F6_E2M3", "[4]", 3, 4),
        ("F6_E3M2", "[2,4]", 6, 8),
        ("F4", "[3,2]", 3, 6),
    ] {
        assert_eq!(one(dtype, shape, &vec![1; bytes]), Data::Other(dtype, values));
    }
}

#[test]
fn the_commands_that_convert_other_files_are_those_of_the_documentation() {
    // The documentation breaks lines where it likes.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = words(include_str!("../../docs/finetuning.md"));
    for command in [FROM_TORCH, FROM_NUMPY] {
        assert!(page.contains(&words(command)), "{command}");
    }
}

#[test]
fn each_kind_of_damage_is_one_clear_error() {
    let with = |header: &str| file(header, &[0; 8]);
    let one = |fields: &str| with(&format!(r#"{{"a":{{{fields}}}}}"#));
    let sound = one(r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#);
    parse(&sound).unwrap();
    let two = |a: &str, b: &str| {
        let entry = |name, range| format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{range}]}}"#);
        with(&format!("{{{},{}}}", entry("a", a), entry("b", b)))
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "0 bytes are too few"),
        ("nine bytes", sound[..9].to_vec(), "9 bytes are too few"),
        ("zip", zip("notes.txt"), "it looks like a zip archive (torch.save and numpy.savez write these)"),
        ("zip, cut", zip("notes.txt")[..12].to_vec(), "it looks like a zip archive"),
        (
            "torch.save",
            zip("archive/data.pkl"),
            "it is a file of torch.save; convert it with python -c \"import sys, torch;",
        ),
        (
            "numpy.savez",
            zip("fc.weight.npy"),
            "it is an archive of numpy.savez; convert it with python -c \"import sys, numpy",
        ),
        (
            "pickle",
            b"\x80\x02}q\0(X\x01\0\0\0\0\0\0\0".to_vec(),
            "a Python pickle; if torch.save wrote it, convert it with",
        ),
        ("text", b"lr = 0.1\nbatch = 64\n".to_vec(), "it is a text; the weights of a run are in best.safetensors"),
        ("Git LFS", b"version https://git-lfs.github.com/spec/v1".to_vec(), "a Git LFS pointer: run 'git lfs pull'"),
        ("web page", b"<!DOCTYPE html><html>".to_vec(), "a web page"),
        ("header past the end", sound[..sound.len() - 20].to_vec(), "bytes 0 to 7 give a header of 54 bytes"),
        ("huge header", [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "a header of 18446744073709551615 bytes"),
        ("header is no object", with("[1]"), "begins with 0x5b"),
        ("header is not UTF-8", [&4u64.to_le_bytes()[..], b"{\"\xff}"].concat(), "byte 10: the header is not UTF-8"),
        ("header ends early", with(r#"{"a":{"#), "byte 14: the header should have a string here"),
        ("string without end", with(r#"{"a"#), "a string that ends"),
        ("string with a bad escape", with(r#"{"\q":{}}"#), "byte 9: the header should have a sound string here"),
        ("text after the header", with("{} x"), "byte 11: the header should have the end of the header"),
        ("truncated data", sound[..sound.len() - 1].to_vec(), "tensor 'a' ends at byte 8 of the data, which has 7"),
        ("data too long", [sound.clone(), vec![0]].concat(), "bytes 8 to 9 of the data belong to no tensor"),
        ("no tensors, but data", with("{}"), "bytes 0 to 8 of the data belong to no tensor"),
        ("overlap", two("0,4", "2,6"), "tensor 'b' begins at byte 2 of the data, inside"),
        ("same place", two("0,4", "0,4"), "tensor 'b' begins at byte 0 of the data, inside"),
        ("past the end", two("0,4", "5,9"), "tensor 'b' ends at byte 9"),
        ("gap within", file(r#"{"a":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]}}"#, &[0; 4]), "bytes 0 to 2"),
        ("backwards", one(r#""dtype":"F32","shape":[2],"data_offsets":[8,0]"#), "shape [2] of F32 does not fit"),
        (
            "shape too small",
            one(r#""dtype":"F32","shape":[1],"data_offsets":[0,8]"#),
            "does not fit data_offsets [0, 8]",
        ),
        ("dtype too wide", one(r#""dtype":"I64","shape":[2],"data_offsets":[0,8]"#), "shape [2] of I64 does not fit"),
        (
            "shape overflows",
            one(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]"#),
            "does not fit",
        ),
        (
            "offset overflows",
            one(r#""dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551616]"#),
            "fits 64 bits",
        ),
        ("negative", one(r#""dtype":"F32","shape":[-2],"data_offsets":[0,8]"#), "a whole number"),
        ("fraction", one(r#""dtype":"F32","shape":[2.5],"data_offsets":[0,8]"#), "should have ',' here"),
        ("33 dimensions", one(&format!(r#""dtype":"F32","shape":[{}2]"#, "1,".repeat(32))), "32 numbers already"),
        ("half a byte", one(r#""dtype":"F4","shape":[15],"data_offsets":[0,8]"#), "shape [15] of F4 does not fit"),
        ("one offset", one(r#""dtype":"F32","shape":[2],"data_offsets":[8]"#), "needs two data_offsets, not 1"),
        ("field missing", one(r#""dtype":"F32","shape":[2]"#), "tensor 'a' needs dtype, shape and data_offsets"),
        ("field twice", one(r#""dtype":"F32","dtype":"F32""#), "tensor 'a' has 'dtype' twice"),
        ("field unknown", one(r#""type":"F32""#), "tensor 'a' has an unknown field 'type'"),
        (
            "dtype unknown",
            one(r#""dtype":"F128","shape":[4],"data_offsets":[0,8]"#),
            "dtype 'F128'; the format's are F32, I64",
        ),
        (
            "name twice",
            with(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"\u0061":{}}"#),
            "'a' occurs twice",
        ),
        ("metadata not text", with(r#"{"__metadata__":{"epoch":3}}"#), "should have a string here"),
        ("metadata twice", with(r#"{"__metadata__":{"e":"","e":""}}"#), "the metadata 'e' occurs twice"),
    ];
    for (case, bytes, says) in cases {
        let e = parse(&bytes).expect_err(case);
        assert_eq!(e.kind, Kind::Data, "{case}: {e}");
        assert!(
            e.to_string().starts_with("w.safetensors is not a sound") && e.to_string().contains(says),
            "{case}: {e}"
        );
    }
    let folder = TestFolder::new("no-safetensors");
    assert_eq!(read(&folder.0).unwrap_err().kind, Kind::NoInput);
    assert_eq!(read(&folder.0.join("none")).unwrap_err().kind, Kind::NoInput);
}

#[test]
fn tensors_that_make_no_file_are_refused() {
    let x = |name: &str, shape: &[usize]| tensor(name, shape, Data::F32(vec![0.0; 2]));
    for tensors in [vec![x("a", &[2]), x("a", &[2])], vec![x("__metadata__", &[2])], vec![x("a", &[3])]] {
        assert_eq!(to_bytes(&tensors, &Metadata::new()).unwrap_err().kind, Kind::Internal);
    }
}

/// Random damage never panics, and what is still taken is whole: as many values as its shapes say, and no more than there were.
#[test]
fn random_damage_is_refused_or_harmless() {
    let sound = to_bytes(&sample().tensors, &sample().metadata).unwrap();
    for round in 0..10_000 {
        let mut draws = Draws::new(1, stream("damage"), 0, round);
        let mut bytes = sound.clone();
        if draws.below(3) == 0 {
            bytes.truncate(draws.below(bytes.len() as u32) as usize);
        }
        for _ in 0..draws.below(4) {
            // Half of the flips hit the first bytes, where the lengths are.
            let reach = if draws.below(2) == 0 { bytes.len().min(200) } else { bytes.len() };
            if reach > 0 {
                bytes[draws.below(reach as u32) as usize] ^= 1 << draws.below(8);
            }
        }
        if let Ok(contents) = parse(&bytes) {
            for tensor in &contents.tensors {
                assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len(), "round {round}");
            }
            let values: usize = contents.tensors.iter().map(|t| t.data.len()).sum();
            // The narrowest have four bits.
            assert!(values <= 2 * bytes.len(), "round {round}");
        }
    }
}
