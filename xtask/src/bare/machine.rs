use super::{Context, Error, Result};
use crate::shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where files of certificates are on other machines.
const CERTIFICATES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Where this machine's are on a bare one: no package writes to it.
const CERTIFICATES_THERE: &str = "/etc/ssl/machine.crt";

/// By which programs are told of them.
const CERTIFICATE_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
];

/// What this machine has to reach Debian's servers and crates.io, and its compiler: all that a bare one is given.
pub(super) struct Machine {
    /// The directory of the Rust toolchain.
    pub(super) toolchain: PathBuf,
    /// Debian's packages, and those of its security team.
    pub(super) mirrors: [String; 2],
    apt: String,
    certificates: Option<PathBuf>,
    cargo_config: Option<String>,
    variables: Vec<(String, String)>,
}

impl Machine {
    pub(super) fn of_this_machine() -> Result<Self> {
        let index = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
        let sources = shell::stdout(Command::new("apt-get").args(index)).unwrap_or_default();
        let settings =
            shell::stdout(Command::new("apt-config").args(["dump", "Acquire"])).unwrap_or_default();
        let file = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let mut certificates = file.into_iter().chain(CERTIFICATES.map(PathBuf::from));
        Ok(Self {
            toolchain: toolchain()?,
            mirrors: ["debian", "debian-security"].map(|name| mirror(&sources, name)),
            apt: settings
                .lines()
                .filter(|line| is_taken_along(line))
                .map(|line| format!("{line}\n"))
                .collect(),
            certificates: certificates.find(|file| file.is_file()),
            cargo_config: cargo_config(),
            variables: std::env::vars().filter(|(name, _)| is_for_the_network(name)).collect(),
        })
    }

    /// Writes what is in files into the root directory of a bare machine that has the packages of `suite`.
    pub(super) fn configure(&self, root: &Path, suite: &str) -> Result<()> {
        let write = |path: &str, contents: &[u8]| {
            let path = root.join(path.trim_start_matches('/'));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).context(|| format!("directory {}", parent.display()))?;
            }
            fs::write(&path, contents).context(|| format!("file {}", path.display()))
        };
        let [main, security] = &self.mirrors;
        let sources = format!("deb {main} {suite} main\ndeb {security} {suite}-security main\n");
        write("etc/apt/sources.list", sources.as_bytes())?;
        let mut apt = self.apt.clone();
        if let Some(file) = &self.certificates {
            write(CERTIFICATES_THERE, &fs::read(file).context(|| format!("file {}", file.display()))?)?;
            apt += &format!("Acquire::https::CAInfo \"{CERTIFICATES_THERE}\";\n");
        }
        write("etc/apt/apt.conf.d/00machine", apt.as_bytes())?;
        write("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")?;
        if let Ok(text) = fs::read_to_string("/etc/resolv.conf") {
            write("etc/resolv.conf", text.as_bytes())?;
        }
        self.cargo_config.as_ref().map_or(Ok(()), |text| write("root/.cargo/config.toml", text.as_bytes()))
    }

    /// The environment on a bare machine.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let mut variables = self.variables.clone();
        let path = "/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        for (name, value) in [("PATH", path), ("HOME", "/root"), ("LANG", "C.UTF-8")] {
            variables.push((name.into(), value.into()));
        }
        if self.certificates.is_some() {
            variables.extend(CERTIFICATE_VARIABLES.map(|name| (name.into(), CERTIFICATES_THERE.into())));
        }
        variables
    }
}

/// Where the cargo that runs this is from.
fn toolchain() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").map(PathBuf::from);
    let rustc = cargo.map(|cargo| cargo.with_file_name("rustc")).filter(|rustc| rustc.is_file());
    let mut command = Command::new(rustc.unwrap_or("rustc".into()));
    let path = PathBuf::from(shell::stdout(command.args(["--print", "sysroot"]))?.trim());
    if path.starts_with("/usr") && path.components().count() < 4 || !path.join("bin/cargo").is_file() {
        return Err(Error::Bare(format!(
            "the Rust toolchain is in {}, which cannot be bound into another system: take rustup's",
            path.display()
        )));
    }
    Ok(path)
}

/// The address in `sources` that ends in `/NAME`, else Debian's own.
fn mirror(sources: &str, name: &str) -> String {
    let is_it = |uri: &&str| {
        uri.starts_with("http")
            && uri.trim_end_matches('/').rsplit_once('/').is_some_and(|(_, last)| last == name)
    };
    sources.lines().find(is_it).map_or_else(|| format!("http://deb.debian.org/{name}"), str::to_owned)
}

/// Settings that say how packages are fetched, not what else is fetched with their lists, nor programs of this machine.
fn is_taken_along(setting: &str) -> bool {
    setting.starts_with("Acquire::")
        && !["IndexTargets", "Changelogs", "AutoDetect", "Auto-Detect"]
            .iter()
            .any(|what| setting.contains(what))
}

/// Proxies, and cargo's own settings for the network.
fn is_for_the_network(variable: &str) -> bool {
    let lower = variable.to_ascii_lowercase();
    let cargo = ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"];
    matches!(&*lower, "http_proxy" | "https_proxy" | "all_proxy" | "ftp_proxy" | "no_proxy" | "term")
        || cargo.iter().any(|prefix| variable.starts_with(prefix)) && !variable.ends_with("_TOKEN")
}

/// The user's configuration of cargo.
fn cargo_config() -> Option<String> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home)?;
    ["config.toml", "config"].iter().find_map(|name| fs::read_to_string(home.join(name)).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_mirror_is_used() {
        let sources = "https://example.com/apt/\nhttp://mirror.example/debian-security/\nhttp://mirror.example/debian/\n";
        assert_eq!(mirror(sources, "debian"), "http://mirror.example/debian/");
        assert_eq!(mirror(sources, "debian-security"), "http://mirror.example/debian-security/");
        assert_eq!(mirror("copy:/debian\n", "debian"), "http://deb.debian.org/debian");
    }

    #[test]
    fn settings_that_go_along() {
        for setting in ["Acquire::Check-Date \"false\";", "Acquire::http::Proxy \"http://proxy:3128\";"] {
            assert!(is_taken_along(setting), "{setting}");
        }
        for setting in [
            "Acquire \"\";",
            "Acquire::IndexTargets::deb::DEP-11 \"\";",
            "Acquire::http::Proxy-Auto-Detect \"/usr/bin/x\";",
            "DPkg::Post-Invoke \"\";",
        ] {
            assert!(!is_taken_along(setting), "{setting}");
        }
        assert!(is_for_the_network("https_proxy") && is_for_the_network("CARGO_NET_RETRY"));
        assert!(!is_for_the_network("CARGO_REGISTRY_TOKEN") && !is_for_the_network("RUSTFLAGS"));
    }
}
