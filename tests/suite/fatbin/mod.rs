//! Checks of the embedded images, read without a driver: each holds every kernel for every architecture, nvcc and the host's compiler agree on the
//! size of its params and on its threads, and its machine code follows the rules.
//!
//! An image is a 16-byte header and entries, each with a header of its own and PTX or a cubin, which is an ELF file.

mod machine_code;
mod sass;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use object::read::elf::ElfFile64;
use object::read::{CompressedData, CompressionFormat};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};
use retromae::device::{self, Fatbin};

const FATBIN_MAGIC: u32 = 0xBA55_ED50;
const KIND_PTX: u16 = 1;
const KIND_CUBIN: u16 = 2;
/// Compression of an entry, in its flags.
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_OTHER_COMPRESSION: u64 = 0x2000;
/// The bit of a symbol's `st_other` that marks an entry function.
const SYMBOL_IS_ENTRY: u8 = 0x10;

/// Attributes of a kernel's `.nv.info` section, with their formats: `value` is a 16-bit value, `sized` a size and as many bytes.
const CBANK_PARAM_SIZE: u8 = 0x19;
const KPARAM_INFO: u8 = 0x17;
const MAX_THREADS: u8 = 0x05;
const FORMAT_SIZED: u8 = 4;

/// A kernel's signature as one compiler built it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signature {
    params_bytes: u32,
    threads: u32,
}

/// One entry of an image.
struct Entry<'a> {
    kind: u16,
    /// Architecture number, such as 80.
    arch: u32,
    payload: Cow<'a, [u8]>,
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

fn entries(fatbin: &Fatbin) -> Vec<Entry<'static>> {
    let image = fatbin.image;
    assert_eq!(u32_at(image, 0), FATBIN_MAGIC, "{}: not a fatbin", fatbin.file);
    let header = usize::from(u16_at(image, 6));
    let mut rest = &image[header..];
    assert_eq!(rest.len() as u64, u64_at(image, 8), "{}: truncated", fatbin.file);
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (header_bytes, padded) = (u32_at(rest, 4) as usize, u64_at(rest, 8) as usize);
        let payload = &rest[header_bytes..header_bytes + padded];
        let payload = uncompressed(fatbin.file, rest, payload);
        all.push(Entry { kind: u16_at(rest, 0), arch: u32_at(rest, 28), payload });
        rest = &rest[header_bytes + padded..];
    }
    all
}

fn uncompressed<'a>(file: &str, header: &[u8], payload: &'a [u8]) -> Cow<'a, [u8]> {
    let flags = u64_at(header, 40);
    if flags & FLAG_ZSTD == 0 {
        assert_eq!(flags & FLAG_OTHER_COMPRESSION, 0, "{file}: compressed by other means than zstd");
        return Cow::Borrowed(payload);
    }
    let stored = u32_at(header, 16) as usize;
    let data = CompressedData {
        format: CompressionFormat::Zstandard,
        data: &payload[..stored],
        uncompressed_size: u64_at(header, 56),
    };
    data.decompress().unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn elf(cubin: &[u8]) -> ElfFile64<'_> {
    ElfFile64::parse(cubin).expect("a cubin is an ELF file")
}

/// Returns the names of a cubin's entry functions.
fn entry_functions(elf: &ElfFile64<'_>) -> BTreeSet<String> {
    let entry_functions = elf.symbols().filter(|symbol| {
        let other = symbol.elf_symbol().st_other;
        symbol.is_definition() && symbol.is_global() && other.0 & SYMBOL_IS_ENTRY != 0
    });
    entry_functions.map(|symbol| symbol.name().expect("a name").to_string()).collect()
}

/// Returns every entry function of a cubin.
fn cubin_kernels(cubin: &[u8]) -> BTreeMap<String, Signature> {
    let elf = elf(cubin);
    let signature = |name: &str| {
        let section = elf.section_by_name(&format!(".nv.info.{name}"));
        info_signature(name, section.expect("every entry function has attributes").data().unwrap())
    };
    entry_functions(&elf).into_iter().map(|name| (name.clone(), signature(&name))).collect()
}

/// Returns the machine code of every entry function of a cubin, with that of the functions it calls.
fn cubin_code(cubin: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let elf = elf(cubin);
    let sections = elf.sections().filter(|section| section.kind() == SectionKind::Text);
    let code: BTreeMap<String, Vec<u8>> = sections
        .map(|section| {
            let name = section.name().expect("a name");
            let kernel = name.strip_prefix(".text.").unwrap_or_else(|| panic!("{name} is no kernel's"));
            (kernel.to_string(), section.data().expect("the section's bytes").to_vec())
        })
        .collect();
    assert_eq!(code.keys().cloned().collect::<BTreeSet<_>>(), entry_functions(&elf), "code of kernels alone");
    code
}

