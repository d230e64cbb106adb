//! The library: where it may be, its functions, and a program of its.
//!
//! It is looked up here and not by cudarc, whose bindings panic where it is missing, take an older `libnvrtc.so` of the system
//! before the one that was asked for, and cannot hold error codes that newer libraries return.

use super::Source;
use crate::error::{Error, Kind, Result};
use crate::files::{self, private::is_trusted};
use cudarc::nvrtc::sys::nvrtcProgram;
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Advice for a library that is missing or too old.
pub const INSTALL: &str = "pip install 'nvidia-cuda-nvrtc==13.0.*' or install the CUDA toolkit 13; SAMCORE_NVRTC=/path/libnvrtc.so.13 names a file";
/// Names to look for, the best first.
const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
/// The oldest whose code can be used: `wgmma` and C++17 without headers of the toolkit.
const OLDEST: (i32, i32) = (12, 0);

type Size = unsafe extern "C" fn(nvrtcProgram, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(nvrtcProgram, *mut c_char) -> c_int;
type Texts = *const *const c_char;

/// The functions of the library, which is never unloaded.
pub struct Nvrtc {
    create_program: unsafe extern "C" fn(*mut nvrtcProgram, *const c_char, *const c_char, c_int, Texts, Texts) -> c_int,
    compile_program: unsafe extern "C" fn(nvrtcProgram, c_int, Texts) -> c_int,
    destroy_program: unsafe extern "C" fn(*mut nvrtcProgram) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    log_size: Size,
    log: Bytes,
    cubin_size: Size,
    cubin: Bytes,
    pub version: (i32, i32),
    pub archs: Vec<u32>,
    _library: Library,
}

/// The library, looked up once.
pub fn library() -> Result<&'static Nvrtc> {
    static FOUND: OnceLock<Result<Nvrtc>> = OnceLock::new();
    FOUND.get_or_init(find).as_ref().map_err(Clone::clone)
}

fn find() -> Result<Nvrtc> {
    let unavailable = |message: String| Error::new(Kind::Unavailable, message);
    if let Some(named) = std::env::var_os("SAMCORE_NVRTC").filter(|v| !v.is_empty()).map(PathBuf::from) {
        let name = named.display();
        let opened = open(&named).map_err(|e| unavailable(format!("SAMCORE_NVRTC={name} cannot be loaded: {e}")))?;
        return Nvrtc::new(opened).map_err(|e| e.context(format!("SAMCORE_NVRTC={name}")));
    }
    let mut places: Vec<PathBuf> = folders().iter().flat_map(|f| NAMES.map(|name| f.join(name))).collect();
    places.retain(|path| path.is_file());
    // A bare name is looked up by the dynamic loader, LD_LIBRARY_PATH included.
    places.extend(NAMES.iter().map(PathBuf::from));
    let opened = places.iter().find_map(|path| open(path).ok());
    let opened = opened.ok_or_else(|| {
        unavailable(format!(
            "no NVRTC on this machine (libnvrtc.so.13 is not there), which compiles the kernels: {INSTALL}"
        ))
    })?;
    Nvrtc::new(opened)
}

fn open(path: &Path) -> std::result::Result<Library, libloading::Error> {
    // NVRTC looks for its second half at the first compilation, by a bare name and with no path of its own to search. What
    // is loaded already, and stays so, answers to that name.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    for half in folder.map(|f| listed(f, "libnvrtc-builtins.so")).unwrap_or_default() {
        // SAFETY: as below.
        let _ = unsafe { Library::new(half) }.map(std::mem::forget);
    }
    // SAFETY: NVIDIA's library runs no code of its own when it is loaded that would concern us.
    unsafe { Library::new(path) }
}

/// Folders in which NVRTC may be: beside the program, in the Python environment that is active, in the toolkit.
fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    // `target/nvrtc` for `target/release/samcore` and for the tests in `target/debug/deps`.
    let program = std::env::current_exe().unwrap_or_default();
    let mut packages: Vec<PathBuf> = program.ancestors().skip(1).take(3).map(|folder| folder.join("nvrtc")).collect();
    // In a shared folder such as /tmp somebody else could put a library beside the program.
    let owner = std::fs::metadata(&program).map_or(0, |meta| meta.uid());
    packages.retain(|package| is_trusted(package, owner));
    if let Some(environment) = variable("VIRTUAL_ENV") {
        let versions = listed(&environment.join("lib"), "python");
        packages.extend(versions.into_iter().map(|version| version.join("site-packages")));
    }
    for package in packages {
        folders.extend(["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"].map(|inner| package.join(inner)));
    }
    let mut toolkits: Vec<PathBuf> = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).collect();
    toolkits.extend(listed(Path::new("/usr/local"), "cuda"));
    folders.extend(toolkits.iter().flat_map(|toolkit| ["lib64", "lib"].map(|inner| toolkit.join(inner))));
    folders
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Lists the files in `folder` whose names begin so, the highest first.
fn listed(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let entries = files::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let begins = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(begin));
    let mut found: Vec<PathBuf> = entries.filter(begins).collect();
    found.sort();
    found.reverse();
    found
}

