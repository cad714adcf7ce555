//! The operations against candle's own, composed of single tensor operations, and candle's gradients of those.
//!
//! Errors are relative to the norm of what is compared. Two ways to sum n products of f32 differ by about √n · 6e-8; the longest sums here, over keys
//! and columns one after the other, have 65 · 64 products, which makes 4e-6: [`F32`] is above that. In 16 bits an operation may be off by twice as much
//! as the single operations are together, each of which rounds its result.

mod attention;
mod cross_entropy;
mod layouts;
mod refused;

use candle_core::{DType, Device, Result, Tensor, Var};

/// Bound of errors in f32.
const F32: f64 = 1e-5;
/// The norm of the difference over the norm of what is expected.
fn error(actual: &Tensor, expected: &Tensor) -> Result<f64> {
    assert_eq!(actual.dims(), expected.dims());
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (actual, expected) = (wide(actual)?, wide(expected)?);
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut actual.iter().zip(&expected).map(|(actual, expected)| actual - expected));
    let norm = norm(&mut expected.iter().copied());
    Ok(if norm == 0.0 { difference } else { difference / norm })
}

#[track_caller]
fn assert_close(name: &str, actual: &Tensor, expected: &Tensor, bound: f64) {
    let error = error(actual, expected).unwrap();
    assert!(error <= bound, "{name} is off by {error:.1e}, of at most {bound:.1e}");
}

/// Refuses an error above twice that of single operations in the same `dtype`, plus half a unit in its last place.
#[track_caller]
fn assert_no_worse(name: &str, [actual, naive, exact]: [&Tensor; 3], dtype: DType) {
    let half_a_unit = if dtype == DType::BF16 { 2f64.powi(-9) } else { 2f64.powi(-12) };
    assert_close(name, actual, exact, 2.0 * error(naive, exact).unwrap() + half_a_unit);
}

/// Values like those of a wave of `step`, in [-1, 1].
fn wave(shape: &[usize], step: f32) -> Result<Var> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * step).sin()).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// The gradients of `Σ result · weights`, with weights that differ from element to element.
fn gradients(result: &Tensor, of: &[&Var]) -> Result<Vec<Tensor>> {
    let weights = wave(result.dims(), 1.9)?.to_dtype(result.dtype())?;
    let gradients = (result * weights)?.sum_all()?.backward()?;
    of.iter().map(|var| Ok(gradients.get(var).expect("a gradient").clone())).collect()
}
