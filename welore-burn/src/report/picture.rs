//! The frontier as a picture for documents: bytes against divergence, as SVG without scripts.

use bytesize::ByteSize;

use super::ReportModel;
use super::axis::Axis;
use super::labels::{Area, Labels};
use crate::escape::{shortened, xml};
use crate::words::number;

/// Pixels from the left to the right of the picture.
const WIDTH: f64 = 860.0;

/// Pixels from the top to the bottom of one plot, with its heading and its axes.
const HEIGHT: f64 = 520.0;

/// Pixels above the first plot.
const TOP: f64 = 36.0;

/// The size of letters.
const LETTERS: f64 = 12.0;

/// The most characters of a label.
const LONGEST: usize = 40;

/// The divergences that are drawn: others come from damaged files, and no axis could hold them.
const LEAST: f64 = 1e-30;
const MOST: f64 = 1e30;

/// How many times the lowest divergence must be below the next one to be drawn at the edge.
const FAR_BELOW: f64 = 30.0;

/// From this ratio of the largest size to the smallest, sizes are on a logarithmic axis.
const WIDE: f64 = 3.0;

/// The colours of series, in light and in dark: those of the page.
const COLOURS: [[&str; 2]; 8] = [
    ["#0b62c4", "#6ab0ff"],
    ["#c2410c", "#ff9d5c"],
    ["#15803d", "#5fd38a"],
    ["#7e22ce", "#c99bff"],
    ["#946200", "#e6c353"],
    ["#be185d", "#ff85b8"],
    ["#0f766e", "#4fd1c5"],
    ["#52525b", "#b8b8c0"],
];

/// The colours of everything else, by class.
const PLAIN: [[&str; 4]; 5] = [
    ["page", "fill", "#ffffff", "#1a1d23"],
    ["ink", "fill", "#1b1f26", "#e8eaee"],
    ["muted", "fill", "#565e6b", "#a5adba"],
    ["axis", "stroke", "#565e6b", "#a5adba"],
    ["grid", "stroke", "#e6e9ee", "#2a2f38"],
];

/// Corners of markers around a point; series are told apart by them as well as by colour. The first
/// one is a circle.
const SHAPES: [&[[f64; 2]]; 7] = [
    &[],
    &[[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
    &[[0.0, -1.35], [1.35, 0.0], [0.0, 1.35], [-1.35, 0.0]],
    &[[0.0, -1.25], [1.2, 0.9], [-1.2, 0.9]],
    &[[0.0, 1.25], [1.2, -0.9], [-1.2, -0.9]],
    &[[-1.3, -0.6], [1.3, -0.6], [1.3, 0.6], [-1.3, 0.6]],
    &[[-0.6, -1.3], [0.6, -1.3], [0.6, 1.3], [-0.6, 1.3]],
];

/// A static SVG picture of measured models: their sizes in MB against their mean KL divergences from the
/// dense model in nats per token, the divergences on a logarithmic axis. There is one plot for each text.
/// Each series has a colour, a marker, and a line through those of its models that are better than all
/// smaller ones; models without a series stand alone. Colours follow the scheme, light or dark, of whoever
/// looks at it.
///
/// A divergence far below all others is drawn at the lower edge, with an arrow and its value. Models without a
/// divergence above 0, such as the dense model, are named below the plot.
pub fn frontier_svg(title: &str, models: &[ReportModel]) -> String {
    let mut series: Vec<&str> = Vec::new();
    let mut texts: Vec<&str> = Vec::new();
    for model in models {
        let named = model.series.as_deref().filter(|name| !series.contains(name));
        series.extend(named);
        for text in model.divergences.keys() {
            if !texts.contains(&text.as_str()) {
                texts.push(text);
            }
        }
    }
    let height = TOP + HEIGHT * texts.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<title>{}</title>\n<desc>{}</desc>\n{}\
         <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n",
        xml(title),
        xml(&description(models, &texts)),
        style(series.len()),
    );
    svg.push_str(&words([16.0, 24.0], "ink bold", "start", &shortened(title, 100)));
    for (place, text) in texts.iter().enumerate() {
        let plot = Plot::new(text, TOP + HEIGHT * place as f64, models, &series);
        svg.push_str(&plot.draw(&series));
    }
    svg.push_str("</svg>\n");
    svg
}

/// All that is drawn, in words.
fn description(models: &[ReportModel], texts: &[&str]) -> String {
    let on = |text: &&str| {
        let drawn = models.iter().filter_map(|model| {
            let (kl, size) = (model.divergences.get(*text)?.as_f64()?, size(model.bytes));
            let of = model.series.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
            Some(format!("{of}{} has {kl:.2e} at {size}", model.label))
        });
        format!("KL divergence on {text}. {}.", drawn.collect::<Vec<String>>().join("; "))
    };
    texts.iter().map(on).collect::<Vec<String>>().join(" ")
}

/// The style sheet: two sets of colours.
fn style(series: usize) -> String {
    let colours = |scheme: usize| -> String {
        let plain = PLAIN
            .map(|[class, of, light, dark]| format!(".{class}{{{of}:{}}}", [light, dark][scheme]));
        let of = COLOURS.iter().take(series).enumerate().map(|(place, colours)| {
            let colour = colours[scheme];
            format!(".f{place}{{fill:{colour}}}.l{place}{{stroke:{colour}}}")
        });
        plain.into_iter().chain(of).collect()
    };
    format!(
        "<style>\ntext{{font-family:system-ui,-apple-system,\"Segoe UI\",Roboto,sans-serif;\
         font-size:{LETTERS}px}}.bold{{font-weight:600}}.line{{fill:none;stroke-width:1.75}}\n{}\n\
         @media (prefers-color-scheme:dark){{{}}}\n</style>\n",
        colours(0),
        colours(1),
    )
}

/// A text at a place.
fn words([x, y]: [f64; 2], class: &str, anchor: &str, text: &str) -> String {
    let text = xml(text);
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"
    )
}

