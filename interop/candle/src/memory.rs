//! Memory of candle's devices, as both libraries see it.

use std::borrow::Cow;
use std::marker::PhantomData;
#[cfg(feature = "cuda")]
use std::sync::Arc;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
#[cfg(feature = "cuda")]
use candle_core::cuda::{CudaDType, cudarc::driver};
use candle_core::op::BackpropOp;
use candle_core::{Device, Error, Layout, Result, Shape, Storage, StorageRef, Tensor, WithDType};
use retromae::device::{self, GemmWorkspace, Matrix, MatrixMut, View, ViewMut};
use retromae::ops::Workspace;

use crate::refuse::wrong;

/// Element types of both libraries' memory.
#[cfg(not(feature = "cuda"))]
pub(crate) trait Element: device::Element {}
/// Element types of both libraries' memory.
#[cfg(feature = "cuda")]
pub(crate) trait Element: device::Element + driver::DeviceRepr + driver::ValidAsZeroBits {}

impl Element for f32 {}
impl Element for half::bf16 {}
impl Element for half::f16 {}
impl Element for u8 {}
impl Element for u16 {}
impl Element for u32 {}
impl Element for i32 {}

/// Element types of candle's tensors.
#[cfg(not(feature = "cuda"))]
pub(crate) trait Number: Element + WithDType {}
/// Element types of candle's tensors.
#[cfg(feature = "cuda")]
pub(crate) trait Number: Element + WithDType + CudaDType {}

impl Number for f32 {}
impl Number for half::bf16 {}
impl Number for half::f16 {}
impl Number for u32 {}

/// Floating-point types that the operations are built for.
pub(crate) trait Float: Number + device::Float {}

impl Float for f32 {}
impl Float for half::bf16 {}
impl Float for half::f16 {}

/// Evaluates an expression with `$type` as the element type of a tensor.
macro_rules! with_float {
    ($argument:expr, $tensor:expr, $type:ident => $body:expr) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => {
                type $type = f32;
                $body
            }
            candle_core::DType::BF16 => {
                type $type = half::bf16;
                $body
            }
            candle_core::DType::F16 => {
                type $type = half::f16;
                $body
            }
            other => crate::refuse::wrong($argument, format_args!("of {other:?}"), "of F32, BF16 or F16"),
        }
    };
}
pub(crate) use with_float;

/// A device of candle's, and the same one of retromae's.
pub(crate) struct Place {
    candle: Device,
    pub device: device::Device,
    #[cfg(feature = "cuda")]
    stream: Option<Arc<driver::CudaStream>>,
}

impl Place {
    pub fn of(candle: &Device) -> Result<Self> {
        let device = match candle {
            Device::Cpu => device::Device::host(),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => device::Device::cuda(cuda.cuda_stream().context().ordinal()),
            other => return wrong("device", format_args!("{:?}", other.location()), "Cpu or Cuda"),
        };
        Ok(Self {
            device: device.map_err(Error::wrap)?,
            #[cfg(feature = "cuda")]
            stream: if let Device::Cuda(cuda) = candle { Some(cuda.cuda_stream()) } else { None },
            candle: candle.clone(),
        })
    }

    /// Candle's stream, for operations on [`Memory`] and tensors of this device. Matmuls need the memory of [`gemm_memory`](Self::gemm_memory).
    pub fn stream(&self, gemm_memory: Option<&Write<'_, u8>>) -> Result<device::Stream> {
        let workspace =
            gemm_memory.map(|memory| GemmWorkspace { address: memory.address, bytes: memory.length });
        #[cfg(feature = "cuda")]
        let handle = self.stream.as_ref().map_or(0, |stream| stream.cu_stream() as u64);
        #[cfg(not(feature = "cuda"))]
        let handle = 0;
        // SAFETY: candle's stream lives as long as the device, and candle frees memory in the order of the stream.
        unsafe { self.device.lend_stream(handle, workspace) }.map_err(Error::wrap)
    }

    /// Memory that the matmuls of an operation work in.
    pub fn gemm_memory(&self) -> Result<Memory<u8>> {
        Memory::zeros(self, self.device.gemm_workspace_bytes())
    }
}

