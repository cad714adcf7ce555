//! A call of an operation: its device, stream and descriptor, and the views of the caller's memory that the descriptor's fields stand for.

use std::cell::RefCell;
use std::ffi::c_void;

use retromae::device::{Device, Element, Error, GemmWorkspace, Matrix, MatrixMut, Stream, View, ViewMut};
use retromae::ops;

use crate::ranges::{Range, Ranges};
use crate::status::{Failure, Result, Status, invalid};
use crate::sys;

/// A descriptor of the header.
pub trait Descriptor: Copy {
    /// Its name in messages.
    const NAME: &'static str;
    /// Version that this library reads.
    const VERSION: u32;
    /// Flags that this library knows.
    const FLAGS: u64;
    /// The fields that every descriptor begins with: size, version and flags.
    fn head(&self) -> (u32, u32, u64);
}

const MATMUL_FLAGS: u64 = (sys::RMAE_MATMUL_LEFT_TRANSPOSED
    | sys::RMAE_MATMUL_RIGHT_TRANSPOSED
    | sys::RMAE_MATMUL_ACCUMULATE) as u64;

/// Implements [`Descriptor`] for structs of the header, each with its version and its flags.
macro_rules! descriptors {
    ($($desc:ident, $version:ident, $flags:expr;)*) => {$(
        impl Descriptor for sys::$desc {
            const NAME: &'static str = stringify!($desc);
            const VERSION: u32 = sys::$version;
            const FLAGS: u64 = $flags;
            fn head(&self) -> (u32, u32, u64) {
                (self.size, self.version, self.flags)
            }
        }
    )*};
}

descriptors! {
    rmae_attention_desc, RMAE_ATTENTION_VERSION, sys::RMAE_ATTENTION_ATOMIC as u64;
    rmae_cross_entropy_desc, RMAE_CROSS_ENTROPY_VERSION, sys::RMAE_CROSS_ENTROPY_IGNORE_INDEX as u64;
    rmae_mean_weights_desc, RMAE_MEAN_WEIGHTS_VERSION, 0;
    rmae_bag_of_words_desc, RMAE_BAG_OF_WORDS_VERSION, 0;
    rmae_linear_desc, RMAE_LINEAR_VERSION, sys::RMAE_LINEAR_ACCUMULATE as u64;
    rmae_matmul_desc, RMAE_MATMUL_VERSION, MATMUL_FLAGS;
    rmae_layer_norm_desc, RMAE_LAYER_NORM_VERSION, 0;
    rmae_bias_gelu_desc, RMAE_BIAS_GELU_VERSION, 0;
    rmae_column_sum_desc, RMAE_COLUMN_SUM_VERSION, sys::RMAE_SUM_ACCUMULATE as u64;
    rmae_reduce_desc, RMAE_REDUCE_VERSION, sys::RMAE_SUM_ACCUMULATE as u64;
    rmae_segment_sum_desc, RMAE_SEGMENT_SUM_VERSION, 0;
    rmae_rows_desc, RMAE_ROWS_VERSION, 0;
    rmae_group_by_key_desc, RMAE_GROUP_BY_KEY_VERSION, 0;
    rmae_embedding_desc, RMAE_EMBEDDING_VERSION, 0;
    rmae_masks_desc, RMAE_MASKS_VERSION, 0;
    rmae_adamw_desc, RMAE_ADAMW_VERSION, 0;
    rmae_batch, RMAE_BATCH_VERSION, 0;
}

