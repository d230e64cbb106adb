use super::*;

/// An error unless `svg` is well-formed: tags nest, attributes are quoted, text has no stray markup.
pub(super) fn check_xml(svg: &str) -> Result<(), String> {
    let mut open = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        check_entities(&rest[..start])?;
        let end = rest.find('>').ok_or("a tag without end")?;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            match open.pop() {
                Some(last) if last == name => continue,
                last => return Err(format!("</{name}> closes {last:?}")),
            }
        }
        let (name, mut attributes) = tag.trim_end_matches('/').split_once(' ').unwrap_or((tag, ""));
        while let Some((key, after)) = attributes.trim_start().split_once("=\"") {
            let (value, after) = after.split_once('"').ok_or("an attribute without end")?;
            if key.contains(|c: char| !c.is_ascii_alphanumeric() && !"-:".contains(c)) || value.contains('<') {
                return Err(format!("attribute {key}={value}"));
            }
            check_entities(value)?;
            attributes = after;
        }
        if !attributes.trim().is_empty() {
            return Err(format!("<{name}> has '{attributes}'"));
        }
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    if open.is_empty() && rest.trim().is_empty() { Ok(()) } else { Err(format!("open at the end: {open:?}, {rest}")) }
}

fn check_entities(text: &str) -> Result<(), String> {
    let known = ["&amp;", "&lt;", "&gt;", "&quot;"];
    match text.match_indices('&').find(|(at, _)| !known.iter().any(|e| text[*at..].starts_with(e))) {
        Some((at, _)) => Err(format!("a stray & in '{}'", &text[at..])),
        None if text.chars().any(|c| c.is_control() && c != '\n') => Err("a control character".into()),
        None => Ok(()),
    }
}

fn epochs(f: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    (1..=10).map(|e| (f64::from(e), f(f64::from(e)))).collect()
}

fn panel(series: Vec<Series>) -> Panel {
    Panel { title: "Loss".into(), x_label: "epoch".into(), y_label: "loss".into(), series, ..Panel::default() }
}

