//! Graphs made by captures.

use std::ffi::c_ulonglong;

use cudarc::driver::sys::{CUgraph, CUgraphExec, CUresult, CUstream};

use crate::call::{in_context, refuse, store};
use crate::machine::{Executable, new_handle};

const AUTO_FREE_ON_LAUNCH: c_ulonglong = 1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut CUgraphExec,
    graph: CUgraph,
    flags: c_ulonglong,
) -> CUresult {
    in_context("cuGraphInstantiateWithFlags", |context| {
        if flags & !AUTO_FREE_ON_LAUNCH != 0 {
            let why = format_args!("cuGraphInstantiateWithFlags: flags {flags} are not simulated");
            return refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, why);
        }
        let Some(nodes) = context.graphs.get(&(graph as u64)).cloned() else {
            let why =
                format_args!("cuGraphInstantiateWithFlags: there is no graph {graph:?}, or it is destroyed");
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        };
        let handle = new_handle();
        context.executables.insert(handle, Executable { graph: nodes, last: None });
        // SAFETY: the client's promise.
        unsafe { store(executable, handle as CUgraphExec) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(executable: CUgraphExec, stream: CUstream) -> CUresult {
    in_context("cuGraphLaunch", |context| context.launch_graph(executable as u64, stream as u64))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphUpload(executable: CUgraphExec, stream: CUstream) -> CUresult {
    in_context("cuGraphUpload", |context| {
        context.refuse_captured("cuGraphUpload", stream as u64)?;
        if context.executables.contains_key(&(executable as u64)) {
            return Ok(());
        }
        let why =
            format_args!("cuGraphUpload: there is no executable graph {executable:?}, or it is destroyed");
        refuse(CUresult::CUDA_ERROR_INVALID_HANDLE, why)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(executable: CUgraphExec) -> CUresult {
    in_context("cuGraphExecDestroy", |context| {
        if context.executables.remove(&(executable as u64)).is_some() {
            return Ok(());
        }
        let why = format_args!(
            "cuGraphExecDestroy: there is no executable graph {executable:?}, or it is destroyed"
        );
        refuse(CUresult::CUDA_ERROR_INVALID_HANDLE, why)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: CUgraph) -> CUresult {
    in_context("cuGraphDestroy", |context| {
        if context.graphs.remove(&(graph as u64)).is_some() {
            return Ok(());
        }
        let why = format_args!("cuGraphDestroy: there is no graph {graph:?}, or it is destroyed");
        refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why)
    })
}
