//! Masked attention over packed sentences.

use std::sync::Arc;

use candle_core::{Error, Result, Storage, Tensor};
use retromae::ops::attention::{self, BackwardOptions};

use crate::mask::ReadMask;
use crate::memory::{Float, Locked, Memory, Place, Read, contiguous, is_aligned, read_each, with_float};
use crate::node::{Backward, attach};
use crate::refuse::{require, require_device, require_like, require_shape, wrong};
use crate::{Mask, PackedBatch};

/// Elements that kernels read at a time, of which a row stride is a multiple.
const COLUMN_GROUP: usize = 8;

/// `softmax(scale · Q Kᵀ + mask) V`, a sentence and a head at a time. Cloning is cheap.
///
/// In two-stream attention (RetroMAE, arXiv 2205.12035, section 3.3) queries come from another stream than keys and values, under
/// [`Mask::pool`], [`Mask::independent`] or [`Mask::generated`].
#[derive(Clone)]
pub struct Attention {
    batch: PackedBatch,
    queries: Option<Queries>,
    mask: Mask,
    scale: Option<f32>,
}

/// Queries that are packed separately.
#[derive(Clone)]
struct Queries {
    batch: PackedBatch,
    positions: Option<Arc<Memory<i32>>>,
}

impl Attention {
    /// Attention of each token to all tokens of its sentence, with scores times `1 / √d`.
    #[must_use]
    pub fn new(batch: &PackedBatch) -> Self {
        Self { batch: batch.clone(), queries: None, mask: Mask::FULL, scale: None }
    }

    /// Sets the keys that a query sees.
    #[must_use]
    pub fn mask(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }

    /// Sets the factor of the scores, above 0.
    #[must_use]
    pub fn scale(self, scale: f32) -> Self {
        Self { scale: Some(scale), ..self }
    }

    /// Sets queries that are not one a token, but packed separately: as many sentences as the keys have. `positions` `[Tq]` are those of the queries in
    /// their sentences, which the mask refers to; 0, 1, … where `None`.
    ///
    /// # Errors
    /// When there is not one position a query; an error of the device.
    pub fn queries(self, batch: &PackedBatch, positions: Option<&[i32]>) -> Result<Self> {
        let upload = |positions: &[i32]| {
            let (actual, expected) = (positions.len(), batch.tokens());
            let expected = format_args!("{expected} (queries)");
            require(actual == batch.tokens(), "positions", format_args!("{actual} elements long"), expected)?;
            Memory::upload(batch.cu_seqlens.device(), positions).map(Arc::new)
        };
        let positions = positions.map(upload).transpose()?;
        Ok(Self { queries: Some(Queries { batch: batch.clone(), positions }), ..self })
    }

    /// Returns `[Tq, A, d]`, zero for a query that sees nothing, of `query` `[Tq, A, d]`, `key` and `value` `[T, A, d]`: f32, bf16 or f16, all of one type,
    /// d one of [`HEAD_DIMS`](retromae::ops::attention::HEAD_DIMS), and all on the device of the batch. Rows may lie apart, as those of a packed
    /// projection do; other layouts are copied.
    ///
    /// # Errors
    /// When a shape, type or device does not fit, naming the argument; an error of the device.
    pub fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let shape = self.check([query, key, value])?;
        let [query, key, value] = [rows(query)?, rows(key)?, rows(value)?];
        let arguments = [&query, &key, &value];
        let (output, log_sum_exp) = with_float!("query", query, T => self.launch_forward::<T>(arguments))?;
        let backward = AttentionBackward { attention: self.clone(), log_sum_exp };
        attach(arguments, output, &shape, backward)
    }

    /// Returns the shape of the queries. Refuses tensors that do not fit each other or the batch.
    fn check(&self, [query, key, value]: [&Tensor; 3]) -> Result<[usize; 3]> {
        let queries = self.queries.as_ref().map_or(&self.batch, |queries| &queries.batch);
        let &[_, heads, head_dim] = query.dims() else {
            return wrong("query", format_args!("{:?}", query.dims()), "[queries, heads, head size]");
        };
        let shape = [queries.tokens(), heads, head_dim];
        require_shape("query", query, &shape, "tokens of the batch of queries, heads, head size")?;
        for (argument, tensor) in [("key", key), ("value", value)] {
            let shape = [self.batch.tokens(), heads, head_dim];
            require_shape(argument, tensor, &shape, "tokens of the batch, heads and head size of query")?;
            require_like(argument, tensor, "query", query)?;
        }
        require_device("batch", self.batch.cu_seqlens.device(), "query", query.device())?;
        require_device("queries", queries.cu_seqlens.device(), "query", query.device())?;
        self.mask.check(query.device())?;
        Ok(shape)
    }

    fn read<'a>(&'a self, place: &'a Place) -> Result<ReadAttention<'a>> {
        let read = |queries: &'a Queries| {
            let positions = queries.positions.as_ref().map(|positions| positions.read(place));
            ReadQueries { batch: &queries.batch, cu_seqlens: queries.batch.cu_seqlens.read(place), positions }
        };
        Ok(ReadAttention {
            attention: self,
            cu_seqlens: self.batch.cu_seqlens.read(place),
            queries: self.queries.as_ref().map(read),
            mask: self.mask.read(place)?,
        })
    }

    /// Returns the output, and the log-sum-exp `[A, Tq]` for the way back.
    fn launch_forward<T: Float>(&self, tensors: [&Tensor; 3]) -> Result<(Storage, Memory<f32>)> {
        let place = Place::of(tensors[0].device())?;
        let (queries, heads, head_dim) = tensors[0].dims3()?;
        let mut output = Memory::<T>::zeros(&place, queries * heads * head_dim)?;
        let mut log_sum_exp = Memory::zeros(&place, heads * queries)?;
        {
            let locked = tensors.map(Locked::new);
            let [query, key, value] = read_each::<T, 3>(&locked, &place)?;
            let (attention, mut output) = (self.read(&place)?, output.write(&place));
            let mut log_sum_exp = log_sum_exp.write(&place);
            let forward = attention::Forward {
                attention: attention.view(heads, head_dim)?,
                query: query.matrix()?,
                key: key.matrix()?,
                value: value.matrix()?,
                output: output.rows_of(heads * head_dim)?,
                log_sum_exp: log_sum_exp.view()?,
            };
            attention::forward(&place.stream(None)?, forward).map_err(Error::wrap)?;
        }
        Ok((output.into_storage(), log_sum_exp))
    }
}

