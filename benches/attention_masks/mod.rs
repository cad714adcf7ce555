//! Attention forward and backward, fused beside unfused, for both kinds of mask.

use criterion::{BenchmarkId, Criterion, Throughput};
use retromae::device::{Buffer, Device};
use retromae::model::VisibilityBank;
use retromae::ops::attention::{self, Mask, Rows, RowsMut};
use retromae::reference::mask::{MaskedSentence, SPECIAL, WORD_START, mask_bank, ratio_q32};

use crate::baseline::attention::{Attention, dense_mask};
use crate::harness::{assert_same, device, group, has_baseline, values};

/// Tokens of every pack, whatever the sentence length.
const TOKENS: usize = 1024;
/// A·d.
const COLUMNS: usize = 128;
/// Rows of a bank at most, and the share of the tokens that a row hides.
const BANK_ROWS_MAX: usize = 128;
const RATIO: f32 = 0.5;

/// Measures sentences of 32 to 512 tokens with heads of 32 and 64; with `bank` under position-specific masks.
pub fn bench(criterion: &mut Criterion, name: &str, bank: bool) {
    let device = device();
    let mut group = group(criterion, name);
    group.throughput(Throughput::Elements(TOKENS as u64));
    for head_dim in [32, 64] {
        for length in [32, 64, 128, 512] {
            let lengths = vec![length; TOKENS / length];
            let operands: [Vec<f32>; 4] = std::array::from_fn(|seed| values(seed as u64, TOKENS * COLUMNS));
            let bank = bank.then(|| visibility(&lengths));
            let mut op = Op::new(&device, &lengths, head_dim, bank.as_ref(), &operands);
            let parameter = format!("L{length}_d{head_dim}");
            group.bench_function(BenchmarkId::new("op", &parameter), |bencher| bencher.iter(|| op.run()));
            if !has_baseline(&device) {
                continue;
            }
            let mask = bank.as_ref().map(|bank| dense_mask(bank, &lengths));
            let [query, key, value, d_output] = operands.each_ref().map(|values| values.as_slice());
            let scale = (head_dim as f32).powf(-0.5);
            let mut unfused = Attention::new(&lengths, COLUMNS / head_dim, head_dim, scale, mask);
            unfused.set_inputs([query, key, value]);
            unfused.set_d_output(d_output);
            let mut run = || {
                unfused.forward();
                unfused.backward();
            };
            group.bench_function(BenchmarkId::new("baseline", &parameter), |bencher| bencher.iter(&mut run));
            run();
            op.run();
            let results = [unfused.output()].into_iter().chain(unfused.d_inputs());
            for ((what, op), unfused) in
                ["output", "d_query", "d_key", "d_value"].iter().zip(op.results()).zip(results)
            {
                assert_same(what, &op, &unfused);
            }
        }
    }
    group.finish();
}

/// The masks of a training step: whole words of one token, between two special tokens.
fn visibility(lengths: &[usize]) -> VisibilityBank {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut word_starts = vec![WORD_START; longest];
    (word_starts[0], word_starts[longest - 1]) = (SPECIAL, SPECIAL);
    let sentence = |(index, &length): (usize, &usize)| MaskedSentence {
        index: index as u32,
        word_starts: &word_starts[..length],
    };
    let sentences: Vec<_> = lengths.iter().enumerate().map(sentence).collect();
    mask_bank(42, 1, &sentences, ratio_q32(RATIO), BANK_ROWS_MAX)
}

/// The fused operation with all its buffers on a device.
struct Op {
    device: Device,
    longest: usize,
    head_dim: usize,
    cu_seqlens: Buffer<i32>,
    /// bits, offsets and rows of a [`VisibilityBank`]
    bank: Option<(Buffer<u32>, Buffer<u32>, Buffer<u16>)>,
    query: Buffer<f32>,
    key: Buffer<f32>,
    value: Buffer<f32>,
    d_output: Buffer<f32>,
    output: Buffer<f32>,
    log_sum_exp: Buffer<f32>,
    gradients: [Buffer<f32>; 3],
}

impl Op {
    fn new(
        device: &Device,
        lengths: &[usize],
        head_dim: usize,
        bank: Option<&VisibilityBank>,
        operands: &[Vec<f32>; 4],
    ) -> Self {
        let mut cu_seqlens = vec![0];
        lengths.iter().for_each(|&length| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length as i32));
        let [query, key, value, d_output] = operands.each_ref().map(|values| device.upload(values).unwrap());
        let zeros = |count| device.zeros(count).unwrap();
        let upload = |bank: &VisibilityBank| {
            let [bits, offsets] = [&bank.bits, &bank.offsets].map(|words| device.upload(words).unwrap());
            (bits, offsets, device.upload(&bank.rows).unwrap())
        };
        Self {
            device: device.clone(),
            longest: lengths.iter().copied().max().unwrap_or(0),
            head_dim,
            cu_seqlens: device.upload(&cu_seqlens).unwrap(),
            bank: bank.map(upload),
            query,
            key,
            value,
            d_output,
            output: zeros(TOKENS * COLUMNS),
            log_sum_exp: zeros(TOKENS * COLUMNS / head_dim),
            gradients: std::array::from_fn(|_| zeros(TOKENS * COLUMNS)),
        }
    }

    fn run(&mut self) {
        let stream = self.device.stream();
        let mask = match &self.bank {
            None => Mask::Full,
            Some((bits, offsets, rows)) => {
                Mask::Bank { bits: bits.view(), offsets: offsets.view(), rows: rows.view() }
            }
        };
        let attention = attention::Attention {
            cu_seqlens: self.cu_seqlens.view(),
            max_seqlen: self.longest,
            num_heads: COLUMNS / self.head_dim,
            head_dim: self.head_dim,
            scale: (self.head_dim as f32).powf(-0.5),
            mask,
            dropout: None,
        };
        let [query, key, value] =
            [&self.query, &self.key, &self.value].map(|b| Rows { view: b.view(), stride: COLUMNS });
        let forward = attention::Forward {
            attention,
            query,
            key,
            value,
            output: RowsMut { view: self.output.view_mut(), stride: COLUMNS },
            log_sum_exp: self.log_sum_exp.view_mut(),
        };
        attention::forward(&stream, forward).unwrap();
        let [d_query, d_key, d_value] =
            self.gradients.each_mut().map(|b| RowsMut { view: b.view_mut(), stride: COLUMNS });
        let backward = attention::Backward {
            attention,
            query,
            key,
            value,
            output: Rows { view: self.output.view(), stride: COLUMNS },
            log_sum_exp: self.log_sum_exp.view(),
            d_output: self.d_output.view(),
            d_query,
            d_key,
            d_value,
        };
        attention::backward(&stream, backward).unwrap();
        stream.synchronize().unwrap();
    }

    /// Output and gradients of query, key and value.
    fn results(&self) -> [Vec<f32>; 4] {
        let [d_query, d_key, d_value] = &self.gradients;
        [&self.output, d_query, d_key, d_value].map(|buffer| buffer.read().unwrap())
    }
}
