//! Fixed-capacity buffers with a prefix in use, which the host fills while the device computes.

use std::ops::Range;

use crate::device::{Buffer, Device, Element, Staging, Stream, View, ViewMut};
use crate::ops::Result;

/// Staging buffers: two, so that the host can write one batch while the device still copies the previous one.
const SLOTS: usize = 2;

/// A buffer with a prefix in use, and the page-locked memory that it is uploaded from.
#[derive(Debug)]
pub(super) struct StagedBuffer<T: Element> {
    buffer: Buffer<T>,
    slots: [Staging<T>; SLOTS],
    next: usize,
    length: usize,
}

impl<T: Element> StagedBuffer<T> {
    pub(super) fn new(device: &Device, capacity: usize) -> Result<Self> {
        Ok(Self {
            buffer: device.zeros(capacity)?,
            slots: [device.staging(capacity)?, device.staging(capacity)?],
            next: 0,
            length: 0,
        })
    }

    /// Enqueues a copy of `values`, which become the prefix in use.
    pub(super) fn write(&mut self, stream: &Stream, values: &[T]) -> Result<()> {
        self.resize(values.len());
        let slot = &mut self.slots[self.next];
        self.next = (self.next + 1) % SLOTS;
        slot.write()?[..values.len()].copy_from_slice(values);
        Ok(slot.upload(stream, 0..values.len(), self.buffer.slice_mut(0..values.len()))?)
    }

    /// Sets the prefix in use to `length` elements, which a kernel will write.
    pub(super) fn resize(&mut self, length: usize) {
        assert!(length <= self.buffer.len(), "{length} elements in a buffer of {}", self.buffer.len());
        self.length = length;
    }

    pub(super) fn view(&self) -> View<'_, T> {
        self.buffer.slice(0..self.length)
    }

    pub(super) fn view_mut(&mut self) -> ViewMut<'_, T> {
        self.buffer.slice_mut(0..self.length)
    }

    /// The whole capacity, for recorded launches, which must not depend on the length that a batch uses.
    pub(super) fn whole(&self) -> View<'_, T> {
        self.buffer.view()
    }

    /// Mutable [`whole`](Self::whole).
    pub(super) fn whole_mut(&mut self) -> ViewMut<'_, T> {
        self.buffer.view_mut()
    }

    /// Mutable views of two ranges that do not overlap.
    pub(super) fn slices_mut(&mut self, ranges: [&Range<usize>; 2]) -> [ViewMut<'_, T>; 2] {
        self.buffer.slices_mut(ranges)
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }
}
