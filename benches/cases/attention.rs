//! Attention forward and backward, full as in the encoder (`attention`) and under position-specific masks as in the enhanced decoder (`two_stream`):
//! bits of a pool in the kernel, a dense matrix in the baseline.
//!
//! Bound, with S = A·ΣL² scores and T·H elements an operand: forward 4·S·d FLOPs and 4·T·H·e bytes (query, key, value, output), backward
//! 10·S·d FLOPs and 8·T·H·e bytes (those four, the gradient of the output, three gradients); two-stream the mask's bits and row indices too.

use retromae::device::{Buffer, Device, Float, ModelFloat, Stream};
use retromae::model::MaskPool;
use retromae::ops::PackedBatch;
use retromae::ops::attention::{self, BackwardOptions, HEAD_DIMS, Mask};
use serde_json::{Value, json};

use super::baseline;
use super::data::{MIXED_LENGTHS, POOL_ROWS_MAX, in_turn, read, typed, visibility};
use super::{Bound, FUSED, Operation, Outcome, Pass, Rank, Results, Scale, UNFUSED, Variant, Work, named};

/// Packs of a training step of BERT-base: short sentences, long ones, and a mixture.
const HEADLINES: [&str; 3] = ["L128_d64", "L512_d64", "mixed_d64"];
/// Stream of the dropout.
const SITE: u32 = 8;

/// A pack of sentences.
#[derive(Clone, Debug)]
pub struct Case {
    /// Lengths of the sentences, in turn until the tokens are used up.
    pub lengths: Vec<usize>,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// True if a pool of masks determines which keys a query sees.
    pub masked: bool,
    /// Rate; 0 without dropout.
    pub dropout: f32,
    /// Pass that runs.
    pub pass: Pass,
}

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    let operations = [
        ("attention_forward", false, Pass::Forward),
        ("attention_backward", false, Pass::Backward),
        ("two_stream_forward", true, Pass::Forward),
        ("two_stream_backward", true, Pass::Backward),
    ];
    operations.map(|(name, masked, pass)| Operation::new(name, cases(scale, masked, pass))).into()
}

/// Returns every head size with every length, and a mixture of lengths.
fn cases(scale: Scale, masked: bool, pass: Pass) -> Vec<Case> {
    let (tokens, columns) = scale.choose((32_768, 768), (1024, 128));
    let lengths = scale.choose(&[32, 64, 128, 256, 512, 1024, 4096][..], &[32, 64, 128, 512]);
    let head_dims = scale.choose(&HEAD_DIMS[..], &[32, 64, 96]);
    let mut packs: Vec<(Vec<usize>, usize)> = Vec::new();
    for &head_dim in head_dims {
        packs.extend(lengths.iter().map(|&length| (vec![length], head_dim)));
    }
    packs.push((MIXED_LENGTHS.to_vec(), 64));
    let case = |(lengths, head_dim)| Case {
        lengths,
        tokens,
        heads: columns / head_dim,
        head_dim,
        masked,
        dropout: 0.0,
        pass,
    };
    packs.into_iter().map(case).collect()
}

impl<T: ModelFloat> super::Case<T> for Case {
    fn name(&self) -> String {
        match self.lengths[..] {
            [length] => format!("L{length}_d{}", self.head_dim),
            _ => format!("mixed_d{}", self.head_dim),
        }
    }

    fn rank(&self) -> Rank {
        Rank::headline(HEADLINES.contains(&super::Case::<T>::name(self).as_str()))
    }

    fn sizes(&self) -> Option<Value> {
        let Self { lengths, tokens, heads, head_dim, .. } = self;
        Some(json!({"lengths": lengths, "tokens": tokens, "heads": heads, "head_dim": head_dim}))
    }

    fn bound(&self) -> Bound {
        let lengths = self.pack();
        let scores: usize = self.heads * lengths.iter().map(|length| length * length).sum::<usize>();
        let (products, operands) = if self.pass == Pass::Forward { (2, 4) } else { (5, 8) };
        let words = |length: &usize| (*length).min(POOL_ROWS_MAX) * length.div_ceil(32) * 4 + 2 * length;
        let mask = if self.masked { lengths.iter().map(words).sum() } else { 0 };
        Bound::new(
            2 * products * scores * self.head_dim,
            operands * self.tokens * self.columns() * T::DTYPE.bytes() + mask,
        )
    }

