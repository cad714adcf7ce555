//! Scratch memory that operations need while they run, beside their arguments.

use super::Result;
use super::error::{self, aligned, require};
use crate::device::{Buffer, Device, Element, Stream, ViewMut};

/// Scratch memory that an operation needs: bytes, aligned to [`Workspace::ALIGNMENT`]. Its content is irrelevant before the operation, and
/// undefined after it. No requirement shrinks as a size grows, so the workspace of the largest sizes serves all smaller ones.
///
/// ```
/// use retromae::device::Device;
/// use retromae::ops::{column_sum, reduce};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::host()?;
/// // One buffer for two operations that run one after the other on a stream.
/// let needed = column_sum::workspace(4096, 768).either(reduce::workspace(4096 * 768));
/// let mut workspace = needed.allocate(&device)?;
/// assert_eq!(workspace.len(), needed.bytes());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workspace {
    bytes: usize,
}

impl Workspace {
    /// No memory.
    pub const NONE: Self = Self { bytes: 0 };
    /// Alignment of its address, in bytes.
    pub const ALIGNMENT: usize = error::ALIGNMENT as usize;

    /// Workspace of an array of this shape; of one beyond the address space, `usize::MAX` bytes, which no memory has.
    pub(crate) fn of<T: Element>(shape: &[usize]) -> Self {
        Self { bytes: shape.iter().fold(size_of::<T>(), |bytes, &size| bytes.saturating_mul(size)) }
    }

    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bytes
    }

    /// Workspace of both at the same time: `other` follows `self`.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        if other.bytes == 0 { self } else { Self { bytes: self.start_of_next().saturating_add(other.bytes) } }
    }

    /// Workspace of one of them at a time.
    #[must_use]
    pub const fn either(self, other: Self) -> Self {
        if self.bytes < other.bytes { other } else { self }
    }

    /// A buffer of this size.
    ///
    /// # Errors
    /// When the device has not enough memory.
    pub fn allocate(self, device: &Device) -> Result<Buffer<u8>> {
        Ok(device.zeros(self.bytes)?)
    }

    /// Offset of an array that follows this one, in bytes.
    pub(crate) const fn start_of_next(self) -> usize {
        round_up(self.bytes, Self::ALIGNMENT)
    }

    /// Returns the address of a workspace, which must have at least this size.
    pub(crate) fn address(self, stream: &Stream, workspace: &ViewMut<'_, u8>) -> Result<u64> {
        require(
            workspace.len() >= self.bytes,
            "workspace",
            format_args!("{} bytes long", workspace.len()),
            format_args!("at least {} bytes", self.bytes),
        )?;
        aligned(stream, "workspace", workspace)
    }
}

/// Returns the next multiple, or `usize::MAX` where there is none.
pub(super) const fn round_up(size: usize, multiple: usize) -> usize {
    match size.checked_next_multiple_of(multiple) {
        Some(size) => size,
        None => usize::MAX,
    }
}

/// Returns the largest number in `1..=most` that fits, 0 if none does; whatever is below a number that fits must fit, too.
pub(super) fn largest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut fitting, mut too_many) = (0, most + 1);
    while too_many - fitting > 1 {
        let middle = usize::midpoint(fitting, too_many);
        if fits(middle) {
            fitting = middle;
        } else {
            too_many = middle;
        }
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_compose() {
        let [bytes, halves] = [Workspace::of::<u8>(&[3]), Workspace::of::<u16>(&[5])];
        assert_eq!(bytes.and(halves).bytes(), 16 + 10);
        assert_eq!(halves.and(bytes).bytes(), 16 + 3);
        assert_eq!(bytes.either(halves), halves);
        assert_eq!(halves.either(bytes), halves);
        assert_eq!([0, 6, 7, 9].map(|most| largest(most, |number| number <= 7)), [0, 6, 7, 7]);
        assert_eq!([bytes.and(Workspace::NONE), Workspace::NONE.and(bytes)], [bytes; 2]);
    }

    #[test]
    fn sizes_beyond_the_address_space_saturate() {
        let beyond = Workspace::of::<f32>(&[1 << 40, 1 << 40]);
        assert_eq!(beyond.bytes(), usize::MAX);
        assert_eq!(beyond.and(Workspace::of::<u8>(&[1])), beyond);
        assert_eq!(Workspace::of::<f32>(&[usize::MAX, 0]), Workspace::NONE);
        assert_eq!(round_up(usize::MAX - 3, 16), usize::MAX);
    }
}
