//! The device under test, arrays in its memory, and descriptors as bytes with a list of their fields.
#![allow(dead_code)]

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;

use retromae::device::{Buffer, DType, Device, Element, Float, Matrix, MatrixMut, Stream, View, ViewMut};
use retromae::random::{bounded, key, philox};
use retromae_capi::*;

/// Returns the device that the tests run on. On the host device all memory is fenced by guard pages.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| {
        if std::env::var("RETROMAE_TEST_DEVICE").is_ok_and(|name| name == "cuda") {
            return Device::for_tests().expect("a CUDA device, as RETROMAE_TEST_DEVICE says");
        }
        // SAFETY: only the standard library reads variables in these programs, under its lock.
        unsafe { std::env::set_var("RETROMAE_HOST_GUARD", "1") };
        Device::host().expect("the host device")
    })
}

/// Returns the handle of the device that the tests run on.
pub fn handle() -> rmae_device {
    static HANDLE: OnceLock<usize> = OnceLock::new();
    let number = HANDLE.get_or_init(|| {
        let name = if device().name() == "cuda" { c"cuda:0" } else { c"host" };
        let mut handle = std::ptr::null_mut();
        // SAFETY: a C string, and the address of the result.
        assert_eq!(unsafe { rmae_device_open(name.as_ptr(), 0, &raw mut handle) }, OK, "{}", last_error());
        handle.addr()
    });
    std::ptr::without_provenance_mut(*number)
}

pub const OK: rmae_status = RMAE_OK as rmae_status;

/// Returns the text of this thread's last failure.
pub fn last_error() -> String {
    // SAFETY: a C string, which no other thread writes.
    unsafe { CStr::from_ptr(rmae_last_error()) }.to_str().expect("UTF-8").to_owned()
}

/// Returns the name of a status.
pub fn status_name(status: rmae_status) -> &'static str {
    // SAFETY: a C string that lives as long as the program.
    unsafe { CStr::from_ptr(rmae_status_name(status)) }.to_str().expect("ASCII")
}

/// Returns the header's number of an element type.
pub fn code<T: Float>() -> rmae_dtype {
    let code = match T::DTYPE {
        DType::F32 => RMAE_F32,
        DType::Bf16 => RMAE_BF16,
        DType::F16 => RMAE_F16,
    };
    code as rmae_dtype
}

/// Returns `count` values of about [-1, 1], the same for the same `seed`.
pub fn values<T: Float>(seed: u64, count: usize) -> Vec<T> {
    let value = |index: usize| {
        let [word, ..] = philox(key(seed), [index as u32, 0, 0, 0]);
        T::from_f32(word as f32 / u32::MAX as f32 * 2.0 - 1.0)
    };
    (0..count).map(value).collect()
}

/// Returns `count` integers below `bound`.
pub fn integers(seed: u64, count: usize, bound: u32) -> Vec<i32> {
    let integer = |index: usize| bounded(philox(key(seed), [index as u32, 1, 0, 0])[0], bound) as i32;
    (0..count).map(integer).collect()
}

/// Returns the prefix sums of lengths, from 0.
pub fn prefix_sums(lengths: &[usize]) -> Vec<i32> {
    let ends = lengths.iter().scan(0, |sum, &length| {
        *sum += length as i32;
        Some(*sum)
    });
    std::iter::once(0).chain(ends).collect()
}

/// An array in device memory.
struct Array {
    buffer: Buffer<u8>,
    /// Bytes before the first element.
    start: usize,
    /// Elements in bytes, without what lies around them.
    bytes: usize,
    /// Content before each call; `None` for a workspace, whose content is irrelevant.
    initial: Option<Vec<u8>>,
}

/// The arrays of a case.
#[derive(Default)]
pub struct Memory {
    arrays: Vec<Array>,
    /// Each array has room for this many times its bytes, and 64 more.
    slack: usize,
}

impl Memory {
    /// Arrays that end where their memory ends.
    pub fn exact() -> Self {
        Self { arrays: Vec::new(), slack: 1 }
    }

    /// Arrays with room behind them, so that a call may shift them or take them for such of a wider type.
    pub fn roomy() -> Self {
        Self { arrays: Vec::new(), slack: 4 }
    }

