//! The plot: relative time of each variant, as bars on a logarithmic axis, so that twice and half are equally far from 1.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::result::Figure;
use crate::summary;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Sampled = Result<(), Box<dyn std::error::Error>>;

const FONT: &str = "Helvetica, Arial, sans-serif";
const INK: RGBColor = RGBColor(31, 41, 55);
const FAINT_INK: RGBColor = RGBColor(107, 114, 128);
const GRID: RGBColor = RGBColor(229, 231, 235);
const UNFUSED: RGBColor = RGBColor(148, 163, 184);
const PEER: RGBColor = RGBColor(37, 99, 235);

const WIDTH: u32 = 1000;
/// Height of title, legend and the numbers of the axis.
const TOP: i32 = 112;
const BOTTOM: i32 = 20;
const ROW: i32 = 46;
const BAR: i32 = 15;
/// Pixels between the names at the left and the room for a bar's label at the right.
const LEFT: i32 = 270;
const RIGHT: i32 = 800;

/// An axis from `2^low` to `2^high`.
#[derive(Clone, Copy)]
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    fn of(figures: &[&Figure]) -> Self {
        let ratios = || {
            let both =
                |figure: &&Figure| [figure.unfused_ratio(), figure.best_peer().map(|(_, ratio)| ratio)];
            figures.iter().flat_map(both).flatten().map(f64::log2).filter(|power| power.is_finite())
        };
        let low = ratios().fold(0.0, f64::min).floor().max(-12.0) as i32;
        let high = ratios().fold(1.0, f64::max).ceil().min(12.0) as i32;
        Self { low, high }
    }

    fn x(self, ratio: f64) -> i32 {
        let part = (ratio.log2() - f64::from(self.low)) / f64::from(self.high - self.low);
        LEFT + (part.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)).round() as i32
    }
}

/// Draws the plot of this project's own `figures` as SVG.
pub fn draw(subtitle: &str, figures: &[&Figure]) -> Result<String> {
    let mut svg = String::new();
    draw_into(&mut svg, subtitle, figures).map_err(|error| anyhow!("drawing the plot: {error}"))?;
    Ok(svg)
}

fn draw_into(svg: &mut String, subtitle: &str, figures: &[&Figure]) -> Sampled {
    let height = TOP + ROW * figures.len() as i32 + BOTTOM;
    let root = SVGBackend::with_string(svg, (WIDTH, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    text(&root, "How many times as long others take", (24, 28), 20, INK, HPos::Left)?;
    text(&root, subtitle, (24, 52), 13, FAINT_INK, HPos::Left)?;
    draw_legend(&root)?;
    let axis = Axis::of(figures);
    draw_axis(&root, axis, height - BOTTOM)?;
    for (index, figure) in figures.iter().enumerate() {
        draw_row(&root, axis, TOP + ROW * index as i32, figure)?;
    }
    // Sampled over the bars: the reference line at 1.
    root.draw(&PathElement::new(
        [(axis.x(1.0), TOP - 4), (axis.x(1.0), height - BOTTOM)],
        INK.stroke_width(2),
    ))?;
    root.present()?;
    Ok(())
}

fn draw_legend(root: &Area) -> Sampled {
    for (x, color, name) in
        [(24, UNFUSED, "unfused: cuBLASLt and plain kernels"), (290, PEER, "best PyTorch variant")]
    {
        root.draw(&Rectangle::new([(x, 66), (x + 14, 78)], color.filled()))?;
        text(root, name, (x + 22, 72), 13, INK, HPos::Left)?;
    }
    text(root, "right of the line: these kernels are faster", (476, 72), 13, FAINT_INK, HPos::Left)
}

fn draw_axis(root: &Area, axis: Axis, bottom: i32) -> Sampled {
    for power in axis.low..=axis.high {
        let ratio = f64::from(power).exp2();
        let x = axis.x(ratio);
        root.draw(&PathElement::new([(x, TOP - 4), (x, bottom)], GRID.stroke_width(1)))?;
        text(root, &format!("{ratio}×"), (x, TOP - 14), 12, FAINT_INK, HPos::Center)?;
    }
    Ok(())
}

fn draw_row(root: &Area, axis: Axis, top: i32, figure: &Figure) -> Sampled {
    let middle = top + ROW / 2;
    text(root, &figure.op.replace('_', " "), (LEFT - 12, middle - 8), 14, INK, HPos::Right)?;
    let case = format!("{}, {}", figure.case, summary::time(figure.median_ns));
    text(root, &case, (LEFT - 12, middle + 9), 12, FAINT_INK, HPos::Right)?;
    let unfused = figure.unfused_ratio().map(|ratio| (ratio, String::new()));
    let peer = figure.best_peer().map(|(variant, ratio)| (ratio, format!(" {}", variant.replace('_', " "))));
    for (bar, color, y) in [(unfused, UNFUSED, middle - BAR - 1), (peer, PEER, middle + 1)] {
        if let Some((ratio, name)) = bar {
            draw_bar(root, axis, y, color, ratio, &name)?;
        }
    }
    Ok(())
}

fn draw_bar(root: &Area, axis: Axis, top: i32, color: RGBColor, ratio: f64, name: &str) -> Sampled {
    let (one, end) = (axis.x(1.0), axis.x(ratio));
    root.draw(&Rectangle::new([(one.min(end), top), (one.max(end), top + BAR)], color.filled()))?;
    // The label of a bar that extends to the left stands right of the line, in free space.
    let label = format!("{}{name}", summary::times(Some(ratio)));
    text(root, &label, (one.max(end) + 7, top + BAR / 2 + 1), 12, INK, HPos::Left)
}

fn text(root: &Area, text: &str, at: (i32, i32), size: i32, color: RGBColor, side: HPos) -> Sampled {
    let style = TextStyle::from((FONT, size).into_font()).color(&color).pos(Pos::new(side, VPos::Center));
    root.draw_text(text, &style, at)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(unfused: f64, peer: f64) -> Figure {
        let ratios = [("unfused".to_owned(), unfused), ("torch".to_owned(), peer)].into();
        Figure { op: "adamw".into(), case: "base".into(), median_ns: 1e6, ratios, ..Figure::default() }
    }

    #[test]
    fn the_axis_holds_every_bar_and_one() {
        let (slow, fast) = (figure(0.3, 1.0), figure(9.0, 3.0));
        let axis = Axis::of(&[&slow, &fast]);
        assert_eq!((axis.low, axis.high), (-2, 4));
        assert_eq!((axis.x(0.25), axis.x(16.0)), (LEFT, RIGHT));
        let axis = Axis::of(&[]);
        assert_eq!((axis.low, axis.high), (0, 1));
        assert_eq!(Axis::of(&[&figure(f64::INFINITY, 0.0)]).high, 1, "what is no number moves nothing");
    }

    #[test]
    fn names_are_escaped() {
        let named = Figure { op: "a<b".into(), ..figure(2.0, 2.0) };
        let svg = draw("x & y", &[&named]).unwrap();
        assert!(svg.contains("a&lt;b") && svg.contains("x &amp; y"), "{svg}");
    }
}
