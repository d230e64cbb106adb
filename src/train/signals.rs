//! Signals that ask a run to end: it finishes its step, saves and ends. A second Ctrl-C ends the process at once.

use crate::error::{Error, Kind, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a process that the second Ctrl-C ended: 128 + SIGINT, as shells have it.
pub const SECOND_SIGINT: i32 = 130;

/// A signal that would end the process.
struct Signal {
    number: i32,
    name: &'static str,
    /// Stays ignored if it is ignored when the process starts, as nohup has it.
    may_be_ignored: bool,
}

/// A person stops a run by the first two and by closing the terminal; batch systems announce their limits by the rest.
const SIGNALS: [Signal; 6] = [
    Signal { number: SIGINT, name: "SIGINT (Ctrl-C)", may_be_ignored: false },
    Signal { number: SIGTERM, name: "SIGTERM", may_be_ignored: false },
    Signal { number: SIGHUP, name: "SIGHUP", may_be_ignored: true },
    Signal { number: SIGUSR1, name: "SIGUSR1", may_be_ignored: true },
    Signal { number: SIGUSR2, name: "SIGUSR2", may_be_ignored: true },
    Signal { number: SIGXCPU, name: "SIGXCPU", may_be_ignored: true },
];

/// Signals that have come, in the order of [`SIGNALS`].
static RAISED: [AtomicBool; SIGNALS.len()] = [const { AtomicBool::new(false) }; SIGNALS.len()];

/// Has the signals of this module noted for [`requested`] from here on, instead of ending the process. Call it once.
///
/// # Errors
/// Unavailable: the system refuses a handler.
pub fn install() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (signal, raised) in SIGNALS.iter().zip(&RAISED) {
        if signal.may_be_ignored && ignored_in(&status, signal.number) {
            continue;
        }
        // Handlers of a signal run in the order of their registration, so the first SIGINT finds its flag still down.
        let twice = match signal.number {
            SIGINT => flag::register_conditional_shutdown(SIGINT, SECOND_SIGINT, raised).map(|_| ()),
            _ => Ok(()),
        };
        twice.and_then(|()| flag::register(signal.number, raised)).map_err(|e| {
            Error::new(Kind::Unavailable, format!("cannot listen for {}, which ends a run: {e}", signal.name))
        })?;
    }
    Ok(())
}

/// Returns the name of the signal that has asked for an end, if any.
pub fn requested() -> Option<&'static str> {
    SIGNALS.iter().zip(&RAISED).find(|(_, raised)| raised.load(Ordering::Relaxed)).map(|(signal, _)| signal.name)
}

/// Returns whether a process with this text in /proc/PID/status ignores a signal: its mask of ignored signals is hexadecimal,
/// the lowest bit for signal 1.
fn ignored_in(status: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (number - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::run_folder::tests::child;
    use signal_hook::low_level::raise;
    use std::process::Command;

    /// Runs in a process of its own: signals are the whole process's.
    #[test]
    fn child_raises_signals() {
        let Ok(signals) = std::env::var("SAMCORE_TEST_SIGNALS") else { return };
        install().unwrap();
        for name in signals.split(' ') {
            let signal = SIGNALS.iter().find(|s| s.name.split(' ').next() == Some(&format!("SIG{name}"))).unwrap();
            raise(signal.number).unwrap();
        }
        println!("requested by {}", requested().unwrap_or("none"));
    }

    const CHILD: &str = "train::signals::tests::child_raises_signals";

    /// What a child says of SIGHUP: it stays ignored if this process, run under nohup, ignores it.
    fn hangup() -> &'static str {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if ignored_in(&status, SIGHUP) { "requested by none" } else { "requested by SIGHUP" }
    }

    #[test]
    fn one_signal_asks_and_a_second_ctrl_c_ends_at_once() {
        for (signals, code, output) in [
            ("INT", 0, "requested by SIGINT (Ctrl-C)"),
            ("TERM", 0, "requested by SIGTERM"),
            ("TERM TERM", 0, "requested by SIGTERM"),
            ("HUP", 0, hangup()),
            ("USR1 USR1", 0, "requested by SIGUSR1"),
            ("USR2", 0, "requested by SIGUSR2"),
            ("XCPU", 0, "requested by SIGXCPU"),
            ("INT INT", SECOND_SIGINT, ""),
        ] {
            let done = child(CHILD).env("SAMCORE_TEST_SIGNALS", signals).output().unwrap();
            let text = String::from_utf8_lossy(&done.stdout);
            assert_eq!(done.status.code(), Some(code), "{signals}: {text}");
            assert!(text.contains(output), "{signals}: {text}");
            assert_eq!(text.contains("requested by"), code == 0, "{signals}: {text}");
        }
    }

    /// As nohup starts it.
    #[test]
    fn a_hangup_that_is_ignored_at_the_start_stays_ignored() {
        for (caught, output) in [("''", "requested by none"), ("-", hangup())] {
            let test = child(CHILD);
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("trap {caught} HUP; exec \"$0\" \"$@\"")]);
            shell.arg(test.get_program()).args(test.get_args()).env("SAMCORE_TEST_SIGNALS", "HUP");
            let done = shell.output().unwrap();
            let text = String::from_utf8_lossy(&done.stdout);
            assert!(text.contains(output), "{caught}: {text}");
        }
    }

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = "Name:\tsh\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert_eq!([1, 2, 13].map(|signal| ignored_in(status, signal)), [true, false, true]);
        assert!(!ignored_in("", 1));
    }
}
