//! Tests of progress: lines, tables and times.

use super::*;
use crate::train::records::{Extras, Scores};
use std::sync::{Arc, Mutex};

/// Returns the output of a run of 2 epochs of 50 steps, a step every 200 ms and a second for each evaluation.
fn shown(style: Style, validation: bool) -> String {
    let (screen, begin) = (Arc::new(Mutex::new(String::new())), Instant::now());
    let shown = screen.clone();
    let (done, last, eval_every, evaluation) = (0, 100, 1, 5.0);
    let length = Length { epochs: 2, steps_per_epoch: 50, batch: 10, done, last, eval_every, evaluation };
    let mut progress = Progress::onto(Box::new(move |text| shown.lock().unwrap().push_str(text)), style, length, begin);
    let mut now = begin;
    for step in 1..=100 {
        now += Duration::from_millis(200);
        progress.step_at(now, step, 0.5, 0.889);
        progress.step_at(now + Duration::from_millis(99), step, 0.4, 0.9);
        if step % 50 == 0 {
            progress.evaluating_at(now, step);
            now += Duration::from_secs(1);
            let test = Scores { loss: 0.25, accuracy: 0.91 };
            let row = EpochRow { epoch: (step / 50) as u32, step, seconds: 11.0, lr: 0.1, ..EpochRow::default() };
            let row = EpochRow { validation: validation.then_some(test), test: Some(test), ..row };
            progress.epoch_at(now, &row, step == 50);
        }
    }
    drop(progress);
    screen.lock().unwrap().clone()
}

/// The text between erasures, without what only sets colours or wrapping.
fn drawn(text: &str) -> Vec<String> {
    let codes = ["\x1b[1m", "\x1b[0m", "\x1b[32m", "\x1b[?7l", "\x1b[?7h"];
    let text = codes.iter().fold(text.to_string(), |text, code| text.replace(code, ""));
    text.split("\r\x1b[2K").map(str::to_string).collect()
}

#[test]
fn a_terminal_has_one_line_redrawn_and_a_table_of_epochs() {
    let text = shown(Style::Terminal { width: 200, colour: true }, false);
    let drawn = drawn(&text);
    // The evaluations, a second each, are in what is left from the first step on.
    assert_eq!(drawn[0], "epoch 1/2 [>                   ]   2 %  loss 0.5000  acc 88.9 %  50 images/s  ETA 0:22");
    assert_eq!(drawn[24], "epoch 1/2 [==========>         ]  50 %  loss 0.5000  acc 88.9 %  50 images/s  ETA 0:17");
    assert_eq!(drawn[50], "epoch 1/2  evaluating");
    let rows = "epoch  train loss  train acc  test loss  test acc       lr      |g|     time  images/s\n    \
                1      0.0000     0.00 %     0.2500   91.00 %   0.1000   0.0000     0:11         0\n";
    let next = "epoch 2/2 [>                   ]   2 %  loss 0.5000  acc 88.9 %  50 images/s  ETA 0:11";
    assert_eq!(drawn[51], format!("{rows}{next}"));
    assert_eq!(drawn.len(), 103, "once a step, two evaluations, then the last row");
}

#[test]
fn without_colour_a_terminal_gets_no_escape_and_the_same_lines() {
    let styles = [true, false].map(|colour| shown(Style::Terminal { width: 80, colour }, true));
    assert!(styles[1].chars().all(|c| c == '\n' || c == '\r' || !c.is_control()), "{}", styles[1]);
    // The screen in the end.
    let rows = |text: &str| {
        let last = |line: &str| line.rsplit('\r').next().unwrap_or_default().trim().to_owned();
        text.lines().map(last).collect::<Vec<_>>()
    };
    let coloured = drawn(&styles[0]).join("\r");
    assert_eq!(rows(&coloured), rows(&styles[1]));
}

#[test]
fn lines_and_tables_keep_to_the_width() {
    for width in [1, 5, 12, 20, 40, 60, 80, 100] {
        let text = shown(Style::Terminal { width, colour: true }, true);
        let drawn = drawn(&text);
        let lines: Vec<usize> = drawn.iter().map(|part| part.rsplit('\n').next().unwrap().chars().count()).collect();
        assert!(lines.iter().all(|line| *line < width), "{width}");
        assert!(width > 80 || lines.contains(&width.saturating_sub(FREE)), "{width}: the bar fills it");
        let rows = drawn.iter().filter_map(|part| part.rsplit_once('\n')).flat_map(|(rows, _)| rows.lines());
        let widest = rows.map(|row| row.chars().count()).max();
        assert!(widest.is_some_and(|row| row <= width.max(5)), "{width}: {text}");
        assert_eq!(text.matches("\x1b[32m").count(), usize::from(width > 20), "one epoch was the best");
    }
    let line = |width| drawn(&shown(Style::Terminal { width, colour: true }, false))[0].clone();
    assert_eq!(line(80), "epoch 1/2 [>          ]   2 %  loss 0.5000  acc 88.9 %  50 images/s  ETA 0:22");
    assert_eq!(line(60), "epoch 1/2 [>   ]   2 %  loss 0.5000  acc 88.9 %  ETA 0:22");
}

