//! Parameters in flat arrays, one each for master weights, gradients and optimizer state, so that one AdamW launch updates all of them.
//!
//! A [`ParameterTable`] names the parameters and places them: matrices first, because weight decay acts on them alone, then LayerNorm weights and
//! biases. A [`ParameterArena`] is the memory for such a table. [`Model`](super::Model) has one; so may a model that is put together from
//! [`ops`](crate::ops).
//!
//! ```
//! use retromae::device::Device;
//! use retromae::model::{AdamW, ParameterArena, ParameterTable};
//! use retromae::ops::linear;
//!
//! let mut table = ParameterTable::new();
//! let weight = table.matrix("dense.weight", [16, 32]);
//! let bias = table.vector("dense.bias", 16, 0.0);
//!
//! let device = Device::host()?;
//! let stream = device.stream();
//! let mut arena = ParameterArena::<f32>::new(&device, table)?;
//! arena.initialize(1, 0.02)?;
//! let (input, d_output) = (device.upload(&[1.0f32; 4 * 32])?, device.upload(&[0.5f32; 4 * 16])?);
//! let mut output = device.zeros::<f32>(4 * 16)?;
//! let forward = linear::Forward {
//!     input: input.matrix(4, 32)?,
//!     weight: arena.weights.matrix(weight),
//!     bias: Some(arena.weights.bias(bias)),
//!     output: output.matrix_mut(4, 16)?,
//! };
//! linear::forward(&stream, forward)?;
//! // The gradient of the sum of all outputs, halved.
//! let backward = linear::BackwardWeight {
//!     input: input.matrix(4, 32)?,
//!     d_output: d_output.matrix(4, 16)?,
//!     d_weight: arena.gradients.matrix_mut(weight),
//! };
//! linear::backward_weight(&stream, backward)?;
//! assert_eq!(arena.gradient("dense.weight")?[0], 2.0);
//! arena.update(&stream, &AdamW::default(), 1e-3, 1)?;
//! // The norm of 512 gradients of 2, before clipping.
//! assert!((arena.gradient_norm()? - 2.0 * 512f32.sqrt()).abs() < 1e-4);
//! # Ok::<(), retromae::ops::Error>(())
//! ```

use std::collections::HashMap;
use std::ops::Range;

use super::parameter_table::{Entry, Parameter, ParameterTable, range};
use super::staged_buffer::StagedBuffer;
use crate::common::constants::STREAM_INITIALIZATION;
use crate::common::random::{key, philox};
use crate::device::{Buffer, DType, Device, Matrix, MatrixMut, ModelFloat, Stream, View, ViewMut};
use crate::ops::{Error, Result, adamw, reduce, wrong};

/// The weights of an arena: f32 master values, and the copy in `T` that matmuls and embeddings read.
///
/// Each method panics for a [`Parameter`] of a larger table.
#[derive(Debug)]
pub struct Weights<T: ModelFloat> {
    matrix_elements: usize,
    master: Buffer<f32>,
    /// `None` if `T` is f32.
    compute: Option<Buffer<T>>,
}

impl<T: ModelFloat> Weights<T> {
    /// A matrix in `T`.
    ///
    /// # Panics
    /// When the parameter is of a larger table.
    #[must_use]
    pub fn matrix(&self, parameter: Parameter) -> Matrix<'_, T> {
        let view = self.in_compute_type(parameter);
        view.matrix(parameter.rows(), parameter.columns()).expect("the range of a parameter has its shape")
    }

    /// A vector in `T`, as matmuls add it.
    #[must_use]
    pub fn bias(&self, parameter: Parameter) -> View<'_, T> {
        self.in_compute_type(parameter)
    }

    /// The f32 master values of a vector, as all operations but matmuls read it.
    #[must_use]
    pub fn vector(&self, parameter: Parameter) -> View<'_, f32> {
        self.master.slice(range(parameter, self.matrix_elements))
    }

    fn in_compute_type(&self, parameter: Parameter) -> View<'_, T> {
        let range = range(parameter, self.matrix_elements);
        match &self.compute {
            Some(compute) => compute.slice(range),
            None => self.master.slice(range).same_type(),
        }
    }
}

/// The gradients of an arena, in f32.
///
/// Each method panics for a [`Parameter`] of a larger table.
#[derive(Debug)]
pub struct Gradients {
    matrix_elements: usize,
    buffer: Buffer<f32>,
    /// All gradients are 0 once the enqueued work is done.
    pub(super) are_zero: bool,
}

