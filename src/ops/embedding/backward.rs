//! The whole backward of the embeddings: LayerNorm's, then the sums of the tokens' gradients into the rows that they read.

use super::{Embedding, Source, sum};
use crate::device::{DType, Matrix, MatrixMut, ModelFloat, Stream, View, ViewMut};
use crate::ops::column_sum::{self, ColumnSum, column_sum};
use crate::ops::error::{contiguous, require, require_shape};
use crate::ops::layer_norm::require_row_shape;
use crate::ops::segment_sum::{self, Checked, Names, SegmentSum, Segments};
use crate::ops::{Result, Workspace};

/// The gradient of a table, and the tokens that read each of its rows.
#[derive(Debug)]
pub struct TableGradient<'a, O: ModelFloat> {
    /// Tokens by the row that they read: [`Keys::segments`](crate::ops::group_by_key::Keys::segments) of their ids, for example. At most as
    /// many indices as tokens.
    pub segments: Segments<'a>,
    /// `[rows, columns]`, contiguous and added to
    pub d_table: MatrixMut<'a, O>,
}

/// Gradients of the tables that not every source reads; all absent by default. Each is present exactly if the source reads its table.
#[derive(Debug)]
pub struct TableGradients<'a, T: ModelFloat> {
    /// Gradient of [`Words::table`](super::Words::table), with tokens by id
    pub word: Option<TableGradient<'a, f32>>,
    /// `[types, columns]`, row 0 of which is added to: all sources but [`Source::QueryPosition`]
    pub token_type: Option<MatrixMut<'a, f32>>,
    /// Gradient of the sentence vectors, with the tokens that read each: the first of a sentence for [`Source::Content`], all of it for the
    /// queries. The rows may be those of the encoder's whole output, `[tokens, columns]`, with the keys of the sentences' first tokens.
    pub sentences: Option<TableGradient<'a, T>>,
}

impl<T: ModelFloat> Default for TableGradients<'_, T> {
    fn default() -> Self {
        Self { word: None, token_type: None, sentences: None }
    }
}

/// Arguments of [`backward`]; arrays with columns are aligned to 16 bytes.
#[derive(Debug)]
pub struct Backward<'a, T: ModelFloat> {
    /// As in the forward pass.
    pub embedding: Embedding<'a, T>,
    /// `[tokens]`, from the forward pass
    pub mean: View<'a, f32>,
    /// `[tokens]`, from the forward pass
    pub rstd: View<'a, f32>,
    /// `[tokens, columns]`: gradient of the output
    pub d_output: Matrix<'a, T>,
    /// `[columns]`, added to; unchanged where nothing is normalized
    pub d_gamma: ViewMut<'a, f32>,
    /// `[columns]`, as `d_gamma`
    pub d_beta: ViewMut<'a, f32>,
    /// Gradient of [`Embedding::position_table`], with tokens by position
    pub position: TableGradient<'a, f32>,
    /// Gradients of the tables that only some sources read
    pub tables: TableGradients<'a, T>,
    /// At least [`workspace`].
    pub workspace: ViewMut<'a, u8>,
}

/// Returns the workspace that [`backward`] needs for `tokens` rows of `columns` columns, with segments of at most as many indices.
#[must_use]
pub fn workspace(dtype: DType, tokens: usize, columns: usize) -> Workspace {
    let step = sum::workspace(tokens, columns)
        .either(segment_sum::workspace(tokens, columns))
        .either(column_sum::workspace(tokens, columns));
    d_sum_workspace(dtype, tokens, columns).and(step)
}

/// Returns the workspace of the gradient of the sum of table rows.
fn d_sum_workspace(dtype: DType, tokens: usize, columns: usize) -> Workspace {
    Workspace::of::<u8>(&[tokens, columns, dtype.bytes()])
}

