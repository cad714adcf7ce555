//! The model and its training step.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use retromae::device::{DType, Device, Stream, bf16};
use retromae::model::io::{Purpose, WEIGHTS_FILE, parse_config};
use retromae::model::{
    AdamW, Batch, Capacity, Input, Losses, MaskPool, Masking, MicroBatch, Model, ModelConfig,
    PackedSentences, PoolRows, Pooling, StepHandle, StepRandomness, StepResult, TrainStep,
};

use crate::call::{read_descriptor, size};
use crate::devices::{device_of, text};
use crate::handles::Handles;
use crate::operations::write;
use crate::status::{Failure, Result, Status, invalid};
use crate::types::{count_limit, no_f16};
use crate::{border, sys};

static MODELS: Handles<Shared> = Handles::new("model");

/// A model in the type that it computes in.
enum AnyModel {
    F32(Model<f32>),
    Bf16(Model<bf16>),
}

/// Evaluates an expression with `$model` as the model of either type.
macro_rules! with_model {
    ($any:expr, $model:ident => $body:expr) => {
        match $any {
            AnyModel::F32($model) => $body,
            AnyModel::Bf16($model) => $body,
        }
    };
}

/// A model that was made by C.
struct Shared {
    device: Device,
    /// Names and shapes, in the order of the arena.
    parameters: Vec<Parameter>,
    state: Mutex<State>,
}

struct Parameter {
    name: CString,
    rows: i64,
    columns: i64,
    offset: i64,
    length: i64,
}

struct State {
    model: AnyModel,
    /// The last step that was enqueued.
    last: Option<StepHandle>,
    /// The caller has the addresses of the gradients, and may write there.
    lent: bool,
}

impl Shared {
    fn new(device: &Device, model: AnyModel) -> Self {
        let parameters = with_model!(&model, model => {
            let places = model.parameter_ranges().into_iter().zip(model.parameter_shapes());
            places
                .map(|((name, range), (_, shape))| Parameter {
                    name: CString::new(name).unwrap_or_default(),
                    rows: shape.first().copied().unwrap_or(1) as i64,
                    columns: shape.get(1).copied().unwrap_or(1) as i64,
                    offset: range.start as i64,
                    length: range.len() as i64,
                })
                .collect()
        });
        let state = Mutex::new(State { model, last: None, lent: false });
        Self { device: device.clone(), parameters, state }
    }

    /// Waits for other calls with this model.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lent {
            // Gradients are then never taken for zero.
            with_model!(&mut state.model, model => drop(model.arrays()));
        }
        state
    }

    /// The caller's stream, which reads of the model's memory wait for.
    ///
    /// # Safety
    /// The stream is alive until the call returns.
    unsafe fn stream(&self, handle: *mut c_void) -> Result<Stream> {
        if self.device.name() == "host" && handle.is_null() {
            return Ok(self.device.stream());
        }
        // SAFETY: passed on to the caller.
        unsafe { self.device.borrow_stream(handle.addr() as u64) }
            .map_err(|error| Failure::of_field("stream", error))
    }
}

/// Returns the failure of a model's file.
fn file_failure(error: retromae::model::io::Error) -> Failure {
    match error {
        retromae::model::io::Error::Operation(error) => error.into(),
        error => Failure { status: Status::FileError, text: error.to_string() },
    }
}

fn model_of(model: sys::rmae_model) -> Result<Arc<Shared>> {
    MODELS.get(model.cast())
}

fn capacity_of(capacity: sys::rmae_capacity) -> Result<Capacity> {
    Ok(Capacity {
        tokens: size("capacity.tokens", capacity.tokens)?,
        sentences: size("capacity.sentences", capacity.sentences)?,
        sentence_length: size("capacity.sentence_length", capacity.sentence_length)?,
    })
}

/// # Safety
/// `config` is null or a C string.
unsafe fn config_of(config: *const c_char) -> Result<ModelConfig> {
    // SAFETY: passed on to the caller.
    let config = unsafe { text("config", config)? };
    parse_config(config, None)
        .map_err(|reason| Failure { status: Status::InvalidArgument, text: format!("config: {reason}") })
}

