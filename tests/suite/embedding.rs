//! The embeddings of tokens, content and query against the f64 reference.

use crate::cases::embedding::Groups;
use crate::common::{assert_close, devices, integers, prefix_sums, rounded, values, widened};
use retromae::device::{Buffer, DType, Device, MatrixMut, ModelFloat, ViewMut, bf16};
use retromae::ops::embedding::{self, Embedding, Sentences, Source, TableGradient, TableGradients, Words};
use retromae::ops::segment_sum::Segments;
use retromae::ops::{Dropout as Site, rng_state};
use retromae::random::Dropout;
use retromae::reference::embedding as reference;
use retromae::reference::embedding::EmbeddingMode;

const MODES: [EmbeddingMode; 4] = [
    EmbeddingMode::Word,
    EmbeddingMode::Content,
    EmbeddingMode::QueryEmbedding,
    EmbeddingMode::QueryPosition,
];
const SITE: u32 = 9;
const EPS: f32 = 1e-12;
const VOCABULARY: usize = 50;
/// Initial value of all gradients, which are added to.
const BEFORE: f64 = 0.5;

struct Data<T> {
    cu_seqlens: Vec<i32>,
    positions: Vec<i32>,
    sentences: Vec<i32>,
    ids: Vec<i32>,
    word: Vec<T>,
    position: Vec<T>,
    token_type: Vec<T>,
    vectors: Vec<T>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    d_output: Vec<T>,
}

impl<T: ModelFloat> Data<T> {
    fn new(lengths: &[usize], columns: usize) -> Self {
        let tokens: usize = lengths.iter().sum();
        let table = |seed, rows: usize| rounded::<T>(&values(seed, rows * columns));
        let gamma: Vec<f64> = values(5, columns).iter().map(|value| value + 1.0).collect();
        let sentence = |(index, &length): (usize, &usize)| vec![index as i32; length];
        Self {
            cu_seqlens: prefix_sums(lengths),
            positions: lengths.iter().flat_map(|&length| 0..length as i32).collect(),
            sentences: lengths.iter().enumerate().flat_map(sentence).collect(),
            ids: integers(1, tokens, VOCABULARY as u32),
            word: table(2, VOCABULARY),
            position: table(3, lengths.iter().copied().max().unwrap_or(0).max(1)),
            token_type: table(4, 2),
            vectors: table(8, lengths.len()),
            gamma: rounded(&gamma),
            beta: rounded(&values(6, columns)),
            d_output: table(7, tokens),
        }
    }
}

/// Output, gradients of gamma and beta, and those of the tables.
type Results = [Vec<f64>; 7];
const NAMES: [&str; 7] =
    ["output", "d_gamma", "d_beta", "d_word", "d_position", "d_sentence", "d_token_type"];

fn exact<T: ModelFloat>(mode: EmbeddingMode, dropout: Option<&Dropout>, data: &Data<T>) -> Results {
    let tables = [&data.word, &data.position, &data.token_type, &data.vectors].map(|table| widened(table));
    let (gamma, beta) = (widened(&data.gamma), widened(&data.beta));
    let embedding = reference::Embedding {
        mode,
        cu_seqlens: &data.cu_seqlens,
        ids: &data.ids,
        word: &tables[0],
        position: &tables[1],
        token_type: &tables[2],
        gamma: &gamma,
        beta: &beta,
        eps: f64::from(EPS),
        sentence: &tables[3],
        dropout,
    };
    let gradients = reference::backward(&embedding, &widened(&data.d_output));
    let before = |gradient: Vec<f64>| gradient.iter().map(|g| g + BEFORE).collect();
    [
        reference::forward(&embedding),
        before(gradients.gamma),
        before(gradients.beta),
        before(gradients.word),
        before(gradients.position),
        before(gradients.sentence),
        before(gradients.token_type),
    ]
}

