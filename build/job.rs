//! Compiler calls: each is skipped if nothing that it read has changed, and all run in parallel on the cores that cargo grants.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

pub struct Job {
    pub command: Command,
    pub output: PathBuf,
    pub dependencies: PathBuf,
    pub what: String,
}

impl Job {
    /// Runs the compiler, unless the output is newer than every file that the last run read and the command is the same.
    /// Returns the messages of this run, or those of the last one.
    fn run(mut self) -> String {
        let stamp = self.output.with_extension("command");
        let log = self.output.with_extension("log");
        let line = command_line(&self.command);
        let unchanged = fs::read_to_string(&stamp).is_ok_and(|previous| previous == line) && self.is_fresh();
        if unchanged && let Ok(printed) = fs::read_to_string(&log) {
            return printed;
        }
        let cache = Cache::of(&line, &self.output);
        let kept = cache.as_ref().and_then(|cache| cache.take(&self));
        let is_new = kept.is_none();
        let printed = kept.unwrap_or_else(|| self.compile(&line));
        fs::write(&log, &printed).expect("OUT_DIR is writable");
        fs::write(&stamp, &line).expect("OUT_DIR is writable");
        if let Some(cache) = cache.filter(|_| is_new) {
            cache.keep(&self, &printed);
        }
        printed
    }

    fn compile(&mut self, line: &str) -> String {
        let result = self.command.output().unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
        let printed =
            format!("{}{}", String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
        assert!(result.status.success(), "compiling {} failed\n{line}\n{printed}", self.what);
        printed
    }

    fn is_fresh(&self) -> bool {
        let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
        let Ok(built) = modified(&self.output) else { return false };
        let Ok(text) = fs::read_to_string(&self.dependencies) else { return false };
        let newest = dependency_paths(&text)
            .iter()
            .map(|path| modified(path).unwrap_or_else(|_| SystemTime::now()))
            .max();
        newest.is_some_and(|newest| newest < built)
    }
}

/// Cache of one command's compiled kernels, shared by all builds: a folder for each state of the sources.
struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Returns the cache of a command line, or `None` unless `RETROMAE_KERNEL_CACHE` names a folder.
    fn of(line: &str, output: &Path) -> Option<Self> {
        let root = PathBuf::from(env::var_os("RETROMAE_KERNEL_CACHE").filter(|path| !path.is_empty())?);
        let out = output.parent()?.to_string_lossy().into_owned();
        Some(Self { folder: root.join(format!("{:016x}", hash(line.replace(&out, "").as_bytes()))) })
    }

    /// Copies the cached object of identical sources into place and returns its compiler's messages; `None` if there is none.
    fn take(&self, job: &Job) -> Option<String> {
        let states = fs::read_dir(&self.folder).ok()?;
        let same = states.flatten().map(|state| state.path()).find(|state| {
            let sources = fs::read_to_string(state.join("sources")).unwrap_or_default();
            !sources.is_empty()
                && fingerprint(&fs::read_to_string(state.join("d")).unwrap_or_default()) == Some(sources)
        })?;
        fs::copy(same.join("d"), &job.dependencies).ok()?;
        fs::copy(same.join("output"), &job.output).ok()?;
        fs::read_to_string(same.join("log")).ok()
    }

    /// Stores a compiled object; a cache that cannot be written is not an error.
    fn keep(&self, job: &Job, printed: &str) {
        let Ok(rule) = fs::read_to_string(&job.dependencies) else { return };
        let Some(sources) = fingerprint(&rule) else { return };
        let name = format!("{:016x}", hash(sources.as_bytes()));
        let unfinished = self.folder.join(format!("{name}.{}", std::process::id()));
        let written = fs::create_dir_all(&unfinished)
            .and_then(|()| fs::copy(&job.output, unfinished.join("output")))
            .and_then(|_| fs::write(unfinished.join("d"), &rule))
            .and_then(|()| fs::write(unfinished.join("log"), printed))
            .and_then(|()| fs::write(unfinished.join("sources"), &sources))
            .and_then(|()| fs::rename(&unfinished, self.folder.join(name)));
        if written.is_err() {
            let _ = fs::remove_dir_all(&unfinished);
        }
    }
}

/// Returns a hash of every file that a compiler read, one a line; `None` if a file is missing.
fn fingerprint(rule: &str) -> Option<String> {
    let line = |path: &PathBuf| Some(format!("{:016x} {}\n", hash(&fs::read(path).ok()?), path.display()));
    dependency_paths(rule).iter().map(line).collect()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Formats program and arguments; without the environment, which differs from run to run.
fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Returns the prerequisites of a make rule as `-MMD` writes it.
fn dependency_paths(rule: &str) -> Vec<PathBuf> {
    let Some((_, prerequisites)) = rule.split_once(": ") else { return Vec::new() };
    prerequisites.replace("\\\n", " ").split_whitespace().map(PathBuf::from).collect()
}

/// Runs the jobs on as many threads as cargo grants; the results keep the order of the jobs.
pub fn run_all(jobs: Vec<Job>) -> Vec<String> {
    let threads = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize);
    let slots: Vec<Mutex<(Option<Job>, String)>> =
        jobs.into_iter().map(|job| Mutex::new((Some(job), String::new()))).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, slots.len().max(1)) {
            scope.spawn(|| {
                while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut slot = slot.lock().expect("no other thread holds this slot");
                    if let Some(job) = slot.0.take() {
                        slot.1 = job.run();
                    }
                }
            });
        }
    });
    slots.into_iter().map(|slot| slot.into_inner().expect("no thread panicked").1).collect()
}
