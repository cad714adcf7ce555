//! Matrices in device memory: views with rows, columns and a row stride, checked when they are made.

use std::marker::PhantomData;
use std::ops::Range;

use super::buffer::DeviceMemory;
use super::{Buffer, Device, Element, Error, Result, View, ViewMut};

/// Row-major shape: `[rows, columns]`, a row every `stride` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixShape {
    pub rows: usize,
    pub columns: usize,
    pub stride: usize,
}

impl MatrixShape {
    fn contiguous(rows: usize, columns: usize) -> Self {
        Self { rows, columns, stride: columns }
    }

    /// Returns the elements from the first to the last, gaps between rows included.
    fn span(self) -> usize {
        let Some(before_last) = self.rows.checked_sub(1) else { return 0 };
        before_last.saturating_mul(self.stride).saturating_add(self.columns)
    }

    pub(crate) fn is_contiguous(self) -> bool {
        self.stride == self.columns || self.rows <= 1
    }

    /// Returns the shape of contiguous rows, which a view of `length` elements must have exactly.
    fn exact(length: usize, rows: usize, columns: usize) -> Result<Self> {
        if rows.checked_mul(columns) == Some(length) {
            return Ok(Self::contiguous(rows, columns));
        }
        let expected = format!("{} ({rows} rows of {columns} columns)", rows.saturating_mul(columns));
        Err(Error::Argument { argument: "matrix", actual: format!("{length} elements long"), expected })
    }

    /// Returns a strided shape, which may not exceed a view of `length` elements.
    fn within(length: usize, rows: usize, columns: usize, stride: usize) -> Result<Self> {
        let shape = Self { rows, columns, stride };
        if stride < columns {
            let expected = format!("at least {columns} (columns)");
            return Err(Error::Argument { argument: "stride", actual: stride.to_string(), expected });
        }
        let span = shape.span();
        if span <= length {
            return Ok(shape);
        }
        let expected = format!("at least {span} ({rows} rows of {columns} columns, strided by {stride})");
        Err(Error::Argument { argument: "matrix", actual: format!("{length} elements long"), expected })
    }

    /// Returns the shape of `length` elements in rows of `columns`.
    fn of_rows(length: usize, columns: usize) -> Result<Self> {
        if columns > 0 && length.is_multiple_of(columns) {
            return Ok(Self::contiguous(length / columns, columns));
        }
        Err(Error::Argument {
            argument: "matrix",
            actual: format!("{length} elements long"),
            expected: format!("whole rows of {columns} columns"),
        })
    }

    /// Returns the offset of the first row of `range`, and the shape of these rows.
    fn rows(self, range: &Range<usize>) -> (usize, Self) {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        (if range.is_empty() { 0 } else { range.start * self.stride }, Self { rows: range.len(), ..self })
    }

    /// Returns the offset of the first column of `range`, and the shape of these columns.
    fn columns(self, range: &Range<usize>) -> (usize, Self) {
        assert!(
            range.start <= range.end && range.end <= self.columns,
            "columns {range:?} of {}",
            self.columns
        );
        (if self.rows == 0 { 0 } else { range.start }, Self { columns: range.len(), ..self })
    }

    /// Returns `N` ranges of equally many columns.
    fn equal_columns<const N: usize>(self) -> [Range<usize>; N] {
        assert!(self.columns.is_multiple_of(N), "{} columns in {N} equal ranges", self.columns);
        let width = self.columns / N;
        std::array::from_fn(|i| i * width..(i + 1) * width)
    }
}

/// A shared view of a row-major matrix, `[rows, columns]`, whose rows begin every [`stride`](Self::stride) elements.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T: Element> {
    device: &'a Device,
    address: u64,
    shape: MatrixShape,
    element: PhantomData<&'a T>,
}

/// As [`Matrix`], exclusive: of the elements in its columns, not of those between its rows.
#[derive(Debug)]
pub struct MatrixMut<'a, T: Element> {
    device: &'a Device,
    address: u64,
    shape: MatrixShape,
    element: PhantomData<&'a mut T>,
}

/// A matrix of a device, shared or exclusive.
pub(crate) trait MatrixMemory: DeviceMemory {
    /// Rows, columns and row stride.
    fn shape(&self) -> MatrixShape;
}

impl<T: Element> MatrixMemory for Matrix<'_, T> {
    fn shape(&self) -> MatrixShape {
        self.shape
    }
}

