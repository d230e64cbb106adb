//! Code that the Rust peers share: flags, the timing of steps, and the line of JSON that they print, as `common.py` has them.

use std::time::Instant;

pub const RHO: f64 = 0.05;
pub const LR: f64 = 0.1;
pub const MOMENTUM: f64 = 0.9;
pub const DECAY: f64 = 5e-4;
const WARM_UP: usize = 3;

pub struct Args {
    /// cnn, wrn-16-4 or wrn-28-10.
    pub model: String,
    /// sgd, sam or eval.
    pub opt: String,
    pub batch: usize,
    pub seconds: f64,
}

fn stop(message: String) -> ! {
    eprintln!("{message}");
    std::process::exit(2)
}

/// The command line: `--model cnn --opt sam --batch 128 --seconds 10`, in any order.
pub fn args() -> Args {
    let mut args = Args { model: "cnn".into(), opt: "sam".into(), batch: 128, seconds: 10.0 };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().unwrap_or_else(|| stop(format!("{flag} needs a value")));
        let wrong = || -> ! { stop(format!("{flag} cannot be '{value}'")) };
        match flag.as_str() {
            "--model" => args.model = value,
            "--opt" if ["sgd", "sam", "eval"].contains(&&value[..]) => args.opt = value,
            "--batch" => args.batch = value.parse().unwrap_or_else(|_| wrong()),
            "--seconds" => args.seconds = value.parse().unwrap_or_else(|_| wrong()),
            _ => wrong(),
        }
    }
    if forward_flops(&args.model) == 0 {
        stop(format!("--model cannot be '{}'", args.model));
    }
    args
}

/// Returns the forward cost of one image, a multiply-add of convolutions and linear layers counted as two; 0 for an unknown model.
fn forward_flops(model: &str) -> u64 {
    match model {
        "cnn" => 37_383_680,
        "wrn-16-4" => 785_224_704,
        "wrn-28-10" => 10_486_657_536,
        _ => 0,
    }
}

/// Channels in and out and stride of each block of WRN-depth-width.
pub fn wide_blocks(model: &str) -> Vec<(usize, usize, usize)> {
    let (depth, width) = if model == "wrn-16-4" { (16, 4) } else { (28, 10) };
    let (mut inputs, mut blocks) = (16, vec![]);
    for group in 0..3 {
        for block in 0..(depth - 4) / 6 {
            let outputs = (16 * width) << group;
            blocks.push((inputs, outputs, if group > 0 && block == 0 { 2 } else { 1 }));
            inputs = outputs;
        }
    }
    blocks
}

fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
}

/// Times `step` and prints the result. Threads come from RAYON_NUM_THREADS.
pub fn measure<E: std::fmt::Debug>(args: &Args, peer: &str, version: &str, mut step: impl FnMut() -> Result<(), E>) {
    let mut timed = || {
        let begun = Instant::now();
        if let Err(e) = step() {
            stop(format!("a step failed: {e:?}"));
        }
        begun.elapsed().as_secs_f64()
    };
    let warm_up: f64 = (0..WARM_UP).map(|_| timed()).sum();
    let (begun, mut times) = (Instant::now(), vec![]);
    while times.len() < 3 || begun.elapsed().as_secs_f64() < args.seconds {
        times.push(timed());
    }
    times.sort_by(f64::total_cmp);
    let n = times.len();
    let median = (times[(n - 1) / 2] + times[n / 2]) / 2.0;
    let Args { model, opt, batch, .. } = args;
    let rate = |seconds: f64| *batch as f64 / seconds;
    let passes = match &opt[..] {
        "eval" => 1.0,
        "sgd" => 3.0,
        _ => 6.0,
    };
    let flops = forward_flops(model);
    let threads = std::env::var("RAYON_NUM_THREADS").ok().and_then(|v| v.parse::<usize>().ok());
    let or_null = |value: Option<u64>| value.map_or("null".to_string(), |v| v.to_string());
    println!(
        "{{\"images_per_s\": {{\"median\": {:.2}, \"min\": {:.2}, \"max\": {:.2}}}, \"ms_per_step\": {:.2}, \
         \"steps\": {n}, \"warmup_s\": {warm_up:.2}, \"forward_flops_per_image\": {flops}, \"gflops\": {:.1}, \
         \"peak_rss_bytes\": {}, \"config\": {{\"peer\": \"{peer}\", \"version\": \"{version}\", \
         \"model\": \"{model}\", \"opt\": \"{opt}\", \"batch\": {batch}, \"threads\": {}, \"dtype\": \"f32\"}}}}",
        rate(median),
        rate(times[n - 1]),
        rate(times[0]),
        1e3 * median,
        flops as f64 * passes * rate(median) / 1e9,
        or_null(peak_rss_bytes()),
        or_null(threads.map(|t| t as u64)),
    );
}
