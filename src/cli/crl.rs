//! `crl inspect`, which prints a list and the reasons why it would not be used, without a gateway;
//! and the output of `crl show`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::cli::exit;
use crate::cli::input::{expect_revocation_list, read_in_pieces, read_input};
use crate::cli::terminal::{one_line, text};
use crate::runtime::text::Cleaned;
use crate::x509::certificate::{Certificate, GeneralName};
use crate::x509::crl::{
    CrlError, Fault, Kind, ListReader, OnlyContains, RevocationList, Unverified,
};
use crate::x509::pem;
use crate::x509::time::{Timestamp, span};

/// Limit in bytes on a file of certificates.
const MAX_SIGNERS: u64 = 16 << 20;

/// Arguments of `crl inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 if the list is usable (with --serial: and does not contain that \
    number), 1 if not, 2 if a file cannot be read or contains something else, or an argument is not valid."
)]
pub(super) struct InspectArgs {
    /// List, DER or PEM; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check whether the list contains this serial number (hexadecimal)
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// Verify the signature with the certificates of this PEM file; repeatable
    #[arg(long, value_name = "CERT.pem")]
    signer: Vec<PathBuf>,
    /// Time at which the list must be fresh, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

/// Runs `crl inspect`.
pub(super) fn run_inspect(args: &InspectArgs) -> ExitCode {
    inspect(args).unwrap_or_else(|error| {
        eprintln!("anchorgate crl inspect: {}", one_line(&error));
        exit::UNUSABLE.into()
    })
}

fn inspect(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let now = match &args.at {
        None => Timestamp::from(std::time::SystemTime::now()),
        Some(text) => Timestamp::parse_rfc3339(text).with_context(|| {
            format!("--at: `{text}` is not a time such as 2026-11-21T08:00:00Z")
        })?,
    };
    let serial = args.serial.as_deref().map(read_serial).transpose()?;
    let mut signers = Vec::new();
    for path in &args.signer {
        signers.extend(read_signers(path)?);
    }

    expect_revocation_list(&args.file)?;
    let (unverified, verified) = match read_list(&args.file, &signers, now)? {
        Ok(read) => read,
        Err(error) => {
            println!("not usable: {}: {}", args.file.display(), Cleaned(&error));
            return Ok(ExitCode::FAILURE);
        }
    };
    let list = unverified.list();
    show(list);
    let mut faults = faults(list, now);
    match verified {
        None => {
            println!(
                "signature:    not verified; pass --signer with the certificate of the signer"
            );
        }
        Some(Ok(list)) => {
            let signer = list.signers.first().map(|signer| signer.subject.to_string());
            println!("signature:    by `{}`", Cleaned(&signer.unwrap_or_default()));
        }
        // `faults` has this one already.
        Some(Err(error)) if matches!(error.fault, Fault::NotYetValid { .. }) => {}
        Some(Err(error)) => faults.push(error.fault.to_string()),
    }
    for fault in &faults {
        println!("not usable:   {}", Cleaned(fault));
    }
    let listed = serial.is_some_and(|serial| show_serial(list, &serial));
    Ok(if faults.is_empty() && !listed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A list without verification, and the result of verification if there are signers.
type ReadList = (Unverified, Option<Result<RevocationList, CrlError>>);

/// Reads a list in one pass, because standard input can be read only once.
fn read_list(
    path: &Path,
    signers: &[Arc<Certificate>],
    now: Timestamp,
) -> anyhow::Result<Result<ReadList, CrlError>> {
    let mut unverified = ListReader::new(u64::MAX);
    let mut verifying = (!signers.is_empty()).then(|| ListReader::new(u64::MAX));
    let read = read_in_pieces(path, |piece| {
        let mut readers = std::iter::once(&mut unverified).chain(&mut verifying);
        readers.try_for_each(|reader| reader.feed(piece))
    })?;
    if let Err(error) = read {
        return Ok(Err(error));
    }
    let verified = verifying.map(|reader| reader.finish(signers, now));
    Ok(unverified.finish_unverified().map(|list| (list, verified)))
}

fn read_signers(path: &Path) -> anyhow::Result<Vec<Arc<Certificate>>> {
    let text = read_input(path, MAX_SIGNERS)?;
    let mut signers = Vec::new();
    for der in pem::certificates(&text).with_context(|| path.display().to_string())? {
        let certificate =
            Certificate::from_der(&der).with_context(|| path.display().to_string())?;
        signers.push(Arc::new(certificate));
    }
    Ok(signers)
}

/// Converts hexadecimal digits, with optional `:` and leading `0x`, to the contents of an INTEGER.
fn read_serial(text: &str) -> anyhow::Result<Vec<u8>> {
    let plain = text.trim_start_matches("0x").replace(':', "");
    let digits: Option<Vec<u32>> = plain.chars().map(|c| c.to_digit(16)).collect();
    let Some(digits) = digits.filter(|digits| !digits.is_empty() && digits.len() <= 256) else {
        bail!("--serial: `{text}` is not a hexadecimal number");
    };
    // Zeros in front complete the first byte and may be the sign byte.  Superfluous ones are
    // removed.
    let zeros = vec![0; 2 + digits.len() % 2];
    let digits: Vec<u32> = zeros.into_iter().chain(digits).collect();
    let mut bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |n, &digit| n << 4 | digit as u8))
        .collect();
    let leading = bytes.iter().take_while(|&&byte| byte == 0).count().min(bytes.len() - 1);
    // Minimal and not negative: a zero byte precedes a set top bit.
    let keep_zero = leading > 0 && bytes[leading] & 0x80 != 0;
    Ok(bytes.split_off(leading - usize::from(keep_zero)))
}

fn show(list: &RevocationList) {
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    println!("issuer:       {}", Cleaned(&list.issuer));
    match list.kind {
        Kind::Complete => println!("kind:         complete, v{}", list.version),
        Kind::Delta { base } => println!("kind:         delta to number {base}"),
    }
    println!("number:       {}", or_none(list.number.map(|number| number.to_string())));
    println!("this update:  {}", list.this_update);
    println!("next update:  {}", or_none(list.next_update.map(|at| at.to_string())));
    if let Some(at) = list.next_publish {
        println!("next publish: {at}");
    }
    if let Some(scope) = &list.scope {
        let only = match scope.only {
            OnlyContains::All => "all certificates",
            OnlyContains::User => "end-entity certificates only",
            OnlyContains::Authority => "authorities' certificates only",
            OnlyContains::Attribute => "attribute certificates only",
        };
        let indirect = if scope.indirect { ", indirect" } else { "" };
        let reasons = scope.reasons.map(|reasons| format!(", only for {reasons}"));
        let reasons = reasons.unwrap_or_default();
        println!("scope:        {only}{reasons}{indirect}");
        for name in scope.names.iter().flatten() {
            println!("              at {}", Cleaned(&general_name(name)));
        }
    }
    println!(
        "entries:      {} in {} bytes; {} bytes in memory",
        list.entries(),
        list.bytes,
        list.resident_bytes()
    );
}

/// Reasons why the list is not usable, except its signature.
fn faults(list: &RevocationList, now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    if list.this_update > now {
        faults.push(format!("thisUpdate is in the future (now: {now})"));
    }
    match list.next_update {
        None => faults.push("no nextUpdate, so the list is never fresh".to_owned()),
        Some(at) if at < now => {
            faults.push(format!("stale: nextUpdate was {} ago", span(now.since(at))));
        }
        Some(_) => {}
    }
    faults
}

/// Prints the entries of the serial number.  Returns true if there is one.
fn show_serial(list: &RevocationList, serial: &[u8]) -> bool {
    let mut listed = false;
    let hex: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    for issuer in list.certificate_issuers() {
        if let Some(reason) = list.listed(issuer, serial) {
            println!("serial {hex}: {reason}, certificate of `{}`", Cleaned(issuer));
            listed = true;
        }
    }
    if !listed {
        println!("serial {hex}: not listed");
    }
    listed
}

/// Prints the status of one address of a running gateway.
pub(super) fn show_status(status: &Value, now: Timestamp) {
    println!("{}", text(&status["address"]));
    match &status["list"] {
        Value::Null => println!("  no list"),
        list => show_in_force(list, now),
    }
    if status["unused"].is_string() {
        println!("  not combined with a complete list: {}", text(&status["unused"]));
    }
    for policy in status["policies"].as_array().into_iter().flatten() {
        let delta = if policy["requireDelta"] == json!(true) { ", with a fresh delta" } else { "" };
        println!(
            "  {} for {}, grace {} s{delta}",
            text(&policy["mode"]),
            text(&policy["authority"]),
            policy["graceSeconds"]
        );
    }
    let from_disk = status["fromDisk"] == json!(true);
    let fetched = if from_disk { "from disk, fetched" } else { "fetched" };
    println!("  {fetched} {}, next fetch {}", text(&status["fetched"]), text(&status["nextFetch"]));
    if !status["list"].is_null() && status["kept"] == json!(false) {
        println!("  no copy on disk");
    }
    let error = &status["lastError"];
    if error.is_object() {
        println!("  failed {}: {}", text(&error["at"]), text(&error["error"]));
    }
}

fn show_in_force(list: &Value, now: Timestamp) {
    let base = &list["baseNumber"];
    let base = if base.is_string() { format!(" to {}", text(base)) } else { String::new() };
    println!(
        "  {} of {}: number {}{base}, {} entries, {} bytes ({} in memory)",
        text(&list["kind"]),
        text(&list["issuer"]),
        text(&list["number"]),
        list["entries"],
        list["bytes"],
        list["residentBytes"]
    );
    let at = |value: &Value| value.as_str().and_then(Timestamp::parse_rfc3339);
    let age = at(&list["thisUpdate"]).map(|at| span(now.since(at))).unwrap_or_default();
    let end = match at(&list["nextUpdate"]) {
        None => "never due".to_owned(),
        Some(end) if end < now => format!("stale since {end}, {}", span(now.since(end))),
        Some(end) => format!("due {end}, in {}", span(end.since(now))),
    };
    println!("  issued {}, {age} ago; {end}", text(&list["thisUpdate"]));
    if let Some(encodings) = list["tolerated"].as_array() {
        let encodings: Vec<_> = encodings.iter().map(text).collect();
        println!("  tolerated encodings: {}", encodings.join(", "));
    }
}

/// A duration in one unit, with at least two significant units of it.
fn general_name(name: &GeneralName) -> String {
    match name {
        GeneralName::Directory(name) => name.to_string(),
        GeneralName::Uri(text) | GeneralName::Dns(text) | GeneralName::Email(text) => {
            String::from_utf8_lossy(text).into_owned()
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_duration_is_printed_in_one_unit() {
        for (seconds, expected) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_199, "119 min"),
            (7_200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn a_serial_number_is_read_in_common_notations() {
        for (text, want) in [
            ("0", &[0][..]),
            ("5", &[5]),
            ("0x05", &[5]),
            ("00:05", &[5]),
            ("80", &[0, 0x80]),
            ("0080", &[0, 0x80]),
            ("7f", &[0x7f]),
            ("123", &[1, 0x23]),
            ("f123", &[0, 0xf1, 0x23]),
            ("fed", &[0x0f, 0xed]),
        ] {
            assert_eq!(read_serial(text).expect(text), want, "{text}");
        }
        for bad in ["", "0x", "xyz", "1 2", "-1"] {
            assert!(read_serial(bad).is_err(), "{bad}");
        }
    }
}
