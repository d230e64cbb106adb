//! `samcore plot`.

use super::flags::{path, path_flag};
use super::print;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::files::{MAX_JSON, read_bytes, write_atomic};
use crate::protocol::{compare, folder};
use crate::recipe::Recipe;
use crate::study::restore::{Restored, restore};
use crate::train::curves::{self, Caption};
use crate::train::run_folder::RunFolder;
use clap::{Arg, ArgMatches, Command, ValueHint};
use std::path::{Path, PathBuf};

pub fn build(command: Command) -> Command {
    let folder = Arg::new("folder").value_name("DIR").value_parser(clap::value_parser!(PathBuf));
    let folder = folder.value_hint(ValueHint::DirPath).required(true);
    command.args([
        folder.help("folder of a run, of a comparison, or of a study's --out"),
        path_flag("out", "DIR", "write there [beside what is drawn]"),
    ])
}

/// # Errors
/// NoInput, Data: the folder holds nothing to draw, or a damaged file. CantCreate, Io: a figure cannot be written.
pub fn run(matches: &ArgMatches) -> Result<()> {
    let from = path(matches, "folder").unwrap_or_default();
    let to = path(matches, "out").unwrap_or_else(|| from.clone());
    std::fs::create_dir_all(&to).map_err(|e| Error::io("create folder", &to, &e))?;
    let names = draw(&from, &to)?;
    print(&names.iter().map(|name| format!("{}\n", to.join(name).display())).collect::<String>())
}

/// Draws what is in the folder `from` into the folder `to`; returns the names of the files.
fn draw(from: &Path, to: &Path) -> Result<Vec<&'static str>> {
    if from.join(folder::REQUEST).is_file() {
        return compare::redraw(from, to);
    }
    if let Ok(config) = RunFolder::config_of(from) {
        let recipe = Recipe::read(&config)?;
        // Titles have a folder of images by its last name.
        let data =
            Path::new(&recipe.data).file_name().map_or(recipe.data.as_str().into(), |name| name.to_string_lossy());
        let caption = Caption::of(&recipe, &data);
        curves::draw(&caption, &from.join("metrics.csv"), &from.join("steps.jsonl"), &to.join("curves.svg"))?;
        return Ok(vec!["curves.svg"]);
    }
    let results = ["corrupt.json", "sharpness.json"].map(|name| from.join(name));
    let Some(file) = results.iter().find(|file| file.is_file()) else {
        let message = format!("{} is the folder of no run, comparison or study", from.display());
        return Err(Error::new(ErrorKind::NoInput, message));
    };
    let bytes = read_bytes(file, MAX_JSON)?;
    let json = serde_json::from_slice(&bytes).map_err(|e| Error::data(format!("{}: {e}", file.display())))?;
    let wrong = || Error::data(format!("{} is not the result of 'samcore study'", file.display()));
    let figures = match restore(&json).ok_or_else(wrong)? {
        Restored::Corrupt(source, study) => {
            let map = study.map(&source).map(|map| ("layers.svg", map.to_svg()));
            [("corrupt.svg", study.curves(&source).to_svg())].into_iter().chain(map).collect()
        }
        Restored::Sharpness(source, study) => vec![("sharpness.svg", study.curves(&source).to_svg())],
    };
    figures.into_iter().map(|(name, svg)| write_atomic(&to.join(name), svg.as_bytes()).map(|()| name)).collect()
}
