//! Options that the studies share: the checkpoint and its data, outputs, progress.

use crate::cli::bench::check_place;
use crate::cli::eval::{self, Given, Loaded};
use crate::cli::flags::{count, path};
use crate::cli::meter::Meter;
use crate::device::Device;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::files::{self, sha256_hex, write_atomic};
use crate::graph::Graph;
use crate::output::{note, show};
use crate::study::journal::{Journal, OnProgress, Progress};
use crate::study::{Probe, Source};
use crate::train::checkpoint::Vectors;
use crate::train::engine::{self, TEST, TRAIN};
use crate::train::measured::Images;
use crate::train::progress::{Style, clock_face};
use crate::train::signals;
use clap::ArgMatches;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A constructor of [`Probe`].
type MakeProbe = fn(&Graph, Box<dyn Device>, &[usize], &Vectors, usize) -> Result<Probe>;

/// Options that the actions share: sources, outputs, progress.
pub struct Options {
    pub given: Given,
    pub seed: u64,
    pub csv: Option<PathBuf>,
    pub out: Option<PathBuf>,
    pub json: bool,
    pub style: Style,
}

impl Options {
    /// Reads the flags of an action that writes `files` to the folder of --out.
    ///
    /// # Errors
    /// Usage: a wrong value. CantCreate: nothing can be written there.
    pub fn of(matches: &ArgMatches, files: &[&str]) -> Result<Options> {
        let (csv, out) = (path(matches, "csv"), path(matches, "out"));
        if let Some(file) = &csv {
            check_place("--csv", file)?;
        }
        if let Some(folder) = &out {
            check_folder(folder, files)?;
        }
        let seed = count(matches, "seed", 0, u64::MAX)?.unwrap_or(0);
        let (json, style) = (matches.get_flag("json"), Style::detect(matches.get_flag("quiet")));
        Ok(Options { given: eval::given(matches)?, seed, csv, out, json, style })
    }

    /// The model on its device with both halves of its data; and what it is, for results. `measured` are the training
    /// images that are measured, of `images`; `host` are the bytes that the study takes beside the model.
    pub fn probe(
        &mut self,
        loaded: &Loaded,
        images: &Images,
        measured: &[u32],
        rows: &[usize],
        host: usize,
    ) -> Result<(Probe, Source)> {
        self.make(Probe::new, loaded, (images, measured), rows, host)
    }

    /// As [`Options::probe`], for a study that takes gradients against given targets.
    pub fn probe_with_targets(
        &mut self,
        loaded: &Loaded,
        images: &Images,
        measured: &[u32],
        rows: &[usize],
        host: usize,
    ) -> Result<(Probe, Source)> {
        self.make(Probe::with_targets, loaded, (images, measured), rows, host)
    }

