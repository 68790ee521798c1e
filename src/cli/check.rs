//! `check-config`: a configuration, and the files and addresses that `run` needs at its start.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use crate::app::capacity::Capacity;
use crate::cli::exit;
use crate::config::{Config, LoadError, load_for_check};
use crate::crl;
use crate::graph::client::Client;
use crate::keyring;
use crate::runtime::secret_files::FileModes;
use crate::tls;

/// Runs `check-config`: reports every problem of the file, and of what is not in the file itself.
pub(super) fn check(path: &Path, allow_insecure_modes: bool) -> ExitCode {
    let (config, error) = load_for_check(path);
    if let Some(error) = &error {
        eprintln!("{error}");
    }
    let Some(mut config) = config else {
        if matches!(error, Some(LoadError::Problems(..))) {
            eprintln!("Key files were not checked; correct these first.");
        }
        return exit::CONFIG.into();
    };
    if allow_insecure_modes {
        config.keyring.file_modes = FileModes::Unchecked;
    }
    let (mut problems, warnings) = findings(&config);
    warnings.iter().for_each(|warning| println!("warning: {warning}"));
    problems.dedup();
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    if error.is_some() || !problems.is_empty() {
        return exit::CONFIG.into();
    }
    println!("{}", Capacity::raised(&config));
    match warnings.len() {
        0 => println!("no problem found"),
        1 => println!("1 warning, no error"),
        warnings => println!("{warnings} warnings, no error"),
    }
    ExitCode::SUCCESS
}

/// The problems, and the warnings.
fn findings(config: &Config) -> (Vec<String>, Vec<String>) {
    let (keys, provider) = (&config.keyring, tls::provider());
    let mut problems = keyring::check(keys, &provider);
    let mut warnings = Vec::new();
    if let Ok(identity) = keyring::identity(keys, &provider) {
        let found =
            keyring::problems(&identity, &config.advertised_hosts(), SystemTime::now().into());
        let name = keys.certificate.display();
        warnings.extend(found.iter().map(|problem| format!("tls.certificate: {name}: {problem}")));
    }
    let files = config.insecure_files(keys.file_modes);
    warnings.extend(files.reported.iter().map(ToString::to_string));
    for fault in files.refused.iter().map(ToString::to_string) {
        // A key file was read above.
        if !problems.contains(&fault) {
            problems.push(fault);
        }
    }
    match creates_in(&config.data_dir) {
        Ok(()) => {}
        // The gateway can run as another user.
        Err((error, why)) if error.kind() == ErrorKind::PermissionDenied => {
            warnings
                .push(format!("data_dir: {why}: the user of `run` must be able to write there"));
        }
        Err((_, why)) => problems.push(format!("data_dir: {why}")),
    }
    for source in &config.graph {
        let (base, limits) = (&source.base, source.limits.clone());
        let bundle = source.ca_bundle.clone();
        if let Err(error) = Client::new(base, source.credential.clone(), bundle, limits) {
            problems.push(format!("graph `{}`: {error}", source.source));
        }
    }
    if let Err(error) = crl::check(&config.crl) {
        problems.push(format!("revocation: {error}"));
    }
    (problems, warnings)
}

/// Checks that `directory` can be created, or written if it exists: creates a directory in the nearest
/// one that exists, and removes it.
///
/// # Errors
/// The error, and a text with it that names the path.
pub(super) fn creates_in(directory: &Path) -> Result<(), (io::Error, String)> {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let probe = existing.join(format!(".anchorgate-check-{}", std::process::id()));
    let created = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe));
    created.map_err(|error| {
        let what = match existing == directory {
            true => format!("`{}` cannot be written: {error}", directory.display()),
            false => format!(
                "`{}` cannot be created: nothing can be created in `{}`: {error}",
                directory.display(),
                existing.display()
            ),
        };
        (error, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_below_a_file_cannot_be_created() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("written");
        assert!(creates_in(&folder.path().join("a/b")).is_ok());
        assert!(creates_in(folder.path()).is_ok());
        let names: Vec<_> = fs::read_dir(folder.path()).expect("a folder").collect();
        assert_eq!(names.len(), 1, "{names:?}: the check leaves nothing behind");
        for (path, expected) in [
            (file.join("data"), "/file/data` cannot be created: nothing can be created in"),
            (file, "/file` cannot be written: "),
            ("/proc/x".into(), "`/proc/x` cannot be created: nothing can be created in `/proc`: "),
        ] {
            let (_, why) = creates_in(&path).expect_err("not possible");
            assert!(why.contains(expected), "{why} has no `{expected}`");
        }
    }
}
