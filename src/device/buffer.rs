//! Device memory: owned buffers and borrowed views of them.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Device, Element, Error, Result};

/// `len` elements of device memory, freed when dropped.
#[derive(Debug)]
pub struct Buffer<T: Element> {
    device: Device,
    address: u64,
    length: usize,
    element: PhantomData<T>,
}

/// Memory of a device, shared or exclusive.
pub(crate) trait DeviceMemory {
    fn device(&self) -> &Device;
    fn address(&self) -> u64;
    fn is_empty(&self) -> bool;
}

impl<T: Element> DeviceMemory for View<'_, T> {
    fn device(&self) -> &Device {
        self.device
    }
    fn address(&self) -> u64 {
        self.address
    }
    fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl<T: Element> DeviceMemory for ViewMut<'_, T> {
    fn device(&self) -> &Device {
        self.device
    }
    fn address(&self) -> u64 {
        self.address
    }
    fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// A shared view of consecutive elements of a [`Buffer`].
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T: Element> {
    device: &'a Device,
    address: u64,
    length: usize,
    element: PhantomData<&'a T>,
}

/// An exclusive view of consecutive elements of a [`Buffer`].
#[derive(Debug)]
pub struct ViewMut<'a, T: Element> {
    device: &'a Device,
    address: u64,
    length: usize,
    element: PhantomData<&'a mut T>,
}

pub(super) fn element_address<T>(address: u64, length: usize, range: &Range<usize>) -> u64 {
    assert!(
        range.start <= range.end && range.end <= length,
        "a view of elements {range:?} of a buffer of {length}"
    );
    address + (range.start * size_of::<T>()) as u64
}

/// Returns the address if memory of others can be `length` elements at it.
fn borrowed_address<T>(device: &Device, address: u64, length: usize) -> Result<u64> {
    let wrong = |argument, actual, expected: &str| {
        Err(Error::Argument { argument, actual, expected: expected.to_owned() })
    };
    let Some(bytes) = length.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok())
    else {
        return wrong("length", format!("{length} elements of {} bytes", size_of::<T>()), "below 2^63 bytes");
    };
    if length == 0 {
        return Ok(address);
    }
    if address == 0 {
        return wrong("address", "null".into(), "that of the first element");
    }
    if !address.is_multiple_of(align_of::<T>() as u64) {
        let expected = format!("a multiple of {}, an element's alignment", align_of::<T>());
        return Err(Error::Misaligned { argument: "address", actual: format!("{address:#x}"), expected });
    }
    if address.checked_add(bytes as u64).is_none() {
        return wrong("address", format!("{address:#x}, and {bytes} bytes"), "within the address space");
    }
    device.backend().check_memory(address, bytes)?;
    Ok(address)
}

/// Returns the size of `length` elements in bytes; a size that overflows is more memory than there can be.
pub(super) fn bytes_of<T>(device: &Device, length: usize) -> Result<usize> {
    let out_of_memory = || Error::OutOfMemory { requested: usize::MAX, device: device.name() };
    length.checked_mul(size_of::<T>()).ok_or_else(out_of_memory)
}

impl<T: Element> Buffer<T> {
    pub(super) fn uninitialized(device: &Device, length: usize) -> Result<Self> {
        device.require_no_capture("allocate a buffer")?;
        let bytes = bytes_of::<T>(device, length)?;
        let address = device.backend().allocate(bytes)?;
        device.shared.buffer_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(Self { device: device.clone(), address, length, element: PhantomData })
    }

    pub(super) fn zeros(device: &Device, length: usize) -> Result<Self> {
        let buffer = Self::uninitialized(device, length)?;
        // SAFETY: the buffer is valid for its length, and nobody else has it yet.
        unsafe { device.backend().zero(buffer.address, length * size_of::<T>())? };
        Ok(buffer)
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns `true` when there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All elements.
    #[must_use]
    pub fn view(&self) -> View<'_, T> {
        self.slice(0..self.length)
    }

