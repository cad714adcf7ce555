//! Embedding of tokens.

use retromae::device::{MatrixMut, ModelFloat};
use retromae::ops::embedding::{
    self, Backward, Embedding, Forward, Sentences, Source, TableGradient, TableGradients, Words,
};

use crate::call::{Call, count};
use crate::status::{Result, invalid, renamed};
use crate::sys;
use crate::types::{dropout, dtype, for_model_float, segments};

type Desc = sys::rmae_embedding_desc;

/// Names of arguments of the backward pass: Rust's, and the header's.
const NAMES: [(&str, &str); 4] = [
    ("position.", "d_position."),
    ("tables.word", "d_word"),
    ("tables.token_type", "d_token_type"),
    ("tables.sentences", "d_sentences"),
];

/// Returns tokens and columns.
fn shape(desc: &Desc) -> Result<[usize; 2]> {
    Ok([count("tokens", desc.tokens)?, count("columns", desc.columns)?])
}

/// The tables that a source reads, apart from that of positions.
#[derive(Clone, Copy)]
struct Tables {
    word: bool,
    token_type: bool,
    sentences: bool,
}

fn tables(desc: &Desc) -> Result<Tables> {
    let tables = |word, token_type, sentences| Ok(Tables { word, token_type, sentences });
    match u32::try_from(desc.source) {
        Ok(sys::RMAE_EMBEDDING_WORD) => tables(true, true, false),
        Ok(sys::RMAE_EMBEDDING_CONTENT) => tables(true, true, true),
        Ok(sys::RMAE_EMBEDDING_QUERY) => tables(false, true, true),
        Ok(sys::RMAE_EMBEDDING_QUERY_POSITION) => tables(false, false, true),
        _ => invalid("source", desc.source, "one of rmae_embedding_source"),
    }
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    let [tokens, columns] = shape(call.desc)?;
    Ok(embedding::workspace(dtype("dtype", call.desc.dtype)?, tokens, columns).bytes())
}

/// Returns what both passes read.
fn inputs<'a, T: ModelFloat>(call: &Call<'a, Desc>) -> Result<Embedding<'a, T>> {
    let desc = call.desc;
    let [tokens, columns] = shape(desc)?;
    let words = || -> Result<_> {
        let vocab_size = count("vocab_size", desc.vocab_size)?;
        Ok(Words {
            ids: call.view("ids", desc.ids, tokens)?,
            table: call.matrix("word_table", desc.word_table, [vocab_size, columns], 0)?,
        })
    };
    let sentences = || -> Result<_> {
        let vectors = [count("sentences", desc.sentences)?, columns];
        Ok(Sentences {
            indices: call.view("sentence_indices", desc.sentence_indices, tokens)?,
            vectors: call.matrix("sentence_vectors", desc.sentence_vectors, vectors, 0)?,
        })
    };
    let source = match tables(desc)? {
        Tables { word: true, sentences: false, .. } => Source::Word(words()?),
        Tables { word: true, sentences: true, .. } => Source::Content(words()?, sentences()?),
        Tables { token_type: true, .. } => Source::Query(sentences()?),
        _ => Source::QueryPosition(sentences()?),
    };
    let positions = [count("max_positions", desc.max_positions)?, columns];
    let types = [count("token_types", desc.token_types)?, columns];
    Ok(Embedding {
        source,
        positions: call.view("positions", desc.positions, tokens)?,
        position_table: call.matrix("position_table", desc.position_table, positions, 0)?,
        token_type_table: call.matrix("token_type_table", desc.token_type_table, types, 0)?,
        gamma: call.view("gamma", desc.gamma, columns)?,
        beta: call.view("beta", desc.beta, columns)?,
        eps: desc.eps,
        dropout: dropout(call, &desc.dropout)?,
    })
}

pub fn forward(call: &Call<'_, Desc>) -> Result<()> {
    for_model_float!(call, T => forward_of::<T>(call))
}

fn forward_of<T: ModelFloat>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let shape @ [tokens, _] = shape(desc)?;
    let forward = Forward::<T> {
        embedding: inputs(call)?,
        output: call.matrix_mut("output", desc.output, shape, 0)?,
        mean: call.view_mut("mean", desc.mean, tokens)?,
        rstd: call.view_mut("rstd", desc.rstd, tokens)?,
    };
    call.enqueue(|stream| embedding::forward(stream, forward))
}

pub fn backward(call: &Call<'_, Desc>) -> Result<()> {
    for_model_float!(call, T => backward_of::<T>(call))
}

fn backward_of<T: ModelFloat>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let shape @ [tokens, columns] = shape(desc)?;
    let positions = count("max_positions", desc.max_positions)?;
    let position = TableGradient {
        segments: segments!(call, desc.d_position.segments, "d_position.segments"),
        d_table: table(call, "d_position.d_table", desc.d_position.d_table, positions)?,
    };
    let backward = Backward::<T> {
        embedding: inputs(call)?,
        mean: call.view("mean", desc.mean, tokens)?,
        rstd: call.view("rstd", desc.rstd, tokens)?,
        d_output: call.matrix("d_output", desc.d_output, shape, 0)?,
        d_gamma: call.view_mut("d_gamma", desc.d_gamma, columns)?,
        d_beta: call.view_mut("d_beta", desc.d_beta, columns)?,
        position,
        tables: table_gradients(call)?,
        workspace: call.workspace(desc.workspace, desc.workspace_bytes)?,
    };
    call.enqueue(|stream| embedding::backward(stream, backward)).map_err(|failure| renamed(failure, &NAMES))
}

/// Returns the gradients of the tables that the source reads.
fn table_gradients<'a, T: ModelFloat>(call: &Call<'a, Desc>) -> Result<TableGradients<'a, T>> {
    let desc = call.desc;
    let read = tables(desc)?;
    let word = || -> Result<_> {
        Ok(TableGradient {
            segments: segments!(call, desc.d_word.segments, "d_word.segments"),
            d_table: table(
                call,
                "d_word.d_table",
                desc.d_word.d_table,
                count("vocab_size", desc.vocab_size)?,
            )?,
        })
    };
    let sentences = || -> Result<_> {
        let rows = count("d_sentences_rows", desc.d_sentences_rows)?;
        Ok(TableGradient {
            segments: segments!(call, desc.d_sentences.segments, "d_sentences.segments"),
            d_table: table(call, "d_sentences.d_table", desc.d_sentences.d_table, rows)?,
        })
    };
    let token_type = || {
        let rows = count("token_types", desc.token_types)?;
        table(call, "d_token_type", desc.d_token_type.cast(), rows)
    };
    Ok(TableGradients {
        word: read.word.then(word).transpose()?,
        token_type: read.token_type.then(token_type).transpose()?,
        sentences: read.sentences.then(sentences).transpose()?,
    })
}

/// Returns the gradient of a table with this number of rows.
fn table<'a, O: ModelFloat>(
    call: &Call<'a, Desc>,
    field: &'static str,
    data: *mut std::ffi::c_void,
    rows: usize,
) -> Result<MatrixMut<'a, O>> {
    let [_, columns] = shape(call.desc)?;
    call.matrix_mut(field, data, [rows, columns], 0)
}