impl<T: Element> MatrixMemory for MatrixMut<'_, T> {
    fn shape(&self) -> MatrixShape {
        self.shape
    }
}

impl<T: Element> DeviceMemory for Matrix<'_, T> {
    fn device(&self) -> &Device {
        self.device
    }
    fn address(&self) -> u64 {
        self.address
    }
    fn is_empty(&self) -> bool {
        self.shape.span() == 0
    }
}

impl<T: Element> DeviceMemory for MatrixMut<'_, T> {
    fn device(&self) -> &Device {
        self.device
    }
    fn address(&self) -> u64 {
        self.address
    }
    fn is_empty(&self) -> bool {
        self.shape.span() == 0
    }
}

/// The accessors that shared and exclusive matrices have in common.
macro_rules! shape_accessors {
    () => {
        /// The device that the memory belongs to.
        #[must_use]
        pub fn device(&self) -> &'a Device {
            self.device
        }

        /// Number of rows.
        #[must_use]
        pub fn rows(&self) -> usize {
            self.shape.rows
        }

        /// Number of columns.
        #[must_use]
        pub fn columns(&self) -> usize {
            self.shape.columns
        }

        /// Elements from the start of a row to the start of the next.
        #[must_use]
        pub fn stride(&self) -> usize {
            self.shape.stride
        }

        /// Returns whether nothing lies between the rows.
        #[must_use]
        pub fn is_contiguous(&self) -> bool {
            self.shape.is_contiguous()
        }

        /// The device address of the first element, for the params struct of a kernel.
        #[must_use]
        pub fn address(&self) -> u64 {
            self.address
        }
    };
}

impl<'a, T: Element> Matrix<'a, T> {
    shape_accessors!();

    /// Returns a matrix at the start of a view, which its shape does not exceed.
    fn of(view: View<'a, T>, shape: MatrixShape) -> Self {
        Self { device: view.device(), address: view.address(), shape, element: PhantomData }
    }

    fn part(self, (offset, shape): (usize, MatrixShape)) -> Self {
        Self { address: self.address + (offset * size_of::<T>()) as u64, shape, ..self }
    }

    /// The rows of `range`.
    ///
    /// # Panics
    /// When `range` exceeds the rows, as in indexing a slice.
    #[must_use]
    pub fn slice_rows(self, range: Range<usize>) -> Self {
        self.part(self.shape.rows(&range))
    }

    /// The columns of `range`.
    ///
    /// # Panics
    /// When `range` exceeds the columns, as in indexing a slice.
    #[must_use]
    pub fn slice_columns(self, range: Range<usize>) -> Self {
        self.part(self.shape.columns(&range))
    }

    /// `N` matrices side by side, such as queries, keys and values of a packed projection.
    ///
    /// # Panics
    /// When the columns are no multiple of `N`.
    #[must_use]
    pub fn split_columns<const N: usize>(self) -> [Self; N] {
        self.shape.equal_columns().map(|range| self.slice_columns(range))
    }

    /// All elements, row after row.
    ///
    /// # Panics
    /// When the rows are not [contiguous](Self::is_contiguous).
    #[must_use]
    pub fn view(self) -> View<'a, T> {
        assert!(self.is_contiguous(), "a view of rows strided by {}", self.stride());
        View::from_raw(self.device, self.address, self.shape.span())
    }
}

impl<'a, T: Element> MatrixMut<'a, T> {
    shape_accessors!();

    /// Returns a matrix at the start of a view, which its shape does not exceed.
    fn of(view: ViewMut<'a, T>, shape: MatrixShape) -> Self {
        Self { device: view.device(), address: view.address(), shape, element: PhantomData }
    }

    fn part(self, (offset, shape): (usize, MatrixShape)) -> Self {
        Self { address: self.address + (offset * size_of::<T>()) as u64, shape, ..self }
    }

