//! Promises of the command line, made by the real program: help, the output of commands, and readers that leave. Messages on
//! mistakes are tested in `bad_input.rs`.

mod common;

use common::{Folder, samcore as run};
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// Exit code, stdout and stderr.
fn samcore(arguments: &[&str]) -> (i32, String, String) {
    let done = common::Done::of(common::command(Path::new("."), arguments).output().unwrap());
    (done.code, done.stdout, done.stderr)
}

#[test]
fn help_and_version_go_to_stdout() {
    let (code, help, errors) = samcore(&["--help"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    for command in samcore::cli::COMMANDS {
        assert!(help.contains(&format!("  {}", command.name)) && help.contains(command.about), "{help}");
        let (code, own, errors) = samcore(&[command.name, "--help"]);
        assert_eq!((code, errors.as_str()), (0, ""));
        assert!(own.starts_with(command.about) && own.contains(&format!("Usage: samcore {}", command.name)), "{own}");
    }
    for (_, code, meaning) in samcore::error::KINDS {
        assert!(help.contains(&format!("{code:3}  {meaning}\n")), "{help}");
    }
    let (code, version, _) = samcore(&["--version"]);
    assert!(code == 0 && version.starts_with(concat!("samcore ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn a_reader_that_leaves_is_no_error_but_a_full_disk_is() {
    for line in
        ["--help", "--version", "train --help", "man", "man data fetch", "completions zsh", "info models", "data list"]
    {
        let run = |out: Stdio| {
            let mut command = common::command(Path::new("."), &line.split(' ').collect::<Vec<_>>());
            let done = command.stdout(out).output().unwrap();
            (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
        };
        assert_eq!(run(failing("left").unwrap()), (0, String::new()), "{line}");
        if let Some(full) = failing("full") {
            let (code, errors) = run(full);
            assert!(code == 74 && errors.starts_with("samcore: cannot write to stdout: "), "{line}: {code}: {errors}");
            assert_eq!(errors.lines().count(), 1, "{line}: {errors}");
        }
    }
}

#[test]
fn a_models_own_recipe_yields_to_the_config_file_and_that_to_flags() {
    let folder = Folder::with_images("recipe", 40, 20, 2);
    fs::write(folder.path("mine.toml"), "model = \"wrn-10-1\"\nlr = 0.02\nwarmup = 0.1\n").unwrap();
    let line = "train --data data --config mine.toml --warmup 0.3 --batch 8 --eval-batch 20 --steps 1 --out run";
    run(&folder.0, line).well();
    let config = fs::read_to_string(folder.path("run/config.toml")).unwrap();
    for (key, from) in [
        ("model = \"wrn-10-1\"", "the file"),
        ("warmup = 0.3", "a flag over the file"),
        ("lr = 0.02", "the file over the model"),
        ("epochs = 200", "the model over the default"),
        ("crop_padding = \"reflect\"", "the model over the default"),
        ("label_smoothing = 0.0", "the default"),
    ] {
        assert!(config.lines().any(|line| line == key), "{key} of {from}: {config}");
    }
}

#[test]
fn info_tells_of_the_machine_and_of_models() {
    let folder = Folder::new("info");
    let machine = run(&folder.0, "info --json").well().json();
    for key in ["samcore", "commit", "rustc", "cpu", "instructions", "os", "date", "device"] {
        assert!(machine[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {machine}");
    }
    assert!(machine["threads"].as_u64().is_some_and(|n| n > 0));
    let text = run(&folder.0, "info").well().stdout;
    for (list, names) in
        [("models", ["cnn"].as_slice()), ("optimizers", &["sgd", "sam"]), ("data_sets", &["fashion-mnist"])]
    {
        for name in names {
            assert!(machine[list].as_array().unwrap().contains(&(*name).into()), "{list}: {machine}");
            assert!(text.contains(&format!("\n  {name} ")), "{text}");
        }
    }
    let flags = "info --model cnn --classes 100 --channels 3 --size 32";
    let model = run(&folder.0, &format!("{flags} --json")).well().json();
    // By hand: convolutions 864 + 9,216 + 18,432 + 36,864, norms 2 * 192, fc1 4,096 * 128 + 128, fc2 128 * 100 + 100.
    assert_eq!((&model["parameters"], &model["input"]), (&603_076.into(), &serde_json::json!([32, 32, 3])));
    let layers = model["layers"].as_array().unwrap();
    let sum = |key: &str| layers.iter().map(|layer| layer[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("parameters"), sum("flops")), (603_076, model["forward_flops_per_image"].as_u64().unwrap()));
    let text = run(&folder.0, flags).well().stdout;
    assert!(text.contains("input 32x32x3, 100 classes") && text.contains("603076"), "{text}");
    for layer in layers {
        assert!(text.lines().any(|line| line.starts_with(layer["name"].as_str().unwrap())), "{text}");
    }
    // One number of parameters: that of these images, and not of those that the model is usually given.
    assert!(text.lines().take(2).all(|line| !line.contains("parameters")), "{text}");
    // Long names move the columns of all lines, the header's included.
    let text = run(&folder.0, "info --model shake-shake-26-2x32d").well().stdout;
    let rows: Vec<&str> = text.lines().skip_while(|l| !l.starts_with("layer")).take_while(|l| !l.is_empty()).collect();
    assert!(rows.len() > 50 && rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
    // Without sizes, a model is shown on the images that it is made for.
    let model = run(&folder.0, "info --model wrn-28-10 --json").well().json();
    assert_eq!((&model["parameters"], &model["input"]), (&36_479_194.into(), &serde_json::json!([32, 32, 3])));
    let listed = run(&folder.0, "info models --json").well().json();
    let listed = listed["models"].as_array().unwrap().clone();
    assert!(listed.iter().map(|m| m["name"].as_str().unwrap()).eq(samcore::models::names()));
    let wide = listed.iter().find(|m| m["name"] == "wrn-16-4").unwrap();
    assert_eq!((&wide["parameters"], &wide["recipe"]["epochs"]), (&2_748_890.into(), &200.into()));
    let text = run(&folder.0, "info models").well().stdout;
    assert!(text.contains("\nwrn-D-K            --crop 4 --crop-padding reflect --warmup 0 --epochs 200\n"), "{text}");
}

#[test]
fn check_proves_what_is_named_and_knows_no_other_names() {
    let folder = Folder::new("check");
    let result = run(&folder.0, "check relu add --json --threads 1").well().json();
    assert_eq!(result["passed"], true);
    let checks = result["checks"].as_array().unwrap();
    assert_eq!(checks.iter().map(|check| check["name"].as_str().unwrap()).collect::<Vec<_>>(), ["relu", "add"]);
    for check in checks {
        let cases = check["cases"].as_array().unwrap();
        assert!(!cases.is_empty() && cases.iter().all(|case| case["passed"] == true), "{check}");
    }
    let list = run(&folder.0, "check --list").well().stdout;
    let names = samcore::ops::OPS.iter().map(|row| row.name).chain(samcore::models::MODELS.iter().map(|m| m.name));
    for (name, line) in names.zip(list.lines()) {
        assert!(line.starts_with(&format!("{name} ")) && line.len() > name.len() + 8, "{line}");
    }
    run(&folder.0, "check wrn-11-1").refused(2, "wrn-11-1: D must be 6n + 4, such as 10 or 16");
    run(&folder.0, "check relu nosuch")
        .refused(2, "unknown operation or model 'nosuch'; known: conv2d, batch_norm, relu");
}

/// Winograd's methods and direct convolution train alike, but not to the same bits: `--exact` has the bits of direct
/// convolution, and the run says which method it took.
#[test]
fn exact_keeps_to_direct_convolution_and_a_method_can_be_named() {
    let folder = Folder::with_images("exact", 64, 32, 4);
    let train = |out: &str, flags: &str, method: Option<&str>| {
        let line = format!(
            "train --data data --model cnn --device cpu --batch 32 --eval-batch 32 --steps 2 --out {out} {flags}"
        );
        let mut command = common::command(&folder.0, &line.split_whitespace().collect::<Vec<_>>());
        if let Some(method) = method {
            command.env("SAMCORE_CONV", method);
        }
        common::Done::of(command.output().unwrap())
    };
    let bits = |out: &str| fs::read(folder.path(&format!("{out}/last.safetensors"))).unwrap();
    let told = |out: &str| fs::read_to_string(folder.path(&format!("{out}/env.json"))).unwrap();
    train("rule", "", None).well();
    train("exact", "--exact", None).well();
    train("direct", "", Some("direct")).well();
    train("f4", "", Some("f4")).well();
    assert!(bits("exact") == bits("direct"), "--exact is direct convolution");
    assert!(bits("rule") != bits("exact") && bits("f4") != bits("rule"), "each method rounds in its own way");
    assert!(told("exact").contains(" direct\"") && told("f4").contains(" f4\""), "{}", told("exact"));
    train("none", "", Some("f8")).refused(2, "unknown SAMCORE_CONV 'f8'");
    train("none", "--exact", Some("f4"))
        .refused(2, "--exact keeps to direct convolution, but SAMCORE_CONV=f4; unset one");
}

/// A stream that fails at every write, or that nobody reads any more.
fn failing(stream: &str) -> Option<Stdio> {
    match stream {
        "full" => File::options().write(true).open("/dev/full").ok().map(Stdio::from),
        _ => std::io::pipe().ok().map(|(_, writer)| writer.into()),
    }
}

#[test]
fn no_output_that_fails_ends_a_run_or_costs_a_result() {
    let folder = Folder::with_images("streams", 40, 20, 2);
    let settings = "--data data --model cnn --batch 20 --lr 0.01 --eval-batch 20";
    let train = format!("train {settings} --epochs 1");
    // What is run, and a file that it leaves at the end.
    let lines = [
        (format!("{train} --json --out DIR"), "last.safetensors"),
        (format!("{train} --json --bootstrap --out DIR"), "second/last.safetensors"),
        (format!("compare {settings} --epochs 1 --opt sgd --seeds 1 --json --out DIR"), "results.json"),
        ("study sharpness first/last.safetensors --images 20 --m 20 --json --out DIR".into(), "sharpness.csv"),
        ("bench relu --seconds 0.01 --threads 1 --json DIR".into(), ""),
        ("check relu --json".into(), ""),
        ("data noise data --rate 0.5 --out DIR".into(), "noise.json"),
        ("data verify data --json".into(), ""),
        ("eval first/last.safetensors --json".into(), ""),
    ];
    run(&folder.0, &format!("{train} --out first")).well();
    for (number, (line, leaves)) in lines.iter().enumerate() {
        for (stdout, stderr, code) in [("", "full", 0), ("left", "left", 0), ("full", "", 74)] {
            let place = format!("{number}{stdout}-{stderr}");
            let line = line.replace("DIR", &place);
            let what = format!("{line}, stdout '{stdout}', stderr '{stderr}'");
            let mut command = common::command(&folder.0, &line.split_whitespace().collect::<Vec<_>>());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            for (stream, to) in [(stdout, true), (stderr, false)] {
                match if stream.is_empty() { None } else { failing(stream) } {
                    Some(failing) if to => _ = command.stdout(failing),
                    Some(failing) => _ = command.stderr(failing),
                    None => {}
                }
            }
            let done = common::Done::of(command.spawn().unwrap().wait_with_output().unwrap());
            // Without /dev/full the streams are sound.
            let expected = if Path::new("/dev/full").exists() { code } else { 0 };
            assert_eq!(done.code, expected, "{what}: {}", done.stderr);
            if line.contains("DIR") || !leaves.is_empty() {
                assert!(folder.path(&place).join(leaves).exists(), "{what}");
            }
            if stdout.is_empty() && line.contains("--json") && !line.starts_with("bench") {
                done.json();
            }
            if stdout == "full" && stderr.is_empty() && expected != 0 {
                let last = done.stderr.lines().last().unwrap_or_default();
                assert!(last.starts_with("samcore: cannot write to stdout: "), "{what}: {}", done.stderr);
            }
        }
    }
}

#[test]
fn streams_that_are_closed_from_the_beginning_end_no_run() {
    let folder = Folder::with_images("closed", 40, 20, 2);
    let train = "train --data data --model cnn --batch 20 --lr 0.01 --eval-batch 20 --epochs 1 --json";
    for (number, redirected) in ["2>&-", ">&-", "<&- >&- 2>&-"].iter().enumerate() {
        let line = format!("exec {} {train} --out run{number} {redirected}", env!("CARGO_BIN_EXE_samcore"));
        let done = Command::new("sh").args(["-c", &line]).current_dir(&folder.0).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "{redirected}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(folder.path(&format!("run{number}/last.safetensors")).exists(), "{redirected}");
        assert_eq!(
            done.stdout.is_empty(),
            redirected.contains(" >&-") || redirected.starts_with(">&-"),
            "{redirected}"
        );
    }
}

/// Kernels are code: whoever could put a library in place of one of ours would have it run by this user.
#[test]
fn the_emulator_loads_only_what_this_user_alone_can_have_written() {
    if !samcore::device::cuda::emulator::present_or_skip() {
        return;
    }
    let folder = Folder::new("kernels");
    let (cache, temporary) = (folder.path("cache/emulator"), folder.path("tmp"));
    fs::create_dir(&temporary).unwrap();
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let check = |variable: &str, value: &Path| {
        let mut command = common::command(&folder.0, &["check", "relu", "--device", "emu", "--threads", "1"]);
        for name in ["SAMCORE_CACHE", "XDG_CACHE_HOME", "HOME"] {
            command.env_remove(name);
        }
        command.env("TMPDIR", &temporary).env(variable, value);
        common::Done::of(command.output().unwrap()).well().stderr
    };
    let root = folder.path("cache");
    assert_eq!(check("SAMCORE_CACHE", &root), "");
    assert_eq!((mode(&root), mode(&cache)), (0o700, 0o700));
    let names = common::names_in(&cache);
    let sound = common::files(&cache);
    assert!(names.len() >= 2 && names.iter().all(|name| name.ends_with(".so")), "{names:?}");

    // Torn, as by a power cut: compiled again without a word.
    names.iter().for_each(|name| File::options().write(true).open(cache.join(name)).unwrap().set_len(100).unwrap());
    assert_eq!(check("SAMCORE_CACHE", &root), "");
    let lengths = |files: &[(String, Vec<u8>)]| files.iter().map(|file| file.1.len()).collect::<Vec<_>>();
    assert_eq!(lengths(&common::files(&cache)), lengths(&sound));

    // A file that others can write is replaced; in a folder that they can write nothing is used, and nothing kept.
    set_mode(&cache.join(&names[0]), 0o666);
    let told = check("SAMCORE_CACHE", &root);
    assert!(told.contains("not used, compiled again: ") && told.contains("(mode 0666)"), "{told}");
    assert_ne!(mode(&cache.join(&names[0])), 0o666);
    set_mode(&cache, 0o777);
    let told = check("SAMCORE_CACHE", &root);
    assert!(told.starts_with("compiled kernels are not kept: ") && told.contains("(mode 0777)"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(common::names_in(&temporary).is_empty(), "{:?}", common::names_in(&temporary));

    // Without a home: a folder of this user's among the temporary ones, made for nobody else, or none.
    assert_eq!(check("UNUSED", &root), "");
    let places = common::names_in(&temporary);
    let own = temporary.join(&places[0]);
    assert!(places.len() == 1 && places[0].starts_with("samcore-") && mode(&own) == 0o700, "{places:?}");
    fs::remove_dir_all(&own).unwrap();
    std::os::unix::fs::symlink(&root, &own).unwrap();
    let told = check("UNUSED", &root);
    assert!(told.starts_with("compiled kernels are not kept: ") && told.contains("is a link"), "{told}");
}

#[test]
fn results_go_into_pipes_and_through_links_which_stay_what_they_are() {
    let folder = Folder::with_images("pipes", 40, 20, 2);
    let made = Command::new("mkfifo").arg(folder.path("pipe")).status();
    if !made.is_ok_and(|status| status.success()) {
        return;
    }
    run(&folder.0, "train --data data --model cnn --batch 20 --epochs 1 --lr 0.01 --eval-batch 20 --out run").well();
    fs::create_dir(folder.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere/file", folder.path("link")).unwrap();
    let bench = "bench --step cnn --batch 2 --opt sgd --seconds 0.01 --threads 1";
    for (line, begins) in [
        ("study sharpness run/last.safetensors --images 20 --m 20 --csv".to_string(), "kind,m"),
        ("bench relu --seconds 0.01 --threads 1 --json".into(), "{"),
        (format!("{bench} --profile"), "{"),
    ] {
        let flag = |place: &str| {
            if line.ends_with("--profile") { format!("{line}={place}") } else { format!("{line} {place}") }
        };
        let pipe = folder.path("pipe");
        let reader = std::thread::spawn(move || fs::read_to_string(pipe).unwrap());
        run(&folder.0, &flag("pipe")).well();
        assert!(reader.join().unwrap().starts_with(begins), "{line}");
        run(&folder.0, &flag("link")).well();
        assert!(fs::read_to_string(folder.path("elsewhere/file")).unwrap().starts_with(begins), "{line}");
        assert!(fs::symlink_metadata(folder.path("link")).unwrap().is_symlink(), "{line}");
        assert!(fs::symlink_metadata(folder.path("pipe")).unwrap().file_type().is_fifo(), "{line}");
    }
    // A run whose checkpoints lie on another disk, and noisy data through a link.
    std::os::unix::fs::symlink("elsewhere/noisy", folder.path("noisy")).unwrap();
    run(&folder.0, "data noise data --rate 0.5 --out noisy").well();
    assert!(folder.path("elsewhere/noisy/noise.json").exists());
    fs::rename(folder.path("run/last.safetensors"), folder.path("elsewhere/last")).unwrap();
    std::os::unix::fs::symlink("../elsewhere/last", folder.path("run/last.safetensors")).unwrap();
    run(&folder.0, "eval run/last.safetensors").well();
}

#[test]
fn names_out_of_files_reach_no_terminal_as_commands() {
    let folder = Folder::with_images("names", 40, 20, 2);
    let evil = "a\x1b[2J\u{9b}1m\u{202e}\r\nb";
    let data = folder.path(evil);
    fs::rename(folder.path("data"), &data).unwrap();
    fs::write(folder.path("evil.toml"), "\"l\\u001b[31mr\\n\" = 1\n").unwrap();
    let tensor = "conv1\\u001b]0;title\\u0007\\n.weight";
    let header = format!("{{\"{tensor}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}}}");
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat();
    fs::write(folder.path("evil.safetensors"), bytes).unwrap();
    let train = ["train", "--data", evil, "--model", "cnn", "--steps", "1", "--batch", "20", "--quiet"];
    for arguments in [
        &["data", "verify", evil][..],
        &["data", "noise", evil, "--rate", "0.5", "--out", "out\x1b[m\n"],
        &["eval", "no\x1b[mfile\n"],
        &["eval", "evil.safetensors"],
        &["train", "--config", "evil.toml"],
        &["train", "--resume", "no\x1b[mrun"],
        &["train", "--opt", "s\x1b[mam\n"],
        &["bench", "relu", "--seconds", "0.01", "--threads", "1", "--json", "no\x1b[m/x"],
        &[&train[..], &["--init", "evil.safetensors"]].concat(),
        &[&train[..], &["--out", "run\x1b[m\n"]].concat(),
    ] {
        let done = common::Done::of(common::command(&folder.0, arguments).output().unwrap());
        let shown = done.stdout + &done.stderr;
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{arguments:?}: {shown:?}");
        assert!(done.code == 0 || done.stderr.lines().count() == 1, "{arguments:?}: {}", done.stderr);
    }
}

/// Memory is planned before it is taken: what does not fit is refused with the need, what there is, and what would fit.
#[test]
fn a_run_that_needs_more_memory_than_there_is_says_which_batch_would_fit() {
    let folder = Folder::with_images("memory", 200, 150, 1);
    let limited = |kilobytes: u32, line: &str| {
        let script = format!("ulimit -v {kilobytes}; exec \"$0\" {line}");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_samcore")]).current_dir(&folder.0).stdin(Stdio::null());
        common::Done::of(command.output().unwrap())
    };
    let train = "train --data data --threads 1 --quiet --out run";
    for (flags, advice, other) in [
        ("--model wrn-16-4 --batch 200 --eval-batch 16", "about --batch ", "eval-batch"),
        ("--model wrn-16-4 --batch 2 --eval-batch 4000", "about --eval-batch ", "--accumulate"),
    ] {
        let done = limited(500_000, &format!("{train} {flags}"));
        assert!(!done.stderr.contains(other), "{flags}: {}", done.stderr);
        assert!(
            done.stderr.contains("of memory are needed, ") && done.stderr.contains("(ulimit -v)"),
            "{}",
            done.stderr
        );
        done.refused(69, advice);
        assert!(!folder.path("run").exists(), "{flags}");
    }
    // Too little for anything is one line as well, whatever finds it out.
    for kilobytes in [60_000, 80_000, 100_000, 150_000] {
        let done = limited(kilobytes, train);
        assert_eq!((done.code, done.stderr.lines().count()), (69, 1), "{kilobytes}: {}", done.stderr);
    }
}
