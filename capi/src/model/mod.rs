//! The model and its training step.

mod batch;
mod files;
mod steps;

use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use retromae::device::{DType, Device, Stream, ViewMut, bf16};
use retromae::model::io::parse_config;
use retromae::model::{Capacity, Model, ModelConfig, StepHandle};

use crate::call::{host_array, size, write_host_array};
use crate::devices::{device_of, text};
use crate::handles::Handles;
use crate::operations::write;
use crate::status::{Failure, Result, Status, invalid};
use crate::types::no_f16;
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
use with_model;

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
///
/// # Safety
/// None is needed: it is declared as C functions are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_destroy(model: sys::rmae_model) -> sys::rmae_status {
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
///
/// # Safety
/// None is needed: it is declared as C functions are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_model_initialize(model: sys::rmae_model, seed: u64) -> sys::rmae_status {
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
    // SAFETY: passed on to the caller.
    unsafe { write_host_array("values", values, &found) }
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
        Ok(with_model!(&mut shared.lock().model, model => model.set_parameter(name, values))?)
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
                compute_parameters: address(arrays.compute_parameters.as_ref().map_or(0, ViewMut::address)),
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
}
