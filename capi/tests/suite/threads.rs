//! A thousand threads at once.

use std::ptr::null_mut;
use std::sync::Barrier;

use retromae::device::View;
use retromae_capi::*;

use crate::common::{OK, code, device, handle, last_error, values};
use crate::init;

const THREADS: usize = 1000;
const COLUMNS: usize = 8;
/// Enough for a call in a build for tests, and little for a thousand threads.
const STACK_BYTES: usize = 256 << 10;

/// Each thread's error text is its own, and each call's output, too.
#[test]
fn a_thousand_threads_call_at_once() {
    // Buffers are made beforehand: threads share the device's memory, but not each other's arrays.
    let inputs: Vec<_> = (0..THREADS as u64).map(|seed| values::<f32>(seed, COLUMNS)).collect();
    let input: Vec<_> = inputs.iter().map(|input| device().upload(input).unwrap()).collect();
    let bias = device().zeros::<f32>(COLUMNS).unwrap();
    let output: Vec<_> = inputs.iter().map(|_| device().zeros::<f32>(COLUMNS).unwrap()).collect();
    let place = |view: View<'_, f32>| std::ptr::with_exposed_provenance_mut::<f32>(view.address() as usize);
    let begin = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (input, bias, output, begin) = (&input[thread], &bias, &output[thread], &begin);
            let call = move || {
                let mut desc = rmae_bias_gelu_desc {
                    dtype: code::<f32>(),
                    rows: 1,
                    columns: COLUMNS as i64,
                    input: place(input.view()).cast(),
                    bias: place(bias.view()),
                    output: place(output.view()).cast(),
                    ..init!(rmae_bias_gelu_desc, RMAE_BIAS_GELU_VERSION)
                };
                begin.wait();
                for _ in 0..3 {
                    desc.rows = -1 - thread as i64;
                    // SAFETY: refused before any array is read.
                    let status = unsafe { rmae_bias_gelu_forward(handle(), null_mut(), &raw const desc) };
                    assert_eq!(status, RMAE_INVALID_ARGUMENT as rmae_status);
                    desc.rows = 1;
                    // SAFETY: the arrays have these lengths, and the output is this thread's.
                    let status = unsafe { rmae_bias_gelu_forward(handle(), null_mut(), &raw const desc) };
                    assert_eq!(status, OK, "{}", last_error());
                    // A call that succeeds leaves the text of the last failure.
                    assert_eq!(
                        last_error(),
                        format!("rows is {}; it should be in 0..2^40", -1 - thread as i64)
                    );
                }
            };
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, call).unwrap();
        }
    });
    // SAFETY: the legacy stream.
    assert_eq!(unsafe { rmae_stream_synchronize(handle(), null_mut()) }, OK);
    for (input, output) in inputs.iter().zip(&output) {
        for (x, y) in input.iter().zip(output.read().unwrap()) {
            // GELU lies between the line and 0, and is neither.
            assert!(y != 0.0 && (y / x - 0.5).abs() < 0.5, "{x} {y}");
        }
    }
}
