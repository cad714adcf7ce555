//! The programs' dynamic libraries, and their messages if there is no CUDA driver.

/// Dynamic libraries that the program file at `path` asks the loader for.
#[cfg(target_os = "linux")]
fn needed_libraries(path: &std::path::Path) -> Vec<String> {
    use object::Object;
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let elf: object::read::elf::ElfFile64 =
        object::read::elf::ElfFile64::parse(bytes.as_slice()).expect("a program is an ELF file");
    let libraries = elf.import_libraries().expect("a table of libraries");
    libraries.map(|library| String::from_utf8_lossy(library.unwrap().name()).into_owned()).collect()
}

#[cfg(target_os = "linux")]
#[track_caller]
fn assert_needs_no_cuda_library(path: &std::path::Path) {
    let libraries = needed_libraries(path);
    assert!(libraries.iter().any(|name| name.starts_with("libc.")), "read wrongly: {libraries:?}");
    for name in &libraries {
        assert!(!name.starts_with("libcu") && !name.starts_with("libnv"), "{} needs {name}", path.display());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_test_program_needs_no_cuda_library() {
    assert_needs_no_cuda_library(&std::env::current_exe().unwrap());
}

#[cfg(feature = "train")]
mod command {
    use std::process::{Command, Output};

    use retromae::device;

    use crate::cli::program;

    fn retromae(arguments: &[&str]) -> Output {
        Command::new(program()).args(arguments).output().expect("the command runs")
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn driver_is_present() -> bool {
        let present = device::cuda_devices().is_ok();
        if present {
            println!("ignored: a CUDA driver is present");
        }
        present
    }

    /// Asserts that a message names what is missing, and the cure: the driver, or else the compiler, whichever is looked up first.
    #[track_caller]
    fn assert_explains(message: &str) {
        let cures = match device::nvcc() {
            Ok(_) => ["driver", "host device"],
            Err(reason) => [reason, "install the CUDA toolkit"],
        };
        for cure in cures {
            assert!(message.contains(cure), "{message:?} lacks {cure:?}");
        }
        assert!(!message.contains("panicked"), "{message}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn needs_no_cuda_library() {
        super::assert_needs_no_cuda_library(std::path::Path::new(&program()));
    }

    #[test]
    fn info_explains_a_missing_driver() {
        if driver_is_present() {
            return;
        }
        let output = retromae(&["info"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let printed = text(&output.stdout);
        let line = printed.lines().find(|line| line.starts_with("cuda")).expect("a line on CUDA");
        assert!(line.contains("not available: "), "{line}");
        assert_explains(line);

        let output = retromae(&["info", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let devices = facts["devices"].as_array().expect("devices");
        let named = |name: &str| devices.iter().find(|device| device["name"] == name).expect("listed");
        assert_eq!(named("host")["available"], true);
        assert_eq!(named("cuda")["available"], false);
        assert_explains(named("cuda")["reason"].as_str().expect("a reason"));
    }

    /// An incomplete run directory will do: the device is opened before anything is written.
    #[test]
    fn commands_refuse_a_missing_device_and_write_nothing() {
        if driver_is_present() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name).display().to_string();
        let line = |n: usize| {
            format!(
                "Sentence {n} is about a river and a castle. A second one has enough words to be of use.\n"
            )
        };
        let lines: String = (0..60).map(line).collect();
        std::fs::write(place("corpus.txt"), lines).unwrap();
        let (corpus, out) = (place("corpus.txt"), place("out"));
        let (model, vectors) = (place("model"), place("vectors.jsonl"));
        let commands: [&[&str]; 3] = [
            &["pretrain", "--device", "cuda", "--corpus", &corpus, "--vocab-size", "120", "--out", &out],
            &["embed", "--device", "cuda", "--model", &model, "--input", &corpus, "--output", &vectors],
            &["eval", "--device", "cuda", "--model", &model, "--corpus", &corpus],
        ];
        for arguments in commands {
            let output = retromae(arguments);
            assert!(!output.status.success(), "{arguments:?} was accepted");
            assert_explains(&text(&output.stderr));
            assert!(output.stdout.is_empty(), "{arguments:?}: {}", text(&output.stdout));
        }
        let names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["corpus.txt"]);
    }
}
