//! Charts as SVG: the curves of a training run, the figures of reports, and heat maps.
//!
//! A figure is a white card of panels, made to be read 8.5 cm wide, in a column of a paper: large type, few ticks, and
//! lines that differ in dashes and markers as well as in colour. Legends stand above the axes, so that none covers data;
//! notes below the panels say with which settings the lines were made and what bands are.

mod axis;
mod contour;
mod heat;
mod panel;
mod style;
mod text;

pub use contour::{Contours, Surface};
pub use heat::{Heat, HeatMap};
pub use style::{DASHES, PALETTE};
pub use text::{escape, thousands};

use panel::{Axes, Block, Entry};
use std::fmt::Write;
use text::{BOLD, FONT, HALF_CAPITAL, LINE, PANEL_FONT, TITLE_FONT, fit, text, text_width, wrap};

/// Panels in a grid under one title.
#[derive(Clone, Debug)]
pub struct Figure {
    pub title: String,
    pub panels: Vec<Panel>,
    /// Panels side by side; 0 counts as 1.
    pub columns: usize,
    /// Paragraphs below the panels: settings, and what bands and marks are.
    pub notes: Vec<String>,
}

/// One pair of axes.
#[derive(Clone, Debug, Default)]
pub struct Panel {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub series: Vec<Series>,
    /// Horizontal lines that the series are held against.
    pub levels: Vec<Level>,
    /// Logarithmic axes; values of 0 and below leave gaps.
    pub log_x: bool,
    pub log_y: bool,
    /// Has a row of the figure to itself.
    pub wide: bool,
    /// Panels with the same word here have one y range, so that they can be compared; empty for a range of its own.
    pub compared: &'static str,
    /// Values that the y axis must reach, such as 0 and 100 %.
    pub reach: Vec<f64>,
    /// The x from which on values decide the y range. Earlier ones may widen it to three times that, and are cut off
    /// beyond: late differences are not dwarfed by what was learned before.
    pub focus: Option<f64>,
    /// Names of the places 0, 1, 2 … on the x axis, a second line of each behind a line feed; empty for numbers.
    pub x_names: Vec<String>,
}

/// One line. Points that are not finite leave a gap; a point without neighbours is drawn as a dot.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its entry in the legend; empty for none.
    pub label: String,
    pub points: Vec<(f64, f64)>,
    /// Number of its colour, dashes and marker, counted around.
    pub style: usize,
    /// Fine, without markers: one of several, or a curve through thousands of steps.
    pub fine: bool,
    /// Only markers, and bands as bars.
    pub dots: bool,
    /// Ends before its time, which a cross in a circle marks.
    pub ended: bool,
    /// For each point the low and high end of a shaded band; empty for none.
    pub band: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(label: &str, style: usize, points: Vec<(f64, f64)>) -> Series {
        Series { label: label.into(), points, style, ..Series::default() }
    }
}

/// A horizontal line through a whole panel, such as chance.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    pub label: String,
    pub y: f64,
    /// Dotted, rather than a solid line.
    pub dotted: bool,
}

/// Width of a figure; all lengths are in these units. A larger font would leave no room for two panels side by side.
pub const WIDTH: f64 = 640.0;
/// Width of a figure for a narrow screen, whose panels lie one below the other.
pub const NARROW_WIDTH: f64 = 430.0;
const MARGIN: f64 = 14.0;
/// Between panels.
const GAP: f64 = 18.0;
const PLOT_HEIGHT: f64 = 184.0;
const WIDE_HEIGHT: f64 = 236.0;
/// Between tick labels and the y axis.
const TICK_GAP: f64 = 7.0;
const TEXT: &str = "#222222";
const GRID: &str = "#E3E3E3";
const FRAME: &str = "#6E6E6E";

impl Figure {
    pub fn new(title: &str, panels: Vec<Panel>) -> Figure {
        Figure { title: title.into(), panels, columns: 2, notes: Vec::new() }
    }

    /// The figure as an SVG document.
    pub fn to_svg(&self) -> String {
        self.drawn(WIDTH, self.columns)
    }

    /// Returns the figure as SVG for a narrow screen.
    pub fn to_narrow_svg(&self) -> String {
        self.drawn(NARROW_WIDTH, 1)
    }

