//! Arguments that attention refuses, and the messages.

use retromae::device::{Buffer, Device, Matrix, bf16};
use retromae::ops::Packed;
use retromae::ops::attention::{self, Attention, BackwardOptions, Mask, Queries};
use retromae::ops::masks::MaskCountLimit;

use crate::common::devices;

/// Four tokens in two sentences, with room for two heads of 64.
struct Fixture {
    device: Device,
    floats: Buffer<f32>,
    cu_seqlens: Buffer<i32>,
}

impl Fixture {
    fn new() -> Self {
        let device = devices().swap_remove(0);
        let (floats, cu_seqlens) = (device.zeros(4 * 128).unwrap(), device.upload(&[0, 3, 4]).unwrap());
        Self { device, floats, cu_seqlens }
    }

    fn batch(&self) -> Packed<'_> {
        Packed { cu_seqlens: self.cu_seqlens.view(), tokens: 4, max_seqlen: 3 }
    }

    fn attention(&self) -> Attention<'_> {
        Attention::new(self.batch(), 2, 64)
    }

    fn rows(&self) -> Matrix<'_, f32> {
        self.floats.matrix(4, 128).unwrap()
    }

    /// Returns the error of a forward pass.
    fn refuse(&self, attention: Attention<'_>, query: Matrix<'_, f32>) -> String {
        let mut output = self.device.zeros::<f32>(4 * 128).unwrap();
        let mut log_sum_exp = self.device.zeros::<f32>(4 * attention.num_heads).unwrap();
        let arguments = attention::Forward {
            attention,
            query,
            key: self.rows(),
            value: self.rows(),
            output: output.matrix_mut(4, 128).unwrap(),
            log_sum_exp: log_sum_exp.view_mut(),
        };
        attention::forward(&self.device.stream(), arguments).unwrap_err().to_string()
    }

    fn refuse_attention(&self, attention: Attention<'_>) -> String {
        self.refuse(attention, self.rows())
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let fixture = Fixture::new();
    let attention = fixture.attention();
    let refuse = |attention| fixture.refuse_attention(attention);
    assert_eq!(
        refuse(Attention { head_dim: 48, ..attention }),
        "head_dim is 48; it should be one of [32, 64, 96, 128]"
    );
    assert_eq!(refuse(Attention { num_heads: 0, ..attention }), "num_heads is 0; it should be in 1..=65535");
    for scale in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let expected = format!("scale is {scale}; it should be finite and above 0");
        assert_eq!(refuse(Attention { scale, ..attention }), expected);
    }
    let batch = attention.batch;
    let error = refuse(Attention { batch: Packed { max_seqlen: 5, ..batch }, ..attention });
    assert!(error.starts_with("batch.max_seqlen is 5; it should be at most 4"), "{error}");
    let error = refuse(Attention { batch: Packed { tokens: 3, ..batch }, ..attention });
    assert!(error.starts_with("log_sum_exp is 8 elements long; it should be 6"), "{error}");
}

#[test]
fn wrong_rows_are_refused() {
    let fixture = Fixture::new();
    let attention = fixture.attention();
    let wide = fixture.device.zeros::<f32>(4 * 132).unwrap();
    let odd = wide.slice(0..4 * 132 - 3).strided(4, 128, 131).unwrap();
    let error = fixture.refuse(attention, odd);
    assert_eq!(error, "query is strided by 131 elements; it should be strided by a multiple of 8 below 2^32");
    let error = fixture.refuse(attention, fixture.floats.matrix(8, 64).unwrap());
    assert_eq!(error, "query is [8, 64]; it should be [4, 128] (tokens, heads · head size)");
    let error = fixture.floats.view().strided(4, 128, 60).unwrap_err().to_string();
    assert_eq!(error, "stride is 60; it should be at least 128 (columns)");
    let error = fixture.floats.view().strided(4, 128, 256).unwrap_err().to_string();
    assert!(error.starts_with("matrix is 512 elements long; it should be at least 896"), "{error}");
    let shifted = fixture.floats.slice(1..512).strided(4, 64, 64).unwrap();
    let error = fixture.refuse(Attention { num_heads: 1, ..attention }, shifted);
    assert_eq!(error, "query is at an address of 4 modulo 16 bytes; it should be aligned to 16 bytes");
}

