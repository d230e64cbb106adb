//! NVRTC: kernel sources to machine code (cubins) for a real card. It needs no driver, so that a machine without a GPU can
//! compile every kernel and count its registers.
//!
mod library;

use super::driver::Module;
use super::sources;
use crate::error::{Error, Kind, Result};
use library::{INSTALL, Program, library};

/// A module compiled for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cubin {
    pub image: Vec<u8>,
    /// The compiler's log: warnings, and each kernel's resources; see [`usage`].
    pub log: String,
}

/// A module with all texts that it includes: what is compiled, and what a cache must know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// "norm.cu".
    pub name: String,
    pub text: String,
    /// Name and text of every header that is included, directly or not, by name.
    pub headers: Vec<(String, String)>,
    pub defines: Vec<(&'static str, String)>,
}

impl Source {
    /// Reads the module's file, and those that it includes.
    ///
    /// # Errors
    /// A file that is missing or unreadable in the folder that SAMCORE_KERNELS names.
    pub fn of(module: &Module) -> Result<Source> {
        let text = sources::text(module.file)?;
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut wanted: Vec<String> = included(&text).map(str::to_owned).collect();
        while let Some(name) = wanted.pop() {
            // The emulator's side of the prelude is not compiled here. What is missing the compiler names, with its line.
            if name.starts_with("emu/") || headers.iter().any(|h| h.0 == name) {
                continue;
            }
            if let Ok(header) = sources::text(&name) {
                wanted.extend(included(&header).map(str::to_owned));
                headers.push((name, header));
            }
        }
        headers.sort();
        Ok(Source { name: module.file.into(), text, headers, defines: module.defines.clone() })
    }

    /// "norm.cu for sm_90a with C=16 TX=bf16".
    fn describe(&self, arch: &str) -> String {
        let defines: Vec<String> = self.defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let with = if defines.is_empty() { "" } else { " with " };
        format!("{} for {arch}{with}{}", self.name, defines.join(" "))
    }
}

/// Names in `#include "name"`.
fn included(text: &str) -> impl Iterator<Item = &str> {
    let lines =
        text.lines().filter_map(|line| line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include"));
    lines.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
}

/// The compiler's name of a compute capability: 80 is "sm_80". That of 90 is "sm_90a", which has `wgmma`.
pub fn arch_name(arch: u32) -> String {
    format!("sm_{arch}{}", if arch == 90 { "a" } else { "" })
}

/// Flags of every compilation. Line numbers are for compute-sanitizer and profilers, and cost no instruction.
pub const FLAGS: &[&str] = &["--std=c++17", "-lineinfo", "--ptxas-options=-v"];

/// Version of the library that is used.
///
/// # Errors
/// `Unavailable` without NVRTC.
pub fn version() -> Result<(i32, i32)> {
    Ok(library()?.version)
}

/// Compute capabilities that the library compiles for, in rising order.
///
/// # Errors
/// `Unavailable` without NVRTC.
pub fn archs() -> Result<Vec<u32>> {
    Ok(library()?.archs.clone())
}

/// Compiles for an architecture by name: "sm_90a". Threads may do so at the same time.
///
/// # Errors
/// `Unavailable` without NVRTC, or with one too old for the architecture; `Data` with the compiler's messages, which name
/// file and line, if the source is wrong.
pub fn compile(source: &Source, arch: &str) -> Result<Cubin> {
    let nvrtc = library()?;
    let number: u32 = arch.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches('a').parse().unwrap_or(0);
    if !nvrtc.archs.contains(&number) {
        let ((major, minor), known) = (nvrtc.version, nvrtc.archs.iter().map(|a| format!("sm_{a}")));
        let known: Vec<String> = known.collect();
        let message = format!("NVRTC {major}.{minor} does not compile for {arch} (it knows {})", known.join(", "));
        return Err(Error::new(Kind::Unavailable, format!("{message}: {INSTALL}")));
    }
    let mut options = vec![format!("--gpu-architecture={arch}")];
    options.extend(FLAGS.iter().map(|flag| (*flag).to_owned()));
    options.extend(source.defines.iter().map(|(name, value)| format!("-D{name}={value}")));
    let describe = || source.describe(arch);

    let program = Program::new(nvrtc, source)?;
    let done = program.compile(&options).map_err(|e| e.context(describe()))?;
    let log = program.log()?;
    if !done {
        return Err(Error::data(format!("{} does not compile:", describe())).with_log(log.trim_end()));
    }
    Ok(Cubin { image: program.cubin()?, log })
}

/// Resources of one kernel, by ptxas' own account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Bytes that a thread stores to local memory for want of registers, and loads again.
    pub spill_stores: u32,
    pub spill_loads: u32,
}

