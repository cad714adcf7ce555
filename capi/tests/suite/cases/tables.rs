//! Sums of segments, rows by index, groups by key, and the embeddings.

use std::mem::offset_of;

use retromae::device::{ModelFloat, bf16};
use retromae::ops::segment_sum::{self, SegmentSum, Segments};
use retromae::ops::{embedding, group_by_key, rows};
use retromae_capi::*;

use super::dense::{dropout, rust_dropout};
use crate::common::{
    Case, Field, Memory, code, integers, matrix, matrix_mut, maybe, view, view_mut, workspace,
};
use crate::{case, fields, give_workspace, init};

pub fn cases(memory: fn() -> Memory) -> Vec<Case> {
    let mut all = Vec::new();
    for present in [false, true] {
        all.push(segment_sum_of::<f32, f32>(memory(), present));
        all.push(segment_sum_of::<bf16, f32>(memory(), present));
        all.push(segment_sum_of::<bf16, bf16>(memory(), present));
    }
    all.extend([gather::<f32>(memory()), gather::<bf16>(memory())]);
    all.extend([scatter_add::<f32>(memory()), scatter_add::<bf16>(memory())]);
    all.extend([1, 2, 3].map(|arrays| group_by_key_of(memory(), arrays)));
    for source in
        [RMAE_EMBEDDING_WORD, RMAE_EMBEDDING_CONTENT, RMAE_EMBEDDING_QUERY, RMAE_EMBEDDING_QUERY_POSITION]
    {
        all.extend([false, true].map(|backward| embedding_of::<f32>(memory(), source, backward)));
        all.extend([false, true].map(|backward| embedding_of::<bf16>(memory(), source, backward)));
    }
    all
}

const COLUMNS: usize = 24;

fn rust_segments(segments: rmae_segments) -> Segments<'static> {
    Segments {
        offsets: view(segments.offsets, segments.count as usize + 1),
        indices: maybe(segments.indices, |indices| view(indices, segments.indices_length as usize)),
        keys: maybe(segments.keys, |keys| view(keys, segments.count as usize)),
    }
}

/// With `present` indices and keys, enough of them to be summed in slices.
fn segment_sum_of<T: ModelFloat, O: ModelFloat>(mut memory: Memory, present: bool) -> Case {
    const ROWS: usize = 9;
    const OUTPUT_ROWS: usize = 6;
    let segments = if present {
        rmae_segments {
            offsets: memory.put(&[0, 3, 90, 90, 100]),
            indices: memory.put(&integers(1, 100, ROWS as u32)),
            keys: memory.put(&[5, 0, 1, 3]),
            count: 4,
            indices_length: 100,
        }
    } else {
        rmae_segments {
            offsets: memory.put(&[0, 3, 4, 4, 9]),
            indices: std::ptr::null(),
            keys: std::ptr::null(),
            count: 4,
            indices_length: 0,
        }
    };
    let mut desc = rmae_segment_sum_desc {
        dtype: code::<T>(),
        output_dtype: code::<O>(),
        rows: ROWS as i64,
        output_rows: OUTPUT_ROWS as i64,
        columns: COLUMNS as i64,
        input: memory.floats::<T>(2, ROWS * COLUMNS),
        segments,
        output: memory.floats::<O>(3, OUTPUT_ROWS * COLUMNS),
        ..init!(rmae_segment_sum_desc, RMAE_SEGMENT_SUM_VERSION)
    };
    give_workspace!(desc, memory, rmae_segment_sum_workspace);
    let fields = fields! { rmae_segment_sum_desc:
        Enum dtype, Enum output_dtype, Size rows, Size output_rows, Size columns, IN16 input, IN segments.offsets,
        MAYBE segments.indices, MAYBE segments.keys, Size segments.count, Size segments.indices_length, OUT16 output,
        WORKSPACE workspace, WorkspaceBytes workspace_bytes,
    };
    let name = format!("segment_sum {} {} {present}", T::DTYPE.name(), O::DTYPE.name());
    case!(name, rmae_segment_sum, rmae_segment_sum_workspace, desc, memory, fields, move |stream| {
        let arguments = SegmentSum::<T, O> {
            input: matrix(desc.input, [ROWS, COLUMNS], 0),
            segments: rust_segments(desc.segments),
            output: matrix_mut(desc.output, [OUTPUT_ROWS, COLUMNS], 0),
            workspace: workspace(desc.workspace, desc.workspace_bytes, false),
        };
        segment_sum::segment_sum(stream, arguments)
    })
}

