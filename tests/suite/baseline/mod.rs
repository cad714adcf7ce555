//! The benches' baseline, composed of plain kernels and matmuls of the GEMM backend, agrees with the fused operations: the cases of the benches, at ugly
//! sizes.
//!
//! The two sides round intermediates at different points, so they agree up to a few roundings of the largest value.

mod step;

use std::fmt::Debug;

use retromae::device::{DType, Device, ModelFloat, bf16};

use crate::cases::baseline::passes;
use crate::cases::data::{read, typed};
use crate::cases::{
    self, FUSED, Pass, Results, UNFUSED, adamw, attention, cross_entropy, embedding, layer_norm,
};
use crate::common::devices;

const DROPOUT: f32 = 0.1;

#[track_caller]
fn assert_same(what: &str, dtype: DType, plain: &[f32], fused: &[f32]) {
    assert_eq!(plain.len(), fused.len(), "{what}");
    let largest = fused.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    let allowed = largest * if dtype == DType::F32 { 2e-5 } else { 3e-2 };
    assert!(largest > 0.0, "{what}: nothing but zeros");
    for (i, (a, e)) in plain.iter().zip(fused).enumerate() {
        assert!((a - e).abs() <= allowed, "{what} ({}): element {i} is {a}, not {e}", dtype.name());
    }
}

/// Returns the results of a variant's first run.
fn results<T>(device: &Device, case: &impl cases::Case<T>, name: &str) -> Results {
    let stream = device.stream();
    let variant = case.variants().into_iter().find(|variant| variant.name == name).expect("a variant");
    let mut work = (variant.prepare)(&stream).unwrap();
    work.run(&stream).unwrap();
    work.results().unwrap()
}

/// Compares the results of both variants; sums over rows of values in `T`, too, with its precision.
#[track_caller]
fn check<T: ModelFloat>(device: &Device, case: &(impl cases::Case<T> + Debug)) {
    let [fused, plain] = [FUSED, UNFUSED].map(|name| results(device, case, name));
    assert_eq!(fused.len(), plain.len(), "{case:?}");
    for ((name, plain), (other, fused)) in plain.iter().zip(&fused) {
        assert_eq!(name, other);
        assert_same(&format!("{name} of {case:?}"), T::DTYPE, plain, fused);
    }
}

#[test]
fn attention_computes_what_the_fused_kernels_do() {
    // Up to 1040 tokens, so that a row of scores may take a block of threads.
    let packs: [(&[usize], usize); 4] =
        [(&[16, 16, 16], 96), (&[1, 2, 17, 40, 33], 64), (&[130, 7, 256], 128), (&[1040, 3], 32)];
    for device in devices() {
        for (lengths, head_dim) in packs {
            // On the emulator a long sentence takes seconds: its kernels differ only in the softmax.
            let long = lengths.iter().any(|&length| length > 1024);
            let kinds = [(true, 0.0), (false, 0.0), (true, DROPOUT)];
            for &(masked, dropout) in &kinds[..if long { 1 } else { 3 }] {
                let case = attention::Case {
                    lengths: lengths.to_vec(),
                    tokens: lengths.iter().sum(),
                    heads: 2,
                    head_dim,
                    masked,
                    dropout,
                    pass: Pass::Backward,
                };
                check::<f32>(&device, &case);
                check::<bf16>(&device, &case);
            }
        }
    }
}

#[test]
fn cross_entropy_computes_what_the_fused_operation_does() {
    for device in devices() {
        for (rows, vocabulary) in [(5, 40), (33, 1003), (3, 5000)] {
            let case = cross_entropy::Case {
                rows,
                hidden_size: 24,
                vocabulary,
                chunk: rows,
                ignores: true,
                rank: cases::Rank::Rest,
            };
            check::<f32>(&device, &case);
            check::<bf16>(&device, &case);
        }
    }
}

#[test]
fn layer_norm_computes_what_the_fused_kernels_do() {
    for device in devices() {
        for (rows, columns) in [(1, 8), (70, 264), (600, 768)] {
            for whole in [false, true] {
                let case = layer_norm::Case {
                    rows,
                    columns,
                    mean: 0.0,
                    bias: whole,
                    residual: whole,
                    d_bias: whole,
                    dropout: if whole { DROPOUT } else { 0.0 },
                    pass: Pass::Backward,
                };
                check::<f32>(&device, &case);
                check::<bf16>(&device, &case);
            }
        }
    }
}

#[test]
fn the_embedding_gradient_is_that_of_the_sorted_segments() {
    let case = embedding::Case { tokens: 90, columns: 40, vocabulary: 17 };
    for device in devices() {
        check::<f32>(&device, &case);
        check::<bf16>(&device, &case);
    }
}

#[test]
fn adamw_takes_the_step_of_the_fused_kernel() {
    let case = adamw::Case {
        name: "ugly",
        count: 20_008,
        decayed: 12_000,
        copy: true,
        learning_rate: 1e-2,
        weight_decay: 0.1,
    };
    for device in devices() {
        let [fused, plain] = [FUSED, UNFUSED].map(|name| results::<f32>(&device, &case, name));
        assert_eq!(fused.len(), 4);
        for ((name, plain), (_, fused)) in plain.iter().zip(&fused) {
            let dtype = if name == "compute_parameters" { DType::Bf16 } else { DType::F32 };
            assert_same(name, dtype, plain, fused);
        }
    }
}

fn gelu_agrees<T: ModelFloat>(device: &Device) {
    let stream = device.stream();
    let (rows, columns) = (37, 24);
    let upload = |seed| device.upload(&typed::<T>(seed, rows * columns)).unwrap();
    let (input, mut gradient, d_output) = (upload(1), upload(2), upload(2));
    let bias = device.zeros::<f32>(columns).unwrap();
    let zeros = || device.zeros::<T>(rows * columns).unwrap();
    let (mut plain, mut fused, mut d_input) = (zeros(), zeros(), zeros());
    passes::gelu(&stream, input.view(), plain.view_mut()).unwrap();
    passes::gelu_backward(&stream, input.view(), gradient.view_mut()).unwrap();
    let forward = retromae::ops::bias_gelu::Forward {
        input: input.matrix(rows, columns).unwrap(),
        bias: bias.view(),
        output: fused.matrix_mut(rows, columns).unwrap(),
    };
    retromae::ops::bias_gelu::forward(&stream, forward).unwrap();
    let backward = retromae::ops::bias_gelu::Backward {
        input: input.matrix(rows, columns).unwrap(),
        bias: bias.view(),
        d_output: d_output.matrix(rows, columns).unwrap(),
        d_input: d_input.matrix_mut(rows, columns).unwrap(),
    };
    retromae::ops::bias_gelu::backward(&stream, backward).unwrap();
    assert_same("gelu", T::DTYPE, &read(&plain).unwrap(), &read(&fused).unwrap());
    assert_same("gelu's gradient", T::DTYPE, &read(&gradient).unwrap(), &read(&d_input).unwrap());
    passes::add_to(&stream, fused.view_mut(), plain.view()).unwrap();
    passes::scale(&stream, plain.view_mut(), 2.0).unwrap();
    assert_same("sum", T::DTYPE, &read(&fused).unwrap(), &read(&plain).unwrap());
}

#[test]
fn gelu_is_that_of_the_fused_kernel() {
    for device in devices() {
        gelu_agrees::<f32>(&device);
        gelu_agrees::<bf16>(&device);
    }
}