    /// All elements, exclusively.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        self.slice_mut(0..self.length)
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// When `range` exceeds the buffer, as in indexing a slice.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> View<'_, T> {
        let address = element_address::<T>(self.address, self.length, &range);
        View { device: &self.device, address, length: range.len(), element: PhantomData }
    }

    /// The elements of `range`, exclusively.
    ///
    /// # Panics
    /// When `range` exceeds the buffer, as in indexing a slice.
    pub fn slice_mut(&mut self, range: Range<usize>) -> ViewMut<'_, T> {
        let address = element_address::<T>(self.address, self.length, &range);
        ViewMut { device: &self.device, address, length: range.len(), element: PhantomData }
    }

    /// The elements of several ranges, each exclusively.
    ///
    /// # Panics
    /// When a range exceeds the buffer or overlaps another.
    pub fn slices_mut<const N: usize>(&mut self, ranges: [&Range<usize>; N]) -> [ViewMut<'_, T>; N] {
        for (i, range) in ranges.iter().enumerate() {
            let apart = |other: &&Range<usize>| range.end <= other.start || other.end <= range.start;
            assert!(ranges[..i].iter().all(apart), "range {range:?} overlaps another of {ranges:?}");
        }
        ranges.map(|range| {
            let address = element_address::<T>(self.address, self.length, range);
            ViewMut { device: &self.device, address, length: range.len(), element: PhantomData }
        })
    }

    /// Overwrites the first `values.len()` elements, after all work that is enqueued on any stream of the device; returns when it is done.
    ///
    /// # Errors
    /// When there are more values than elements; an error of the device, also of work enqueued before; also within a
    /// [capture](super::Stream::capture).
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        self.view_mut().write(values)
    }

    /// All elements, copied to the caller, after all work that is enqueued on any stream of the device.
    ///
    /// # Errors
    /// An error of the device, also of work enqueued before; also within a [capture](super::Stream::capture).
    pub fn read(&self) -> Result<Vec<T>> {
        self.view().read()
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        let bytes = self.length * size_of::<T>();
        self.device.shared.buffer_bytes.fetch_sub(bytes, Ordering::Relaxed);
        // SAFETY: allocated by `uninitialized` with this size; views cannot outlive the buffer.
        unsafe { self.device.backend().free(self.address, bytes) }
    }
}

impl<'a, T: Element> View<'a, T> {
    /// Returns a view of memory that somebody else owns, such as another library's tensor: `length` elements at a device address (on the host device, an
    /// address of this process).
    ///
    /// # Errors
    /// When the address is null or misaligned for an element, or the range is no range of addresses. With debug assertions, a CUDA device also refuses
    /// memory of the host and of other devices.
    ///
    /// # Safety
    /// - The memory is valid for reads of `length` elements, and each of them is initialized, for as long as `'a`, and until all work that reads it is
    ///   done.
    /// - Nobody writes to it meanwhile, but work that is ordered before or after the reads, as by the same stream.
    pub unsafe fn borrow_raw(device: &'a Device, address: u64, length: usize) -> Result<Self> {
        Ok(Self::from_raw(device, borrowed_address::<T>(device, address, length)?, length))
    }

    /// Returns a view of memory that is valid for `length` elements, shared for `'a`.
    pub(super) fn from_raw(device: &'a Device, address: u64, length: usize) -> Self {
        Self { device, address, length, element: PhantomData }
    }

    /// The device that the memory belongs to.
    #[must_use]
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns `true` when there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the same elements, for generic code whose `U` is known to be `T`.
    ///
    /// # Panics
    /// When `U` is another type than `T`.
    pub(crate) fn same_type<U: Element>(self) -> View<'a, U> {
        assert_eq!(std::any::TypeId::of::<T>(), std::any::TypeId::of::<U>(), "a view of another type");
        View { device: self.device, address: self.address, length: self.length, element: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// When `range` exceeds the view.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> View<'a, T> {
        let address = element_address::<T>(self.address, self.length, &range);
        View { address, length: range.len(), ..self }
    }

    /// All elements, copied to the caller, after all work that is enqueued on any stream of the device.
    ///
    /// # Errors
    /// An error of the device, also of work enqueued before; also within a [capture](super::Stream::capture).
    pub fn read(&self) -> Result<Vec<T>> {
        self.device.require_no_capture("read a buffer")?;
        let mut values = vec![T::zeroed(); self.length];
        // SAFETY: the view is valid for its length.
        unsafe { self.device.backend().download(bytemuck::cast_slice_mut(&mut values), self.address)? };
        Ok(values)
    }

