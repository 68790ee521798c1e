//! Asks the running gateway to judge a chain under what it has in force.

use std::process::ExitCode;

use anyhow::Context;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::block_on;
use crate::cli::verify::request::read;
use crate::cli::verify::{Args, UNUSABLE};

/// Bytes of a chain's PEM.
const MAX_CHAIN: u64 = 1024 * 1024;

/// Asks and tells.
pub(super) fn run(args: &Args) -> ExitCode {
    let asked = args
        .chain
        .as_ref()
        .context("--chain is missing")
        .and_then(|file| read(file, MAX_CHAIN).map_err(anyhow::Error::msg))
        .and_then(|chain| String::from_utf8(chain).context("the chain is no PEM"));
    let chain = match asked {
        Ok(chain) => chain,
        Err(error) => return unusable(&error),
    };
    let body = json!({ "chainPem": chain, "at": args.at });
    block_on(async move {
        match args.gateway.ask(Method::POST, "verify", Some(body)).await {
            Ok(told) => tell(args, &told),
            Err(error) => unusable(&error),
        }
    })
}

fn tell(args: &Args, told: &Value) -> ExitCode {
    if args.json {
        println!("{:#}", told["answer"]);
    } else {
        print!("{}", told["text"].as_str().unwrap_or_default());
        println!("judged under generation {} of the running gateway", told["generation"]);
    }
    if told["accept"] == json!(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn unusable(error: &anyhow::Error) -> ExitCode {
    eprintln!("anchorgate verify: {error:#}");
    UNUSABLE.into()
}