/// Copies a descriptor, so that nobody changes it any more; refuses one of another size or version.
///
/// # Safety
/// `desc` is null, or points to a struct that begins with its size and is that long.
pub unsafe fn read_descriptor<D: Descriptor>(desc: *const D) -> Result<D> {
    let refuse = |field: &str, actual: String, expected: String| {
        let field = format!("{}{field}", D::NAME);
        Err(Failure::field(Status::InvalidDescriptor, field, actual, expected))
    };
    if desc.is_null() {
        return refuse("", "NULL".into(), "a descriptor".into());
    }
    if !desc.is_aligned() {
        return refuse("", format!("at {desc:p}"), format!("aligned to {} bytes", align_of::<D>()));
    }
    // SAFETY: the size comes first in every version, by the caller's promise.
    let size = unsafe { desc.cast::<u32>().read() };
    if size as usize != size_of::<D>() {
        return refuse(
            ".size",
            format!("{size} bytes"),
            format!("{}, of version {}", size_of::<D>(), D::VERSION),
        );
    }
    // SAFETY: it has this size.
    let desc = unsafe { desc.read() };
    let (_, version, flags) = desc.head();
    if version != D::VERSION {
        return refuse(".version", version.to_string(), D::VERSION.to_string());
    }
    if flags & !D::FLAGS != 0 {
        let expected = format!("a combination of {:#x}", D::FLAGS);
        return invalid(format_args!("{}.flags", D::NAME), format_args!("{flags:#x}"), expected);
    }
    Ok(desc)
}

/// A call with a descriptor that has been read.
pub struct Call<'a, D> {
    pub desc: &'a D,
    device: &'a Device,
    stream: *mut c_void,
    ranges: RefCell<Ranges>,
}

