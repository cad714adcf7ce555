//! The parameters in device memory: one flat arena each for master weights, gradients and optimizer state.

use std::ops::Range;

use super::ModelConfig;
use super::layout::{Entry, Layout};
use crate::common::constants::STREAM_INITIALIZATION;
use crate::common::random::{key, philox};
use crate::device::{Buffer, DType, Device, ModelFloat, View};
use crate::ops::{Error, Result, wrong};

#[derive(Debug)]
pub(super) struct Parameters<T: ModelFloat> {
    pub weights: Weights<T>,
    pub gradients: Buffer<f32>,
    /// `gradients` is all 0 once the enqueued work is done.
    pub gradients_are_zero: bool,
    pub first_moments: Buffer<f32>,
    pub second_moments: Buffer<f32>,
}

/// Weights that the forward pass reads.
#[derive(Debug)]
pub(super) struct Weights<T: ModelFloat> {
    pub layout: Layout,
    pub master: Buffer<f32>,
    /// Copy in `T` that matmuls and embeddings read; `None` if `T` is f32.
    pub compute: Option<Buffer<T>>,
}

impl<T: ModelFloat> Parameters<T> {
    pub(super) fn new(device: &Device, config: &ModelConfig) -> Result<Self> {
        let layout = Layout::new(config);
        let total = layout.total;
        let compute = if T::DTYPE == DType::F32 { None } else { Some(device.zeros(total)?) };
        Ok(Self {
            weights: Weights { layout, master: device.zeros(total)?, compute },
            gradients: device.zeros(total)?,
            gradients_are_zero: true,
            first_moments: device.zeros(total)?,
            second_moments: device.zeros(total)?,
        })
    }

    /// Initializes the parameters as BERT does: matrices N(0, `deviation`), LayerNorm weights 1, biases 0. A pure function of the seed.
    pub(super) fn initialize(&mut self, seed: u64, deviation: f32) -> Result<()> {
        let entries = self.weights.layout.entries.clone();
        for (index, entry) in entries.iter().enumerate() {
            let values: Vec<f32> = if entry.shape.len() == 2 {
                (0..entry.range.len()).map(|i| deviation * normal(seed, index as u32, i)).collect()
            } else {
                let constant = if entry.name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
                vec![constant; entry.range.len()]
            };
            self.weights.set(&entry.name, &values)?;
        }
        let stream = self.gradients.view().device().stream();
        for buffer in [&mut self.gradients, &mut self.first_moments, &mut self.second_moments] {
            stream.zero(buffer.view_mut())?;
        }
        // The caller may continue on any stream.
        Ok(stream.synchronize()?)
    }
}

impl<T: ModelFloat> Weights<T> {
    /// A matrix or bias in `T`, as the matmuls read it.
    pub(super) fn operand(&self, range: &Range<usize>) -> View<'_, T> {
        match &self.compute {
            Some(compute) => compute.slice(range.clone()),
            None => self.master.slice(range.clone()).same_type(),
        }
    }

    /// A bias or LayerNorm weight in f32, whatever `T` is, as the other kernels read it.
    pub(super) fn vector(&self, range: &Range<usize>) -> View<'_, f32> {
        self.master.slice(range.clone())
    }

    pub(super) fn entry(&self, name: &str) -> Result<&Entry> {
        self.layout.find(name).ok_or_else(|| Error::Argument {
            argument: "name",
            actual: format!("{name:?}"),
            expected: "the name of a parameter, such as bert.embeddings.word_embeddings.weight".into(),
        })
    }

    /// Returns the range of the parameter `name`; refuses `values` of another length, naming `argument`.
    pub(super) fn fitting(&self, argument: &'static str, name: &str, values: &[f32]) -> Result<Range<usize>> {
        let entry = self.entry(name)?;
        if values.len() == entry.range.len() {
            return Ok(entry.range.clone());
        }
        let actual = format_args!("{} elements for {name}", values.len());
        wrong(argument, actual, format_args!("{} (shape {:?})", entry.range.len(), entry.shape))
    }

    pub(super) fn set(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let range = self.fitting("values", name, values)?;
        let expected = format!("finite in {}", T::DTYPE.name());
        require_all("values", name, values, &expected, |value| T::from_f32(value).to_f32().is_finite())?;
        self.master.slice_mut(range.clone()).write(values)?;
        if let Some(compute) = &mut self.compute {
            let rounded: Vec<T> = values.iter().map(|&value| T::from_f32(value)).collect();
            compute.slice_mut(range).write(&rounded)?;
        }
        Ok(())
    }
}

/// Refuses `values` for the parameter `name` unless all of them are `valid`.
pub(super) fn require_all(
    argument: &'static str,
    name: &str,
    values: &[f32],
    expected: &str,
    valid: impl Fn(f32) -> bool,
) -> Result<()> {
    match values.iter().position(|&value| !valid(value)) {
        None => Ok(()),
        Some(index) => {
            wrong(argument, format_args!("{} at element {index} for {name}", values[index]), expected)
        }
    }
}

/// Returns a standard normal sample by the Box-Muller transform.
fn normal(seed: u64, parameter: u32, element: usize) -> f32 {
    let pair = element as u64 / 2;
    let words = philox(key(seed), [pair as u32, parameter, STREAM_INITIALIZATION, (pair >> 32) as u32]);
    // In (0, 1), so that the logarithm is finite.
    let uniform = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    let radius = (-2.0 * uniform(words[0]).ln()).sqrt();
    let angle = std::f64::consts::TAU * uniform(words[1]);
    (if element.is_multiple_of(2) { radius * angle.cos() } else { radius * angle.sin() }) as f32
}
