//! The record of a run whose loss or gradient was not finite: what stops it from being tried again for ever.

use crate::error::{Error, Result};
use crate::files::{MAX_JSON, read_bytes, write_atomic};
use serde_json::{Value, json};
use std::path::Path;

/// Its name in the folder of the run.
pub const FILE: &str = "diverged.json";

/// The point at which a run diverged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// From 1; the step whose loss, gradient or weights were not finite.
    pub step: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// The first call that made a value that is not finite, or the evaluation that found one.
    pub culprit: String,
}

impl Divergence {
    pub fn to_json(&self) -> Value {
        json!({"step": self.step, "steps": self.total, "culprit": self.culprit})
    }

    /// Reads what [`Divergence::to_json`] wrote; None if it is none.
    pub fn from_json(value: &Value) -> Option<Divergence> {
        let number = |key: &str| value[key].as_u64();
        Some(Divergence { step: number("step")?, total: number("steps")?, culprit: value["culprit"].as_str()?.into() })
    }

    /// Writes the record into the folder of the run.
    ///
    /// # Errors
    /// CantCreate, Io: it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_atomic(&folder.join(FILE), format!("{:#}\n", self.to_json()).as_bytes())
    }

    /// Reads the record of the run in `folder`; None where there is none.
    ///
    /// # Errors
    /// NoInput: it cannot be read. Data: it is not such a record.
    pub fn read(folder: &Path) -> Result<Option<Divergence>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read_bytes(&path, MAX_JSON)?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let broken = || {
            Error::data(format!("{} has no step, steps and culprit; remove it to try the run again", path.display()))
        };
        Divergence::from_json(&value).map(Some).ok_or_else(broken)
    }

    /// Removes the record of a run that goes on.
    ///
    /// # Errors
    /// Io: it cannot be removed.
    pub fn clear(folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path, &e)),
            _ => Ok(()),
        }
    }
}
