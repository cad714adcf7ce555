//! The record of a run: a line of JSON for each step, and a picture of it.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::{Deserialize, Deserializer, Serialize};

use crate::data::write_whole;
use crate::eval::RetrievalScore;

/// An error of the record or the picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("training log `{path}`: {source}")]
    Log { path: PathBuf, source: std::io::Error },
    #[error(
        "training log `{path}`, line {line}: {reason}; it should be a step record, one JSON object a line"
    )]
    Malformed { path: PathBuf, line: usize, reason: String },
    #[error(transparent)]
    Picture(#[from] crate::data::Error),
    #[error("training picture `{path}`: {reason}")]
    Drawing { path: PathBuf, reason: String },
}

/// What is known of one training step; losses that are not numbers are written as `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, this one included: the first is 1.
    pub step: u64,
    pub epoch: u32,
    /// Mean cross-entropy of the encoder's chosen tokens, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub encoder_loss: f32,
    /// Mean cross-entropy of the decoder's tokens, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub decoder_loss: f32,
    /// Mean loss of the sentences' bags of words, in nats; none without that head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bag_of_words_loss: Option<f32>,
    /// The share of the encoder's chosen tokens whose word was predicted.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub encoder_accuracy: f32,
    /// The same of the decoder's tokens.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub decoder_accuracy: f32,
    /// `exp` of the mean negative log-probability of the encoder's chosen tokens.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub encoder_perplexity: f32,
    /// The same of the decoder's tokens.
    #[serde(default = "nan", deserialize_with = "null_is_nan")]
    pub decoder_perplexity: f32,
    pub learning_rate: f32,
    /// Before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub gradient_norm: f32,
    pub sentences: usize,
    pub tokens: usize,
    pub tokens_per_s: f32,
    pub step_ms: f32,
    /// Of the step, what the matrix products took; none when not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gemm_ms: Option<f32>,
    /// Of the step, what the other kernels took; none when not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_ms: Option<f32>,
    /// How long the device waited for the batch.
    pub data_wait_ms: f32,
}

/// What older logs do not say.
fn nan() -> f32 {
    f32::NAN
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f32::NAN))
}

impl StepRecord {
    /// The percentage of the step's time that the device waited for its batch; 0 where the time is not known.
    #[must_use]
    pub fn data_wait_percent(&self) -> f32 {
        if self.step_ms > 0.0 { 100.0 * self.data_wait_ms / self.step_ms } else { 0.0 }
    }
}

/// The percentage of the time of all steps that the device waited for batches; 0 where the time is not known.
#[must_use]
pub fn data_wait_percent(records: &[StepRecord]) -> f32 {
    let sum = |value: fn(&StepRecord) -> f32| records.iter().map(value).sum::<f32>();
    let all = StepRecord {
        data_wait_ms: sum(|record| record.data_wait_ms),
        step_ms: sum(|record| record.step_ms),
        ..StepRecord::default()
    };
    all.data_wait_percent()
}

/// `training.jsonl`, open for the next step.
#[derive(Debug)]
pub struct TrainingLog {
    file: File,
    path: PathBuf,
}

impl TrainingLog {
    /// Opens the log at `path` for a run that goes on after `resume_step` steps, 0 for a new one.
    ///
    /// Records after `resume_step` belong to steps that will be done again and are cut off, as is a last line that a
    /// crash left unfinished.
    ///
    /// # Errors
    /// [`Error::Log`]; [`Error::Malformed`] names a line that is no record, and leaves the file as it is.
    pub fn open(path: impl AsRef<Path>, resume_step: u64) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let failed = |source| Error::Log { path: path.clone(), source };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(failed)?;
        let kept = kept_bytes(&std::fs::read(&path).map_err(failed)?, resume_step, &path)?;
        file.set_len(kept).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok(Self { file, path })
    }

    /// Appends `record`; it is in the file when this returns.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn append(&mut self, record: &StepRecord) -> Result<(), Error> {
        let failed = |source| Error::Log { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).and_then(|()| self.file.flush()).map_err(failed)
    }
}

