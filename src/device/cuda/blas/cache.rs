//! The winners of measurements, in memory and in a file that outlives the process.
//!
//! There is one file for each device, driver and library version, as an encoded algorithm is meaningless to any other. The file only saves time:
//! one that cannot be read, written or parsed is ignored.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::choice::Algorithm;

/// Version of the file's format.
const FORMAT: u32 = 1;

/// Device and versions that an encoded algorithm is valid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Library {
    pub format: u32,
    /// Device name as the driver reports it.
    pub device: String,
    /// Driver version, such as 13000.
    pub driver: i32,
    /// cuBLASLt version, such as 130_100.
    pub cublaslt: usize,
}

impl Library {
    pub(super) fn new(device: &str, driver: i32, cublaslt: usize) -> Self {
        Self { format: FORMAT, device: device.into(), driver, cublaslt }
    }

    fn file_name(&self) -> String {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let device: String = self.device.chars().map(plain).collect();
        format!("gemm-{device}-driver{}-cublaslt{}.json", self.driver, self.cublaslt)
    }
}

/// A measured choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Winner {
    pub algorithm: Algorithm,
    pub milliseconds: f32,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    library: Library,
    winners: BTreeMap<String, Winner>,
}

/// Winners by family of GEMMs.
pub(super) struct Cache {
    contents: Contents,
    file: Option<PathBuf>,
}

impl Cache {
    /// Reads the winners that earlier processes left in `folder`; without a folder, winners are kept in memory only.
    pub(super) fn open(library: Library, folder: Option<&Path>) -> Self {
        let file = folder.map(|folder| folder.join(library.file_name()));
        let winners = file.as_deref().map(|file| read(file, &library)).unwrap_or_default();
        Self { contents: Contents { library, winners }, file }
    }

    pub(super) fn get(&self, family: &str) -> Option<&Algorithm> {
        self.contents.winners.get(family).map(|winner| &winner.algorithm)
    }

    /// Stores a winner, and merges those that other processes have written meanwhile.
    pub(super) fn remember(&mut self, family: String, winner: Winner) {
        self.contents.winners.insert(family, winner);
        let Some(file) = &self.file else { return };
        for (family, winner) in read(file, &self.contents.library) {
            self.contents.winners.entry(family).or_insert(winner);
        }
        // A failure costs no more than another measurement by another process.
        let _ = write(file, &self.contents);
    }
}

/// Reads the winners in `file`; returns none where it is missing, damaged or for another library.
fn read(file: &Path, library: &Library) -> BTreeMap<String, Winner> {
    let contents = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Contents>(&bytes).ok());
    contents
        .filter(|contents| contents.library == *library)
        .map(|contents| contents.winners)
        .unwrap_or_default()
}

/// Writes under a name that no other thread or process uses, then renames: readers see the old file or the new one.
fn write(file: &Path, contents: &Contents) -> std::io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let temporary = file.with_extension(format!("{}-{number}.tmp", std::process::id()));
    let bytes = serde_json::to_vec_pretty(contents)?;
    std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, file)).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

/// Returns the file's folder: `$RETROMAE_CACHE_DIR`, else `retromae` in `$XDG_CACHE_HOME`, else in `~/.cache`; `None` without any of them.
pub(super) fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = || {
        // The XDG specification tells to ignore relative paths.
        let cache = path("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        cache.or_else(|| Some(path("HOME")?.join(".cache")))
    };
    path("RETROMAE_CACHE_DIR").or_else(|| Some(base()?.join("retromae")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library() -> Library {
        Library::new("NVIDIA H100 80GB HBM3", 13_000, 130_100)
    }

    fn winner(word: u64) -> Winner {
        Winner { algorithm: [word; 8], milliseconds: 0.25 }
    }

    fn only_file(folder: &Path) -> PathBuf {
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn winners_outlive_the_process() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("made/when/needed");
        let mut cache = Cache::open(library(), Some(&folder));
        assert_eq!(cache.get("a"), None);
        cache.remember("a".into(), winner(u64::MAX));
        assert_eq!(cache.get("a"), Some(&[u64::MAX; 8]));
        assert_eq!(Cache::open(library(), Some(&folder)).get("a"), Some(&[u64::MAX; 8]));
        let name = only_file(&folder).file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(name, "gemm-NVIDIA-H100-80GB-HBM3-driver13000-cublaslt130100.json");
    }

    #[test]
    fn what_another_process_wrote_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [mut ours, mut theirs] = [(); 2].map(|()| Cache::open(library(), Some(folder.path())));
        theirs.remember("theirs".into(), winner(1));
        theirs.remember("both".into(), winner(2));
        ours.remember("both".into(), winner(3));
        let merged = Cache::open(library(), Some(folder.path()));
        assert_eq!(merged.get("theirs"), Some(&[1; 8]));
        assert_eq!(merged.get("both"), Some(&[3; 8]));
        assert_eq!(ours.get("theirs"), Some(&[1; 8]));
        only_file(folder.path());
    }

    #[test]
    fn a_damaged_file_is_ignored_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        Cache::open(library(), Some(folder.path())).remember("a".into(), winner(1));
        let file = only_file(folder.path());
        let whole = std::fs::read(&file).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"[]", b"\xff\xfe"] {
            std::fs::write(&file, damaged).unwrap();
            let mut cache = Cache::open(library(), Some(folder.path()));
            assert_eq!(cache.get("a"), None);
            cache.remember("b".into(), winner(2));
            assert_eq!(Cache::open(library(), Some(folder.path())).get("b"), Some(&[2; 8]));
        }
    }

    #[test]
    fn a_file_of_another_library_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        Cache::open(library(), Some(folder.path())).remember("a".into(), winner(1));
        let ours = only_file(folder.path());
        let others = [
            Library { cublaslt: 120_805, ..library() },
            Library { driver: 12_080, ..library() },
            Library { device: "NVIDIA A100".into(), ..library() },
            Library { format: FORMAT + 1, ..library() },
        ];
        for other in others {
            assert_eq!(Cache::open(other.clone(), Some(folder.path())).get("a"), None);
            let renamed = folder.path().join(other.file_name());
            if renamed != ours {
                std::fs::copy(&ours, renamed).unwrap();
            }
            assert_eq!(Cache::open(other, Some(folder.path())).get("a"), None);
        }
    }

    #[test]
    fn an_unwritable_folder_keeps_winners_in_memory() {
        let parent = tempfile::tempdir().unwrap();
        let not_a_folder = parent.path().join("file");
        std::fs::write(&not_a_folder, "").unwrap();
        for folder in [Some(not_a_folder.as_path()), None] {
            let mut cache = Cache::open(library(), folder);
            cache.remember("a".into(), winner(1));
            assert_eq!(cache.get("a"), Some(&[1; 8]));
        }
        only_file(parent.path());
    }

    #[test]
    fn the_folder_is_the_first_that_is_named() {
        let find = |variables: &[(&str, &str)]| {
            let found = folder(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()));
            found.map(|path| path.display().to_string())
        };
        let all = [("RETROMAE_CACHE_DIR", "own"), ("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/me")];
        assert_eq!(find(&all).as_deref(), Some("own"));
        assert_eq!(find(&all[1..]).as_deref(), Some("/xdg/retromae"));
        assert_eq!(find(&all[2..]).as_deref(), Some("/home/me/.cache/retromae"));
        assert_eq!(
            find(&[("RETROMAE_CACHE_DIR", ""), ("XDG_CACHE_HOME", "relative"), all[2]]).as_deref(),
            Some("/home/me/.cache/retromae")
        );
        assert_eq!(find(&[]), None);
    }
}
