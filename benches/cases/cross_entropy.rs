//! Output layer and cross-entropy, forward and backward in one.
//!
//! Bound, with M rows, H columns, V words: 6·M·H·V FLOPs (logits, two gradients); bytes: hidden rows and their gradient 2·M·H·e, weight
//! V·H·e, its gradient, which is added to, 8·V·H.

use retromae::device::{Buffer, DType, ModelFloat, Stream};
use retromae::ops::cross_entropy::{self, Algorithm, Forward, Gradients, Totals};

use crate::baseline;
use crate::harness::{
    Bench, Bound, FUSED, OWN_PRODUCT, Outcome, Rank, Results, UNFUSED, Variant, Work, embeddings,
    head_results, typed, values, widened,
};

/// Rows of logits that the fused operation holds at once; the baseline holds all.
const CHUNK_ON_GPU: usize = 4096;
const CHUNK_ON_HOST: usize = 256;

#[derive(Clone, Copy)]
struct Case {
    rows: usize,
    hidden_size: usize,
    vocabulary: usize,
    chunk: usize,
}

impl Case {
    fn targets(&self) -> Vec<i32> {
        (0..self.rows).map(|row| (row * 7 % self.vocabulary) as i32).collect()
    }

    fn row_weights(&self) -> Vec<f32> {
        vec![1.0 / self.rows as f32; self.rows]
    }

    fn hidden<T: ModelFloat>(&self) -> Vec<T> {
        typed(1, self.rows * self.hidden_size)
    }

    fn weight<T: ModelFloat>(&self) -> Vec<T> {
        embeddings(self.vocabulary, self.hidden_size)
    }

    fn bias(&self) -> Vec<f32> {
        values(3, self.vocabulary)
    }

    fn bound(&self, element_bytes: usize) -> Bound {
        let (hidden, weight) = (self.rows * self.hidden_size, self.vocabulary * self.hidden_size);
        Bound::new(6 * hidden * self.vocabulary, 2 * hidden * element_bytes + weight * (element_bytes + 8))
    }
}

pub fn bench<T: ModelFloat>(bench: &mut Bench) {
    let on_gpu = bench.on_gpu();
    let (hidden_size, vocabulary, chunk) =
        if on_gpu { (768, 30_522, CHUNK_ON_GPU) } else { (128, 8192, CHUNK_ON_HOST) };
    let (sizes, headline_rows): (&[usize], usize) =
        if on_gpu { (&[4096, 8192, 16_384, 32_768, 65_536], 32_768) } else { (&[1024], 1024) };
    let mut group = bench.group("cross_entropy");
    for &rows in sizes {
        let case = Case { rows, hidden_size, vocabulary, chunk };
        let ours =
            |name, algorithm| Variant::new(name, move |stream| Ours::<T>::new(stream, case, algorithm));
        let unfused = Variant::new(UNFUSED, move |stream| Unfused::<T>::new(stream, case));
        let mut variants = vec![ours(FUSED, Algorithm::Library), unfused];
        if T::DTYPE == DType::Bf16 {
            variants.insert(1, ours(OWN_PRODUCT, Algorithm::Fused));
        }
        let rank = Rank::headline(rows == headline_rows);
        group.case(rank, &format!("M{rows}"), case.bound(T::DTYPE.bytes()), variants);
    }
}

/// The operation by one of its algorithms.
struct Ours<T: ModelFloat> {
    case: Case,
    algorithm: Algorithm,
    hidden: Buffer<T>,
    weight: Buffer<T>,
    bias: Buffer<f32>,
    targets: Buffer<i32>,
    row_weights: Buffer<f32>,
    losses: Buffer<f32>,
    log_sum_exp: Buffer<f32>,
    log_likelihoods: Buffer<f32>,
    correct: Buffer<u8>,
    totals: Buffer<Totals>,
    d_hidden: Buffer<T>,
    d_weight: Buffer<f32>,
    d_bias: Buffer<f32>,
    workspace: Buffer<u8>,
}

