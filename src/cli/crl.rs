//! `crl inspect`: what is in a list, and why it would not be used; nothing is fetched or asked.  And
//! how `crl show` tells what is in force.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::x509::certificate::{Certificate, GeneralName};
use crate::x509::crl::{CrlError, Fault, Kind, ListReader, OnlyContains, RevocationList, Unverified};
use crate::x509::time::Timestamp;

/// Bytes of a list that are read here: more than any limit for fetching.
const MAX_LIST: u64 = 4 << 30;
/// Bytes of a file of certificates.
const MAX_SIGNERS: u64 = 16 << 20;

/// Arguments of `crl inspect`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 nothing speaks against the list (with --serial: and it does not \
    name that one); 1 something does."
)]
pub struct InspectArgs {
    /// The list, DER or PEM; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Tell whether the certificate of this serial number (hexadecimal) is listed
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// Verify the signature with a certificate of this PEM file
    #[arg(long, value_name = "CERT.pem")]
    signer: Vec<PathBuf>,
    /// The time to judge freshness at, RFC 3339; now when left out
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

/// `crl inspect`.
///
/// # Errors
/// A file or an argument cannot be read.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let now = match &args.at {
        None => Timestamp::from(std::time::SystemTime::now()),
        Some(text) => Timestamp::parse_rfc3339(text)
            .with_context(|| format!("--at: `{text}` is not a time like 2026-11-21T08:00:00Z"))?,
    };
    let serial = args.serial.as_deref().map(read_serial).transpose()?;
    let mut signers = Vec::new();
    for path in &args.signer {
        signers.extend(read_signers(path)?);
    }

    let (said, verified) = match read_list(&args.file, &signers, now)? {
        Ok(read) => read,
        Err(error) => {
            println!("not usable: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let list = said.list();
    show(list);
    let mut faults = faults(list, now);
    match verified {
        None => println!("signature:    not verified; --signer names who should have signed"),
        Some(Ok(list)) => {
            let signer = list.signers.first().map(|signer| signer.subject.to_string());
            println!("signature:    by `{}`", signer.unwrap_or_default());
        }
        // Of the future is among the faults already.
        Some(Err(error)) if matches!(error.fault, Fault::NotYetValid { .. }) => {}
        Some(Err(error)) => faults.push(error.fault.to_string()),
    }
    for fault in &faults {
        println!("not usable:   {fault}");
    }
    let listed = serial.is_some_and(|serial| show_serial(list, &serial));
    Ok(if faults.is_empty() && !listed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a list says, and whether one of the signers, if there are any, vouches for it.
type Read = (Unverified, Option<Result<RevocationList, CrlError>>);

/// Reads a list once, as standard input can be.
fn read_list(
    path: &Path,
    signers: &[Arc<Certificate>],
    now: Timestamp,
) -> anyhow::Result<Result<Read, CrlError>> {
    let mut source = open(path)?;
    let mut said = ListReader::new(MAX_LIST);
    let mut verifying = (!signers.is_empty()).then(|| ListReader::new(MAX_LIST));
    let mut piece = vec![0; 256 * 1024];
    loop {
        let read = source.read(&mut piece).with_context(|| path.display().to_string())?;
        if read == 0 {
            break;
        }
        for reader in std::iter::once(&mut said).chain(&mut verifying) {
            if let Err(error) = reader.feed(&piece[..read]) {
                return Ok(Err(error));
            }
        }
    }
    let verified = verifying.map(|reader| reader.finish(signers, now));
    Ok(said.finish_unverified().map(|said| (said, verified)))
}

fn open(path: &Path) -> anyhow::Result<Box<dyn std::io::Read>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    Ok(Box::new(file))
}

fn read_signers(path: &Path) -> anyhow::Result<Vec<Arc<Certificate>>> {
    let mut text = Vec::new();
    open(path)?.take(MAX_SIGNERS + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_SIGNERS {
        bail!("{}: more than {MAX_SIGNERS} bytes", path.display());
    }
    let mut signers = Vec::new();
    for der in CertificateDer::pem_slice_iter(&text) {
        let der = der.with_context(|| format!("{}: not PEM", path.display()))?;
        let certificate =
            Certificate::from_der(&der).with_context(|| path.display().to_string())?;
        signers.push(Arc::new(certificate));
    }
    if signers.is_empty() {
        bail!("{}: no certificate", path.display());
    }
    Ok(signers)
}

/// Hexadecimal digits, `:` and a leading `0x` allowed, as INTEGER contents.
fn read_serial(text: &str) -> anyhow::Result<Vec<u8>> {
    let plain = text.trim_start_matches("0x").replace(':', "");
    let digits: Option<Vec<u32>> = plain.chars().map(|c| c.to_digit(16)).collect();
    let Some(digits) = digits.filter(|digits| !digits.is_empty() && digits.len() <= 256) else {
        bail!("--serial: `{text}` is not a hexadecimal number");
    };
    // A zero in front, and one more if the digits are odd: it is dropped again where it says nothing.
    let zeros = vec![0; 2 + digits.len() % 2];
    let digits: Vec<u32> = zeros.into_iter().chain(digits).collect();
    let mut octets: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |n, &digit| n << 4 | digit as u8))
        .collect();
    let leading = octets.iter().take_while(|&&octet| octet == 0).count().min(octets.len() - 1);
    // Minimal, and never negative: a zero goes before a top bit.
    let keep_zero = leading > 0 && octets[leading] & 0x80 != 0;
    Ok(octets.split_off(leading - usize::from(keep_zero)))
}

fn show(list: &RevocationList) {
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    println!("issuer:       {}", list.issuer);
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
            println!("              at {}", general_name(name));
        }
    }
    println!(
        "entries:      {} in {} bytes; {} bytes in memory",
        list.entries(),
        list.bytes,
        list.resident_bytes()
    );
}

