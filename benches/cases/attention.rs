//! Attention forward and backward, full as in the encoder (`attention`) and under position-specific masks as in the enhanced decoder (`two_stream`):
//! bits of a pool in the kernel, a dense matrix in the baseline.
//!
//! Bound, with S = A·ΣL² scores and T·H elements an operand: forward 4·S·d FLOPs and 4·T·H·e bytes (query, key, value, output), backward
//! 10·S·d FLOPs and 8·T·H·e bytes (those four, the gradient of the output, three gradients); two-stream the mask's bits and row indices too.

use retromae::device::{Buffer, Device, ModelFloat, Stream};
use retromae::model::MaskPool;
use retromae::ops::PackedBatch;
use retromae::ops::attention::{self, BackwardOptions, HEAD_DIMS, Mask};

use crate::baseline;
use crate::harness::{
    Bench, Bound, FUSED, Outcome, POOL_ROWS_MAX, Rank, Results, UNFUSED, Variant, Work, mixed_lengths, typed,
    visibility, widened,
};

/// Packs of a training step of BERT-base: short sentences, long ones, and a mixture.
const HEADLINES: [&str; 3] = ["L128_d64", "L512_d64", "mixed_d64"];

/// A pack of sentences.
struct Case {
    lengths: Vec<usize>,
    /// A·d
    columns: usize,
    head_dim: usize,
    /// True if a pool of masks determines which keys a query sees.
    masked: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    Backward,
}

impl Case {
    fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn heads(&self) -> usize {
        self.columns / self.head_dim
    }

    fn pool(&self) -> Option<MaskPool> {
        self.masked.then(|| visibility(&self.lengths, POOL_ROWS_MAX))
    }

    fn bound(&self, pass: Pass, element_bytes: usize) -> Bound {
        let scores: usize = self.heads() * self.lengths.iter().map(|length| length * length).sum::<usize>();
        let (products, operands) = if pass == Pass::Forward { (2, 4) } else { (5, 8) };
        let words = |length: &usize| (*length).min(POOL_ROWS_MAX) * length.div_ceil(32) * 4 + 2 * length;
        let mask = if self.masked { self.lengths.iter().map(words).sum() } else { 0 };
        Bound::new(
            2 * products * scores * self.head_dim,
            operands * self.tokens() * self.columns * element_bytes + mask,
        )
    }
}