const ROWS_LONG: usize = 9;
const ROWS_SHORT: usize = 5;

fn rows_desc<T: ModelFloat>(memory: &mut Memory, input: usize, output: usize) -> rmae_rows_desc {
    rmae_rows_desc {
        dtype: code::<T>(),
        input_rows: input as i64,
        output_rows: output as i64,
        columns: COLUMNS as i64,
        rows: memory.put(&[3, -1, 8, 9, 0]),
        input: memory.floats::<T>(1, input * COLUMNS),
        output: memory.floats::<T>(2, output * COLUMNS),
        ..init!(rmae_rows_desc, RMAE_ROWS_VERSION)
    }
}

fn rows_fields() -> Vec<Field> {
    fields! { rmae_rows_desc:
        Enum dtype, Size input_rows, Size output_rows, Size columns, IN rows, IN16 input, OUT16 output
    }
}

fn gather<T: ModelFloat>(mut memory: Memory) -> Case {
    let desc = rows_desc::<T>(&mut memory, ROWS_LONG, ROWS_SHORT);
    let name = format!("rows_gather {}", T::DTYPE.name());
    case!(name, rmae_rows_gather, desc, memory, rows_fields(), move |stream| {
        let arguments = rows::Gather::<T> {
            input: matrix(desc.input, [ROWS_LONG, COLUMNS], 0),
            rows: view(desc.rows, ROWS_SHORT),
            output: matrix_mut(desc.output, [ROWS_SHORT, COLUMNS], 0),
        };
        rows::gather(stream, arguments)
    })
}

fn scatter_add<T: ModelFloat>(mut memory: Memory) -> Case {
    let desc = rows_desc::<T>(&mut memory, ROWS_SHORT, ROWS_LONG);
    let name = format!("rows_scatter_add {}", T::DTYPE.name());
    case!(name, rmae_rows_scatter_add, desc, memory, rows_fields(), move |stream| {
        let arguments = rows::ScatterAdd::<T> {
            input: matrix(desc.input, [ROWS_SHORT, COLUMNS], 0),
            rows: view(desc.rows, ROWS_SHORT),
            output: matrix_mut(desc.output, [ROWS_LONG, COLUMNS], 0),
        };
        rows::scatter_add(stream, arguments)
    })
}

const GROUPED_ROWS: usize = 50;
/// Fewer and more keys than rows.
const KEY_COUNTS: [usize; 3] = [7, 300, 70_000];