    /// The same elements, borrowed again for a shorter time.
    pub fn reborrow(&mut self) -> MatrixMut<'_, T> {
        MatrixMut { device: self.device, address: self.address, shape: self.shape, element: PhantomData }
    }

    /// The same elements, shared.
    #[must_use]
    pub fn as_matrix(&self) -> Matrix<'_, T> {
        Matrix { device: self.device, address: self.address, shape: self.shape, element: PhantomData }
    }

    /// The rows of `range`, exclusively.
    ///
    /// # Panics
    /// When `range` exceeds the rows, as in indexing a slice.
    #[must_use]
    pub fn slice_rows(self, range: Range<usize>) -> Self {
        let part = self.shape.rows(&range);
        self.part(part)
    }

    /// The rows before `middle`, and those from `middle` on.
    ///
    /// # Panics
    /// When there are fewer than `middle` rows.
    #[must_use]
    pub fn split_rows(mut self, middle: usize) -> (Self, Self) {
        let first = self.shape.rows(&(0..middle));
        let second = self.shape.rows(&(middle..self.shape.rows));
        // Rows are apart, so both are exclusive.
        (self.duplicate().part(first), self.part(second))
    }

    /// `N` matrices side by side, such as the gradients of queries, keys and values of a packed projection.
    ///
    /// # Panics
    /// When the columns are no multiple of `N`.
    #[must_use]
    pub fn split_columns<const N: usize>(mut self) -> [Self; N] {
        let shape = self.shape;
        // The columns of one are not those of another, so all are exclusive.
        shape.equal_columns().map(|range| self.duplicate().part(shape.columns(&range)))
    }

    /// The columns before `middle`, and those from `middle` on.
    ///
    /// # Panics
    /// When there are fewer than `middle` columns.
    #[must_use]
    pub fn split_columns_at(mut self, middle: usize) -> (Self, Self) {
        let first = self.shape.columns(&(0..middle));
        let second = self.shape.columns(&(middle..self.shape.columns));
        // As in `split_columns`.
        (self.duplicate().part(first), self.part(second))
    }

    /// Returns the same elements once more; the caller gives each element to one of both alone.
    fn duplicate(&mut self) -> Self {
        Self { device: self.device, address: self.address, shape: self.shape, element: PhantomData }
    }

    /// All elements, row after row, exclusively.
    ///
    /// # Panics
    /// When the rows are not [contiguous](Self::is_contiguous).
    #[must_use]
    pub fn into_view(self) -> ViewMut<'a, T> {
        assert!(self.is_contiguous(), "a view of rows strided by {}", self.stride());
        ViewMut::from_raw(self.device, self.address, self.shape.span())
    }
}

impl<'a, T: Element> View<'a, T> {
    /// The elements as a matrix of exactly this shape.
    ///
    /// # Errors
    /// When the view has not `rows · columns` elements.
    pub fn matrix(self, rows: usize, columns: usize) -> Result<Matrix<'a, T>> {
        let shape = MatrixShape::exact(self.len(), rows, columns)?;
        Ok(Matrix::of(self, shape))
    }

    /// A matrix whose rows begin every `stride` elements; what lies between and behind them is not part of it.
    ///
    /// # Errors
    /// When `stride` is below `columns`, or the view ends before the last row's columns.
    pub fn strided(self, rows: usize, columns: usize, stride: usize) -> Result<Matrix<'a, T>> {
        let shape = MatrixShape::within(self.len(), rows, columns, stride)?;
        Ok(Matrix::of(self, shape))
    }

    /// The elements in rows of `columns`.
    ///
    /// # Errors
    /// When the view does not consist of whole rows.
    pub fn rows_of(self, columns: usize) -> Result<Matrix<'a, T>> {
        let shape = MatrixShape::of_rows(self.len(), columns)?;
        Ok(Matrix::of(self, shape))
    }
}

impl<'a, T: Element> ViewMut<'a, T> {
    /// As [`View::matrix`], exclusive.
    ///
    /// # Errors
    /// As [`View::matrix`].
    pub fn matrix(self, rows: usize, columns: usize) -> Result<MatrixMut<'a, T>> {
        let shape = MatrixShape::exact(self.len(), rows, columns)?;
        Ok(MatrixMut::of(self, shape))
    }

    /// As [`View::strided`], exclusive.
    ///
    /// # Errors
    /// As [`View::strided`].
    pub fn strided(self, rows: usize, columns: usize, stride: usize) -> Result<MatrixMut<'a, T>> {
        let shape = MatrixShape::within(self.len(), rows, columns, stride)?;
        Ok(MatrixMut::of(self, shape))
    }

    /// As [`View::rows_of`], exclusive.
    ///
    /// # Errors
    /// As [`View::rows_of`].
    pub fn rows_of(self, columns: usize) -> Result<MatrixMut<'a, T>> {
        let shape = MatrixShape::of_rows(self.len(), columns)?;
        Ok(MatrixMut::of(self, shape))
    }
}

