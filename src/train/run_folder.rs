//! The folder of a run: made once, held by one process at a time, found again to resume.

use crate::clock::Civil;
use crate::error::{Error, Kind, Result};
use crate::files;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Locked for as long as a process writes to the folder. The lock goes with the process, however that ends; the empty
/// file stays, for a process that removed it could take it away from one that has just opened it.
const LOCK: &str = ".lock";
const CONFIG: &str = "config.toml";
const LAST: &str = "last.safetensors";
const BEST: &str = "best.safetensors";
const METRICS: &str = "metrics.csv";
const STEPS: &str = "steps.jsonl";

/// Returns the checkpoint that `path` names: itself; of a run's folder best.safetensors, or last.safetensors before there is a
/// best one.
///
/// # Errors
/// NoInput: a folder that has neither.
pub fn checkpoint_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let files = [BEST, LAST].map(|name| path.join(name));
    files.into_iter().find(|file| file.is_file()).ok_or_else(|| {
        let hint = runs_in(path);
        let message = format!("{} is a folder without {BEST} or {LAST}{hint}", path.display());
        Error::new(Kind::NoInput, message)
    })
}

/// Returns a hint at the runs in the folders below `folder`, empty if there are none.
fn runs_in(folder: &Path) -> String {
    let entries = files::read_dir(folder).into_iter().flatten().flatten();
    let mut runs: Vec<PathBuf> = entries.map(|e| e.path()).filter(|path| path.join(CONFIG).is_file()).collect();
    runs.sort();
    let comparison = folder.join("compare.toml").is_file();
    match runs.first() {
        _ if comparison => format!("; it is of a comparison: samcore compare --resume {}", folder.display()),
        None => String::new(),
        Some(first) if runs.len() == 1 => format!("; it holds the run {}", first.display()),
        Some(first) => format!("; it holds {} runs, such as {}", runs.len(), first.display()),
    }
}

/// A run's folder, held until this is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    lock: Lock,
}

/// The lock file, held open; a file system without locks cannot lock it.
#[derive(Debug)]
struct Lock {
    _file: File,
    locked: bool,
}

impl RunFolder {
    /// A folder for a new run: `out`, or else `<root>/<YYYY-MM-DD-HHMMSS>-<name>` in UTC, with `-2`, `-3` … where taken.
    ///
    /// # Errors
    /// Usage: `name` is not fit for a file name. CantCreate: `out` holds files or is in use, or no folder can be made.
    pub fn create(root: &Path, name: &str, out: Option<&Path>) -> Result<RunFolder> {
        match out {
            Some(out) => RunFolder::create_at(out),
            None => RunFolder::create_stamped(root, name, &Civil::now().stamp()),
        }
    }

    fn create_at(path: &Path) -> Result<RunFolder> {
        let failed = |e: std::io::Error| Error::io("create folder", path, &e);
        std::fs::create_dir_all(path).map_err(failed)?;
        // A run that is going on there is the better reason to give than the files that it has written.
        let held = if path.join(LOCK).exists() { Some(lock(path)?) } else { None };
        if held.is_some() {
            remove_leftovers(path)?;
        }
        for entry in files::read_dir(path).map_err(failed)? {
            if entry.map_err(failed)?.file_name() != LOCK {
                let folder = path.display();
                let advice = format!("resume it with '--resume {folder}', or give --out another folder");
                return Err(Error::new(Kind::CantCreate, format!("{folder} is not empty: {advice}")));
            }
        }
        let lock = held.map_or_else(|| lock(path), Ok)?;
        Ok(RunFolder { path: path.to_path_buf(), lock })
    }

