//! The kernel modules that the guest needs, with their dependencies, in the order in which they must be loaded.

use crate::error::{Context, Result};
use crate::shell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules that the guest needs. A kernel without one of them has it built in.
const WANTED: &[&str] = &["virtio_pci", "virtio_net", "veth", "8021q", "af_packet", "unix", "ipv6"];

/// The modules to load, in order: name and contents.
pub(super) fn load_order(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut paths = BTreeMap::new();
    find(directory, &mut paths)?;
    let mut loaded = Vec::new();
    for name in WANTED {
        add(name, &paths, &mut loaded)?;
    }
    Ok(loaded)
}

/// The modules below `directory` by name.
fn find(directory: &Path, paths: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).context(|| format!("directory {}", directory.display()))?.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find(&path, paths)?;
        } else if let Some(name) = module_name(&entry.file_name().to_string_lossy()) {
            paths.insert(name, path);
        }
    }
    Ok(())
}

/// The name of the module in a file: `nf-log.ko.xz` has `nf_log`. `None` for other files.
fn module_name(file: &str) -> Option<String> {
    let stem = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?;
    Some(stem.replace('-', "_"))
}

/// Adds a module after its dependencies.
fn add(name: &str, paths: &BTreeMap<String, PathBuf>, loaded: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let Some(path) = paths.get(name) else { return Ok(()) };
    if loaded.iter().any(|(there, _)| there == name) {
        return Ok(());
    }
    let contents = if path.extension().is_some_and(|extension| extension == "xz") {
        let mut command = Command::new("xz");
        command.args(["--decompress", "--stdout"]).arg(path);
        command.output().map_err(|source| shell::start_error(&command, source))?.stdout
    } else {
        fs::read(path).context(|| format!("file {}", path.display()))?
    };
    for needed in depends(&contents) {
        add(&needed, paths, loaded)?;
    }
    loaded.push((name.into(), contents));
    Ok(())
}

/// The dependencies of a module: `depends=a,b` between zeros in its section `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    let field = module.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(field.unwrap_or_default());
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        assert_eq!(module_name("virtio_net.ko").as_deref(), Some("virtio_net"));
        assert_eq!(module_name("nf-log.ko.xz").as_deref(), Some("nf_log"));
        assert_eq!(module_name("modules.builtin"), None);
    }

    #[test]
    fn dependencies_of_a_module_are_read() {
        let module = b"\x7fELF\0license=GPL\0depends=failover,net-failover\0name=virtio_net\0";
        assert_eq!(depends(module), ["failover", "net_failover"]);
        assert!(depends(b"depends=\0").is_empty());
        assert!(depends(b"").is_empty());
    }

    #[test]
    fn modules_come_after_their_dependencies() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, needs: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("\0depends={needs}\0")).unwrap();
        };
        write("drivers/net/virtio_net.ko", "net_failover");
        write("drivers/net/net_failover.ko", "failover");
        write("net/failover.ko", "");
        write("net/8021q/8021q.ko", "garp,failover");
        write("net/garp.ko", "");
        write("net/unwanted.ko", "");
        let order: Vec<_> = load_order(directory.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(order, ["failover", "net_failover", "virtio_net", "garp", "8021q"]);
    }
}