    /// Uploads an array; returns its address.
    pub fn put<T: Element>(&mut self, values: &[T]) -> *mut T {
        let bytes = bytemuck::cast_slice(values);
        let room = if self.slack == 1 { bytes.len() } else { bytes.len() * self.slack + 64 };
        let mut initial = vec![0xff; room];
        initial[..bytes.len()].copy_from_slice(bytes);
        let buffer = device().upload(&initial).unwrap();
        self.keep(Array { buffer, start: 0, bytes: bytes.len(), initial: Some(initial) }).cast()
    }

    /// Random values of a type.
    pub fn floats<T: Float>(&mut self, seed: u64, count: usize) -> *mut c_void {
        self.put(&values::<T>(seed, count)).cast()
    }

    /// A workspace, aligned for matmuls on every device.
    pub fn workspace(&mut self, bytes: usize) -> *mut c_void {
        const ALIGNMENT: usize = 256;
        let room = bytes.next_multiple_of(ALIGNMENT);
        let buffer = device().zeros(room + 2 * ALIGNMENT).unwrap();
        let start = (ALIGNMENT - buffer.view().address() as usize % ALIGNMENT) % ALIGNMENT;
        self.keep(Array { buffer, start, bytes, initial: None }).cast()
    }

    fn keep(&mut self, array: Array) -> *mut u8 {
        let address = array.buffer.view().address() as usize + array.start;
        self.arrays.push(array);
        std::ptr::with_exposed_provenance_mut(address)
    }

    /// Overwrites every array with its initial content.
    pub fn reset(&mut self) {
        for Array { buffer, initial, .. } in &mut self.arrays {
            if let Some(initial) = initial {
                buffer.write(initial).unwrap();
            }
        }
    }

    /// Makes the present content the initial one.
    pub fn adopt(&mut self) {
        for Array { buffer, initial, .. } in &mut self.arrays {
            if let Some(initial) = initial {
                *initial = buffer.read().unwrap();
            }
        }
    }

    /// Returns the content of all arrays but workspaces, which are empty.
    pub fn snapshot(&self) -> Vec<Vec<u8>> {
        let content = |array: &Array| match array.initial {
            Some(_) => array.buffer.read().unwrap(),
            None => Vec::new(),
        };
        self.arrays.iter().map(content).collect()
    }

    /// Returns the content before each call, as [`snapshot`](Self::snapshot).
    pub fn initial(&self) -> Vec<Vec<u8>> {
        self.arrays.iter().map(|array| array.initial.clone().unwrap_or_default()).collect()
    }

    /// Returns the array that has this address, and its length in bytes.
    pub fn find(&self, address: usize) -> Option<(usize, usize)> {
        self.arrays.iter().enumerate().find_map(|(index, array)| {
            let start = array.buffer.view().address() as usize;
            (start..start + array.buffer.len().max(1)).contains(&address).then_some((index, array.bytes))
        })
    }

    /// Returns the address of each array, and its length in bytes.
    pub fn addresses(&self) -> Vec<(usize, usize)> {
        let place = |array: &Array| (array.buffer.view().address() as usize + array.start, array.bytes);
        self.arrays.iter().map(place).collect()
    }
}

/// Views of a case's arrays, whose memory outlives the call of the view's user.
pub fn view<T: Element>(data: *const T, length: usize) -> View<'static, T> {
    // SAFETY: an array of the case, of this length.
    unsafe { View::borrow_raw(device(), data.addr() as u64, length) }.unwrap()
}

pub fn view_mut<T: Element>(data: *mut T, length: usize) -> ViewMut<'static, T> {
    // SAFETY: as in `view`; each output is used by one argument.
    unsafe { ViewMut::borrow_raw(device(), data.addr() as u64, length) }.unwrap()
}

fn stride_of(columns: usize, stride: i64) -> usize {
    if stride == 0 { columns } else { stride as usize }
}

fn span([rows, columns]: [usize; 2], stride: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * stride + columns }
}

pub fn matrix<T: Float>(data: *const c_void, shape: [usize; 2], stride: i64) -> Matrix<'static, T> {
    let stride = stride_of(shape[1], stride);
    view(data.cast::<T>(), span(shape, stride)).strided(shape[0], shape[1], stride).unwrap()
}

pub fn matrix_mut<T: Float>(data: *mut c_void, shape: [usize; 2], stride: i64) -> MatrixMut<'static, T> {
    let stride = stride_of(shape[1], stride);
    view_mut(data.cast::<T>(), span(shape, stride)).strided(shape[0], shape[1], stride).unwrap()
}

