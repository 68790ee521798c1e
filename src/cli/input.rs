//! Files that a command line names.

use std::fs::File;
use std::io::{self, Read, stdin};
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::runtime::files::{ReadFileCause, ReadFileError, read_bounded, read_bounded_from};
use crate::runtime::log::Secret;
use crate::runtime::text::clean;

/// Limit in bytes on a file with a token, a secret or CA certificates.
const MAX_SMALL: u64 = 1 << 20;
/// Bytes of one piece of a file.
const PIECE: usize = 256 * 1024;
/// Characters of a PEM label that a message has.
const MAX_LABEL: usize = 40;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a file of up to `limit` bytes; `-` is standard input.
pub(super) fn read_input(path: &Path, limit: u64) -> Result<Vec<u8>, ReadFileError> {
    if path.as_os_str() == "-" {
        return read_bounded_from(stdin().lock(), "standard input", limit);
    }
    read_bounded(path, limit)
}

/// Passes a file of any size to `take` piece by piece, until it returns an error; `-` is standard input.
///
/// # Errors
/// The file cannot be opened or read.
pub(super) fn read_in_pieces<E>(
    path: &Path,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Result<(), E>, ReadFileError> {
    let is_stdin = path.as_os_str() == "-";
    let name = if is_stdin { Path::new("standard input") } else { path };
    let failed =
        |error: io::Error| ReadFileError { path: name.to_owned(), cause: ReadFileCause::Io(error) };
    let mut source: Box<dyn Read> = match is_stdin {
        true => Box::new(stdin().lock()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    let mut piece = vec![0; PIECE];
    loop {
        match source.read(&mut piece) {
            Ok(0) => return Ok(Ok(())),
            Ok(read) => {
                if let Err(error) = take(&piece[..read]) {
                    return Ok(Err(error));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// A list response.  A bare array, as `directory list --json` prints it, becomes the `value` of one.
pub(super) fn list_response(json: &[u8]) -> Vec<u8> {
    let text = json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json).trim_ascii_start();
    match text.first() {
        Some(b'[') => [b"{\"value\":", text, b"}"].concat(),
        _ => text.to_vec(),
    }
}

/// Refuses a PEM file that contains something else than a revocation list.  Only regular files are checked,
/// because others can be read only once.
pub(super) fn expect_revocation_list(path: &Path) -> anyhow::Result<()> {
    if !std::fs::metadata(path).is_ok_and(|file| file.is_file()) {
        return Ok(());
    }
    // A large file is a list, or the reader of lists refuses it.
    let Ok(bytes) = read_bounded(path, MAX_SMALL) else { return Ok(()) };
    let text = String::from_utf8_lossy(&bytes);
    let mut labels = text.lines().filter_map(|line| {
        let label = line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
        Some(clean(label, MAX_LABEL))
    });
    let first = labels.clone().next();
    ensure!(
        first.is_none() || labels.any(|label| label == "X509 CRL"),
        "{}: not a revocation list: it contains {}",
        path.display(),
        first.unwrap_or_default()
    );
    Ok(())
}

/// Refuses a list of devices where one of trust configurations is needed.
pub(super) fn expect_configurations(name: &str, response: &Value) -> anyhow::Result<()> {
    let objects = response["value"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |object: &Value, member: &str| object.get(member).is_some();
    let is_device = |object: &Value| {
        !has(object, "certificateAuthorities")
            && ["physicalIds", "accountEnabled", "externalDeviceId"].iter().any(|m| has(object, m))
    };
    ensure!(
        objects.is_empty() || !objects.iter().all(is_device),
        "{name}: a list of devices, not of trust configurations"
    );
    Ok(())
}

/// Reads a PEM file of certification authorities.
pub(super) fn read_ca_bundle(path: &Path) -> Result<Vec<u8>, ReadFileError> {
    read_bounded(path, MAX_SMALL)
}

/// Reads a file that contains one token or secret, without white space around it.
pub(super) fn read_secret(path: &Path) -> anyhow::Result<Secret> {
    let bytes = zeroize::Zeroizing::new(read_bounded(path, MAX_SMALL)?);
    let name = path.display();
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{name}: not UTF-8"))?.trim();
    ensure!(!text.is_empty(), "{name}: the file is empty");
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_array_becomes_a_list_response() {
        for (json, expected) in [
            (&b"[1]"[..], "{\"value\":[1]}"),
            (b"\xef\xbb\xbf \n[]", "{\"value\":[]}"),
            (b"{\"value\":[]}", "{\"value\":[]}"),
            (b"\xef\xbb\xbf{}", "{}"),
            (b"", ""),
        ] {
            assert_eq!(list_response(json), expected.as_bytes());
        }
    }

    #[test]
    fn a_list_of_devices_is_not_one_of_configurations() {
        let check = |value| expect_configurations("d.json", &serde_json::json!({ "value": value }));
        let device = serde_json::json!({"id": "1", "accountEnabled": true, "physicalIds": []});
        let configuration = serde_json::json!({"id": "2", "certificateAuthorities": []});
        let error = check(vec![device.clone()]).expect_err("devices").to_string();
        assert_eq!(error, "d.json: a list of devices, not of trust configurations");
        assert!(check(vec![configuration, device]).is_ok());
        assert!(check(Vec::new()).is_ok());
    }

    #[test]
    fn another_pem_file_is_not_a_revocation_list() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.pem");
        let check = |text: &str| {
            std::fs::write(&file, text).expect("written");
            expect_revocation_list(&file).map_err(|error| error.to_string())
        };
        let pem = |label: &str| format!("-----BEGIN {label}-----\nAA==\n-----END {label}-----\n");
        let error = check(&pem("CERTIFICATE")).expect_err("a certificate");
        assert!(
            error.ends_with("x.pem: not a revocation list: it contains CERTIFICATE"),
            "{error}"
        );
        assert_eq!(check(&(pem("CERTIFICATE") + &pem("X509 CRL"))), Ok(()));
        assert_eq!(check("no PEM"), Ok(()));
    }

    #[test]
    fn a_file_without_an_end_is_read_until_it_is_refused() {
        let mut taken = 0_usize;
        let result = read_in_pieces(Path::new("/dev/zero"), |piece| {
            taken += piece.len();
            if taken > 4 * PIECE { Err(taken) } else { Ok(()) }
        });
        assert!(matches!(result, Ok(Err(taken)) if taken > 4 * PIECE));
        let error = read_in_pieces(Path::new("/nonexistent/ca.crl"), |_| Ok::<_, ()>(()));
        assert!(error.expect_err("missing").to_string().starts_with("/nonexistent/ca.crl: "));
    }
}
