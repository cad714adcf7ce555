//! NVIDIA's libraries, looked for at run time: loaded by this process already, known to the dynamic loader, or in a folder of CUDA or of Python's wheels.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use libloading::os::unix;

use crate::device::{Error, Result};

/// Folders of NVIDIA's wheels in a Python environment: all libraries share one since CUDA 13, and each had its own before.
const WHEEL_FOLDERS: [&str; 2] = ["nvidia/cu13/lib", "nvidia/cublas/lib"];
/// Parts of a path that follow the folder of a Python environment's packages.
const PACKAGES: [&str; 2] = ["/nvidia/", "/torch/lib/"];

/// A loaded library. It stays loaded as long as the process, as its threads and handles may outlive every owner.
pub(super) struct Library {
    handle: ManuallyDrop<unix::Library>,
    /// Name or path that it was found under.
    pub name: String,
}

impl Library {
    /// Finds a library under the first of `names` that the process has loaded, else under the first that the dynamic loader finds, else under the
    /// first that is in one of the [`folders`].
    ///
    /// # Errors
    /// When there is none; the message names the library as `what`, with the names and folders that were tried, and ends with `cure`.
    pub(super) fn find(what: &str, names: &[impl AsRef<str>], cure: &str) -> Result<Self> {
        Self::find_in(what, names, cure, folders)
    }

    fn find_in(
        what: &str,
        names: &[impl AsRef<str>],
        cure: &str,
        folders: impl FnOnce() -> Vec<PathBuf>,
    ) -> Result<Self> {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let first = |flags| names.iter().find_map(|name| Self::open(name, flags));
        if let Some(library) = first(libc::RTLD_NOLOAD).or_else(|| first(0)) {
            return Ok(library);
        }
        let folders = folders();
        let paths = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        let existing = paths.filter(|path| path.is_file());
        existing.filter_map(|path| Self::open(path.to_str()?, 0)).next().ok_or_else(|| {
            let elsewhere: String =
                folders.iter().map(|folder| format!(", in {}", folder.display())).collect();
            let names = names.join(", ");
            Error::Cuda(format!(
                "{what} is not found; tried {names} by the dynamic loader{elsewhere}; {cure}"
            ))
        })
    }

    fn open(name: &str, flags: i32) -> Option<Self> {
        // SAFETY: NVIDIA's libraries may be initialized at any time, on any thread; they are never unloaded.
        let handle = unsafe { unix::Library::open(Some(name), flags | unix::RTLD_NOW | unix::RTLD_LOCAL) };
        Some(Self { handle: ManuallyDrop::new(handle.ok()?), name: name.into() })
    }

    /// Returns the function `name`, if the library has it.
    ///
    /// # Safety
    /// `F` is a pointer to a function of its type.
    pub(super) unsafe fn function<F: Copy>(&self, name: &str) -> Option<F> {
        // SAFETY: passed on to the caller; the library stays loaded.
        unsafe { self.handle.get::<F>(name) }.ok().map(|function| *function)
    }
}

/// Folders beyond those of the dynamic loader: of the wheels beside the libraries that a Python package has loaded, and of a toolkit that the
/// environment names.
fn folders() -> Vec<PathBuf> {
    let maps = std::fs::read("/proc/self/maps").unwrap_or_default();
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    let mut folders = wheel_folders(&String::from_utf8_lossy(&maps));
    folders.extend(toolkits.map(|toolkit| Path::new(&toolkit).join("lib64")));
    folders.retain(|folder| folder.is_dir());
    folders
}

/// Returns the folders of wheels in the Python environments of a process, whose mapped files `maps` lists as Linux does.
fn wheel_folders(maps: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for path in maps.lines().filter_map(|line| Some(&line[line.find('/')?..])) {
        let packages = PACKAGES.iter().filter_map(|package| Some(&path[..path.rfind(package)?]));
        for folder in
            packages.flat_map(|packages| WHEEL_FOLDERS.map(|folder| Path::new(packages).join(folder)))
        {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0a0a00000-55d0a0c00000 r-xp 00000000 08:01 42 /usr/bin/python3.12
7f0000000000-7f0000001000 r--p 00000000 08:01 43 /home/nvidia/my venv/site-packages/torch/lib/libtorch.so
7f0000001000-7f0000002000 r-xp 00001000 08:01 43 /home/nvidia/my venv/site-packages/torch/lib/libtorch.so
7f0000002000-7f0000003000 r-xp 00000000 08:01 44 /opt/nvidia/packages/nvidia/cudnn/lib/libcudnn.so.9
7ffd00000000-7ffd00001000 rw-p 00000000 00:00 0 [stack]
";

    #[test]
    fn wheels_lie_beside_what_python_has_loaded() {
        let expected = [
            "/home/nvidia/cu13/lib",
            "/home/nvidia/cublas/lib",
            "/home/nvidia/my venv/site-packages/nvidia/cu13/lib",
            "/home/nvidia/my venv/site-packages/nvidia/cublas/lib",
            "/opt/nvidia/packages/nvidia/cu13/lib",
            "/opt/nvidia/packages/nvidia/cublas/lib",
        ];
        assert_eq!(wheel_folders(MAPS), expected.map(PathBuf::from));
        assert_eq!(wheel_folders(""), [] as [PathBuf; 0]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_is_found_by_the_loader_or_in_a_folder() {
        let find = |names: &[&str], folders| Library::find_in("it", names, "", || folders).unwrap();
        let loaded = find(&["libno-such.so.2", "libm.so.6"], Vec::new());
        assert_eq!(loaded.name, "libm.so.6");
        // SAFETY: the function's type.
        let square_root = unsafe { loaded.function::<unsafe extern "C" fn(f64) -> f64>("sqrt") }.unwrap();
        // SAFETY: no preconditions.
        assert_eq!(unsafe { square_root(49.0) }, 7.0);
        // SAFETY: nothing is called.
        assert!(unsafe { loaded.function::<unsafe extern "C" fn()>("no_such_function") }.is_none());

        let folder = tempfile::tempdir().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let file =
            maps.lines().find(|line| line.contains("/libm")).map(|line| &line[line.find('/').unwrap()..]);
        std::fs::copy(file.unwrap(), folder.path().join("libprobe.so.12")).unwrap();
        let empty = tempfile::tempdir().unwrap();
        let folders = vec![empty.path().to_owned(), folder.path().to_owned()];
        let found = find(&["libprobe.so.13", "libprobe.so.12"], folders);
        assert_eq!(found.name, folder.path().join("libprobe.so.12").display().to_string());
    }

    #[test]
    fn a_missing_library_is_an_error_with_what_was_tried() {
        let find = |folders| {
            let names = ["libno-such.so.2", "libno-such.so"];
            Library::find_in("the library", &names, "install it", || folders).err().unwrap().to_string()
        };
        let expected =
            "CUDA: the library is not found; tried libno-such.so.2, libno-such.so by the dynamic loader";
        assert_eq!(find(Vec::new()), format!("{expected}; install it"));
        assert_eq!(find(vec!["/a".into(), "/b".into()]), format!("{expected}, in /a, in /b; install it"));
    }
}
