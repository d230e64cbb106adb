//! The ladder of convolution kernels, and which rung a shape takes.

use crate::dtype::DType;
use crate::error::{Error, Result, nearest};
use crate::files::{MAX_JSON, read_text};
use crate::ops::call::ConvShape;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// A way to compute a convolution. All of them pass the same cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rung {
    /// f32 multiply-adds on tiles in shared memory, any card.
    Plain,
    /// Tensor cores through `mma.sync`, tiles by `cp.async`: sm_80 on.
    Mma,
    /// Tensor cores through `wgmma`, tiles by TMA, warps specialised: sm_90a.
    Wgmma,
}

impl Rung {
    /// Its name in [`RUNGS`].
    pub fn name(self) -> &'static str {
        RUNGS.iter().find(|r| r.1 == self).map_or("plain", |r| r.0)
    }
    /// The rung of that name.
    ///
    /// # Errors
    /// A name that is not in [`RUNGS`].
    pub fn parse(name: &str) -> Result<Rung> {
        let names = || RUNGS.iter().map(|r| r.0);
        RUNGS.iter().find(|r| r.0 == name).map(|r| r.1).ok_or_else(|| {
            let hint = nearest(name, names()).map_or(String::new(), |n| format!("; did you mean '{n}'?"));
            let known = names().collect::<Vec<_>>().join(", ");
            Error::usage(format!("unknown rung '{name}' (known: {known}){hint}"))
        })
    }
    /// Returns true if cards of compute capability `arch` have it, and it multiplies in `dtype`.
    pub fn fits(self, arch: u32, dtype: DType) -> bool {
        // wgmma is a feature of sm_90a alone: no later card has it.
        let newest = if self == Rung::Wgmma { 90 } else { u32::MAX };
        RUNGS.iter().any(|r| r.1 == self && (r.2..=newest).contains(&arch) && r.3.contains(&dtype))
    }
}

/// Names of the rungs, from the lowest on: name, rung, lowest compute capability, dtypes.
pub const RUNGS: &[(&str, Rung, u32, &[DType])] = &[
    ("plain", Rung::Plain, 0, &[DType::F32, DType::Tf32, DType::Bf16, DType::F16]),
    ("mma", Rung::Mma, 80, &[DType::Tf32, DType::Bf16, DType::F16]),
    ("wgmma", Rung::Wgmma, 90, &[DType::Bf16, DType::F16]),
];

/// The matrix product that a call is: see `kernels/conv_gather.cuh` for its rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    Forward,
    BackwardData,
    BackwardWeight,
}

impl Pass {
    /// The value of the macro PASS.
    pub fn name(self) -> &'static str {
        match self {
            Pass::Forward => "FORWARD",
            Pass::BackwardData => "BACKWARD_DATA",
            Pass::BackwardWeight => "BACKWARD_WEIGHT",
        }
    }
}

/// Choice of a rung.
#[derive(Clone, Debug, Default)]
pub struct Rungs {
    /// Take this one wherever it can be taken.
    pub forced: Option<Rung>,
    /// The fastest rung that `bench --tune` found, by [`Rungs::key`]. Other shapes take the highest rung that can.
    pub table: BTreeMap<String, Rung>,
}

impl Rungs {
    /// Name of a product in the table: "forward 32x32x160 -> 160, 3x3, stride 1, pad 1, bf16". The batch is not part of it.
    pub fn key(pass: Pass, s: &ConvShape, dtype: DType) -> String {
        let ConvShape { n: _, h, w, ci, co, k, stride, pad } = *s;
        let pass = pass.name().to_lowercase();
        format!("{pass} {h}x{w}x{ci} -> {co}, {k}x{k}, stride {stride}, pad {pad}, {}", dtype.name())
    }

    /// Reads a table that [`Rungs::to_json`] wrote.
    ///
    /// # Errors
    /// A file that is missing, no such table, or names an unknown rung; the message names the file.
    pub fn load(path: &Path) -> Result<Rungs> {
        let text = read_text(path, MAX_JSON)?;
        Rungs::from_json(&text).map_err(|e| Error::data(format!("tuning table {}: {e}", path.display())))
    }

