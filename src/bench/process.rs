//! Figures of this process from the system; None where it has none.

use std::fs;
use std::time::Duration;

/// The most memory that the process has had in use, in bytes, since its start or [`reset_peak`].
pub fn peak_rss_bytes() -> Option<u64> {
    peak_in(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Begins a new peak at what is in use now; false where the system cannot.
pub fn reset_peak() -> bool {
    // proc(5): 5 resets the peak resident set size.
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Time since the process was started, to 10 ms.
pub fn age() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    age_in(&stat, &uptime)
}

/// "VmHWM:   12345 kB"
fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Ticks a second of the times in /proc, on every Linux that Rust's std runs on.
const TICKS: f64 = 100.0;

/// Field 22 of stat is the start in ticks since the machine's; the second field, a name in brackets, may hold anything.
fn age_in(stat: &str, uptime: &str) -> Option<Duration> {
    let started: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let now: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(now - started / TICKS).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_tables_are_read_as_they_are_written() {
        assert_eq!(peak_in("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        for wrong in ["", "VmHWM:", "VmHWM: x kB", "VmHWM: 18446744073709551615 kB", "VmHWM: 1 MB"] {
            assert_eq!(peak_in(wrong), None, "{wrong}");
        }
        let fields = (3..22).map(|_| "0 ").collect::<String>();
        let stat = format!("7 (a ) name) {fields}250 0 0");
        assert_eq!(age_in(&stat, "4.75 1.0\n"), Some(Duration::from_millis(2250)));
        assert_eq!(age_in("7 (cut", "4.75 1.0\n"), None);
        assert_eq!(age_in(&stat, ""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_is_used_counts() {
        let before = peak_rss_bytes().unwrap();
        let used = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(peak_rss_bytes().unwrap() >= before.max(used.len() as u64));
        assert!(age().unwrap() < Duration::from_secs(24 * 3600));
    }
}
