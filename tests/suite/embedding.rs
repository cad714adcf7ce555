//! The embeddings of tokens, content and query against the f64 reference.

use crate::common::{assert_close, devices, integers, rounded, values, widened};
use retromae::device::{Buffer, Device, ModelFloat, bf16};
use retromae::ops::embedding::{self, Embedding, Sentences, Source, Words};
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
/// Initial value of the gradients of gamma and beta, which are added to.
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
        let ends = lengths.iter().scan(0, |sum, &length| {
            *sum += length as i32;
            Some(*sum)
        });
        let table = |seed, rows: usize| rounded::<T>(&values(seed, rows * columns));
        let gamma: Vec<f64> = values(5, columns).iter().map(|value| value + 1.0).collect();
        let sentence = |(index, &length): (usize, &usize)| vec![index as i32; length];
        Self {
            cu_seqlens: std::iter::once(0).chain(ends).collect(),
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

/// Output, gradients of gamma and beta, and the tables' gradients, which are sums of rows of `d_sum`.
type Results = [Vec<f64>; 6];
const NAMES: [&str; 6] = ["output", "d_gamma", "d_beta", "d_word", "d_position", "d_sentence"];

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
        gradients.word,
        gradients.position,
        gradients.sentence,
    ]
}

/// Adds the rows of `d_sum` to the gradients of the tables. The raw rows of content add `d_output` to the sentence's gradient.
fn scatter<T: ModelFloat>(
    mode: EmbeddingMode,
    data: &Data<T>,
    d_sum: &[f64],
    columns: usize,
) -> [Vec<f64>; 3] {
    let mut gradients = [&data.word, &data.position, &data.vectors].map(|table| vec![0.0; table.len()]);
    let mut add = |table: usize, row: i32, token: usize, source: &dyn Fn(usize) -> f64| {
        for c in 0..columns {
            gradients[table][row as usize * columns + c] += source(token * columns + c);
        }
    };
    for token in 0..data.positions.len() {
        let d = |i: usize| d_sum[i];
        add(1, data.positions[token], token, &d);
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
    let [d_word, d_position, d_sentence] = scatter(mode, data, &d_sum, columns);
    let [d_gamma, d_beta] = sums.map(|sum| sum.into_iter().map(f64::from).collect());
    [output, d_gamma, d_beta, d_word, d_position, d_sentence]
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
    let [mut output, mut d_sum] = [0, 1].map(|_| device.zeros::<T>(tokens * columns).unwrap());
    let [mut mean, mut rstd] = [0, 1].map(|_| device.zeros::<f32>(tokens).unwrap());
    let forward = embedding::Forward {
        embedding,
        output: output.matrix_mut(tokens, columns).unwrap(),
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
    };
    embedding::forward(&stream, forward).unwrap();
    let before = vec![BEFORE as f32; columns];
    let [mut d_gamma, mut d_beta] = [0, 1].map(|_| device.upload(&before).unwrap());
    let mut workspace = embedding::workspace(tokens, columns).allocate(device).unwrap();
    let backward = embedding::Backward {
        embedding,
        mean: mean.view(),
        rstd: rstd.view(),
        d_output: d_output.matrix(tokens, columns).unwrap(),
        d_sum: d_sum.matrix_mut(tokens, columns).unwrap(),
        d_gamma: d_gamma.view_mut(),
        d_beta: d_beta.view_mut(),
        workspace: workspace.view_mut(),
    };
    embedding::backward(&stream, backward).unwrap();
    let wide = |buffer: &Buffer<T>| widened(&buffer.read().unwrap());
    let wide_f32 = |buffer: &Buffer<f32>| widened(&buffer.read().unwrap());
    let [d_word, d_position, d_sentence] = scatter(mode, data, &wide(&d_sum), columns);
    [wide(&output), wide_f32(&d_gamma), wide_f32(&d_beta), d_word, d_position, d_sentence]
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