/// Adds the rows of `d_sum` to the gradients of the tables. The raw rows of content add `d_output` to the sentence's gradient.
fn scatter<T: ModelFloat>(
    mode: EmbeddingMode,
    data: &Data<T>,
    d_sum: &[f64],
    columns: usize,
) -> [Vec<f64>; 4] {
    let tables = [&data.word, &data.position, &data.vectors, &data.token_type];
    let mut gradients = tables.map(|table| vec![BEFORE; table.len()]);
    let mut add = |table: usize, row: i32, token: usize, source: &dyn Fn(usize) -> f64| {
        for c in 0..columns {
            gradients[table][row as usize * columns + c] += source(token * columns + c);
        }
    };
    for token in 0..data.positions.len() {
        let d = |i: usize| d_sum[i];
        add(1, data.positions[token], token, &d);
        if mode != EmbeddingMode::QueryPosition {
            add(3, 0, token, &d);
        }
        if matches!(mode, EmbeddingMode::Word | EmbeddingMode::Content) {
            add(0, data.ids[token], token, &d);
        } else {
            add(2, data.sentences[token], token, &d);
        }
        if mode == EmbeddingMode::Content && data.positions[token] == 0 {
            add(2, data.sentences[token], token, &|i| f64::from(data.d_output[i].to_f32()));
        }
    }
    gradients
}

/// The naive composition: each step in f32, rounded to `T` where a framework would store it.
fn naive<T: ModelFloat>(
    mode: EmbeddingMode,
    dropout: Option<&Dropout>,
    data: &Data<T>,
    columns: usize,
) -> Results {
    let round = |value: f32| T::from_f32(value).to_f32();
    let (mut output, mut d_sum) = (Vec::new(), Vec::new());
    let mut sums = [vec![BEFORE as f32; columns], vec![BEFORE as f32; columns]];
    for token in 0..data.positions.len() {
        let (position, n) = (data.positions[token] as usize, columns as f32);
        let raw = mode == EmbeddingMode::Content && position == 0;
        let words = matches!(mode, EmbeddingMode::Word | EmbeddingMode::Content) && !raw;
        let (table, row) =
            if words { (&data.word, data.ids[token]) } else { (&data.vectors, data.sentences[token]) };
        let d_output: Vec<f32> =
            data.d_output[token * columns..][..columns].iter().map(|d| d.to_f32()).collect();
        let content = |c: usize| table[row as usize * columns + c].to_f32();
        if raw {
            output.extend((0..columns).map(|c| f64::from(content(c))));
            d_sum.extend(vec![0.0; columns]);
            continue;
        }
        let mut sum: Vec<f32> = (0..columns)
            .map(|c| round(content(c) + data.position[position * columns + c].to_f32()))
            .collect();
        if mode == EmbeddingMode::QueryPosition {
            output.extend(sum.iter().map(|&x| f64::from(x)));
            d_sum.extend(d_output.iter().map(|&d| f64::from(d)));
            continue;
        }
        sum.iter_mut().zip(&data.token_type).for_each(|(x, t)| *x = round(*x + t.to_f32()));
        let mean = sum.iter().sum::<f32>() / n;
        let variance = sum.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let rstd = 1.0 / (variance + EPS).sqrt();
        let factor = |c: usize| dropout.map_or(1.0, |d| d.factor(0, token as u32, c as u32));
        let normalized: Vec<f32> = sum.iter().map(|x| (x - mean) * rstd).collect();
        let d: Vec<f32> = (0..columns).map(|c| round(d_output[c] * factor(c))).collect();
        let g: Vec<f32> = (0..columns).map(|c| d[c] * data.gamma[c]).collect();
        let g_mean = g.iter().sum::<f32>() / n;
        let projection = g.iter().zip(&normalized).map(|(g, x)| g * x).sum::<f32>() / n;
        for c in 0..columns {
            let normal = round(data.gamma[c] * normalized[c] + data.beta[c]);
            output.push(f64::from(round(normal * factor(c))));
            d_sum.push(f64::from(round(rstd * (g[c] - g_mean - normalized[c] * projection))));
            sums[0][c] += d[c] * normalized[c];
            sums[1][c] += d[c];
        }
    }
    let [d_word, d_position, d_sentence, d_token_type] = scatter(mode, data, &d_sum, columns);
    let [d_gamma, d_beta] = sums.map(|sum| sum.into_iter().map(f64::from).collect());
    [output, d_gamma, d_beta, d_word, d_position, d_sentence, d_token_type]
}

