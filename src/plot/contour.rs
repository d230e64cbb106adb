//! Contour figures: values over a plane as bands of colour between iso-lines (marching squares).

use super::heat::{cell, color};
use super::{
    BOLD, FONT, FRAME, GRID, HALF_CAPITAL, LINE, MARGIN, PANEL_FONT, TEXT, TITLE_FONT, WIDTH, card, text, text_width,
    wrap,
};
use std::fmt::Write;

/// Surfaces under one title, with common levels and colours.
#[derive(Clone, Debug, PartialEq)]
pub struct Contours {
    pub title: String,
    pub surfaces: Vec<Surface>,
    /// What the values are, for the scale.
    pub what: String,
    /// Paragraphs below.
    pub notes: Vec<String>,
}

/// Values at the points of a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Surface {
    pub title: String,
    /// Ascending.
    pub xs: Vec<f64>,
    pub ys: Vec<f64>,
    /// Row by row: all of `xs` at the first of `ys`, and so on. What is not finite leaves a hole.
    pub values: Vec<f64>,
}

/// Most levels of a figure.
const MOST_LEVELS: usize = 10;
/// Between two surfaces side by side, for the tick labels of the right one.
const GAP: f64 = 58.0;
const SWATCH: f64 = 15.0;

/// Returns levels between the least and the largest positive value: 1, 2, 5 in each decade, or fewer where these are many.
pub fn levels(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let positive = values.filter(|v| v.is_finite() && *v > 0.0);
    let (least, most) = positive.fold((f64::INFINITY, 0f64), |(a, b), v| (a.min(v), b.max(v)));
    if least > most {
        return vec![];
    }
    let decades = least.log10().floor() as i32..=most.log10().ceil() as i32;
    for steps in [&[1.0, 1.5, 2.0, 3.0, 5.0, 7.0][..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]] {
        let all = decades.clone().flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d)));
        let inside: Vec<f64> = all.filter(|v| least < *v && *v < most).collect();
        if inside.len() <= MOST_LEVELS {
            return inside;
        }
    }
    let first = decades.clone().map(|d| 10f64.powi(d)).filter(|v| least < *v && *v < most);
    let all: Vec<f64> = first.collect();
    let step = all.len().div_ceil(MOST_LEVELS).max(1);
    all.into_iter().step_by(step).collect()
}

/// Two ends of a piece of an iso-line.
type Piece = [(f64, f64); 2];

impl Surface {
    fn at(&self, i: usize, j: usize) -> f64 {
        self.values.get(j * self.xs.len() + i).copied().unwrap_or(f64::NAN)
    }

    /// Returns the pieces of the line where the values, interpolated along the grid's edges, are `level`.
    pub fn iso_line(&self, level: f64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for j in 1..self.ys.len() {
            for i in 1..self.xs.len() {
                let corners = [(i - 1, j - 1), (i, j - 1), (i, j), (i - 1, j)];
                let values = corners.map(|(i, j)| self.at(i, j));
                if !values.iter().all(|v| v.is_finite()) {
                    continue;
                }
                let crossing = |k: usize| {
                    let (a, b) = (values[k], values[(k + 1) % 4]);
                    let ((i0, j0), (i1, j1)) = (corners[k], corners[(k + 1) % 4]);
                    let t = (level - a) / (b - a);
                    let mix = |a: f64, b: f64| a + t * (b - a);
                    ((a < level) != (b < level)).then(|| (mix(self.xs[i0], self.xs[i1]), mix(self.ys[j0], self.ys[j1])))
                };
                let found: Vec<(f64, f64)> = (0..4).filter_map(crossing).collect();
                // Where all four edges are crossed, the mean decides which corners belong together.
                let middle = values.iter().sum::<f64>() / 4.0;
                let turned = found.len() == 4 && (middle < level) == (values[0] < level);
                let pairs: &[[usize; 2]] = match (found.len(), turned) {
                    (2, _) => &[[0, 1]],
                    (4, true) => &[[0, 1], [2, 3]],
                    (4, false) => &[[3, 0], [1, 2]],
                    _ => &[],
                };
                pieces.extend(pairs.iter().map(|[a, b]| [found[*a], found[*b]]));
            }
        }
        pieces
    }

