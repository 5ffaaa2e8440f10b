use crate::error::{Context, Error, Result};
use std::path::{Path, PathBuf};

/// Finds the programs of this workspace.
#[derive(Debug)]
pub struct Bin;

impl Bin {
    /// The program `name` as built with the profile of the running test, benchmark or tool: it is in
    /// `target/<profile>`, and the test in the `deps` there.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] if it is not there. Cargo builds the programs of the root package for that package's own
    /// tests; build it first for everything else.
    pub fn find(name: &str) -> Result<PathBuf> {
        let dir = Self::dir()?;
        Self::in_dir(&dir, name)
    }

    /// The program `name` as built with `profile` (the name of its directory: `debug`, `release`).
    ///
    /// # Errors
    /// [`Error::NotBuilt`] if it is not there.
    pub fn find_in_profile(profile: &str, name: &str) -> Result<PathBuf> {
        let dir = Self::dir()?;
        Self::in_dir(&dir.with_file_name(profile), name)
    }

    /// `target/<profile>` of the running program.
    fn dir() -> Result<PathBuf> {
        let exe = std::env::current_exe().context(|| "path of the running program".into())?;
        let dir = exe.parent().unwrap_or(Path::new("/"));
        Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
    }

    fn in_dir(dir: &Path, name: &str) -> Result<PathBuf> {
        let path = dir.join(name);
        if path.is_file() { Ok(path) } else { Err(Error::NotBuilt(path)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_beside_the_directory_of_tests() {
        let exe = std::env::current_exe().unwrap();
        let profile = exe.parent().unwrap().parent().unwrap();
        assert_eq!(Bin::dir().unwrap(), profile);
        // This test itself is a program that is built for sure.
        let name = format!("deps/{}", exe.file_name().unwrap().to_str().unwrap());
        assert_eq!(Bin::find(&name).unwrap(), exe);
        let profile_name = profile.file_name().unwrap().to_str().unwrap();
        assert_eq!(Bin::find_in_profile(profile_name, &name).unwrap(), exe);
    }

    #[test]
    fn a_program_that_was_not_built_is_named() {
        let message = Bin::find("no-such-program").unwrap_err().to_string();
        assert!(message.contains("no-such-program"), "{message}");
        assert!(message.contains("cargo build"), "{message}");
    }
}