impl Gradients {
    /// The gradient of a matrix.
    pub fn matrix_mut(&mut self, parameter: Parameter) -> MatrixMut<'_, f32> {
        let [matrix] = self.disjoint_mut([parameter]);
        matrix
    }

    /// The gradient of a vector.
    pub fn vector_mut(&mut self, parameter: Parameter) -> ViewMut<'_, f32> {
        self.matrix_mut(parameter).into_view()
    }

    /// The gradients of several parameters at once; a vector is a matrix of one column.
    ///
    /// # Panics
    /// When two of them overlap.
    pub fn disjoint_mut<const N: usize>(&mut self, parameters: [Parameter; N]) -> [MatrixMut<'_, f32>; N] {
        self.are_zero = false;
        let ranges = parameters.map(|parameter| range(parameter, self.matrix_elements));
        let mut shapes = parameters.into_iter();
        self.buffer.slices_mut(ranges.each_ref()).map(|view| {
            let parameter = shapes.next().expect("as many as views");
            view.matrix(parameter.rows(), parameter.columns())
                .expect("the range of a parameter has its shape")
        })
    }

    /// Enqueues zeroing, unless all are zero already.
    pub(super) fn zero(&mut self, stream: &Stream) -> Result<()> {
        if !self.are_zero {
            stream.zero(self.buffer.view_mut())?;
            self.are_zero = true;
        }
        Ok(())
    }
}

/// The arrays of a [`ParameterArena`], for an optimizer or an all-reduce of one's own: equally long, with parameters at the
/// [places](ParameterTable::ranges) of its table and zeros between them.
#[derive(Debug)]
pub struct ArenaArrays<'a, T: ModelFloat> {
    /// f32 master weights
    pub parameters: ViewMut<'a, f32>,
    /// Their copy in `T`, which the operations read and whoever changes the master weights renews; `None` where `T` is f32.
    pub compute_parameters: Option<ViewMut<'a, T>>,
    /// Gradients
    pub gradients: ViewMut<'a, f32>,
    /// First moments of AdamW
    pub first_moments: ViewMut<'a, f32>,
    /// Second moments of AdamW
    pub second_moments: ViewMut<'a, f32>,
    /// Number of leading elements that weight decay applies to: those of the matrices
    pub decayed: usize,
}

/// The parameters of a model in device memory, with their gradients and the moments of AdamW.
#[derive(Debug)]
pub struct ParameterArena<T: ModelFloat> {
    /// f32 master weights, and their copy in `T` that the operations read.
    pub weights: Weights<T>,
    /// f32 gradients, in the same order as the weights.
    pub gradients: Gradients,
    table: ParameterTable,
    names: HashMap<String, usize>,
    first_moments: Buffer<f32>,
    second_moments: Buffer<f32>,
    /// `[1]`: squared norm of the gradients of the last update
    squared_norm: Buffer<f32>,
    /// `[4]`: AdamW's schedule
    schedule: StagedBuffer<f32>,
    workspace: Buffer<u8>,
}

impl<T: ModelFloat> ParameterArena<T> {
    /// Allocates everything, all zero.
    ///
    /// # Errors
    /// When a name occurs twice in the table, or the device has not enough memory.
    pub fn new(device: &Device, table: ParameterTable) -> Result<Self> {
        let (names, total, matrix_elements) = (table.names()?, table.len(), table.matrix_elements);
        let compute = if T::DTYPE == DType::F32 { None } else { Some(device.zeros(total)?) };
        Ok(Self {
            weights: Weights { matrix_elements, master: device.zeros(total)?, compute },
            gradients: Gradients { matrix_elements, buffer: device.zeros(total)?, are_zero: true },
            table,
            names,
            first_moments: device.zeros(total)?,
            second_moments: device.zeros(total)?,
            squared_norm: device.zeros(1)?,
            schedule: StagedBuffer::new(device, 4)?,
            workspace: reduce::workspace(total).allocate(device)?,
        })
    }

    /// Names and shapes of the parameters.
    #[must_use]
    pub fn table(&self) -> &ParameterTable {
        &self.table
    }

