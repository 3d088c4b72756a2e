//! Compiles the BPF programs and generates their skeletons.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

const PROGRAMS: [&str; 3] = ["ports", "pktgen", "uplink"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // <linux/bpf.h> needs <asm/types.h>, which Debian keeps in a directory of the architecture that clang does not
    // search for the bpf target.
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let multiarch = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    let mut arguments: Vec<OsString> = vec!["-Wall".into(), "-Werror".into()];
    if multiarch.is_dir() {
        arguments.extend(["-isystem".into(), multiarch.into_os_string()]);
    }
    for name in PROGRAMS {
        let source = format!("src/bpf/{name}.bpf.c");
        SkeletonBuilder::new()
            .source(&source)
            .clang_args(arguments.clone())
            .build_and_generate(out.join(format!("{name}.skel.rs")))?;
        println!("cargo:rerun-if-changed={source}");
    }
    Ok(())
}