pub fn bench<T: ModelFloat>(bench: &mut Bench) {
    let (tokens, columns) = if bench.on_gpu() { (32_768, 768) } else { (1024, 128) };
    let lengths: &[usize] =
        if bench.on_gpu() { &[32, 64, 128, 256, 512, 1024, 4096] } else { &[32, 64, 128, 512] };
    let head_dims: &[usize] = if bench.on_gpu() { &HEAD_DIMS } else { &[32, 64, 96] };
    for (operation, masked, pass) in [
        ("attention_forward", false, Pass::Forward),
        ("attention_backward", false, Pass::Backward),
        ("two_stream_forward", true, Pass::Forward),
        ("two_stream_backward", true, Pass::Backward),
    ] {
        let mut cases = Vec::new();
        for &head_dim in head_dims {
            // Rounds down to whole heads.
            let columns = columns / head_dim * head_dim;
            for &length in lengths {
                let lengths = vec![length; tokens / length];
                cases.push((format!("L{length}_d{head_dim}"), Case { lengths, columns, head_dim, masked }));
            }
        }
        let lengths = mixed_lengths(tokens);
        cases.push(("mixed_d64".into(), Case { lengths, columns, head_dim: 64, masked }));
        let mut group = bench.group(operation);
        for (name, case) in &cases {
            let fused = Variant::new(FUSED, move |stream| Fused::<T>::new(stream, case, pass));
            let unfused = Variant::new(UNFUSED, move |stream| Unfused::<T>::new(stream, case, pass));
            let rank = Rank::headline(HEADLINES.contains(&name.as_str()));
            group.case(rank, name, case.bound(pass, T::DTYPE.bytes()), vec![fused, unfused]);
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
    fn new(device: &Device, elements: usize) -> Outcome<Self> {
        let upload = |seed| device.upload(&typed::<T>(seed, elements));
        let zeros = || device.zeros(elements);
        Ok(Self {
            query: upload(0)?,
            key: upload(1)?,
            value: upload(2)?,
            d_output: upload(3)?,
            output: zeros()?,
            gradients: [zeros()?, zeros()?, zeros()?],
        })
    }

    fn results(&self, pass: Pass) -> Outcome<Results> {
        if pass == Pass::Forward {
            return Ok(vec![("output".into(), widened(&self.output)?)]);
        }
        let names = ["d_query", "d_key", "d_value"].into_iter().zip(&self.gradients);
        names.map(|(name, buffer)| Ok((name.to_string(), widened(buffer)?))).collect()
    }
}

/// Sentences and masks on a device.
struct Pack {
    batch: PackedBatch,
    /// bits, offsets and rows of a [`MaskPool`]
    pool: Option<(Buffer<u32>, Buffer<u32>, Buffer<u16>)>,
}

impl Pack {
    fn new(device: &Device, case: &Case) -> Outcome<Self> {
        let upload = |pool: MaskPool| -> Outcome<_> {
            Ok((device.upload(&pool.bits)?, device.upload(&pool.offsets)?, device.upload(&pool.rows)?))
        };
        Ok(Self {
            batch: PackedBatch::new(device, &case.lengths)?,
            pool: case.pool().map(upload).transpose()?,
        })
    }

    fn attention(&self, case: &Case) -> attention::Attention<'_> {
        let attention = attention::Attention::new(self.batch.view(), case.heads(), case.head_dim);
        attention.mask(match &self.pool {
            None => Mask::Full,
            Some((bits, offsets, rows)) => {
                Mask::Pool { bits: bits.view(), offsets: offsets.view(), rows: rows.view() }
            }
        })
    }
}

/// The fused operation.
struct Fused<'a, T: ModelFloat> {
    case: &'a Case,
    pass: Pass,
    pack: Pack,
    operands: Operands<T>,
    log_sum_exp: Buffer<f32>,
}

impl<'a, T: ModelFloat> Fused<'a, T> {
    fn new(stream: &Stream, case: &'a Case, pass: Pass) -> Outcome<Self> {
        let device = stream.device();
        let mut fused = Self {
            pack: Pack::new(device, case)?,
            operands: Operands::new(device, case.tokens() * case.columns)?,
            log_sum_exp: device.zeros(case.tokens() * case.heads())?,
            case,
            pass,
        };
        fused.forward(stream)?;
        Ok(fused)
    }

    fn forward(&mut self, stream: &Stream) -> Outcome<()> {
        let Operands { query, key, value, output, .. } = &mut self.operands;
        let (tokens, columns) = (self.case.tokens(), self.case.columns);
        let forward = attention::Forward {
            attention: self.pack.attention(self.case),
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
        let (tokens, columns) = (self.case.tokens(), self.case.columns);
        let [d_query, d_key, d_value] = gradients;
        let backward = attention::Backward {
            attention: self.pack.attention(self.case),
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

impl<T: ModelFloat> Work for Fused<'_, T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        match self.pass {
            Pass::Forward => self.forward(stream),
            Pass::Backward => self.backward(stream),
        }
    }

    fn results(&mut self) -> Outcome<Results> {
        self.operands.results(self.pass)
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
    fn new(stream: &Stream, case: &Case, pass: Pass) -> Outcome<Self> {
        let shape = baseline::attention::Shape {
            lengths: case.lengths.clone(),
            num_heads: case.heads(),
            head_dim: case.head_dim,
        };
        let mut unfused = Self {
            columns: case.columns,
            pass,
            attention: baseline::attention::Attention::new(stream, shape, case.pool().as_ref(), None)?,
            operands: Operands::new(stream.device(), case.tokens() * case.columns)?,
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
