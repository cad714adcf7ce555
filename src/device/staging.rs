//! Host memory that a device copies from and to asynchronously.

use std::marker::PhantomData;
use std::ops::Range;

use super::buffer::{bytes_of, element_address};
use super::stream::{Command, Direction, Transfer};
use super::{Device, Element, Error, Event, Result, Stream, View, ViewMut};

/// `len` elements of host memory, page-locked where the device wants it. Copies between it and the device are enqueued on a stream like any
/// other work; before the host touches the memory again, it waits for them.
#[derive(Debug)]
pub struct Staging<T: Element> {
    device: Device,
    address: u64,
    length: usize,
    /// Event after the last copy; `None` when no copy is in flight.
    busy: Option<Event>,
    element: PhantomData<T>,
}

impl<T: Element> Staging<T> {
    pub(super) fn new(device: &Device, length: usize) -> Result<Self> {
        device.require_no_capture("allocate staging memory")?;
        let bytes = bytes_of::<T>(device, length)?;
        let address = device.backend().allocate_staging(bytes)?;
        // SAFETY: host memory of this size.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(Self { device: device.clone(), address, length, busy: None, element: PhantomData })
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

    /// Returns the elements after waiting for all copies enqueued so far.
    ///
    /// # Errors
    /// An error of the work before the last copy; also within a [capture](Stream::capture).
    pub fn read(&mut self) -> Result<&[T]> {
        self.device.require_no_capture("read staging memory")?;
        self.settle()?;
        // SAFETY: host memory of this length, initialized, and no copy is in flight while the slice borrows `self`.
        Ok(unsafe { std::slice::from_raw_parts(self.address as *const T, self.length) })
    }

    /// Returns the elements to be overwritten, after waiting for all copies enqueued so far.
    ///
    /// # Errors
    /// An error of the work before the last copy; also within a [capture](Stream::capture).
    pub fn write(&mut self) -> Result<&mut [T]> {
        self.device.require_no_capture("write to staging memory")?;
        self.settle()?;
        // SAFETY: as in `read`.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.address as *mut T, self.length) })
    }

    /// Enqueues a copy of the elements of `range` to `destination`.
    ///
    /// # Errors
    /// When a length does not fit, an argument belongs to another device, or the stream is being captured.
    pub fn upload(
        &mut self,
        stream: &Stream,
        range: Range<usize>,
        destination: ViewMut<'_, T>,
    ) -> Result<()> {
        self.device.require_same("destination", destination.device())?;
        let source = self.fitting(&range, "destination", destination.len())?;
        self.transfer(stream, Direction::ToDevice, destination.address(), source, range.len())
    }

    /// Enqueues a copy of `source` to the elements of `range`.
    ///
    /// # Errors
    /// When a length does not fit, an argument belongs to another device, or the stream is being captured.
    pub fn download(&mut self, stream: &Stream, range: Range<usize>, source: View<'_, T>) -> Result<()> {
        self.device.require_same("source", source.device())?;
        let destination = self.fitting(&range, "source", source.len())?;
        self.transfer(stream, Direction::ToHost, destination, source.address(), range.len())
    }

    /// Returns the address of `range`, which must lie within this memory and be as long as the other side of the copy.
    fn fitting(&self, range: &Range<usize>, argument: &'static str, length: usize) -> Result<u64> {
        let wrong = |argument, actual, expected| Err(Error::Argument { argument, actual, expected });
        if range.start > range.end || range.end > self.length {
            return wrong("range", format!("{range:?}"), format!("within 0..{}", self.length));
        }
        if range.len() != length {
            let expected = format!("{} elements, as range {range:?}", range.len());
            return wrong(argument, format!("{length} elements"), expected);
        }
        Ok(element_address::<T>(self.address, self.length, range))
    }

    fn transfer(
        &mut self,
        stream: &Stream,
        direction: Direction,
        destination: u64,
        source: u64,
        count: usize,
    ) -> Result<()> {
        self.device.require_same("stream", stream.device())?;
        stream.require_running("copy from or to the host")?;
        let transfer = Transfer { direction, destination, source, bytes: count * size_of::<T>() };
        // The copies may be on several streams: this one's event must come after the earlier copies.
        if let Some(event) = &self.busy {
            stream.wait(event)?;
        }
        // SAFETY: both sides are valid for the length; the host's side is not touched before the event.
        unsafe { stream.enqueue(&Command::Transfer(transfer))? };
        self.busy = Some(stream.record()?);
        Ok(())
    }

    /// Waits for the copies in flight.
    fn settle(&mut self) -> Result<()> {
        self.busy.take().map_or(Ok(()), |event| event.settle())
    }
}

impl<T: Element> Drop for Staging<T> {
    fn drop(&mut self) {
        // After a failure of the device no copy is in flight any more.
        let _ = self.settle();
        // SAFETY: allocated by `new`, and no copy is in flight.
        unsafe { self.device.backend().free_staging(self.address, self.length * size_of::<T>()) }
    }
}
