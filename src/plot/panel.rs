//! Drawing of one panel: axes, bands, lines, legend.

use super::axis::{Axis, Tick};
use super::style::{color, dashes, end_mark, marker};
use super::{FONT, FRAME, GRID, HALF_CAPITAL, LINE, Level, PANEL_FONT, Panel, Series, TICK_GAP, fit, text, text_width};
use std::fmt::Write;

/// Least distance between two markers of a line, on average.
const MARKER_PITCH: f64 = 20.0;
/// Length of a line's sample in a legend, and the room between it and its label.
const SAMPLE: f64 = 44.0;
const SAMPLE_GAP: f64 = 6.0;
const ENTRY_GAP: f64 = 16.0;

/// Both axes of a panel and the size of what they span.
pub struct Axes {
    pub x: Axis,
    pub y: Axis,
    pub size: (f64, f64),
}

impl Axes {
    /// From a point to pixels; None where it cannot be drawn.
    fn place(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        Some((self.x.place(x)? * self.size.0, (1.0 - self.y.place(y)?) * self.size.1))
    }
}

/// A line's entry in a legend.
#[derive(Clone, Debug)]
pub struct Entry {
    label: String,
    line: Line,
}

impl PartialEq for Entry {
    /// Markers alone stand for the line that has them.
    fn eq(&self, other: &Entry) -> bool {
        let lines = match (&self.line, &other.line) {
            (Line::Series { style: a, .. }, Line::Series { style: b, .. }) => a == b,
            (a, b) => a == b,
        };
        lines && self.label == other.label
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Line {
    Series { style: usize, fine: bool, dots: bool },
    Level { dotted: bool },
}

/// A legend laid out in lines.
#[derive(Default)]
pub struct Block {
    entries: Vec<(f64, f64, Entry)>,
    pub height: f64,
}

impl Block {
    /// Lays out `entries` in columns of one width where they then need no more lines, else one behind the other.
    pub fn legend(entries: &[Entry], width: f64) -> Block {
        let room = width - SAMPLE - SAMPLE_GAP;
        let widths: Vec<f64> =
            entries.iter().map(|e| SAMPLE + SAMPLE_GAP + text_width(&e.label, FONT).min(room)).collect();
        let widest = widths.iter().copied().fold(1.0, f64::max);
        let columns = (((width + ENTRY_GAP) / (widest + ENTRY_GAP)) as usize).max(1);
        let flowing = lay_out(&widths, width, |_| None);
        let aligned = lay_out(&widths, width, |i| Some((i % columns) as f64 * (widest + ENTRY_GAP)));
        let lines = |places: &[(f64, f64)]| places.last().map_or(0.0, |last| last.1);
        let places = if lines(&aligned) <= lines(&flowing) { aligned } else { flowing };
        let height = if entries.is_empty() { 0.0 } else { (lines(&places) + 1.0) * LINE };
        let entry = |(entry, (x, line)): (&Entry, &(f64, f64))| {
            (*x, (line + 0.5) * LINE, Entry { label: fit(&entry.label, room, FONT), ..entry.clone() })
        };
        Block { entries: entries.iter().zip(&places).map(entry).collect(), height }
    }

    /// Draws it with its upper left corner at a place.
    pub fn draw(&self, svg: &mut String, left: f64, top: f64) {
        for (x, middle, entry) in &self.entries {
            let (x, y) = (left + x, top + middle);
            match entry.line {
                Line::Series { style, fine, dots } => {
                    if !dots {
                        let (color, dashes) = (color(style), dashes(style));
                        let width = if fine { 1.2 } else { 2.2 };
                        let path = format!("M{x:.1} {y:.1}h{SAMPLE}");
                        let _ = writeln!(
                            svg,
                            r#"<path d="{path}" fill="none" stroke="{color}" stroke-width="{width}"{dashes}/>"#
                        );
                    }
                    if !fine {
                        marker(svg, style, (x + SAMPLE / 2.0, y));
                    }
                }
                Line::Level { dotted } => draw_level(svg, (x, x + SAMPLE), y, dotted),
            }
            text(svg, x + SAMPLE + SAMPLE_GAP, y + HALF_CAPITAL, "", &entry.label);
        }
    }
}

/// Left edge and line of boxes of these widths; `column` is the left edge where there are columns.
fn lay_out(widths: &[f64], width: f64, column: impl Fn(usize) -> Option<f64>) -> Vec<(f64, f64)> {
    let (mut places, mut end, mut line) = (Vec::new(), 0.0, 0.0);
    for (i, own) in widths.iter().enumerate() {
        let mut left = column(i).unwrap_or(end);
        let over = left + own > width + 0.01 || (column(i) == Some(0.0));
        if i > 0 && over {
            (left, line) = (0.0, line + 1.0);
        }
        places.push((left, line));
        end = left + own + ENTRY_GAP;
    }
    places
}

impl Panel {
    /// Returns true if a point can be drawn on the axes' scales.
    fn drawable(&self, (x, y): (f64, f64)) -> bool {
        x.is_finite() && y.is_finite() && (!self.log_x || x > 0.0) && (!self.log_y || y > 0.0)
    }

    /// The values that the y axis must span.
    pub fn y_values(&self) -> Vec<f64> {
        let with_band = |s: &Series| {
            let ends = s.points.iter().zip(&s.band).flat_map(|((x, _), (low, high))| [(*x, *low), (*x, *high)]);
            s.points.iter().copied().chain(ends).collect::<Vec<_>>()
        };
        let points = self.series.iter().flat_map(with_band).filter(|p| self.drawable(*p));
        let all: Vec<(f64, f64)> = points.collect();
        let range =
            |points: &mut dyn Iterator<Item = f64>| points.map(|y| (y, y)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let late = self.focus.and_then(|from| range(&mut all.iter().filter(|p| p.0 >= from).map(|p| p.1)));
        let own: Vec<f64> = match (late, range(&mut all.iter().map(|p| p.1))) {
            (Some((low, high)), Some(whole)) => {
                let span = high - low;
                vec![low, high, whole.0.max(low - span), whole.1.min(high + span)]
            }
            _ => all.iter().map(|p| p.1).collect(),
        };
        if own.is_empty() {
            return own;
        }
        own.into_iter().chain(self.reach.iter().copied()).chain(self.levels.iter().map(|l| l.y)).collect()
    }

    /// The y axis over `values`; None if there is nothing to draw.
    pub fn y_axis(&self, values: &[f64], height: f64) -> Option<Axis> {
        let roomy = |a: &Tick, b: &Tick| (b.place - a.place) * height > 1.5 * FONT;
        Axis::fitting(|aim| Axis::of_y(values, self.log_y, aim), roomy)
    }

    /// The x axis; None if there is nothing to draw.
    pub fn x_axis(&self, width: f64) -> Option<Axis> {
        if !self.x_names.is_empty() {
            return Some(Axis::of_names(&self.x_names));
        }
        let points = self.series.iter().flat_map(|s| &s.points).filter(|p| self.drawable(**p));
        let xs: Vec<f64> = points.map(|p| p.0).collect();
        let half = |tick: &Tick| 0.5 * text_width(&tick.label, FONT);
        let roomy = |a: &Tick, b: &Tick| (b.place - a.place) * width > half(a) + half(b) + 0.7 * FONT;
        let of = |aim| if self.log_x { Axis::of_y(&xs, true, aim) } else { Axis::of_x(&xs, aim) };
        Axis::fitting(of, roomy)
    }

    /// Its part of a legend.
    pub fn entries(&self) -> Vec<Entry> {
        let series = self.series.iter().filter(|s| !s.label.is_empty()).map(|s| {
            let Series { style, fine, dots, .. } = *s;
            Entry { label: s.label.clone(), line: Line::Series { style, fine, dots } }
        });
        let levels = self.levels.iter().filter(|l| !l.label.is_empty());
        let levels = levels.map(|l| Entry { label: l.label.clone(), line: Line::Level { dotted: l.dotted } });
        series.chain(levels).collect()
    }

    /// Height of tick labels and x label below the axes.
    pub fn foot(&self) -> f64 {
        let lines = self.x_names.iter().map(|name| name.split('\n').count()).max().unwrap_or(1);
        lines as f64 * LINE + if self.x_label.is_empty() { 6.0 } else { 6.0 + LINE }
    }

    /// Draws with the origin at the upper left corner of the axes.
    pub fn draw(&self, svg: &mut String, axes: Option<&Axes>, size: (f64, f64), title: &[String], legend: &Block) {
        let (width, height) = size;
        let middle = r#"text-anchor="middle""#;
        legend.draw(svg, 0.0, -7.0 - legend.height);
        let bold = format!(r#"font-size="{PANEL_FONT}" font-weight="bold""#);
        for (line, back) in title.iter().zip((0..title.len()).rev()) {
            let up = 7.0 + legend.height + back as f64 * 1.25 * PANEL_FONT + 0.3 * PANEL_FONT;
            text(svg, 0.0, -up, &bold, line);
        }
        let foot = self.foot();
        text(svg, width / 2.0, height + foot - 0.35 * FONT, middle, &fit(&self.x_label, width + 40.0, FONT));
        let turned = format!(r#"{middle} transform="rotate(-90)""#);
        let ticks = axes.map_or(0.0, |axes| tick_width(&axes.y));
        text(svg, -height / 2.0, -(TICK_GAP + ticks + 0.55 * FONT), &turned, &fit(&self.y_label, height + 30.0, FONT));
        for tick in axes.iter().flat_map(|axes| &axes.y.ticks) {
            let at = (1.0 - tick.place) * height;
            line(svg, [0.0, at, width, at], GRID);
            text(svg, -TICK_GAP, at + HALF_CAPITAL, r#"text-anchor="end""#, &tick.label);
        }
        for tick in axes.iter().flat_map(|axes| &axes.x.ticks) {
            let at = tick.place * width;
            if self.x_names.is_empty() {
                line(svg, [at, 0.0, at, height], GRID);
            }
            line(svg, [at, height, at, height + 5.0], FRAME);
            for (i, part) in tick.label.split('\n').enumerate() {
                // A label at the right end stays inside the card.
                let half = 0.5 * text_width(part, FONT);
                let at = at.min(width + 14.0 - half);
                text(svg, at, height + 5.0 + FONT + i as f64 * LINE, middle, part);
            }
        }
        if let Some(axes) = axes {
            // An inner document cuts off what leaves the axes.
            let _ = writeln!(svg, r#"<svg width="{width:.1}" height="{height:.1}" overflow="hidden">"#);
            self.series.iter().for_each(|series| draw_band(svg, series, axes));
            for Level { y, dotted, .. } in &self.levels {
                if let Some(y) = axes.y.place(*y) {
                    draw_level(svg, (0.0, width), (1.0 - y) * height, *dotted);
                }
            }
            self.series.iter().for_each(|series| draw_line(svg, series, axes));
            svg.push_str("</svg>\n");
            self.series.iter().enumerate().for_each(|(i, series)| draw_markers(svg, series, i, axes));
        } else {
            let style = format!(r##"{middle} font-style="italic" fill="{FRAME}""##);
            text(svg, width / 2.0, height / 2.0, &style, "no data yet");
        }
        line(svg, [0.0, 0.0, 0.0, height], FRAME);
        line(svg, [0.0, height, width, height], FRAME);
    }
}

fn draw_level(svg: &mut String, (from, to): (f64, f64), y: f64, dotted: bool) {
    let dashes = if dotted { r#" stroke-dasharray="1.6 4""# } else { "" };
    let _ = writeln!(
        svg,
        r##"<path d="M{from:.1} {y:.1}H{to:.1}" fill="none" stroke="#444444" stroke-width="1.6"{dashes}/>"##
    );
}

fn draw_line(svg: &mut String, series: &Series, axes: &Axes) {
    if series.dots {
        return;
    }
    let color = color(series.style);
    let places: Vec<Option<(f64, f64)>> = series.points.iter().map(|p| axes.place(*p)).collect();
    for run in places.split(Option::is_none) {
        let mut corners: Vec<String> = run.iter().flatten().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        // Thousands of steps fall on few pixels.
        corners.dedup();
        if corners.len() > 1 {
            let (path, dashes) = (corners.join("L"), dashes(series.style));
            let width = if series.fine { 1.2 } else { 2.2 };
            let style = format!(r#"stroke-width="{width}" stroke-linejoin="round""#);
            let _ = writeln!(svg, r#"<path d="M{path}" fill="none" stroke="{color}" {style}{dashes}/>"#);
        } else if let (Some(Some((x, y))), true) = (run.first(), series.fine || series.label.is_empty()) {
            let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.6" fill="{color}"/>"#);
        }
    }
}

/// Marks points on the axes: all of a line where they are far apart, else every so many, staggered by the line's number `i`.
fn draw_markers(svg: &mut String, series: &Series, i: usize, axes: &Axes) {
    let inside =
        |p: &(f64, f64)| (-0.01..=axes.size.0 + 0.01).contains(&p.0) && (-0.01..=axes.size.1 + 0.01).contains(&p.1);
    let places: Vec<(f64, f64)> = series.points.iter().filter_map(|p| axes.place(*p)).collect();
    if !series.fine && !series.label.is_empty() {
        let across = places.last().map_or(0.0, |last| (last.0 - places[0].0).abs());
        let most = if series.dots { places.len() } else { 1 + (across / MARKER_PITCH) as usize };
        let every = places.len().div_ceil(most.max(1)).max(1);
        let phase = i % every;
        let chosen = places.iter().enumerate().filter(|(k, _)| k % every == phase).map(|(_, place)| *place);
        chosen.filter(inside).for_each(|place| marker(svg, series.style, place));
    }
    if series.fine && series.dots {
        let color = color(series.style);
        for (x, y) in places.iter().filter(|place| inside(place)) {
            let _ = writeln!(
                svg,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.6" fill="none" stroke="{color}" stroke-width="1.2"/>"#
            );
        }
    }
    if let Some(last) = places.last().filter(|_| series.ended) {
        let last = (last.0, last.1.clamp(0.0, axes.size.1));
        end_mark(svg, last, color(series.style));
    }
}

fn draw_band(svg: &mut String, series: &Series, axes: &Axes) {
    let color = color(series.style);
    let ends = series.points.iter().zip(&series.band);
    let ends = ends.map(|((x, _), (low, high))| Some((axes.place((*x, *low))?, axes.place((*x, *high))?)));
    let places: Vec<_> = ends.collect();
    if series.dots {
        for ((x, low), (_, high)) in places.iter().flatten() {
            let path = format!("M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h12M{:.1} {high:.1}h12", x - 6.0, x - 6.0);
            let _ = writeln!(svg, r#"<path d="{path}" fill="none" stroke="{color}" stroke-width="2.2"/>"#);
        }
        return;
    }
    for run in places.split(Option::is_none).filter(|run| run.len() > 1) {
        let there = run.iter().flatten().map(|(low, _)| low);
        let back = run.iter().rev().flatten().map(|(_, high)| high);
        let corners: Vec<String> = there.chain(back).map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        let path = corners.join("L");
        let _ = writeln!(svg, r#"<path d="M{path}Z" fill="{color}" fill-opacity="0.2"/>"#);
    }
}

fn line(svg: &mut String, [x1, y1, x2, y2]: [f64; 4], color: &str) {
    let _ = writeln!(svg, r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{color}"/>"#);
}

/// Returns the width of the widest tick label.
pub fn tick_width(axis: &Axis) -> f64 {
    axis.ticks.iter().map(|tick| text_width(&tick.label, FONT)).fold(0.0, f64::max)
}