fn run<T: ModelFloat>(
    device: &Device,
    mode: EmbeddingMode,
    rate: f32,
    data: &Data<T>,
    columns: usize,
) -> Results {
    let (stream, tokens) = (device.stream(), data.positions.len());
    let [ids, positions, indices] =
        [&data.ids, &data.positions, &data.sentences].map(|array| device.upload(array).unwrap());
    let [word, position, token_type, vectors, d_output] =
        [&data.word, &data.position, &data.token_type, &data.vectors, &data.d_output]
            .map(|array| device.upload(array).unwrap());
    let [gamma, beta] = [&data.gamma, &data.beta].map(|array| device.upload(array).unwrap());
    let rng = device.upload(&rng_state(11, 3)).unwrap();
    let words = Words { ids: ids.view(), table: word.view().rows_of(columns).unwrap() };
    let sentences = Sentences { indices: indices.view(), vectors: vectors.view().rows_of(columns).unwrap() };
    let embedding = Embedding {
        source: match mode {
            EmbeddingMode::Word => Source::Word(words),
            EmbeddingMode::Content => Source::Content(words, sentences),
            EmbeddingMode::QueryEmbedding => Source::Query(sentences),
            EmbeddingMode::QueryPosition => Source::QueryPosition(sentences),
        },
        positions: positions.view(),
        position_table: position.view().rows_of(columns).unwrap(),
        token_type_table: token_type.view().rows_of(columns).unwrap(),
        gamma: gamma.view(),
        beta: beta.view(),
        eps: EPS,
        dropout: (rate > 0.0).then(|| Site { rng: rng.view(), rate, site: SITE }),
    };
    let mut output = device.zeros::<T>(tokens * columns).unwrap();
    let [mut mean, mut rstd] = [0, 1].map(|_| device.zeros::<f32>(tokens).unwrap());
    let forward = embedding::Forward {
        embedding,
        output: output.matrix_mut(tokens, columns).unwrap(),
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
    };
    embedding::forward(&stream, forward).unwrap();
    let gradients = backward(device, data, &Backward { embedding, mean, rstd, d_output });
    let [d_gamma, d_beta, d_word, d_position, d_sentence, d_token_type] = gradients;
    [widened(&output.read().unwrap()), d_gamma, d_beta, d_word, d_position, d_sentence, d_token_type]
}

/// Inputs of the backward pass, from the forward pass.
struct Backward<'a, T: ModelFloat> {
    embedding: Embedding<'a, T>,
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
    d_output: Buffer<T>,
}

