//! A trainer that owns its context, its stream and its buffers through cust, and has retromae work on them: attention under a mask of its own, and a linear
//! layer with its cross-entropy, forward and backward, each result beside the f64 reference.
//!
//! The device's own memory, its stream and its context are used where they are: nothing is copied, allocated or waited for in between.

use std::error::Error;

use cust::context::Context;
use cust::device::Device as CustDevice;
use cust::memory::{DeviceBuffer, DeviceCopy};
use cust::stream::{Stream as CustStream, StreamFlags};
use retromae::device::{DType, Device, Element, GemmWorkspace, Stream, View, ViewMut};
use retromae::ops::attention::{self, Attention, BackwardOptions, Mask, MaskBits};
use retromae::ops::cross_entropy::{self, Algorithm, Gradients, Options};
use retromae::ops::{Packed, Workspace};
use retromae::reference;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Sentences of the batch, one of them empty.
const LENGTHS: [usize; 4] = [5, 0, 33, 17];
const CU_SEQLENS: [i32; 5] = [0, 5, 5, 38, 55];
const TOKENS: usize = 55;
const HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const HIDDEN: usize = HEADS * HEAD_DIM;
const WORDS: usize = 100;
/// Bound of errors in f32: sums of up to 33 · 32 products, off by about √n · 6e-8 each.
const BOUND: f64 = 1e-5;

fn main() -> Result<()> {
    cust::init(cust::CudaFlags::empty())?;
    let _context = Context::new(CustDevice::get_device(0)?)?;
    let owner = CustStream::new(StreamFlags::NON_BLOCKING, None)?;

    // The same device. Matmuls work in memory of the trainer's.
    let device = Device::cuda(0)?;
    // SAFETY: bytes that nobody reads.
    let gemm_memory = unsafe { DeviceBuffer::<u8>::uninitialized(device.gemm_workspace_bytes())? };
    let workspace =
        GemmWorkspace { address: gemm_memory.as_device_ptr().as_raw(), bytes: device.gemm_workspace_bytes() };
    // SAFETY: the stream outlives this value, and the workspace is used by it alone.
    let stream = unsafe { device.lend_stream(owner.as_inner() as u64, Some(workspace))? };

    attention(&stream, &owner)?;
    linear_cross_entropy(&stream, &owner)
}

/// Attention of two heads in which a query sees each key that is not a multiple of three away.
fn attention(stream: &Stream, owner: &CustStream) -> Result<()> {
    let device = stream.device();
    let bits = MaskBits::from_fn(&LENGTHS, |_, query, key| query.abs_diff(key) % 3 != 0)?;
    let [query, key, value, d_output] = [0.7, 1.3, 0.3, 1.9].map(|step| wave(TOKENS * HIDDEN, step));
    let [query_buffer, key_buffer, value_buffer, d_output_buffer] =
        [upload(&query)?, upload(&key)?, upload(&value)?, upload(&d_output)?];
    let (cu_seqlens, words, offsets) = (upload(&CU_SEQLENS)?, upload(bits.words())?, upload(bits.offsets())?);
    let [mut output, mut d_query, mut d_key, mut d_value] =
        [zeros(TOKENS * HIDDEN)?, zeros(TOKENS * HIDDEN)?, zeros(TOKENS * HIDDEN)?, zeros(TOKENS * HIDDEN)?];
    let mut log_sum_exp = zeros::<f32>(HEADS * TOKENS)?;

    let packed = Packed { cu_seqlens: view(device, &cu_seqlens)?, tokens: TOKENS, max_seqlen: 33 };
    let mask = Mask::Bits { bits: view(device, &words)?, offsets: view(device, &offsets)? };
    let attention = Attention::new(packed, HEADS, HEAD_DIM).mask(mask);
    let forward = attention::Forward {
        attention,
        query: view(device, &query_buffer)?.rows_of(HIDDEN)?,
        key: view(device, &key_buffer)?.rows_of(HIDDEN)?,
        value: view(device, &value_buffer)?.rows_of(HIDDEN)?,
        output: view_mut(device, &mut output)?.rows_of(HIDDEN)?,
        log_sum_exp: view_mut(device, &mut log_sum_exp)?,
    };
    attention::forward(stream, forward)?;
    let backward = attention::Backward {
        attention,
        query: view(device, &query_buffer)?.rows_of(HIDDEN)?,
        key: view(device, &key_buffer)?.rows_of(HIDDEN)?,
        value: view(device, &value_buffer)?.rows_of(HIDDEN)?,
        output: view(device, &output)?.rows_of(HIDDEN)?,
        log_sum_exp: view(device, &log_sum_exp)?,
        d_output: view(device, &d_output_buffer)?.rows_of(HIDDEN)?,
        d_query: view_mut(device, &mut d_query)?.rows_of(HIDDEN)?,
        d_key: view_mut(device, &mut d_key)?.rows_of(HIDDEN)?,
        d_value: view_mut(device, &mut d_value)?.rows_of(HIDDEN)?,
        options: BackwardOptions::default(),
    };
    attention::backward(stream, backward)?;
    owner.synchronize()?;

    let exact = reference::attention::Attention {
        mask: reference::attention::Mask::Bits {
            bits: bits.words(),
            offsets: bits.offsets(),
            two_stream: false,
        },
        ..reference::attention::Attention::new(&CU_SEQLENS, HEADS, HEAD_DIM)
    };
    let [query, key, value, d_output] = [query, key, value, d_output].map(|values| wide(&values));
    let (exact_query, exact_key, exact_value) =
        reference::attention::backward(&exact, &query, &key, &value, &d_output);
    let exact = reference::attention::forward(&exact, &query, &key, &value).output;
    compare("attention, output", &output, &exact)?;
    compare("attention, d_query", &d_query, &exact_query)?;
    compare("attention, d_key", &d_key, &exact_key)?;
    compare("attention, d_value", &d_value, &exact_value)
}

