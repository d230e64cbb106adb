//! `resources.txt`: what each kernel uses at most, by architecture, and what a card has.

use samcore::device::cuda::nvrtc::Usage;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Columns of the table. The last is whatever the newest architecture is that NVRTC knows.
pub const COLUMNS: [&str; 4] = ["sm_75", "sm_80", "sm_90a", "newest"];

const HEAD: &str = "\
# What each kernel uses at most over all modules that any operation, model and dtype compile: registers a thread, bytes of
# static shared memory a block, bytes a thread spills to local memory. '-' stands where an architecture does not have the
# kernel. tests/nvrtc.rs holds the compiler to it; SAMCORE_BLESS=1 cargo test --test nvrtc writes it anew.
";

/// Registers, bytes of static shared memory, bytes of spills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worst([u32; 3]);

impl Worst {
    pub fn of(usage: &Usage) -> Worst {
        Worst([usage.registers, usage.shared, usage.spill_stores + usage.spill_loads])
    }
    pub fn max(self, other: Worst) -> Worst {
        Worst(std::array::from_fn(|i| self.0[i].max(other.0[i])))
    }
    /// Returns true if no figure is above that of `limit`.
    pub fn within(self, limit: Worst) -> bool {
        self.max(limit) == limit
    }
    pub fn spills(self) -> bool {
        self.0[2] > 0
    }
}

/// By "file kernel", a cell a column.
pub type Table = BTreeMap<String, [Option<Worst>; COLUMNS.len()]>;

pub fn write(table: &Table) -> String {
    let mut text = HEAD.to_owned();
    let mut line = |name: &str, cells: [String; COLUMNS.len()]| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>15}")).collect();
        writeln!(text, "{name:<44}{cells}").unwrap();
    };
    line("kernel", COLUMNS.map(String::from));
    for (name, cells) in table {
        line(name, cells.map(|c| c.map_or("-".into(), |Worst([r, s, l])| format!("{r} {s} {l}").replace(' ', "/"))));
    }
    text
}

pub fn read(text: &str) -> Table {
    let mut table = Table::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.starts_with("kernel ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [file, kernel, cells @ ..] = &words[..] else { panic!("resources.txt: {line}") };
        let cell = |text: &str| {
            let numbers: Vec<u32> = text.split('/').map(|n| n.parse().unwrap_or_else(|_| panic!("{line}"))).collect();
            Worst(numbers.try_into().unwrap_or_else(|_| panic!("resources.txt: {line}")))
        };
        assert_eq!(cells.len(), COLUMNS.len(), "resources.txt: {line}");
        table.insert(format!("{file} {kernel}"), std::array::from_fn(|i| (cells[i] != "-").then(|| cell(cells[i]))));
    }
    table
}

/// Bytes of shared memory that a block can have: CUDA's programming guide, "Technical Specifications per Compute Capability".
pub fn shared_limit(arch: u32) -> u32 {
    match arch {
        75 => 64 << 10,
        80 | 87 => 163 << 10,
        90..=119 => 227 << 10,
        _ => 99 << 10,
    }
}

/// Why a block of that size cannot run: its registers, which come 8 at a time, or its shared memory.
pub fn unfit(usage: &Usage, threads: u32, dynamic: u32, arch: u32) -> Option<String> {
    let registers = usage.registers.next_multiple_of(8) * threads;
    if registers > 65536 {
        return Some(format!("{threads} threads of {} registers are more than the 65536 of a block", usage.registers));
    }
    let (shared, limit) = (usage.shared + dynamic, shared_limit(arch));
    (shared > limit).then(|| format!("{shared} bytes of shared memory are more than the {limit} of a block"))
}