/// The gradients of gamma, beta, words, positions, sentence vectors and token types.
fn backward<T: ModelFloat>(device: &Device, data: &Data<T>, saved: &Backward<'_, T>) -> [Vec<f64>; 6] {
    let (stream, tokens, columns) = (device.stream(), data.positions.len(), data.gamma.len());
    let source = saved.embedding.source;
    let before = |count: usize| device.upload(&vec![BEFORE as f32; count]).unwrap();
    let [mut d_gamma, mut d_beta] = [columns; 2].map(before);
    let [mut d_word, mut d_position, mut d_token_type] =
        [&data.word, &data.position, &data.token_type].map(|table| before(table.len()));
    let mut d_vectors = device.upload(&vec![T::from_f32(BEFORE as f32); data.vectors.len()]).unwrap();
    let sentences = data.cu_seqlens.len() - 1;
    let [cu_seqlens, first_rows, single] =
        [&data.cu_seqlens, &data.cu_seqlens[..sentences].to_vec(), &(0..=sentences as i32).collect()]
            .map(|array: &Vec<i32>| device.upload(array).unwrap());
    let mut words = Groups::new(device, &data.ids, VOCABULARY).unwrap();
    let mut positions = Groups::new(device, &data.positions, data.position.len() / columns).unwrap();
    let mut workspace = embedding::workspace(T::DTYPE, tokens, columns).allocate(device).unwrap();
    let word = TableGradient {
        segments: words.group(&stream).unwrap(),
        d_table: d_word.matrix_mut(VOCABULARY, columns).unwrap(),
    };
    let d_vectors_view = d_vectors.matrix_mut(sentences, columns).unwrap();
    let first = Segments { indices: Some(first_rows.view()), ..Segments::consecutive(single.view()) };
    let all = Segments::consecutive(cu_seqlens.view());
    let types = d_token_type.matrix_mut(2, columns).unwrap();
    let none = TableGradients::default();
    let tables = match source {
        Source::Word(_) => TableGradients { word: Some(word), token_type: Some(types), ..none },
        Source::Content(..) => {
            let sentences = Some(TableGradient { segments: first, d_table: d_vectors_view });
            TableGradients { word: Some(word), token_type: Some(types), sentences }
        }
        Source::Query(_) => {
            let sentences = Some(TableGradient { segments: all, d_table: d_vectors_view });
            TableGradients { token_type: Some(types), sentences, ..none }
        }
        Source::QueryPosition(_) => {
            let sentences = Some(TableGradient { segments: all, d_table: d_vectors_view });
            TableGradients { sentences, ..none }
        }
    };
    let arguments = embedding::Backward {
        embedding: saved.embedding,
        mean: saved.mean.view(),
        rstd: saved.rstd.view(),
        d_output: saved.d_output.matrix(tokens, columns).unwrap(),
        d_gamma: d_gamma.view_mut(),
        d_beta: d_beta.view_mut(),
        position: TableGradient {
            segments: positions.group(&stream).unwrap(),
            d_table: d_position.view_mut().rows_of(columns).unwrap(),
        },
        tables,
        workspace: workspace.view_mut(),
    };
    embedding::backward(&stream, arguments).unwrap();
    let read = |buffer: &Buffer<f32>| widened(&buffer.read().unwrap());
    let d_vectors = widened(&d_vectors.read().unwrap());
    [read(&d_gamma), read(&d_beta), read(&d_word), read(&d_position), d_vectors, read(&d_token_type)]
}

fn check<T: ModelFloat>(devices: &[Device], lengths: &[usize], columns: usize, rate: f32) {
    let data = Data::<T>::new(lengths, columns);
    let dropout = (rate > 0.0).then(|| Dropout::new(rate, 11, 3, SITE));
    for mode in MODES {
        let exact = exact(mode, dropout.as_ref(), &data);
        let naive = naive(mode, dropout.as_ref(), &data, columns);
        for device in devices {
            let actual = run(device, mode, rate, &data, columns);
            for (i, name) in NAMES.iter().enumerate() {
                let what = format!("{name} of {mode:?} {lengths:?} × {columns}, rate {rate}");
                assert_close::<T>(&what, &actual[i], &naive[i], &exact[i]);
            }
        }
    }
}

