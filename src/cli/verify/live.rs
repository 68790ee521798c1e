//! `verify` without a directory: the running gateway judges the chain under its trust in force.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::block_on;
use crate::cli::exit;
use crate::cli::input::read_input;
use crate::cli::terminal::{one_line, print_json};
use crate::cli::verify::Args;
use crate::x509::pem;
use crate::x509::time::Timestamp;

/// Limit in bytes on the file of a chain.
const MAX_CHAIN: u64 = 1024 * 1024;

/// Sends the chain and prints the decision.
pub(super) fn run(args: &Args) -> ExitCode {
    let body = match request(args) {
        Ok(body) => body,
        Err(error) => return unusable(&error),
    };
    block_on(async move {
        match args.gateway.request(Method::POST, "verify", Some(body)).await {
            Ok(response) => show(args, &response),
            Err(error) => unusable(&error),
        }
    })
}

/// The request.  Its parts are checked here, so that a message names the file or the option.
fn request(args: &Args) -> anyhow::Result<Value> {
    let file: &Path = args.chain.as_ref().context("--chain is missing")?;
    let chain = read_input(file, MAX_CHAIN)?;
    let chain = pem::certificates(&chain).with_context(|| file.display().to_string())?;
    if let Some(at) = &args.at {
        Timestamp::parse_rfc3339(at)
            .with_context(|| format!("--at: `{at}` is not a time such as 2026-11-21T08:00:00Z"))?;
    }
    Ok(json!({ "chainPem": to_pem(&chain), "at": args.at }))
}

fn to_pem(chain: &[Vec<u8>]) -> String {
    let section = |der: &Vec<u8>| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    chain.iter().map(section).collect()
}

fn show(args: &Args, response: &Value) -> ExitCode {
    if args.json {
        print_json(&response["answer"]);
    } else {
        print!("{}", response["text"].as_str().unwrap_or_default());
        println!("judged under generation {} of the running gateway", response["generation"]);
    }
    if response["accept"] == json!(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn unusable(error: &anyhow::Error) -> ExitCode {
    eprintln!("anchorgate verify: {}", one_line(error));
    exit::UNUSABLE.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_sent_as_pem_whatever_the_file_was() {
        let chain = vec![b"\x30\x03\x30\x01\x00".to_vec(), vec![0x30; 200]];
        assert_eq!(pem::certificates(to_pem(&chain).as_bytes()).as_ref(), Ok(&chain));
    }
}