/// Returns the view of an address that is not null.
pub fn maybe<P, V>(data: *const P, view: impl FnOnce(*const P) -> V) -> Option<V> {
    (!data.is_null()).then(|| view(data))
}

/// As [`maybe`], of an array that is written.
pub fn maybe_mut<P, V>(data: *mut P, view: impl FnOnce(*mut P) -> V) -> Option<V> {
    (!data.is_null()).then(|| view(data))
}

/// Returns the operation's part of a workspace, without that of the GEMM library.
pub fn workspace(data: *mut c_void, bytes: usize, has_gemms: bool) -> ViewMut<'static, u8> {
    let whole = view_mut(data.cast::<u8>(), if data.is_null() { 0 } else { bytes });
    if has_gemms { whole.split_at(device().gemm_workspace_bytes()).1 } else { whole }
}

/// Kind of a field, which decides what can be wrong with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A number of elements, in 64 bits.
    Size,
    /// Elements from a row to the next.
    Stride,
    /// One of a few numbers, in 32 bits.
    Enum,
    Flags32,
    /// A number that is checked or used as it is.
    F32,
    F64,
    I32,
    I64,
    WorkspaceBytes,
    /// An address of device memory.
    Array {
        written: bool,
        optional: bool,
        alignment: usize,
    },
    /// An address of host memory, with its elements.
    HostArray,
}

impl Kind {
    const fn array(written: bool, optional: bool, alignment: usize) -> Self {
        Self::Array { written, optional, alignment }
    }
    /// Aligned to an element.
    pub const IN: Self = Self::array(false, false, 2);
    pub const OUT: Self = Self::array(true, false, 2);
    pub const MAYBE: Self = Self::array(false, true, 2);
    pub const MAYBE_OUT: Self = Self::array(true, true, 2);
    /// Aligned to 16 bytes.
    pub const IN16: Self = Self::array(false, false, 16);
    pub const OUT16: Self = Self::array(true, false, 16);
    pub const MAYBE16: Self = Self::array(false, true, 16);
    pub const MAYBE_OUT16: Self = Self::array(true, true, 16);
    /// Bytes.
    pub const MAYBE_OUT1: Self = Self::array(true, true, 1);
    pub const WORKSPACE: Self = Self::array(true, true, 1);
}

/// A field that a call reads.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub offset: usize,
    pub kind: Kind,
}

impl Field {
    pub fn new(name: &str, offset: usize, kind: Kind) -> Self {
        Self { name: name.replace(' ', ""), offset, kind }
    }
}

/// Lists fields of a descriptor: `kind name, ...`.
#[macro_export]
macro_rules! fields {
    ($desc:ty: $($kind:ident $($name:ident).+),* $(,)?) => {
        vec![$($crate::common::Field::new(
            stringify!($($name).+),
            std::mem::offset_of!($desc, $($name).+),
            $crate::common::Kind::$kind,
        )),*]
    };
}

/// Returns a descriptor as its initialiser macro makes it.
#[macro_export]
macro_rules! init {
    ($desc:ident, $version:ident) => {{
        // SAFETY: numbers and addresses, all of which may be 0.
        let mut desc: $desc = unsafe { std::mem::zeroed() };
        desc.size = size_of::<$desc>() as u32;
        desc.version = $version;
        desc
    }};
}

pub type Operation = unsafe extern "C" fn(rmae_device, *mut c_void, *const c_void) -> rmae_status;
pub type Query = unsafe extern "C" fn(rmae_device, *const c_void, *mut usize) -> rmae_status;
type RustCall = Box<dyn Fn(&Stream) -> retromae::ops::Result<()>>;

/// A right call: an operation, its descriptor, the memory of its arrays, and the same call in Rust.
pub struct Case {
    pub name: String,
    /// The descriptor's bytes, aligned for its fields.
    pub desc: Vec<u64>,
    /// The fields that the call reads.
    pub fields: Vec<Field>,
    pub memory: Memory,
    pub operation: Operation,
    pub query: Option<Query>,
    pub rust: RustCall,
}

