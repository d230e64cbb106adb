//! The driver for NVIDIA's GPUs, held to what it asks of CUDA's library: against a fake one that runs on the CPU, and
//! without any. What a real one makes of it, only a GPU can tell.

use samcore::device::cuda::driver::{Arg, Driver, Grid, MapShape, Module};
use samcore::device::cuda::nvidia::{self, Nvidia};
use samcore::device::cuda::nvrtc;
use samcore::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const SCALE: Module = Module { file: "scale.cu", defines: Vec::new() };
const WHOLE: Grid = Grid { blocks: [2, 1, 1], threads: 64, shared: 0 };

type Scenario = fn() -> Result<()>;
type Environment<'a> = &'a [(&'a str, &'a str)];

/// Uses of a GPU in a process of its own, by name. They print, and the tests below read it.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("everything", everything),
    ("wrong launches", wrong_launches),
    ("memory", memory),
    ("refused", refused),
    ("fault", fault),
    ("replayed fault", replayed_fault),
    ("open", || Nvidia::new(0).map(drop)),
    ("third", || Nvidia::new(2).map(drop)),
];

/// Uses all of the driver.
fn everything() -> Result<()> {
    println!("{} GPUs, {}", nvidia::count()?, nvidia::name(1)?);
    let mut gpu = Nvidia::new(1)?;
    println!("{:?}", gpu.properties());
    let scale = gpu.load(&SCALE, "scale")?;
    assert_eq!(gpu.load(&SCALE, "scale")?, scale, "loaded once");
    let x = gpu.alloc(400)?;
    let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
    gpu.write(x, bytemuck::cast_slice(&values))?;

    // Three times 2 in a graph that is replayed twice, and a 10 posted in between.
    gpu.capture()?;
    gpu.fill(x + 4, 0, 4)?;
    for i in 0..3 {
        let args = [Arg::Pointer(x), Arg::I32(100), Arg::F32(2.0)];
        // SAFETY: x has 100 elements.
        unsafe { gpu.launch(scale, Grid { shared: 100_000 * (i / 2), ..WHOLE }, &args, "double")? };
    }
    assert!(gpu.read(x, &mut [0; 4]).unwrap_err().to_string().contains("read between capture and end_capture"));
    let captured = gpu.end_capture()?;
    gpu.replay(captured)?;
    let before = gpu.fetch(x + 8, 4)?;
    gpu.post(x + 8, &10f32.to_le_bytes())?;
    gpu.replay(captured)?;
    let after = gpu.fetch(x + 8, 4)?;
    let mut bytes = [0; 4];
    for fetch in [before, after] {
        gpu.take(fetch, &mut bytes)?;
        println!("fetched {}", f32::from_le_bytes(bytes));
    }
    println!("{}", gpu.take(after, &mut bytes).unwrap_err());
    let mut values = [0f32; 4];
    gpu.read(x, bytemuck::cast_slice_mut(&mut values))?;
    println!("read {values:?}");

    // A hundred posts pass through fewer slots.
    for i in 0..100u32 {
        gpu.post(x + 4 * u64::from(i), &(i as f32).to_le_bytes())?;
    }
    let mut all = [0f32; 100];
    gpu.read(x, bytemuck::cast_slice_mut(&mut all))?;
    assert!(all.iter().enumerate().all(|(i, v)| *v == i as f32), "{all:?}");

    let shape = MapShape { dims: vec![64, 7], strides: vec![128], tile: vec![64, 8], bf16: true };
    let map = gpu.tensor_map(x, &shape)?;
    let first_word = gpu.load(&SCALE, "first_word")?;
    // SAFETY: one word is written.
    unsafe { gpu.launch(first_word, WHOLE, &[Arg::Pointer(x), Arg::Map(map), Arg::U32(100)], "word")? };
    let mut word = [0u32];
    gpu.read(x, bytemuck::cast_slice_mut(&mut word))?;
    println!("word {}", word[0]);
    println!("time {}", gpu.time(captured, 3)?);
    let other = gpu.alloc(8)?;
    gpu.free(other)?;
    println!("{}", gpu.free(other).unwrap_err().to_string().replace(&format!("{other:#x}"), "X"));
    Ok(())
}

