//! Ctrl-C and SIGTERM ask a run to end at the end of its step; a second Ctrl-C ends the process at once.

use crate::error::{Error, Kind, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a process that the second Ctrl-C ended: 128 + SIGINT, as shells have it.
pub const SECOND_SIGINT: i32 = 130;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// From here on SIGINT and SIGTERM no longer end the process but are noted for [`requested`]. Call it once.
///
/// # Errors
/// Unavailable: the system refuses a handler.
pub fn install() -> Result<()> {
    // Handlers of a signal run in the order of their registration, so the first SIGINT finds its flag still down.
    flag::register_conditional_shutdown(SIGINT, SECOND_SIGINT, &INTERRUPTED)
        .and_then(|_| flag::register(SIGINT, &INTERRUPTED))
        .and_then(|_| flag::register(SIGTERM, &TERMINATED))
        .map(|_| ())
        .map_err(|e| Error::new(Kind::Unavailable, format!("cannot listen for Ctrl-C and SIGTERM: {e}")))
}

/// The signal that has asked for an end, if any.
pub fn requested() -> Option<&'static str> {
    let signals = [(&INTERRUPTED, "SIGINT (Ctrl-C)"), (&TERMINATED, "SIGTERM")];
    signals.into_iter().find(|(flag, _)| flag.load(Ordering::Relaxed)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::run_folder::tests::child;
    use signal_hook::low_level::raise;

    /// Runs in a process of its own: signals are the whole process's.
    #[test]
    fn child_raises_signals() {
        let Ok(signals) = std::env::var("SAMCORE_TEST_SIGNALS") else { return };
        install().unwrap();
        for signal in signals.split(' ') {
            raise(if signal == "INT" { SIGINT } else { SIGTERM }).unwrap();
        }
        println!("requested by {}", requested().unwrap());
    }

    #[test]
    fn one_signal_asks_and_a_second_ctrl_c_ends_at_once() {
        let name = "train::signals::tests::child_raises_signals";
        for (signals, code, output) in [
            ("INT", 0, "requested by SIGINT (Ctrl-C)"),
            ("TERM", 0, "requested by SIGTERM"),
            ("TERM TERM", 0, "requested by SIGTERM"),
            ("INT INT", SECOND_SIGINT, ""),
        ] {
            let done = child(name).env("SAMCORE_TEST_SIGNALS", signals).output().unwrap();
            let text = String::from_utf8_lossy(&done.stdout);
            assert_eq!(done.status.code(), Some(code), "{signals}: {text}");
            assert!(text.contains(output), "{signals}: {text}");
            assert_eq!(text.contains("requested by"), code == 0, "{signals}: {text}");
        }
    }
}
