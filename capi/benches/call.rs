//! The cost of a call from C on the host device, beside the same call in Rust. `cargo bench --package retromae-capi --bench call`
//!
//! The smallest operations, whose kernels take most of the time, and the same without rows, which launch no kernel: what is left is the descriptor's
//! checks, the views and the lent stream.

use std::ffi::c_void;
use std::ptr::null_mut;

use criterion::{Criterion, criterion_group, criterion_main};
use retromae::device::{Buffer, Device, Element};
use retromae::ops::PackedBatch;
use retromae::ops::attention::{self, Attention};
use retromae::ops::bias_gelu;
use retromae_capi::{
    RMAE_ATTENTION_VERSION, RMAE_BIAS_GELU_VERSION, RMAE_F32, RMAE_OK, rmae_attention_desc,
    rmae_attention_forward, rmae_bias_gelu_desc, rmae_bias_gelu_forward, rmae_device, rmae_device_open,
    rmae_dtype, rmae_packed, rmae_status,
};

fn open() -> (Device, rmae_device) {
    let mut handle = null_mut();
    // SAFETY: a C string, and the address of the result.
    let status = unsafe { rmae_device_open(c"host".as_ptr(), 0, &raw mut handle) };
    assert_eq!(status, RMAE_OK as rmae_status);
    (Device::host().unwrap_or_else(|error| panic!("the host device: {error}")), handle)
}

fn zeros<T: Element>(device: &Device, length: usize) -> Buffer<T> {
    device.zeros(length).unwrap_or_else(|error| panic!("{length} elements: {error}"))
}

fn address<T: Element>(buffer: &Buffer<T>) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(buffer.view().address() as usize)
}

fn gelu(criterion: &mut Criterion) {
    const COLUMNS: usize = 8;
    let (device, handle) = open();
    let [input, bias, mut output] = [(); 3].map(|()| zeros::<f32>(&device, COLUMNS));
    let desc = rmae_bias_gelu_desc {
        size: size_of::<rmae_bias_gelu_desc>() as u32,
        version: RMAE_BIAS_GELU_VERSION,
        flags: 0,
        dtype: RMAE_F32 as rmae_dtype,
        rows: 1,
        columns: COLUMNS as i64,
        input: address(&input),
        bias: address(&bias).cast(),
        output: address(&output),
        d_output: null_mut(),
        d_input: null_mut(),
    };
    let mut group = criterion.benchmark_group("bias_gelu_forward");
    group.bench_function("c", |bencher| {
        // SAFETY: the arrays have these lengths, and nobody else uses the output.
        bencher.iter(|| unsafe { rmae_bias_gelu_forward(handle, null_mut(), &raw const desc) });
    });
    let empty = rmae_bias_gelu_desc { rows: 0, ..desc };
    group.bench_function("c, no rows", |bencher| {
        // SAFETY: as above.
        bencher.iter(|| unsafe { rmae_bias_gelu_forward(handle, null_mut(), &raw const empty) });
    });
    let refused = rmae_bias_gelu_desc { columns: 7, ..desc };
    group.bench_function("c, refused", |bencher| {
        // SAFETY: as above.
        bencher.iter(|| unsafe { rmae_bias_gelu_forward(handle, null_mut(), &raw const refused) });
    });
    let stream = device.stream();
    for (name, rows) in [("rust", 1), ("rust, no rows", 0)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let forward = bias_gelu::Forward {
                    input: input.slice(0..rows * COLUMNS).matrix(rows, COLUMNS)?,
                    bias: bias.view(),
                    output: output.slice_mut(0..rows * COLUMNS).matrix(rows, COLUMNS)?,
                };
                bias_gelu::forward(&stream, forward)
            });
        });
    }
    group.finish();
}

fn smallest_attention(criterion: &mut Criterion) {
    const HEAD_DIM: usize = 32;
    let (device, handle) = open();
    let [query, key, value, mut output] = [(); 4].map(|()| zeros::<f32>(&device, HEAD_DIM));
    let mut log_sum_exp = zeros::<f32>(&device, 1);
    let cu_seqlens = device.upload(&[0, 1]).unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: numbers and addresses, all of which may be 0.
    let mut desc: rmae_attention_desc = unsafe { std::mem::zeroed() };
    desc.size = size_of::<rmae_attention_desc>() as u32;
    desc.version = RMAE_ATTENTION_VERSION;
    desc.dtype = RMAE_F32 as rmae_dtype;
    (desc.num_heads, desc.head_dim) = (1, HEAD_DIM as i64);
    desc.batch =
        rmae_packed { cu_seqlens: address(&cu_seqlens).cast(), sequences: 1, tokens: 1, max_seqlen: 1 };
    (desc.query, desc.key, desc.value) = (address(&query), address(&key), address(&value));
    (desc.output, desc.log_sum_exp) = (address(&output), address(&log_sum_exp).cast());
    let mut group = criterion.benchmark_group("attention_forward");
    group.bench_function("c", |bencher| {
        // SAFETY: the arrays have these lengths, and nobody else uses the outputs.
        bencher.iter(|| unsafe { rmae_attention_forward(handle, null_mut(), &raw const desc) });
    });
    let batch = PackedBatch::new(&device, &[1]).unwrap_or_else(|error| panic!("{error}"));
    let stream = device.stream();
    group.bench_function("rust", |bencher| {
        bencher.iter(|| {
            let forward = attention::Forward {
                attention: Attention::new(batch.view(), 1, HEAD_DIM),
                query: query.matrix(1, HEAD_DIM)?,
                key: key.matrix(1, HEAD_DIM)?,
                value: value.matrix(1, HEAD_DIM)?,
                output: output.matrix_mut(1, HEAD_DIM)?,
                log_sum_exp: log_sum_exp.view_mut(),
            };
            attention::forward(&stream, forward)
        });
    });
    group.finish();
}

criterion_group!(benches, gelu, smallest_attention);
criterion_main!(benches);
