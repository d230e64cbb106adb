//! A test of the tests: faults planted in the kernels themselves are caught by `check --device emu`.
//!
//! Each mutant is a copy of `kernels/` with one change, given to the program by SAMCORE_KERNELS.

mod common;

use common::{Done, Folder, command};
use samcore::device::cuda::sources::EMBEDDED;
use std::fs;

/// One planted fault.
struct Mutant {
    what: &'static str,
    file: &'static str,
    /// What is replaced: the n-th of these, counted from 0.
    find: (&'static str, usize),
    by: &'static str,
    rung: &'static str,
    check: &'static str,
}

const CONV: &str = "conv2d --case 3x14x14x32";
const WIDE: &str = "conv2d --case 3x8x8x160";

const MUTANTS: &[Mutant] = &[
    Mutant {
        what: "a barrier between filling and reading a tile is missing",
        file: "conv_plain.cu",
        find: ("__syncthreads();", 0),
        by: "",
        rung: "plain",
        check: CONV,
    },
    Mutant {
        what: "a barrier before the tiles' place is used again is missing",
        file: "conv_plain.cu",
        find: ("__syncthreads();", 1),
        by: "",
        rung: "plain",
        check: CONV,
    },
    Mutant {
        what: "a barrier behind the wait for cp.async is missing",
        file: "conv_mma.cu",
        find: ("__syncthreads();", 0),
        by: "",
        rung: "mma",
        check: "conv2d --dtype bf16 --case 3x14x14x32",
    },
    Mutant {
        what: "the wait for cp.async is one group too weak",
        file: "conv_mma.cu",
        find: ("cp_async_wait<STAGES - 2>", 0),
        by: "cp_async_wait<STAGES - 1>",
        rung: "mma",
        check: "conv2d --dtype bf16 --case 3x14x14x32",
    },
    Mutant {
        what: "an epilogue reads its band before all have written it",
        file: "conv_mma.cu",
        find: ("__syncthreads();", 2),
        by: "",
        rung: "mma",
        check: "conv2d --dtype f16 --case 3x14x14x32",
    },
    Mutant {
        what: "a tile is multiplied before TMA has brought it",
        file: "conv_wgmma.cu",
        find: ("mbar_wait(&ring.full[ring.stage], ring.phase);", 0),
        by: "",
        rung: "wgmma",
        check: WIDE,
    },
    Mutant {
        what: "the producer overwrites a stage that is still read",
        file: "conv_wgmma.cu",
        find: ("mbar_wait(&empty[stage], phase ^ 1);", 0),
        by: "",
        rung: "wgmma",
        check: WIDE,
    },
    Mutant {
        what: "sums are read before wgmma has ended",
        file: "conv_wgmma.cu",
        find: ("wgmma_wait<0>();", 0),
        by: "",
        rung: "wgmma",
        check: WIDE,
    },
    Mutant {
        what: "stages are never freed",
        file: "conv_wgmma.cu",
        find: ("mbar_arrive(&ring.empty[before]);", 0),
        by: "{}",
        rung: "wgmma",
        check: WIDE,
    },
    Mutant {
        what: "the swizzled tile is read in a wrong place",
        file: "conv_wgmma.cu",
        find: ("rows + step * (A_MN ? 128 : 2)", 0),
        by: "rows + step * (A_MN ? 128 : 4)",
        rung: "wgmma",
        check: WIDE,
    },
    Mutant {
        what: "a block sum reads what other warps have not written yet",
        file: "prelude.cuh",
        find: ("if (lane == 0) parts[warp] = v;\n    __syncthreads();", 0),
        by: "if (lane == 0) parts[warp] = v;",
        rung: "plain",
        check: "norm --case one",
    },
    Mutant {
        what: "a block sum reads shared memory that nobody wrote",
        file: "prelude.cuh",
        find: ("lane < THREADS / 32 ? parts[lane] : 0.0f", 0),
        by: "parts[lane]",
        rung: "plain",
        check: "norm --case one",
    },
    Mutant {
        what: "coefficients are used before they are evaluated",
        file: "vector.cu",
        find: ("    __syncthreads();\n    if (blockIdx.x == 0 && thread == 0) {", 0),
        by: "    if (blockIdx.x == 0 && thread == 0) {",
        rung: "plain",
        check: "set --case one",
    },
    Mutant {
        what: "a group at the end is one element too long",
        file: "lanes.cuh",
        find: ("if (k < left) store(p + k, v[k]);", 0),
        by: "if (k <= left) store(p + k, v[k]);",
        rung: "plain",
        check: "relu",
    },
    Mutant {
        what: "a group at the end is read one element too far",
        file: "lanes.cuh",
        find: ("k < left ? load(p + k) : 0.f", 0),
        by: "k <= left ? load(p + k) : 0.f",
        rung: "plain",
        check: "relu",
    },
    Mutant {
        what: "tables of a batch-norm are read before they are filled",
        file: "norm.cu",
        find: ("    __syncthreads();\n    Thread t = this_thread();", 0),
        by: "    Thread t = this_thread();",
        rung: "plain",
        check: "batch_norm --case [7,",
    },
];

/// Writes `kernels/` to `folder`, with the change of a mutant.
fn write(folder: &Folder, mutant: Option<&Mutant>) {
    for (name, text) in EMBEDDED {
        let path = folder.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = match mutant {
            Some(m) if m.file == *name => {
                let at = text.match_indices(m.find.0).nth(m.find.1);
                let (at, _) = at.unwrap_or_else(|| panic!("{}: {} has no such place any more", m.what, m.file));
                format!("{}{}{}", &text[..at], m.by, &text[at + m.find.0.len()..])
            }
            _ => (*text).to_owned(),
        };
        fs::write(path, text).unwrap();
    }
}

fn check(kernels: &Folder, words: &str, rung: &str, mode: &str) -> Done {
    let bf16 = if rung == "wgmma" { "--dtype bf16" } else { "" };
    let line = format!("check {words} {bf16} --device emu {mode}");
    let mut command = command(&kernels.0, &line.split_whitespace().collect::<Vec<_>>());
    Done::of(command.env("SAMCORE_KERNELS", &kernels.0).env("SAMCORE_RUNGS", rung).output().unwrap())
}

#[test]
fn faults_planted_in_the_kernels_are_caught() {
    let probe = Folder::new("mutant-none");
    write(&probe, None);
    let sound = check(&probe, "relu", "plain", "--sanitize");
    if sound.code == 69 {
        assert!(std::env::var_os("SAMCORE_REQUIRE_CXX").is_none(), "{}", sound.stderr);
        println!("skipped: {}", sound.stderr);
        return;
    }
    sound.well();
    let mut unseen = Vec::new();
    for (i, mutant) in MUTANTS.iter().enumerate() {
        let folder = Folder::new(&format!("mutant-{i}"));
        write(&folder, Some(mutant));
        // A fault that the checker does not report gives wrong values in some order of threads.
        let caught = ["--sanitize", "--order 5", "--eager --order descending"].into_iter().find_map(|mode| {
            let done = check(&folder, mutant.check, mutant.rung, mode);
            let told = if done.stderr.is_empty() { &done.stdout } else { &done.stderr };
            // 65 is a source that does not compile: that would prove nothing.
            assert_ne!(done.code, 65, "{}: {told}", mutant.what);
            (done.code != 0).then(|| format!("{mode}: {}", told.lines().last().unwrap_or_default()))
        });
        match caught {
            Some(how) => println!("{}: {how}", mutant.what),
            None => unseen.push(mutant.what),
        }
    }
    assert!(unseen.is_empty(), "not caught: {unseen:#?}");
}

#[test]
fn the_cases_of_mutants_pass_on_sound_kernels() {
    let folder = Folder::new("mutant-sound");
    write(&folder, None);
    if check(&folder, "relu", "plain", "").code == 69 {
        return;
    }
    for mutant in MUTANTS {
        check(&folder, mutant.check, mutant.rung, "--sanitize").well();
    }
}