/// The arrays of an attention, which an operation reads.
struct ReadAttention<'a> {
    attention: &'a Attention,
    cu_seqlens: Read<'a, i32>,
    queries: Option<ReadQueries<'a>>,
    mask: ReadMask<'a>,
}

struct ReadQueries<'a> {
    batch: &'a PackedBatch,
    cu_seqlens: Read<'a, i32>,
    positions: Option<Read<'a, i32>>,
}

impl ReadAttention<'_> {
    /// The attention as an argument of an operation.
    fn view(&self, heads: usize, head_dim: usize) -> Result<attention::Attention<'_>> {
        let Attention { batch, scale, .. } = self.attention;
        let mut attention = attention::Attention::new(batch.view(&self.cu_seqlens)?, heads, head_dim);
        if let Some(scale) = *scale {
            attention = attention.scale(scale);
        }
        if let Some(ReadQueries { batch, cu_seqlens, positions }) = &self.queries {
            let positions = positions.as_ref().map(Read::view).transpose()?;
            attention = attention.queries(attention::Queries { packed: batch.view(cu_seqlens)?, positions });
        }
        Ok(attention.mask(self.mask.view()?))
    }
}

/// What the way back needs beside the arguments and the output.
struct AttentionBackward {
    attention: Attention,
    /// `[A, Tq]`
    log_sum_exp: Memory<f32>,
}

impl Backward for AttentionBackward {
    const NAME: &'static str = "retromae-attention";

    fn backward(
        &self,
        [query, key, value]: [&Tensor; 3],
        output: &Tensor,
        d_output: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        // With the row stride of the output.
        let d_output = contiguous(d_output)?;
        let tensors = [query, key, value, output, &d_output];
        let gradients = with_float!("query", query, T => self.launch::<T>(tensors))?;
        Ok(gradients.map(Some))
    }
}

impl AttentionBackward {
    /// Returns the gradients of queries, keys and values.
    fn launch<T: Float>(&self, tensors: [&Tensor; 5]) -> Result<[Tensor; 3]> {
        let place = Place::of(tensors[0].device())?;
        let (_, heads, head_dim) = tensors[0].dims3()?;
        let zeros = |tensor: &Tensor| Memory::<T>::zeros(&place, tensor.elem_count());
        let [mut d_query, mut d_key, mut d_value] =
            [zeros(tensors[0])?, zeros(tensors[1])?, zeros(tensors[2])?];
        {
            let locked = tensors.map(Locked::new);
            let [query, key, value, output, d_output] = read_each::<T, 5>(&locked, &place)?;
            let (attention, log_sum_exp) = (self.attention.read(&place)?, self.log_sum_exp.read(&place));
            let [mut d_query, mut d_key, mut d_value] =
                [&mut d_query, &mut d_key, &mut d_value].map(|gradient| gradient.write(&place));
            let backward = attention::Backward {
                attention: attention.view(heads, head_dim)?,
                query: query.matrix()?,
                key: key.matrix()?,
                value: value.matrix()?,
                output: output.matrix()?,
                log_sum_exp: log_sum_exp.view()?,
                d_output: d_output.matrix()?,
                d_query: d_query.rows_of(heads * head_dim)?,
                d_key: d_key.rows_of(heads * head_dim)?,
                d_value: d_value.rows_of(heads * head_dim)?,
                options: BackwardOptions::default(),
            };
            attention::backward(&place.stream(None)?, backward).map_err(Error::wrap)?;
        }
        let gradients = [(d_query, tensors[0]), (d_key, tensors[1]), (d_value, tensors[2])];
        Ok(gradients.map(|(gradient, tensor)| gradient.into_tensor(tensor.shape())))
    }
}

/// Returns the tensor `[T, A, d]` with whole rows, which may lie apart, at addresses that kernels can read: a copy where they are not.
fn rows(tensor: &Tensor) -> Result<Tensor> {
    let ((count, heads, head_dim), stride) = (tensor.dims3()?, tensor.stride());
    let whole = stride[2] == 1 && (heads <= 1 || stride[1] == head_dim);
    let apart = count <= 1 || stride[0] >= heads * head_dim && stride[0].is_multiple_of(COLUMN_GROUP);
    if whole && apart && is_aligned(tensor) { Ok(tensor.clone()) } else { tensor.force_contiguous() }
}
