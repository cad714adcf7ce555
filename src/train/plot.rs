//! The plot of a run: its losses, its learning rate and its retrieval scores.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Error, RetrievalTable, StepRecord, data_wait_percent};
use crate::common::write_whole;
use crate::eval::RetrievalScore;

/// Draws the run as an SVG at `path`: both losses, the learning rate, and the retrieval scores if there are any.
///
/// # Errors
/// [`Error::Drawing`], [`Error::Plot`].
pub(super) fn write_training_svg(
    path: impl AsRef<Path>,
    title: &str,
    records: &[StepRecord],
    retrieval: Option<&RetrievalTable>,
) -> Result<(), Error> {
    let path = path.as_ref();
    let mut svg = String::new();
    draw(&mut svg, title, records, retrieval)
        .map_err(|error| Error::Drawing { path: path.to_owned(), reason: error.to_string() })?;
    Ok(write_whole(path, svg.as_bytes())?)
}

type DrawingResult = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (1000, 600);
const TITLE_HEIGHT: u32 = 56;
const CHARTS_WIDTH: u32 = 690;
const LOSS_HEIGHT: u32 = 366;
const FONT: &str = "Helvetica, Arial, sans-serif";
const INK: RGBColor = RGBColor(31, 41, 55);
const FAINT_INK: RGBColor = RGBColor(107, 114, 128);
const GRID: RGBColor = RGBColor(229, 231, 235);
const ENCODER: RGBColor = RGBColor(37, 99, 235);
const DECODER: RGBColor = RGBColor(234, 88, 12);
const RATE: RGBColor = RGBColor(5, 150, 105);
/// Maximum points of a line: more cannot be distinguished at this width.
const MOST_POINTS: usize = 600;

fn draw(
    svg: &mut String,
    title: &str,
    records: &[StepRecord],
    retrieval: Option<&RetrievalTable>,
) -> DrawingResult {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (header, body) = root.split_vertically(TITLE_HEIGHT);
    text(&header, title, (24, 34), 22, INK, HPos::Left)?;
    let (charts, facts) = body.split_horizontally(CHARTS_WIDTH);
    let (losses, rates) = charts.split_vertically(LOSS_HEIGHT);
    draw_losses(&losses, records)?;
    draw_rates(&rates, records)?;
    draw_facts(&facts, records, retrieval)?;
    root.present()?;
    Ok(())
}