/// What keeps the list from being used, its signature aside.
fn faults(list: &RevocationList, now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    if list.this_update > now {
        faults.push(format!("it is of the future: now is {now}"));
    }
    match list.next_update {
        None => faults.push("it has no nextUpdate: it is never fresh".to_owned()),
        Some(at) if at < now => {
            faults.push(format!("it is stale since {} s", now.since(at).as_secs()));
        }
        Some(_) => {}
    }
    faults
}

/// True when the list names the serial.
fn show_serial(list: &RevocationList, serial: &[u8]) -> bool {
    let mut listed = false;
    let hex: String = serial.iter().map(|octet| format!("{octet:02x}")).collect();
    for issuer in list.certificate_issuers() {
        if let Some(reason) = list.listed(issuer, serial) {
            println!("serial {hex}: {reason}, certificate of `{issuer}`");
            listed = true;
        }
    }
    if !listed {
        println!("serial {hex}: not listed");
    }
    listed
}

/// One address of a running gateway, as `crl show` tells it.
pub fn show_status(status: &Value, now: Timestamp) {
    println!("{}", text(&status["address"]));
    match &status["list"] {
        Value::Null => println!("  no list"),
        list => show_in_force(list, now),
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
    println!("  {fetched} {}, next look {}", text(&status["fetched"]), text(&status["nextFetch"]));
    if !status["list"].is_null() && status["kept"] == json!(false) {
        println!("  no copy on disk");
    }
    let error = &status["lastError"];
    if error.is_object() {
        println!("  failed {}: {}", text(&error["at"]), text(&error["error"]));
    }
}

fn show_in_force(list: &Value, now: Timestamp) {
    let base = list["baseNumber"].as_str().map(|base| format!(" to {base}")).unwrap_or_default();
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
}

/// A time in its largest unit that says enough.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// A text, or `-`.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn general_name(name: &GeneralName) -> String {
    match name {
        GeneralName::Directory(name) => name.to_string(),
        GeneralName::Uri(text) | GeneralName::Dns(text) | GeneralName::Email(text) => {
            // Foreign text goes to a terminal.
            String::from_utf8_lossy(text).escape_debug().to_string()
        }
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_one_unit() {
        for (seconds, told) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_199, "119 min"),
            (7_200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), told);
        }
    }

    #[test]
    fn serials_are_read_as_people_write_them() {
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
