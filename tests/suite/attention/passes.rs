//! Attention computed three times: by the f64 reference, by the naive composition in the operands' precision, and by the kernels.

use retromae::device::{Buffer, DType, Device, Float, Stream};
use retromae::ops::attention::{self, BackwardOptions, Queries};
use retromae::ops::{Dropout, Packed, Result};
use retromae::random;
use retromae::reference::attention as reference;

use super::cases::{Case, SITE, Uploaded, Variant};
use crate::cases::attention::Inputs;
use crate::common::{assert_close, assert_close_to_scale, prefix_sums, widened};

/// Initial value of results: no attention computes it, and unlike NaN it is never an expected result.
const STALE: f32 = 777.0;

#[derive(Clone, Default, Debug)]
pub struct Results {
    pub output: Vec<f64>,
    pub log_sum_exp: Vec<f64>,
    pub gradients: [Vec<f64>; 3],
    /// Largest sum of the magnitudes of a gradient's terms: if one key has all the weight, dP and δ cancel.
    pub magnitudes: [f64; 3],
}

/// Calls `compute` with the reference's description of the case.
fn described<R>(case: &Case, compute: impl FnOnce(&reference::Attention<'_>) -> R) -> R {
    let (cu_seqlens, visibility, dropout) = (case.cu_seqlens(), case.visibility(), case.drops());
    let (query_cu_seqlens, positions) = (prefix_sums(&case.query_lengths()), case.positions());
    compute(&reference::Attention {
        cu_seqlens: &cu_seqlens,
        queries: Some(reference::Queries { cu_seqlens: &query_cu_seqlens, positions: Some(&positions) }),
        num_heads: case.heads,
        head_dim: case.head_dim,
        scale: f64::from(case.scale),
        mask: visibility.mask(case.kind),
        dropout: (case.dropout > 0.0).then_some(&dropout),
    })
}

pub fn exact<T: Float>(case: &Case, operands: &Inputs<T>) -> Results {
    let Inputs { query, key, value, d_output } = operands;
    let [query, key, value, d_output] = [query, key, value, d_output].map(|values| widened(values));
    described(case, |attention| {
        let reference::Output { output, log_sum_exp } = reference::forward(attention, &query, &key, &value);
        let (d_query, d_key, d_value) = reference::backward(attention, &query, &key, &value, &d_output);
        Results { output, log_sum_exp, gradients: [d_query, d_key, d_value], ..Results::default() }
    })
}

/// The naive composition, every matmul, softmax and gradient stored in `T`.
pub fn naive<T: Float>(case: &Case, operands: &Inputs<T>) -> Results {
    described(case, |attention| {
        let mut naive = Naive::<T>::new(case, operands);
        let bounds = prefix_sums(&case.query_lengths());
        let positions = case.positions();
        for sentence in 0..case.lengths.len() {
            let start = attention.cu_seqlens[sentence] as usize;
            let queries = bounds[sentence] as usize..bounds[sentence + 1] as usize;
            for (query, position) in queries.clone().zip(&positions[queries]) {
                let position = *position as usize;
                let keys: Vec<usize> = (0..case.lengths[sentence])
                    .filter(|&key| attention.sees(sentence, position, key))
                    .collect();
                for head in 0..case.heads {
                    naive.row(head, query, start, position, &keys);
                }
            }
        }
        naive.finish()
    })
}

struct Naive<'a, T> {
    case: &'a Case,
    operands: &'a Inputs<T>,
    dropout: random::Dropout,
    results: Results,
    gradients: [Vec<f32>; 3],
    magnitudes: [Vec<f32>; 3],
}

impl<'a, T: Float> Naive<'a, T> {
    fn new(case: &'a Case, operands: &'a Inputs<T>) -> Self {
        let gradients =
            [&operands.query, &operands.key, &operands.value].map(|values| vec![0.0; values.len()]);
        let results = Results {
            output: vec![0.0; operands.query.len()],
            log_sum_exp: vec![f64::NEG_INFINITY; case.heads * case.query_tokens()],
            ..Results::default()
        };
        Self { case, operands, dropout: case.drops(), results, magnitudes: gradients.clone(), gradients }
    }