    /// All its arrays.
    pub fn arrays(&mut self) -> ArenaArrays<'_, T> {
        self.gradients.are_zero = false;
        ArenaArrays {
            parameters: self.weights.master.view_mut(),
            compute_parameters: self.weights.compute.as_mut().map(Buffer::view_mut),
            gradients: self.gradients.buffer.view_mut(),
            first_moments: self.first_moments.view_mut(),
            second_moments: self.second_moments.view_mut(),
            decayed: self.table.matrix_elements,
        }
    }

    /// Initializes matrices to N(0, `deviation`²) and vectors to their initial values, and sets gradients and moments to 0. A pure function of the
    /// seed and of the order of the table.
    ///
    /// # Errors
    /// An error of the device.
    pub fn initialize(&mut self, seed: u64, deviation: f32) -> Result<()> {
        let entries: Vec<Entry> = self.table.entries().cloned().collect();
        for (index, entry) in (0..).zip(&entries) {
            let count = entry.parameter.len();
            let values = match entry.initial {
                Some(value) => vec![value; count],
                None => (0..count).map(|i| deviation * normal(seed, index, i)).collect(),
            };
            self.set(&entry.name, &values)?;
        }
        let stream = self.squared_norm.view().device().stream();
        self.gradients.zero(&stream)?;
        stream.zero(self.first_moments.view_mut())?;
        stream.zero(self.second_moments.view_mut())?;
        // The caller may continue on any stream.
        Ok(stream.synchronize()?)
    }

    /// The f32 master values of a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn get(&self, name: &str) -> Result<Vec<f32>> {
        self.read(name, &self.weights.master)
    }

    /// Overwrites a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name, it has another size, or a value is not finite in `T`.
    pub fn set(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let range = self.fitting("values", name, values)?;
        let expected = format!("finite in {}", T::DTYPE.name());
        require_all("values", name, values, &expected, |value| T::from_f32(value).to_f32().is_finite())?;
        self.weights.master.slice_mut(range.clone()).write(values)?;
        if let Some(compute) = &mut self.weights.compute {
            let rounded: Vec<T> = values.iter().map(|&value| T::from_f32(value)).collect();
            compute.slice_mut(range).write(&rounded)?;
        }
        Ok(())
    }

    /// The gradient of a parameter; an update leaves it at 0.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn gradient(&self, name: &str) -> Result<Vec<f32>> {
        self.read(name, &self.gradients.buffer)
    }

    /// First and second moment of a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name.
    pub fn moments(&self, name: &str) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((self.read(name, &self.first_moments)?, self.read(name, &self.second_moments)?))
    }

    /// Overwrites the moments of a parameter.
    ///
    /// # Errors
    /// When there is no parameter of this name, one has another size, a value is not finite, or a second moment is negative.
    pub fn set_moments(&mut self, name: &str, first: &[f32], second: &[f32]) -> Result<()> {
        let range = self.fitting("first", name, first)?;
        self.fitting("second", name, second)?;
        require_all("first", name, first, "finite", f32::is_finite)?;
        require_all("second", name, second, "finite and not negative", |value| {
            value.is_finite() && value >= 0.0
        })?;
        self.first_moments.slice_mut(range.clone()).write(first)?;
        self.second_moments.slice_mut(range).write(second)?;
        Ok(())
    }

    /// Enqueues the zeroing of all gradients.
    ///
    /// # Errors
    /// An error of the device.
    pub fn zero_gradients(&mut self, stream: &Stream) -> Result<()> {
        self.gradients.zero(stream)
    }

    /// Enqueues one update by AdamW, after clipping by the global norm of the gradients, and sets these to 0. Changes nothing else when the norm is
    /// not finite. `update` counts from 1.
    ///
    /// # Errors
    /// When a constant of the optimizer is out of range, `learning_rate` is not in `[0, 1]` (a weight moves by about as much) or takes more than
    /// all of a weight with `weight_decay`, or `update` is 0.
    pub fn update(
        &mut self,
        stream: &Stream,
        optimizer: &adamw::Hyperparameters,
        learning_rate: f64,
        update: u32,
    ) -> Result<()> {
        self.write_schedule(stream, optimizer.schedule(learning_rate, update)?)?;
        self.enqueue_update(stream, optimizer)
    }

    /// Waits for the last update and returns the global norm of its gradients before clipping.
    ///
    /// # Errors
    /// An error of the device.
    pub fn gradient_norm(&self) -> Result<f32> {
        Ok(self.squared_norm.read()?[0].sqrt())
    }

    /// `[1]`: squared norm of the gradients of the last update.
    pub(super) fn squared_norm(&self) -> View<'_, f32> {
        self.squared_norm.view()
    }

    /// Uploads what differs from update to update.
    pub(super) fn write_schedule(&mut self, stream: &Stream, schedule: [f32; 4]) -> Result<()> {
        self.schedule.write(stream, &schedule)
    }

    /// Enqueues clipping and AdamW with the schedule that was written; the launches are the same for every update.
    pub(super) fn enqueue_update(
        &mut self,
        stream: &Stream,
        optimizer: &adamw::Hyperparameters,
    ) -> Result<()> {
        let squares = reduce::Arguments {
            input: self.gradients.buffer.view(),
            output: self.squared_norm.view_mut(),
            accumulate: false,
            workspace: self.workspace.view_mut(),
        };
        reduce::squares(stream, squares)?;
        let Weights { matrix_elements, master, compute } = &mut self.weights;
        let step = adamw::Step {
            parameters: master.view_mut(),
            gradients: self.gradients.buffer.view_mut(),
            first_moments: self.first_moments.view_mut(),
            second_moments: self.second_moments.view_mut(),
            // The only 16-bit type that a model computes in is bf16.
            compute_parameters: compute.as_mut().map(|compute| compute.view_mut().same_type()),
            squared_norm: self.squared_norm.view(),
            schedule: self.schedule.view(),
            decayed: *matrix_elements,
            hyperparameters: *optimizer,
        };
        adamw::step(stream, step)?;
        self.gradients.are_zero = true;
        Ok(())
    }

    fn read(&self, name: &str, arena: &Buffer<f32>) -> Result<Vec<f32>> {
        Ok(arena.slice(self.place(self.entry(name)?)).read()?)
    }

    fn place(&self, entry: &Entry) -> Range<usize> {
        range(entry.parameter, self.table.matrix_elements)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.names.get(name).and_then(|&index| self.table.entries().nth(index));
        entry.ok_or_else(|| {
            let example = self
                .table
                .entries()
                .next()
                .map_or(String::new(), |entry| format!(", such as {}", entry.name));
            Error::Argument {
                argument: "name",
                actual: format!("{name:?}"),
                expected: format!("the name of a parameter{example}"),
            }
        })
    }

    /// Returns the range of the parameter `name`; refuses `values` of another length, naming `argument`.
    fn fitting(&self, argument: &'static str, name: &str, values: &[f32]) -> Result<Range<usize>> {
        let entry = self.entry(name)?;
        let range = self.place(entry);
        if values.len() == range.len() {
            return Ok(range);
        }
        let actual = format_args!("{} elements for {name}", values.len());
        wrong(argument, actual, format_args!("{} (shape {:?})", range.len(), entry.shape))
    }
}

