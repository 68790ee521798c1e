//! `anchorgate directory device import`: a fleet from a file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tokio::task::JoinSet;

use crate::cli::directory::devices::Maker;
use crate::graph::client::FetchError;

/// Times that a device is tried again when the directory does not answer or puts it off.
const TRIES: u32 = 6;
/// Pauses between them grow from this to [`LONGEST`], where the directory does not say.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// How often it is told how far it has come.
const TELL: Duration = Duration::from_secs(5);
/// Bytes of a line: no externalDeviceId has more.
const MAX_LINE: u64 = 4096;

/// What has come of a device.
enum Done {
    Made,
    Was,
    Failed(String),
    /// Nothing more is to be tried: the same would come of all.
    Stop(anyhow::Error),
}

#[derive(Default)]
struct Tally {
    made: u64,
    were: u64,
    failed: u64,
}

/// Registers the devices of a file, many at once.
pub(super) async fn import(
    maker: Arc<Maker>,
    file: &Path,
    parallel: usize,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let mut input: Box<dyn BufRead> = match file.to_str() {
        Some("-") => Box::new(BufReader::new(stdin())),
        _ => {
            Box::new(BufReader::new(File::open(file).with_context(|| file.display().to_string())?))
        }
    };
    let (mut tally, mut told) = (Tally::default(), Instant::now());
    let mut under_way = JoinSet::new();
    let (mut number, mut more) = (0u64, true);
    while more || !under_way.is_empty() {
        if more && under_way.len() < parallel {
            number += 1;
            match next_line(&mut *input).with_context(|| format!("line {number}"))? {
                None => more = false,
                Some(name) if name.is_empty() => {}
                Some(name) => {
                    let maker = Arc::clone(&maker);
                    under_way.spawn(async move { (number, one(&maker, &name).await, name) });
                }
            }
            continue;
        }
        let Some(ended) = under_way.join_next().await else { continue };
        let (line, done, name) = ended?;
        match done {
            Done::Made => tally.made += 1,
            Done::Was => {
                tally.were += 1;
                eprintln!("line {line}: `{name}` is registered already");
            }
            Done::Failed(why) => {
                tally.failed += 1;
                eprintln!("line {line}: `{name}`: {why}");
            }
            Done::Stop(why) => return Err(why.context(format!("line {line}"))),
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            eprintln!("{}", tally.text());
        }
    }
    if as_json {
        let Tally { made, were, failed } = tally;
        println!("{}", json!({"made": made, "registeredAlready": were, "failed": failed}));
    } else {
        println!("{}", tally.text());
    }
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Tally {
    fn text(&self) -> String {
        let Self { made, were, failed } = self;
        format!("{made} made, {were} registered already, {failed} failed")
    }
}

/// The next line without its end, cut where it is longer than any name.
fn next_line(input: &mut dyn BufRead) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    if input.take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let too_long = line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n');
    let text = String::from_utf8(line).ok().filter(|_| !too_long);
    let bad = || {
        let why = format!("it is not UTF-8, or longer than {MAX_LINE} bytes");
        std::io::Error::new(std::io::ErrorKind::InvalidData, why)
    };
    let text = text.ok_or_else(bad)?;
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// One device.  It is safe to try again: what was made by a try whose answer was lost is there then.
async fn one(maker: &Maker, name: &str) -> Done {
    if let Err(why) = maker.check(name) {
        return Done::Failed(format!("{why:#}"));
    }
    let mut pause = PAUSE;
    for tries in 1.. {
        let error = match maker.send(name).await {
            Ok(_) => return Done::Made,
            Err(error) => error,
        };
        let wait = error.retry_after().unwrap_or(pause);
        let again = match &error {
            FetchError::Transport(_) => true,
            FetchError::Status { status: 400 | 409, .. } => {
                return match maker.is_there(name).await {
                    Ok(true) => Done::Was,
                    Ok(false) => Done::Failed(error.to_string()),
                    Err(why) => Done::Failed(format!("{error}; and {why:#}")),
                };
            }
            FetchError::Status { status: 401 | 403 | 404, .. } | FetchError::Auth(_) => {
                return Done::Stop(error.into());
            }
            FetchError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        };
        if !again || tries >= TRIES || wait > LONGEST {
            return Done::Failed(error.to_string());
        }
        tokio::time::sleep(wait).await;
        pause = LONGEST.min(pause * 2);
    }
    Done::Failed("it was not tried".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(bytes: &[u8]) -> Result<Vec<String>, String> {
        let mut input = BufReader::new(bytes);
        let mut out = Vec::new();
        while let Some(line) = next_line(&mut input).map_err(|error| error.to_string())? {
            out.push(line);
        }
        Ok(out)
    }

    #[test]
    fn lines_end_as_they_may_and_are_not_too_long() {
        assert_eq!(lines(b"a\r\n\nb\n c "), Ok(["a", "", "b", " c "].map(Into::into).to_vec()));
        let longest = "x".repeat(MAX_LINE as usize - 1);
        assert_eq!(lines(longest.as_bytes()), Ok(vec![longest.clone()]));
        assert_eq!(lines(format!("{longest}\n").as_bytes()), Ok(vec![longest.clone()]));
        assert!(lines(format!("{longest}x").as_bytes()).is_err_and(|why| why.contains("4096")));
        assert!(lines(b"\xff\n").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_by_line_is_read_by_line(written in prop::collection::vec("[^\\r\\n]{1,40}", 0..9)) {
            prop_assert_eq!(lines(written.join("\n").as_bytes()), Ok(written));
        }
    }
}