/// The bytes of the log up to and including the record of `resume_step`.
fn kept_bytes(log: &[u8], resume_step: u64, path: &Path) -> Result<u64, Error> {
    let mut kept = 0;
    for (index, line) in log.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if resume_step == 0 || !line.ends_with(b"\n") {
            break;
        }
        if parse(line, index, path)?.step > resume_step {
            break;
        }
        kept += line.len() as u64;
    }
    Ok(kept)
}

fn parse(line: &[u8], index: usize, path: &Path) -> Result<StepRecord, Error> {
    serde_json::from_slice(line).map_err(|error| Error::Malformed {
        path: path.to_owned(),
        line: index + 1,
        reason: error.to_string(),
    })
}

/// Every record of the log at `path`; a last line without its end is left out.
///
/// # Errors
/// [`Error::Log`], [`Error::Malformed`].
pub fn read_training_log(path: impl AsRef<Path>) -> Result<Vec<StepRecord>, Error> {
    let path = path.as_ref();
    let log = std::fs::read(path).map_err(|source| Error::Log { path: path.to_owned(), source })?;
    let lines = log.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.enumerate().map(|(index, line)| parse(line, index, path)).collect()
}

/// Retrieval on held-out passages: the model before and after training, and BM25.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalTable {
    /// Queries, each with one document among as many.
    pub held_out: usize,
    pub before: RetrievalScore,
    /// None while the run goes on.
    pub after: Option<RetrievalScore>,
    pub bm25: RetrievalScore,
}

/// Draws the run as an SVG picture at `path`: both losses, the learning rate, and the retrieval scores if there are any.
///
/// # Errors
/// [`Error::Drawing`], [`Error::Picture`].
pub fn write_training_svg(
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
/// More points than this cannot be told apart at this width.
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

/// A line of text whose baseline is at `at`.
fn text(area: &Area, words: &str, at: (i32, i32), size: i32, color: RGBColor, side: HPos) -> DrawingResult {
    let style = (FONT, size).into_font().color(&color).pos(Pos::new(side, VPos::Bottom));
    area.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

/// The steps of the records, as the range of a chart's axis.
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

/// The column on the right: retrieval scores, and what the run cost.
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
        text(area, "Recall@10", (RIGHT, y), 13, FAINT_INK, HPos::Right)?;
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
            text(area, &cell(|score| score.recall_at_10), (RIGHT, y), 15, color, HPos::Right)?;
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
    vec![
        ("encoder loss", format!("{:.3}", loss(|record| record.encoder_loss))),
        ("decoder loss", format!("{:.3}", loss(|record| record.decoder_loss))),
        ("steps", whole_number(last.step as f64)),
        ("tokens", whole_number(tokens as f64)),
        ("tokens a second, median", whole_number(f64::from(median(records, |record| record.tokens_per_s)))),
        ("step, median", format!("{:.1} ms", median(records, |record| record.step_ms))),
        ("waiting for data", format!("{:.1} %", data_wait_percent(records))),
    ]
}

/// The median of a value over all records.
fn median(records: &[StepRecord], value: fn(&StepRecord) -> f32) -> f32 {
    let mut values: Vec<f32> = records.iter().map(value).collect();
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f32::NAN)
}

/// (step, value) of every record whose value is a number.
fn series(records: &[StepRecord], value: fn(&StepRecord) -> f32) -> Vec<(f64, f64)> {
    let points = records.iter().map(|record| (record.step as f64, f64::from(value(record))));
    points.filter(|(_, value)| value.is_finite()).collect()
}

/// The mean of each point and its neighbours on both sides, about a thirtieth of the run in all. At the ends there are fewer,
/// down to a third, so that a slope is hardly moved.
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

/// The mean of the last thirtieth of the points.
fn final_mean(points: &[(f64, f64)]) -> f64 {
    let last = &points[points.len() - points.len().div_ceil(30)..];
    last.iter().map(|&(_, value)| value).sum::<f64>() / last.len() as f64
}

/// About [`MOST_POINTS`] of the points, evenly spread, and the last.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stride = points.len().div_ceil(MOST_POINTS).max(1);
    let end = points.last().filter(|_| !(points.len() - 1).is_multiple_of(stride));
    points.iter().step_by(stride).chain(end).copied().collect()
}

