//! Charts as SVG: the curves of a training run, the figures of reports, and heat maps.
//!
//! A figure is a white card of panels. Lines are named at their right end, outside the axes, so that no legend covers data;
//! the colours are Okabe and Ito's, which colour-blind readers tell apart.

mod axis;
mod heat;

pub use heat::{Heat, HeatMap};

use axis::Axis;
use std::fmt::Write;

/// Okabe and Ito's colours (2008): blue, vermillion, green, purple, orange, sky blue, black, yellow.
pub const PALETTE: [&str; 8] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"];

/// Panels in a grid under one title.
#[derive(Clone, Debug)]
pub struct Figure {
    pub title: String,
    pub panels: Vec<Panel>,
    /// Panels side by side; 0 counts as 1.
    pub columns: usize,
}

/// One pair of axes.
#[derive(Clone, Debug, Default)]
pub struct Panel {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub series: Vec<Series>,
    /// Logarithmic axes; values of 0 and below leave gaps.
    pub log_x: bool,
    pub log_y: bool,
}

/// One line. Points that are not finite leave a gap; a point without neighbours is drawn as a dot.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Written at the line's end; empty for none.
    pub label: String,
    pub points: Vec<(f64, f64)>,
    /// Number in [`PALETTE`], counted around.
    pub color: usize,
    pub dashed: bool,
    /// Fine and pale: one of several that a stronger line sums up.
    pub fine: bool,
    /// For each point the low and high end of a shaded band (say mean ± deviation over seeds); empty for none.
    pub band: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(label: &str, color: usize, points: Vec<(f64, f64)>) -> Series {
        Series { label: label.into(), points, color, ..Series::default() }
    }
    fn stroke(&self) -> &'static str {
        PALETTE[self.color % PALETTE.len()]
    }
    fn dashes(&self) -> &'static str {
        if self.dashed { r#" stroke-dasharray="5 3""# } else { "" }
    }
}

// All lengths are in pixels of the SVG's own size.
const MARGIN: f64 = 16.0;
const PLOT_WIDTH: f64 = 300.0;
const PLOT_HEIGHT: f64 = 200.0;
/// Of tick labels, axis labels and line names.
const FONT: f64 = 11.0;
/// From the middle of a line of text down to its base line.
const HALF_CAPITAL: f64 = 0.36 * FONT;
/// Between tick labels and the y axis.
const TICK_GAP: f64 = 7.0;
const PANEL_FONT: f64 = 12.5;
const TITLE_FONT: f64 = 15.0;
/// Least distance between the names of two lines.
const NAME_PITCH: f64 = 14.0;
/// Length of the stroke that leads from a line's end to its name.
const LEADER: f64 = 18.0;
const TEXT: &str = "#333333";
const GRID: &str = "#E6E6E6";
const FRAME: &str = "#8C8C8C";

/// Sizes that all panels of a figure share, so that their axes line up.
struct Grid {
    /// Left of the axes: y label and tick labels.
    left: f64,
    /// Above the axes: the panel's title.
    top: f64,
    /// Right of the axes: names of lines.
    right: f64,
    /// Below the axes: tick labels and x label.
    bottom: f64,
    plot_height: f64,
}

impl Figure {
    pub fn new(title: &str, panels: Vec<Panel>) -> Figure {
        Figure { title: title.into(), panels, columns: 2 }
    }