fn group_by_key_of(mut memory: Memory, arrays: usize) -> Case {
    let mut desc = init!(rmae_group_by_key_desc, RMAE_GROUP_BY_KEY_VERSION);
    (desc.rows, desc.array_count) = (GROUPED_ROWS as i64, arrays as i64);
    let mut fields = fields! { rmae_group_by_key_desc:
        Size rows, Size array_count, WORKSPACE workspace, WorkspaceBytes workspace_bytes
    };
    for (index, array) in desc.arrays.iter_mut().enumerate().take(arrays) {
        let key_count = KEY_COUNTS[index];
        let segments = group_by_key::segments(GROUPED_ROWS, key_count);
        *array = rmae_keys {
            keys: memory.put(&integers(index as u64, GROUPED_ROWS, key_count as u32 + 1)),
            key_count: key_count as i64,
            segment_keys: memory.put(&vec![9; segments]),
            offsets: memory.put(&vec![9; segments + 1]),
            indices: memory.put(&[9; GROUPED_ROWS]),
        };
        let own = fields! { rmae_keys: IN keys, Size key_count, OUT segment_keys, OUT offsets, OUT indices };
        let first = offset_of!(rmae_group_by_key_desc, arrays) + index * size_of::<rmae_keys>();
        fields.extend(own.into_iter().map(|Field { name, offset, kind }: Field| Field {
            name: format!("arrays[{index}].{name}"),
            offset: first + offset,
            kind,
        }));
    }
    give_workspace!(desc, memory, rmae_group_by_key_workspace);
    let name = format!("group_by_key {arrays}");
    case!(name, rmae_group_by_key, rmae_group_by_key_workspace, desc, memory, fields, move |stream| {
        let keys = |(array, key_count): (&rmae_keys, &usize)| {
            let segments = group_by_key::segments(GROUPED_ROWS, *key_count);
            group_by_key::Keys {
                keys: view(array.keys, GROUPED_ROWS),
                key_count: *key_count,
                segment_keys: view_mut(array.segment_keys, segments),
                offsets: view_mut(array.offsets, segments + 1),
                indices: view_mut(array.indices, GROUPED_ROWS),
            }
        };
        let mut all: Vec<_> = desc.arrays.iter().zip(&KEY_COUNTS).take(arrays).map(keys).collect();
        let workspace = workspace(desc.workspace, desc.workspace_bytes, false);
        group_by_key::group_by_key(stream, group_by_key::GroupByKey { arrays: &mut all, workspace })
    })
}

const TOKENS: usize = 11;
const VOCABULARY: usize = 13;
const SENTENCES: usize = 3;
const POSITIONS: usize = 6;
const TYPES: usize = 2;
const POSITION_IDS: [i32; TOKENS] = [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1];
const SENTENCE_OF: [i32; TOKENS] = [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2];

/// Tokens by a key, computed on the host.
fn grouped(memory: &mut Memory, keys: &[i32]) -> rmae_segments {
    let mut distinct = keys.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let (mut offsets, mut indices) = (vec![0], Vec::new());
    for key in &distinct {
        indices.extend((0..keys.len() as i32).filter(|&token| keys[token as usize] == *key));
        offsets.push(indices.len() as i32);
    }
    rmae_segments {
        offsets: memory.put(&offsets),
        indices: memory.put(&indices),
        keys: memory.put(&distinct),
        count: distinct.len() as i64,
        indices_length: indices.len() as i64,
    }
}

fn embedding_desc<T: ModelFloat>(memory: &mut Memory, source: u32) -> (rmae_embedding_desc, Vec<Field>) {
    let mut desc = rmae_embedding_desc {
        dtype: code::<T>(),
        source: source as rmae_embedding_source,
        eps: 1e-6,
        tokens: TOKENS as i64,
        columns: COLUMNS as i64,
        max_positions: POSITIONS as i64,
        token_types: TYPES as i64,
        positions: memory.put(&POSITION_IDS),
        position_table: memory.floats::<T>(3, POSITIONS * COLUMNS),
        token_type_table: memory.floats::<T>(4, TYPES * COLUMNS),
        gamma: memory.floats::<f32>(5, COLUMNS).cast(),
        beta: memory.floats::<f32>(6, COLUMNS).cast(),
        mean: memory.floats::<f32>(7, TOKENS).cast(),
        rstd: memory.floats::<f32>(8, TOKENS).cast(),
        ..init!(rmae_embedding_desc, RMAE_EMBEDDING_VERSION)
    };
    let mut fields = fields! { rmae_embedding_desc:
        Enum dtype, Enum source, F32 eps, Size tokens, Size columns, Size max_positions, Size token_types,
        MAYBE dropout.rng, IN positions, IN16 position_table, IN16 token_type_table, IN16 gamma, IN16 beta,
    };
    if source != RMAE_EMBEDDING_QUERY_POSITION {
        desc.dropout = dropout(memory);
        fields.extend(fields! { rmae_embedding_desc: F32 dropout.rate, I32 dropout.site });
    }
    if has_words(source) {
        desc.vocab_size = VOCABULARY as i64;
        desc.ids = memory.put(&integers(1, TOKENS, VOCABULARY as u32));
        desc.word_table = memory.floats::<T>(1, VOCABULARY * COLUMNS);
        fields.extend(fields! { rmae_embedding_desc: Size vocab_size, IN ids, IN16 word_table });
    }
    if source != RMAE_EMBEDDING_WORD {
        desc.sentences = SENTENCES as i64;
        desc.sentence_indices = memory.put(&SENTENCE_OF);
        desc.sentence_vectors = memory.floats::<T>(2, SENTENCES * COLUMNS);
        fields.extend(fields! { rmae_embedding_desc:
            Size sentences, IN sentence_indices, IN16 sentence_vectors
        });
    }
    (desc, fields)
}

