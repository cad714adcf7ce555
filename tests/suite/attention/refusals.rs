//! Arguments that attention refuses, and the messages.

use retromae::device::{Buffer, Device, bf16};
use retromae::ops::attention::{self, Attention, Mask, Queries, Rows, RowsMut};
use retromae::ops::masks::MaskCountLimit;

use crate::common::devices;

/// Four tokens in two sentences, with room for two heads of 64.
struct Pack {
    device: Device,
    floats: Buffer<f32>,
    cu_seqlens: Buffer<i32>,
}

impl Pack {
    fn new() -> Self {
        let device = devices().swap_remove(0);
        let (floats, cu_seqlens) = (device.zeros(4 * 128).unwrap(), device.upload(&[0, 3, 4]).unwrap());
        Self { device, floats, cu_seqlens }
    }

    fn attention(&self) -> Attention<'_> {
        Attention {
            cu_seqlens: self.cu_seqlens.view(),
            tokens: 4,
            max_seqlen: 3,
            queries: None,
            num_heads: 2,
            head_dim: 64,
            scale: 1.0,
            mask: Mask::Full,
            dropout: None,
        }
    }

    fn rows(&self) -> Rows<'_, f32> {
        Rows { view: self.floats.view(), stride: 128 }
    }

    /// Returns the error of a forward pass.
    fn refuse(&self, attention: Attention<'_>, query: Rows<'_, f32>) -> String {
        let mut output = self.device.zeros::<f32>(4 * 128).unwrap();
        let mut log_sum_exp = self.device.zeros::<f32>(4 * attention.num_heads).unwrap();
        let arguments = attention::Forward {
            attention,
            query,
            key: self.rows(),
            value: self.rows(),
            output: RowsMut { view: output.view_mut(), stride: 128 },
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
    let pack = Pack::new();
    let attention = pack.attention();
    let refuse = |attention| pack.refuse_attention(attention);
    assert_eq!(
        refuse(Attention { head_dim: 48, ..attention }),
        "head_dim is 48; it should be one of [32, 64, 96, 128]"
    );
    assert_eq!(refuse(Attention { num_heads: 0, ..attention }), "num_heads is 0; it should be in 1..=65535");
    for scale in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let expected = format!("scale is {scale}; it should be finite and above 0");
        assert_eq!(refuse(Attention { scale, ..attention }), expected);
    }
    let error = refuse(Attention { max_seqlen: 5, ..attention });
    assert!(error.starts_with("max_seqlen is 5; it should be at most 4"), "{error}");
    let error = refuse(Attention { tokens: 3, ..attention });
    assert!(error.starts_with("log_sum_exp is 8 elements long; it should be 6"), "{error}");
}

#[test]
fn wrong_rows_are_refused() {
    let pack = Pack::new();
    let attention = pack.attention();
    let error = pack.refuse(attention, Rows { view: pack.floats.view(), stride: 60 });
    assert!(error.starts_with("query is strided by 60 elements"), "{error}");
    let error = pack.refuse(attention, Rows { view: pack.floats.view(), stride: 256 });
    assert!(error.starts_with("query is 512 elements long; it should be at least 896"), "{error}");
    let shifted = Rows { view: pack.floats.slice(1..512), stride: 64 };
    let error = pack.refuse(Attention { num_heads: 1, ..attention }, shifted);
    assert_eq!(error, "query is at an address of 4 modulo 16 bytes; it should be aligned to 16 bytes");
}

#[test]
fn a_small_workspace_is_refused() {
    let pack = Pack::new();
    let halves = pack.device.zeros::<bf16>(4 * 128).unwrap();
    let log_sum_exp = pack.device.zeros::<f32>(8).unwrap();
    let zeros = || pack.device.zeros::<bf16>(4 * 128).unwrap();
    let (mut d_query, mut d_key, mut d_value) = (zeros(), zeros(), zeros());
    let mut workspace = pack.device.zeros::<u8>(2047).unwrap();
    let rows = Rows { view: halves.view(), stride: 128 };
    let arguments = attention::Backward {
        attention: pack.attention(),
        query: rows,
        key: rows,
        value: rows,
        output: rows,
        log_sum_exp: log_sum_exp.view(),
        d_output: halves.view(),
        d_query: RowsMut { view: d_query.view_mut(), stride: 128 },
        d_key: RowsMut { view: d_key.view_mut(), stride: 128 },
        d_value: RowsMut { view: d_value.view_mut(), stride: 128 },
        workspace: Some(workspace.view_mut()),
        fused_queries_max: Some(0),
    };
    let error = attention::backward(&pack.device.stream(), arguments).unwrap_err().to_string();
    assert_eq!(error, "workspace is 2047 bytes long; it should be at least 2048 bytes");
}

