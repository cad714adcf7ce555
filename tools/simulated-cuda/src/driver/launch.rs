//! Kernel launches.

use std::ffi::{c_uint, c_void};

use cudarc::driver::sys::{CUfunction, CUresult, CUstream};
use retromae::device::LaunchShape;

use super::module::find_function;
use crate::call::{CallResult, in_context, refuse};
use crate::machine::{Function, Launch, Work};

/// Maximum blocks along y and z.
const GRID_MAX: u32 = 65_535;

fn check(function: &Function, grid: [u32; 3], block: [u32; 3], shared_bytes: u32) -> CallResult {
    let kernel = function.kernel.name;
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > GRID_MAX || grid[2] > GRID_MAX {
        return refuse(invalid, format_args!("cuLaunchKernel: the grid of {kernel} is {grid:?}"));
    }
    let threads = function.kernel.threads;
    if block != [threads, 1, 1] {
        let why = format_args!(
            "cuLaunchKernel: the block of {kernel} is {block:?}; it should be [{threads}, 1, 1]"
        );
        return refuse(invalid, why);
    }
    if shared_bytes > function.shared_bytes_max {
        let max = function.shared_bytes_max;
        let why = format_args!(
            "cuLaunchKernel: {kernel} is given {shared_bytes} bytes of shared memory; cuFuncSetAttribute granted {max}"
        );
        return refuse(invalid, why);
    }
    Ok(())
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    in_context("cuLaunchKernel", |context| {
        let what = "cuLaunchKernel";
        let function = *find_function(context, what, function)?;
        let grid = [grid_x, grid_y, grid_z];
        check(&function, grid, [block_x, block_y, block_z], shared_bytes)?;
        if !extra.is_null() {
            let why = format_args!("{what}: params by `extra` are not simulated");
            return refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, why);
        }
        let kernel = function.kernel;
        // SAFETY: every kernel takes exactly one struct, so there is one pointer where there are params.
        let first = if params.is_null() { std::ptr::null_mut() } else { unsafe { params.read() } };
        if first.is_null() {
            let why = format_args!("{what}: the params of {} are null", kernel.name);
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        // SAFETY: a struct of the kernel's size, by the client's promise.
        let bytes = unsafe { std::slice::from_raw_parts(first.cast::<u8>(), kernel.params_bytes as usize) };
        let launch = Launch {
            kernel: kernel.name,
            shape: LaunchShape { grid, threads: kernel.threads, shared_bytes },
            params: bytes.to_vec(),
        };
        context.submit(what, stream as u64, Work::Kernel(launch))?;
        Ok(())
    })
}
