//! `samcore plot`.

use super::flags::{path, path_flag};
use super::print;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::files::{MAX_JSON, read_bytes, write_atomic};
use crate::protocol::{compare, folder};
use crate::recipe::Recipe;
use crate::study::{STUDIES, StudyRow};
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
    let result = |study: &StudyRow| from.join(format!("{}.json", study.name));
    let Some(study) = STUDIES.iter().find(|study| result(study).is_file()) else {
        let message = format!("{} is the folder of no run, comparison or study", from.display());
        return Err(Error::new(ErrorKind::NoInput, message));
    };
    let file = result(study);
    let bytes = read_bytes(&file, MAX_JSON)?;
    let json = serde_json::from_slice(&bytes).map_err(|e| Error::data(format!("{}: {e}", file.display())))?;
    let wrong = || Error::data(format!("{} is not the result of 'samcore study {}'", file.display(), study.name));
    let figures = (study.figures)(&json).ok_or_else(wrong)?;
    figures.into_iter().map(|(name, svg)| write_atomic(&to.join(name), svg.as_bytes()).map(|()| name)).collect()
}