#[test]
fn matches_the_reference() {
    let devices = devices();
    let packs: [(&[usize], usize); 7] = [
        (&[], 16),
        (&[1], 8),
        (&[1, 1], 16),
        (&[17, 2, 33], 128),
        (&[129, 1, 5], 32),
        (&[3, 30], 768),
        (&[2, 3], 1000),
    ];
    for (lengths, columns) in packs {
        for rate in [0.0, 0.1] {
            check::<f32>(&devices, lengths, columns, rate);
            check::<bf16>(&devices, lengths, columns, rate);
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let device = &devices()[0];
    let floats = device.zeros::<f32>(4096).unwrap();
    let integers = device.zeros::<i32>(8).unwrap();
    let refuse = |columns: usize, ids: usize, positions: usize, position: [usize; 2], gamma: usize| {
        let mut outputs = device.zeros::<f32>(2 * columns).unwrap();
        let [mut mean, mut rstd] = [0, 1].map(|_| device.zeros::<f32>(2).unwrap());
        let words =
            Words { ids: integers.slice(0..ids), table: floats.slice(0..columns).rows_of(columns).unwrap() };
        let embedding = Embedding {
            source: Source::Word(words),
            positions: integers.slice(0..positions),
            position_table: floats
                .slice(0..position[0] * position[1])
                .matrix(position[0], position[1])
                .unwrap(),
            token_type_table: floats.slice(0..columns).rows_of(columns).unwrap(),
            gamma: floats.slice(0..gamma),
            beta: floats.slice(0..columns),
            eps: EPS,
            dropout: None,
        };
        let (mean, rstd) = (mean.view_mut(), rstd.view_mut());
        let arguments =
            embedding::Forward { embedding, output: outputs.matrix_mut(2, columns).unwrap(), mean, rstd };
        embedding::forward(&device.stream(), arguments).unwrap_err().to_string()
    };
    assert_eq!(
        refuse(12, 2, 2, [1, 12], 12),
        "output is [2, 12]; it should be of a positive multiple of 8 columns"
    );
    assert_eq!(
        refuse(1032, 2, 2, [1, 1032], 1032),
        "output is [2, 1032]; it should be of at most 1024 columns"
    );
    assert_eq!(refuse(16, 2, 2, [1, 16], 8), "gamma is 8 elements long; it should be 16 (columns)");
    assert_eq!(refuse(16, 1, 2, [1, 16], 16), "ids is 1 elements long; it should be 2 (tokens)");
    assert_eq!(refuse(16, 2, 3, [1, 16], 16), "positions is 3 elements long; it should be 2 (tokens)");
    assert_eq!(
        refuse(16, 2, 2, [3, 8], 16),
        "position_table is [3, 8]; it should be [3, 16] (rows, columns)"
    );
    assert_eq!(refuse(16, 2, 2, [0, 16], 16), "position_table is empty; it should be of at least one row");
}

/// Sources with rows of the gradients of words, types and sentence vectors that they refuse, and the error.
fn wrong_tables<'a>(
    words: Words<'a, f32>,
    sentences: Sentences<'a, f32>,
) -> Vec<(Source<'a, f32>, [Option<usize>; 3], String)> {
    let (word, content) = (Source::Word(words), Source::Content(words, sentences));
    let (query, position) = (Source::Query(sentences), Source::QueryPosition(sentences));
    let missing =
        |name: &str| format!("{name} is absent; it should be present, as the source reads the table");
    let extra =
        |name: &str| format!("{name} is present; it should be absent, as the source does not read it");
    let [words, types, vectors] = ["tables.word", "tables.token_type", "tables.sentences"];
    vec![
        (word, [None, Some(2), None], missing(words)),
        (word, [Some(1), None, None], missing(types)),
        (word, [Some(1), Some(2), Some(1)], extra(vectors)),
        (content, [None, Some(2), Some(1)], missing(words)),
        (content, [Some(1), None, Some(1)], missing(types)),
        (content, [Some(1), Some(2), None], missing(vectors)),
        (query, [Some(1), Some(2), Some(1)], extra(words)),
        (query, [None, None, Some(1)], missing(types)),
        (query, [None, Some(2), None], missing(vectors)),
        (position, [Some(1), None, Some(1)], extra(words)),
        (position, [None, Some(2), Some(1)], extra(types)),
        (position, [None, None, None], missing(vectors)),
        (
            word,
            [Some(2), Some(2), None],
            "tables.word.d_table is [2, 16]; it should be [1, 16] (as the word table)".into(),
        ),
        (
            word,
            [Some(1), Some(1), None],
            "tables.token_type is [1, 16]; it should be [2, 16] (as token_type_table)".into(),
        ),
    ]
}

/// Each table's gradient is given exactly if the source reads the table.
#[test]
fn gradients_of_other_tables_are_refused() {
    const COLUMNS: usize = 16;
    let device = &devices()[0];
    let floats = device.zeros::<f32>(4 * COLUMNS).unwrap();
    let indices = device.zeros::<i32>(2).unwrap();
    let offsets = device.upload(&[0, 2]).unwrap();
    let table = |rows: usize| floats.slice(0..rows * COLUMNS).rows_of(COLUMNS).unwrap();
    let words = Words { ids: indices.view(), table: table(1) };
    let sentences = Sentences { indices: indices.view(), vectors: table(1) };
    // Rows of the gradients of words, types, sentence vectors and positions.
    let refuse = |source, rows: [Option<usize>; 3], position_rows: usize, bytes: usize| {
        let embedding = Embedding {
            source,
            positions: indices.view(),
            position_table: table(1),
            token_type_table: table(2),
            gamma: floats.slice(0..COLUMNS),
            beta: floats.slice(0..COLUMNS),
            eps: EPS,
            dropout: None,
        };
        let [mut d_gamma, mut d_beta] = [0, 1].map(|_| device.zeros::<f32>(COLUMNS).unwrap());
        let mut buffers = [0; 4].map(|_| device.zeros::<f32>(4 * COLUMNS).unwrap());
        let [d_word, d_type, d_sentences, d_position] = buffers.each_mut().map(Buffer::view_mut);
        let segments = Segments::consecutive(offsets.view());
        let mut workspace = device.zeros::<u8>(bytes).unwrap();
        let arguments = embedding::Backward {
            embedding,
            mean: floats.slice(0..2),
            rstd: floats.slice(0..2),
            d_output: table(2),
            d_gamma: d_gamma.view_mut(),
            d_beta: d_beta.view_mut(),
            position: TableGradient { segments, d_table: cut(d_position, position_rows) },
            tables: TableGradients {
                word: rows[0].map(|rows| TableGradient { segments, d_table: cut(d_word, rows) }),
                token_type: rows[1].map(|rows| cut(d_type, rows)),
                sentences: rows[2].map(|rows| TableGradient { segments, d_table: cut(d_sentences, rows) }),
            },
            workspace: workspace.view_mut(),
        };
        embedding::backward(&device.stream(), arguments).unwrap_err().to_string()
    };
    let bytes = embedding::workspace(DType::F32, 2, COLUMNS).bytes();
    let word = Source::Word(words);
    for (source, rows, expected) in wrong_tables(words, sentences) {
        assert_eq!(refuse(source, rows, 1, bytes), expected);
    }
    let rows = [Some(1), Some(2), None];
    assert_eq!(
        refuse(word, rows, 2, bytes),
        "position.d_table is [2, 16]; it should be [1, 16] (as position_table)"
    );
    let small = refuse(word, rows, 1, bytes - 1);
    assert_eq!(small, format!("workspace is {} bytes long; it should be at least {bytes} bytes", bytes - 1));
}

/// The first rows of a buffer.
fn cut(view: ViewMut<'_, f32>, rows: usize) -> MatrixMut<'_, f32> {
    view.slice(0..rows * 16).rows_of(16).unwrap()
}

#[test]
fn the_workspace_never_shrinks() {
    let needs = |tokens| embedding::workspace(DType::Bf16, tokens, 64);
    assert!((0..2000).all(|tokens| needs(tokens) <= needs(tokens + 1)));
    assert!(needs(100) < embedding::workspace(DType::F32, 100, 64));
}
