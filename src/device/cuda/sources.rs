//! The sources of kernels: embedded, or from the folder that SAMCORE_KERNELS names.

use crate::error::{Error, Result};
use crate::files::{MAX_SOURCE, read_text};
use std::path::PathBuf;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The folder to read sources from instead of those embedded, from the environment.
pub fn folder() -> Option<PathBuf> {
    std::env::var_os("SAMCORE_KERNELS").filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// The text of a file of `kernels/`: "norm.cu", "prelude.cuh", "emu/runtime.cpp".
///
/// # Errors
/// A file that is missing or unreadable in the folder that SAMCORE_KERNELS names.
pub fn text(name: &str) -> Result<String> {
    if let Some(folder) = folder() {
        let path = folder.join(name);
        return read_text(&path, MAX_SOURCE).map_err(|e| e.context("SAMCORE_KERNELS"));
    }
    let found = EMBEDDED.iter().find(|(file, _)| *file == name);
    found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| Error::internal(format!("no kernel source '{name}'")))
}

/// Names of all files with that ending: ".cu", ".cuh".
pub fn names(ending: &str) -> Vec<&'static str> {
    EMBEDDED.iter().map(|(name, _)| *name).filter(|name| name.ends_with(ending)).collect()
}
