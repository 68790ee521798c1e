//! `verify` without a directory: the running gateway judges the chain under its trust in force.

use std::process::ExitCode;

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::block_on;
use crate::cli::input::read_input;
use crate::cli::terminal::{one_line, print_json};
use crate::cli::verify::{Args, UNUSABLE};

/// Limit in bytes on the PEM of a chain.
const MAX_CHAIN: u64 = 1024 * 1024;

/// Sends the chain and prints the decision.
pub(super) fn run(args: &Args) -> ExitCode {
    let chain = args
        .chain
        .as_ref()
        .context("--chain is missing")
        .and_then(|file| Ok(read_input(file, MAX_CHAIN)?))
        .and_then(|chain| String::from_utf8(chain).context("the chain is not PEM"));
    let chain = match chain {
        Ok(chain) => chain,
        Err(error) => return unusable(&error),
    };
    let body = json!({ "chainPem": chain, "at": args.at });
    block_on(async move {
        match args.gateway.request(Method::POST, "verify", Some(body)).await {
            Ok(response) => show(args, &response),
            Err(error) => unusable(&error),
        }
    })
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
    UNUSABLE.into()
}
