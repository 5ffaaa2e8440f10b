//! Compiles the XDP program with clang; `src/steer` embeds the object. `bench/micro` embeds another, which wraps it.
//!
//! `bpf/*.h` come from libbpf-sys, which brings libbpf's headers along, and `linux/*.h` from the system (linux-libc-dev,
//! on which the C library's headers depend): no package of libbpf's own is needed.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn main() {
    println!("cargo::rerun-if-changed=bpf/steer.h");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or("clang".into());
    // From the build script of libbpf-sys, whose manifest has `links = "bpf"`.
    let libbpf = env::var("DEP_BPF_INCLUDE").expect("libbpf-sys says where it installed libbpf's headers");
    let mut arguments =
        vec!["-g", "-O2", "-target", "bpf", "-mcpu=v3", "-fno-stack-protector", "-Wall", "-Werror", "-I"];
    arguments.push(&libbpf);
    let system = system_includes(&clang);
    arguments.extend(system.iter().flat_map(|directory| ["-idirafter", directory]));
    compile(&clang, "bpf/steer.bpf.c", "steer.bpf.o", &arguments);
    compile(&clang, "bench/steer_undone.bpf.c", "steer_undone.bpf.o", &arguments);
}

fn compile(clang: &str, source: &str, object: &str, arguments: &[&str]) {
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(object);
    let output = Command::new(clang).args(arguments).args(["-c", source, "-o"]).arg(out).output();
    let error = match output {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    panic!("{source} does not compile with {clang} (`cargo xtask setup` installs clang):\n{error}");
}

/// Where clang finds the system's headers for its own target: the BPF target lacks the multiarch directory.
fn system_includes(clang: &str) -> Vec<String> {
    let output = Command::new(clang).args(["-v", "-E", "-"]).stdin(Stdio::null()).output();
    let Ok(output) = output else { return Vec::new() };
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .skip_while(|line| !line.starts_with("#include <...>"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(|line| line.trim().to_string())
        .collect()
}
