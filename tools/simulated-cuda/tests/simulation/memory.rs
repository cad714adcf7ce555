//! Memory: valid and invalid accesses, and the detection of overwritten bytes.

use std::ffi::c_void;

use cudarc::driver::result::{self, mem_pool, stream};
use cudarc::driver::sys::{self, CUdeviceptr, CUmemPool_attribute as PoolAttribute, CUresult, CUresult::*};

use crate::client::{BYTES, COUNT, Gpu, code, ramp, reversed};
use crate::process::simulate;

fn fill(address: CUdeviceptr, bytes: usize) -> CUresult {
    // SAFETY: the simulation checks the range.
    code(unsafe { result::memset_d8_async(address, 0, bytes, stream::null()) })
}

#[test]
fn fresh_memory_is_nan_and_its_bounds_hold() {
    let written = simulate(&[], || {
        let gpu = Gpu::open();
        let memory = gpu.allocate(BYTES);
        assert!(gpu.download::<f32>(memory, COUNT, stream::null()).iter().all(|value| value.is_nan()));
        assert_eq!(fill(memory, BYTES), CUDA_SUCCESS);
        assert_eq!(fill(memory, BYTES + 1), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(fill(memory + 8, BYTES), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(fill(memory - 8, 8), CUDA_ERROR_INVALID_VALUE);
        assert_eq!(result::ctx::synchronize(), Ok(()), "a refused call leaves no trace");
    });
    let Some(written) = written else { return };
    assert!(
        written.stderr.contains("go beyond an allocation: they begin at byte 8 of 256"),
        "{}",
        written.stderr
    );
}

#[test]
fn freed_memory_is_refused() {
    let written = simulate(&[], || {
        let gpu = Gpu::open();
        let (memory, other) = (gpu.allocate(BYTES), gpu.allocate(BYTES));
        // SAFETY: the simulation checks all of it.
        unsafe {
            result::free_sync(memory).unwrap();
            assert_eq!(code(result::free_sync(memory)), CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::free_sync(other + 16)), CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::free_async(other, stream::null())), CUDA_ERROR_INVALID_VALUE);
        }
        assert_eq!(fill(memory, 1), CUDA_ERROR_INVALID_VALUE);
        assert_ne!(gpu.allocate(BYTES), memory, "a stale address stays invalid");
    });
    let Some(written) = written else { return };
    assert!(written.stderr.contains("a second free of"), "{}", written.stderr);
    assert!(written.stderr.contains("1 bytes at") && written.stderr.contains("used after they were freed"));
}

#[test]
fn pointers_know_their_allocation() {
    simulate(&[], || {
        use sys::CUpointer_attribute as Attribute;
        let gpu = Gpu::open();
        let (memory, context) = (gpu.allocate(BYTES), Gpu::enter());
        let host = gpu.page_locked(COUNT).as_ptr() as u64;
        let ask = |attribute: Attribute, address| {
            let mut value = 0u64;
            // SAFETY: no attribute is larger.
            let code = unsafe { sys::cuPointerGetAttribute((&raw mut value).cast(), attribute, address) };
            code.result().map(|()| value).map_err(|error| error.0)
        };
        assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_CONTEXT, memory + 8), Ok(context as u64));
        assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_DEVICE_POINTER, memory + 8), Ok(memory + 8));
        assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, memory + 8), Ok(memory));
        assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE, memory + 8), Ok(BYTES as u64));
        assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory + 8), Ok(2));
        assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, memory + 8), Ok(0));
        assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, host), Ok(1));
        assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, host + 4), Ok(host));
        assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_P2P_TOKENS, memory), Err(CUDA_ERROR_NOT_SUPPORTED));

        let here = 0u64;
        let all = |address: u64| {
            let (mut of_context, mut kind) = (u64::MAX, u32::MAX);
            let mut attributes =
                [Attribute::CU_POINTER_ATTRIBUTE_CONTEXT, Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE];
            let mut data = [(&raw mut of_context).cast::<c_void>(), (&raw mut kind).cast()];
            // SAFETY: two attributes, and room for each.
            unsafe { sys::cuPointerGetAttributes(2, attributes.as_mut_ptr(), data.as_mut_ptr(), address) }
                .result()
                .unwrap();
            (of_context, kind)
        };
        assert_eq!(all(memory), (context as u64, 2));
        // SAFETY: allocated above.
        unsafe { result::free_sync(memory) }.unwrap();
        for unknown in [memory, memory + BYTES as u64, (&raw const here) as u64] {
            assert_eq!(ask(Attribute::CU_POINTER_ATTRIBUTE_CONTEXT, unknown), Err(CUDA_ERROR_INVALID_VALUE));
            assert_eq!(all(unknown), (0, 0));
        }
    });
}

