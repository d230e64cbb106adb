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
    let script = String::from_utf8_lossy(&script).into_owned();
    Ok(match shell {
        Shell::Bash => bash_lists(&script),
        Shell::Zsh => zsh_lists(&script),
        Shell::Fish => fish_lists(&script),
        _ => script,
    })
}

/// Ends the value name of a flag that takes several values with commas between them.
const LIST: &str = ",…";

/// Returns commands and their flags that take several known names with commas between them, and the names.
fn lists() -> Vec<(String, String, Vec<String>)> {
    let mut found = vec![];
    for command in command().get_subcommands() {
        for arg in command.get_arguments() {
            let values = arg.get_value_names().unwrap_or_default();
            let names: Vec<String> = arg
                .get_value_parser()
                .possible_values()
                .into_iter()
                .flatten()
                .map(|v| v.get_name().to_owned())
                .collect();
            if let Some(long) = arg.get_long().filter(|_| !names.is_empty() && values.iter().any(|v| v.ends_with(LIST)))
            {
                found.push((command.get_name().to_owned(), long.to_owned(), names));
            }
        }
    }
    found
}

/// Completes the word behind the last comma of a list as if it stood alone.
fn bash_lists(script: &str) -> String {
    let flags: Vec<String> = lists().iter().map(|(command, flag, _)| format!("{command}:--{flag}")).collect();
    let script = script.replacen("_samcore() {", "_samcore_words() {", 1);
    let wrapper = format!(
        r#"
_samcore() {{
    case "${{COMP_WORDS[1]}}:$3,$2" in
        {})
            local head="${{2%,*}}," tail="${{2##*,}}" i
            COMP_WORDS[COMP_CWORD]="$tail"
            _samcore_words "$1" "$tail" "$3"
            for i in "${{!COMPREPLY[@]}}"; do
                COMPREPLY[i]="$head${{COMPREPLY[i]}}"
            done
            ;;
        *) _samcore_words "$@" ;;
    esac
}}
"#,
        flags.iter().map(|flag| format!("{flag},*,*")).collect::<Vec<_>>().join(" | ")
    );
    script + &wrapper
}

/// Has zsh complete every value of a list: its function `_values` knows separators.
fn zsh_lists(script: &str) -> String {
    let line = |line: &str| match line.split_once(&format!("{LIST}:(")) {
        Some((before, rest)) => format!("{before}{LIST}:_values -s , name {}\n", rest.replacen(")'", "'", 1)),
        None => format!("{line}\n"),
    };
    script.lines().map(line).collect()
}

/// Has fish complete every value of a list.
fn fish_lists(script: &str) -> String {
    let mut script = script.to_owned();
    for (command, flag, names) in lists() {
        let start = script.find(&format!("__fish_samcore_using_subcommand {command}\" -l {flag} "));
        let Some(values) = start.and_then(|start| Some(start + script[start..].find(" -a \"")? + 5)) else { continue };
        if let Some(end) = script[values..].find("\"\n") {
            let list = format!("(__fish_complete_list , 'string split , {}')", names.join(","));
            script.replace_range(values..values + end, &list);
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{data, study};
    use crate::recipe::SETTINGS;

    #[test]
    fn every_shell_completes_each_value_of_a_list() {
        let flags: Vec<String> = lists().iter().map(|(command, flag, _)| format!("{command} --{flag}")).collect();
        assert_eq!(flags, ["compare --opt", "bench --step", "bench --opt", "bench --dtype"]);
        for (name, part, count) in [
            ("bash", "compare:--opt,*,*", 1),
            ("zsh", ":_values -s , name sgd sam ", 2),
            ("fish", "-a \"(__fish_complete_list , 'string split , sgd,sam,", 2),
        ] {
            let script = script(name).unwrap();
            assert_eq!(script.matches(part).count(), count, "{name}: {part}");
        }
    }

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
