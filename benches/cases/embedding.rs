//! The gradient of the word embeddings: T rows of H columns added to the rows of their words. The fused side groups the tokens by word first; the
//! baseline adds atomically.
//!
//! Bound: no matmuls; 4·T bytes of ids, T·H·e of rows, and 8·H for each distinct word, whose f32 row is added to.

use std::collections::BTreeSet;

use retromae::device::{Buffer, Device, ModelFloat, Stream};
use retromae::ops;
use retromae::ops::group_by_key::{self, GroupByKey, Keys};
use retromae::ops::segment_sum::{self, SegmentSum, Segments, segment_sum};
use retromae::random::{key, philox};
use serde_json::{Value, json};

use super::baseline;
use super::data::typed;
use super::{Bound, FUSED, Operation, Outcome, Results, Scale, UNFUSED, Variant, Work, named};

const MASK_ID: i32 = 4;
const MASKED_SHARE: f64 = 0.15;

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub tokens: usize,
    pub columns: usize,
    pub vocabulary: usize,
}

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    let (tokens, columns, vocabulary) = scale.choose((32_768, 768, 30_522), (1024, 128, 8192));
    vec![Operation::new("embedding_backward", [Case { tokens, columns, vocabulary }])]
}

impl<T: ModelFloat> super::Case<T> for Case {
    fn name(&self) -> String {
        format!("T{}_H{}", self.tokens, self.columns)
    }

    fn sizes(&self) -> Option<Value> {
        Some(json!({
            "tokens": self.tokens,
            "hidden_size": self.columns,
            "vocab_size": self.vocabulary,
            "mask_id": MASK_ID,
            "masked_share": MASKED_SHARE,
            "distinct_ids": self.distinct_ids(),
        }))
    }

    fn bound(&self) -> Bound {
        let rows = self.tokens * (4 + self.columns * T::DTYPE.bytes());
        Bound::new(0, rows + 8 * self.distinct_ids() * self.columns)
    }

    fn variants(&self) -> Vec<Variant> {
        let case = *self;
        vec![
            Variant::new(FUSED, move |stream| Fused::<T>::new(stream, case)),
            Variant::new(UNFUSED, move |stream| Unfused::<T>::new(stream, case)),
        ]
    }
}

impl Case {
    /// Returns ids with text-like frequencies, the k-th most frequent about 1/k as often as the first, and [`MASK_ID`]: one row for many tokens.
    fn ids(&self) -> Vec<i32> {
        let id = |token: usize| {
            let uniform = |word: u32| f64::from(word) / 2f64.powi(32);
            let [rank, masked, ..] = philox(key(3), [token as u32, 0, 0, 0]).map(uniform);
            let word = (self.vocabulary as f64).powf(rank) as i32 - 1;
            if masked < MASKED_SHARE { MASK_ID } else { word.clamp(0, self.vocabulary as i32 - 1) }
        };
        (0..self.tokens).map(id).collect()
    }

    fn distinct_ids(&self) -> usize {
        self.ids().into_iter().collect::<BTreeSet<i32>>().len()
    }

    fn rows<T: ModelFloat>(&self) -> Vec<T> {
        typed(1, self.tokens * self.columns)
    }

    /// Gradient that is added to.
    fn table(&self) -> Vec<f32> {
        typed(2, self.vocabulary * self.columns)
    }
}

/// Rows of an array grouped by their keys, on a device.
pub struct Groups {
    key_count: usize,
    keys: Buffer<i32>,
    segment_keys: Buffer<i32>,
    offsets: Buffer<i32>,
    indices: Buffer<i32>,
    workspace: Buffer<u8>,
}

impl Groups {
    /// Uploads the keys, which are below `key_count`.
    pub fn new(device: &Device, keys: &[i32], key_count: usize) -> ops::Result<Self> {
        let segments = group_by_key::segments(keys.len(), key_count);
        Ok(Self {
            key_count,
            keys: device.upload(keys)?,
            segment_keys: device.zeros(segments)?,
            offsets: device.zeros(segments + 1)?,
            indices: device.zeros(keys.len())?,
            workspace: group_by_key::workspace(1, keys.len()).allocate(device)?,
        })
    }

    pub fn group(&mut self, stream: &Stream) -> ops::Result<Segments<'_>> {
        let keys = Keys {
            keys: self.keys.view(),
            key_count: self.key_count,
            segment_keys: self.segment_keys.view_mut(),
            offsets: self.offsets.view_mut(),
            indices: self.indices.view_mut(),
        };
        let workspace = self.workspace.view_mut();
        group_by_key::group_by_key(stream, GroupByKey { arrays: &mut [keys], workspace })?;
        Ok(Segments {
            offsets: self.offsets.view(),
            indices: Some(self.indices.view()),
            keys: Some(self.segment_keys.view()),
        })
    }
}

/// Fused side: groups, and their sums.
struct Fused<T: ModelFloat> {
    case: Case,
    input: Buffer<T>,
    groups: Groups,
    workspace: Buffer<u8>,
    table: Buffer<f32>,
}

impl<T: ModelFloat> Fused<T> {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        Ok(Self {
            input: device.upload(&case.rows::<T>())?,
            groups: Groups::new(device, &case.ids(), case.vocabulary)?,
            workspace: segment_sum::workspace(case.tokens, case.columns).allocate(device)?,
            table: device.upload(&case.table())?,
            case,
        })
    }
}

impl<T: ModelFloat> Work for Fused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let Case { tokens, columns, vocabulary } = self.case;
        let arguments = SegmentSum {
            input: self.input.matrix(tokens, columns)?,
            segments: self.groups.group(stream)?,
            output: self.table.matrix_mut(vocabulary, columns)?,
            workspace: self.workspace.view_mut(),
        };
        Ok(segment_sum(stream, arguments)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        Ok(named([("d_word", self.table.read()?)]))
    }
}

/// Unfused side: atomic additions.
struct Unfused<T: ModelFloat> {
    case: Case,
    input: Buffer<T>,
    ids: Buffer<i32>,
    table: Buffer<f32>,
}

impl<T: ModelFloat> Unfused<T> {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        Ok(Self {
            input: device.upload(&case.rows::<T>())?,
            ids: device.upload(&case.ids())?,
            table: device.upload(&case.table())?,
            case,
        })
    }
}

impl<T: ModelFloat> Work for Unfused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let (rows, ids) = (self.input.view(), self.ids.view());
        Ok(baseline::embedding::backward(stream, rows, ids, self.table.view_mut(), self.case.columns)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        Ok(named([("d_word", self.table.read()?)]))
    }
}
