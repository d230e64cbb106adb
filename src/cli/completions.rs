//! `samcore completions`.

use super::flags::{Named, text};
use super::{command, print};
use crate::error::{Result, unknown};
use clap::{Arg, ArgMatches, Command};
use clap_complete::{Shell, generate};

const SHELLS: [(&str, Shell); 3] = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];

pub fn build(command: Command) -> Command {
    let shell = Arg::new("shell").value_name("SHELL").value_parser(Named(names())).hide_possible_values(true);
    command.arg(shell.required(true).help(format!("one of {}", names().join(", "))))
}

fn names() -> Vec<&'static str> {
    SHELLS.map(|s| s.0).to_vec()
}

pub fn run(matches: &ArgMatches) -> Result<()> {
    print(&script(&text(matches, "shell").unwrap_or_default())?)
}

/// Returns the script that the shell of this name sources.
///
/// # Errors
/// Usage: there are none for it; the nearest name is suggested.
fn script(name: &str) -> Result<String> {
    let shell = SHELLS.iter().find(|s| s.0 == name).ok_or_else(|| unknown("shell", name, &names()))?.1;
    let mut script = Vec::new();
    generate(shell, &mut command(), "samcore", &mut script);
    Ok(String::from_utf8_lossy(&script).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{data, study};
    use crate::recipe::SETTINGS;

    #[test]
    fn every_shell_gets_every_flag_and_name() {
        for (name, _) in SHELLS {
            let script = script(name).unwrap();
            for s in SETTINGS {
                // Fish has the flag's name as a word of its own, the others have it with its dashes.
                let flag = if name == "fish" { format!("-l {} ", s.name) } else { format!("--{}", s.name) };
                assert!(script.contains(&flag), "{name}: {flag}");
            }
            for action in data::ACTIONS.iter().chain(study::ACTIONS) {
                assert!(script.contains(action.about) || name == "bash", "{name}: {}", action.name);
                assert!(script.contains(action.name), "{name}: {}", action.name);
            }
            for value in ["fashion-mnist", "cnn", "sam", "one-cycle"] {
                assert!(script.contains(value), "{name}: {value}");
            }
            // Fish completes values of flags only.
            assert_eq!(script.contains("conv2d"), name != "fish", "{name}");
        }
        let e = script("bsh").unwrap_err();
        assert_eq!(e.to_string(), "unknown shell 'bsh'; did you mean 'bash'?");
    }
}
