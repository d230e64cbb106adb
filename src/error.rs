//! One error type: what was wrong, where, and what to do, with the exit code that `main` ends with.

use crate::output::printable;
use std::fmt;
use std::path::Path;

/// What sort of thing went wrong. Each kind is one process exit code; see [`KINDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command line that cannot be understood: unknown flag, model or optimizer, value out of range.
    Usage,
    /// A file whose content is wrong: bad magic, truncated, label out of range, damaged checkpoint.
    Data,
    /// A file or folder that is not there or cannot be read.
    NoInput,
    /// Something this machine lacks: a GPU, a driver, a compiler.
    Unavailable,
    /// A mistake in samcore itself: a broken promise between its parts.
    Internal,
    /// An output that cannot be created: folder not writable, run folder in use.
    CantCreate,
    /// Reading or writing broke midway: full disk, failing device.
    Io,
    /// Stopped by Ctrl-C or SIGTERM after saving; `--resume` goes on.
    Interrupted,
    /// Loss or gradient not finite; the last good checkpoint is kept.
    NotFinite,
    /// A check did not hold: `samcore check` found a wrong value.
    CheckFailed,
}

/// Exit codes, as `samcore --help` and the README list them (numbers follow BSD's `sysexits.h` where it has one).
pub const KINDS: &[(Kind, i32, &str)] = &[
    (Kind::CheckFailed, 1, "a check failed"),
    (Kind::Usage, 2, "wrong flag, name or value"),
    (Kind::Data, 65, "a file's content is wrong"),
    (Kind::NoInput, 66, "a file or folder is missing or unreadable"),
    (Kind::Unavailable, 69, "this machine lacks what was asked for"),
    (Kind::Internal, 70, "a bug in samcore"),
    (Kind::CantCreate, 73, "an output cannot be created"),
    (Kind::Io, 74, "reading or writing failed midway"),
    (Kind::Interrupted, 75, "stopped by a signal, saved, can be resumed"),
    (Kind::NotFinite, 76, "loss or gradient not finite"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    message: String,
    /// Lines of another program, such as a compiler; empty without one.
    log: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), log: String::new() }
    }
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }
    pub fn data(message: impl Into<String>) -> Error {
        Error::new(Kind::Data, message)
    }
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Kind::Internal, message)
    }
    /// An operating-system error on `path` while doing `what` ("read", "create folder").
    pub fn io(what: &str, path: &Path, e: &std::io::Error) -> Error {
        use std::io::ErrorKind as E;
        let reading = what.starts_with("read") || what.starts_with("open") || what.starts_with("list");
        let kind = match e.kind() {
            // What is no text, where text was to be read.
            E::InvalidData if reading => Kind::Data,
            _ if !path_is_at_fault(e.kind()) => Kind::Io,
            _ if reading => Kind::NoInput,
            _ => Kind::CantCreate,
        };
        Error::new(kind, format!("cannot {what} {}: {e}", path.display()))
    }
    /// The same error with its circumstances put in front: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.message = format!("{context}: {}", self.message);
        self
    }
    /// The same error with what another program said about it, which is shown line by line.
    pub fn with_log(mut self, log: impl Into<String>) -> Error {
        self.log = log.into();
        self
    }
    /// The lines that a user is shown, without control characters.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let log = self.log.lines().map(|line| printable(line).into_owned());
        std::iter::once(format!("samcore: {}", printable(&self.message))).chain(log)
    }
    pub fn exit_code(&self) -> i32 {
        KINDS.iter().find(|k| k.0 == self.kind).map_or(70, |k| k.1)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.message))?;
        self.log.lines().try_for_each(|line| write!(f, "\n{}", printable(line)))
    }
}

impl std::error::Error for Error {}

/// Whether the path is wrong or closed to us, rather than the device or a disk that is full.
fn path_is_at_fault(e: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind as E;
    matches!(e, E::NotFound | E::PermissionDenied | E::AlreadyExists | E::ReadOnlyFilesystem)
        || matches!(e, E::NotADirectory | E::IsADirectory | E::InvalidFilename)
}

/// The candidate nearest to `word` by edit distance, if near enough to be a slip of the keyboard.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = |c: &str| 1 + c.len() / 3;
    candidates
        .into_iter()
        // A distance is at least that of the lengths; comparing a novel with each name would take its time.
        .filter(|c| word.chars().count().abs_diff(c.chars().count()) <= allowed(c))
        .map(|c| (edit_distance(&word, &c.to_lowercase()), c))
        // A word none of whose letters are kept is no slip of that name.
        .filter(|(d, c)| *d <= allowed(c) && *d < word.chars().count())
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// "unknown WHAT 'word'", with the nearest name or else all names.
pub fn unknown(what: &str, word: &str, names: &[&str]) -> Error {
    let hint = match nearest(word, names.iter().copied()) {
        Some(n) => format!("did you mean '{n}'?"),
        None => format!("known: {}", names.join(", ")),
    };
    Error::usage(format!("unknown {what} '{word}'; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_is_suggested_for_a_slip_only() {
        assert_eq!(nearest("smg", ["sgd", "sam"]), Some("sgd"));
        assert_eq!(nearest("SAMM", ["sgd", "sam"]), Some("sam"));
        assert_eq!(nearest("transformer", ["sgd", "sam"]), None);
    }

    #[test]
    fn an_operating_systems_error_is_told_apart_by_what_was_done() {
        use std::io::ErrorKind as E;
        for (error, reading, writing) in [
            (E::NotFound, Kind::NoInput, Kind::CantCreate),
            (E::PermissionDenied, Kind::NoInput, Kind::CantCreate),
            (E::NotADirectory, Kind::NoInput, Kind::CantCreate),
            (E::IsADirectory, Kind::NoInput, Kind::CantCreate),
            (E::InvalidFilename, Kind::NoInput, Kind::CantCreate),
            (E::ReadOnlyFilesystem, Kind::NoInput, Kind::CantCreate),
            (E::InvalidData, Kind::Data, Kind::Io),
            (E::StorageFull, Kind::Io, Kind::Io),
            (E::Other, Kind::Io, Kind::Io),
        ] {
            let kind = |what: &str| Error::io(what, Path::new("x"), &error.into()).kind;
            assert_eq!((kind("read"), kind("write")), (reading, writing), "{error:?}");
        }
    }

    #[test]
    fn exit_codes_are_distinct() {
        let mut codes: Vec<i32> = KINDS.iter().map(|k| k.1).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), KINDS.len());
    }
}
