//! Software and machine of a run: env.json.

use serde_json::{Value, json};

/// The environment of this process. `instructions` names the CPU instruction set in use, `threads` the pool's threads.
pub fn environment(instructions: &str, threads: usize) -> Value {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    json!({
        "samcore": env!("CARGO_PKG_VERSION"),
        "commit": env!("SAMCORE_COMMIT"),
        "rustc": env!("SAMCORE_RUSTC"),
        "cpu": cpu_model(),
        "instructions": instructions,
        "threads": threads,
        "os": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "date": crate::clock::utc_iso8601(),
        "arguments": arguments,
    })
}

/// The CPU's name as the system has it, or "unknown".
pub fn cpu_model() -> String {
    let listing = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    model_in(&listing).unwrap_or("unknown").to_string()
}

/// Linux names the model once for each core: "model name : …".
fn model_in(listing: &str) -> Option<&str> {
    let named = listing.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == "model name");
    named.map(|(_, model)| model.trim()).filter(|model| !model.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_named_where_the_system_names_it() {
        let listing = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: A CPU: 3 GHz\n\nprocessor\t: 1\nmodel name\t: B\n";
        assert_eq!(model_in(listing), Some("A CPU: 3 GHz"));
        assert_eq!(model_in("processor: 0\n"), None);
        assert_eq!(model_in("model name:"), None);
    }

    #[test]
    fn every_entry_has_a_value() {
        let environment = environment("avx2", 3);
        for (key, value) in environment.as_object().unwrap() {
            assert!(!value.is_null() && value != "", "{key} is empty");
        }
        assert_eq!((&environment["threads"], &environment["instructions"]), (&json!(3), &json!("avx2")));
        assert!(environment["rustc"].as_str().unwrap().starts_with("rustc 1."), "{environment}");
    }
}
