//! Bad arguments: errors that name them.

use candle_core::{DType, Device, Result, Tensor};
use retromae::ops::attention::MaskBits;
use retromae_candle::{Attention, LinearCrossEntropy, Mask, PackedBatch};

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

#[track_caller]
fn assert_refused(result: Result<Tensor>, message: &str) {
    let error = result.expect_err("refused").to_string();
    assert!(error.contains(message), "{error}, not {message}");
}

#[test]
fn attention() {
    let batch = PackedBatch::new(&[3, 2], &Device::Cpu).unwrap();
    let good = zeros(&[5, 2, 32], DType::F32);
    let attention = Attention::new(&batch);
    let call = |query: &Tensor, key: &Tensor, value: &Tensor| attention.forward(query, key, value);
    assert_refused(
        call(&zeros(&[5, 64], DType::F32), &good, &good),
        "query is [5, 64]; it should be [queries, heads",
    );
    assert_refused(
        call(&zeros(&[6, 2, 32], DType::F32), &good, &good),
        "query is [6, 2, 32]; it should be [5, 2, 32]",
    );
    assert_refused(
        call(&good, &zeros(&[4, 2, 32], DType::F32), &good),
        "key is [4, 2, 32]; it should be [5, 2, 32]",
    );
    assert_refused(
        call(&good, &good, &zeros(&[5, 1, 64], DType::F32)),
        "value is [5, 1, 64]; it should be [5, 2, 32]",
    );
    let halves = zeros(&[5, 2, 32], DType::F16);
    assert_refused(call(&good, &halves, &good), "key is of F16; it should be of F32, as query");
    let doubles = zeros(&[5, 2, 32], DType::F64);
    assert_refused(call(&doubles, &doubles, &doubles), "query is of F64; it should be of F32, BF16 or F16");
    let odd = zeros(&[5, 2, 24], DType::F32);
    assert_refused(call(&odd, &odd, &odd), "head_dim is 24; it should be one of [32, 64, 96, 128]");
    assert_refused(
        Attention::new(&batch).scale(-1.0).forward(&good, &good, &good),
        "scale is -1; it should be finite",
    );
    let other = Mask::bits(&MaskBits::full(&[5]).unwrap(), &Device::Cpu).unwrap();
    assert_refused(
        Attention::new(&batch).mask(other).forward(&good, &good, &good),
        "offsets is 2 elements long; it should be 3",
    );
    let order = Mask::permutation(&[0, 1], false, &Device::Cpu).unwrap();
    assert_refused(
        Attention::new(&batch).mask(order).forward(&good, &good, &good),
        "2 elements long; it should be 5",
    );
    let sentences = PackedBatch::new(&[1], &Device::Cpu).unwrap();
    let one = Attention::new(&batch).queries(&sentences, None).unwrap();
    assert_refused(
        one.forward(&zeros(&[1, 2, 32], DType::F32), &good, &good),
        "queries.cu_seqlens is 2 elements long",
    );
    let error = Attention::new(&batch).queries(&sentences, Some(&[0, 1])).err().expect("refused").to_string();
    assert!(error.contains("positions is 2 elements long; it should be 1 (queries)"), "{error}");
    let error = PackedBatch::new(&[1, usize::MAX], &Device::Cpu).err().expect("refused").to_string();
    assert!(error.starts_with("lengths is of 18446744073709551615 tokens"), "{error}");
}

#[test]
fn linear_cross_entropy() {
    let layer = LinearCrossEntropy::default();
    let (hidden, weight) = (zeros(&[3, 8], DType::F32), zeros(&[20, 8], DType::F32));
    let targets = zeros(&[3], DType::U32);
    let call =
        |hidden: &Tensor, weight: &Tensor, targets: &Tensor| layer.forward(hidden, weight, None, targets);
    assert_refused(
        call(&hidden, &zeros(&[160], DType::F32), &targets),
        "weight is [160]; it should be [vocabulary, hidden",
    );
    assert_refused(
        call(&zeros(&[4, 8], DType::F32), &weight, &targets),
        "hidden is [4, 8]; it should be [3, 8]",
    );
    assert_refused(
        call(&hidden, &zeros(&[20, 8], DType::BF16), &targets),
        "weight is of BF16; it should be of F32",
    );
    assert_refused(
        call(&hidden, &weight, &zeros(&[3, 1], DType::U32)),
        "targets is [3, 1]; it should be [rows]",
    );
    assert_refused(
        call(&hidden, &weight, &zeros(&[3], DType::F32)),
        "targets is of F32; it should be of U32 or I64",
    );
    let (doubles, wide) = (zeros(&[3, 8], DType::F64), zeros(&[20, 8], DType::F64));
    assert_refused(call(&doubles, &wide, &targets), "hidden is of F64; it should be of F32, BF16 or F16");
    let bias = |bias: &Tensor| layer.forward(&hidden, &weight, Some(bias), &targets);
    assert_refused(bias(&zeros(&[8], DType::F32)), "bias is [8]; it should be [20] (rows of weight)");
    assert_refused(bias(&zeros(&[20], DType::U32)), "bias is of U32; it should be of a floating-point type");
    let mut bad = LinearCrossEntropy { chunk_rows: 0, ..layer };
    assert_refused(bad.forward(&hidden, &weight, None, &targets), "chunk_rows is 0; it should be at least 1");
    bad = layer;
    bad.options.label_smoothing = 1.0;
    assert_refused(
        bad.forward(&hidden, &weight, None, &targets),
        "label_smoothing is 1; it should be at least 0",
    );
}