    /// The device address of the first element, for the params struct of a kernel.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl<'a, T: Element> ViewMut<'a, T> {
    /// As [`View::borrow_raw`], exclusively.
    ///
    /// # Errors
    /// As [`View::borrow_raw`].
    ///
    /// # Safety
    /// - The memory is valid for reads and writes of `length` elements for as long as `'a`, and until all work that uses it is done. On the host device it
    ///   is initialized.
    /// - Nobody else reads or writes it meanwhile, but work that is ordered before or after, as by the same stream; no other argument of a call
    ///   overlaps it.
    pub unsafe fn borrow_raw(device: &'a Device, address: u64, length: usize) -> Result<Self> {
        Ok(Self::from_raw(device, borrowed_address::<T>(device, address, length)?, length))
    }

    /// Returns a view of memory that is valid for `length` elements, exclusive for `'a`.
    pub(super) fn from_raw(device: &'a Device, address: u64, length: usize) -> Self {
        Self { device, address, length, element: PhantomData }
    }

    /// The device that the memory belongs to.
    #[must_use]
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns `true` when there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The same elements, borrowed again for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { device: self.device, address: self.address, length: self.length, element: PhantomData }
    }

    /// Returns the same elements, for generic code whose `U` is known to be `T`.
    ///
    /// # Panics
    /// When `U` is another type than `T`.
    pub(crate) fn same_type<U: Element>(self) -> ViewMut<'a, U> {
        assert_eq!(std::any::TypeId::of::<T>(), std::any::TypeId::of::<U>(), "a view of another type");
        ViewMut { device: self.device, address: self.address, length: self.length, element: PhantomData }
    }

    /// Returns the bytes as elements of another type, for the arrays of a workspace.
    ///
    /// # Panics
    /// When the bytes are no whole elements, or not aligned for them.
    pub(crate) fn cast<U: Element>(self) -> ViewMut<'a, U> {
        let (bytes, element) = (self.length * size_of::<T>(), size_of::<U>());
        assert!(bytes.is_multiple_of(element), "{bytes} bytes as elements of {element}");
        assert!(bytes == 0 || self.address.is_multiple_of(element as u64), "elements at {:#x}", self.address);
        ViewMut { device: self.device, address: self.address, length: bytes / element, element: PhantomData }
    }

    /// The same elements, shared.
    #[must_use]
    pub fn as_view(&self) -> View<'_, T> {
        View { device: self.device, address: self.address, length: self.length, element: PhantomData }
    }

    /// The elements of `range`, exclusively.
    ///
    /// # Panics
    /// When `range` exceeds the view.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> ViewMut<'a, T> {
        let address = element_address::<T>(self.address, self.length, &range);
        ViewMut { address, length: range.len(), ..self }
    }

    /// Elements before `middle`, and from `middle` on.
    ///
    /// # Panics
    /// When `middle` is beyond the end.
    #[must_use]
    pub fn split_at(self, middle: usize) -> (ViewMut<'a, T>, ViewMut<'a, T>) {
        let second = element_address::<T>(self.address, self.length, &(middle..self.length));
        let rest = self.length - middle;
        (
            ViewMut { device: self.device, address: self.address, length: middle, element: PhantomData },
            ViewMut { device: self.device, address: second, length: rest, element: PhantomData },
        )
    }

    /// Overwrites the first `values.len()` elements, after all work that is enqueued on any stream of the device; returns when it is done.
    ///
    /// # Errors
    /// When there are more values than elements; an error of the device, also of work enqueued before; also within a
    /// [capture](super::Stream::capture).
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        self.device.require_no_capture("write to a buffer")?;
        if values.len() > self.length {
            return Err(Error::Argument {
                argument: "values",
                actual: format!("{} elements", values.len()),
                expected: format!("at most {}", self.length),
            });
        }
        // SAFETY: the view is valid for its length, which is not exceeded, and exclusive.
        unsafe { self.device.backend().upload(self.address, bytemuck::cast_slice(values)) }
    }

    /// The device address of the first element, for the params struct of a kernel.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }
}