impl Nvrtc {
    fn new(library: Library) -> Result<Nvrtc> {
        // SAFETY: the types are those of the functions' declarations in nvrtc.h.
        let mut nvrtc = unsafe {
            Nvrtc {
                create_program: symbol(&library, "nvrtcCreateProgram")?,
                compile_program: symbol(&library, "nvrtcCompileProgram")?,
                destroy_program: symbol(&library, "nvrtcDestroyProgram")?,
                error_string: symbol(&library, "nvrtcGetErrorString")?,
                log_size: symbol(&library, "nvrtcGetProgramLogSize")?,
                log: symbol(&library, "nvrtcGetProgramLog")?,
                cubin_size: symbol(&library, "nvrtcGetCUBINSize")?,
                cubin: symbol(&library, "nvrtcGetCUBIN")?,
                version: (0, 0),
                archs: Vec::new(),
                _library: library,
            }
        };
        nvrtc.ask_version()?;
        if nvrtc.version < OLDEST {
            let ((major, minor), (least, _)) = (nvrtc.version, OLDEST);
            let message = format!("NVRTC {major}.{minor} is too old, {least}.0 is the least that will do: {INSTALL}");
            return Err(Error::new(Kind::Unavailable, message));
        }
        nvrtc.ask_archs()?;
        Ok(nvrtc)
    }

    fn ask_version(&mut self) -> Result<()> {
        let (major, minor) = (&mut self.version.0, &mut self.version.1);
        // SAFETY: the type is the function's; it writes the two numbers.
        let code = unsafe {
            let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
                symbol(&self._library, "nvrtcVersion")?;
            version(major, minor)
        };
        self.check("version", code)
    }

    fn ask_archs(&mut self) -> Result<()> {
        let mut count = 0;
        // SAFETY: the types are the functions'; the second writes as many numbers as the first said.
        let (known, code) = unsafe {
            let size: unsafe extern "C" fn(*mut c_int) -> c_int = symbol(&self._library, "nvrtcGetNumSupportedArchs")?;
            let fill: unsafe extern "C" fn(*mut c_int) -> c_int = symbol(&self._library, "nvrtcGetSupportedArchs")?;
            self.check("architectures", size(&mut count))?;
            let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
            let code = fill(known.as_mut_ptr());
            (known, code)
        };
        self.check("architectures", code)?;
        self.archs = known.iter().filter_map(|arch| u32::try_from(*arch).ok()).collect();
        self.archs.sort_unstable();
        Ok(())
    }

    fn check(&self, what: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: it returns a constant C string for every number.
        let text = unsafe { CStr::from_ptr((self.error_string)(code)) }.to_string_lossy();
        Err(Error::internal(format!("NVRTC: {what}: {text} ({code})")))
    }
}

/// # Safety
/// `F` must be the type of that function.
unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> Result<F> {
    // SAFETY: the caller's promise.
    let found = unsafe { library.get::<F>(name.as_bytes()) };
    found.map(|f| *f).map_err(|_| Error::new(Kind::Unavailable, format!("this NVRTC has no {name}: {INSTALL}")))
}

/// C strings, and pointers to them.
struct Strings {
    pointers: Vec<*const c_char>,
    _texts: Vec<CString>,
}

impl Strings {
    fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Strings> {
        let texts = texts.map(c_string).collect::<Result<Vec<CString>>>()?;
        Ok(Strings { pointers: texts.iter().map(|text| text.as_ptr()).collect(), _texts: texts })
    }
    fn len(&self) -> c_int {
        // Dozens of them.
        self.pointers.len() as c_int
    }
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::data("a kernel source, its name or a macro holds a byte 0"))
}

/// A program of NVRTC's, which takes the texts by pointer and may look at them until it is destroyed.
pub struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: nvrtcProgram,
    _texts: [Strings; 3],
}

impl<'a> Program<'a> {
    pub fn new(nvrtc: &'a Nvrtc, source: &Source) -> Result<Program<'a>> {
        let own = Strings::new([source.text.as_str(), source.name.as_str()].into_iter())?;
        let texts = Strings::new(source.headers.iter().map(|h| h.1.as_str()))?;
        let names = Strings::new(source.headers.iter().map(|h| h.0.as_str()))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: all are C strings, as many headers as names, and `handle` is written.
        let code = unsafe {
            let (text, name) = (own.pointers[0], own.pointers[1]);
            let (bodies, titles) = (texts.pointers.as_ptr(), names.pointers.as_ptr());
            (nvrtc.create_program)(&mut handle, text, name, texts.len(), bodies, titles)
        };
        nvrtc.check("create program", code)?;
        Ok(Program { nvrtc, handle, _texts: [own, texts, names] })
    }

    /// Compiles; false if the source is wrong, about which the log says all.
    pub fn compile(&self, options: &[String]) -> Result<bool> {
        let options = Strings::new(options.iter().map(String::as_str))?;
        // SAFETY: the program lives; `options` holds as many C strings as it says.
        let code = unsafe { (self.nvrtc.compile_program)(self.handle, options.len(), options.pointers.as_ptr()) };
        // NVRTC_ERROR_COMPILATION.
        if code == 6 { Ok(false) } else { self.nvrtc.check("compile", code).map(|()| true) }
    }

    pub fn log(&self) -> Result<String> {
        let log = self.bytes("log", self.nvrtc.log_size, self.nvrtc.log)?;
        Ok(CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy().into_owned())
    }

    pub fn cubin(&self) -> Result<Vec<u8>> {
        self.bytes("cubin", self.nvrtc.cubin_size, self.nvrtc.cubin)
    }

    fn bytes(&self, what: &str, size: Size, fill: Bytes) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the program lives and `len` is written.
        self.nvrtc.check(what, unsafe { size(self.handle, &mut len) })?;
        let mut bytes = vec![0u8; len];
        // SAFETY: it writes as many bytes as it said.
        self.nvrtc.check(what, unsafe { fill(self.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: it was created, and is destroyed once. Its failure would change nothing.
        let _ = unsafe { (self.nvrtc.destroy_program)(&mut self.handle) };
    }
}
