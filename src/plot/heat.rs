//! Heat maps: tables of values as coloured cells with the values in them.

use super::{
    BOLD, FONT, FRAME, GRID, HALF_CAPITAL, LINE, MARGIN, PANEL_FONT, TEXT, TITLE_FONT, WIDTH, card, text, text_width,
    wrap,
};
use std::fmt::Write;

/// Maps under one title, with one scale of colours.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    pub title: String,
    pub maps: Vec<Heat>,
    /// The values of the darkest and of the lightest colour, and what they are of; values beyond have the nearest colour.
    pub scale: (f64, f64, String),
    /// Paragraphs below the maps.
    pub notes: Vec<String>,
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

/// Least width of a cell, and the most that it is stretched to.
const CELL_WIDTH: (f64, f64) = (56.0, 84.0);
const CELL_HEIGHT: f64 = 27.0;
/// Below a map: names of columns and x label.
const BOTTOM: f64 = 2.0 * LINE + 8.0;
const SCALE_WIDTH: f64 = 200.0;
const SCALE_HEIGHT: f64 = 15.0;

/// Dark blue over teal to pale yellow, in steps of equal lightness (after viridis, van der Walt and Smith 2015), which
/// survives both colour-blind readers and grey print.
const COLORS: [[f64; 3]; 5] =
    [[68.0, 1.0, 84.0], [59.0, 82.0, 139.0], [33.0, 145.0, 140.0], [94.0, 201.0, 98.0], [253.0, 231.0, 37.0]];

impl HeatMap {
    /// The maps as an SVG document, one below the other: side by side their numbers would be too small to read.
    pub fn to_svg(&self) -> String {
        let (rows, columns) = (|map: &Heat| map.rows.len() as f64, |map: &Heat| map.columns.len() as f64);
        let widest = |names: &mut dyn Iterator<Item = &String>| names.map(|n| text_width(n, FONT)).fold(0.0, f64::max);
        let left = 10.0 + widest(&mut self.maps.iter().flat_map(|map| &map.rows).map(|row| &row.0));
        let column = 10.0 + widest(&mut self.maps.iter().flat_map(|map| &map.columns));
        let most = self.maps.iter().map(columns).fold(1.0, f64::max);
        let room = (WIDTH - 2.0 * MARGIN - left) / most;
        let cell = room.clamp(CELL_WIDTH.0.max(column), CELL_WIDTH.1.max(column));
        let width = (2.0 * MARGIN + left + most * cell).max(WIDTH).ceil();
        let inner = width - 2.0 * MARGIN;

        let title = wrap(&self.title, inner / BOLD, TITLE_FONT);
        let mut body = String::new();
        let mut top = MARGIN + title.len() as f64 * 1.25 * TITLE_FONT + 6.0;
        for map in &self.maps {
            for line in wrap(&map.title, inner / BOLD, PANEL_FONT) {
                top += 1.25 * PANEL_FONT;
                let bold = format!(r#"font-size="{PANEL_FONT}" font-weight="bold""#);
                text(&mut body, MARGIN + left, top, &bold, &line);
            }
            top += 8.0;
            let _ = writeln!(body, r#"<g transform="translate({:.1} {top:.1})">"#, MARGIN + left);
            map.draw(&mut body, self.scale.0, self.scale.1, cell);
            body.push_str("</g>\n");
            top += rows(map) * CELL_HEIGHT + BOTTOM + 8.0;
        }
        self.draw_scale(&mut body, top);
        top += SCALE_HEIGHT + 12.0;
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
    fn draw(&self, svg: &mut String, low: f64, high: f64, cell_width: f64) {
        let middle = r#"text-anchor="middle""#;
        for (r, (name, values)) in self.rows.iter().enumerate() {
            let top = r as f64 * CELL_HEIGHT;
            let base = top + CELL_HEIGHT / 2.0 + HALF_CAPITAL;
            text(svg, -6.0, base, r#"text-anchor="end""#, name);
            for c in 0..self.columns.len() {
                let left = c as f64 * cell_width;
                let value = values.get(c).copied().filter(|v| v.is_finite());
                let place = value.map(|v| if high > low { ((v - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 });
                let (fill, ink) = place.map_or((GRID.to_owned(), FRAME), color);
                cell(svg, [left, top, cell_width - 1.0, CELL_HEIGHT - 1.0], &fill);
                let shown = value.map_or("–".to_owned(), |v| format!("{v:.1}"));
                text(svg, left + cell_width / 2.0, base, &format!(r#"{middle} fill="{ink}""#), &shown);
            }
        }
        let bottom = self.rows.len() as f64 * CELL_HEIGHT;
        for (c, name) in self.columns.iter().enumerate() {
            text(svg, (c as f64 + 0.5) * cell_width, bottom + 3.0 + FONT, middle, name);
        }
        let x = self.columns.len() as f64 * cell_width / 2.0;
        text(svg, x, bottom + 3.0 + FONT + LINE, middle, &self.x_label);
    }
}

pub(super) fn cell(svg: &mut String, [x, y, width, height]: [f64; 4], fill: &str) {
    let _ = writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#);
}

/// The colour at `place` from 0 to 1, and one for text on it.
pub(super) fn color(place: f64) -> (String, &'static str) {
    let at = place * (COLORS.len() - 1) as f64;
    let i = (at as usize).min(COLORS.len() - 2);
    let mix = |k: usize| COLORS[i][k] + (at - i as f64) * (COLORS[i + 1][k] - COLORS[i][k]);
    let ink = if place < 0.6 { "white" } else { TEXT };
    (format!("#{:02X}{:02X}{:02X}", mix(0).round() as u8, mix(1).round() as u8, mix(2).round() as u8), ink)
}