#[test]
fn wrong_masks_are_refused() {
    let pack = Pack::new();
    let attention = pack.attention();
    let bits = pack.device.zeros::<u32>(8).unwrap();
    let offsets = pack.device.upload(&[0u32, 2]).unwrap();
    let rows = pack.device.zeros::<u16>(3).unwrap();
    let three = pack.device.upload(&[0u32, 2, 4]).unwrap();
    let mask = Mask::Independent { bits: bits.view(), offsets: offsets.view() };
    let error = pack.refuse_attention(Attention { mask, ..attention });
    assert!(error.starts_with("mask offsets is 2 elements long; it should be 3"), "{error}");
    let mask = Mask::Pool { bits: bits.view(), offsets: three.view(), rows: rows.view() };
    let error = pack.refuse_attention(Attention { mask, ..attention });
    assert!(error.starts_with("mask rows is 3 elements long; it should be 4"), "{error}");
    let error = pack
        .refuse_attention(Attention { mask: Mask::Order { ranks: rows.view(), itself: true }, ..attention });
    assert!(error.starts_with("mask ranks is 3 elements long; it should be 4"), "{error}");
}

#[test]
fn sentences_too_long_for_a_generated_mask_are_refused() {
    let pack = Pack::new();
    let length = 2000;
    let cu_seqlens = pack.device.upload(&[0, length]).unwrap();
    let floats = pack.device.zeros::<f32>(2000 * 32).unwrap();
    let (rng, indices) = (pack.device.zeros::<u32>(4).unwrap(), pack.device.zeros::<u32>(1).unwrap());
    let word_starts = pack.device.zeros::<u32>(63).unwrap();
    let (mut output, mut log_sum_exp) =
        (pack.device.zeros::<f32>(2000 * 32).unwrap(), pack.device.zeros::<f32>(2000).unwrap());
    let rows = Rows { view: floats.view(), stride: 32 };
    let mask = Mask::Generated {
        rng: rng.view(),
        sentence_indices: indices.view(),
        word_starts: word_starts.view(),
        pool_rows_max: 128,
        count_limit: MaskCountLimit::of(0.5),
    };
    let attention = Attention {
        cu_seqlens: cu_seqlens.view(),
        tokens: 2000,
        max_seqlen: 2000,
        num_heads: 1,
        head_dim: 32,
        mask,
        ..pack.attention()
    };
    let arguments = attention::Forward {
        attention,
        query: rows,
        key: rows,
        value: rows,
        output: RowsMut { view: output.view_mut(), stride: 32 },
        log_sum_exp: log_sum_exp.view_mut(),
    };
    let error = attention::forward(&pack.device.stream(), arguments).unwrap_err().to_string();
    assert!(
        error.starts_with("max_seqlen is 2000; it should be shorter: a generated mask would need"),
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
    let pack = Pack::new();
    let attention = pack.attention();
    for (bounds, expected) in [
        (
            [0, 4, 3],
            "cu_seqlens is 0 to 4 in sentence 0; it should be rising by 0 to 3 (the longest sentence)",
        ),
        (
            [0, 3, 2],
            "cu_seqlens is 3 to 2 in sentence 1; it should be rising by 0 to 3 (the longest sentence)",
        ),
        ([1, 3, 4], "cu_seqlens is from 1 to 4; it should be from 0 to at most 4 (tokens)"),
        ([0, 3, 5], "cu_seqlens is from 0 to 5; it should be from 0 to at most 4 (tokens)"),
    ] {
        let bounds = pack.device.upload(&bounds).unwrap();
        assert_eq!(pack.refuse_attention(Attention { cu_seqlens: bounds.view(), ..attention }), expected);
    }

    let bits = pack.device.zeros::<u32>(4).unwrap();
    let offsets = pack.device.upload(&[0u32, 2, 4]).unwrap();
    let rows = pack.device.upload(&[0u16, 1, 2, 0]).unwrap();
    let mask = Mask::Pool { bits: bits.view(), offsets: offsets.view(), rows: rows.view() };
    let error = pack.refuse_attention(Attention { mask, ..attention });
    assert_eq!(error, "mask rows is 2 in sentence 0; it should be below 2 (rows of its pool)");
    let beyond = pack.device.upload(&[0u32, 4, 4]).unwrap();
    let mask = Mask::Bits { bits: bits.view(), offsets: beyond.view() };
    let error = pack.refuse_attention(Attention { mask, ..attention });
    assert_eq!(
        error,
        "mask offsets is up to word 5 in sentence 1; it should be within the 4 words of the mask bits"
    );

    let slots = pack.device.upload(&[0, 1, 3, 0]).unwrap();
    let queries =
        Queries { cu_seqlens: pack.cu_seqlens.view(), tokens: 4, max_seqlen: 3, slots: Some(slots.view()) };
    let error = pack.refuse_attention(Attention { queries: Some(queries), mask: Mask::CAUSAL, ..attention });
    assert_eq!(error, "queries.slots is up to 3 in sentence 0; it should be below 3 (its length)");
}