/// `12345.6` as `12,346`.
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
    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord { step, encoder_loss: 9.0 / step as f32, decoder_loss: 2.0, ..StepRecord::default() }
    }

    /// Lines of before accuracies were recorded.
    #[test]
    fn an_older_record_is_read() {
        let line = br#"{"step":3,"epoch":0,"encoder_loss":2.5,"decoder_loss":null,"learning_rate":0.1,
            "gradient_norm":1.0,"sentences":2,"tokens":30,"tokens_per_s":9.0,"step_ms":3.0,"data_wait_ms":0.0}"#;
        let record = parse(line, 0, Path::new("log")).unwrap();
        assert!(record.encoder_accuracy.is_nan() && record.decoder_perplexity.is_nan());
        assert_eq!((record.step, record.encoder_loss, record.bag_of_words_loss), (3, 2.5, None));
    }

    #[test]
    fn a_resumed_log_is_cut_at_the_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("training.jsonl");
        let write = |resume, steps: std::ops::RangeInclusive<u64>| {
            let mut log = TrainingLog::open(&path, resume).unwrap();
            steps.for_each(|step| log.append(&record(step)).unwrap());
        };
        let steps = || read_training_log(&path).unwrap().iter().map(|record| record.step).collect::<Vec<_>>();
        write(0, 1..=5);
        // A crash in the middle of a line.
        File::options().append(true).open(&path).unwrap().write_all(b"{\"step\":6,\"epo").unwrap();
        assert_eq!(steps(), [1, 2, 3, 4, 5]);
        write(5, 6..=6);
        assert_eq!(steps(), [1, 2, 3, 4, 5, 6]);
        write(3, 4..=4);
        assert_eq!(steps(), [1, 2, 3, 4]);
        write(9, 10..=10);
        assert_eq!(steps(), [1, 2, 3, 4, 10]);
        write(0, 1..=1);
        assert_eq!(steps(), [1]);
    }

    #[test]
    fn a_line_that_is_no_record_is_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("training.jsonl");
        TrainingLog::open(&path, 0).unwrap().append(&record(1)).unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"{\"loss\": 1}\n").unwrap();
        let before = std::fs::read(&path).unwrap();
        let message = TrainingLog::open(&path, 5).unwrap_err().to_string();
        assert!(message.contains("training.jsonl") && message.contains("line 2"), "{message}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let message = TrainingLog::open(directory.path(), 0).unwrap_err().to_string();
        assert!(message.contains(directory.path().to_str().unwrap()), "{message}");
    }

    #[test]
    fn losses_that_are_not_numbers_survive() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("training.jsonl");
        let diverged = StepRecord { encoder_loss: f32::NAN, gradient_norm: f32::INFINITY, ..record(1) };
        TrainingLog::open(&path, 0).unwrap().append(&diverged).unwrap();
        let read = read_training_log(&path).unwrap();
        assert!(read[0].encoder_loss.is_nan() && read[0].gradient_norm.is_nan());
        write_training_svg(directory.path().join("a.svg"), "diverged", &read, None).unwrap();
    }

    #[test]
    fn the_picture_holds_curves_and_scores() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("training.svg");
        let records: Vec<StepRecord> = (1..=5000).map(record).collect();
        let score = |mrr_at_10, recall_at_10| RetrievalScore { mrr_at_10, recall_at_10 };
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
            assert!(svg.contains(expected), "the picture lacks {expected}");
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
        assert!(smoothed(&points).iter().skip(50).take(2900).all(|&(_, value)| (value - 0.5).abs() < 0.02));
        let slope: Vec<(f64, f64)> = (0..90).map(|step| (f64::from(step), 3.0 * f64::from(step))).collect();
        assert_eq!(smoothed(&slope), slope, "a slope is not moved");
        assert_eq!(final_mean(&slope), 3.0 * 88.0);
        assert!(final_mean(&[]).is_nan());
        assert!(thinned(&points).len() <= MOST_POINTS + 1);
        assert_eq!(thinned(&points).last(), points.last());
    }
}