/// `rmae_model_create` of the header.
///
/// # Safety
/// `config` is null or a C string, `model` null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_create(
    device: sys::rmae_device,
    config: *const c_char,
    dtype: sys::rmae_dtype,
    capacity: sys::rmae_capacity,
    model: *mut sys::rmae_model,
) -> sys::rmae_status {
    border::call(|| {
        let device = device_of(device)?;
        // SAFETY: passed on to the caller.
        let config = unsafe { config_of(config)? };
        let capacity = capacity_of(capacity)?;
        if model.is_null() {
            return Err(Failure::field(Status::NullPointer, "model", "NULL", "the address of the result"));
        }
        let made = match crate::types::dtype("dtype", dtype)? {
            DType::F32 => AnyModel::F32(Model::new(&device, &config, capacity)?),
            DType::Bf16 => AnyModel::Bf16(Model::new(&device, &config, capacity)?),
            DType::F16 => return Err(no_f16("dtype")),
        };
        // SAFETY: passed on to the caller.
        unsafe { write("model", model, MODELS.open(Shared::new(&device, made)).cast()) }
    })
}

/// `rmae_model_destroy` of the header.
#[unsafe(no_mangle)]
pub extern "C" fn rmae_model_destroy(model: sys::rmae_model) -> sys::rmae_status {
    border::call(|| MODELS.close(model.cast()).map(drop))
}

/// `rmae_model_memory` of the header.
///
/// # Safety
/// `config` is null or a C string, `bytes` null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_memory(
    device: sys::rmae_device,
    config: *const c_char,
    dtype: sys::rmae_dtype,
    capacity: sys::rmae_capacity,
    bytes: *mut usize,
) -> sys::rmae_status {
    border::call(|| {
        let device = device_of(device)?;
        // SAFETY: passed on to the caller.
        let config = unsafe { config_of(config)? };
        let capacity = capacity_of(capacity)?;
        let needed = match crate::types::dtype("dtype", dtype)? {
            DType::F32 => Model::<f32>::memory_bytes(&device, &config, capacity)?,
            DType::Bf16 => Model::<bf16>::memory_bytes(&device, &config, capacity)?,
            DType::F16 => return Err(no_f16("dtype")),
        };
        // SAFETY: passed on to the caller.
        unsafe { write("bytes", bytes, needed) }
    })
}

/// `rmae_model_initialize` of the header.
#[unsafe(no_mangle)]
pub extern "C" fn rmae_model_initialize(model: sys::rmae_model, seed: u64) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        let mut state = shared.lock();
        Ok(with_model!(&mut state.model, model => model.initialize(seed))?)
    })
}

/// `rmae_model_parameter_count` of the header.
///
/// # Safety
/// `count` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_parameter_count(
    model: sys::rmae_model,
    count: *mut i64,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        // SAFETY: passed on to the caller.
        unsafe { write("count", count, shared.parameters.len() as i64) }
    })
}

/// `rmae_model_parameter_info` of the header.
///
/// # Safety
/// `info` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_parameter_info(
    model: sys::rmae_model,
    index: i64,
    info: *mut sys::rmae_parameter_info,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        let found = usize::try_from(index).ok().and_then(|index| shared.parameters.get(index));
        let Some(Parameter { name, rows, columns, offset, length }) = found else {
            return invalid("index", index, format_args!("in 0..{}", shared.parameters.len()));
        };
        let found = sys::rmae_parameter_info {
            name: name.as_ptr(),
            rows: *rows,
            columns: *columns,
            offset: *offset,
            length: *length,
        };
        // SAFETY: passed on to the caller.
        unsafe { write("info", info, found) }
    })
}

