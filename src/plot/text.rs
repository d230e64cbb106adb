//! Text in figures: escaping, estimated widths, line breaks.

use std::fmt::Write;

/// Size of tick labels, axis labels, legends and notes. In a figure [`super::WIDTH`] wide that is printed 8.5 cm wide, a
/// column of a paper, it comes out at 6.6 points.
pub const FONT: f64 = 17.5;
/// Size of the titles of panels.
pub const PANEL_FONT: f64 = 18.0;
/// Size of the title of a figure.
pub const TITLE_FONT: f64 = 20.0;
/// Width of bold text over that of plain text.
pub const BOLD: f64 = 1.08;
/// From the middle of a line of text down to its base line.
pub const HALF_CAPITAL: f64 = 0.36 * FONT;
/// From one line of text to the next.
pub const LINE: f64 = 1.28 * FONT;

/// Writes text at a base line; nothing if it is empty.
pub fn text(svg: &mut String, x: f64, y: f64, style: &str, what: &str) {
    if !what.is_empty() {
        let space = if style.is_empty() { "" } else { " " };
        let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}"{space}{style}>{}</text>"#, escape(what));
    }
}

/// Returns a little more than the width of `text` in common sans-serif fonts; the fonts of the reader's machine are unknown.
pub fn text_width(text: &str, size: f64) -> f64 {
    let width = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | 'I' | ' ' | '.' | ',' | ':' | ';' | '!' | '|' | '\'' | '(' | ')' => 0.36,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.92,
        c if c.is_ascii_uppercase() => 0.72,
        c if c.is_ascii() => 0.59,
        '⁰'..='⁹' | '⁻' | '¹' | '²' | '³' => 0.4,
        c if c < '\u{2E80}' => 0.66,
        // Chinese, Japanese and Korean signs fill a square.
        _ => 1.0,
    };
    text.chars().map(width).sum::<f64>() * size
}

/// Breaks `text` into lines no wider than `width`, at spaces, and inside words that are wider than a line.
pub fn wrap(text: &str, width: f64, size: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        if let Some(line) = lines.last_mut()
            && text_width(line, size) + text_width(" ", size) + text_width(word, size) <= width
        {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        lines.push(String::new());
        for c in word.chars() {
            let full = lines.last().is_some_and(|line| {
                !line.is_empty() && text_width(line, size) + text_width(c.encode_utf8(&mut [0; 4]), size) > width
            });
            if full {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                line.push(c);
            }
        }
    }
    lines
}

/// Returns `text`, cut with an ellipsis where it is wider than `width`.
pub fn fit(text: &str, width: f64, size: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let mut kept: Vec<char> = text.chars().collect();
    while !kept.is_empty() && text_width(&kept.iter().collect::<String>(), size) + size > width {
        kept.pop();
    }
    kept.into_iter().chain(['…']).collect()
}

/// Returns a whole number with its thousands apart: "468,010".
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Text for XML and HTML: markup characters as entities, characters that XML forbids as spaces.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