    /// Draws the surface in a square of `side` whose upper left corner is the origin.
    fn draw(&self, svg: &mut String, levels: &[f64], side: f64) {
        let ends = |v: &[f64]| (v.first().copied().unwrap_or(0.0), v.last().copied().unwrap_or(1.0));
        let ((left, right), (low, high)) = (ends(&self.xs), ends(&self.ys));
        let x = |v: f64| side * (v - left) / (right - left);
        let y = |v: f64| side * (high - v) / (high - low);
        // Each point of the grid is the middle of its cell, cut off at the border.
        let edges = |v: &[f64], to: &dyn Fn(f64) -> f64| {
            let between = v.windows(2).map(|pair| to((pair[0] + pair[1]) / 2.0)).collect::<Vec<_>>();
            [vec![to(v[0])], between, vec![to(v[v.len() - 1])]].concat()
        };
        let (columns, rows) = (edges(&self.xs, &x), edges(&self.ys, &y));
        for j in 0..self.ys.len() {
            for i in 0..self.xs.len() {
                let fill = band_color(self.at(i, j), levels);
                let (top, bottom) = (rows[j + 1], rows[j]);
                // A little wider than its place: no seams show between cells.
                cell(svg, [columns[i], top, columns[i + 1] - columns[i] + 0.4, bottom - top + 0.4], &fill);
            }
        }
        let mut labels: Vec<(f64, f64)> = vec![];
        for (number, level) in levels.iter().enumerate() {
            let pieces = self.iso_line(*level);
            let mut path = String::new();
            for [a, b] in &pieces {
                let _ = write!(path, "M{:.1} {:.1}L{:.1} {:.1}", x(a.0), y(a.1), x(b.0), y(b.1));
            }
            // Every other line is dashed, so that neighbours differ without colour.
            let dashes = if number % 2 == 0 { "" } else { r#" stroke-dasharray="5 3""# };
            for (ink, width) in [("white", 2.4), (TEXT, 1.0)] {
                let _ =
                    writeln!(svg, r#"<path d="{path}" fill="none" stroke="{ink}" stroke-width="{width}"{dashes}/>"#);
            }
            let name = short(*level);
            let half = text_width(&name, FONT) / 2.0 + 3.0;
            let inside = |p: &(f64, f64)| p.0 > half && p.0 < side - half && p.1 > LINE && p.1 < side - LINE;
            let far = |p: &(f64, f64)| {
                labels.iter().all(|l| (p.0 - l.0).abs() > 2.6 * half || (p.1 - l.1).abs() > 1.2 * LINE)
            };
            let places = pieces.iter().map(|[a, b]| (x((a.0 + b.0) / 2.0), y((a.1 + b.1) / 2.0)));
            if let Some(place) = places.filter(|p| inside(p) && far(p)).max_by(|a, b| a.0.total_cmp(&b.0)) {
                // A white edge first, then the ink: not every viewer knows paint-order.
                for ink in [r#" stroke="white" stroke-width="4""#, ""] {
                    let ink = format!(r#"text-anchor="middle"{ink}"#);
                    text(svg, place.0, place.1 + HALF_CAPITAL, &ink, &name);
                }
                labels.push(place);
            }
        }
        let _ = writeln!(svg, r#"<rect width="{side:.1}" height="{side:.1}" fill="none" stroke="{FRAME}"/>"#);
        let middle = r#"text-anchor="middle""#;
        for v in [left, (left + right) / 2.0, right] {
            text(svg, x(v), side + 4.0 + FONT, middle, &short(v));
        }
        for v in [low, (low + high) / 2.0, high] {
            text(svg, -6.0, y(v) + HALF_CAPITAL, r#"text-anchor="end""#, &short(v));
        }
        let _ = writeln!(svg, r#"<circle cx="{:.1}" cy="{:.1}" r="4" fill="white" stroke="black"/>"#, x(0.0), y(0.0));
    }
}

/// A number with up to three digits behind its first one.
fn short(v: f64) -> String {
    if v != 0.0 && (v.abs() < 1e-3 || v.abs() >= 1e5) {
        format!("{v:.0e}")
    } else {
        format!("{}", (v * 1e4).round() / 1e4)
    }
}

fn band_color(value: f64, levels: &[f64]) -> String {
    if !value.is_finite() {
        return GRID.to_owned();
    }
    let band = levels.iter().filter(|level| value >= **level).count();
    color(band as f64 / levels.len().max(1) as f64).0
}

impl Contours {
    /// The surfaces as an SVG document, two side by side.
    pub fn to_svg(&self) -> String {
        let levels = levels(self.surfaces.iter().flat_map(|s| s.values.iter().copied()));
        let (inner, left) = (WIDTH - 2.0 * MARGIN, 40.0);
        let columns = self.surfaces.len().clamp(1, 2);
        let side = if columns == 1 { 0.72 * inner } else { (inner - left - GAP) / 2.0 };
        let title = wrap(&self.title, inner / BOLD, TITLE_FONT);
        let mut body = String::new();
        let mut top = MARGIN + title.len() as f64 * 1.25 * TITLE_FONT + 6.0;
        for pair in self.surfaces.chunks(2) {
            let titles: Vec<Vec<String>> = pair.iter().map(|s| wrap(&s.title, side / BOLD, PANEL_FONT)).collect();
            let lines = titles.iter().map(Vec::len).max().unwrap_or(0) as f64;
            for (k, (surface, lines)) in pair.iter().zip(&titles).enumerate() {
                let x = MARGIN + left + k as f64 * (side + GAP);
                for (n, line) in lines.iter().enumerate() {
                    let bold = format!(r#"font-size="{PANEL_FONT}" font-weight="bold""#);
                    text(&mut body, x, top + (n as f64 + 1.0) * 1.25 * PANEL_FONT, &bold, line);
                }
                let origin = top + titles.iter().map(Vec::len).max().unwrap_or(0) as f64 * 1.25 * PANEL_FONT + 10.0;
                let _ = writeln!(body, r#"<g transform="translate({x:.1} {origin:.1})">"#);
                if surface.xs.len() > 1 && surface.ys.len() > 1 {
                    surface.draw(&mut body, &levels, side);
                }
                body.push_str("</g>\n");
            }
            top += lines * 1.25 * PANEL_FONT + 10.0 + side + LINE + 16.0;
        }
        top = self.draw_scale(&mut body, &levels, top);
        for paragraph in &self.notes {
            for line in wrap(paragraph, inner, FONT) {
                text(&mut body, MARGIN, top + FONT, "", &line);
                top += LINE;
            }
            top += 4.0;
        }
        let mut svg = card(&self.title, &title, WIDTH, top + MARGIN - 4.0);
        svg.push_str(&body);
        svg.push_str("</svg>\n");
        svg
    }

    /// Draws the bands' colours, each with the level that it begins at; returns the place below.
    fn draw_scale(&self, svg: &mut String, levels: &[f64], top: f64) -> f64 {
        let base = |top: f64| top + SWATCH / 2.0 + HALF_CAPITAL;
        text(svg, MARGIN, base(top), "", &self.what);
        let begin = MARGIN + text_width(&self.what, FONT) + 10.0;
        let (mut x, mut top) = (begin, top);
        for band in 0..=levels.len() {
            let name = match band {
                0 => levels.first().map_or_else(String::new, |level| format!("below {}", short(*level))),
                band => format!("from {}", short(levels[band - 1])),
            };
            let width = SWATCH + 4.0 + text_width(&name, FONT) + 12.0;
            if x + width > WIDTH - MARGIN {
                (x, top) = (begin, top + LINE + 2.0);
            }
            cell(svg, [x, top, SWATCH, SWATCH], &color(band as f64 / levels.len().max(1) as f64).0);
            text(svg, x + SWATCH + 4.0, base(top), "", &name);
            x += width;
        }
        top + SWATCH + 12.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bowl() -> Surface {
        let xs: Vec<f64> = (-10..=10).map(|i| f64::from(i) / 10.0).collect();
        let values = xs.iter().flat_map(|y| xs.iter().map(move |x| x * x + y * y)).collect();
        Surface { title: "a <bowl>".into(), ys: xs.clone(), xs, values }
    }

    #[test]
    fn the_iso_lines_of_a_bowl_are_circles() {
        for level in [0.16f64, 0.5] {
            let pieces = bowl().iso_line(level);
            assert!(pieces.len() > 20);
            for (x, y) in pieces.into_iter().flatten() {
                assert!((x.hypot(y) - level.sqrt()).abs() < 0.01, "{x} {y}");
            }
        }
    }

    #[test]
    fn levels_lie_between_the_values_and_are_not_too_many() {
        assert_eq!(levels([0.9, 30.0].into_iter()), [1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0]);
        let wide = levels([1e-9, 1e30].into_iter());
        assert!(wide.len() <= MOST_LEVELS && wide.len() > 3, "{wide:?}");
        assert!(levels([f64::NAN, -1.0].into_iter()).is_empty());
    }

    #[test]
    fn holes_and_single_points_are_drawn_as_such() {
        let mut holed = bowl();
        holed.values[5] = f64::NAN;
        let one = Surface { title: String::new(), xs: vec![0.0], ys: vec![0.0], values: vec![1.0] };
        for surfaces in [vec![], vec![one], vec![bowl(), holed]] {
            let figure = Contours { title: "t".into(), surfaces, what: "loss".into(), notes: vec!["n".into()] };
            crate::plot::tests::check_xml(&figure.to_svg()).unwrap();
        }
    }
}