impl<'a, D> Call<'a, D> {
    pub fn new(device: &'a Device, stream: *mut c_void, desc: &'a D) -> Self {
        Self { desc, device, stream, ranges: RefCell::default() }
    }

    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The elements of an array that the call reads.
    ///
    /// # Errors
    /// When it is NULL, unless it is empty; when it is misaligned or of another device.
    pub fn view<T: Element>(
        &self,
        field: &'static str,
        data: *const T,
        length: usize,
    ) -> Result<View<'a, T>> {
        self.add(field, data.cast(), (1, length, length), size_of::<T>(), false)?;
        // SAFETY: the caller's promise to a function of the header: arrays are valid for their lengths until the work is done.
        unsafe { View::borrow_raw(self.device, data.addr() as u64, length) }
            .map_err(|error| Failure::of_field(field, error))
    }

    /// As [`view`](Self::view); `None` for NULL.
    pub fn optional<T: Element>(
        &self,
        field: &'static str,
        data: *const T,
        length: usize,
    ) -> Result<Option<View<'a, T>>> {
        if data.is_null() { Ok(None) } else { self.view(field, data, length).map(Some) }
    }

    /// As [`view`](Self::view), of an array that the call writes: it overlaps no other.
    pub fn view_mut<T: Element>(
        &self,
        field: &'static str,
        data: *mut T,
        length: usize,
    ) -> Result<ViewMut<'a, T>> {
        self.add(field, data.cast_const().cast(), (1, length, length), size_of::<T>(), true)?;
        // SAFETY: as in `view`; whether it overlaps another array is checked before anything is enqueued.
        unsafe { ViewMut::borrow_raw(self.device, data.addr() as u64, length) }
            .map_err(|error| Failure::of_field(field, error))
    }

    /// As [`view_mut`](Self::view_mut); `None` for NULL.
    pub fn optional_mut<T: Element>(
        &self,
        field: &'static str,
        data: *mut T,
        length: usize,
    ) -> Result<Option<ViewMut<'a, T>>> {
        if data.is_null() { Ok(None) } else { self.view_mut(field, data, length).map(Some) }
    }

    /// A matrix that the call reads; a stride of 0 stands for contiguous rows.
    ///
    /// # Errors
    /// As [`view`](Self::view); also when the stride is below the columns, or the matrix larger than memory.
    pub fn matrix<T: Element>(
        &self,
        field: &'static str,
        data: *const c_void,
        [rows, columns]: [usize; 2],
        stride: i64,
    ) -> Result<Matrix<'a, T>> {
        let (stride, span) = strided(field, [rows, columns], stride)?;
        self.add(field, data, (rows, columns, stride), size_of::<T>(), false)?;
        // SAFETY: as in `view`.
        let view = unsafe { View::borrow_raw(self.device, data.addr() as u64, span) };
        view.and_then(|view| view.strided(rows, columns, stride))
            .map_err(|error| Failure::of_field(field, error))
    }

    /// As [`matrix`](Self::matrix), of one that the call writes.
    pub fn matrix_mut<T: Element>(
        &self,
        field: &'static str,
        data: *mut c_void,
        [rows, columns]: [usize; 2],
        stride: i64,
    ) -> Result<MatrixMut<'a, T>> {
        let (stride, span) = strided(field, [rows, columns], stride)?;
        self.add(field, data, (rows, columns, stride), size_of::<T>(), true)?;
        // SAFETY: as in `view_mut`.
        let view = unsafe { ViewMut::borrow_raw(self.device, data.addr() as u64, span) };
        view.and_then(|view| view.strided(rows, columns, stride))
            .map_err(|error| Failure::of_field(field, error))
    }

    /// As [`matrix`](Self::matrix); `None` for NULL.
    pub fn optional_matrix<T: Element>(
        &self,
        field: &'static str,
        data: *const c_void,
        shape: [usize; 2],
        stride: i64,
    ) -> Result<Option<Matrix<'a, T>>> {
        if data.is_null() { Ok(None) } else { self.matrix(field, data, shape, stride).map(Some) }
    }

    /// As [`matrix_mut`](Self::matrix_mut); `None` for NULL.
    pub fn optional_matrix_mut<T: Element>(
        &self,
        field: &'static str,
        data: *mut c_void,
        shape: [usize; 2],
        stride: i64,
    ) -> Result<Option<MatrixMut<'a, T>>> {
        if data.is_null() { Ok(None) } else { self.matrix_mut(field, data, shape, stride).map(Some) }
    }

    /// The workspace of an operation without matmuls.
    ///
    /// # Errors
    /// As [`view_mut`](Self::view_mut).
    pub fn workspace(&self, data: *mut c_void, bytes: usize) -> Result<ViewMut<'a, u8>> {
        self.view_mut("workspace", data.cast(), if data.is_null() { 0 } else { bytes })
    }

    /// The workspace of an operation with matmuls: the GEMM library's part, and the operation's.
    ///
    /// # Errors
    /// As [`workspace`](Self::workspace); also when it has no room for the GEMM library's part.
    pub fn gemm_workspace(
        &self,
        data: *mut c_void,
        bytes: usize,
    ) -> Result<(Option<GemmWorkspace>, ViewMut<'a, u8>)> {
        let gemm = self.device.gemm_workspace_bytes();
        let whole = self.workspace(data, bytes)?;
        if gemm == 0 {
            return Ok((None, whole));
        }
        if whole.len() < gemm {
            let actual = format!("{} bytes long", whole.len());
            let expected = format!("at least {gemm} bytes");
            return Err(Failure::field(Status::WorkspaceTooSmall, "workspace", actual, expected));
        }
        let (gemm, rest) = whole.split_at(gemm);
        Ok((Some(GemmWorkspace { address: gemm.address(), bytes: gemm.len() }), rest))
    }

    /// Enqueues an operation, if no array that it writes overlaps another.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn enqueue(&self, operation: impl FnOnce(&Stream) -> ops::Result<()>) -> Result<()> {
        self.enqueue_with(None, operation)
    }

    /// As [`enqueue`](Self::enqueue), of an operation with matmuls.
    pub fn enqueue_with(
        &self,
        gemm: Option<GemmWorkspace>,
        operation: impl FnOnce(&Stream) -> ops::Result<()>,
    ) -> Result<()> {
        self.ranges.borrow().require_disjoint()?;
        // SAFETY: the caller's promise to a function of the header: the stream lives, and arrays are valid until the work is done.
        let stream =
            unsafe { self.device.lend_stream(self.stream.addr() as u64, gemm) }.map_err(|error| {
                let of_workspace = matches!(error, Error::Misaligned { .. });
                Failure::of_field(if of_workspace { "workspace" } else { "stream" }, error)
            })?;
        operation(&stream).map_err(|error| {
            let Failure { status, text } = error.into();
            let before = gemm.filter(|_| status == Status::WorkspaceTooSmall).map(|gemm| gemm.bytes);
            let behind = before.map(|bytes| format!(", behind the {bytes} bytes of the GEMM library"));
            Failure { status, text: text + &behind.unwrap_or_default() }
        })
    }

    /// Notes rows of a field's array, to be compared with the others.
    fn add(
        &self,
        field: &'static str,
        data: *const c_void,
        (rows, columns, stride): (usize, usize, usize),
        element: usize,
        written: bool,
    ) -> Result<()> {
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        if data.is_null() {
            return Err(Failure::field(Status::NullPointer, field, "NULL", "an array"));
        }
        let range = Range::new(field, data.addr(), [rows, columns, stride], element, written)?;
        self.ranges.borrow_mut().push(range);
        Ok(())
    }
}