    /// Computes one query of one head, which sees the positions `keys` of the sentence that begins at token `start`.
    fn row(&mut self, head: usize, query: usize, start: usize, position: usize, keys: &[usize]) {
        let (case, operands) = (self.case, self.operands);
        let round = |value: f32| T::from_f32(value).to_f32();
        let (d, columns) = (case.head_dim, case.columns());
        let own = query * columns + head * d;
        let at = |position: usize| (start + position) * columns + head * d;
        let dot = |left: &[T], i: usize, right: &[T], j: usize| -> f32 {
            (0..d).map(|k| left[i + k].to_f32() * right[j + k].to_f32()).sum()
        };
        let scores: Vec<f32> = keys
            .iter()
            .map(|&j| round(round(dot(&operands.query, own, &operands.key, at(j))) * case.scale))
            .collect();
        let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = scores.iter().map(|score| (score - maximum).exp()).sum();
        self.results.log_sum_exp[head * case.query_tokens() + query] = f64::from(maximum + sum.ln());
        let probability: Vec<f32> = scores.iter().map(|score| round((score - maximum).exp() / sum)).collect();
        let factors: Vec<f32> = keys
            .iter()
            .map(|&j| self.dropout.factor(head as u32, (start + position) as u32, j as u32))
            .collect();
        let dropped: Vec<f32> =
            probability.iter().zip(&factors).map(|(p, factor)| round(p * factor)).collect();
        for k in 0..d {
            let terms = keys.iter().zip(&dropped);
            let sum: f32 = terms.map(|(&j, p)| p * operands.value[at(j) + k].to_f32()).sum();
            self.results.output[own + k] = f64::from(round(sum));
        }
        // As in every fused kernel: rowsum(dO ∘ O), whose rounding does not cancel against dP's if one key has all the weight, while the rowsum(P ∘
        // dP) of an unfused softmax would.
        let delta: f32 =
            (0..d).map(|k| operands.d_output[own + k].to_f32() * self.results.output[own + k] as f32).sum();
        for (i, &j) in keys.iter().enumerate() {
            let p = probability[i];
            let dp = round(round(dot(&operands.d_output, own, &operands.value, at(j))) * factors[i]);
            let d_score = round(round(p * (dp - delta)) * case.scale);
            let magnitude = p * (dp.abs() + delta.abs()) * case.scale;
            for k in 0..d {
                let [query, key, d_output] =
                    [&operands.query[own + k], &operands.key[at(j) + k], &operands.d_output[own + k]]
                        .map(|value| value.to_f32());
                self.gradients[0][own + k] += d_score * key;
                self.gradients[1][at(j) + k] += d_score * query;
                self.gradients[2][at(j) + k] += dropped[i] * d_output;
                self.magnitudes[0][own + k] += magnitude * key.abs();
                self.magnitudes[1][at(j) + k] += magnitude * query.abs();
                self.magnitudes[2][at(j) + k] += dropped[i] * d_output.abs();
            }
        }
    }

    fn finish(self) -> Results {
        let round = |value: f32| f64::from(T::from_f32(value).to_f32());
        Results {
            magnitudes: self.magnitudes.map(|sums| f64::from(sums.into_iter().fold(0.0, f32::max))),
            gradients: self.gradients.map(|gradient| gradient.into_iter().map(round).collect()),
            ..self.results
        }
    }
}

impl Uploaded {
    fn attention(&self, case: &Case) -> attention::Attention<'_> {
        let longest = |lengths: Vec<usize>| lengths.into_iter().max().unwrap_or(0);
        let batch = Packed {
            cu_seqlens: self.cu_seqlens.view(),
            tokens: case.tokens(),
            max_seqlen: longest(case.lengths.clone()),
        };
        let queries = case.queries.as_ref().map(|_| Queries {
            packed: Packed {
                cu_seqlens: self.query_cu_seqlens.view(),
                tokens: case.query_tokens(),
                max_seqlen: longest(case.query_lengths()),
            },
            positions: Some(self.positions.view()),
        });
        let dropout =
            (case.dropout > 0.0).then(|| Dropout { rng: self.rng.view(), rate: case.dropout, site: SITE });
        attention::Attention::new(batch, case.heads, case.head_dim)
            .scale(case.scale)
            .mask(self.mask(case.kind))
            .dropout(dropout)
            .queries(queries)
    }
}

/// A forward and a backward pass, with all buffers.
struct Pass<'a, T: Float> {
    case: &'a Case,
    variant: Variant,
    uploaded: Uploaded,
    query: Buffer<T>,
    /// Keys and values share one buffer with a wide stride, as in a packed projection.
    key_value: Buffer<T>,
    d_output: Buffer<T>,
    output: Buffer<T>,
    log_sum_exp: Buffer<f32>,
    gradients: [Buffer<T>; 3],
    workspace: Option<Buffer<u8>>,
}

impl<'a, T: Float> Pass<'a, T> {
    fn new(device: &Device, case: &'a Case, operands: &Inputs<T>, variant: Variant) -> Self {
        let (queries, tokens, columns) = (case.query_tokens(), case.tokens(), case.columns());
        let mut packed = vec![T::from_f32(f32::NAN); tokens * 2 * columns];
        for (token, row) in packed.chunks_mut(2 * columns).enumerate() {
            let own = token * columns..(token + 1) * columns;
            row[..columns].copy_from_slice(&operands.key[own.clone()]);
            row[columns..].copy_from_slice(&operands.value[own]);
        }
        // All of it must be overwritten.
        let stale = |rows: usize| device.upload(&vec![T::from_f32(STALE); rows * columns]).unwrap();
        let workspace = attention::workspace(queries, case.heads, case.head_dim);
        Self {
            uploaded: Uploaded::new(device, case),
            query: device.upload(&operands.query).unwrap(),
            key_value: device.upload(&packed).unwrap(),
            d_output: device.upload(&operands.d_output).unwrap(),
            output: stale(queries),
            log_sum_exp: device.upload(&vec![STALE; case.heads * queries]).unwrap(),
            gradients: [stale(queries), stale(tokens), stale(tokens)],
            workspace: (variant == Variant::Atomic).then(|| workspace.allocate(device).unwrap()),
            case,
            variant,
        }
    }