impl<T: ModelFloat> Ours<T> {
    fn new(stream: &Stream, case: Case, algorithm: Algorithm) -> Outcome<Self> {
        let device = stream.device();
        let Case { rows, hidden_size, vocabulary, chunk } = case;
        let workspace = cross_entropy::workspace(algorithm, T::DTYPE, chunk, hidden_size, vocabulary);
        Ok(Self {
            hidden: device.upload(&case.hidden::<T>())?,
            weight: device.upload(&case.weight::<T>())?,
            bias: device.upload(&case.bias())?,
            targets: device.upload(&case.targets())?,
            row_weights: device.upload(&case.row_weights())?,
            losses: device.zeros(rows)?,
            log_sum_exp: device.zeros(rows)?,
            log_likelihoods: device.zeros(rows)?,
            correct: device.zeros(rows)?,
            totals: device.zeros(1)?,
            d_hidden: device.zeros(rows * hidden_size)?,
            d_weight: device.zeros(vocabulary * hidden_size)?,
            d_bias: device.zeros(vocabulary)?,
            workspace: workspace.allocate(device)?,
            case,
            algorithm,
        })
    }
}

impl<T: ModelFloat> Work for Ours<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let Case { rows, hidden_size, vocabulary, .. } = self.case;
        let arguments = Forward {
            bias: Some(self.bias.view()),
            row_weights: Some(self.row_weights.view()),
            algorithm: self.algorithm,
            log_sum_exp: Some(self.log_sum_exp.view_mut()),
            log_likelihoods: Some(self.log_likelihoods.view_mut()),
            correct: Some(self.correct.view_mut()),
            totals: Some(self.totals.view_mut()),
            ..Forward::new(
                self.hidden.matrix(rows, hidden_size)?,
                self.weight.matrix(vocabulary, hidden_size)?,
                self.targets.view(),
                self.losses.view_mut(),
                self.workspace.view_mut(),
            )
        };
        let gradients = Gradients {
            d_hidden: Some(self.d_hidden.matrix_mut(rows, hidden_size)?),
            d_weight: Some(self.d_weight.matrix_mut(vocabulary, hidden_size)?),
            d_bias: Some(self.d_bias.view_mut()),
        };
        Ok(cross_entropy::forward_backward(stream, arguments, gradients)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        let read = |buffer: &Buffer<f32>| buffer.read();
        let d_hidden = widened(&self.d_hidden)?;
        Ok(head_results(read(&self.losses)?, d_hidden, read(&self.d_weight)?, read(&self.d_bias)?))
    }

    fn extra_bytes(&self) -> Option<usize> {
        Some(self.workspace.len())
    }
}

/// Kernels and matmuls of the baseline, with a padded vocabulary.
struct Unfused<T: ModelFloat> {
    case: Case,
    hidden: Buffer<T>,
    weight: Buffer<T>,
    bias: Buffer<f32>,
    d_weight: Buffer<f32>,
    d_bias: Buffer<f32>,
    layer: baseline::cross_entropy::CrossEntropy<T>,
}

impl<T: ModelFloat> Unfused<T> {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        let vocabulary = baseline::cross_entropy::padded(case.vocabulary);
        let elements = vocabulary * case.hidden_size;
        let (mut weight, mut bias) = (case.weight::<T>(), case.bias());
        weight.resize(elements, T::from_f32(0.0));
        bias.resize(vocabulary, f32::NEG_INFINITY);
        Ok(Self {
            hidden: device.upload(&case.hidden::<T>())?,
            weight: device.upload(&weight)?,
            bias: device.upload(&bias)?,
            d_weight: device.zeros(elements)?,
            d_bias: device.zeros(vocabulary)?,
            layer: baseline::cross_entropy::CrossEntropy::new(
                stream,
                case.hidden_size,
                vocabulary,
                &case.targets(),
                &case.row_weights(),
            )?,
            case,
        })
    }
}

impl<T: ModelFloat> Work for Unfused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        use baseline::cross_entropy::{Gradients, Weights};
        let weights = Weights { weight: self.weight.view(), bias: self.bias.view() };
        let gradients = Gradients { weight: self.d_weight.view_mut(), bias: self.d_bias.view_mut() };
        Ok(self.layer.forward_backward(stream, weights, self.hidden.view(), gradients)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        let unpadded = |buffer: &Buffer<f32>, columns| buffer.slice(0..self.case.vocabulary * columns).read();
        let d_hidden = widened(&self.layer.d_hidden)?;
        let d_weight = unpadded(&self.d_weight, self.case.hidden_size)?;
        Ok(head_results(self.layer.losses.read()?, d_hidden, d_weight, unpadded(&self.d_bias, 1)?))
    }

    fn extra_bytes(&self) -> Option<usize> {
        Some(self.layer.extra_bytes())
    }
}