    fn from_json(text: &str) -> Result<Rungs> {
        let again = "write it again with 'samcore bench --tune'";
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|e| Error::data(format!("not JSON ({e}); {again}")))?;
        let rows = value.as_object().and_then(|o| o.get("rungs")).and_then(|r| r.as_object());
        let rows = rows.ok_or_else(|| Error::data(format!("no object 'rungs' in it; {again}")))?;
        let row = |(key, rung): (&String, &serde_json::Value)| {
            let name = rung.as_str().ok_or_else(|| Error::data(format!("'{key}' has no rung's name; {again}")))?;
            let rung = Rung::parse(name).map_err(|e| e.context(format_args!("'{key}'")))?;
            Ok((key.clone(), rung))
        };
        Ok(Rungs { forced: None, table: rows.iter().map(row).collect::<Result<_>>()? })
    }

    /// The table as text: `{"rungs": {key: name}}`, a line a shape, in the order of keys.
    pub fn to_json(&self) -> String {
        let row =
            |(key, rung): (&String, &Rung)| format!("    {}: \"{}\"", serde_json::Value::from(&**key), rung.name());
        let rows: Vec<String> = self.table.iter().map(row).collect();
        if rows.is_empty() {
            return "{\n  \"rungs\": {}\n}\n".to_owned();
        }
        format!("{{\n  \"rungs\": {{\n{}\n  }}\n}}\n", rows.join(",\n"))
    }

    /// Eight hex digits that tell tables (and a forced rung) apart: bits of results depend on which rung is taken.
    pub fn hash(&self) -> String {
        let forced = self.forced.map_or("", Rung::name);
        let digest = Sha256::digest(format!("{forced}\n{}", self.to_json()));
        digest[..4].iter().map(|b| format!("{b:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Rungs {
        let shape = ConvShape { n: 7, h: 32, w: 32, ci: 160, co: 160, k: 3, stride: 1, pad: 1 };
        let key = |pass| Rungs::key(pass, &shape, DType::Bf16);
        let rows = [(key(Pass::Forward), Rung::Wgmma), (key(Pass::BackwardWeight), Rung::Mma)];
        Rungs { forced: None, table: rows.into() }
    }

    #[test]
    fn a_table_comes_back_from_its_file() {
        let folder = std::env::temp_dir().join(format!("samcore-rungs-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("tuned.json");
        for rungs in [table(), Rungs::default()] {
            std::fs::write(&path, rungs.to_json()).unwrap();
            let back = Rungs::load(&path).unwrap();
            assert_eq!((back.table.clone(), back.hash()), (rungs.table.clone(), rungs.hash()));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_damaged_table_is_an_error_that_names_the_file() {
        let folder = std::env::temp_dir().join(format!("samcore-bad-rungs-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("bad.json");
        let whole = table().to_json();
        let cases = [
            (&whole[..whole.len() / 2], "not JSON"),
            ("[]", "no object 'rungs'"),
            (r#"{"rungs": {"a": 3}}"#, "'a' has no rung's name"),
            (r#"{"rungs": {"a": "mna"}}"#, "did you mean 'mma'"),
        ];
        for (text, words) in cases {
            std::fs::write(&path, text).unwrap();
            let message = Rungs::load(&path).unwrap_err().to_string();
            assert!(message.contains("bad.json") && message.contains(words), "{message}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
        let missing = Rungs::load(&path).unwrap_err();
        assert!(missing.exit_code() == 66 && missing.to_string().contains("bad.json"), "{missing}");
    }

    #[test]
    fn other_rungs_have_another_hash() {
        let mut changed = table();
        *changed.table.values_mut().next().unwrap() = Rung::Plain;
        let forced = Rungs { forced: Some(Rung::Mma), ..table() };
        let hashes = [Rungs::default().hash(), table().hash(), changed.hash(), forced.hash()];
        for (i, hash) in hashes.iter().enumerate() {
            assert!(hash.len() == 8 && !hashes[..i].contains(hash), "{hashes:?}");
        }
    }

    #[test]
    fn a_rung_is_for_cards_that_have_its_instructions() {
        assert!(Rung::Plain.fits(75, DType::Bf16) && !Rung::Mma.fits(75, DType::Bf16));
        assert!(Rung::Mma.fits(120, DType::Tf32) && !Rung::Mma.fits(120, DType::F32));
        assert!(Rung::Wgmma.fits(90, DType::F16) && !Rung::Wgmma.fits(120, DType::F16));
    }
}