fn has_words(source: u32) -> bool {
    [RMAE_EMBEDDING_WORD, RMAE_EMBEDDING_CONTENT].contains(&source)
}

fn rust_embedding<T: ModelFloat>(desc: &rmae_embedding_desc) -> embedding::Embedding<'static, T> {
    let words = || embedding::Words {
        ids: view(desc.ids, TOKENS),
        table: matrix(desc.word_table, [VOCABULARY, COLUMNS], 0),
    };
    let sentences = || embedding::Sentences {
        indices: view(desc.sentence_indices, TOKENS),
        vectors: matrix(desc.sentence_vectors, [SENTENCES, COLUMNS], 0),
    };
    embedding::Embedding {
        source: match desc.source as u32 {
            RMAE_EMBEDDING_WORD => embedding::Source::Word(words()),
            RMAE_EMBEDDING_CONTENT => embedding::Source::Content(words(), sentences()),
            RMAE_EMBEDDING_QUERY => embedding::Source::Query(sentences()),
            _ => embedding::Source::QueryPosition(sentences()),
        },
        positions: view(desc.positions, TOKENS),
        position_table: matrix(desc.position_table, [POSITIONS, COLUMNS], 0),
        token_type_table: matrix(desc.token_type_table, [TYPES, COLUMNS], 0),
        gamma: view(desc.gamma, COLUMNS),
        beta: view(desc.beta, COLUMNS),
        eps: desc.eps,
        dropout: rust_dropout(desc.dropout),
    }
}

fn embedding_of<T: ModelFloat>(mut memory: Memory, source: u32, is_backward: bool) -> Case {
    let (mut desc, mut fields) = embedding_desc::<T>(&mut memory, source);
    let name = format!("embedding {source} {} {is_backward}", T::DTYPE.name());
    if !is_backward {
        desc.output = memory.floats::<T>(9, TOKENS * COLUMNS);
        fields.extend(fields! { rmae_embedding_desc: OUT16 output, OUT mean, OUT rstd });
        return case!(name, rmae_embedding_forward, desc, memory, fields, move |stream| {
            let forward = embedding::Forward::<T> {
                embedding: rust_embedding(&desc),
                output: matrix_mut(desc.output, [TOKENS, COLUMNS], 0),
                mean: view_mut(desc.mean, TOKENS),
                rstd: view_mut(desc.rstd, TOKENS),
            };
            embedding::forward(stream, forward)
        });
    }
    fields.extend(give_gradients::<T>(&mut memory, &mut desc, source));
    give_workspace!(desc, memory, rmae_embedding_workspace);
    case!(name, rmae_embedding_backward, rmae_embedding_workspace, desc, memory, fields, move |stream| {
        embedding::backward(stream, rust_backward::<T>(&desc))
    })
}

