//! One error type: what was wrong, where, and what to do, with the exit code that `main` ends with.

use crate::output::printable;
use std::fmt;
use std::path::Path;

/// Kind of an error. Each kind is one process exit code; see [`KINDS`].
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
    /// Stopped by a signal after saving; `--resume` continues the run.
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
            // A file that is no text, where text was expected.
            E::InvalidData if reading => Kind::Data,
            _ if !path_is_at_fault(e.kind()) => Kind::Io,
            _ if reading => Kind::NoInput,
            _ => Kind::CantCreate,
        };
        Error::new(kind, format!("cannot {what} {}: {e}", path.display()))
    }
    /// Returns the error with its circumstances in front: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.message = format!("{context}: {}", self.message);
        self
    }
    /// Returns the error with another program's output about it, which is shown line by line.
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

/// Returns true if the path is wrong or closed to us, rather than the device failing or the disk being full.
fn path_is_at_fault(e: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind as E;
    matches!(e, E::NotFound | E::PermissionDenied | E::AlreadyExists | E::ReadOnlyFilesystem)
        || matches!(e, E::NotADirectory | E::IsADirectory | E::InvalidFilename)
}

/// The candidate nearest to `word`, if near enough to be a slip of the keyboard: one wrong, missing, added or swapped letter,
/// two in long names; or if `word` is its beginning.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let word = plain(word);
    let length = word.chars().count();
    let allowed = |c: &str| if c.len() < 8 { 1 } else { 2 };
    let near = |c: &'a str| {
        // A distance is at least that of the lengths; comparing a novel with each name would take its time.
        let comparable = length.abs_diff(c.chars().count()) <= allowed(c);
        let distance = if comparable { edit_distance(&word, &plain(c)) } else { usize::MAX };
        // A word none of whose letters are kept is no slip of that name.
        let slip = distance <= allowed(c) && distance < length;
        let begun = length >= 3 && plain(c).starts_with(&word);
        (slip || begun).then_some((distance, c))
    };
    candidates.into_iter().filter_map(near).min_by_key(|(distance, _)| *distance).map(|(_, c)| c)
}

/// Edits that make `b` of `a`: letters changed, added, left out, or swapped with the next (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Rows of the table for the letters of `a` before the one before, before, and up to this one.
    let mut rows = [vec![], vec![], (0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        rows.rotate_left(1);
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[0][j - 2] + 1);
            }
            row.push(least);
        }
        rows[2] = row;
    }
    rows[2][b.len()]
}

/// "unknown WHAT 'word'", with the nearest name or else all names.
pub fn unknown(what: &str, word: &str, names: &[&str]) -> Error {
    let hint = match nearest(word, names.iter().copied()) {
        Some(n) => format!("did you mean '{n}'?"),
        None => format!("known: {}", names.join(", ")),
    };
    Error::usage(format!("unknown {what} '{word}'; {hint}"))
}

/// As [`unknown`]; but a name that the field knows, one of `field` or one that begins with it such as densenet121, is said not
/// to be built, with what is.
pub fn unknown_or_not_built(what: &str, word: &str, field: &[&str], names: &[&str]) -> Error {
    let lower = word.to_lowercase();
    let version = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphabetic());
    if field.iter().any(|name| lower.strip_prefix(name).is_some_and(version)) {
        return Error::usage(format!("unknown {what} '{word}'; it is not built in, these are: {}", names.join(", ")));
    }
    unknown(what, word, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_is_suggested_for_a_slip_only() {
        let names = ["sgd", "sam", "asam", "cifar-10", "cifar-100", "fashion-mnist", "completions"];
        for (word, expected) in [
            ("samm", Some("sam")),
            ("SAMM", Some("sam")),
            // A swap is one slip.
            ("sdg", Some("sgd")),
            ("cifar10", Some("cifar-10")),
            ("cifar_100", Some("cifar-100")),
            ("cifar", Some("cifar-10")),
            ("fashion", Some("fashion-mnist")),
            ("fahsion-mnits", Some("fashion-mnist")),
            // Two slips in a short name make another word.
            ("adamw", None),
            ("smg", None),
            ("plot", None),
            ("transformer", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names), expected, "{word}");
        }
    }

    #[test]
    fn names_of_the_field_that_are_not_built_in_are_said_to_be_so() {
        let message =
            |word: &str| unknown_or_not_built("model", word, &["densenet", "vit"], &["cnn", "mlp"]).to_string();
        let not_built = "; it is not built in, these are: cnn, mlp";
        for word in ["densenet", "DenseNet121", "vit-b16", "vit_b_16"] {
            assert_eq!(message(word), format!("unknown model '{word}'{not_built}"));
        }
        assert_eq!(message("cmn"), "unknown model 'cmn'; did you mean 'cnn'?");
        assert_eq!(message("vital"), "unknown model 'vital'; known: cnn, mlp");
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