/// Enqueues all gradients of [`forward`](super::forward), which are added to what the arrays hold.
///
/// # Errors
/// As [`forward`](super::forward); also when a gradient is absent though the source reads its table, or present though it does not, or the
/// workspace is too small.
pub fn backward<T: ModelFloat>(stream: &Stream, arguments: Backward<'_, T>) -> Result<()> {
    let Backward { embedding, mean, rstd, d_output, d_gamma, d_beta, position, tables, workspace } =
        arguments;
    let [tokens, columns] = require_row_shape("d_output", &d_output)?;
    check(&embedding, &position, &tables, columns)?;
    self::workspace(T::DTYPE, tokens, columns).address(stream, &workspace)?;
    let own = d_sum_workspace(T::DTYPE, tokens, columns);
    let (d_sum, mut workspace) = workspace.split_at(own.start_of_next());
    let mut d_sum = d_sum.slice(0..own.bytes()).cast::<T>().matrix(tokens, columns)?;
    // All steps are checked before the first is enqueued.
    let word = tables.word.map(|word| word.checked(stream, &WORD, d_sum.as_matrix(), workspace.reborrow()));
    let word = word.transpose()?;
    let position = position.checked(stream, &POSITION, d_sum.as_matrix(), workspace.reborrow())?;
    let sentences = tables.sentences.map(|sentences| {
        // The first token of content is the vector itself.
        let is_content = matches!(embedding.source, Source::Content(..));
        let input = if is_content { d_output } else { d_sum.as_matrix() };
        sentences.checked(stream, &SENTENCES, input, workspace.reborrow())
    });
    let sentences = sentences.transpose()?;
    if let Some(d_table) = &tables.token_type {
        contiguous(stream, "tables.token_type", d_table)?;
    }
    let step = sum::Backward {
        embedding,
        mean,
        rstd,
        d_output,
        d_sum: d_sum.reborrow(),
        d_gamma,
        d_beta,
        workspace: workspace.reborrow(),
    };
    sum::backward(stream, step)?;
    for sum in [word, Some(position), sentences].into_iter().flatten() {
        // SAFETY: the tables are valid for as long as the arguments, as are the workspace and `d_sum` within it.
        unsafe { sum.enqueue(stream)? };
    }
    if let Some(d_table) = tables.token_type {
        // Every token is of type 0.
        let output = d_table.slice_rows(0..1).into_view();
        column_sum(stream, ColumnSum { input: d_sum.as_matrix(), output, accumulate: true, workspace })?;
    }
    Ok(())
}

/// Returns the names of a table gradient's parts in errors.
macro_rules! table_names {
    ($field:literal) => {
        Names {
            input: "d_output",
            offsets: concat!($field, ".segments.offsets"),
            indices: concat!($field, ".segments.indices"),
            keys: concat!($field, ".segments.keys"),
            output: concat!($field, ".d_table"),
        }
    };
}

const WORD: Names = table_names!("tables.word");
const POSITION: Names = table_names!("position");
const SENTENCES: Names = table_names!("tables.sentences");

impl<O: ModelFloat> TableGradient<'_, O> {
    /// Returns the sums of the rows of `input`, a token each.
    fn checked<T: ModelFloat>(
        self,
        stream: &Stream,
        names: &Names,
        input: Matrix<'_, T>,
        workspace: ViewMut<'_, u8>,
    ) -> Result<Checked> {
        let Self { segments, d_table } = self;
        Checked::new(stream, names, SegmentSum { input, segments, output: d_table, workspace })
    }
}

/// Refuses gradients of other tables, or other shapes, than the source has.
fn check<T: ModelFloat>(
    embedding: &Embedding<'_, T>,
    position: &TableGradient<'_, f32>,
    tables: &TableGradients<'_, T>,
    columns: usize,
) -> Result<()> {
    let TableGradients { word, token_type, sentences } = tables;
    let (words, has_sentences) = match embedding.source {
        Source::Word(words) => (Some(words), false),
        Source::Content(words, _) => (Some(words), true),
        Source::Query(_) | Source::QueryPosition(_) => (None, true),
    };
    let has_type = !matches!(embedding.source, Source::QueryPosition(_));
    require_presence("tables.word", word.is_some(), words.is_some())?;
    require_presence("tables.token_type", token_type.is_some(), has_type)?;
    require_presence("tables.sentences", sentences.is_some(), has_sentences)?;
    let shape = |table: &Matrix<'_, T>| [table.rows(), columns];
    if let (Some(word), Some(words)) = (word, words) {
        require_shape(WORD.output, &word.d_table, shape(&words.table), "as the word table")?;
    }
    if let Some(d_table) = token_type {
        let expected = shape(&embedding.token_type_table);
        require_shape("tables.token_type", d_table, expected, "as token_type_table")?;
        require(d_table.rows() > 0, "tables.token_type", "empty", "of at least one row")?;
    }
    if let Some(sentences) = sentences {
        let rows = sentences.d_table.rows();
        require_shape(SENTENCES.output, &sentences.d_table, [rows, columns], "rows, columns")?;
    }
    let expected = shape(&embedding.position_table);
    require_shape(POSITION.output, &position.d_table, expected, "as position_table")
}

fn require_presence(argument: &'static str, present: bool, read: bool) -> Result<()> {
    let expected = if read {
        "present, as the source reads the table"
    } else {
        "absent, as the source does not read it"
    };
    require(present == read, argument, if present { "present" } else { "absent" }, expected)
}