    fn variants(&self) -> Vec<Variant> {
        let (fused, unfused) = (self.clone(), self.clone());
        vec![
            Variant::new(FUSED, move |stream| Fused::<T>::new(stream, &fused)),
            Variant::new(UNFUSED, move |stream| Unfused::<T>::new(stream, &unfused)),
        ]
    }
}

impl Case {
    fn columns(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Returns the length of every sentence.
    fn pack(&self) -> Vec<usize> {
        in_turn(&self.lengths, self.tokens)
    }

    fn pool(&self) -> Option<MaskPool> {
        self.masked.then(|| visibility(&self.pack(), POOL_ROWS_MAX))
    }

    fn drops(&self, stream: &Stream, elements: usize) -> Outcome<Option<baseline::Dropout>> {
        let dropout = || baseline::Dropout::new(stream, elements, self.dropout, SITE);
        Ok((self.dropout > 0.0).then(dropout).transpose()?)
    }
}

/// Host data of a case: `[Q, A·d]` queries and gradients of the output, `[T, A·d]` keys and values.
#[derive(Clone)]
pub struct Inputs<T> {
    pub query: Vec<T>,
    pub key: Vec<T>,
    pub value: Vec<T>,
    pub d_output: Vec<T>,
}

impl<T: Float> Inputs<T> {
    pub fn new(queries: usize, tokens: usize, columns: usize) -> Self {
        let typed = |seed, rows| typed(seed, rows * columns);
        Self {
            query: typed(1, queries),
            key: typed(2, tokens),
            value: typed(3, tokens),
            d_output: typed(4, queries),
        }
    }
}

/// Operands and results on a device.
struct Operands<T: ModelFloat> {
    query: Buffer<T>,
    key: Buffer<T>,
    value: Buffer<T>,
    d_output: Buffer<T>,
    output: Buffer<T>,
    gradients: [Buffer<T>; 3],
}

impl<T: ModelFloat> Operands<T> {
    fn new(device: &Device, case: &Case) -> Outcome<Self> {
        let inputs = Inputs::<T>::new(case.tokens, case.tokens, case.columns());
        let zeros = || device.zeros(case.tokens * case.columns());
        Ok(Self {
            query: device.upload(&inputs.query)?,
            key: device.upload(&inputs.key)?,
            value: device.upload(&inputs.value)?,
            d_output: device.upload(&inputs.d_output)?,
            output: zeros()?,
            gradients: [zeros()?, zeros()?, zeros()?],
        })
    }

    fn results(&self, pass: Pass) -> Outcome<Results> {
        if pass == Pass::Forward {
            return Ok(named([("output", read(&self.output)?)]));
        }
        let [d_query, d_key, d_value] = &self.gradients;
        Ok(named([
            ("output", read(&self.output)?),
            ("d_query", read(d_query)?),
            ("d_key", read(d_key)?),
            ("d_value", read(d_value)?),
        ]))
    }
}

/// Sentences, masks and dropout on a device.
struct Pack {
    batch: PackedBatch,
    /// bits, offsets and rows of a [`MaskPool`]
    pool: Option<(Buffer<u32>, Buffer<u32>, Buffer<u16>)>,
    dropout: Option<baseline::Dropout>,
}

impl Pack {
    fn new(stream: &Stream, case: &Case) -> Outcome<Self> {
        let device = stream.device();
        let upload = |pool: MaskPool| -> Outcome<_> {
            Ok((device.upload(&pool.bits)?, device.upload(&pool.offsets)?, device.upload(&pool.rows)?))
        };
        Ok(Self {
            batch: PackedBatch::new(device, &case.pack())?,
            pool: case.pool().map(upload).transpose()?,
            dropout: case.drops(stream, 0)?,
        })
    }

    fn attention(&self, case: &Case) -> attention::Attention<'_> {
        let mask = match &self.pool {
            None => Mask::Full,
            Some((bits, offsets, rows)) => {
                Mask::Pool { bits: bits.view(), offsets: offsets.view(), rows: rows.view() }
            }
        };
        attention::Attention::new(self.batch.view(), case.heads, case.head_dim)
            .mask(mask)
            .dropout(self.dropout.as_ref().map(baseline::Dropout::fused))
    }
}

