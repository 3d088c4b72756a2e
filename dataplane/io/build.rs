//! Compiles the BPF programs and generates their skeletons.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "src/bpf/ports.bpf.c";

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("ports.skel.rs");
    // <linux/bpf.h> needs <asm/types.h>, which Debian keeps in a directory of the architecture that clang does not
    // search for the bpf target.
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let multiarch = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    let mut arguments: Vec<OsString> = vec!["-Wall".into(), "-Werror".into()];
    if multiarch.is_dir() {
        arguments.extend(["-isystem".into(), multiarch.into_os_string()]);
    }
    SkeletonBuilder::new()
        .source(SOURCE)
        .clang_args(arguments)
        .build_and_generate(&out)?;
    println!("cargo:rerun-if-changed={SOURCE}");
    Ok(())
}