/// Copies a parameter or its gradient to the caller.
///
/// # Safety
/// `name` is null or a C string, `values` null or valid for `length` elements.
unsafe fn read_out(
    model: sys::rmae_model,
    name: *const c_char,
    (values, length): (*mut f32, i64),
    read: impl FnOnce(&AnyModel, &str) -> retromae::ops::Result<Vec<f32>>,
) -> Result<()> {
    let shared = model_of(model)?;
    // SAFETY: passed on to the caller.
    let name = unsafe { text("name", name)? };
    let found = read(&shared.lock().model, name)?;
    if size("length", length)? != found.len() {
        return invalid("length", length, format_args!("{}, the elements of {name}", found.len()));
    }
    if values.is_null() {
        return Err(Failure::field(Status::NullPointer, "values", "NULL", "an array"));
    }
    // SAFETY: passed on to the caller.
    unsafe { values.copy_from_nonoverlapping(found.as_ptr(), found.len()) };
    Ok(())
}

/// `rmae_model_parameter` of the header.
///
/// # Safety
/// `name` is null or a C string, `values` null or valid for `length` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_parameter(
    model: sys::rmae_model,
    name: *const c_char,
    values: *mut f32,
    length: i64,
) -> sys::rmae_status {
    border::call(|| {
        // SAFETY: passed on to the caller.
        unsafe {
            read_out(
                model,
                name,
                (values, length),
                |any, name| with_model!(any, model => model.parameter(name)),
            )
        }
    })
}

/// `rmae_model_gradient` of the header.
///
/// # Safety
/// As [`rmae_model_parameter`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_gradient(
    model: sys::rmae_model,
    name: *const c_char,
    values: *mut f32,
    length: i64,
) -> sys::rmae_status {
    border::call(|| {
        // SAFETY: passed on to the caller.
        unsafe {
            read_out(
                model,
                name,
                (values, length),
                |any, name| with_model!(any, model => model.gradient(name)),
            )
        }
    })
}

/// `rmae_model_set_parameter` of the header.
///
/// # Safety
/// As [`rmae_model_parameter`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_set_parameter(
    model: sys::rmae_model,
    name: *const c_char,
    values: *const f32,
    length: i64,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        // SAFETY: passed on to the caller.
        let (name, values) =
            unsafe { (text("name", name)?, host_array("values", values, size("length", length)?)?) };
        Ok(with_model!(&mut shared.lock().model, model => model.set_parameter(name, &values))?)
    })
}

/// `rmae_model_parameters_arena` of the header.
///
/// # Safety
/// `arena` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_parameters_arena(
    model: sys::rmae_model,
    arena: *mut sys::rmae_arena,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        let mut state = shared.lock();
        state.lent = true;
        let address = |address: u64| std::ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        let found = with_model!(&mut state.model, model => {
            let arrays = model.arrays();
            sys::rmae_arena {
                parameters: address(arrays.parameters.address()).cast(),
                compute_parameters: address(arrays.compute_parameters.as_ref().map_or(0, |copy| copy.address())),
                gradients: address(arrays.gradients.address()).cast(),
                first_moments: address(arrays.first_moments.address()).cast(),
                second_moments: address(arrays.second_moments.address()).cast(),
                length: arrays.parameters.len() as i64,
                decayed: arrays.decayed as i64,
            }
        });
        // SAFETY: passed on to the caller.
        unsafe { write("arena", arena, found) }
    })
}

/// `rmae_model_zero_gradients` of the header.
///
/// # Safety
/// The stream is alive until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_zero_gradients(
    model: sys::rmae_model,
    stream: *mut c_void,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        // SAFETY: passed on to the caller.
        let stream = unsafe { shared.stream(stream)? };
        Ok(with_model!(&mut shared.lock().model, model => model.zero_gradients(&stream))?)
    })
}

/// A batch that was copied from the caller.
enum OwnBatch {
    Explicit(Batch),
    Sampled(PackedSentences, Masking),
}

impl OwnBatch {
    fn input(&self) -> Input<'_> {
        match self {
            Self::Explicit(batch) => Input::Explicit(batch),
            Self::Sampled(sentences, masking) => Input::Sampled(sentences, *masking),
        }
    }
}