/// Refuses `values` for the parameter `name` unless all of them are `valid`.
fn require_all(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_parameter_are_within_it() {
        let mut table = ParameterTable::new();
        let (matrix, vector) = (table.matrix("weight", [6, 8]), table.vector("bias", 6, 0.0));
        let device = Device::host().unwrap();
        let mut arena = ParameterArena::<f32>::new(&device, table).unwrap();
        arena.set("weight", &(0..48).map(|value| value as f32).collect::<Vec<_>>()).unwrap();
        arena.set("bias", &(0..6).map(|value| value as f32).collect::<Vec<_>>()).unwrap();
        let rows = arena.weights.matrix(matrix.slice_rows(2..4)).view().read().unwrap();
        assert_eq!(rows, (16..32).map(|value| value as f32).collect::<Vec<_>>());
        assert_eq!(arena.weights.vector(vector.slice_rows(2..4)).read().unwrap(), [2.0, 3.0]);
        assert_eq!(arena.gradients.matrix_mut(matrix.slice_rows(1..3)).rows(), 2);
    }

    #[test]
    fn a_name_that_occurs_twice_is_refused() {
        let mut table = ParameterTable::new();
        table.matrix("weight", [8, 8]);
        table.vector("weight", 8, 0.0);
        let error = ParameterArena::<f32>::new(&Device::host().unwrap(), table).unwrap_err().to_string();
        assert!(error.contains("two parameters \"weight\""), "{error}");
    }
}