    fn drawn(&self, width: f64, columns: usize) -> String {
        let inner = width - 2.0 * MARGIN;
        let columns = columns.clamp(1, self.panels.len().max(1));
        let cell_width = (inner - GAP * (columns - 1) as f64) / columns as f64;
        let shared = self.shared_legend();
        let legend = Block::legend(shared.as_deref().unwrap_or_default(), inner);

        let ranges = self.y_values();
        let heights: Vec<f64> = self.panels.iter().map(|p| if p.wide { WIDE_HEIGHT } else { PLOT_HEIGHT }).collect();
        let ys: Vec<_> = self.panels.iter().zip(&ranges).zip(&heights).map(|((p, y), h)| p.y_axis(y, *h)).collect();
        let widest = ys.iter().flatten().map(panel::tick_width).fold(0.0, f64::max);
        let left = TICK_GAP + widest + if self.panels.iter().all(|p| p.y_label.is_empty()) { 0.0 } else { 1.35 * FONT };

        // Rows of panels: a wide one fills a row.
        let mut rows: Vec<Vec<usize>> = Vec::new();
        for (i, panel) in self.panels.iter().enumerate() {
            let room = rows.last().is_some_and(|row| row.len() < columns && !self.panels[row[0]].wide);
            match rows.last_mut() {
                Some(row) if room && !panel.wide => row.push(i),
                _ => rows.push(vec![i]),
            }
        }

        let title = wrap(&self.title, inner / BOLD, TITLE_FONT);
        let mut body = String::new();
        let mut top = MARGIN + title.len() as f64 * 1.25 * TITLE_FONT;
        if legend.height > 0.0 {
            top += 6.0;
            legend.draw(&mut body, MARGIN, top);
            top += legend.height;
        }
        top += 8.0;
        for row in &rows {
            let plot_width = |i: usize| if self.panels[i].wide { inner } else { cell_width } - left - 6.0;
            let own = |i: usize| if shared.is_some() { Vec::new() } else { self.panels[i].entries() };
            let heads: Vec<Block> = row.iter().map(|i| Block::legend(&own(*i), plot_width(*i))).collect();
            let titles: Vec<Vec<String>> =
                row.iter().map(|i| wrap(&self.panels[*i].title, plot_width(*i) / BOLD, PANEL_FONT)).collect();
            let title_lines = titles.iter().map(Vec::len).max().unwrap_or(0) as f64;
            let head = title_lines * 1.25 * PANEL_FONT + heads.iter().map(|head| head.height).fold(0.0, f64::max) + 7.0;
            let foot = row.iter().map(|i| self.panels[*i].foot()).fold(0.0, f64::max);
            let height = row.iter().map(|i| heights[*i]).fold(0.0, f64::max);
            for ((column, i), (own, lines)) in row.iter().enumerate().zip(heads.iter().zip(&titles)) {
                let panel = &self.panels[*i];
                let size = (plot_width(*i), height);
                let axes = ys[*i].clone().and_then(|y| Some(Axes { x: panel.x_axis(size.0)?, y, size }));
                let (x, y) = (MARGIN + column as f64 * (cell_width + GAP) + left, top + head);
                let _ = writeln!(body, r#"<g transform="translate({x:.1} {y:.1})">"#);
                panel.draw(&mut body, axes.as_ref(), size, lines, own);
                body.push_str("</g>\n");
            }
            top += head + height + foot + 10.0;
        }
        for paragraph in &self.notes {
            for line in wrap(paragraph, inner, FONT) {
                text(&mut body, MARGIN, top + FONT, "", &line);
                top += LINE;
            }
            top += 4.0;
        }
        let mut svg = card(&self.title, &title, width, top + MARGIN - 4.0);
        svg.push_str(&body);
        svg.push_str("</svg>\n");
        svg
    }

    /// The legend of all panels in one, if one panel's has the entries of every other.
    fn shared_legend(&self) -> Option<Vec<Entry>> {
        let all: Vec<Vec<Entry>> = self.panels.iter().map(Panel::entries).collect();
        let longest = all.iter().max_by_key(|entries| entries.len())?;
        all.iter().flatten().all(|entry| longest.contains(entry)).then(|| longest.clone())
    }

    /// For each panel the values that its y axis spans: its own, or those of all panels that it is compared with.
    fn y_values(&self) -> Vec<Vec<f64>> {
        let of = |panel: &Panel| match panel.compared {
            "" => panel.y_values(),
            word => self.panels.iter().filter(|p| p.compared == word).flat_map(Panel::y_values).collect(),
        };
        self.panels.iter().map(of).collect()
    }
}

/// The beginning of a document: a white card with a title, in lines.
fn card(title: &str, lines: &[String], width: f64, height: f64) -> String {
    let height = height.ceil();
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" font-family="Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif" font-size="{FONT}" fill="{TEXT}">
<title>{}</title>
<rect x="0.5" y="0.5" width="{}" height="{}" rx="6" fill="white" stroke="{GRID}"/>
"#,
        escape(title),
        width - 1.0,
        height - 1.0
    );
    let bold = format!(r#"font-size="{TITLE_FONT}" font-weight="bold""#);
    for (i, line) in lines.iter().enumerate() {
        text(&mut svg, MARGIN, MARGIN + TITLE_FONT + i as f64 * 1.25 * TITLE_FONT, &bold, line);
    }
    svg
}

#[cfg(test)]
mod tests;