    fn enqueue(&mut self, stream: &Stream) -> Result<()> {
        let (queries, tokens, columns) = (self.case.query_tokens(), self.case.tokens(), self.case.columns());
        let attention = self.uploaded.attention(self.case);
        let query = self.query.matrix(queries, columns)?;
        let [key, value] = self.key_value.matrix(tokens, 2 * columns)?.split_columns();
        let forward = attention::Forward {
            attention,
            query,
            key,
            value,
            output: self.output.matrix_mut(queries, columns)?,
            log_sum_exp: self.log_sum_exp.view_mut(),
        };
        attention::forward(stream, forward)?;
        let [d_query, d_key, d_value] = &mut self.gradients;
        let backward = attention::Backward {
            attention,
            query,
            key,
            value,
            output: self.output.matrix(queries, columns)?,
            log_sum_exp: self.log_sum_exp.view(),
            d_output: self.d_output.matrix(queries, columns)?,
            d_query: d_query.matrix_mut(queries, columns)?,
            d_key: d_key.matrix_mut(tokens, columns)?,
            d_value: d_value.matrix_mut(tokens, columns)?,
            options: BackwardOptions {
                workspace: self.workspace.as_mut().map(Buffer::view_mut),
                fused_queries_max: (self.variant != Variant::Default).then_some(0),
            },
        };
        attention::backward(stream, backward)
    }

    fn results(self) -> Results {
        Results {
            output: widened(&self.output.read().unwrap()),
            log_sum_exp: widened(&self.log_sum_exp.read().unwrap()),
            gradients: self.gradients.map(|gradient| widened(&gradient.read().unwrap())),
            ..Results::default()
        }
    }
}

pub fn run<T: Float>(device: &Device, case: &Case, operands: &Inputs<T>, variant: Variant) -> Results {
    let mut pass = Pass::new(device, case, operands, variant);
    pass.enqueue(&device.stream()).unwrap();
    pass.results()
}

/// Like [`run`], after `spoil` has changed device memory: captured, so that builds with debug assertions do not read it back.
pub fn run_spoiled<T: Float>(
    device: &Device,
    case: &Case,
    operands: &Inputs<T>,
    variant: Variant,
    spoil: impl FnOnce(&Device, &mut Uploaded),
) -> Results {
    let mut pass = Pass::new(device, case, operands, variant);
    spoil(device, &mut pass.uploaded);
    let stream = device.new_stream().unwrap();
    let graph = stream.capture(|stream| pass.enqueue(stream)).unwrap();
    // SAFETY: all captured buffers are alive, and used by nothing else until the stream is done.
    unsafe { graph.launch(&stream) }.unwrap();
    stream.synchronize().unwrap();
    pass.results()
}

/// Runs a case on operands of `T` as a graph, and returns the names of its kernels.
pub fn kernels<T: Float>(device: &Device, case: &Case, variant: Variant) -> Vec<String> {
    let mut pass = Pass::new(device, case, &case.inputs::<T>(), variant);
    let stream = device.new_stream().unwrap();
    let graph = stream.capture(|stream| pass.enqueue(stream)).unwrap();
    // SAFETY: all captured buffers are alive, and used by nothing else until the stream is done.
    unsafe { graph.launch(&stream) }.unwrap();
    stream.synchronize().unwrap();
    assert!(pass.output.read().unwrap().iter().all(|value| value.to_f32().is_finite()));
    graph.kernels().to_vec()
}

/// Returns the variants that differ for an element type.
pub fn variants<T: Float>() -> &'static [Variant] {
    if T::DTYPE == DType::F32 {
        &[Variant::Default]
    } else {
        &[Variant::Default, Variant::Tiled, Variant::Atomic]
    }
}

/// Checks the kernels against the reference, on each device and in each variant.
pub fn check<T: Float>(devices: &[Device], case: &Case) {
    let operands = case.inputs::<T>();
    let (exact, naive) = (exact(case, &operands), naive(case, &operands));
    for device in devices {
        for &variant in variants::<T>() {
            let actual = run(device, case, &operands, variant);
            let what = |name: &str| format!("{name} of {case:?}, {variant:?}, {device:?}");
            assert_close::<T>(&what("output"), &actual.output, &naive.output, &exact.output);
            assert_close::<f32>(
                &what("log_sum_exp"),
                &actual.log_sum_exp,
                &naive.log_sum_exp,
                &exact.log_sum_exp,
            );
            for (i, name) in ["d_query", "d_key", "d_value"].into_iter().enumerate() {
                let (actual, naive_gradient) = (&actual.gradients[i], &naive.gradients[i]);
                let scale = naive.magnitudes[i];
                assert_close_to_scale::<T>(&what(name), actual, naive_gradient, &exact.gradients[i], scale);
            }
        }
    }
}
