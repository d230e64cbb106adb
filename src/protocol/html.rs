//! report.html: tables, figure, settings and environment on a page that needs nothing else.

use super::report::{notes, repeat, summary, tables};
use super::request::course;
use super::results::Results;
use super::table::Table;
use crate::plot::{Figure, escape};

/// Style sheet of reports.
pub const STYLE: &str = "
body { font: 16px/1.5 system-ui, 'Helvetica Neue', Arial, sans-serif; color: #222; background: #fafafa; margin: 0; }
main { max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 0.5rem; }
.lead { font-size: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; background: white; }
th, td { padding: 0.35rem 0.6rem; text-align: right; border-bottom: 1px solid #e6e6e6; white-space: nowrap; }
th { font-weight: 600; color: #555; border-bottom: 2px solid #ccc; white-space: normal; vertical-align: bottom; }
.word { text-align: left; }
svg { max-width: 100%; height: auto; }
.narrow { display: none; }
ul { padding-left: 1.2rem; font-size: 0.9rem; color: #444; }
pre { background: white; border: 1px solid #e6e6e6; padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; }
footer { margin: 2.5rem 0; font-size: 0.85rem; color: #666; }
@media screen and (max-width: 660px) {
main { margin: 1rem auto; padding: 0 0.75rem; }
h1 { font-size: 1.25rem; }
h1, h2, p, li, footer { overflow-wrap: anywhere; }
th, td { padding: 0.3rem 0.45rem; }
.wide { display: none; }
.narrow { display: block; }
}
";

/// Entries of each run's env.json that a reader may ask for.
const ENVIRONMENT: [(&str, &str); 8] = [
    ("samcore", "samcore"),
    ("commit", "commit"),
    ("rustc", "rustc"),
    ("cpu", "CPU"),
    ("instructions", "instruction set"),
    ("threads", "threads"),
    ("os", "system"),
    ("date", "begun"),
];

/// The page with its tables and `figure`, which a narrow screen shows with its panels one below the other.
pub fn page(results: &Results<'_>, figure: &Figure) -> String {
    let plan = results.plan;
    let title = escape(&plan.title());
    let summary: String = summary(results).iter().map(|p| format!("<p class=\"lead\">{}</p>\n", escape(p))).collect();
    let mut tables = tables(results).into_iter().map(|table| section(&table));
    let first = tables.next().unwrap_or_default();
    let rest: String = tables.collect();
    let notes: String = notes(results).iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    let settings = course().map(|s| vec![s.name.to_owned(), s.get(&plan.request.recipe).to_string()]);
    let settings = words("Settings of all runs", settings.collect());
    let environment = ENVIRONMENT.map(|(key, name)| vec![name.to_owned(), results.environment(key).join(", ")]);
    let environment = words("Environment of the runs", environment.to_vec());
    let repeat: Vec<String> = repeat(plan).lines().map(escape).collect();
    let repeat = repeat.join("\n");
    let (wide, narrow) = (figure.to_svg(), figure.to_narrow_svg());
    let version = concat!(env!("CARGO_PKG_VERSION"), ", commit ", env!("SAMCORE_COMMIT"));
    let written = crate::clock::utc_iso8601();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{summary}{first}\
         <h2>Curves</h2>\n<p>All optimizers are drawn over the gradients they have taken.</p>\n\
         <div class=\"wide\">{wide}</div>\n<div class=\"narrow\">{narrow}</div>\n{rest}\
         <h2>How to read the numbers</h2>\n<ul>\n{notes}</ul>\n<h2>How to repeat it</h2>\n<pre>{repeat}</pre>\n\
         {settings}{environment}<footer>Written {written} by samcore {version}.</footer>\n</main>\n</body>\n</html>\n"
    )
}

/// Returns a table under its title.
pub fn section(table: &Table) -> String {
    let row = |cells: &[String], tag: &str| {
        let class = |i: usize| if i < table.words { " class=\"word\"" } else { "" };
        let cell = |(i, cell): (usize, &String)| format!("<{tag}{}>{}</{tag}>", class(i), escape(cell));
        format!("<tr>{}</tr>\n", cells.iter().enumerate().map(cell).collect::<String>())
    };
    let head = if table.header.is_empty() { String::new() } else { row(&table.header, "th") };
    let rows: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    let title = escape(&table.title);
    format!("<h2>{title}</h2>\n<div class=\"scroll\"><table>\n{head}{rows}</table></div>\n")
}

/// Returns a list of names with what they stand for.
pub fn words(title: &str, rows: Vec<Vec<String>>) -> String {
    section(&Table { title: title.into(), words: 2, header: vec![], rows })
}
