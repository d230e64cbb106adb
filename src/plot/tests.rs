use super::*;

/// An error unless `svg` is well-formed: tags nest, attributes are quoted, text has no stray markup.
fn check_xml(svg: &str) -> Result<(), String> {
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
    test.dashed = true;
    test.band = test.points.iter().map(|(_, y)| (y - 0.1, y + 0.1)).collect();
    let svg = drawn(vec![panel(vec![Series::new("train", 0, epochs(|e| 1.0 / e)), test])]);
    for part in
        [">train<", ">test<", ">epoch<", ">loss<", ">Loss<", PALETTE[0], PALETTE[1], "stroke-dasharray", "fill-opacity"]
    {
        assert!(svg.contains(part), "{part}");
    }
}

#[test]
fn labels_are_escaped() {
    let name = "a<b> & \"c\" 'd'\u{0}\u{1b}\n日本";
    let mut panel = panel(vec![Series::new(name, 0, epochs(|e| e))]);
    panel.title = name.into();
    panel.x_label = name.into();
    panel.y_label = name.into();
    let mut figure = Figure::new(name, vec![panel]);
    figure.columns = 0;
    let svg = figure.to_svg();
    check_xml(&svg).unwrap();
    assert_eq!(svg.matches("a&lt;b&gt; &amp; &quot;c&quot; 'd'   日本").count(), 6);
}

#[test]
fn points_that_cannot_be_drawn_leave_gaps() {
    let gaps = |bad: f64, log_y| {
        let points = (0..7).map(|i| (f64::from(i), if i == 3 { bad } else { 1.0 + f64::from(i) })).collect();
        let mut panel = panel(vec![Series::new("", 0, points)]);
        panel.log_y = log_y;
        drawn(vec![panel]).matches("<path").count()
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
    let svg = drawn(vec![panel(vec![Series::new("train", 0, vec![(1.0, 0.5)])])]);
    assert_eq!((svg.matches("<circle").count(), svg.contains("no data yet")), (1, false));
    let nothing = [vec![], vec![Series::default()], vec![Series::new("x", 0, vec![(f64::NAN, 1.0), (1.0, f64::NAN)])]];
    for series in nothing {
        assert!(drawn(vec![panel(series)]).contains("no data yet"));
    }
    drawn(vec![]);
}

#[test]
fn names_keep_their_distance_and_stay_beside_the_axes() {
    for ends in [vec![100.0, 100.0, 101.0], vec![0.0, 1.0, 2.0], vec![198.0, 199.0, 200.0], vec![100.0; 14]] {
        let places = spread(ends.iter().copied(), PLOT_HEIGHT);
        assert!(places.windows(2).all(|p| p[1] - p[0] >= NAME_PITCH - 1e-9), "{places:?}");
        assert!(places.iter().all(|p| (-1e-9..=PLOT_HEIGHT).contains(p)), "{places:?}");
    }
    assert_eq!(spread([10.0, 100.0].into_iter(), PLOT_HEIGHT), [10.0, 100.0]);
    assert_eq!(spread([100.0, 100.0].into_iter(), PLOT_HEIGHT), [93.0, 107.0]);
}

#[test]
fn heat_maps_show_each_value_and_leave_holes() {
    let rows = vec![("conv<1>".to_string(), vec![0.0, 100.0]), ("fc".to_string(), vec![f64::NAN])];
    let map = Heat { title: "p = 2".into(), x_label: "ε".into(), columns: vec!["0.1".into(), "1".into()], rows };
    let scale = (0.0, 100.0, "accuracy, %".into());
    let svg = HeatMap { title: "Layers & all".into(), maps: vec![map.clone(), map], scale: scale.clone() }.to_svg();
    check_xml(&svg).unwrap();
    for part in [">conv&lt;1&gt;<", ">0.0<", ">100.0<", ">Layers &amp; all<", "#440154", "#FDE725", ">accuracy, %: 0<"]
    {
        assert!(svg.contains(part), "{part}: {svg}");
    }
    assert_eq!(svg.matches(">–<").count(), 4, "one that is not finite and one that is not there, in each map");
    check_xml(&HeatMap { title: String::new(), maps: vec![], scale }.to_svg()).unwrap();
}