impl Case {
    /// # Safety
    /// `operation` and `query` take descriptors of type `D`.
    pub unsafe fn new<D: Copy>(
        name: String,
        (operation, query): (*const c_void, *const c_void),
        desc: &D,
        fields: Vec<Field>,
        memory: Memory,
        rust: impl Fn(&Stream) -> retromae::ops::Result<()> + 'static,
    ) -> Self {
        let mut words = vec![0u64; size_of::<D>() / 8];
        // SAFETY: room for a descriptor, whose size is a multiple of 8; a pointer to descriptors is passed as any other.
        unsafe {
            words.as_mut_ptr().cast::<D>().write(*desc);
            Self {
                name,
                desc: words,
                fields,
                memory,
                operation: std::mem::transmute::<*const c_void, Operation>(operation),
                query: std::mem::transmute::<*const c_void, Option<Query>>(query),
                rust: Box::new(rust),
            }
        }
    }

    /// Calls the operation on a descriptor.
    pub fn enqueue(&self, stream: *mut c_void, desc: &[u64]) -> rmae_status {
        // SAFETY: a descriptor of the operation, whose arrays are the memory's.
        unsafe { (self.operation)(handle(), stream, desc.as_ptr().cast()) }
    }

    /// Calls the operation on a descriptor, and waits for its work.
    pub fn call_with(&self, stream: *mut c_void, desc: &[u64]) -> rmae_status {
        let status = self.enqueue(stream, desc);
        if status == OK {
            // SAFETY: the stream is alive.
            assert_eq!(unsafe { rmae_stream_synchronize(handle(), stream) }, OK, "{}", last_error());
        }
        status
    }

    /// Calls the operation on a stream.
    pub fn call(&self, stream: *mut c_void) -> rmae_status {
        self.call_with(stream, &self.desc)
    }

    /// Returns the bytes of workspace that a descriptor needs.
    pub fn needed(&self, desc: &[u64]) -> Option<usize> {
        let query = self.query?;
        let mut bytes = 0;
        // SAFETY: a descriptor of the operation.
        let status = unsafe { query(handle(), desc.as_ptr().cast(), &raw mut bytes) };
        assert_eq!(status, OK, "{}: {}", self.name, last_error());
        Some(bytes)
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// Reads and writes of a descriptor's bytes.
pub fn get<T: bytemuck::Pod>(desc: &[u64], offset: usize) -> T {
    bytemuck::pod_read_unaligned(&bytemuck::cast_slice::<u64, u8>(desc)[offset..offset + size_of::<T>()])
}

pub fn set<T: bytemuck::Pod>(desc: &mut [u64], offset: usize, value: T) {
    bytemuck::cast_slice_mut::<u64, u8>(desc)[offset..offset + size_of::<T>()]
        .copy_from_slice(bytemuck::bytes_of(&value));
}

/// Gives a descriptor the workspace that its query asks for.
#[macro_export]
macro_rules! give_workspace {
    ($desc:ident, $memory:ident, $query:path) => {{
        let mut bytes = 0;
        // SAFETY: a descriptor, and the address of the result.
        let status = unsafe { $query($crate::common::handle(), &raw const $desc, &raw mut bytes) };
        assert_eq!(status, $crate::common::OK, "{}", $crate::common::last_error());
        $desc.workspace = $memory.workspace(bytes);
        $desc.workspace_bytes = bytes;
    }};
}

/// Returns the same closure, whose type is then known.
pub fn in_rust<F: Fn(&Stream) -> retromae::ops::Result<()>>(call: F) -> F {
    call
}

/// Makes a case of an operation, with the query of its workspace if it has one.
#[macro_export]
macro_rules! case {
    ($name:expr, $operation:path, $query:path, $desc:ident, $memory:ident, $fields:expr, $rust:expr) => {
        $crate::case!(@of $name, $operation, $query as *const std::ffi::c_void, $desc, $memory, $fields, $rust)
    };
    ($name:expr, $operation:path, $desc:ident, $memory:ident, $fields:expr, $rust:expr) => {
        $crate::case!(@of $name, $operation, std::ptr::null(), $desc, $memory, $fields, $rust)
    };
    (@of $name:expr, $operation:path, $query:expr, $desc:ident, $memory:ident, $fields:expr, $rust:expr) => {{
        let functions = ($operation as *const std::ffi::c_void, $query);
        let (name, desc, fields, memory) = ($name, $desc, $fields, $memory);
        let rust = $crate::common::in_rust($rust);
        // SAFETY: the functions take this descriptor.
        unsafe { $crate::common::Case::new(name, functions, &desc, fields, memory, rust) }
    }};
}