    fn create_stamped(root: &Path, name: &str, stamp: &str) -> Result<RunFolder> {
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            let allowed = "letters, digits, '.', '_' and '-'";
            return Err(Error::usage(format!("--name must consist of {allowed}, not '{name}'")));
        }
        std::fs::create_dir_all(root).map_err(|e| Error::io("create folder", root, &e))?;
        let mut path = root.join(format!("{stamp}-{name}"));
        // Making the folder is what claims its name, should two runs start within the same second.
        for suffix in 2.. {
            match std::fs::create_dir(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    path = root.join(format!("{stamp}-{name}-{suffix}"));
                }
                Err(e) => return Err(Error::io("create folder", &path, &e)),
                Ok(()) => break,
            }
        }
        let lock = lock(&path)?;
        Ok(RunFolder { path, lock })
    }

    /// Opens the folder of a run that is to be resumed.
    ///
    /// # Errors
    /// NoInput: not a run's folder, or a file of the run is none. CantCreate: another process is writing to it.
    pub fn reopen(path: &Path) -> Result<RunFolder> {
        if !RunFolder::has_run(path)? {
            RunFolder::config_of(path)?;
        }
        // Records are written where they lie: through a symbolic link that would be elsewhere, into a pipe it would wait.
        for name in [LOCK, STEPS, METRICS] {
            is_regular(&path.join(name))?;
        }
        let lock = lock(path)?;
        remove_leftovers(path)?;
        Ok(RunFolder { path: path.to_path_buf(), lock })
    }

    /// The folder `path`, made if need be, whatever it holds: one that several runs lie in.
    ///
    /// # Errors
    /// CantCreate: another process is writing to it, or it cannot be made.
    pub fn hold(path: &Path) -> Result<RunFolder> {
        std::fs::create_dir_all(path).map_err(|e| Error::io("create folder", path, &e))?;
        let lock = lock(path)?;
        remove_leftovers(path)?;
        Ok(RunFolder { path: path.to_path_buf(), lock })
    }

    /// The recipe of the run in `folder`, which need not be held.
    ///
    /// # Errors
    /// NoInput: not a run's folder.
    pub fn config_of(folder: &Path) -> Result<PathBuf> {
        if let Some(config) = RunFolder::config_in(folder)? {
            return Ok(config);
        }
        let hint = runs_in(folder);
        let message = format!("{} is not the folder of a run: it has no {CONFIG}{hint}", folder.display());
        Err(Error::new(Kind::NoInput, message))
    }

    /// Returns the folder of the run that `path` names: itself, or the folder of a file in it.
    ///
    /// # Errors
    /// Usage: the file is not what a run is resumed from.
    pub fn named(path: &Path) -> Result<PathBuf> {
        if !path.is_file() {
            return Ok(path.to_path_buf());
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if path.file_name().is_some_and(|name| name == BEST) {
            let (file, folder) = (path.display(), parent.display());
            let message = format!("{file} has weights alone, and no run can be resumed from it; give {folder}/{LAST}");
            return Err(Error::usage(message));
        }
        Ok(parent.to_path_buf())
    }
    /// Returns the path of the recipe in `folder`, which need not be held, if there is one.
    ///
    /// # Errors
    /// NoInput: it is no regular file.
    pub fn config_in(folder: &Path) -> Result<Option<PathBuf>> {
        let config = RunFolder::config_path(folder);
        Ok(is_regular(&config)?.then_some(config))
    }

    /// Returns whether `folder`, which need not be held, has a recipe or a checkpoint of a run.
    ///
    /// # Errors
    /// NoInput: the recipe is no regular file.
    pub fn has_run(folder: &Path) -> Result<bool> {
        Ok(RunFolder::config_in(folder)?.is_some() || RunFolder::has_begun(folder))
    }

    /// Returns the warning for a folder on a file system without locks.
    pub fn warning(&self) -> Option<String> {
        let what = "is on a file system without locks; make sure that no other process writes there";
        (!self.lock.locked).then(|| format!("{} {what}", self.path.display()))
    }

    /// Returns where the recipe of the run in `folder` belongs.
    pub fn config_path(folder: &Path) -> PathBuf {
        folder.join(CONFIG)
    }
    /// Returns where the newest checkpoint of the run in `folder` belongs.
    pub fn last_in(folder: &Path) -> PathBuf {
        folder.join(LAST)
    }
    /// Returns where the environment of the run in `folder` belongs.
    pub fn environment_in(folder: &Path) -> PathBuf {
        folder.join("env.json")
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The recipe, with every "auto" resolved.
    pub fn config(&self) -> PathBuf {
        RunFolder::config_path(&self.path)
    }
    /// Software and machine of the run.
    pub fn environment(&self) -> PathBuf {
        RunFolder::environment_in(&self.path)
    }
    /// Tensors that a run took from the file that it began with, where there was one.
    pub fn init(&self) -> PathBuf {
        self.path.join("init.json")
    }
    /// One row an epoch.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }
    /// One object a step.
    pub fn steps(&self) -> PathBuf {
        self.path.join(STEPS)
    }
    /// Folder of event files for TensorBoard, if there are any.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }
    /// The labels of all training images, where predictions have taken the place of some.
    pub fn labels(&self) -> PathBuf {
        RunFolder::labels_in(&self.path)
    }
    /// Returns the labels' file in a run's folder that need not be held.
    pub fn labels_in(folder: &Path) -> PathBuf {
        folder.join("labels.idx1-ubyte")
    }
    /// Counts of wrong and predicted labels, where there are some.
    pub fn label_counts(&self) -> PathBuf {
        self.path.join("labels.json")
    }
    /// Returns true if the run in `folder`, which need not be held, has a checkpoint.
    pub fn has_begun(folder: &Path) -> bool {
        folder.join(LAST).exists()
    }
    pub fn curves(&self) -> PathBuf {
        self.path.join("curves.svg")
    }
    /// The newest checkpoint.
    pub fn last(&self) -> PathBuf {
        RunFolder::last_in(&self.path)
    }
    /// The checkpoint with the best accuracy so far.
    pub fn best(&self) -> PathBuf {
        self.path.join(BEST)
    }
}

fn lock(folder: &Path) -> Result<Lock> {
    let path = folder.join(LOCK);
    is_regular(&path)?;
    let options = File::options().create(true).write(true).truncate(false).open(&path);
    let file = options.map_err(|e| Error::io("create lock file", &path, &e))?;
    // A signal that arrives meanwhile says nothing about the lock.
    let tried = loop {
        match file.try_lock() {
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    let locked = has_locked(tried, folder)?;
    Ok(Lock { _file: file, locked })
}

/// Returns whether trying to lock the lock file of `folder` succeeded; false where its file system has no locks.
///
/// # Errors
/// CantCreate: another process holds it. Io and the like: the system fails otherwise.
fn has_locked(tried: std::result::Result<(), TryLockError>, folder: &Path) -> Result<bool> {
    /// ENOLCK of Linux and macOS, which network file systems without a lock server give.
    const NO_LOCKS: [i32; 2] = [37, 77];
    match tried {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => {
            let message = format!("{} is in use by another samcore process; wait for its end", folder.display());
            Err(Error::new(Kind::CantCreate, message))
        }
        Err(TryLockError::Error(e)) => {
            let unsupported = e.kind() == std::io::ErrorKind::Unsupported;
            match unsupported || e.raw_os_error().is_some_and(|code| NO_LOCKS.contains(&code)) {
                true => Ok(false),
                false => Err(Error::io("lock", &folder.join(LOCK), &e)),
            }
        }
    }
}

/// Returns whether there is a regular file at `path`; false if nothing is there.
///
/// # Errors
/// NoInput: something else is there, such as a symbolic link or a pipe.
fn is_regular(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => Ok(true),
        Ok(meta) => {
            let what = if meta.is_symlink() { "a symbolic link" } else { "no regular file" };
            let message = format!("{} is {what}; a run's own files must be regular files", path.display());
            Err(Error::new(Kind::NoInput, message))
        }
        Err(_) => Ok(false),
    }
}

/// Removes what [`crate::files::write_atomic`] leaves beside a file when its process is killed: `.NAME.*.tmp`.
///
/// Only the holder of the lock may do this; no other process then writes here.
fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in files::read_dir(folder).map_err(|e| Error::io("read folder", folder, &e))? {
        let entry = entry.map_err(|e| Error::io("read folder", folder, &e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            std::fs::remove_file(entry.path()).map_err(|e| Error::io("remove", &entry.path(), &e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::files::TestFolder;
    use std::process::{Command, Stdio};

    #[test]
    fn a_run_is_named_by_its_folder_or_a_file_in_it() {
        let scratch = TestFolder::new("named");
        let run = scratch.0.join("first");
        std::fs::create_dir(&run).unwrap();
        let [config, best, last] = [CONFIG, BEST, LAST].map(|name| run.join(name));
        assert!(
            checkpoint_of(&run)
                .unwrap_err()
                .to_string()
                .ends_with("is a folder without best.safetensors or last.safetensors")
        );
        std::fs::write(&config, "").unwrap();
        std::fs::write(&last, "").unwrap();
        assert_eq!((checkpoint_of(&run), RunFolder::named(&last)), (Ok(last.clone()), Ok(run.clone())));
        std::fs::write(&best, "").unwrap();
        assert_eq!((checkpoint_of(&run), checkpoint_of(&last)), (Ok(best.clone()), Ok(last)));
        assert!(RunFolder::named(&best).unwrap_err().to_string().contains("has weights alone"));
        assert_eq!(RunFolder::named(&run), Ok(run.clone()));
        // A folder of runs says what it holds.
        let above = RunFolder::config_of(&scratch.0).unwrap_err().to_string();
        assert!(above.ends_with(&format!("it has no config.toml; it holds the run {}", run.display())), "{above}");
        std::fs::write(scratch.0.join("compare.toml"), "").unwrap();
        assert!(checkpoint_of(&scratch.0).unwrap_err().to_string().contains("samcore compare --resume"));
    }

    /// This test program once more, to run only the test `name`.
    pub(crate) fn child(name: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).stdin(Stdio::null());
        command
    }

    #[test]
    fn runs_of_the_same_second_get_folders_of_their_own() {
        let scratch = TestFolder::new("stamped");
        let root = scratch.0.join("runs");
        let make = || RunFolder::create_stamped(&root, "sam-cnn", "2026-07-12-101530");
        let folders = [make().unwrap(), make().unwrap(), make().unwrap()];
        let names = folders.each_ref().map(|f| f.path().file_name().unwrap().to_str().unwrap());
        let first = "2026-07-12-101530-sam-cnn";
        assert_eq!(names, [first, &format!("{first}-2"), &format!("{first}-3")]);
        for wrong in ["", "a/b", "..\\a", "a b", "ä"] {
            assert_eq!(RunFolder::create(&root, wrong, None).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn a_given_folder_must_be_new_or_empty_and_not_in_use() {
        let scratch = TestFolder::new("given");
        let out = scratch.0.join("deep/run");
        let create = || RunFolder::create(Path::new("unused"), "", Some(&out));
        let folder = create().unwrap();
        assert_eq!(folder.path(), out);
        std::fs::write(folder.config(), "lr = 0.1").unwrap();
        let shown = out.display().to_string();
        for refused in [create(), RunFolder::reopen(&out)] {
            let e = refused.unwrap_err();
            assert_eq!((e.kind, e.to_string().contains("in use")), (Kind::CantCreate, true), "{e}");
            assert!(e.to_string().contains(&shown), "{e}");
        }
        drop(folder);
        let e = create().unwrap_err();
        assert_eq!((e.kind, e.to_string().contains("--resume")), (Kind::CantCreate, true), "{e}");
        RunFolder::reopen(&out).unwrap();
        // A run that failed before it wrote anything has left but its lock file and a torn one, which are no obstacle.
        std::fs::remove_file(out.join(CONFIG)).unwrap();
        std::fs::write(out.join(".config.toml.1234.0.tmp"), "lr = ").unwrap();
        create().unwrap();
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1, "the lock file alone");
        assert_eq!(RunFolder::reopen(&out).unwrap_err().kind, Kind::NoInput);
        std::fs::write(scratch.0.join("file"), "").unwrap();
        let onto_file = RunFolder::create(Path::new("unused"), "", Some(&scratch.0.join("file")));
        assert_eq!(onto_file.unwrap_err().kind, Kind::CantCreate);
    }

    #[test]
    fn a_file_system_without_locks_is_no_obstacle() {
        let folder = Path::new("run");
        let failed = |code: i32| Err(TryLockError::Error(std::io::Error::from_raw_os_error(code)));
        // ENOLCK, EOPNOTSUPP and ENOSYS of Linux.
        for code in [37, 95, 38] {
            assert_eq!(has_locked(failed(code), folder), Ok(false), "{code}");
        }
        assert_eq!(has_locked(Ok(()), folder), Ok(true));
        assert_eq!(has_locked(Err(TryLockError::WouldBlock), folder).unwrap_err().kind, Kind::CantCreate);
        assert!(has_locked(failed(5), folder).unwrap_err().to_string().contains("cannot lock run/.lock"));
    }

    #[test]
    fn child_takes_a_folder() {
        let Ok(path) = std::env::var("SAMCORE_TEST_FOLDER") else { return };
        let taken = RunFolder::reopen(Path::new(&path));
        println!("{}", if taken.is_ok() { "taken" } else { "refused" });
        // Ends without running any destructor, as a killed process would.
        std::process::abort();
    }

    #[test]
    fn the_lock_keeps_other_processes_out_and_dies_with_its_own() {
        let scratch = TestFolder::new("processes");
        std::fs::write(scratch.0.join(CONFIG), "").unwrap();
        let other = || {
            let mut command = child("train::run_folder::tests::child_takes_a_folder");
            let done = command.env("SAMCORE_TEST_FOLDER", &scratch.0).output().unwrap();
            let text = String::from_utf8_lossy(&done.stdout).to_string();
            assert!(text.contains("taken") || text.contains("refused"), "{text}");
            text.contains("taken")
        };
        let folder = RunFolder::reopen(&scratch.0).unwrap();
        assert!(!other());
        drop(folder);
        assert!(other());
        RunFolder::reopen(&scratch.0).unwrap();
    }
}
