//! Compiles the XDP program with clang; `src/steer` embeds the object. `bench/micro` embeds another, which wraps it.
//! And finds the commit that this is built from, for `iou-fast --version`.
//!
//! `bpf/*.h` come from libbpf-sys, which brings libbpf's headers along, and `linux/*.h` from the system (linux-libc-dev,
//! on which the C library's headers depend): no package of libbpf's own is needed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() {
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION");
    let commit = commit().map(|commit| format!(" ({})", &commit[..7])).unwrap_or_default();
    println!("cargo::rustc-env=IOU_FAST_VERSION={version}{commit}");
    println!("cargo::rerun-if-changed=bpf/steer.h");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or("clang".into());
    // From the build script of libbpf-sys, whose manifest has `links = "bpf"`.
    let libbpf = env::var("DEP_BPF_INCLUDE").expect("libbpf-sys says where it installed libbpf's headers");
    let mut arguments =
        vec!["-g", "-O2", "-target", "bpf", "-mcpu=v3", "-fno-stack-protector", "-Wall", "-Werror", "-I"];
    arguments.push(&libbpf);
    // The object's debug information names its sources, and goes with the program wherever that goes.
    let here = env::current_dir().map(|directory| format!("-ffile-prefix-map={}=.", directory.display()));
    let here = here.expect("a working directory");
    arguments.push(&here);
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

/// The commit that is checked out here, as 40 hexadecimal digits. `None` outside a git repository. It is read from git's
/// files, because the git program may be missing; that files have changed since the commit is not seen.
///
/// Cargo is told to run this again when another commit is checked out or made. It must not be told of a file that does not
/// exist: it would run this at every build.
fn commit() -> Option<String> {
    // Only of this directory: one above it may belong to another project's repository.
    let git = Path::new(".git");
    let private = match fs::read_to_string(git) {
        // A worktree, whose HEAD is its own.
        Ok(link) => {
            println!("cargo::rerun-if-changed=.git");
            PathBuf::from(link.strip_prefix("gitdir:")?.trim())
        }
        Err(_) => git.to_owned(),
    };
    // Branches are those of the repository.
    let common = fs::read_to_string(private.join("commondir"))
        .map_or_else(|_| private.clone(), |path| private.join(path.trim()));
    let head = watched(&private.join("HEAD"))?;
    let Some(branch) = head.strip_prefix("ref:").map(str::trim) else { return hash(&head) };
    if let Some(commit) = watched(&common.join(branch)) {
        return hash(&commit);
    }
    // Packed with others; the next commit puts it into a file of its own.
    let packed = watched(&common.join("packed-refs"))?;
    if let Some(directory) = common.join(branch).ancestors().skip(1).find(|directory| directory.is_dir()) {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
    packed.lines().find_map(|line| hash(line.strip_suffix(branch)?.strip_suffix(' ')?))
}

/// What is in a file, at whose change this is to run again.
fn watched(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    println!("cargo::rerun-if-changed={}", file.display());
    Some(text)
}

fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    (text.len() >= 40 && text.bytes().all(|digit| digit.is_ascii_hexdigit())).then(|| text.to_owned())
}