    fn make(
        &mut self,
        make: MakeProbe,
        loaded: &Loaded,
        (images, measured): (&Images, &[u32]),
        rows: &[usize],
        host: usize,
    ) -> Result<(Probe, Source)> {
        let device = engine::device(&mut self.given.recipe)?;
        let source = Source {
            checkpoint: self.given.checkpoint.display().to_string(),
            model: loaded.of.model.clone(),
            data: loaded.data.name.clone(),
            step: loaded.step,
            classes: loaded.of.classes,
            weights: loaded.taken.name(),
            training_images: images.to_json(&loaded.data, measured),
            device: device.describe(),
        };
        let mut probe = make(&loaded.graph, device, rows, &loaded.vectors, host)?;
        probe.set_dataset(TRAIN, &loaded.data.train)?;
        probe.set_dataset(TEST, &loaded.data.test)?;
        if let Some(folder) = &self.out {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("create folder", folder, &e))?;
        }
        Ok((probe, source))
    }

    /// Describes the study for its journal: its kind, the checkpoint by content, the images and `settings`. Device and threads
    /// are left out, so that it may go on elsewhere.
    pub fn identity(&self, study: &str, loaded: &Loaded, source: &Source, settings: &Value) -> Value {
        let mut hash = Vec::with_capacity(4 * (loaded.vectors.weights.len() + loaded.vectors.running.len()));
        hash.extend_from_slice(bytemuck::cast_slice(&loaded.vectors.weights));
        hash.extend_from_slice(bytemuck::cast_slice(&loaded.vectors.running));
        let mut identity =
            json!({"study": study, "weights": sha256_hex(&hash), "data": source.data, "seed": self.seed});
        identity["images"] = source.training_images.clone();
        for (key, value) in settings.as_object().into_iter().flatten() {
            identity[key] = value.clone();
        }
        identity
    }

    /// Opens the journal of a study of `total` measurements in the folder of --out; without a folder it is kept in memory, and
    /// a stopped study begins anew. `identity` is that of [`Options::identity`].
    ///
    /// # Errors
    /// CantCreate, Data: as for [`Journal::open`]. Unavailable: the system refuses a signal handler.
    pub fn journal<'a>(&self, identity: &Value, total: usize, on_progress: OnProgress<'a>) -> Result<Journal<'a>> {
        let Some(folder) = &self.out else { return Ok(Journal::in_memory(total, on_progress)) };
        signals::install()?;
        let name = identity["study"].as_str().unwrap_or_default();
        Journal::open(&folder.join(journal_name(name)), identity, total, on_progress)
    }

    /// Writes the result wherever it was asked for; `figures` are those of --out. In that folder the JSON comes last, once all
    /// else was written: without it the study is unfinished, see [`check_folder`].
    pub fn write(&self, text: &str, csv: &str, json: &Value, name: &str, figures: &[(&str, String)]) -> Result<()> {
        // A place that cannot be written costs no other its result, which took minutes; the first is reported at the end.
        let csv_file = self.csv.as_ref().map_or(Ok(()), |file| write_atomic(file, csv.as_bytes()));
        let folder = self.out.as_ref().map_or(Ok(()), |folder| {
            let mut written = write_atomic(&folder.join(format!("{name}.csv")), csv.as_bytes());
            for (name, content) in figures {
                written = written.and(write_atomic(&folder.join(name), content.as_bytes()));
            }
            written?;
            let last = folder.join(format!("{name}.json"));
            // A file in place that may not outlive a power cut counts as not written.
            write_atomic(&last, format!("{json:#}\n").as_bytes()).inspect_err(|_| _ = std::fs::remove_file(&last))?;
            // Of no use any more, so one that stays costs nobody the result.
            let journal = folder.join(journal_name(name));
            match std::fs::remove_file(&journal) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    note(&format!("could not remove {} ({e}); it is not needed any more", journal.display()));
                }
                _ => {}
            }
            Ok(())
        });
        show(&if self.json { format!("{json}\n") } else { text.to_owned() });
        csv_file.and(folder)
    }
}

/// Checks that results can go to this folder: it does not exist yet, is empty, or holds only what an unfinished study of this
/// kind wrote: all of `files` but the last, and its journal.
///
/// # Errors
/// CantCreate: it holds something else, or is no folder.
fn check_folder(folder: &Path, files: &[&str]) -> Result<()> {
    let refuse = |what: &str| {
        let message = format!("--out: {} {what}; give another folder", folder.display());
        Err(Error::new(ErrorKind::CantCreate, message))
    };
    let unfinished = &files[..files.len() - 1];
    let last = files[files.len() - 1];
    let journal = journal_name(last.strip_suffix(".json").unwrap_or(last));
    match files::read_dir(folder) {
        Ok(mut entries) => {
            let stranger = |name: std::ffi::OsString| name != *journal && unfinished.iter().all(|file| name != **file);
            let other = entries.any(|entry| entry.map_or(true, |entry| stranger(entry.file_name())));
            if other { refuse("is not empty") } else { Ok(()) }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => refuse(&format!("cannot be used: {e}")),
    }
}

/// Name of the file in which a study keeps its measurements until it is finished.
pub fn journal_name(study: &str) -> String {
    format!("{study}.journal")
}

/// Shows progress on `meter`, `what` being measured; a signal ends the study.
///
/// # Errors
/// Interrupted: a signal has come.
pub fn show_progress(meter: &mut Meter, what: &str, progress: Progress) -> Result<()> {
    let Progress { done, total, seconds_left } = progress;
    if let Some(signal) = signals::requested().filter(|_| done < total) {
        meter.erase();
        let message = format!("stopped by {signal} after {done} of {total} {what}; the same command goes on");
        return Err(Error::new(ErrorKind::Interrupted, message));
    }
    if meter.is_due() {
        meter.show(&format!("{done} of {total} {what}, {} left", clock_face(seconds_left)));
    }
    Ok(())
}
