//! Heat maps: tables of values as coloured cells with the values in them.

use super::{FONT, FRAME, GRID, HALF_CAPITAL, MARGIN, PANEL_FONT, TEXT, TITLE_FONT, card, text, text_width};
use std::fmt::Write;

/// Maps side by side under one title, with one scale of colours.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    pub title: String,
    pub maps: Vec<Heat>,
    /// The values of the darkest and of the lightest colour, and what they are of; values beyond have the nearest colour.
    pub scale: (f64, f64, String),
}

/// One table.
#[derive(Clone, Debug, PartialEq)]
pub struct Heat {
    pub title: String,
    pub x_label: String,
    pub columns: Vec<String>,
    /// Names and values of the rows from top to bottom; a row shorter than `columns`, and what is not finite, leaves holes.
    pub rows: Vec<(String, Vec<f64>)>,
}

const CELL_WIDTH: f64 = 40.0;
const CELL_HEIGHT: f64 = 22.0;
/// Above a map: its title; below: names of columns and x label.
const TOP: f64 = 26.0;
const BOTTOM: f64 = 42.0;
const GAP: f64 = 24.0;
/// Width of bold text over that of plain text.
const BOLD: f64 = 1.15;
const SCALE_WIDTH: f64 = 160.0;
const SCALE_HEIGHT: f64 = 10.0;

/// Dark blue over teal to pale yellow, in steps of equal lightness (after viridis, van der Walt and Smith 2015), which
/// survives both colour-blind readers and grey print.
const COLORS: [[f64; 3]; 5] =
    [[68.0, 1.0, 84.0], [59.0, 82.0, 139.0], [33.0, 145.0, 140.0], [94.0, 201.0, 98.0], [253.0, 231.0, 37.0]];

impl HeatMap {
    /// The maps as an SVG document.
    pub fn to_svg(&self) -> String {
        let left = |map: &Heat| map.rows.iter().map(|row| text_width(&row.0, FONT)).fold(0.0, f64::max) + 10.0;
        let cells = |map: &Heat| map.columns.len() as f64 * CELL_WIDTH;
        let wide = |map: &Heat| left(map) + cells(map).max(BOLD * text_width(&map.title, PANEL_FONT));
        let deepest = self.maps.iter().map(|map| map.rows.len()).max().unwrap_or(0) as f64 * CELL_HEIGHT;
        let maps_width = self.maps.iter().map(wide).sum::<f64>() + GAP * self.maps.len().saturating_sub(1) as f64;
        let (low, high, what) = &self.scale;
        let scale_width = SCALE_WIDTH + text_width(what, FONT) + 100.0;
        let width = 2.0 * MARGIN + maps_width.max(BOLD * text_width(&self.title, TITLE_FONT)).max(scale_width);
        let header = if self.title.is_empty() { 0.0 } else { 28.0 };
        let scale_top = MARGIN + header + TOP + deepest + BOTTOM + 8.0;
        let mut svg = card(&self.title, width.ceil(), (scale_top + SCALE_HEIGHT + MARGIN + 4.0).ceil());
        let mut x = MARGIN;
        for map in &self.maps {
            let _ = writeln!(svg, r#"<g transform="translate({:.1} {:.1})">"#, x + left(map), MARGIN + header + TOP);
            map.draw(&mut svg, *low, *high);
            svg.push_str("</g>\n");
            x += wide(map) + GAP;
        }
        self.draw_scale(&mut svg, scale_top);
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_scale(&self, svg: &mut String, top: f64) {
        let (low, high, what) = &self.scale;
        let (base, steps) = (top + SCALE_HEIGHT / 2.0 + HALF_CAPITAL, 32);
        let name = format!("{what}: {low}");
        text(svg, MARGIN, base, "", &name);
        let left = MARGIN + text_width(&name, FONT) + 6.0;
        let step = SCALE_WIDTH / f64::from(steps);
        for i in 0..steps {
            let fill = color(f64::from(i) / f64::from(steps - 1));
            // A little wider than its step: no seams show between cells.
            cell(svg, [left + f64::from(i) * step, top, step + 0.5, SCALE_HEIGHT], &fill.0);
        }
        text(svg, left + SCALE_WIDTH + 6.0, base, "", &high.to_string());
    }
}

impl Heat {
    /// Draws with the origin at the upper left corner of the cells.
    fn draw(&self, svg: &mut String, low: f64, high: f64) {
        let middle = r#"text-anchor="middle""#;
        text(svg, 0.0, -10.0, &format!(r#"font-size="{PANEL_FONT}" font-weight="bold""#), &self.title);
        for (r, (name, values)) in self.rows.iter().enumerate() {
            let top = r as f64 * CELL_HEIGHT;
            let base = top + CELL_HEIGHT / 2.0 + HALF_CAPITAL;
            text(svg, -6.0, base, r#"text-anchor="end""#, name);
            for c in 0..self.columns.len() {
                let left = c as f64 * CELL_WIDTH;
                let value = values.get(c).copied().filter(|v| v.is_finite());
                let place = value.map(|v| if high > low { ((v - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 });
                let (fill, ink) = place.map_or((GRID.to_owned(), FRAME), color);
                cell(svg, [left, top, CELL_WIDTH - 1.0, CELL_HEIGHT - 1.0], &fill);
                let shown = value.map_or("–".to_owned(), |v| format!("{v:.1}"));
                text(svg, left + CELL_WIDTH / 2.0, base, &format!(r#"{middle} fill="{ink}""#), &shown);
            }
        }
        let bottom = self.rows.len() as f64 * CELL_HEIGHT;
        for (c, name) in self.columns.iter().enumerate() {
            text(svg, (c as f64 + 0.5) * CELL_WIDTH, bottom + 15.0, middle, name);
        }
        text(svg, self.columns.len() as f64 * CELL_WIDTH / 2.0, bottom + 32.0, middle, &self.x_label);
    }
}

fn cell(svg: &mut String, [x, y, width, height]: [f64; 4], fill: &str) {
    let _ = writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#);
}

/// The colour at `place` from 0 to 1, and one for text on it.
fn color(place: f64) -> (String, &'static str) {
    let at = place * (COLORS.len() - 1) as f64;
    let i = (at as usize).min(COLORS.len() - 2);
    let mix = |k: usize| COLORS[i][k] + (at - i as f64) * (COLORS[i + 1][k] - COLORS[i][k]);
    let ink = if place < 0.6 { "white" } else { TEXT };
    (format!("#{:02X}{:02X}{:02X}", mix(0).round() as u8, mix(1).round() as u8, mix(2).round() as u8), ink)
}