/// Draws a line of text with its baseline at `at`.
fn text(area: &Area, words: &str, at: (i32, i32), size: i32, color: RGBColor, side: HPos) -> DrawingResult {
    let style = (FONT, size).into_font().color(&color).pos(Pos::new(side, VPos::Bottom));
    area.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

/// Range of the step axis for these records.
fn step_range(records: &[StepRecord]) -> std::ops::Range<f64> {
    let first = records.first().map_or(0, |record| record.step.saturating_sub(1));
    let last = records.last().map_or(1, |record| record.step).max(first + 1);
    first as f64..last as f64
}

fn draw_losses(area: &Area, records: &[StepRecord]) -> DrawingResult {
    let curves = [
        ("encoder", ENCODER, series(records, |record| record.encoder_loss)),
        ("decoder", DECODER, series(records, |record| record.decoder_loss)),
    ];
    let values = || curves.iter().flat_map(|(_, _, points)| points.iter().map(|&(_, value)| value));
    let (low, high) =
        values().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = 0.05 * (high - low).max(0.1);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(24)
        .x_label_area_size(26)
        .y_label_area_size(62)
        .build_cartesian_2d(step_range(records), (low - margin).max(0.0)..high + margin)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style((FONT, 13).into_font().color(&FAINT_INK))
        .x_label_formatter(&|step| whole_number(*step))
        .y_desc("cross-entropy, nats a token")
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .draw()?;
    for (name, color, points) in curves {
        chart.draw_series(LineSeries::new(thinned(&points), color.mix(0.3)))?;
        let smooth = thinned(&smoothed(&points));
        chart
            .draw_series(LineSeries::new(smooth, color.stroke_width(3)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], color.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .margin(8)
        .legend_area_size(28)
        .label_font((FONT, 15).into_font().color(&INK))
        .draw()?;
    Ok(())
}

fn draw_rates(area: &Area, records: &[StepRecord]) -> DrawingResult {
    let points = series(records, |record| record.learning_rate);
    let high = points.iter().map(|&(_, rate)| rate).fold(0.0, f64::max);
    let high = if high > 0.0 { high } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(24)
        .x_label_area_size(44)
        .y_label_area_size(62)
        .build_cartesian_2d(step_range(records), 0.0..1.1 * high)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .y_labels(4)
        .label_style((FONT, 13).into_font().color(&FAINT_INK))
        .x_label_formatter(&|step| whole_number(*step))
        .y_label_formatter(&|rate| if *rate == 0.0 { "0".into() } else { format!("{rate:.0e}") })
        .x_desc("step")
        .y_desc("learning rate")
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .draw()?;
    chart.draw_series(LineSeries::new(thinned(&points), RATE.stroke_width(2)))?;
    Ok(())
}

/// Draws the column on the right: retrieval scores, and the run's time and throughput.
fn draw_facts(area: &Area, records: &[StepRecord], retrieval: Option<&RetrievalTable>) -> DrawingResult {
    const LEFT: i32 = 8;
    const RIGHT: i32 = 284;
    const MIDDLE: i32 = 196;
    let rule = |y: i32| -> DrawingResult {
        area.draw(&PathElement::new([(LEFT, y), (RIGHT, y)], GRID.stroke_width(1)))?;
        Ok(())
    };
    let mut y = 30;
    if let Some(table) = retrieval {
        text(area, "Retrieval of held-out passages", (LEFT, y), 16, INK, HPos::Left)?;
        y += 22;
        let queries =
            format!("{} first sentences, each to find its passage", whole_number(table.held_out as f64));
        text(area, &queries, (LEFT, y), 13, FAINT_INK, HPos::Left)?;
        y += 30;
        text(area, "MRR@10", (MIDDLE, y), 13, FAINT_INK, HPos::Right)?;
        if table.bm25.recall_at_10.is_some() {
            text(area, "Recall@10", (RIGHT, y), 13, FAINT_INK, HPos::Right)?;
        }
        let rows = [
            ("before", Some(table.before), INK),
            ("after", table.after, ENCODER),
            ("BM25", Some(table.bm25), INK),
        ];
        for (name, score, color) in rows {
            rule(y + 7)?;
            y += 29;
            let cell = |value: fn(RetrievalScore) -> f32| {
                score.map_or("–".into(), |score| format!("{:.3}", value(score)))
            };
            text(area, name, (LEFT, y), 15, color, HPos::Left)?;
            text(area, &cell(|score| score.mrr_at_10), (MIDDLE, y), 15, color, HPos::Right)?;
            if table.bm25.recall_at_10.is_some() {
                let recall = cell(|score| score.recall_at_10.unwrap_or(0.0));
                text(area, &recall, (RIGHT, y), 15, color, HPos::Right)?;
            }
        }
        y += 56;
    }
    text(area, "The run", (LEFT, y), 16, INK, HPos::Left)?;
    y += 6;
    for (name, value) in facts(records) {
        rule(y)?;
        y += 26;
        text(area, name, (LEFT, y - 5), 14, FAINT_INK, HPos::Left)?;
        text(area, &value, (RIGHT, y - 5), 14, INK, HPos::Right)?;
    }
    Ok(())
}

fn facts(records: &[StepRecord]) -> Vec<(&'static str, String)> {
    let Some(last) = records.last() else {
        return vec![("steps", "0".into())];
    };
    let tokens: usize = records.iter().map(|record| record.tokens).sum();
    let loss = |value: fn(&StepRecord) -> f32| final_mean(&series(records, value));
    let shown = |loss: f64| if loss.is_finite() { format!("{loss:.3}") } else { "–".to_owned() };
    vec![
        ("encoder loss", shown(loss(|record| record.encoder_loss))),
        ("decoder loss", shown(loss(|record| record.decoder_loss))),
        ("steps", whole_number(last.step as f64)),
        ("tokens", whole_number(tokens as f64)),
        ("tokens a second, median", whole_number(f64::from(median(records, |record| record.tokens_per_s)))),
        ("step, median", format!("{:.1} ms", median(records, |record| record.step_ms))),
        ("waiting for data", format!("{:.1} %", data_wait_percent(records))),
    ]
}

/// Returns the median of a value over all records.
fn median(records: &[StepRecord], value: fn(&StepRecord) -> f32) -> f32 {
    let mut values: Vec<f32> = records.iter().map(value).collect();
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f32::NAN)
}

/// Returns (step, value) of every record with a finite value.
fn series(records: &[StepRecord], value: fn(&StepRecord) -> f32) -> Vec<(f64, f64)> {
    let points = records.iter().map(|record| (record.step as f64, f64::from(value(record))));
    points.filter(|(_, value)| value.is_finite()).collect()
}

/// Averages each point with its neighbors on both sides, about a thirtieth of the run in all. At the ends the window shrinks
/// to a third, so that it hardly shifts a slope.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 60;
    let sums: Vec<f64> = std::iter::once(0.0)
        .chain(points.iter().scan(0.0, |sum, &(_, value)| {
            *sum += value;
            Some(*sum)
        }))
        .collect();
    let mean = |(index, &(step, _)): (usize, &(f64, f64))| {
        let reach = reach.min(index).min(points.len() - 1 - index).max(reach / 3);
        let (first, end) = (index.saturating_sub(reach), points.len().min(index + reach + 1));
        (step, (sums[end] - sums[first]) / (end - first) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

/// Returns the mean of the last thirtieth of the points.
fn final_mean(points: &[(f64, f64)]) -> f64 {
    let last = &points[points.len() - points.len().div_ceil(30)..];
    last.iter().map(|&(_, value)| value).sum::<f64>() / last.len() as f64
}

/// Returns about [`MOST_POINTS`] of the points, evenly spaced, and the last.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stride = points.len().div_ceil(MOST_POINTS).max(1);
    let end = points.last().filter(|_| !(points.len() - 1).is_multiple_of(stride));
    points.iter().step_by(stride).chain(end).copied().collect()
}

/// Formats `12345.6` as `12,346`.
fn whole_number(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 { format!("-{grouped}") } else { grouped }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord { step, encoder_loss: 9.0 / step as f32, decoder_loss: 2.0, ..StepRecord::default() }
    }

    #[test]
    fn losses_that_are_not_numbers_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let diverged = StepRecord { encoder_loss: f32::NAN, gradient_norm: f32::NAN, ..record(1) };
        let path = directory.path().join("a.svg");
        write_training_svg(&path, "diverged", &[diverged], None).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        assert!(!svg.contains("NaN") && svg.contains('–'), "{svg}");
    }

    #[test]
    fn the_plot_holds_curves_and_scores() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("training.svg");
        let records: Vec<StepRecord> = (1..=5000).map(record).collect();
        let score = |mrr_at_10, recall| RetrievalScore { mrr_at_10, recall_at_10: Some(recall) };
        let table = RetrievalTable {
            held_out: 1234,
            before: score(0.125, 0.25),
            after: Some(score(0.375, 0.5)),
            bm25: score(0.625, 0.75),
        };
        write_training_svg(&path, "A <run>", &records, Some(&table)).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        for expected in
            ["encoder", "decoder", "learning rate", "0.125", "0.500", "0.750", "1,234", "A &lt;run&gt;"]
        {
            assert!(svg.contains(expected), "the plot lacks {expected}");
        }
        assert!(svg.len() < 100_000, "{} bytes", svg.len());
        write_training_svg(&path, "empty", &[], None).unwrap();
        let message = write_training_svg(directory.path().join("no/a.svg"), "", &records, None)
            .unwrap_err()
            .to_string();
        assert!(message.contains("no/a.svg"), "{message}");
    }

    #[test]
    fn numbers_are_grouped_and_curves_smoothed() {
        assert_eq!(["0", "999", "1,000", "1,234,568"], [0.0, 999.0, 1000.0, 1_234_567.9].map(whole_number));
        let points: Vec<(f64, f64)> = (0..3000).map(|step| (f64::from(step), f64::from(step % 2))).collect();
        for (_, value) in &smoothed(&points)[50..2950] {
            assert_abs_diff_eq!(*value, 0.5, epsilon = 0.02);
        }
        let slope: Vec<(f64, f64)> = (0..90).map(|step| (f64::from(step), 3.0 * f64::from(step))).collect();
        assert_eq!(smoothed(&slope), slope, "a slope is not moved");
        assert_eq!(final_mean(&slope), 3.0 * 88.0);
        assert!(final_mean(&[]).is_nan());
        assert!(thinned(&points).len() <= MOST_POINTS + 1);
        assert_eq!(thinned(&points).last(), points.last());
    }
}
