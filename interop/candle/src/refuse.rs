//! Errors that name an argument, what it is and what it should be.

use std::fmt::Display;

use candle_core::{Error, Result, Tensor};

/// Refuses `argument` unless `condition` holds.
pub(crate) fn require(
    condition: bool,
    argument: &str,
    actual: impl Display,
    expected: impl Display,
) -> Result<()> {
    if condition { Ok(()) } else { wrong(argument, actual, expected) }
}

/// Refuses `argument`.
pub(crate) fn wrong<T>(argument: &str, actual: impl Display, expected: impl Display) -> Result<T> {
    Err(Error::Msg(format!("{argument} is {actual}; it should be {expected}")).bt())
}

/// Refuses a tensor of another shape; `meaning` says what the sizes are.
pub(crate) fn require_shape(argument: &str, tensor: &Tensor, shape: &[usize], meaning: &str) -> Result<()> {
    let actual = format_args!("{:?}", tensor.dims());
    require(tensor.dims() == shape, argument, actual, format_args!("{shape:?} ({meaning})"))
}

/// Refuses a tensor of another element type, or of another device, than `first` of the same call has.
pub(crate) fn require_like(argument: &str, tensor: &Tensor, name: &str, first: &Tensor) -> Result<()> {
    require(
        tensor.dtype() == first.dtype(),
        argument,
        format_args!("of {:?}", tensor.dtype()),
        format_args!("of {:?}, as {name}", first.dtype()),
    )?;
    require_device(argument, tensor.device(), name, first.device())
}

/// Refuses an argument of another device than `first` of the same call has.
pub(crate) fn require_device(
    argument: &str,
    device: &candle_core::Device,
    name: &str,
    first: &candle_core::Device,
) -> Result<()> {
    require(
        device.same_device(first),
        argument,
        format_args!("on {:?}", device.location()),
        format_args!("on {:?}, as {name}", first.location()),
    )
}