    /// The figure as an SVG document.
    pub fn to_svg(&self) -> String {
        let axes: Vec<Option<(Axis, Axis)>> = self.panels.iter().map(Panel::axes).collect();
        let widest_tick = axes.iter().flatten().map(|(_, y)| tick_width(y)).fold(0.0, f64::max);
        let names = self.panels.iter().flat_map(|panel| &panel.series).filter(|series| !series.label.is_empty());
        let widest_name = names.map(|series| text_width(&series.label, FONT)).reduce(f64::max);
        let named = |panel: &Panel| panel.series.iter().filter(|series| !series.label.is_empty()).count();
        let most_names = self.panels.iter().map(named).max().unwrap_or(0);
        let grid = Grid {
            left: TICK_GAP + widest_tick + 2.0 * FONT,
            top: if self.panels.iter().any(|panel| !panel.title.is_empty()) { 26.0 } else { 8.0 },
            right: widest_name.map_or(10.0, |width| LEADER + 8.0 + width),
            bottom: 42.0,
            plot_height: PLOT_HEIGHT.max(most_names as f64 * NAME_PITCH),
        };
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        let rows = self.panels.len().div_ceil(columns);
        let (cell_width, cell_height) =
            (grid.left + PLOT_WIDTH + grid.right, grid.top + grid.plot_height + grid.bottom);
        let header = if self.title.is_empty() { 0.0 } else { 28.0 };
        // Wide enough that nobody takes a line's name for the next panel's y label.
        let gap = 20.0;
        let width = 2.0 * MARGIN + columns as f64 * (cell_width + gap) - gap;
        let width = width.max(2.0 * MARGIN + text_width(&self.title, TITLE_FONT)).ceil();
        let height = (2.0 * MARGIN + header + rows as f64 * (cell_height + gap) - gap.min(rows as f64 * gap)).ceil();

        let mut svg = card(&self.title, width, height);
        for (i, (panel, axes)) in self.panels.iter().zip(&axes).enumerate() {
            let left = MARGIN + (i % columns) as f64 * (cell_width + gap) + grid.left;
            let top = MARGIN + header + (i / columns) as f64 * (cell_height + gap) + grid.top;
            let _ = writeln!(svg, r#"<g transform="translate({left:.1} {top:.1})">"#);
            panel.draw(&mut svg, axes.as_ref(), &grid);
            svg.push_str("</g>\n");
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The beginning of a document: a white card with a title.
fn card(title: &str, width: f64, height: f64) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" font-family="Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif" font-size="{FONT}" fill="{TEXT}">
<title>{}</title>
<rect x="0.5" y="0.5" width="{}" height="{}" rx="6" fill="white" stroke="{GRID}"/>
"#,
        escape(title),
        width - 1.0,
        height - 1.0
    );
    text(&mut svg, MARGIN, MARGIN + TITLE_FONT, &format!(r#"font-size="{TITLE_FONT}" font-weight="bold""#), title);
    svg
}

impl Panel {
    /// None if there is no point to draw.
    fn axes(&self) -> Option<(Axis, Axis)> {
        // A point counts only where both of its coordinates can be drawn.
        let drawable = |(x, y): &(f64, f64)| {
            x.is_finite() && y.is_finite() && (!self.log_x || *x > 0.0) && (!self.log_y || *y > 0.0)
        };
        let points = self.series.iter().flat_map(|s| &s.points).filter(|p| drawable(p));
        let xs: Vec<f64> = points.clone().map(|p| p.0).collect();
        let bands = self.series.iter().flat_map(|s| &s.band).flat_map(|(low, high)| [*low, *high]);
        let ys: Vec<f64> = points.map(|p| p.1).chain(bands).collect();
        let x = if self.log_x { Axis::of_y(&xs, true) } else { Axis::of_x(&xs) };
        Some((x?, Axis::of_y(&ys, self.log_y)?))
    }

    /// Draws with the origin at the upper left corner of the axes.
    fn draw(&self, svg: &mut String, axes: Option<&(Axis, Axis)>, grid: &Grid) {
        let height = grid.plot_height;
        let middle = r#"text-anchor="middle""#;
        text(svg, 0.0, -10.0, &format!(r#"font-size="{PANEL_FONT}" font-weight="bold""#), &self.title);
        text(svg, PLOT_WIDTH / 2.0, height + 33.0, middle, &self.x_label);
        let turned = format!(r#"{middle} transform="rotate(-90)""#);
        let ticks = axes.map_or(0.0, |(_, y)| tick_width(y));
        text(svg, -height / 2.0, -(TICK_GAP + ticks + FONT), &turned, &self.y_label);
        for tick in axes.iter().flat_map(|(_, y)| &y.ticks) {
            let at = (1.0 - tick.place) * height;
            line(svg, [0.0, at, PLOT_WIDTH, at], GRID);
            text(svg, -TICK_GAP, at + HALF_CAPITAL, r#"text-anchor="end""#, &tick.label);
        }
        for tick in axes.iter().flat_map(|(x, _)| &x.ticks) {
            let at = tick.place * PLOT_WIDTH;
            line(svg, [at, 0.0, at, height], GRID);
            line(svg, [at, height, at, height + 4.0], FRAME);
            text(svg, at, height + 16.0, middle, &tick.label);
        }
        line(svg, [0.0, 0.0, 0.0, height], FRAME);
        line(svg, [0.0, height, PLOT_WIDTH, height], FRAME);
        let Some((x, y)) = axes else {
            let style = format!(r##"{middle} font-style="italic" fill="{FRAME}""##);
            return text(svg, PLOT_WIDTH / 2.0, height / 2.0, &style, "no data yet");
        };
        let place = |(a, b): (f64, f64)| Some((x.place(a)? * PLOT_WIDTH, (1.0 - y.place(b)?) * height));
        self.series.iter().for_each(|series| draw_band(svg, series, &place));
        self.series.iter().for_each(|series| draw_line(svg, series, &place));
        self.draw_names(svg, height, &place);
    }

    /// Writes each line's name beside its end, moved apart where ends are close, with a stroke from the one to the other.
    fn draw_names(&self, svg: &mut String, height: f64, place: &Place) {
        let end = |series: &Series| series.points.iter().rev().find_map(|p| place(*p)).map(|p| p.1);
        let named = self.series.iter().filter(|series| !series.label.is_empty());
        let mut names: Vec<(f64, &Series)> = named.filter_map(|series| Some((end(series)?, series))).collect();
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        for ((from, series), to) in names.iter().zip(spread(names.iter().map(|name| name.0), height)) {
            let (color, dashes) = (series.stroke(), series.dashes());
            let (start, stop) = (PLOT_WIDTH + 3.0, PLOT_WIDTH + 3.0 + LEADER);
            let path = format!("M{start:.1} {from:.1}L{:.1} {to:.1}L{stop:.1} {to:.1}", start + LEADER / 2.0);
            let _ = writeln!(svg, r#"<path d="{path}" fill="none" stroke="{color}" stroke-width="1.8"{dashes}/>"#);
            text(svg, stop + 4.0, to + HALF_CAPITAL, "", &series.label);
        }
    }
}

/// From a point to pixels; None where it cannot be drawn.
type Place<'a> = dyn Fn((f64, f64)) -> Option<(f64, f64)> + 'a;

/// Moves ascending heights apart to `NAME_PITCH` within `0..=height`, with the least sum of squared moves.
///
/// Less `i * NAME_PITCH` the places must not descend, so this is isotonic regression: neighbours that would are pooled.
fn spread(heights: impl Iterator<Item = f64>, height: f64) -> Vec<f64> {
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (i, h) in heights.enumerate() {
        let mut pool = (h - i as f64 * NAME_PITCH, 1);
        while let Some((mean, count)) = pools.pop_if(|(mean, _)| *mean > pool.0) {
            let total = count + pool.1;
            pool = ((mean * count as f64 + pool.0 * pool.1 as f64) / total as f64, total);
        }
        pools.push(pool);
    }
    let places = pools.into_iter().flat_map(|(mean, count)| std::iter::repeat_n(mean, count));
    let places: Vec<f64> = places.collect();
    let most = height - places.len().saturating_sub(1) as f64 * NAME_PITCH;
    places.iter().enumerate().map(|(i, p)| p.clamp(0.0, most.max(0.0)) + i as f64 * NAME_PITCH).collect()
}

fn draw_line(svg: &mut String, series: &Series, place: &Place) {
    let color = series.stroke();
    let places: Vec<Option<(f64, f64)>> = series.points.iter().map(|p| place(*p)).collect();
    for run in places.split(Option::is_none) {
        let mut corners: Vec<String> = run.iter().flatten().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        // Thousands of steps fall on few pixels.
        corners.dedup();
        if corners.len() > 1 {
            let (path, dashes) = (corners.join("L"), series.dashes());
            let weight = if series.fine { r#"0.8" stroke-opacity="0.55"# } else { "1.8" };
            let style = format!(r#"stroke-width="{weight}" stroke-linejoin="round" stroke-linecap="round""#);
            let _ = writeln!(svg, r#"<path d="M{path}" fill="none" stroke="{color}" {style}{dashes}/>"#);
        } else if let Some(Some((x, y))) = run.first() {
            let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.6" fill="{color}"/>"#);
        }
    }
}

fn draw_band(svg: &mut String, series: &Series, place: &Place) {
    let ends = series.points.iter().zip(&series.band);
    let places: Vec<_> = ends.map(|((x, _), (low, high))| Some((place((*x, *low))?, place((*x, *high))?))).collect();
    for run in places.split(Option::is_none).filter(|run| run.len() > 1) {
        let there = run.iter().flatten().map(|(low, _)| low);
        let back = run.iter().rev().flatten().map(|(_, high)| high);
        let corners: Vec<String> = there.chain(back).map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let (path, color) = (corners.join("L"), series.stroke());
        let _ = writeln!(svg, r#"<path d="M{path}Z" fill="{color}" fill-opacity="0.16"/>"#);
    }
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], color: &str) {
    let _ = writeln!(svg, r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{color}"/>"#);
}

/// Text at a base line; nothing if it is empty.
fn text(svg: &mut String, x: f64, y: f64, style: &str, what: &str) {
    if !what.is_empty() {
        let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" {style}>{}</text>"#, escape(what));
    }
}

/// Of the widest tick label.
fn tick_width(axis: &Axis) -> f64 {
    axis.ticks.iter().map(|tick| text_width(&tick.label, FONT)).fold(0.0, f64::max)
}

/// A little more than the width of `text` in common sans-serif fonts; the fonts of the reader's machine are unknown.
fn text_width(text: &str, size: f64) -> f64 {
    let width = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | 'I' | ' ' | '.' | ',' | ':' | ';' | '!' | '|' | '\'' | '(' | ')' => 0.38,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.95,
        c if c.is_ascii_uppercase() => 0.72,
        c if c.is_ascii() => 0.6,
        c if c < '\u{2E80}' => 0.7,
        // Chinese, Japanese and Korean signs fill a square.
        _ => 1.0,
    };
    text.chars().map(width).sum::<f64>() * size
}

/// Text for XML: markup characters as entities, characters that XML forbids as spaces.
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

#[cfg(test)]
mod tests;