#[test]
fn without_a_terminal_lines_are_plain_and_few() {
    let text = shown(Style::Plain, true);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "epoch 1/2 100 %  loss 0.5000  acc 88.9 %  50 images/s  ETA 0:12");
    assert!(lines[1].contains("val loss   val acc  test loss"), "{text}");
    assert_eq!((lines.len(), lines[1].len()), (5, lines[2].len()), "{text}");
    assert_eq!(shown(Style::Quiet, true), "");
}

#[test]
fn an_epoch_without_an_evaluation_has_dashes_below_the_titles_of_the_others() {
    let scores = Scores { loss: 0.25, accuracy: 0.91 };
    let extras = Extras { validation: true, ..Extras::default() };
    let skipped = EpochRow { epoch: 1, extras, ..EpochRow::default() };
    let evaluated = EpochRow { epoch: 2, validation: Some(scores), test: Some(scores), ..skipped.clone() };
    let line = |row: &EpochRow| {
        let (cells, gap) = cells_within(200, row);
        cells.iter().map(|c| format!("{:>1$}", (c.text)(row), c.width(row))).collect::<Vec<_>>().join(gap)
    };
    let [skipped, evaluated] = [skipped, evaluated].map(|row| line(&row));
    assert_eq!(skipped.chars().count(), evaluated.chars().count(), "{skipped}\n{evaluated}");
    assert_eq!((skipped.matches('–').count(), evaluated.matches('–').count()), (4, 0), "{skipped}");
}

#[test]
fn evaluations_that_are_left_are_those_that_are_due_and_the_one_at_the_end() {
    let length = |last, eval_every| {
        let (epochs, steps_per_epoch, batch, done, evaluation) = (7, 10, 1, 0, 1.0);
        Length { epochs, steps_per_epoch, batch, done, last, eval_every, evaluation }
    };
    // Evaluated after epochs 3, 6 and 7, or where --steps ends the run.
    for (last, every, step, left) in [
        (70, 1, 1, 7),
        (70, 1, 10, 7),
        (70, 1, 70, 1),
        (75, 1, 75, 1),
        (70, 3, 1, 3),
        (70, 3, 30, 3),
        (70, 3, 31, 2),
        (70, 3, 61, 1),
        (60, 3, 60, 1),
        (40, 3, 31, 1),
        (70, 9, 1, 1),
    ] {
        assert_eq!(length(last, every).evaluations(step), left, "{last} steps, every {every}, behind step {step}");
    }
}

#[test]
fn the_table_names_the_loss_that_is_trained_with() {
    let titles = |kind: &str, width: usize| {
        let row = EpochRow { loss_kind: kind.into(), ..EpochRow::default() };
        let (cells, gap) = cells_within(width, &row);
        let cell = |c: &&Cell| format!("{:>1$}", c.title(&row), c.width(&row));
        (cells.iter().map(cell).collect::<Vec<_>>().join(gap), cells.len())
    };
    assert!(titles("", 200).0.starts_with("epoch  train loss  train acc"));
    assert!(titles("mixed smoothed", 200).0.starts_with("epoch  mixed smoothed loss  train acc"));
    let (narrow, cells) = titles("mixed smoothed reed-soft", 60);
    assert!(narrow.len() <= 60 && cells > 3, "{narrow}");
}

#[test]
fn the_style_follows_terminal_and_environment() {
    let xterm = ("TERM", "xterm");
    for (quiet, terminal, variables, style) in [
        (true, true, vec![], Style::Quiet),
        (false, false, vec![("COLUMNS", "120")], Style::Plain),
        (false, true, vec![("TERM", "dumb")], Style::Plain),
        (false, true, vec![("TERM", ""), ("COLUMNS", "120")], Style::Plain),
        // A terminal that nobody names may understand no escape sequence.
        (false, true, vec![("COLUMNS", "120")], Style::Plain),
        (false, true, vec![xterm, ("COLUMNS", "120")], Style::Terminal { width: 120, colour: true }),
        (false, true, vec![xterm, ("COLUMNS", "x"), ("NO_COLOR", "1")], Style::Terminal { width: 80, colour: false }),
        (false, true, vec![xterm, ("COLUMNS", "0"), ("NO_COLOR", "")], Style::Terminal { width: 80, colour: true }),
    ] {
        let variable = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_string());
        assert_eq!(Style::of(quiet, terminal, variable, || None), style);
    }
    let measured = Style::of(false, true, |name| (name == "TERM").then(|| "xterm".into()), || Some(132));
    assert_eq!(measured, Style::Terminal { width: 132, colour: true });
}

#[test]
fn times_and_numbers_stay_within_their_cells() {
    for (seconds, face) in [(0.4, "0:00"), (312.0, "5:12"), (3599.7, "1:00:00"), (86_400.0, "24:00:00")] {
        assert_eq!(clock_face(seconds), face);
    }
    assert_eq!([f64::NAN, f64::INFINITY].map(clock_face), ["-", "-"]);
    for value in [0.0, 1e-30, 1.2e-4, 1e-3, 0.1, 99.99, 1e4, f32::MAX, f32::NAN] {
        assert!(short(value).len() <= 7, "{}", short(value));
    }
}