/// Memory of candle's allocator, of a device and as long as it says.
pub(crate) struct Memory<T> {
    device: Device,
    length: usize,
    slice: Slice<T>,
}

enum Slice<T> {
    Cpu(Vec<T>),
    #[cfg(feature = "cuda")]
    Cuda(driver::CudaSlice<T>),
}

impl<T: Element> Memory<T> {
    pub fn zeros(place: &Place, length: usize) -> Result<Self> {
        let slice = match &place.candle {
            #[cfg(feature = "cuda")]
            // The driver refuses to allocate nothing.
            Device::Cuda(cuda) => Slice::Cuda(cuda.alloc_zeros(length.max(1))?),
            _ => Slice::Cpu(vec![T::zeroed(); length]),
        };
        Ok(Self { device: place.candle.clone(), length, slice })
    }

    /// A copy of `values`.
    pub fn upload(device: &Device, values: &[T]) -> Result<Self> {
        let slice = match device {
            Device::Cpu => Slice::Cpu(values.to_vec()),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) if values.is_empty() => Slice::Cuda(cuda.alloc_zeros(1)?),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => Slice::Cuda(cuda.clone_htod(values)?),
            other => return wrong("device", format_args!("{:?}", other.location()), "Cpu or Cuda"),
        };
        Ok(Self { device: device.clone(), length: values.len(), slice })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn read<'a>(&'a self, place: &'a Place) -> Read<'a, T> {
        let (address, guard) = match &self.slice {
            Slice::Cpu(values) => (values.as_ptr() as u64, None),
            #[cfg(feature = "cuda")]
            Slice::Cuda(slice) => place.device_pointer(slice),
        };
        let layout = Cow::Owned(Layout::contiguous(self.length));
        Read { address, layout, place, memory: PhantomData, _guard: guard }
    }

    pub fn write<'a>(&'a mut self, place: &'a Place) -> Write<'a, T> {
        let (address, guard) = match &mut self.slice {
            Slice::Cpu(values) => (values.as_mut_ptr() as u64, None),
            #[cfg(feature = "cuda")]
            Slice::Cuda(slice) => place.device_pointer_mut(slice),
        };
        Write { address, length: self.length, place, memory: PhantomData, _guard: guard }
    }
}

impl<T: Number> Memory<T> {
    pub fn into_storage(self) -> Storage {
        match self.slice {
            Slice::Cpu(values) => Storage::Cpu(T::to_cpu_storage_owned(values)),
            #[cfg(feature = "cuda")]
            Slice::Cuda(slice) => {
                let Device::Cuda(cuda) = self.device else { unreachable!("made by the device of its slice") };
                Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, cuda))
            }
        }
    }

    pub fn into_tensor(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(self.into_storage(), shape, BackpropOp::none(), false)
    }
}

/// A tensor whose storage nobody replaces meanwhile.
pub(crate) struct Locked<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Locked<'a> {
    pub fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// The elements of the tensor, and those between its rows.
    pub fn read<'b, T: Number>(&'b self, place: &'b Place) -> Result<Read<'b, T>> {
        let (address, guard) = match &*self.storage {
            Storage::Cpu(storage) => (storage.as_slice::<T>()?.as_ptr() as u64, None),
            #[cfg(feature = "cuda")]
            Storage::Cuda(storage) => place.device_pointer(storage.as_cuda_slice::<T>()?),
            other => return wrong("device", format_args!("{:?}", other.device().location()), "Cpu or Cuda"),
        };
        let address = address + (self.layout.start_offset() * size_of::<T>()) as u64;
        Ok(Read { address, layout: Cow::Borrowed(self.layout), place, memory: PhantomData, _guard: guard })
    }
}

/// The elements of several tensors of one type.
pub(crate) fn read_each<'a, T: Number, const N: usize>(
    locked: &'a [Locked<'_>; N],
    place: &'a Place,
) -> Result<[Read<'a, T>; N]> {
    let reads: Vec<_> = locked.iter().map(|tensor| tensor.read(place)).collect::<Result<_>>()?;
    Ok(reads.try_into().unwrap_or_else(|_| unreachable!("as many as were locked")))
}