/// Copies an array of the host.
///
/// # Safety
/// `data` is null or valid for `length` elements.
unsafe fn host_array<T: Copy>(field: &'static str, data: *const T, length: usize) -> Result<Vec<T>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    if data.is_null() {
        return Err(Failure::field(
            Status::NullPointer,
            field,
            "NULL",
            format_args!("an array of {length} elements"),
        ));
    }
    if !data.is_aligned() {
        let expected = format_args!("aligned to {} bytes", align_of::<T>());
        return Err(Failure::field(Status::Misaligned, field, format_args!("at {data:p}"), expected));
    }
    // SAFETY: passed on to the caller.
    Ok(unsafe { std::slice::from_raw_parts(data, length) }.to_vec())
}

/// Copies prefix sums of the host; returns them with the number of tokens.
///
/// # Safety
/// `cu_seqlens` is null or valid for `sentences + 1` elements.
unsafe fn prefix_sums(sentences: i64, cu_seqlens: *const i32) -> Result<(Vec<i32>, usize)> {
    let sentences = size("sentences", sentences)?;
    // SAFETY: passed on to the caller.
    let cu_seqlens = unsafe { host_array("cu_seqlens", cu_seqlens, sentences + 1)? };
    let tokens = cu_seqlens[sentences];
    match usize::try_from(tokens) {
        Ok(tokens) if cu_seqlens.is_sorted() && cu_seqlens[0] == 0 => Ok((cu_seqlens, tokens)),
        _ => invalid(
            "cu_seqlens",
            format_args!("from {} to {tokens}", cu_seqlens[0]),
            "prefix sums from 0, never falling",
        ),
    }
}

/// # Safety
/// `batch` is null or points to a batch, whose arrays are valid for their lengths.
unsafe fn batch_of(batch: *const sys::rmae_batch) -> Result<OwnBatch> {
    // SAFETY: passed on to the caller, here and below.
    let batch = unsafe { read_descriptor(batch)? };
    let (cu_seqlens, tokens) = unsafe { prefix_sums(batch.sentences, batch.cu_seqlens)? };
    let sentences = cu_seqlens.len() - 1;
    if !batch.ids.is_null() {
        let sentences = unsafe {
            PackedSentences {
                sentence_indices: host_array("sentence_indices", batch.sentence_indices, sentences)?,
                ids: host_array("ids", batch.ids, tokens)?,
                word_starts: host_array("word_starts", batch.word_starts, tokens.div_ceil(32))?,
                cu_seqlens,
            }
        };
        let masking = Masking {
            mask_id: batch.mask_id,
            encoder: count_limit("encoder_limit", batch.encoder_limit)?,
            decoder: count_limit("decoder_limit", batch.decoder_limit)?,
            pool_rows: match size("pool_rows", batch.pool_rows)? {
                0 => PoolRows::Independent,
                rows => PoolRows::AtMost(rows),
            },
        };
        return Ok(OwnBatch::Sampled(sentences, masking));
    }
    let visibility = if batch.visibility_bits.is_null() {
        None
    } else {
        let words = size("visibility_words", batch.visibility_words)?;
        Some(unsafe {
            MaskPool {
                bits: host_array("visibility_bits", batch.visibility_bits, words)?,
                offsets: host_array("visibility_offsets", batch.visibility_offsets, sentences + 1)?,
                rows: host_array("visibility_rows", batch.visibility_rows, tokens)?,
            }
        })
    };
    Ok(OwnBatch::Explicit(unsafe {
        Batch {
            encoder_input_ids: host_array("encoder_input_ids", batch.encoder_input_ids, tokens)?,
            encoder_labels: host_array("encoder_labels", batch.encoder_labels, tokens)?,
            decoder_input_ids: host_array("decoder_input_ids", batch.decoder_input_ids, tokens)?,
            decoder_labels: host_array("decoder_labels", batch.decoder_labels, tokens)?,
            visibility,
            cu_seqlens,
        }
    }))
}