/// About as many pixels as a text is wide. Letters of East Asia are as wide as they are high.
fn width_of(text: &str) -> f64 {
    let of = |char: char| if char >= '\u{2e80}' { 1.0 } else { 0.6 };
    LETTERS * text.chars().map(of).sum::<f64>()
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// A model on a plot.
#[derive(Debug)]
struct Spot {
    label: String,
    /// The place of its series among all.
    series: Option<usize>,
    bytes: u64,
    kl: f64,
    /// Its pixels.
    at: [f64; 2],
}

/// The picture of one text.
#[derive(Debug)]
struct Plot {
    heading: String,
    /// The inner box.
    frame: Area,
    across: Axis,
    up: Axis,
    spots: Vec<Spot>,
    /// What is said about models that are not drawn.
    missing: Option<String>,
}

impl Plot {
    fn new(text: &str, top: f64, models: &[ReportModel], series: &[&str]) -> Self {
        let frame =
            Area { left: 72.0, top: top + 30.0, right: WIDTH - 24.0, bottom: top + HEIGHT - 70.0 };
        let (mut spots, mut missing) = (Vec::new(), Vec::new());
        for model in models {
            let label = model.label.strip_suffix(".gguf").unwrap_or(&model.label);
            let label = shortened(label, LONGEST).into_owned();
            let kl = model.divergences.get(text).and_then(|value| value.as_f64());
            match kl.filter(|kl| (LEAST..=MOST).contains(kl) && model.bytes > 0) {
                Some(kl) => {
                    let name = model.series.as_deref();
                    let series = name.and_then(|name| series.iter().position(|of| *of == name));
                    spots.push(Spot { label, series, bytes: model.bytes, kl, at: [0.0; 2] });
                }
                None => missing.push(format!("{label} ({})", size(model.bytes))),
            }
        }
        let sizes = || spots.iter().map(|spot| megabytes(spot.bytes));
        let ratio = sizes().fold(0.0, f64::max) / sizes().fold(f64::INFINITY, f64::min);
        let across = Axis::around(sizes(), ratio > WIDE, [frame.left, frame.right]);
        let low = lowest(&spots);
        let drawn = spots.iter().map(|spot| spot.kl.max(low));
        let up = Axis::around(drawn, true, [frame.bottom, frame.top]);
        for spot in &mut spots {
            spot.at = [across.place(megabytes(spot.bytes)), up.place(spot.kl)];
            if spot.kl < up.low {
                spot.at[1] -= 9.0;
                spot.label = format!("{} \u{2193} KL {:.1e}", spot.label, spot.kl);
            }
        }
        let heading = format!(
            "mean KL divergence from the dense model on {}, nats per token; lower is better",
            shortened(text, LONGEST).into_owned()
        );
        let missing = (!missing.is_empty())
            .then(|| format!("without a divergence above 0: {}", missing.join(", ")));
        Self { heading, frame, across, up, spots, missing }
    }

    fn draw(&self, series: &[&str]) -> String {
        let Area { left, right, bottom, top } = self.frame;
        let mut svg = words([16.0, top - 12.0], "muted", "start", &self.heading);
        if let Some(missing) = &self.missing {
            svg.push_str(&words([16.0, bottom + 58.0], "muted", "start", &shortened(missing, 110)));
        }
        if self.spots.is_empty() {
            return svg;
        }
        svg.push_str(&self.axes());
        let reach =
            Area { left: left + 3.0, top: top + 2.0, right: right + 20.0, bottom: bottom + 8.0 };
        let mut labels = Labels::new(reach);
        for spot in &self.spots {
            labels.marker(spot.at);
        }
        let lines: Vec<Vec<[f64; 2]>> =
            (0..series.len()).map(|place| self.frontier(place)).collect();
        lines.iter().for_each(|line| labels.line(line));
        for (place, line) in lines.iter().enumerate().filter(|(_, line)| line.len() > 1) {
            let points: Vec<String> = line.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
            let (class, points) = (place % COLOURS.len(), points.join(" "));
            svg.push_str(&format!("<polyline class=\"line l{class}\" points=\"{points}\"/>\n"));
        }
        self.spots.iter().for_each(|spot| svg.push_str(&spot.marker()));
        svg.push_str(&self.names(series, &lines, &mut labels));
        for spot in &self.spots {
            // Where there is no room, the description and the table still have it.
            if let Some(at) = labels.place(spot.at, width_of(&spot.label)) {
                svg.push_str(&words(at, "ink", "start", &spot.label));
            }
        }
        svg
    }

    /// Grid, ticks and what the axes are.
    fn axes(&self) -> String {
        let Area { left, right, bottom, top } = self.frame;
        let line = |class: &str, [x, y, to_x, to_y]: [f64; 4]| {
            format!(
                "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\"/>\n"
            )
        };
        let mut svg = String::new();
        for value in self.up.ticks(12) {
            let y = self.up.place(value);
            svg.push_str(&line("grid", [left, y, right, y]));
            svg.push_str(&words([left - 8.0, y + 4.0], "muted", "end", &number(value)));
        }
        for value in self.across.ticks(12) {
            let x = self.across.place(value);
            svg.push_str(&line("grid", [x, top, x, bottom]));
            svg.push_str(&words([x, bottom + 18.0], "muted", "middle", &number(value)));
        }
        svg.push_str(&line("axis", [left, top, left, bottom]));
        svg.push_str(&line("axis", [left, bottom, right, bottom]));
        let middle = (left + right) / 2.0;
        svg.push_str(&words([middle, bottom + 36.0], "muted", "middle", "size, MB"));
        svg
    }

    /// The points of a series that are better than all smaller ones, from the smallest to the largest.
    fn frontier(&self, series: usize) -> Vec<[f64; 2]> {
        let mut of: Vec<&Spot> =
            self.spots.iter().filter(|spot| spot.series == Some(series)).collect();
        of.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.kl.total_cmp(&b.kl)));
        let mut best = f64::INFINITY;
        of.retain(|spot| {
            let is_better = spot.kl < best;
            best = best.min(spot.kl);
            is_better
        });
        of.into_iter().map(|spot| spot.at).collect()
    }

    /// The name of each series beside one of its points, or, where there is no room, in a list.
    fn names(&self, series: &[&str], lines: &[Vec<[f64; 2]>], labels: &mut Labels) -> String {
        let (mut svg, mut x) = (String::new(), self.frame.left);
        for (place, (name, line)) in series.iter().zip(lines).enumerate() {
            let (name, class) = (shortened(name, LONGEST), place % COLOURS.len());
            // Bold letters are wider.
            let width = 1.1 * width_of(&name);
            let found = line.iter().find_map(|point| labels.place(*point, width));
            if line.is_empty() {
                continue;
            }
            let at = found.unwrap_or([x, self.frame.bottom + 36.0]);
            if found.is_none() {
                x += width + 16.0;
            }
            svg.push_str(&words(at, &format!("bold f{class}"), "start", &name));
        }
        svg
    }
}

