//! From sources to shared libraries, by the C++ compiler of this machine, kept in a cache folder.

use crate::device::cuda::cache::{self, Cache, EMULATOR};
use crate::device::cuda::driver::Module;
use crate::device::cuda::sources;
use crate::error::{Error, Kind, Result};
use crate::files::{self, MAX_SOURCE, read_text};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Flags of all libraries. Contraction off: the same bits on every CPU. Aliasing: kernels read floats as vectors.
const FLAGS: &[&str] = &["-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing"];
/// Guards of stacks are met even by large frames; CUDA's pragmas are unknown to C++.
const MODULE_FLAGS: &[&str] = &["-DCUDA_EMU", "-fstack-clash-protection", "-w"];
/// Calls for the checker to be linked to, and traps; line numbers to name the place.
const CHECKED: &[&str] = &["-O1", "-g", "-fsanitize=thread,alignment,bounds", "-fsanitize-undefined-trap-on-error"];
/// Mark of kernels in `emu/cuda.h`.
const KERNEL_MARK: &str = "section(\".text.emu_kernel\")";

/// The C++ compiler: $CXX, else `c++`.
pub struct Compiler {
    command: Vec<String>,
    /// The compiler's version line; part of every key.
    version: String,
    /// "g++ 12.2".
    pub name: String,
}

/// The compiler of this process.
///
/// # Errors
/// `Unavailable` if there is none.
pub fn find() -> Result<&'static Compiler> {
    static FOUND: OnceLock<Result<Compiler>> = OnceLock::new();
    let named = std::env::var("CXX").ok().filter(|v| !v.trim().is_empty());
    FOUND.get_or_init(|| Compiler::new(named.as_deref().unwrap_or("c++"))).as_ref().map_err(Clone::clone)
}

impl Compiler {
    fn new(command: &str) -> Result<Compiler> {
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let missing = |why: String| {
            let text = format!(
                "the emulator needs a C++ compiler, and '{}' {why}; install a C++17 compiler, g++ or clang++, or set CXX",
                command.join(" ")
            );
            Error::new(Kind::Unavailable, text)
        };
        if !cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
            return Err(Error::new(Kind::Unavailable, "the emulator runs on Linux, on x86-64 and aarch64"));
        }
        let output = Command::new(&command[0]).args(&command[1..]).arg("--version").output();
        let output = output.map_err(|e| missing(format!("cannot be run ({e})")))?;
        if !output.status.success() {
            return Err(missing("does not work".into()));
        }
        let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
        let kind = if version.contains("clang") { "clang++" } else { "g++" };
        let numbered = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
        let number = version.split_whitespace().rfind(numbered).unwrap_or_default();
        let number = number.split('.').take(2).collect::<Vec<_>>().join(".");
        Ok(Compiler { name: format!("{kind} {number}"), command, version })
    }

    fn run(&self, folder: &Path, arguments: &[String]) -> Result<Output> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(arguments).current_dir(folder);
        // Messages are read by people and matched by tests: no translations.
        let output = command.env("LC_ALL", "C").output();
        output.map_err(|e| Error::new(Kind::Unavailable, format!("cannot run '{}': {e}", self.command.join(" "))))
    }

    /// As `run`; a compiler that fails is an error with its log.
    fn compile(&self, folder: &Path, what: &str, arguments: &[String]) -> Result<()> {
        let output = self.run(folder, arguments)?;
        if output.status.success() {
            return Ok(());
        }
        let log = String::from_utf8_lossy(&output.stderr);
        Err(Error::data(format!("{what} does not compile ({}):", self.name)).with_log(log.trim_end()))
    }

    /// The library of the runtime.
    ///
    /// # Errors
    /// What the compiler says; no folder that can be written.
    pub fn runtime(&self) -> Result<PathBuf> {
        let mut flags = machine_flags();
        flags.extend(["-O3", "-shared", "-pthread"].map(String::from));
        let files = sources_ending(&[".h", ".cpp"])?;
        let key = self.key(&files, &flags);
        cached(&format!("runtime-{key}.so"), |folder, library| {
            write_all(folder, &files)?;
            let mut arguments = flags.clone();
            arguments.extend(["-o".into(), path_text(library), "emu/runtime.cpp".into()]);
            self.compile(folder, "the emulator's runtime", &arguments)
        })
    }

    /// The library of a module, whose file holds `text`, for an architecture (`90`); `checked` for the checker.
    ///
    /// # Errors
    /// A source that does not compile; no folder that can be written.
    pub fn module(&self, module: &Module, text: &str, arch: u32, checked: bool) -> Result<PathBuf> {
        let mut flags = machine_flags();
        flags.extend(MODULE_FLAGS.iter().map(|f| (*f).to_owned()));
        flags.push(format!("-D__CUDA_ARCH__={}", arch * 10));
        flags.extend(module.defines.iter().map(|(name, value)| format!("-D{name}={value}")));
        flags.extend(if checked { CHECKED } else { &["-O3"] }.iter().map(|f| (*f).to_owned()));
        let mut files = sources_ending(&[".cuh", ".h"])?;
        files.push((module.file.to_owned(), text.to_owned()));
        let key = self.key(&files, &flags);
        let stem = module.file.trim_end_matches(".cu").replace('/', "-");
        cached(&format!("{stem}-{key}.so"), |folder, library| {
            write_all(folder, &files)?;
            let step = |arguments: &[&str], flags: &[String]| {
                let arguments: Vec<String> =
                    flags.iter().cloned().chain(arguments.iter().map(|a| (*a).to_owned())).collect();
                self.compile(folder, module.file, &arguments)
            };
            step(&["-x", "c++", "-E", "-o", "unit.ii", module.file], &flags)?;
            let unit = folder.join("unit.ii");
            let mut text = read_text(&unit, MAX_SOURCE)?;
            text += &exports(&kernels(&text));
            fs::write(&unit, text).map_err(|e| Error::io("write", &unit, &e))?;
            step(&["-c", "-o", "unit.o", "unit.ii"], &flags)?;
            // Linked without -fsanitize: its calls are for our runtime.
            step(&["-shared", "-o", &path_text(library), "unit.o"], &[])
        })
    }

    /// Returns the key of a library: a hash of everything that it depends on.
    fn key(&self, files: &[(String, String)], flags: &[String]) -> String {
        let mut all = vec![self.command.join(" "), self.version.clone(), flags.join(" ")];
        all.extend(files.iter().flat_map(|(name, text)| [name.clone(), text.clone()]));
        files::sha256_hex(all.join("\0").as_bytes())[..20].to_owned()
    }
}