/// Returns the error of a backward pass over the fixture's rows; `d_output` has a stride of `d_output_stride`.
fn refuse_backward(fixture: &Fixture, d_output_stride: usize, options: BackwardOptions<'_>) -> String {
    let zeros = || fixture.device.zeros::<bf16>(4 * 128).unwrap();
    let (halves, mut d_query, mut d_key, mut d_value) = (zeros(), zeros(), zeros(), zeros());
    let d_output = fixture.device.zeros::<bf16>(4 * d_output_stride).unwrap();
    let log_sum_exp = fixture.device.zeros::<f32>(8).unwrap();
    let rows = halves.matrix(4, 128).unwrap();
    let arguments = attention::Backward {
        attention: fixture.attention(),
        query: rows,
        key: rows,
        value: rows,
        output: rows,
        log_sum_exp: log_sum_exp.view(),
        d_output: d_output.view().strided(4, 128, d_output_stride).unwrap(),
        d_query: d_query.matrix_mut(4, 128).unwrap(),
        d_key: d_key.matrix_mut(4, 128).unwrap(),
        d_value: d_value.matrix_mut(4, 128).unwrap(),
        options,
    };
    attention::backward(&fixture.device.stream(), arguments).unwrap_err().to_string()
}

#[test]
fn a_small_workspace_is_refused() {
    let fixture = Fixture::new();
    let mut workspace = fixture.device.zeros::<u8>(2047).unwrap();
    let options = BackwardOptions { workspace: Some(workspace.view_mut()), ..BackwardOptions::default() };
    let error = refuse_backward(&fixture, 128, options);
    assert_eq!(error, "workspace is 2047 bytes long; it should be at least 2048 bytes");
}

#[test]
fn a_gradient_of_the_output_with_another_stride_is_refused() {
    let error = refuse_backward(&Fixture::new(), 136, BackwardOptions::default());
    assert_eq!(error, "d_output is strided by 136 elements; it should be strided by 128, as output");
}

#[test]
fn wrong_masks_are_refused() {
    let fixture = Fixture::new();
    let attention = fixture.attention();
    let bits = fixture.device.zeros::<u32>(8).unwrap();
    let offsets = fixture.device.upload(&[0u32, 2]).unwrap();
    let rows = fixture.device.zeros::<u16>(3).unwrap();
    let three = fixture.device.upload(&[0u32, 2, 4]).unwrap();
    let mask = Mask::Independent { bits: bits.view(), offsets: offsets.view() };
    let error = fixture.refuse_attention(Attention { mask, ..attention });
    assert!(error.starts_with("mask.offsets is 2 elements long; it should be 3"), "{error}");
    let mask = Mask::Pool { bits: bits.view(), offsets: three.view(), rows: rows.view() };
    let error = fixture.refuse_attention(Attention { mask, ..attention });
    assert!(error.starts_with("mask.rows is 3 elements long; it should be 4"), "{error}");
    let error = fixture.refuse_attention(Attention {
        mask: Mask::Permutation { order: rows.view(), include_self: true },
        ..attention
    });
    assert!(error.starts_with("mask.order is 3 elements long; it should be 4"), "{error}");
}

