//! `anchorgate directory device import`: a fleet from a file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tokio::task::JoinSet;

use crate::cli::directory::devices::{Found, Maker};
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
    from: u64,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let mut input: Box<dyn BufRead> = match file.to_str() {
        Some("-") => Box::new(BufReader::new(stdin())),
        _ => {
            Box::new(BufReader::new(File::open(file).with_context(|| file.display().to_string())?))
        }
    };
    let (mut tally, mut told) = (Tally::default(), Instant::now());
    let (mut under_way, mut lines_under_way) = (JoinSet::new(), BTreeSet::new());
    skip_byte_order_mark(&mut *input).with_context(|| file.display().to_string())?;
    let (mut number, mut more) = (0u64, true);
    while more || !under_way.is_empty() {
        if more && under_way.len() < parallel {
            number += 1;
            match next_line(&mut *input).with_context(|| format!("line {number}"))? {
                None => more = false,
                Some(_) if number < from => {}
                Some(Err(why)) => {
                    tally.failed += 1;
                    eprintln!("line {number}: {why}");
                }
                Some(Ok(name)) if name.is_empty() => {}
                Some(Ok(name)) => {
                    let maker = Arc::clone(&maker);
                    lines_under_way.insert(number);
                    under_way.spawn(async move { (number, one(&maker, &name).await, name) });
                }
            }
            continue;
        }
        let Some(ended) = under_way.join_next().await else { continue };
        let (line, done, name) = ended?;
        if !matches!(done, Done::Stop(_)) {
            lines_under_way.remove(&line);
        }
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
            Done::Stop(why) => {
                // Those under way may be made yet; the next import finds them.
                let first = lines_under_way.first().unwrap_or(&line);
                eprintln!("stopped: {}; `--from {first}` goes on from there", tally.text());
                return Err(why.context(format!("line {line}: `{name}`")));
            }
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            let first = lines_under_way.first().unwrap_or(&number);
            eprintln!("{}; all before line {first} are done", tally.text());
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

/// What spreadsheets put before UTF-8: no part of the first name.
fn skip_byte_order_mark(input: &mut dyn BufRead) -> std::io::Result<()> {
    if input.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
    }
    Ok(())
}

/// The next line without its end; or why it can name nobody.
fn next_line(input: &mut dyn BufRead) -> std::io::Result<Option<Result<String, String>>> {
    let mut line = Vec::new();
    if input.take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n') {
        let mut rest = Vec::new();
        loop {
            rest.clear();
            let read = input.take(MAX_LINE).read_until(b'\n', &mut rest)?;
            if read == 0 || rest.last() == Some(&b'\n') {
                let why = format!("{MAX_LINE} bytes or more; a name has fewer");
                return Ok(Some(Err(why)));
            }
        }
    }
    let text = match String::from_utf8(line) {
        Ok(text) => text,
        Err(_) => return Ok(Some(Err("it is not UTF-8".into()))),
    };
    Ok(Some(Ok(text.trim_end_matches(['\n', '\r']).to_owned())))
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
                return match maker.found(name).await {
                    Ok(Found::Ours) => Done::Was,
                    Ok(Found::Elsewhere(why)) => Done::Failed(why),
                    Ok(Found::Nowhere) => Done::Failed(error.to_string()),
                    Err(why) => Done::Failed(format!("{error}; and {why:#}")),
                };
            }
            FetchError::Status { status: 401 | 403 | 404, .. } | FetchError::Auth(_) => {
                return Done::Stop(error.into());
            }
            FetchError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        };
        if !again {
            return Done::Failed(error.to_string());
        }
        if tries >= TRIES || wait > LONGEST {
            // Every other line would wait as long, and in vain.
            return Done::Stop(error.into());
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

    fn lines(bytes: &[u8]) -> Vec<Result<String, String>> {
        let mut input = BufReader::new(bytes);
        skip_byte_order_mark(&mut input).expect("read");
        let mut out = Vec::new();
        while let Some(line) = next_line(&mut input).expect("read") {
            out.push(line);
        }
        out
    }

    #[test]
    fn a_line_that_can_name_nobody_fails_alone() {
        let good = |text: &str| Ok(text.to_owned());
        assert_eq!(lines(b"a\r\n\nb\n c "), ["a", "", "b", " c "].map(good));
        assert_eq!(lines(b"\xef\xbb\xbfa\n\xef\xbb\xbfb"), ["a", "\u{feff}b"].map(good));
        let longest = "x".repeat(MAX_LINE as usize - 1);
        assert_eq!(lines(longest.as_bytes()), [good(&longest)]);
        assert_eq!(lines(format!("{longest}\nb").as_bytes()), [good(&longest), good("b")]);
        for more in [1, 2, MAX_LINE as usize, 2 * MAX_LINE as usize + 1] {
            let long = "x".repeat(longest.len() + more);
            for (text, after) in [(format!("{long}\nb\n"), vec![good("b")]), (long, vec![])] {
                let read = lines(text.as_bytes());
                assert!(read[0].as_ref().is_err_and(|why| why.contains("4096")), "{more}");
                assert_eq!(read[1..], after, "{more}");
            }
        }
        let read = lines(b"\xff\nb\n");
        assert!(read[0].is_err() && read[1] == good("b"), "{read:?}");
    }

    proptest! {
        #[test]
        fn what_is_written_by_line_is_read_by_line(written in prop::collection::vec("[^\\r\\n]{1,40}", 0..9)) {
            let read: Result<Vec<_>, _> = lines(format!("\u{feff}{}", written.join("\n")).as_bytes()).into_iter().collect();
            prop_assert_eq!(read, Ok(written));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            lines(&bytes);
        }
    }
}