#[test]
fn a_kernel_that_uses_freed_memory_ends_the_context() {
    let written = simulate(&[], || {
        let gpu = Gpu::open();
        let (input, output) = (gpu.upload(&ramp(1.0)), gpu.allocate(BYTES));
        // SAFETY: the use that follows is what is tested.
        unsafe { result::free_sync(input) }.unwrap();
        assert_eq!(gpu.probe("probe_reverse", input, output, stream::null()), CUDA_SUCCESS);
        assert_eq!(code(result::ctx::synchronize()), CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(fill(output, BYTES), CUDA_ERROR_ILLEGAL_ADDRESS);
    });
    let Some(written) = written else { return };
    assert!(written.stderr.contains("kernel probe_reverse: access out of bounds"), "{}", written.stderr);
    assert!(written.stderr.contains("kernels/probes/emulator/probes.cu:"), "{}", written.stderr);
}

/// The kernel writes two bytes beyond the end of its output.
#[test]
fn a_write_behind_an_allocation_is_found_when_it_is_freed() {
    let written = simulate(&[], || {
        let gpu = Gpu::open();
        let (input, output) = (gpu.upload(&ramp(1.0)), gpu.allocate(BYTES + 2));
        gpu.probe("probe_write_out_of_bounds", input, output, stream::null());
        result::ctx::synchronize().unwrap();
        // SAFETY: allocated above.
        assert_eq!(code(unsafe { result::free_sync(output) }), CUDA_ERROR_ILLEGAL_ADDRESS);
    });
    let Some(written) = written else { return };
    assert!(written.stderr.contains("wrote just before or behind the 258 bytes"), "{}", written.stderr);
}

fn pool() -> sys::CUmemoryPool {
    // `CUmemPoolProps`, whose fields have different names in different versions: pinned memory, for this process alone, of a device, number 0.
    let properties: [u64; 11] = std::array::from_fn(|index| u64::from(index < 2));
    // SAFETY: the properties are complete.
    unsafe { mem_pool::create((&raw const properties).cast()) }.unwrap()
}

fn used_bytes(pool: sys::CUmemoryPool) -> u64 {
    let mut value = 0u64;
    let attribute = PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
    // SAFETY: the attribute is a 64-bit integer.
    unsafe { mem_pool::get_attribute(pool, attribute, (&raw mut value).cast::<c_void>()) }.unwrap();
    value
}

#[test]
fn a_pools_memory_is_there_in_stream_order() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let (pool, stream) = (pool(), gpu.stream());
        let input = gpu.upload(&ramp(1.0));
        // SAFETY: all is used in the order of one stream.
        unsafe {
            let memory = mem_pool::alloc_async(pool, BYTES, stream).unwrap();
            assert_eq!(used_bytes(pool), BYTES as u64);
            gpu.probe("probe_reverse", input, memory, stream);
            let result = gpu.page_locked(COUNT);
            sys::cuMemcpyDtoHAsync_v2(result.as_mut_ptr().cast(), memory, BYTES, stream).result().unwrap();
            result::free_async(memory, stream).unwrap();
            assert_eq!(fill(memory, 1), CUDA_ERROR_INVALID_VALUE, "its free was asked for");
            stream::synchronize(stream).unwrap();
            assert_eq!(result, reversed(&ramp(1.0)));
            assert_eq!(used_bytes(pool), 0);
            mem_pool::destroy(pool).unwrap();
        }
    });
}

/// One stream allocates; another uses the memory without waiting.
#[test]
fn a_pools_memory_is_not_there_on_other_streams() {
    let mut failures = 0;
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let written = simulate(&[("SIMULATED_CUDA_SEED", seed)], || {
            let gpu = Gpu::open();
            let [first, second] = [gpu.stream(), gpu.stream()];
            // SAFETY: the use that follows is what is tested.
            let done = unsafe {
                let memory = result::malloc_async(first, BYTES).unwrap();
                result::memset_d8_async(memory, 0, BYTES, second).unwrap();
                code(stream::synchronize(second))
            };
            assert!([CUDA_SUCCESS, CUDA_ERROR_ILLEGAL_ADDRESS].contains(&done));
        });
        let Some(written) = written else { return };
        failures += usize::from(written.stderr.contains("used before their allocation"));
    }
    assert!((1..=6).contains(&failures), "seen with {failures} of 6 seeds");
}

#[test]
fn memory_ends_where_the_fault_says() {
    simulate(&[("SIMULATED_CUDA_FAULT", "memory=1000")], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        // SAFETY: plain allocations.
        unsafe {
            assert_eq!(code(result::malloc_sync(1001)), CUDA_ERROR_OUT_OF_MEMORY);
            let memory = result::malloc_async(stream, 800).unwrap();
            assert_eq!(result::mem_get_info().unwrap(), (200, 1000));
            assert_eq!(code(result::malloc_sync(800)), CUDA_ERROR_OUT_OF_MEMORY);
            // Memory whose free is enqueued may be reused.
            result::free_async(memory, stream).unwrap();
            result::malloc_sync(800).unwrap();
        }
    });
}