/// The losses of a layer to [`WORDS`] token ids, and the gradients of their sum.
fn linear_cross_entropy(stream: &Stream, owner: &CustStream) -> Result<()> {
    let device = stream.device();
    let (hidden, weight) = (wave(TOKENS * HIDDEN, 0.7), wave(WORDS * HIDDEN, 1.3));
    let targets: Vec<i32> = (0..TOKENS as i32)
        .map(|row| if row % 4 == 0 { Options::default().ignore_index } else { row * 37 % WORDS as i32 })
        .collect();
    let (hidden_buffer, weight_buffer, targets_buffer) =
        (upload(&hidden)?, upload(&weight)?, upload(&targets)?);
    let mut losses = zeros::<f32>(TOKENS)?;
    let (mut d_hidden, mut d_weight) = (zeros::<f32>(TOKENS * HIDDEN)?, zeros::<f32>(WORDS * HIDDEN)?);
    // Logits of 16 rows at a time.
    let needed: Workspace = cross_entropy::workspace(Algorithm::default(), DType::F32, 16, HIDDEN, WORDS);
    let mut workspace = zeros::<u8>(needed.bytes())?;

    let forward = cross_entropy::Forward::new(
        view(device, &hidden_buffer)?.rows_of(HIDDEN)?,
        view(device, &weight_buffer)?.rows_of(HIDDEN)?,
        view(device, &targets_buffer)?,
        view_mut(device, &mut losses)?,
        view_mut(device, &mut workspace)?,
    );
    let gradients = Gradients {
        d_hidden: Some(view_mut(device, &mut d_hidden)?.rows_of(HIDDEN)?),
        d_weight: Some(view_mut(device, &mut d_weight)?.rows_of(HIDDEN)?),
        ..Gradients::default()
    };
    cross_entropy::forward_backward(stream, forward, gradients)?;
    owner.synchronize()?;

    let head = reference::cross_entropy::CrossEntropy {
        hidden: &wide(&hidden),
        weight: &wide(&weight),
        bias: &[0.0; WORDS],
        targets: &targets,
        row_weights: &[1.0; TOKENS],
        options: Options::default(),
    };
    let (exact_hidden, exact_weight, _) = reference::cross_entropy::backward(&head);
    compare("cross-entropy, losses", &losses, &reference::cross_entropy::forward(&head).row_loss)?;
    compare("cross-entropy, d_hidden", &d_hidden, &exact_hidden)?;
    compare("cross-entropy, d_weight", &d_weight, &exact_weight)
}

fn upload<T: DeviceCopy>(values: &[T]) -> Result<DeviceBuffer<T>> {
    Ok(DeviceBuffer::from_slice(values)?)
}

fn zeros<T: DeviceCopy + Default>(length: usize) -> Result<DeviceBuffer<T>> {
    upload(&vec![T::default(); length])
}

/// The elements of a buffer as an operation reads them.
fn view<'a, T: Element + DeviceCopy>(device: &'a Device, buffer: &'a DeviceBuffer<T>) -> Result<View<'a, T>> {
    // SAFETY: the buffer is initialized, and used on one stream alone, which is waited for before buffers are dropped.
    Ok(unsafe { View::borrow_raw(device, buffer.as_device_ptr().as_raw(), buffer.len())? })
}

/// The elements of a buffer as an operation writes them.
fn view_mut<'a, T: Element + DeviceCopy>(
    device: &'a Device,
    buffer: &'a mut DeviceBuffer<T>,
) -> Result<ViewMut<'a, T>> {
    // SAFETY: as in `view`, exclusively.
    Ok(unsafe { ViewMut::borrow_raw(device, buffer.as_device_ptr().as_raw(), buffer.len())? })
}

/// Values of a wave, in [-1, 1].
fn wave(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * step).sin()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// Refuses an error above [`BOUND`], relative to the norm.
fn compare(name: &str, actual: &DeviceBuffer<f32>, exact: &[f64]) -> Result<()> {
    let actual = wide(&actual.as_host_vec()?);
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let error = norm(&mut actual.iter().zip(exact).map(|(actual, exact)| actual - exact))
        / norm(&mut exact.iter().copied());
    println!("{name:>24}: {error:.1e} off");
    if error < BOUND {
        Ok(())
    } else {
        Err(format!("{name} is off by {error:.1e}, of at most {BOUND:.0e}").into())
    }
}
