//! Passes over batches, and updates.

use std::ffi::c_void;

use retromae::model::{Losses, MicroBatch, Pooling, StepRandomness, StepResult, TrainStep};

use super::batch::{batch_of, prefix_sums};
use super::{AnyModel, model_of, with_model};
use crate::call::{host_array, write_host_array};
use crate::operations::{hyperparameters_at, write};
use crate::status::invalid;
use crate::{border, sys};

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
            unsafe { (batch_of(batch)?, shared.stream(stream)?, hyperparameters_at(constants)?) };
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
        let (stream, optimizer) = unsafe { (shared.stream(stream)?, hyperparameters_at(constants)?) };
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
        // SAFETY: passed on to the caller.
        let stream = unsafe { shared.stream(stream)? };
        // SAFETY: as above.
        let (cu_seqlens, tokens) = unsafe { prefix_sums(sentences, cu_seqlens)? };
        // SAFETY: as above.
        let ids = unsafe { host_array("ids", ids, tokens)? };
        let pooling = if mean == 0 { Pooling::Cls } else { Pooling::Mean };
        let found = with_model!(&mut shared.lock().model, model => {
            model.embed_pooled(&stream, &cu_seqlens, ids, pooling)
        })?;
        // SAFETY: as above.
        unsafe { write_host_array("vectors", vectors, &found) }
    })
}

as_declared! {
    rmae_model_zero_gradients,
    rmae_model_step,
    rmae_model_accumulate,
    rmae_model_train_step,
    rmae_model_update,
    rmae_model_outcome,
    rmae_model_embed,
}