/// Returns whether a tensor starts where kernels can read several elements at a time.
pub(crate) fn is_aligned(tensor: &Tensor) -> bool {
    let start = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
    start.is_multiple_of(Workspace::ALIGNMENT)
}

/// Returns the tensor without gaps and aligned: a copy where it is not.
pub(crate) fn contiguous(tensor: &Tensor) -> Result<Tensor> {
    if tensor.is_contiguous() && is_aligned(tensor) { Ok(tensor.clone()) } else { tensor.force_contiguous() }
}

/// Elements from the first of a layout to its last.
fn span(layout: &Layout) -> usize {
    if layout.dims().contains(&0) {
        return 0;
    }
    1 + layout.dims().iter().zip(layout.stride()).map(|(&size, &stride)| (size - 1) * stride).sum::<usize>()
}

/// Memory that an operation reads. Dropped after the launch, it tells candle of the read.
pub(crate) struct Read<'a, T> {
    address: u64,
    layout: Cow<'a, Layout>,
    place: &'a Place,
    memory: PhantomData<&'a T>,
    _guard: Option<Guard<'a>>,
}

/// Memory that an operation writes. Dropped after the launch, it tells candle of the write.
pub(crate) struct Write<'a, T> {
    address: u64,
    length: usize,
    place: &'a Place,
    memory: PhantomData<&'a mut T>,
    _guard: Option<Guard<'a>>,
}

impl<T: Element> Read<'_, T> {
    /// The elements, as those of a type of the same size.
    pub fn view<U: device::Element>(&self) -> Result<View<'_, U>> {
        assert_eq!(size_of::<T>(), size_of::<U>(), "elements of another size");
        // SAFETY: the memory is borrowed or locked as long as this value; candle orders later writes and frees after its stream's work.
        unsafe { View::borrow_raw(&self.place.device, self.address, span(&self.layout)) }.map_err(Error::wrap)
    }

    /// The elements in rows along the first dimension.
    pub fn matrix(&self) -> Result<Matrix<'_, T>> {
        let (rows, columns) = (self.layout.dims()[0], self.layout.dims()[1..].iter().product());
        // The stride of a dimension of one element may be anything.
        let stride = if rows > 1 { self.layout.stride()[0] } else { columns };
        self.view()?.strided(rows, columns, stride).map_err(Error::wrap)
    }
}

impl<T: Element> Write<'_, T> {
    pub fn view(&mut self) -> Result<ViewMut<'_, T>> {
        // SAFETY: as in `Read::view`; the memory is exclusive.
        unsafe { ViewMut::borrow_raw(&self.place.device, self.address, self.length) }.map_err(Error::wrap)
    }

    /// The elements in whole rows of `columns`.
    pub fn rows_of(&mut self, columns: usize) -> Result<MatrixMut<'_, T>> {
        self.view()?.rows_of(columns).map_err(Error::wrap)
    }
}

/// What tells candle that its stream uses the memory of a tensor.
#[cfg(feature = "cuda")]
type Guard<'a> = driver::SyncOnDrop<'a>;
/// The CPU needs none: work is done when an operation returns.
#[cfg(not(feature = "cuda"))]
type Guard<'a> = PhantomData<&'a ()>;

#[cfg(feature = "cuda")]
impl Place {
    fn candle_stream(&self) -> &Arc<driver::CudaStream> {
        self.stream.as_ref().expect("memory of a CUDA device belongs to a place with a stream")
    }

    fn device_pointer<'a, T>(&'a self, slice: &'a driver::CudaSlice<T>) -> (u64, Option<Guard<'a>>) {
        let (address, guard) = driver::DevicePtr::device_ptr(slice, self.candle_stream());
        (address, Some(guard))
    }

    fn device_pointer_mut<'a, T>(&'a self, slice: &'a mut driver::CudaSlice<T>) -> (u64, Option<Guard<'a>>) {
        let (address, guard) = driver::DevicePtrMut::device_ptr_mut(slice, self.candle_stream());
        (address, Some(guard))
    }
}