fn wrong_launches() -> Result<()> {
    let mut gpu = Nvidia::new(0)?;
    let x = gpu.alloc(400)?;
    let scale = gpu.load(&SCALE, "scale")?;
    let right = [Arg::Pointer(x), Arg::I32(100), Arg::F32(2.0)];
    let (short, wide) = ([right[0], right[1]], [right[0], right[0], right[2]]);
    let grids = [
        (WHOLE, &short[..]),
        (WHOLE, &wide),
        (Grid { threads: 1024, ..WHOLE }, &right),
        (Grid { blocks: [1, 0, 1], ..WHOLE }, &right),
        (Grid { shared: 300_000, ..WHOLE }, &right),
    ];
    for (grid, args) in grids {
        // SAFETY: none is launched.
        println!("{}", unsafe { gpu.launch(scale, grid, args, "conv1 forward") }.unwrap_err());
    }
    println!("{}", gpu.load(&SCALE, "missing").unwrap_err());
    for (at, bytes) in [(x + 300, 101), (x - 1, 1), (x + 500, 4)] {
        assert!(gpu.write(at, &vec![0; bytes]).unwrap_err().to_string().contains("not within one allocation"));
    }
    assert!(gpu.post(x, &vec![0; 65537]).is_err());
    let unfit = MapShape { dims: vec![64, 7], strides: vec![100], tile: vec![64, 8], bf16: false };
    println!("{}", gpu.tensor_map(x, &unfit).unwrap_err());
    Ok(())
}

fn memory() -> Result<()> {
    let mut gpu = Nvidia::new(0)?;
    gpu.alloc(4 << 20)?;
    gpu.alloc(6 << 20).map(drop)
}

/// A launch that the driver does not take, which costs nothing else.
fn refused() -> Result<()> {
    let mut gpu = Nvidia::new(0)?;
    let x = gpu.alloc(4)?;
    let scale = gpu.load(&SCALE, "scale")?;
    // SAFETY: x has one element.
    let launched = unsafe { gpu.launch(scale, WHOLE, &[Arg::Pointer(x), Arg::I32(1), Arg::F32(1.0)], "conv1 forward") };
    gpu.write(x, &[0; 4])?;
    launched
}

/// Launches the kernel that goes wrong, and waits for it.
fn fault() -> Result<()> {
    let mut gpu = Nvidia::new(0)?;
    let x = gpu.alloc(4)?;
    let faulty = gpu.load(&SCALE, "faulty")?;
    // SAFETY: the fake writes nothing.
    let launched = unsafe { gpu.launch(faulty, WHOLE, &[Arg::Pointer(x)], "conv1 forward") };
    let e = launched.and_then(|()| gpu.sync()).unwrap_err();
    // Whoever calls next hears of the same.
    assert_eq!(gpu.alloc(4).unwrap_err(), e);
    assert_eq!(gpu.sync().unwrap_err(), e);
    Err(e)
}

fn replayed_fault() -> Result<()> {
    let mut gpu = Nvidia::new(0)?;
    let x = gpu.alloc(4)?;
    let (scale, faulty) = (gpu.load(&SCALE, "scale")?, gpu.load(&SCALE, "faulty")?);
    gpu.capture()?;
    // SAFETY: x has one element.
    unsafe {
        gpu.launch(scale, WHOLE, &[Arg::Pointer(x), Arg::I32(1), Arg::F32(1.0)], "first")?;
        gpu.launch(faulty, WHOLE, &[Arg::Pointer(x)], "second")?;
    }
    let captured = gpu.end_capture()?;
    gpu.replay(captured)?;
    gpu.sync()
}