fn drawn(panels: Vec<Panel>) -> String {
    let svg = Figure::new("run", panels).to_svg();
    check_xml(&svg).unwrap_or_else(|e| panic!("{e}\n{svg}"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    svg
}

#[test]
fn lines_are_drawn_and_named() {
    let mut test = Series::new("test", 1, epochs(|e| 1.2 / e));
    test.band = test.points.iter().map(|(_, y)| (y - 0.1, y + 0.1)).collect();
    let svg = drawn(vec![panel(vec![Series::new("train", 0, epochs(|e| 1.0 / e)), test])]);
    for part in [">train<", ">test<", ">epoch<", ">loss<", ">Loss<", PALETTE[0], PALETTE[1], DASHES[1], "fill-opacity"]
    {
        assert!(svg.contains(part), "{part}");
    }
}

#[test]
fn labels_are_escaped() {
    let name = "a<b> & \"c\" 'd'\u{0}\u{1b}\n日本";
    let mut panel = panel(vec![Series::new(name, 0, epochs(|e| e))]);
    panel.levels = vec![Level { label: name.into(), y: 1.0, dotted: true }];
    (panel.title, panel.x_label, panel.y_label) = (name.into(), name.into(), name.into());
    let figure = Figure { columns: 0, notes: vec![name.into()], ..Figure::new(name, vec![panel]) };
    for svg in [figure.to_svg(), figure.to_narrow_svg()] {
        check_xml(&svg).unwrap();
        // Title twice, as a name and as text, title of the panel, both axes, two in the legend, the note.
        assert_eq!(svg.matches("a&lt;b&gt; &amp; &quot;c&quot;").count(), 8, "{svg}");
        let outside = svg.replace("http://www.w3.org/2000/svg", "");
        for part in ["http", "href", "url(", "<image", "<style", "<script", "@import"] {
            assert!(!outside.contains(part), "a figure must load nothing: {part}");
        }
    }
}

/// As many lines as a comparison of all optimizers has differ without their colours.
#[test]
fn lines_differ_in_their_dashes() {
    let all = crate::optim::OPTIMIZERS.len();
    assert!(all <= DASHES.len(), "{all} optimizers, {} dash patterns", DASHES.len());
    let dashes: std::collections::BTreeSet<&str> = DASHES.into_iter().collect();
    assert_eq!(dashes.len(), DASHES.len());
    let series = (0..all).map(|i| Series::new(&format!("line {i}"), i, epochs(|e| e * i as f64))).collect();
    let svg = drawn(vec![panel(series)]);
    let lines = svg.matches(r#"fill="none" stroke="#).count();
    assert_eq!(lines, 2 * all, "each in the panel and in the legend");
    for dashes in &DASHES[1..all] {
        assert_eq!(svg.matches(&format!(r#"stroke-dasharray="{dashes}""#)).count(), 2, "{dashes}");
    }
}

/// The labels of the y axis of the first panel.
fn y_ticks(panels: Vec<Panel>) -> Vec<String> {
    let svg = drawn(panels);
    let first = svg.split("<g transform").nth(1).unwrap();
    let labels = first.split(r#"text-anchor="end">"#).skip(1);
    labels.map(|rest| rest[..rest.find('<').unwrap()].to_owned()).collect()
}

#[test]
fn panels_that_are_compared_have_one_y_range() {
    let [low, high] = [1.0, 10.0].map(|factor| panel(vec![Series::new("a", 0, epochs(|e| factor * e))]));
    let compared = |panel: &Panel| Panel { compared: "loss", ..panel.clone() };
    let alone = y_ticks(vec![low.clone(), high.clone()]);
    let both = y_ticks(vec![compared(&low), compared(&high)]);
    assert_eq!(both, y_ticks(vec![compared(&high), compared(&low)]));
    assert_eq!((both.last().unwrap().as_str(), alone.last().unwrap().as_str()), ("100", "10"));
    let percent = Panel { reach: vec![0.0, 100.0], ..low };
    assert_eq!(y_ticks(vec![percent]), both);
}

#[test]
fn late_values_set_the_range_and_what_lies_outside_is_cut_off() {
    let falling = |focus| Panel { focus, ..panel(vec![Series::new("a", 0, epochs(|e| 1000.0 / e.exp()))]) };
    let number = |ticks: Vec<String>| ticks.last().unwrap().parse::<f64>().unwrap();
    assert!(number(y_ticks(vec![falling(None)])) > 100.0);
    assert!(number(y_ticks(vec![falling(Some(6.0))])) <= 7.5, "2.5 at epoch 6, and at most twice that above it");
    assert!(drawn(vec![falling(Some(6.0))]).contains(r#"overflow="hidden""#));
    // Where nothing is that late, all values count.
    assert!(number(y_ticks(vec![falling(Some(60.0))])) > 100.0);
}

#[test]
fn a_line_that_ends_early_is_marked_and_levels_cross_the_panel() {
    let points = vec![(1.0, 1.0), (2.0, 3.0), (3.0, f64::NAN), (4.0, f64::INFINITY)];
    let mut panel = panel(vec![Series { ended: true, ..Series::new("a", 0, points) }]);
    panel.levels = vec![Level { label: "chance".into(), y: 2.0, dotted: true }];
    let svg = drawn(vec![panel]);
    assert_eq!(svg.matches(r#"stroke-width="1.8"><circle"#).count(), 1);
    assert_eq!(svg.matches(r#"stroke-dasharray="1.6 4""#).count(), 2, "in the panel and in the legend");
}

/// A column of a paper is 8.5 cm wide, and its captions are no smaller than 6.5 points.
#[test]
fn text_is_readable_in_a_column_of_a_paper() {
    let points_per_unit = 8.5 / 2.54 * 72.0 / WIDTH;
    let svg = drawn(vec![panel(vec![Series::new("a", 0, epochs(|e| e))]); 4]);
    assert!(svg.starts_with(&format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}""#)));
    for size in svg.split(r#"font-size=""#).skip(1) {
        let size: f64 = size[..size.find('"').unwrap()].parse().unwrap();
        assert!(size * points_per_unit >= 6.5, "{size}");
    }
}

#[test]
fn tick_labels_keep_their_distance() {
    let points: Vec<(f64, f64)> = (0..9).map(|i| (1e4 * f64::from(i), 1e-3 * f64::from(i))).collect();
    for (log_x, log_y) in [(false, false), (true, false), (false, true), (true, true)] {
        let panel = Panel { log_x, log_y, ..panel(vec![Series::new("a", 0, points.clone())]) };
        let x = panel.x_axis(200.0).unwrap();
        assert!(x.ticks.len() >= 2, "{:?}", x.ticks);
        for pair in x.ticks.windows(2) {
            let apart = 200.0 * (pair[1].place - pair[0].place);
            assert!(apart > 0.5 * (text_width(&pair[0].label, FONT) + text_width(&pair[1].label, FONT)), "{pair:?}");
        }
        let y = panel.y_axis(&panel.y_values(), 100.0).unwrap();
        assert!(y.ticks.windows(2).all(|pair| 100.0 * (pair[1].place - pair[0].place) > FONT), "{:?}", y.ticks);
    }
}

#[test]
fn long_text_is_broken_into_lines() {
    let text = "The quick brown fox jumps over the lazy dog";
    for width in [60.0, 150.0, 400.0] {
        let lines = wrap(&format!("{text} {}", "x".repeat(90)), width, FONT);
        assert!(lines.iter().all(|line| text_width(line, FONT) <= width), "{lines:?}");
        assert_eq!(lines.concat().replace([' ', 'x'], "").len(), text.replace([' ', 'x'], "").len());
    }
    assert!(wrap("", 10.0, FONT).is_empty());
    assert_eq!((fit("short", 100.0, FONT).as_str(), fit(text, 60.0, FONT).ends_with('…')), ("short", true));
    assert_eq!([0, 999, 1000, 468010, 1234567].map(thousands), ["0", "999", "1,000", "468,010", "1,234,567"]);
}

#[test]
fn points_that_cannot_be_drawn_leave_gaps() {
    let gaps = |bad: f64, log_y| {
        let points = (0..7).map(|i| (f64::from(i), if i == 3 { bad } else { 1.0 + f64::from(i) })).collect();
        let mut panel = panel(vec![Series::new("", 0, points)]);
        panel.log_y = log_y;
        drawn(vec![panel]).matches("stroke-linejoin").count()
    };
    assert_eq!(gaps(2.0, false), 1);
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
        assert_eq!(gaps(bad, false), 2, "{bad}");
    }
    assert_eq!(gaps(0.0, true), 2);
    assert_eq!(gaps(-1.0, true), 2);
}

#[test]
fn a_point_alone_is_a_dot_and_nothing_is_said_to_be_nothing() {
    let svg = drawn(vec![panel(vec![Series::new("", 0, vec![(1.0, 0.5)])])]);
    assert_eq!((svg.matches("<circle").count(), svg.contains("no data yet")), (1, false));
    let nothing = [vec![], vec![Series::default()], vec![Series::new("x", 0, vec![(f64::NAN, 1.0), (1.0, f64::NAN)])]];
    for series in nothing {
        assert!(drawn(vec![panel(series)]).contains("no data yet"));
    }
    drawn(vec![]);
}

#[test]
fn heat_maps_show_each_value_and_leave_holes() {
    let rows = vec![("conv<1>".to_string(), vec![0.0, 100.0]), ("fc".to_string(), vec![f64::NAN])];
    let map = Heat { title: "p = 2".into(), x_label: "ε".into(), columns: vec!["0.1".into(), "1".into()], rows };
    let scale = (0.0, 100.0, "accuracy, %".into());
    let svg = HeatMap {
        title: "Layers & all".into(),
        maps: vec![map.clone(), map],
        scale: scale.clone(),
        notes: vec!["Checkpoint <x>".into()],
    }
    .to_svg();
    check_xml(&svg).unwrap();
    for part in [
        ">conv&lt;1&gt;<",
        ">0.0<",
        ">100.0<",
        ">Layers &amp; all<",
        "#440154",
        "#FDE725",
        ">accuracy, %: 0<",
        "Checkpoint &lt;x&gt;",
    ] {
        assert!(svg.contains(part), "{part}: {svg}");
    }
    assert_eq!(svg.matches(">–<").count(), 4, "one that is not finite and one that is not there, in each map");
    check_xml(&HeatMap { title: String::new(), maps: vec![], scale, notes: vec![] }.to_svg()).unwrap();
}