fn outcome_of(losses: &Losses, gradient_norm: f32) -> sys::rmae_outcome {
    sys::rmae_outcome {
        encoder_loss: losses.encoder,
        decoder_loss: losses.decoder,
        bag_of_words_loss: losses.bag_of_words.unwrap_or(f32::NAN),
        encoder_accuracy: losses.encoder_accuracy,
        decoder_accuracy: losses.decoder_accuracy,
        encoder_perplexity: losses.encoder_perplexity,
        decoder_perplexity: losses.decoder_perplexity,
        gradient_norm,
    }
}

/// # Safety
/// `constants` is null or valid.
pub unsafe fn adamw_of(constants: *const sys::rmae_adamw_constants) -> Result<AdamW> {
    if constants.is_null() {
        return Err(Failure::field(
            Status::NullPointer,
            "constants",
            "NULL",
            "RMAE_ADAMW_DEFAULTS or others",
        ));
    }
    // SAFETY: passed on to the caller.
    let sys::rmae_adamw_constants { beta1, beta2, eps, weight_decay, max_norm } =
        unsafe { constants.read_unaligned() };
    Ok(AdamW { beta1, beta2, eps, weight_decay, max_norm: Some(max_norm).filter(|&norm| norm != 0.0) })
}

/// `rmae_model_step` of the header.
///
/// # Safety
/// `batch` is null or points to a batch, whose arrays are valid for their lengths; `seed` and `outcome` are null or valid; the stream is alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_step(
    model: sys::rmae_model,
    stream: *mut c_void,
    batch: *const sys::rmae_batch,
    seed: *const u64,
    step: u32,
    outcome: *mut sys::rmae_outcome,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        // SAFETY: passed on to the caller.
        let (batch, stream, seed) = unsafe { (batch_of(batch)?, shared.stream(stream)?, seed.as_ref()) };
        let randomness = seed.map(|&seed| StepRandomness { seed, step });
        let losses =
            with_model!(&mut shared.lock().model, model => model.step(&stream, batch.input(), randomness))?;
        // SAFETY: passed on to the caller.
        unsafe { write("outcome", outcome, outcome_of(&losses, f32::NAN)) }
    })
}

/// `rmae_model_accumulate` of the header.
///
/// # Safety
/// `batch` is null or points to a batch, whose arrays are valid for their lengths; the stream is alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_accumulate(
    model: sys::rmae_model,
    stream: *mut c_void,
    batch: *const sys::rmae_batch,
    seed: u64,
    step: u32,
    weight: f32,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        // SAFETY: passed on to the caller.
        let (batch, stream) = unsafe { (batch_of(batch)?, shared.stream(stream)?) };
        let batch = MicroBatch::new(batch.input(), StepRandomness { seed, step }).weight(weight);
        let mut state = shared.lock();
        let handle = with_model!(&mut state.model, model => model.accumulate(&stream, &batch))?;
        state.last = Some(handle);
        Ok(())
    })
}

/// `rmae_model_train_step` of the header.
///
/// # Safety
/// As [`rmae_model_accumulate`]; `constants` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_train_step(
    model: sys::rmae_model,
    stream: *mut c_void,
    batch: *const sys::rmae_batch,
    seed: u64,
    step: u32,
    constants: *const sys::rmae_adamw_constants,
    learning_rate: f64,
    update: u32,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        // SAFETY: passed on to the caller.
        let (batch, stream, optimizer) =
            unsafe { (batch_of(batch)?, shared.stream(stream)?, adamw_of(constants)?) };
        let batch = MicroBatch::new(batch.input(), StepRandomness { seed, step });
        let step = TrainStep { batch, optimizer: &optimizer, learning_rate, update };
        let mut state = shared.lock();
        let handle = with_model!(&mut state.model, model => model.train_step(&stream, &step))?;
        state.last = Some(handle);
        Ok(())
    })
}