impl<T: Element> Buffer<T> {
    /// All elements as a matrix, as [`View::matrix`].
    ///
    /// # Errors
    /// As [`View::matrix`].
    pub fn matrix(&self, rows: usize, columns: usize) -> Result<Matrix<'_, T>> {
        self.view().matrix(rows, columns)
    }

    /// All elements as an exclusive matrix, as [`View::matrix`].
    ///
    /// # Errors
    /// As [`View::matrix`].
    pub fn matrix_mut(&mut self, rows: usize, columns: usize) -> Result<MatrixMut<'_, T>> {
        self.view_mut().matrix(rows, columns)
    }
}

/// Device memory for a matrix of at most as many rows as it was made for, freed when dropped.
#[derive(Debug)]
pub struct MatrixBuffer<T: Element> {
    buffer: Buffer<T>,
    shape: MatrixShape,
}

impl<T: Element> MatrixBuffer<T> {
    pub(super) fn zeros(device: &Device, rows: usize, columns: usize) -> Result<Self> {
        let buffer = device.zeros(rows.saturating_mul(columns))?;
        Ok(Self { buffer, shape: MatrixShape::contiguous(rows, columns) })
    }

    /// Maximum number of rows.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shape.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.shape.columns
    }

    /// The first `count` rows.
    ///
    /// # Panics
    /// When there are fewer rows.
    #[must_use]
    pub fn rows(&self, count: usize) -> Matrix<'_, T> {
        let (_, shape) = self.shape.rows(&(0..count));
        Matrix::of(self.buffer.view(), shape)
    }

    /// The first `count` rows, exclusively.
    ///
    /// # Panics
    /// When there are fewer rows.
    pub fn rows_mut(&mut self, count: usize) -> MatrixMut<'_, T> {
        let (_, shape) = self.shape.rows(&(0..count));
        MatrixMut::of(self.buffer.view_mut(), shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_matrix_are_where_they_should_be() {
        let device = Device::host().unwrap();
        let buffer = device.upload(&(0..24).collect::<Vec<i32>>()).unwrap();
        let matrix = buffer.matrix(4, 6).unwrap();
        assert_eq!(matrix.slice_rows(1..3).view().read().unwrap(), (6..18).collect::<Vec<i32>>());
        let [left, right] = matrix.split_columns();
        assert_eq!((left.rows(), left.columns(), left.stride()), (4, 3, 6));
        assert_eq!(right.address() - left.address(), 3 * 4);
        assert_eq!(right.slice_rows(2..3).view().read().unwrap(), [15, 16, 17]);
        assert!(!left.is_contiguous());
        // The last row may end with its columns.
        assert!(buffer.slice(0..21).strided(4, 3, 6).is_ok());
        assert!(matrix.slice_rows(4..4).view().is_empty());
    }

    #[test]
    fn exclusive_parts_are_apart() {
        let device = Device::host().unwrap();
        let mut buffer = device.zeros::<f32>(24).unwrap();
        let start = buffer.view().address();
        let (first, rest) = buffer.matrix_mut(4, 6).unwrap().split_rows(1);
        assert_eq!((first.address(), first.rows()), (start, 1));
        assert_eq!((rest.address(), rest.rows()), (start + 24, 3));
        let (left, right) = rest.split_columns_at(2);
        assert_eq!([left.columns(), right.columns()], [2, 4]);
        assert_eq!((left.address() - start, right.address() - start, right.stride()), (24, 32, 6));
        let (_, rest) = buffer.matrix_mut(4, 6).unwrap().split_rows(1);
        let [left, middle, right] = rest.split_columns();
        assert_eq!([left, middle, right].map(|part| part.address() - start), [24, 32, 40]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let device = Device::host().unwrap();
        let buffer = device.zeros::<f32>(20).unwrap();
        let message = |result: Result<Matrix<'_, f32>>| result.unwrap_err().to_string();
        assert_eq!(
            message(buffer.matrix(4, 6)),
            "matrix is 20 elements long; it should be 24 (4 rows of 6 columns)"
        );
        assert_eq!(
            message(buffer.view().rows_of(6)),
            "matrix is 20 elements long; it should be whole rows of 6 columns"
        );
        assert!(message(buffer.view().rows_of(0)).contains("whole rows of 0 columns"));
        assert!(message(buffer.view().strided(4, 3, 6)).contains("at least 21"));
        assert_eq!(message(buffer.view().strided(4, 6, 5)), "stride is 5; it should be at least 6 (columns)");
        assert!(buffer.matrix(usize::MAX, usize::MAX).is_err());
        assert!(buffer.view().strided(usize::MAX, 1, usize::MAX).is_err());
    }
}