/// Reads the attributes of a kernel: 4 bytes each and, in one format, as many more as they state.
fn info_signature(name: &str, mut info: &[u8]) -> Signature {
    let (mut total, mut params, mut threads) = (None, Vec::new(), None);
    while !info.is_empty() {
        let (format, attribute, value) = (info[0], info[1], u16_at(info, 2));
        let size = if format == FORMAT_SIZED { usize::from(value) } else { 0 };
        let data = &info[4..4 + size];
        match attribute {
            CBANK_PARAM_SIZE => total = Some(u32::from(value)),
            // Offset of the parameter in bytes 6 and 7, its size in the upper 14 bits of the last word.
            KPARAM_INFO => params.push((u16_at(data, 6), u32_at(data, 8) >> 18)),
            MAX_THREADS => threads = Some((0..3).map(|i| u32_at(data, 4 * i)).product()),
            _ => {}
        }
        info = &info[4 + size..];
    }
    let params_bytes = total.expect("the size of all parameters");
    assert_eq!(params, [(0, params_bytes)], "{name} takes one struct and nothing else");
    Signature { params_bytes, threads: threads.expect("__launch_bounds__") }
}

/// Returns every entry function of a PTX module.
fn ptx_kernels(ptx: &str) -> BTreeMap<String, Signature> {
    let number_between = |text: &str, before: &str, after: char| -> u32 {
        let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}"));
        rest.split(after).next().and_then(|digits| digits.trim().parse().ok()).expect("a number")
    };
    let signature = |declaration: &str| {
        let (name, rest) = declaration.split_once('(').expect("parameters");
        let head = rest.split_once('{').expect("a body").0;
        assert_eq!(head.matches(".param").count(), 1, "{name} takes one struct and nothing else");
        let params_bytes = number_between(head, "_param_0[", ']');
        let threads = number_between(head, ".maxntid", ',');
        (name.trim().to_string(), Signature { params_bytes, threads })
    };
    ptx.split(".entry ").skip(1).map(signature).collect()
}

/// Returns the kernels of an entry, by name.
fn kernels(file: &str, entry: &Entry<'_>) -> BTreeMap<String, Signature> {
    match entry.kind {
        KIND_CUBIN => cubin_kernels(&entry.payload),
        KIND_PTX => {
            let text = std::str::from_utf8(&entry.payload).expect("PTX is text");
            ptx_kernels(text.trim_end_matches('\0'))
        }
        other => panic!("{file}: an entry of kind {other}"),
    }
}

/// Prints the reason and returns false if nvcc built nothing.
fn nvcc_built_kernels() -> bool {
    if let Err(reason) = device::nvcc() {
        println!("ignored: {reason}");
        return false;
    }
    true
}

/// Returns the host compiler's signatures of every kernel that is for both devices.
fn host_kernels() -> BTreeMap<&'static str, (&'static str, Signature)> {
    let shared = device::host_kernels().into_iter().filter(|kernel| !kernel.name.starts_with("probe_"));
    shared
        .map(|kernel| {
            let signature = Signature { params_bytes: kernel.params_bytes, threads: kernel.threads };
            (kernel.name, (kernel.file, signature))
        })
        .collect()
}

/// No kernel is on one side only, in any entry of its file's image.
#[test]
fn every_image_holds_every_kernel_as_the_host_has_it() {
    if !nvcc_built_kernels() {
        return;
    }
    let host = host_kernels();
    let mut found = BTreeSet::new();
    for fatbin in device::fatbins() {
        let expected: BTreeMap<String, Signature> = host
            .iter()
            .filter(|(_, (file, _))| *file == fatbin.file)
            .map(|(name, (_, signature))| (name.to_string(), *signature))
            .collect();
        assert!(!expected.is_empty(), "the host has no kernel of {}", fatbin.file);
        for entry in entries(fatbin) {
            let what = format!("{}, kind {}, architecture {}", fatbin.file, entry.kind, entry.arch);
            assert_eq!(kernels(fatbin.file, &entry), expected, "{what}");
        }
        found.extend(expected.into_keys());
    }
    assert_eq!(found, host.keys().map(ToString::to_string).collect(), "kernels in no image");
}

/// An image holds a cubin for each architecture that the build names, and PTX of the lowest for future ones.
#[test]
fn every_image_is_for_every_built_architecture() {
    if !nvcc_built_kernels() {
        return;
    }
    let number = |arch: &str| -> u32 {
        arch.trim_start_matches("sm_").trim_end_matches(char::is_alphabetic).parse().expect("a number")
    };
    let built: BTreeSet<u32> = device::cuda_kernels().iter().map(|kernel| number(kernel.arch)).collect();
    for fatbin in device::fatbins() {
        let archs = |kind| -> BTreeSet<u32> {
            let entries = entries(fatbin).into_iter().filter(|entry| entry.kind == kind);
            entries.map(|entry| entry.arch).collect()
        };
        assert_eq!(archs(KIND_CUBIN), built, "{}", fatbin.file);
        assert_eq!(archs(KIND_PTX), built.first().copied().into_iter().collect(), "{}", fatbin.file);
    }
}
