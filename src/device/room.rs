//! The memory that this process may still take, as Linux limits it: what the machine has, its cgroups, and `ulimit -v`.

use std::path::{Path, PathBuf};

/// Memory that may still be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub bytes: usize,
    /// Its limit, in the words of messages: "by MemAvailable of /proc/meminfo".
    pub limit: String,
}

/// Returns what the tightest limit leaves; None where the system tells nothing.
pub fn room() -> Option<Room> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let machine = available(&read("/proc/meminfo"));
    let machine = machine.map(|bytes| Room { bytes, limit: "by MemAvailable of /proc/meminfo".into() });
    let address = address_space(&read("/proc/self/limits"), &read("/proc/self/statm"));
    let address = address.map(|bytes| Room { bytes, limit: "below the limit of the address space (ulimit -v)".into() });
    let cgroups = cgroups(&read("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
    machine.into_iter().chain(address).chain(cgroups).min_by_key(|room| room.bytes)
}

/// Bytes that the kernel thinks it can give without swapping, from the text of /proc/meminfo.
fn available(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// Bytes below the soft limit of the address space, from the texts of /proc/self/limits and statm; None without a limit.
fn address_space(limits: &str, statm: &str) -> Option<usize> {
    const PAGE: usize = 4096;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit = line.split_whitespace().next()?.parse::<usize>().ok()?;
    let pages = statm.split_whitespace().next().and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(pages.saturating_mul(PAGE)))
}

/// Returns the memory left by the process's cgroups, version 1 and 2, and by those above them; `own` is the text of
/// /proc/self/cgroup, `mount` their folder.
fn cgroups(own: &str, mount: &Path) -> Vec<Room> {
    let mut rooms = vec![];
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (roots, names): (&[&str], _) = match controllers {
            "" => (&["", "unified"], ["memory.max", "memory.current", "inactive_file "]),
            list if list.split(',').any(|c| c == "memory") => {
                (&["memory"], ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "])
            }
            _ => continue,
        };
        for root in roots {
            let root = mount.join(root);
            // In a container the path may be that of the host, and the container's own group lies at the root.
            let below = Path::new(path.trim_start_matches('/'));
            rooms.extend(below.ancestors().filter_map(|group| left(&root.join(group), names)));
        }
    }
    rooms
}

/// Returns the memory left by one cgroup; its file cache is given back when memory is short.
fn left(group: &Path, [max, current, cache]: [&str; 3]) -> Option<Room> {
    let number = |name: &str| std::fs::read_to_string(group.join(name)).ok()?.trim().parse::<usize>().ok();
    let (limit, used) = (number(max)?, number(current)?);
    let statistics = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cached = statistics.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse::<usize>().ok());
    let bytes = limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0)));
    let file: PathBuf = group.join(max);
    Some(Room { bytes, limit: format!("below the cgroup's limit ({})", file.display()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TestFolder;
    use std::fs;

    #[test]
    fn limits_are_read_from_the_texts_of_the_kernel() {
        let meminfo = "MemTotal:       24689764 kB\nMemFree:         100 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(available(meminfo), Some(2048 * 1024));
        assert_eq!(available(""), None);
        let limits = |soft: &str| {
            format!("Limit   Soft Limit   Hard Limit   Units\nMax address space  {soft}  unlimited  bytes\n")
        };
        assert_eq!(address_space(&limits("209715200"), "100 5 3"), Some(209_715_200 - 409_600));
        assert_eq!(address_space(&limits("4096"), "100 5 3"), Some(0));
        assert_eq!(address_space(&limits("unlimited"), "100 5 3"), None);
    }

    #[test]
    fn cgroups_of_both_versions_limit_with_those_above_them() {
        let scratch = TestFolder::new("cgroups");
        let put = |name: &str, text: &str| {
            let file = scratch.0.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        for (file, text) in [
            ("a/memory.max", "max\n"),
            ("a/memory.current", "10\n"),
            ("a/b/memory.max", "1000\n"),
            ("a/b/memory.current", "600\n"),
            ("a/b/memory.stat", "anon 500\ninactive_file 100\n"),
            ("memory/c/memory.limit_in_bytes", "300\n"),
            ("memory/c/memory.usage_in_bytes", "250\n"),
        ] {
            put(file, text);
        }
        let bytes = |own: &str| cgroups(own, &scratch.0).iter().map(|room| room.bytes).collect::<Vec<_>>();
        assert_eq!(bytes("0::/a/b\n"), [500]);
        assert!(bytes("0::/a\n").is_empty(), "no limit");
        assert_eq!(bytes("5:cpu,cpuacct:/\n4:memory:/c/not-here\n"), [50]);
        assert!(cgroups("0::/a/b\n", &scratch.0)[0].limit.ends_with("a/b/memory.max)"));
    }
}