/// Flags with the instruction set: vectors of 256 bits and fused multiply-add where the CPU has them.
fn machine_flags() -> Vec<String> {
    let mut flags: Vec<String> = FLAGS.iter().map(|f| (*f).to_owned()).collect();
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("lzcnt")
    {
        flags.extend(["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mlzcnt"].map(String::from));
    }
    flags
}

fn sources_ending(endings: &[&str]) -> Result<Vec<(String, String)>> {
    let names = endings.iter().flat_map(|ending| sources::names(ending));
    names.map(|name| Ok((name.to_owned(), sources::text(name)?))).collect()
}

fn write_all(folder: &Path, files: &[(String, String)]) -> Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|e| Error::io("create folder", parent, &e))?;
        fs::write(&path, text).map_err(|e| Error::io("write", &path, &e))?;
    }
    Ok(())
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// Returns the path of a library that [`cache`] keeps. If it is not there, or damaged, `build` makes it: in a folder of its
/// own, given as the first argument, to the path given as the second. Without a cache it stays in that folder until the end of
/// this process.
fn cached(name: &str, build: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let cache = Cache::of_user(EMULATOR);
    if let Some(library) = cache.as_ref().and_then(|cache| cache.path(name)) {
        return Ok(library);
    }
    let folder = cache::scratch(cache.as_ref())?;
    let made = folder.join("library.so");
    build(&folder, &made).inspect_err(|_| cache::remove(&folder))?;
    let content = fs::read(&made).map_err(|e| Error::io("read", &made, &e))?;
    // A full disk or the like costs the next process the time to compile again.
    let kept = cache.and_then(|cache| cache.put(name, &content).ok());
    if kept.is_some() {
        cache::remove(&folder);
    }
    Ok(kept.unwrap_or(made))
}

/// Names of the kernels in a preprocessed source.
fn kernels(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices(KERNEL_MARK) {
        // `__attribute__((MARK)) void NAME(`
        let rest = text[at + KERNEL_MARK.len()..].trim_start_matches(')');
        let head = rest.split('(').next().unwrap_or_default();
        let name = head.trim_end().rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        if !name.is_empty() && !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Returns the code appended to a source: an entry for each kernel, their table, and the module's place in memory.
fn exports(names: &[String]) -> String {
    let mut text = String::from("\n# 1 \"exports\"\n");
    for name in names {
        text += &format!("static void {name}_emu_entry(void **arguments) {{ emu_enter({name}, arguments); }}\n");
    }
    text += "extern \"C\" const EmuKernel emu_kernels[] = {\n";
    for name in names {
        text += &format!("    emu_describe(\"{name}\", {name}_emu_entry, {name}),\n");
    }
    text += "    {nullptr, nullptr, 0, nullptr}};\n";
    for (function, symbol) in [("emu_module_begin", "__ehdr_start"), ("emu_module_limit", "_end")] {
        text += &format!(
            "extern \"C\" {{ extern char {symbol} __attribute__((visibility(\"hidden\"))); const void *{function}() {{ return &{symbol}; }} }}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_whatever_stands_around_their_names() {
        let text = format!(
            "int f(int);\nextern \"C\" __attribute__(({KERNEL_MARK})) void  one(float *x) {{}}\n\
             extern \"C\" __attribute__(({KERNEL_MARK})) void\n two_2\n (int n);\n\
             extern \"C\" __attribute__(({KERNEL_MARK})) void two_2(int n) {{ f(n); }}"
        );
        assert_eq!(kernels(&text), ["one", "two_2"]);
    }

    #[test]
    fn a_missing_compiler_is_one_message_that_says_what_to_install() {
        let error = Compiler::new("no-such-compiler -x").err().expect("there is none");
        assert_eq!(error.kind, Kind::Unavailable);
        let text = error.to_string();
        assert!(text.contains("no-such-compiler -x") && text.contains("install a C++17 compiler"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}