/// Reads what each kernel uses from the log of a compilation.
pub fn usage(log: &str) -> Vec<Usage> {
    let mut kernels: Vec<Usage> = Vec::new();
    // A function that is not inlined has properties of its own, which are not those of the kernel before it.
    let mut of_kernel = false;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            kernels.push(Usage { kernel, ..Usage::default() });
        }
        let Some(last) = kernels.last_mut() else { continue };
        if let Some((_, name)) = line.split_once("Function properties for ") {
            of_kernel = name.trim() == last.kernel;
        } else if line.contains(" bytes stack frame") && of_kernel {
            last.stack = number_before(line, " bytes stack frame");
            last.spill_stores = number_before(line, " bytes spill stores");
            last.spill_loads = number_before(line, " bytes spill loads");
        } else if line.contains("Used ") {
            last.registers = number_before(line, " registers");
            last.shared = number_before(line, " bytes smem");
        }
    }
    kernels
}

/// The number that stands right before `unit`; 0 if there is none.
fn number_before(line: &str, unit: &str) -> u32 {
    let Some((before, _)) = line.split_once(unit) else { return 0 };
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

/// For tests: whether there is NVRTC. Where there is none the test says so and passes, unless SAMCORE_REQUIRE_NVRTC is set.
///
/// # Panics
/// Without NVRTC, if it is required.
pub fn present_or_skip() -> bool {
    super::or_skip(library(), "NVRTC").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn source(text: &str) -> Source {
        let header =
            ("scale.cuh".to_owned(), "__device__ inline float scale(float x) { return FACTOR * x; }".to_owned());
        let defines = vec![("FACTOR", "3.0f".to_owned())];
        Source { name: "test.cu".into(), text: text.into(), headers: vec![header], defines }
    }

    const SCALE: &str = "#include \"scale.cuh\"
extern \"C\" __global__ void scale_all(float* x, int n) {
    __shared__ float first[32];
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (threadIdx.x < 32) first[threadIdx.x] = x[0];
    __syncthreads();
    if (i < n) x[i] = scale(x[i]) + first[threadIdx.x % 32];
}
";

    #[test]
    fn a_source_with_its_header_and_macros_becomes_code_for_every_architecture() {
        if !present_or_skip() {
            return;
        }
        let known = archs().unwrap();
        assert!(known.contains(&75) && known.contains(&90), "{known:?}");
        for arch in [75, 80, 90, *known.last().unwrap()] {
            let cubin = compile(&source(SCALE), &arch_name(arch)).unwrap();
            assert!(cubin.image.starts_with(b"\x7fELF"), "sm_{arch}");
            let used = usage(&cubin.log);
            let name = "scale_all";
            assert!(used.len() == 1 && used[0].kernel == name && used[0].shared == 128, "{used:?}: {}", cubin.log);
            assert!(used[0].registers > 4 && used[0].spill_stores == 0, "{used:?}: {}", cubin.log);
        }
    }

    #[test]
    fn a_wrong_source_is_an_error_with_file_and_line_and_an_unknown_card_one_that_says_what_is_known() {
        if !present_or_skip() {
            return;
        }
        let wrong = SCALE.replace("first[threadIdx.x % 32]", "second");
        let e = compile(&source(&wrong), "sm_80").unwrap_err();
        assert_eq!(e.kind, Kind::Data, "{e}");
        for word in ["test.cu for sm_80 with FACTOR=3.0f", "test.cu(7)", "\"second\" is undefined"] {
            assert!(e.to_string().contains(word), "{word}: {e}");
        }
        let e = compile(&source(SCALE), "sm_999").unwrap_err();
        assert_eq!(e.kind, Kind::Unavailable, "{e}");
        assert!(e.to_string().contains("does not compile for sm_999 (it knows sm_75"), "{e}");
    }

    #[test]
    fn what_a_kernel_uses_is_told_from_what_its_functions_use() {
        let log = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for first
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size, 4096 bytes smem, 400 bytes cmem[0]
ptxas info    : Function properties for helper
    64 bytes stack frame, 32 bytes spill stores, 32 bytes spill loads
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
";
        let kernel = |name: &str, [registers, shared, stack, spill_stores, spill_loads]: [u32; 5]| {
            let kernel = name.to_owned();
            Usage { kernel, registers, shared, stack, spill_stores, spill_loads }
        };
        assert_eq!(usage(log), [kernel("first", [255, 4096, 16, 8, 12]), kernel("second", [8, 0, 0, 0, 0])]);
    }

    #[test]
    fn included_files_are_found_however_the_line_is_spaced() {
        let text = "#include \"a.cuh\"\n  #  include   \"b.cuh\" // why\n#include <cuda.h>\n// include \"c.cuh\"\n";
        assert_eq!(included(text).collect::<Vec<_>>(), ["a.cuh", "b.cuh"]);
    }
}