/// Adds the arrays of the backward pass; returns their fields.
fn give_gradients<T: ModelFloat>(
    memory: &mut Memory,
    desc: &mut rmae_embedding_desc,
    source: u32,
) -> Vec<Field> {
    let mut fields = fields! { rmae_embedding_desc:
        IN mean, IN rstd, IN16 d_output, OUT16 d_gamma, OUT16 d_beta, IN d_position.segments.offsets,
        MAYBE d_position.segments.indices, MAYBE d_position.segments.keys, Size d_position.segments.count,
        Size d_position.segments.indices_length, OUT16 d_position.d_table, WORKSPACE workspace,
        WorkspaceBytes workspace_bytes,
    };
    desc.d_output = memory.floats::<T>(10, TOKENS * COLUMNS);
    desc.d_gamma = memory.floats::<f32>(11, COLUMNS).cast();
    desc.d_beta = memory.floats::<f32>(12, COLUMNS).cast();
    desc.d_position = rmae_table_gradient {
        segments: grouped(memory, &POSITION_IDS),
        d_table: memory.floats::<f32>(13, POSITIONS * COLUMNS),
    };
    if has_words(source) {
        let ids = integers(1, TOKENS, VOCABULARY as u32);
        desc.d_word = rmae_table_gradient {
            segments: grouped(memory, &ids),
            d_table: memory.floats::<f32>(14, VOCABULARY * COLUMNS),
        };
        fields.extend(fields! { rmae_embedding_desc:
            IN d_word.segments.offsets, MAYBE d_word.segments.indices, MAYBE d_word.segments.keys,
            Size d_word.segments.count, Size d_word.segments.indices_length, OUT16 d_word.d_table,
        });
    }
    if source != RMAE_EMBEDDING_QUERY_POSITION {
        desc.d_token_type = memory.floats::<f32>(15, TYPES * COLUMNS).cast();
        fields.extend(fields! { rmae_embedding_desc: OUT16 d_token_type });
    }
    if source != RMAE_EMBEDDING_WORD {
        desc.d_sentences = rmae_table_gradient {
            segments: grouped(memory, &SENTENCE_OF),
            d_table: memory.floats::<T>(16, SENTENCES * COLUMNS),
        };
        desc.d_sentences_rows = SENTENCES as i64;
        fields.extend(fields! { rmae_embedding_desc:
            IN d_sentences.segments.offsets, MAYBE d_sentences.segments.indices, MAYBE d_sentences.segments.keys,
            Size d_sentences.segments.count, Size d_sentences.segments.indices_length, OUT16 d_sentences.d_table,
            Size d_sentences_rows,
        });
    }
    fields
}

fn rust_backward<T: ModelFloat>(desc: &rmae_embedding_desc) -> embedding::Backward<'static, T> {
    let words = has_words(desc.source as u32).then(|| embedding::TableGradient {
        segments: rust_segments(desc.d_word.segments),
        d_table: matrix_mut(desc.d_word.d_table, [VOCABULARY, COLUMNS], 0),
    });
    let sentences = maybe(desc.d_sentences.d_table, |_| embedding::TableGradient {
        segments: rust_segments(desc.d_sentences.segments),
        d_table: matrix_mut(desc.d_sentences.d_table, [SENTENCES, COLUMNS], 0),
    });
    embedding::Backward {
        embedding: rust_embedding(desc),
        mean: view(desc.mean, TOKENS),
        rstd: view(desc.rstd, TOKENS),
        d_output: matrix(desc.d_output, [TOKENS, COLUMNS], 0),
        d_gamma: view_mut(desc.d_gamma, COLUMNS),
        d_beta: view_mut(desc.d_beta, COLUMNS),
        position: embedding::TableGradient {
            segments: rust_segments(desc.d_position.segments),
            d_table: matrix_mut(desc.d_position.d_table, [POSITIONS, COLUMNS], 0),
        },
        tables: embedding::TableGradients {
            word: words,
            token_type: maybe(desc.d_token_type.cast_const(), |_| {
                matrix_mut(desc.d_token_type.cast(), [TYPES, COLUMNS], 0)
            }),
            sentences,
        },
        workspace: workspace(desc.workspace, desc.workspace_bytes, false),
    }
}