#[test]
fn sentences_too_long_for_a_generated_mask_are_refused() {
    let fixture = Fixture::new();
    let length = 2000;
    let cu_seqlens = fixture.device.upload(&[0, length]).unwrap();
    let floats = fixture.device.zeros::<f32>(2000 * 32).unwrap();
    let (rng, indices) = (fixture.device.zeros::<u32>(4).unwrap(), fixture.device.zeros::<u32>(1).unwrap());
    let word_starts = fixture.device.zeros::<u32>(63).unwrap();
    let (mut output, mut log_sum_exp) =
        (fixture.device.zeros::<f32>(2000 * 32).unwrap(), fixture.device.zeros::<f32>(2000).unwrap());
    let rows = floats.matrix(2000, 32).unwrap();
    let mask = Mask::Generated {
        rng: rng.view(),
        sentence_indices: indices.view(),
        word_starts: word_starts.view(),
        pool_rows_max: 128,
        count_limit: MaskCountLimit::of(0.5),
    };
    let batch = Packed { cu_seqlens: cu_seqlens.view(), tokens: 2000, max_seqlen: 2000 };
    let arguments = attention::Forward {
        attention: Attention::new(batch, 1, 32).mask(mask),
        query: rows,
        key: rows,
        value: rows,
        output: output.matrix_mut(2000, 32).unwrap(),
        log_sum_exp: log_sum_exp.view_mut(),
    };
    let error = attention::forward(&fixture.device.stream(), arguments).unwrap_err().to_string();
    assert!(
        error.starts_with("batch.max_seqlen is 2000; it should be shorter: a generated mask would need"),
        "{error}"
    );
}

/// Builds with debug assertions read device memory back and check its values.
#[test]
fn wrong_values_in_device_memory_are_refused_in_debug_builds() {
    if !cfg!(debug_assertions) {
        println!("ignored: built without debug assertions");
        return;
    }
    let fixture = Fixture::new();
    let attention = fixture.attention();
    for (bounds, expected) in [
        (
            [0, 4, 3],
            "batch.cu_seqlens is 0 to 4 in sentence 0; it should be rising by 0 to 3 (the longest sentence)",
        ),
        (
            [0, 3, 2],
            "batch.cu_seqlens is 3 to 2 in sentence 1; it should be rising by 0 to 3 (the longest sentence)",
        ),
        ([1, 3, 4], "batch.cu_seqlens is from 1 to 4; it should be from 0 to at most 4 (tokens)"),
        ([0, 3, 5], "batch.cu_seqlens is from 0 to 5; it should be from 0 to at most 4 (tokens)"),
    ] {
        let bounds = fixture.device.upload(&bounds).unwrap();
        let batch = Packed { cu_seqlens: bounds.view(), ..fixture.batch() };
        assert_eq!(fixture.refuse_attention(Attention { batch, ..attention }), expected);
    }

    let bits = fixture.device.zeros::<u32>(4).unwrap();
    let offsets = fixture.device.upload(&[0u32, 2, 4]).unwrap();
    let rows = fixture.device.upload(&[0u16, 1, 2, 0]).unwrap();
    let mask = Mask::Pool { bits: bits.view(), offsets: offsets.view(), rows: rows.view() };
    let error = fixture.refuse_attention(Attention { mask, ..attention });
    assert_eq!(error, "mask.rows is 2 in sentence 0; it should be below 2 (rows of its pool)");
    let beyond = fixture.device.upload(&[0u32, 4, 4]).unwrap();
    let mask = Mask::Bits { bits: bits.view(), offsets: beyond.view() };
    let error = fixture.refuse_attention(Attention { mask, ..attention });
    assert_eq!(
        error,
        "mask.offsets is up to word 5 in sentence 1; it should be within the 4 words of the mask bits"
    );

    let positions = fixture.device.upload(&[0, 1, 3, 0]).unwrap();
    let queries = Queries { packed: fixture.batch(), positions: Some(positions.view()) };
    let error =
        fixture.refuse_attention(Attention { queries: Some(queries), mask: Mask::CAUSAL, ..attention });
    assert_eq!(error, "queries.positions is up to 3 in sentence 0; it should be below 3 (its length)");
}