/// Not a test: what the tests run in a process of its own, which can load another library.
#[test]
#[ignore = "a part of the other tests"]
fn scenario() {
    let Ok(name) = std::env::var("SAMCORE_TEST_SCENARIO") else { return };
    let (_, run) = SCENARIOS.iter().find(|s| s.0 == name).unwrap();
    let ended: std::result::Result<(), Error> = run();
    match ended {
        Ok(()) => println!("ended well"),
        Err(e) => println!("ended with {}: {e}", e.exit_code()),
    }
}

/// The fake library, built once; None where there is no C++ compiler.
fn fake() -> Option<PathBuf> {
    static BUILT: std::sync::OnceLock<Option<PathBuf>> = std::sync::OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake_cuda");
    std::fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver/fake.cpp");
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror"]);
    match compiler.arg(source).arg("-o").arg(folder.join("libcuda.so")).output() {
        Ok(done) if done.status.success() => Some(folder),
        Ok(done) => panic!("{}", String::from_utf8_lossy(&done.stderr)),
        Err(e) => {
            assert!(std::env::var_os("SAMCORE_REQUIRE_CXX").is_none(), "c++ is required: {e}");
            println!("skipped: no C++ compiler ({e})");
            None
        }
    }
}

/// Returns a scenario's output and its calls, on the fake library with that fault; None where it cannot be compiled.
fn run(scenario: &str, fault: &str, environment: Environment<'_>) -> Option<(String, Vec<String>)> {
    let folder = fake().filter(|_| nvrtc::present_or_skip())?;
    let log = folder.join(format!("{scenario} {fault} {}", environment.len()));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "scenario", "--ignored", "--nocapture"]);
    command.env("SAMCORE_TEST_SCENARIO", scenario).env("FAKE_CUDA", fault).env("FAKE_CUDA_LOG", &log);
    command.env("LD_LIBRARY_PATH", &folder).env("SAMCORE_CACHE", folder.join("cache"));
    command.env("SAMCORE_KERNELS", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver"));
    let done = command.env_remove("CUDA_LAUNCH_BLOCKING").envs(environment.iter().copied()).output().unwrap();
    let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8_lossy(&done.stderr).into_owned());
    assert!(done.status.success(), "{out}{err}");
    let calls = std::fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect();
    Some((out, calls))
}

#[test]
fn a_step_is_captured_replayed_and_read_in_order_and_all_is_given_back() {
    let Some((out, calls)) = run("everything", "", &[]) else { return };
    for line in [
        "2 GPUs, Fake GPU",
        "Properties { name: \"Fake GPU (sm_90a)\", arch: 90, processors: 4 }",
        // The third of 0, 1, 2 ..: eight times 2, and eight times the 10 that was posted after the first replay.
        "fetched 16",
        "fetched 80",
        "take: no fetch of number 1 and 4 bytes is under way",
        "read [0.0, 0.0, 80.0, 192.0]",
        "word 107",
        "time 0.002",
        "free: nothing is allocated at X",
        "ended well",
    ] {
        assert!(out.lines().any(|l| l == line), "{line}: {out}");
    }
    for call in [
        "retain 1",
        "stream 1",
        "capture 2",
        "attribute 8 of scale is 100000",
        "scale 2x1x1 by 64, 100000",
        "launch graph of 4",
        "map 9: 2, 64 7 by 64 8, stride 128, step 1, 0 3 2 0",
        "release 1, 0 things left",
    ] {
        assert!(calls.iter().any(|c| c == call), "{call}: {calls:#?}");
    }
    assert!(!calls.iter().any(|c| c.contains("NOT")), "{calls:#?}");
    // From the capture's end to where the host first wants a value, nothing waits for the device.
    let at = |call: &str| calls.iter().position(|c| c == call).unwrap();
    let step = &calls[at("end capture")..at("wait for event")];
    assert!(!step.iter().any(|c| c == "wait") && step.iter().filter(|c| *c == "launch graph of 4").count() == 2);
}

