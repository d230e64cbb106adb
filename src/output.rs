//! Everything that samcore shows: results on stdout, notes and progress on stderr. A stream that is closed, full or read no
//! further ends no run, and control characters out of files reach no terminal. Nothing else in the crate writes to the two.

use crate::error::{Error, Kind, Result};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

/// The first failure of stdout in words printed amid work; [`finish`] reports it.
static FAILED: Mutex<Option<Error>> = Mutex::new(None);

/// Writes one line to stderr; what is wrong with stderr is nobody's concern.
pub fn note(line: &str) {
    draw(&format!("{}\n", printable(line)));
}

/// Writes text with escape sequences of ours to stderr, as progress on a terminal has them.
pub fn draw(text: &str) {
    // One write, so that lines of several processes do not mix. A failure leaves nobody to hear of it.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Returns true if stderr is a terminal, on which lines can be redrawn.
pub fn draws() -> bool {
    io::stderr().is_terminal()
}

/// Returns true if stdout is a terminal, on which text is read and not kept.
pub fn prints_to_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Returns the terminal that stderr is, for programs that ask about it.
pub fn terminal() -> Option<OwnedFd> {
    io::stderr().as_fd().try_clone_to_owned().ok()
}

/// Writes the last words of a command to stdout: text of whole lines, or JSON. A reader that has seen enough and left, as
/// `head` does, is no error.
///
/// # Errors
/// Io: the disk is full or the like.
pub fn print(text: &str) -> Result<()> {
    let text = escaped(text, &['\n', '\t']);
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Io, format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// Prints one line, in which names out of files and from a user may be.
///
/// # Errors
/// As for [`print()`].
pub fn print_line(line: &str) -> Result<()> {
    print(&format!("{}\n", printable(line)))
}

/// Prints amid work, which goes on whatever happens to stdout; [`finish`] reports a failure.
pub fn show(text: &str) {
    if let Err(e) = print(text) {
        FAILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(e);
    }
}

/// Reports the first failure of [`show`], once.
///
/// # Errors
/// Io: stdout could not be written.
pub fn finish() -> Result<()> {
    FAILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take().map_or(Ok(()), Err)
}

/// Returns `text` as one line that a terminal shows and does not obey: control characters, line separators and marks that
/// reorder text are written as `\n` or `\u001b`, the form that JSON and TOML have as well. Escaping twice changes nothing.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, &[])
}

fn escaped<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let obeyed = |c: char| is_obeyed(c) && !kept.contains(&c);
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // Writing to a String cannot fail.
        let _ = match c {
            c if !obeyed(c) => safe.write_char(c),
            '\n' => safe.write_str("\\n"),
            '\r' => safe.write_str("\\r"),
            '\t' => safe.write_str("\\t"),
            c => write!(safe, "\\u{:04x}", u32::from(c)),
        };
    }
    Cow::Owned(safe)
}

/// Returns true for the control characters of ASCII and ISO 6429, line and paragraph separators, and the marks of the
/// bidirectional algorithm (Unicode annex 9), which could show a name in another order than it has.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::lines_with;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_readable_text_is_not() {
        for (raw, shown) in [
            ("conv1.weight", "conv1.weight"),
            ("Bäume, 木, 🌳, a\\b", "Bäume, 木, 🌳, a\\b"),
            ("\x1b[2J\x1b]0;title\x07", "\\u001b[2J\\u001b]0;title\\u0007"),
            ("two\nlines\r\tand a tab", "two\\nlines\\r\\tand a tab"),
            ("\u{9b}31m\u{7f}", "\\u009b31m\\u007f"),
            ("gnp.\u{202e}txt\u{2069}\u{200f}\u{61c}\u{2028}", "gnp.\\u202etxt\\u2069\\u200f\\u061c\\u2028"),
        ] {
            assert_eq!(printable(raw), shown);
            assert_eq!(printable(shown), shown, "escaping twice changes nothing");
        }
        assert_eq!(escaped("a\tb\nc\x1b\n", &['\n', '\t']), "a\tb\nc\\u001b\n", "tables keep their lines");
    }

    /// A macro that panics where a stream is closed, and a stream whose words would reach a terminal as they are.
    #[test]
    fn nothing_else_in_the_crate_writes_to_a_stream() {
        let writes = ["print!(", "println!(", "dbg!(", ":stderr()", ":stdout()", "(stderr()", "(stdout()"];
        // The allocator must not allocate, as output does.
        let found = lines_with(&writes, &["output.rs", "device/alloc.rs"]);
        assert!(found.is_empty(), "use output::note or output::print:\n{}", found.join("\n"));
    }

    #[test]
    fn json_is_still_the_same_value_after_escaping() {
        let value = serde_json::json!({"na\u{202e}me\n\x1b": "\u{9b}\u{7f}\u{2028}\t\"\\"});
        for text in [value.to_string(), format!("{value:#}")] {
            let shown = escaped(&text, &['\n', '\t']);
            assert!(shown.chars().all(|c| c == '\n' || !is_obeyed(c)), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }
}
