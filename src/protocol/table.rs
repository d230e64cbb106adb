//! Tables as Markdown.

/// A table without its markup.
pub struct Table {
    pub title: String,
    /// Columns at the left that hold words; numbers behind them stand to the right.
    pub words: usize,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(title: &str, words: usize, header: &[&str]) -> Table {
        Table { title: title.into(), words, header: header.iter().map(|h| h.to_string()).collect(), rows: vec![] }
    }

    /// As Markdown whose columns line up in plain text too.
    pub fn markdown(&self) -> String {
        let escaped = |line: &Vec<String>| line.iter().map(|cell| escape(cell)).collect::<Vec<_>>();
        let lines: Vec<Vec<String>> = std::iter::once(&self.header).chain(&self.rows).map(escaped).collect();
        let width = |i: usize| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let pad = |(i, cell): (usize, &String)| match i < self.words {
            true => format!(" {cell:<0$} ", widths[i]),
            false => format!(" {cell:>0$} ", widths[i]),
        };
        let line =
            |cells: &Vec<String>| format!("|{}|\n", cells.iter().enumerate().map(pad).collect::<Vec<_>>().join("|"));
        let rule = |(i, width): (usize, &usize)| match i < self.words {
            true => "-".repeat(width + 2),
            false => format!("{}:", "-".repeat(width + 1)),
        };
        let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
        let mut text = line(&lines[0]) + &format!("|{}|\n", rules.join("|"));
        lines[1..].iter().for_each(|row| text += &line(row));
        text
    }
}

/// Text for Markdown: characters that would be markup where they are with a backslash, control characters as spaces.
pub fn escape(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let near = |i: Option<usize>| i.and_then(|i| characters.get(i)).copied().unwrap_or(' ');
    let mut escaped = String::with_capacity(text.len());
    for (i, c) in characters.iter().enumerate() {
        let (before, after) = (near(i.checked_sub(1)), near(Some(i + 1)));
        let markup = match c {
            '\\' | '`' | '*' | '[' | ']' | '|' | '~' => true,
            '_' => !before.is_alphanumeric() || !after.is_alphanumeric(),
            '<' => after.is_ascii_alphabetic() || "/!?".contains(after),
            '&' => after.is_ascii_alphanumeric() || after == '#',
            _ => false,
        };
        if markup {
            escaped.push('\\');
        }
        escaped.push(if c.is_control() { ' ' } else { *c });
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        for (text, escaped) in [
            ("a|b", r"a\|b"),
            ("<b>x</b> & <!-- y", r"\<b>x\</b> & \<!-- y"),
            ("p < 0.0001", "p < 0.0001"),
            ("&lt; R&D", r"\&lt; R\&D"),
            ("[x](y) `z` *w* ~~v~~", r"\[x\](y) \`z\` \*w\* \~\~v\~\~"),
            ("fashion_mnist _x_ \\", r"fashion_mnist \_x\_ \\"),
            ("a\u{1b}[2J\nb", r"a \[2J b"),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }
}