/// `rmae_model_update` of the header.
///
/// # Safety
/// `constants` and `gradient_norm` are null or valid; the stream is alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_update(
    model: sys::rmae_model,
    stream: *mut c_void,
    constants: *const sys::rmae_adamw_constants,
    learning_rate: f64,
    update: u32,
    gradient_norm: *mut f32,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        // SAFETY: passed on to the caller.
        let (stream, optimizer) = unsafe { (shared.stream(stream)?, adamw_of(constants)?) };
        let norm = with_model!(&mut shared.lock().model, model => {
            model.update(&stream, &optimizer, learning_rate, update)
        })?;
        // SAFETY: passed on to the caller.
        unsafe { write("gradient_norm", gradient_norm, norm) }
    })
}

/// `rmae_model_outcome` of the header.
///
/// # Safety
/// `outcome` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_outcome(
    model: sys::rmae_model,
    outcome: *mut sys::rmae_outcome,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        let mut state = shared.lock();
        let Some(handle) = state.last else {
            return invalid(
                "model",
                "without a step",
                "one with rmae_model_accumulate or rmae_model_train_step before",
            );
        };
        let StepResult { losses, gradient_norm } =
            with_model!(&mut state.model, model => model.result(handle))?;
        // SAFETY: passed on to the caller.
        unsafe { write("outcome", outcome, outcome_of(&losses, gradient_norm)) }
    })
}

/// `rmae_model_embed` of the header.
///
/// # Safety
/// The arrays are null or valid for their lengths; the stream is alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_embed(
    model: sys::rmae_model,
    stream: *mut c_void,
    sentences: i64,
    cu_seqlens: *const i32,
    ids: *const i32,
    mean: i32,
    vectors: *mut f32,
) -> sys::rmae_status {
    border::call(|| {
        let shared = model_of(model)?;
        // SAFETY: passed on to the caller, here and below.
        let stream = unsafe { shared.stream(stream)? };
        let (cu_seqlens, tokens) = unsafe { prefix_sums(sentences, cu_seqlens)? };
        let ids = unsafe { host_array("ids", ids, tokens)? };
        if vectors.is_null() {
            return Err(Failure::field(Status::NullPointer, "vectors", "NULL", "an array"));
        }
        let pooling = if mean == 0 { Pooling::Cls } else { Pooling::Mean };
        let found = with_model!(&mut shared.lock().model, model => {
            model.embed_pooled(&stream, &cu_seqlens, &ids, pooling)
        })?;
        unsafe { vectors.copy_from_nonoverlapping(found.as_ptr(), found.len()) };
        Ok(())
    })
}

/// Defines the functions that read or write a model's files.
macro_rules! files {
    ($($name:ident, $argument:ident, |$model:ident, $path:ident| $body:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of the header.")]
        ///
        /// # Safety
        /// The path is null or a C string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(model: sys::rmae_model, $argument: *const c_char) -> sys::rmae_status {
            border::call(|| {
                let shared = model_of(model)?;
                // SAFETY: passed on to the caller.
                let $path = Path::new(unsafe { text(stringify!($argument), $argument)? });
                with_model!(&mut shared.lock().model, $model => $body).map_err(file_failure)
            })
        }
    )*};
}

files! {
    rmae_model_save, directory, |model, path| model.save(path, None);
    rmae_model_load, directory, |model, path| {
        model.load_weights(&path.join(WEIGHTS_FILE), Purpose::Training).map(drop)
    };
    rmae_model_save_state, file, |model, path| model.save_state(path);
    rmae_model_load_state, file, |model, path| model.load_state(path);
}

as_declared! {
    rmae_model_create,
    rmae_model_destroy,
    rmae_model_memory,
    rmae_model_initialize,
    rmae_model_parameter_count,
    rmae_model_parameter_info,
    rmae_model_parameter,
    rmae_model_set_parameter,
    rmae_model_gradient,
    rmae_model_parameters_arena,
    rmae_model_zero_gradients,
    rmae_model_step,
    rmae_model_accumulate,
    rmae_model_train_step,
    rmae_model_update,
    rmae_model_outcome,
    rmae_model_embed,
    rmae_model_save,
    rmae_model_load,
    rmae_model_save_state,
    rmae_model_load_state,
}
