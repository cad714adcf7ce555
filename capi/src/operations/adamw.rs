//! AdamW.

use retromae::device::bf16;
use retromae::ops::adamw::{self, Hyperparameters, Step};

use crate::call::{Call, size, write_host_array};
use crate::status::{Failure, Result, Status, renamed};
use crate::{border, sys};

/// Names of arguments: Rust's, and the header's.
const NAMES: [(&str, &str); 5] = [
    ("beta1", "constants.beta1"),
    ("beta2", "constants.beta2"),
    ("eps", "constants.eps"),
    ("weight_decay", "constants.weight_decay"),
    ("max_norm", "constants.max_norm"),
];

/// Returns the constants as Rust has them.
fn hyperparameters(constants: &sys::rmae_adamw_constants) -> Hyperparameters {
    let &sys::rmae_adamw_constants { beta1, beta2, eps, weight_decay, max_norm } = constants;
    Hyperparameters { beta1, beta2, eps, weight_decay, max_norm: Some(max_norm).filter(|&norm| norm != 0.0) }
}

/// Returns the constants at an address.
///
/// # Errors
/// When it is NULL.
///
/// # Safety
/// It is null or valid.
pub unsafe fn hyperparameters_at(constants: *const sys::rmae_adamw_constants) -> Result<Hyperparameters> {
    if constants.is_null() {
        return Err(Failure::field(Status::NullPointer, "constants", "NULL", "rmae_adamw_constants"));
    }
    // SAFETY: passed on to the caller.
    Ok(hyperparameters(&unsafe { constants.read_unaligned() }))
}

pub fn step(call: &Call<'_, sys::rmae_adamw_desc>) -> Result<()> {
    let desc = call.desc;
    let count = size("count", desc.count)?;
    let step = Step {
        parameters: call.view_mut("parameters", desc.parameters, count)?,
        gradients: call.view_mut("gradients", desc.gradients, count)?,
        first_moments: call.view_mut("first_moments", desc.first_moments, count)?,
        second_moments: call.view_mut("second_moments", desc.second_moments, count)?,
        compute_parameters: call.optional_mut::<bf16>(
            "compute_parameters",
            desc.compute_parameters.cast(),
            count,
        )?,
        squared_norm: call.view("squared_norm", desc.squared_norm, 1)?,
        schedule: call.view("schedule", desc.schedule, 4)?,
        decayed: size("decayed", desc.decayed)?,
        hyperparameters: hyperparameters(&desc.constants),
    };
    call.enqueue(|stream| adamw::step(stream, step)).map_err(|failure| renamed(failure, &NAMES))
}

/// `rmae_adamw_schedule` of the header.
///
/// # Safety
/// `constants` is null or valid, `schedule` null or valid for four elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_adamw_schedule(
    constants: *const sys::rmae_adamw_constants,
    learning_rate: f64,
    update: u32,
    schedule: *mut f32,
) -> sys::rmae_status {
    border::call(|| {
        // SAFETY: passed on to the caller.
        let hyperparameters = unsafe { hyperparameters_at(constants)? };
        let words = hyperparameters.schedule(learning_rate, update);
        let words = words.map_err(|error| renamed(error.into(), &NAMES))?;
        // SAFETY: passed on to the caller.
        unsafe { write_host_array("schedule", schedule, &words) }
    })
}
as_declared! { rmae_adamw_schedule }
