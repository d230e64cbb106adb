//! Styles of lines: colour, dashes and marker, so that lines differ in grey print and for every reader.

use std::fmt::Write;

/// Okabe and Ito's colours (2008) without their yellow, which is too pale for a line on white: blue, vermillion, green,
/// purple, orange, sky blue, black; then Tol's olive.
pub const PALETTE: [&str; 8] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A20"];

/// Dash patterns, all different: lengths of strokes and gaps in turn. The first is a solid line.
pub const DASHES: [&str; 16] = [
    "",
    "9 4",
    "2.5 3.5",
    "11 4 2.5 4",
    "18 5",
    "5 5",
    "11 4 2.5 4 2.5 4",
    "18 4 5 4",
    "2.5 8",
    "7 3 2 3 2 3 2 3",
    "22 4 2.5 4",
    "12 9",
    "6 9",
    "18 4 5 4 5 4",
    "22 9 8 9",
    "4 3 9 3",
];

/// Marker shapes in order; the second four are the first ones with an open middle.
const SHAPES: usize = 8;
const MARKER: f64 = 4.6;

/// Returns the colour of style number `style`.
pub fn color(style: usize) -> &'static str {
    PALETTE[style % PALETTE.len()]
}

/// Returns the attribute for the dashes of style number `style`; empty for a solid line.
pub fn dashes(style: usize) -> String {
    match DASHES[style % DASHES.len()] {
        "" => String::new(),
        dashes => format!(r#" stroke-dasharray="{dashes}""#),
    }
}

/// Draws the marker of style number `style`.
pub fn marker(svg: &mut String, style: usize, (x, y): (f64, f64)) {
    let (shape, color) = (style % SHAPES, color(style));
    let fill = if shape < SHAPES / 2 { color } else { "white" };
    let paint = format!(r#"fill="{fill}" stroke="{color}" stroke-width="1.6""#);
    let r = MARKER;
    let _ = match shape % (SHAPES / 2) {
        0 => writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="{:.1}" {paint}/>"#, r - 0.4),
        1 => {
            let side = 1.7 * r;
            let (left, top) = (x - side / 2.0, y - side / 2.0);
            writeln!(svg, r#"<rect x="{left:.1}" y="{top:.1}" width="{side:.1}" height="{side:.1}" {paint}/>"#)
        }
        2 => {
            let (left, right, top, low) = (x - 1.1 * r, x + 1.1 * r, y - 1.2 * r, y + 0.8 * r);
            writeln!(svg, r#"<path d="M{left:.1} {low:.1}L{x:.1} {top:.1}L{right:.1} {low:.1}Z" {paint}/>"#)
        }
        _ => {
            let d = 1.35 * r;
            let (left, right, top, low) = (x - d, x + d, y - d, y + d);
            let path = format!("M{left:.1} {y:.1}L{x:.1} {top:.1}L{right:.1} {y:.1}L{x:.1} {low:.1}Z");
            writeln!(svg, r#"<path d="{path}" {paint}/>"#)
        }
    };
}

/// Draws the cross in a circle where a line ends before its time.
pub fn end_mark(svg: &mut String, (x, y): (f64, f64), color: &str) {
    let (r, d) = (6.0, 6.0 * std::f64::consts::FRAC_1_SQRT_2);
    let (left, right, top, low) = (x - d, x + d, y - d, y + d);
    let cross = format!("M{left:.1} {top:.1}L{right:.1} {low:.1}M{left:.1} {low:.1}L{right:.1} {top:.1}");
    let _ = writeln!(
        svg,
        r#"<g fill="white" stroke="{color}" stroke-width="1.8"><circle cx="{x:.1}" cy="{y:.1}" r="{r}"/><path d="{cross}"/></g>"#
    );
}
