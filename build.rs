//! Compiles the XDP program with clang; `src/steer` embeds the object. `bench/micro` embeds another, which wraps it.

use libbpf_cargo::SkeletonBuilder;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=bpf/steer.h");
    let mut arguments = vec!["-Wall".to_string(), "-Werror".to_string(), "-mcpu=v3".to_string()];
    for folder in system_includes() {
        arguments.extend(["-idirafter".to_string(), folder]);
    }
    compile("bpf/steer.bpf.c", "steer.bpf.o", &arguments);
    compile("bench/steer_undone.bpf.c", "steer_undone.bpf.o", &arguments);
}

fn compile(source: &str, object: &str, arguments: &[String]) {
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(object);
    if let Err(error) = SkeletonBuilder::new().source(source).obj(&out).clang_args(arguments).build() {
        panic!("{source} does not compile (it needs clang: `cargo xtask setup` installs it):\n{error:?}");
    }
}

/// Where clang finds the system's headers for its own target: the BPF target lacks the multiarch folder.
fn system_includes() -> Vec<String> {
    let clang = Command::new("clang").args(["-v", "-E", "-"]).stdin(std::process::Stdio::null()).output();
    let Ok(output) = clang else { return Vec::new() };
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .skip_while(|line| !line.starts_with("#include <...>"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(|line| line.trim().to_string())
        .collect()
}