#[test]
fn a_launch_that_does_not_fit_is_refused_with_its_label_and_what_would_fit() {
    let Some((out, calls)) = run("wrong launches", "", &[]) else { return };
    for message in [
        "conv1 forward: scale of scale.cu: 2 arguments, the kernel takes 3",
        "conv1 forward: scale of scale.cu: argument 1 has 8 bytes, the kernel's has 4",
        "conv1 forward: scale of scale.cu: 1024 threads, of which a block can have up to 512",
        "conv1 forward: scale of scale.cu: a grid of [1, 0, 1] blocks, which may have 1 to 65535 in y and z",
        "conv1 forward: scale of scale.cu: 300000 bytes of shared memory, of which this GPU has 232448 a block",
        "missing of scale.cu: CUDA_ERROR_FAKE (500): in words",
        "strides are multiples of 16",
        "ended well",
    ] {
        assert!(out.contains(message), "{message}: {out}");
    }
    assert!(!calls.iter().any(|c| c.starts_with("scale ")), "{calls:?}");
}

#[test]
fn what_is_missing_or_breaks_is_one_message_with_its_exit_code() {
    let faulty = "2x1x1 blocks of 64 threads, 0 bytes: CUDA_ERROR_ILLEGAL_ADDRESS (700): in words";
    let blocking = [("CUDA_LAUNCH_BLOCKING", "1")];
    let absent = [("SAMCORE_NVRTC", "/nowhere/libnvrtc.so")];
    type Row<'a> = (&'a str, &'a str, Environment<'a>, String);
    let rows: [Row<'_>; 9] = [
        ("open", "", &absent, "69: SAMCORE_NVRTC=/nowhere/libnvrtc.so cannot be loaded: ".into()),
        ("open", "none", &[], "69: no NVIDIA GPU on this machine (its driver sees none;".into()),
        ("third", "", &[], "69: --device cuda:2: there are 2 GPUs, 0 and 1".into()),
        ("open", "old", &[], "69: the driver is for CUDA 12.0, NVRTC is 13.".into()),
        (
            "memory",
            "small",
            &[],
            "69: out of device memory: 6 MiB are needed, and Fake GPU (sm_90a) has 5 of its 8 MiB free".into(),
        ),
        ("refused", "refused", &[], "70: conv1 forward: scale of scale.cu, 2x1x1 blocks of 64 threads, 0 bytes: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (701)".into()),
        (
            "fault",
            "faulty",
            &[],
            "70: wait for the device: CUDA_ERROR_ILLEGAL_ADDRESS (700): in words (a kernel launched before may".into(),
        ),
        ("fault", "faulty", &blocking, format!("70: conv1 forward: faulty of scale.cu, {faulty}")),
        ("replayed fault", "faulty", &blocking, format!("70: second: faulty of scale.cu, {faulty}")),
    ];
    for (scenario, fault, environment, message) in rows {
        let Some((out, calls)) = run(scenario, fault, environment) else { return };
        assert!(out.contains(&format!("ended with {message}")), "{scenario}, {fault}: {message}: {out}");
        let left = calls.iter().find(|c| c.starts_with("release")).is_none_or(|c| c.ends_with(", 0 things left"));
        assert!(left && !calls.iter().any(|c| c.contains("NOT")), "{scenario}, {fault}: {calls:#?}");
    }
}

#[test]
fn without_a_driver_there_is_one_message_that_says_what_to_do() {
    let Err(e) = Nvidia::new(0) else { return };
    let driver =
        ["/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib64/libcuda.so.1"].iter().any(|p| Path::new(p).exists());
    assert_eq!(e.exit_code(), 69, "{e}");
    if !driver {
        let words = "(libcuda.so.1 is not there): install one, or use --device cpu, or --device emu";
        assert!(e.to_string().starts_with("no NVIDIA driver on this machine") && e.to_string().contains(words), "{e}");
    }
}
