//! `xtask c-install`: the C library where programs find it by pkg-config.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::binutils::strip_unneeded;
use crate::files::write_whole;
use crate::report::repository;

/// Version of the library; the crates of the workspace have the same.
const VERSION: [&str; 3] = ["0", "1", "0"];

#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the library will be: its header goes to include/ there, the libraries and retromae.pc to lib/
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Folder below the prefix for libraries
    #[arg(long, value_name = "DIR", default_value = "lib")]
    libdir: PathBuf,
    /// Put everything below this folder instead of the root, for a package that is installed later
    #[arg(long, value_name = "DIR")]
    destdir: Option<PathBuf>,
}

impl Arguments {
    pub fn run(&self) -> Result<()> {
        let root = repository();
        let target = build(&root)?;
        let prefix = std::path::absolute(&self.prefix).context("--prefix")?;
        let staged = self.staged(&prefix);
        let (include, libraries) = (staged.join("include"), staged.join(&self.libdir));
        let packages = libraries.join("pkgconfig");
        for folder in [&include, &packages] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        }
        copy(&root.join("include/retromae.h"), &include.join("retromae.h"))?;
        copy(&target.join("libretromae_capi.a"), &libraries.join("libretromae.a"))?;
        let shared = format!("libretromae.so.{}", VERSION.join("."));
        strip_unneeded(&target.join("libretromae_capi.so"), &libraries.join(&shared))?;
        link(&shared, &libraries.join(format!("libretromae.so.{}", VERSION[0])))?;
        link(&shared, &libraries.join("libretromae.so"))?;
        write_whole(&packages.join("retromae.pc"), self.package(&prefix).as_bytes())?;
        let bytes = fs::metadata(libraries.join(&shared))?.len();
        println!("{} ({:.1} MB)", libraries.join(&shared).display(), bytes as f64 / 1e6);
        println!("pkg-config finds it with PKG_CONFIG_PATH={}", packages.display());
        Ok(())
    }

    /// Returns the folder that the files are written to.
    fn staged(&self, prefix: &Path) -> PathBuf {
        match &self.destdir {
            Some(destdir) => destdir.join(prefix.strip_prefix("/").unwrap_or(prefix)),
            None => prefix.to_owned(),
        }
    }

    /// Returns the text of `retromae.pc`.
    fn package(&self, prefix: &Path) -> String {
        let (prefix, libdir) = (prefix.display(), self.libdir.display());
        format!(
            "prefix={prefix}\n\
             libdir=${{prefix}}/{libdir}\n\
             includedir=${{prefix}}/include\n\
             \n\
             Name: retromae\n\
             Description: RetroMAE pre-training as a library of GPU kernels that also run on the CPU\n\
             Version: {}\n\
             Libs: -L${{libdir}} -lretromae\n\
             Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc\n\
             Cflags: -I${{includedir}}\n",
            VERSION.join(".")
        )
    }
}

/// Builds the libraries; returns the folder where they are.
fn build(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "retromae-capi"])
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "cargo build failed");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target));
    Ok(target.join("release"))
}

/// Copies a file under a temporary name first, so that nobody sees a part of it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read `{}`", from.display()))?;
    write_whole(to, &bytes)
}

/// Makes or replaces a symbolic link.
fn link(original: &str, link: &Path) -> Result<()> {
    let made = match fs::remove_file(link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => symlink(original, link),
    };
    made.with_context(|| format!("cannot link `{}`", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version stands in the header, in the manifests, in that of the Python package, and here.
    #[test]
    fn the_version_is_that_of_header_and_manifest() {
        let root = repository();
        for manifest in ["capi/Cargo.toml", "python/pyproject.toml"] {
            let text = fs::read_to_string(root.join(manifest)).unwrap();
            assert!(text.contains(&format!("\nversion = \"{}\"\n", VERSION.join("."))), "{manifest}");
        }
        let header = fs::read_to_string(root.join("include/retromae.h")).unwrap();
        for (part, value) in ["MAJOR", "MINOR", "PATCH"].iter().zip(VERSION) {
            assert!(header.contains(&format!("#define RMAE_VERSION_{part} {value}\n")), "{part}");
        }
    }

    #[test]
    fn a_staged_installation_names_its_final_place() {
        let arguments = Arguments {
            prefix: "/opt/retromae".into(),
            libdir: "lib64".into(),
            destdir: Some("/stage".into()),
        };
        let prefix = Path::new("/opt/retromae");
        assert_eq!(arguments.staged(prefix), Path::new("/stage/opt/retromae"));
        let package = arguments.package(prefix);
        assert!(package.contains("prefix=/opt/retromae\n"), "{package}");
        assert!(package.contains("libdir=${prefix}/lib64\n"), "{package}");
    }
}