impl Spot {
    fn marker(&self) -> String {
        const RADIUS: f64 = 5.0;
        let ([x, y], place) = (self.at, self.series.unwrap_or(0));
        let class = match self.series {
            Some(place) => format!("f{}", place % COLOURS.len()),
            None => "muted".into(),
        };
        let corners = SHAPES[place % SHAPES.len()];
        if corners.is_empty() {
            return format!(
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{RADIUS}\"/>\n"
            );
        }
        let corner = |[a, b]: &[f64; 2]| format!("{:.1},{:.1}", x + a * RADIUS, y + b * RADIUS);
        let points = corners.iter().map(corner).collect::<Vec<String>>().join(" ");
        format!("<polygon class=\"{class}\" points=\"{points}\"/>\n")
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The lowest divergence that has its place on the axis: the lowest of all, or the next one if the
/// lowest is so far below it that the others would be drawn too close together.
fn lowest(spots: &[Spot]) -> f64 {
    let mut values: Vec<f64> = spots.iter().map(|spot| spot.kl).collect();
    values.sort_by(f64::total_cmp);
    match values[..] {
        [lowest, next, _, ..] if lowest * FAR_BELOW < next => next,
        [lowest, ..] => lowest,
        [] => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model(label: &str, series: Option<&str>, bytes: u64, kl: f64) -> ReportModel {
        ReportModel {
            label: label.into(),
            series: series.map(String::from),
            perplexities: serde_json::Map::new(),
            divergences: [("test.txt".to_string(), json!(kl))].into_iter().collect(),
            parameters: 1,
            bytes,
        }
    }

    fn frontier() -> Vec<ReportModel> {
        vec![
            model("dense", None, 538_000_000, 0.0),
            model("f16.gguf", Some("f16"), 269_000_000, 5e-7),
            model("Q4_K_M.gguf", Some("llama.cpp"), 105_500_000, 0.02),
            model("Q2_K.gguf", Some("llama.cpp"), 88_200_000, 0.2),
            model("Q4_0.gguf", Some("llama.cpp"), 107_000_000, 0.03),
            model("keep-0.9", Some("low rank"), 240_000_000, 0.11),
        ]
    }

    #[test]
    fn models_of_a_series_are_joined_by_the_line_that_none_of_them_is_below() {
        let svg = frontier_svg("frontier", &frontier());
        let lines: Vec<&str> = svg.lines().filter(|line| line.starts_with("<polyline")).collect();
        assert_eq!(lines.len(), 1, "only one series has several models: {svg}");
        assert_eq!(lines[0].matches(',').count(), 2, "without Q4_0: {}", lines[0]);
        for label in [">f16<", ">llama.cpp<", ">low rank<", ">Q4_K_M<", ">Q4_0<", ">keep-0.9<"] {
            assert!(svg.contains(label), "{label}: {svg}");
        }
        assert!(svg.contains("f16 \u{2193} KL 5.0e-7"), "far below the others: {svg}");
        assert!(svg.contains("without a divergence above 0: dense (538"), "{svg}");
    }

    #[test]
    fn the_picture_has_no_script_and_both_schemes_and_holds_hostile_names() {
        let hostile = "</text><script>alert(1)</script>\"&\u{1b}";
        let mut models = frontier();
        models.push(model(hostile, Some(hostile), 90_000_000, 0.5));
        let svg = frontier_svg(hostile, &models);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("prefers-color-scheme:dark"));
        assert!(
            !svg.contains("<script") && !svg.contains('\u{1b}') && !svg.contains("NaN"),
            "{svg}"
        );
        assert!(!svg.replace("http://www.w3.org/2000/svg", "").contains("http"));
    }

    #[test]
    fn nothing_to_draw_is_no_mistake() {
        for models in [vec![], vec![model("dense", None, 1, 0.0)], vec![model("a", None, 9, 0.1)]] {
            let svg = frontier_svg("title", &models);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
