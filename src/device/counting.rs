//! A device without memory that counts what would be allocated on it, see [`Device::counting`].

use super::{Backend, Command, Device, Error, Result, Timings};

/// Answers as another device would, but allocates and executes nothing.
pub(super) struct CountingDevice {
    counted_for: Device,
}

impl CountingDevice {
    pub(super) fn new(counted_for: &Device) -> Self {
        Self { counted_for: counted_for.clone() }
    }
}

/// Refuses an operation that needs memory, as there is none.
fn no_memory<T>(doing: &str) -> Result<T> {
    Err(Error::Argument {
        argument: "device",
        actual: format!("one that only counts, asked to {doing}"),
        expected: "one with memory".into(),
    })
}

impl Backend for CountingDevice {
    fn name(&self) -> &'static str {
        self.counted_for.name()
    }

    fn description(&self) -> String {
        format!("the memory of {}", self.counted_for.description())
    }

    fn timings(&self) -> Timings {
        Timings::default()
    }

    fn shared_bytes_max(&self) -> u32 {
        self.counted_for.shared_bytes_max()
    }

    fn gemm_library(&self) -> Result<String> {
        self.counted_for.gemm_library()
    }

    fn allocate(&self, _bytes: usize) -> Result<u64> {
        Ok(0)
    }

    unsafe fn free(&self, _address: u64, _bytes: usize) {}

    fn allocate_staging(&self, bytes: usize) -> Result<u64> {
        // Real memory, as the host may write to it before dropping it.
        let words = vec![0u64; bytes.div_ceil(size_of::<u64>())];
        Ok(Box::into_raw(words.into_boxed_slice()).cast::<u64>() as u64)
    }

    unsafe fn free_staging(&self, address: u64, bytes: usize) {
        let words = std::ptr::slice_from_raw_parts_mut(address as *mut u64, bytes.div_ceil(size_of::<u64>()));
        // SAFETY: `allocate_staging` made it of as many words.
        drop(unsafe { Box::from_raw(words) });
    }

    unsafe fn upload(&self, _destination: u64, _source: &[u8]) -> Result<()> {
        Ok(())
    }

    unsafe fn download(&self, _destination: &mut [u8], _source: u64) -> Result<()> {
        no_memory("read")
    }

    unsafe fn zero(&self, _address: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn default_stream(&self) -> u64 {
        0
    }

    fn create_stream(&self) -> Result<u64> {
        Ok(0)
    }

    unsafe fn adopt_stream(&self, _stream: u64) -> Result<()> {
        no_memory("use a stream")
    }

    unsafe fn lent_stream(&self, _handle: u64) -> Result<u64> {
        no_memory("use another's stream")
    }

    unsafe fn release_stream(&self, _stream: u64, _adopted: bool) {}

    unsafe fn enqueue(&self, _stream: u64, _command: &Command<'_>) -> Result<()> {
        no_memory("work")
    }

    unsafe fn synchronize(&self, _stream: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn record(&self, _stream: u64) -> Result<u64> {
        Ok(0)
    }

    unsafe fn wait(&self, _stream: u64, _event: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn wait_for_event(&self, _event: u64) -> Result<()> {
        Ok(())
    }

    unsafe fn elapsed(&self, _from: u64, _to: u64) -> Result<f64> {
        Ok(0.0)
    }

    unsafe fn free_event(&self, _event: u64) {}

    unsafe fn is_capturing(&self, _stream: u64) -> Result<bool> {
        Ok(false)
    }

    unsafe fn begin_capture(&self, _stream: u64) -> Result<()> {
        no_memory("capture")
    }

    unsafe fn end_capture(&self, _stream: u64) -> Result<(u64, Vec<String>)> {
        no_memory("capture")
    }

    unsafe fn launch_graph(&self, _graph: u64, _stream: u64, _kernels: &[String]) -> Result<()> {
        no_memory("work")
    }

    unsafe fn free_graph(&self, _graph: u64) {}
}
