//! Charts: lines over the minutes that have passed.
//!
//! The colours that are drawn with are no colours but names: the style sheet has one for each, in the light and in the
//! dark.

use std::error::Error;

use plotters::prelude::*;

use super::html::Html;
use super::visible::escaped;

const SIZE: (u32, u32) = (640, 170);
/// `#000000` is the ink of axes and words, the others are the lines.
const INK: RGBColor = RGBColor(0, 0, 0);
const LINES: [RGBColor; 2] = [RGBColor(1, 1, 1), RGBColor(2, 2, 2)];

/// A chart in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Chart {
    /// What it shows, for those who do not see it.
    pub(super) words: String,
    /// How many minutes back it goes.
    pub(super) minutes: f64,
    /// Up to two lines, each in pieces where something is not known in between: minutes (negative) and values.
    pub(super) lines: Vec<Vec<Vec<(f64, f64)>>>,
    /// Whether values are whole things, and so axes have no fractions.
    pub(super) is_counted: bool,
}

/// Points as a line, in pieces wherever one is unknown.
pub(super) fn pieces(points: impl Iterator<Item = (f64, Option<f64>)>) -> Vec<Vec<(f64, f64)>> {
    let mut pieces = vec![Vec::new()];
    for (minute, value) in points {
        match (value, pieces.last_mut()) {
            (Some(value), Some(piece)) => piece.push((minute, value)),
            (None, Some(piece)) if !piece.is_empty() => pieces.push(Vec::new()),
            _ => {}
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

impl Chart {
    /// The chart as a picture, or a word where there is nothing to draw.
    pub(super) fn draw(&self) -> Html {
        if self.lines.iter().all(Vec::is_empty) {
            return Html(r#"<p class="empty">Nothing to draw yet.</p>"#.to_owned());
        }
        let mut picture = String::new();
        match self.draw_into(&mut picture) {
            Ok(()) => Html(format!(
                r#"<div class="chart" role="img" tabindex="0" aria-label="{}">{picture}</div>"#,
                escaped(&self.words)
            )),
            Err(error) => {
                Html(format!(r#"<p class="empty">The chart cannot be drawn: {}</p>"#, escaped(&error.to_string())))
            }
        }
    }

    fn draw_into(&self, picture: &mut String) -> Result<(), Box<dyn Error>> {
        let root = SVGBackend::with_string(picture, SIZE).into_drawing_area();
        let values = self.lines.iter().flatten().flatten().map(|(_, value)| *value);
        let most = values.fold(if self.is_counted { 4.0 } else { 0.001 }, f64::max);
        let mut chart = ChartBuilder::on(&root)
            .margin_top(8)
            .margin_right(16)
            .x_label_area_size(24)
            .y_label_area_size(56)
            .build_cartesian_2d(-self.minutes..0.0, 0.0..most * 1.1)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.15))
            .axis_style(INK.mix(0.4))
            .x_labels(6)
            .y_labels(4)
            .x_label_formatter(&|minute: &f64| minute_words(*minute))
            .y_label_formatter(&|value: &f64| value_words(*value, self.is_counted))
            .draw()?;
        for (line, color) in self.lines.iter().zip(LINES) {
            for piece in line {
                chart.draw_series(LineSeries::new(piece.iter().copied(), color.stroke_width(2)))?;
            }
        }
        root.present()?;
        Ok(())
    }
}

fn minute_words(minute: f64) -> String {
    match minute {
        minute if minute > -0.01 => "now".to_owned(),
        minute if minute <= -120.0 => format!("{:.0} h ago", -minute / 60.0),
        minute => format!("{:.0} min ago", -minute),
    }
}

fn value_words(value: f64, is_counted: bool) -> String {
    match value {
        value if is_counted || value >= 10.0 || value == 0.0 => super::show::count(value.round() as u64),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.3}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_where_nothing_is_known() {
        let points = [(-3.0, Some(1.0)), (-2.0, None), (-1.0, None), (0.0, Some(2.0))];

        assert_eq!(pieces(points.into_iter()), [vec![(-3.0, 1.0)], vec![(0.0, 2.0)]]);
    }

    #[test]
    fn a_chart_is_made_of_names_of_colours_and_says_what_it_shows() {
        let lines = vec![vec![vec![(-2.0, 1.0), (0.0, 5000.0)]], vec![vec![(-2.0, 0.0), (0.0, 7.0)]]];
        let chart = Chart { words: "tasks & more".to_owned(), minutes: 10.0, lines, is_counted: false };

        let drawn = chart.draw().0;

        assert!(drawn.contains(r#"aria-label="tasks &amp; more""#), "{drawn}");
        assert!(drawn.contains(r##"stroke="#010101""##) && drawn.contains(r##"stroke="#020202""##), "{drawn}");
        assert!(drawn.contains("min ago") && !drawn.contains("style="), "{drawn}");
    }

    #[test]
    fn without_anything_to_draw_there_is_a_word() {
        assert!(Chart::default().draw().0.contains("Nothing to draw yet"));
    }
}