/// Returns the bytes of a workspace: the GEMM library's part, which begins it, and the operation's.
pub fn workspace_with_gemm(device: &Device, bytes: usize) -> usize {
    device.gemm_workspace_bytes().saturating_add(bytes)
}

/// Returns a size of the header as Rust has it.
///
/// # Errors
/// When it is negative, or 2^40 and more: no array is that long.
pub fn size(field: &'static str, value: i64) -> Result<usize> {
    match usize::try_from(value) {
        Ok(value) if value < 1 << 40 => Ok(value),
        _ => invalid(field, value, "in 0..2^40"),
    }
}

/// Returns a number of rows or columns, which kernels count in 32 bits.
///
/// # Errors
/// As [`size`]; also when it is 2^31 and more.
pub fn count(field: &'static str, value: i64) -> Result<usize> {
    let value = size(field, value)?;
    if value > i32::MAX as usize {
        return Err(Failure::field(Status::UnsupportedShape, field, value, "below 2^31"));
    }
    Ok(value)
}

/// Returns the length of an array with `factor`, of this field, times `other` elements or rows.
///
/// # Errors
/// When that is 2^40 and more.
pub fn product(field: &'static str, factor: usize, other: usize) -> Result<usize> {
    let product = factor.checked_mul(other).filter(|&product| product < 1 << 40);
    product.map_or_else(|| invalid(field, factor, format_args!("less, with {other} of the others")), Ok)
}

/// Returns an array in host memory.
///
/// # Errors
/// When it is NULL, unless it is empty, or misaligned.
///
/// # Safety
/// It is null or valid for its length, for as long as the result lives.
pub unsafe fn host_array<'a, T>(field: &'static str, data: *const T, length: usize) -> Result<&'a [T]> {
    if length == 0 {
        return Ok(&[]);
    }
    require_host_array(field, data)?;
    // SAFETY: passed on to the caller.
    Ok(unsafe { std::slice::from_raw_parts(data, length) })
}

/// Copies results to an array in host memory.
///
/// # Errors
/// As [`host_array`].
///
/// # Safety
/// It is null or valid for as many elements.
pub unsafe fn write_host_array<T: Copy>(field: &'static str, data: *mut T, values: &[T]) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    require_host_array(field, data)?;
    // SAFETY: passed on to the caller; the values are this library's, so they do not overlap.
    unsafe { data.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    Ok(())
}

fn require_host_array<T>(field: &'static str, data: *const T) -> Result<()> {
    if data.is_null() {
        return Err(Failure::field(Status::NullPointer, field, "NULL", "an array in host memory"));
    }
    if !data.is_aligned() {
        let expected = format_args!("aligned to {} bytes", align_of::<T>());
        return Err(Failure::field(Status::Misaligned, field, format_args!("at {data:p}"), expected));
    }
    Ok(())
}

/// Returns the stride that a field stands for, and the elements from the first to the last.
fn strided(field: &'static str, [rows, columns]: [usize; 2], stride: i64) -> Result<(usize, usize)> {
    let given = if stride == 0 { Some(columns) } else { usize::try_from(stride).ok() };
    let Some(stride) = given.filter(|given| (columns..1 << 40).contains(given)) else {
        return invalid(
            field,
            format_args!("strided by {stride} elements"),
            format_args!("strided by {columns} (its columns) or more, below 2^40; 0 for contiguous rows"),
        );
    };
    if rows == 0 || columns == 0 {
        return Ok((stride, 0));
    }
    let span = (rows - 1).checked_mul(stride).and_then(|rest| rest.checked_add(columns));
    span.map_or_else(
        || {
            invalid(
                field,
                format_args!("{rows} rows strided by {stride} elements"),
                "within the address space",
            )
        },
        |span| Ok((stride, span)),
    )
}