/// The fused operation.
struct Fused<T: ModelFloat> {
    case: Case,
    pack: Pack,
    operands: Operands<T>,
    log_sum_exp: Buffer<f32>,
}

impl<T: ModelFloat> Fused<T> {
    fn new(stream: &Stream, case: &Case) -> Outcome<Self> {
        let device = stream.device();
        let mut fused = Self {
            pack: Pack::new(stream, case)?,
            operands: Operands::new(device, case)?,
            log_sum_exp: device.zeros(case.tokens * case.heads)?,
            case: case.clone(),
        };
        fused.forward(stream)?;
        Ok(fused)
    }

    fn forward(&mut self, stream: &Stream) -> Outcome<()> {
        let Operands { query, key, value, output, .. } = &mut self.operands;
        let (tokens, columns) = (self.case.tokens, self.case.columns());
        let forward = attention::Forward {
            attention: self.pack.attention(&self.case),
            query: query.matrix(tokens, columns)?,
            key: key.matrix(tokens, columns)?,
            value: value.matrix(tokens, columns)?,
            output: output.matrix_mut(tokens, columns)?,
            log_sum_exp: self.log_sum_exp.view_mut(),
        };
        Ok(attention::forward(stream, forward)?)
    }

    fn backward(&mut self, stream: &Stream) -> Outcome<()> {
        let Operands { query, key, value, d_output, output, gradients } = &mut self.operands;
        let (tokens, columns) = (self.case.tokens, self.case.columns());
        let [d_query, d_key, d_value] = gradients;
        let backward = attention::Backward {
            attention: self.pack.attention(&self.case),
            query: query.matrix(tokens, columns)?,
            key: key.matrix(tokens, columns)?,
            value: value.matrix(tokens, columns)?,
            output: output.matrix(tokens, columns)?,
            log_sum_exp: self.log_sum_exp.view(),
            d_output: d_output.matrix(tokens, columns)?,
            d_query: d_query.matrix_mut(tokens, columns)?,
            d_key: d_key.matrix_mut(tokens, columns)?,
            d_value: d_value.matrix_mut(tokens, columns)?,
            options: BackwardOptions::default(),
        };
        Ok(attention::backward(stream, backward)?)
    }
}

impl<T: ModelFloat> Work for Fused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        match self.case.pass {
            Pass::Forward => self.forward(stream),
            Pass::Backward => self.backward(stream),
        }
    }

    fn results(&mut self) -> Outcome<Results> {
        self.operands.results(self.case.pass)
    }
}

/// Kernels and matmuls of the baseline.
struct Unfused<T: ModelFloat> {
    columns: usize,
    pass: Pass,
    attention: baseline::attention::Attention<T>,
    operands: Operands<T>,
}

impl<T: ModelFloat> Unfused<T> {
    fn new(stream: &Stream, case: &Case) -> Outcome<Self> {
        let shape = baseline::attention::Shape {
            lengths: case.pack(),
            num_heads: case.heads,
            head_dim: case.head_dim,
        };
        let dropout = case.drops(stream, shape.score_elements())?;
        let mut unfused = Self {
            columns: case.columns(),
            pass: case.pass,
            attention: baseline::attention::Attention::new(stream, shape, case.pool().as_ref(), dropout)?,
            operands: Operands::new(stream.device(), case)?,
        };
        unfused.forward(stream)?;
        Ok(unfused)
    }

    fn forward(&mut self, stream: &Stream) -> Outcome<()> {
        let Operands { query, key, value, output, .. } = &mut self.operands;
        let [query, key, value] = [query, key, value].map(|rows| rows.view().rows_of(self.columns));
        let output = output.view_mut().rows_of(self.columns)?;
        Ok(self.attention.forward(stream, [query?, key?, value?], output)?)
    }
}

impl<T: ModelFloat> Work for Unfused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        if self.pass == Pass::Forward {
            return self.forward(stream);
        }
        let Operands { d_output, gradients, .. } = &mut self.operands;
        let [query, key, value] = gradients.each_mut().map(|rows| rows.view_mut().rows_of(self.columns));
        let d_output = d_output.view().rows_of(self.columns)?;
        Ok(self.attention.backward(stream, d_output, [query?, key?, value?])?)
    }

    fn results(&mut self) -> Outcome<Results> {
        self.operands.results(self.pass)
    }
}
