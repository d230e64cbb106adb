//! A profile as a file that Perfetto (ui.perfetto.dev) and Chrome's trace viewer open: the trace event format in JSON.

use super::limits::Limits;
use super::profile::{Profile, Profiled};
use super::rounded;
use serde_json::{Value, json};

/// Steps that are shown, one behind the other.
const STEPS: usize = 5;
/// Tracks of a process.
const STEP_TRACK: u32 = 1;
const CALL_TRACK: u32 = 2;

/// Events of any number of profiles, a process each.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    events: Vec<Value>,
    processes: u32,
}

impl Trace {
    /// Adds the first steps of a profile. A call begins where the one before it ends, and a step lasts as long as its calls.
    pub fn add(&mut self, profile: &Profile, limits: &Limits) {
        self.processes += 1;
        let pid = self.processes;
        let name = |what: &str, tid: u32, name: &str| json!({"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}});
        let process = format!("{}, {}", profile.work.name(), limits.device);
        self.events.extend([
            name("process_name", STEP_TRACK, &process),
            name("thread_name", STEP_TRACK, "steps"),
            name("thread_name", CALL_TRACK, "calls"),
        ]);
        let mut at = 0;
        for (number, times) in profile.steps.iter().take(STEPS).enumerate() {
            let begun = at;
            let mut calls = Vec::with_capacity(times.len());
            for (call, seconds) in profile.calls.iter().zip(times) {
                let nanoseconds = (1e9 * seconds).round() as u64;
                let args = arguments(call, *seconds, limits);
                calls.push(complete([pid, CALL_TRACK], &call.time.part, call.kind, [at, nanoseconds], args));
                at += nanoseconds;
            }
            let args = json!({"calls": calls.len(), "images": profile.work.batch});
            let step = format!("step {}", number + 1);
            self.events.push(complete([pid, STEP_TRACK], &step, "step", [begun, at - begun], args));
            self.events.extend(calls);
        }
    }

    /// The whole file, an event a line.
    pub fn to_json(&self) -> String {
        let events: Vec<String> = self.events.iter().map(Value::to_string).collect();
        format!("{{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n{}\n]}}\n", events.join(",\n"))
    }
}

/// An event with beginning and length in nanoseconds; the format counts in microseconds.
fn complete([pid, tid]: [u32; 2], name: &str, cat: &str, [ts, dur]: [u64; 2], args: Value) -> Value {
    let micro = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    json!({"ph": "X", "name": name, "cat": cat, "pid": pid, "tid": tid, "ts": micro(ts), "dur": micro(dur), "args": args})
}

fn arguments(call: &Profiled, seconds: f64, limits: &Limits) -> Value {
    let (least, limit) = limits.least_seconds(call.time.flops, call.time.bytes);
    json!({
        "shape": call.shape,
        "reads": call.reads,
        "writes": call.writes,
        "flops": call.time.flops,
        "bytes": call.time.bytes,
        "gflops": rounded(call.time.flops as f64 / seconds / 1e9),
        "gb_per_s": rounded(call.time.bytes as f64 / seconds / 1e9),
        "limit": limit,
        "share_of_limit": rounded(least / seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::super::profile::tests::example;
    use super::super::steps::Task;
    use super::*;

    #[test]
    fn calls_follow_each_other_within_their_step_and_each_work_is_a_process() {
        let (limits, mut trace) = (Limits::example(), Trace::default());
        let profiles = [example(Task::Train("sgd".into())), example(Task::Evaluate)];
        profiles.iter().for_each(|profile| trace.add(profile, &limits));
        let whole: Value = serde_json::from_str(&trace.to_json()).unwrap();
        let events = whole["traceEvents"].as_array().unwrap();
        let nanoseconds = |event: &Value, key: &str| (1e3 * event[key].as_f64().unwrap()).round() as u64;
        for (pid, profile) in (1..).zip(&profiles) {
            let of = |ph: &str, tid: u32| -> Vec<&Value> {
                events.iter().filter(|e| e["ph"] == ph && e["pid"] == pid && e["tid"] == tid).collect()
            };
            let (steps, calls) = (of("X", STEP_TRACK), of("X", CALL_TRACK));
            assert_eq!(steps.len(), profile.steps.len());
            assert_eq!(calls.len(), steps.len() * profile.calls.len());
            for track in [&steps, &calls] {
                let ends = track.iter().map(|e| nanoseconds(e, "ts") + nanoseconds(e, "dur"));
                let begins = track.iter().skip(1).map(|e| nanoseconds(e, "ts"));
                assert!(ends.zip(begins).all(|(end, next)| end <= next), "events overlap");
            }
            for (step, calls) in steps.iter().zip(calls.chunks(profile.calls.len())) {
                let sum: u64 = calls.iter().map(|e| nanoseconds(e, "dur")).sum();
                assert!(sum <= nanoseconds(step, "dur"), "{step}");
                let (first, last) = (nanoseconds(step, "ts"), nanoseconds(step, "ts") + nanoseconds(step, "dur"));
                let inside = |e: &&Value| first <= nanoseconds(e, "ts") && nanoseconds(e, "ts") <= last;
                assert!(calls.iter().all(inside), "{step}");
            }
            let name =
                of("M", STEP_TRACK).iter().find(|e| e["name"] == "process_name").unwrap()["args"]["name"].clone();
            assert!(name.as_str().unwrap().starts_with(&profile.work.name()), "{name}");
            assert_eq!(of("M", CALL_TRACK)[0]["args"]["name"], "calls");
        }
    }
}
