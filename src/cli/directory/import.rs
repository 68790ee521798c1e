//! `anchorgate directory device import`: registers the devices of a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tokio::task::JoinSet;

use crate::cli::directory::registration::{Existing, Registration};
use crate::cli::output::Output;
use crate::graph::client::FetchError;
use crate::runtime::text::Cleaned;

/// Attempts for one device while the directory does not respond or asks to wait.
const ATTEMPTS: u32 = 6;
/// First pause between two attempts, unless the directory sends one.  It doubles up to
/// [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Interval between two progress messages.
const PROGRESS: Duration = Duration::from_secs(5);
/// Limit in bytes on a line, above the length of every externalDeviceId.
const MAX_LINE: u64 = 4096;

/// Result for one device.
enum Outcome {
    Created,
    AlreadyRegistered,
    Failed(String),
    /// The same error would occur for all further devices.
    Stop(anyhow::Error),
}

#[derive(Default)]
struct Counts {
    created: u64,
    already_registered: u64,
    failed: u64,
}

impl Counts {
    fn text(&self) -> String {
        let Self { created, already_registered, failed } = self;
        format!("{created} created, {already_registered} already registered, {failed} failed")
    }
}

/// An import in progress.
struct Import {
    counts: Counts,
    /// Lines whose requests have not succeeded or failed yet.
    pending: BTreeSet<u64>,
    /// Messages of lines after the first pending one.
    messages: BTreeMap<u64, String>,
    reported: Instant,
}

/// Registers the devices of a file, with up to `parallel` concurrent requests.
pub(super) async fn import(
    registration: Arc<Registration>,
    file: &Path,
    parallel: usize,
    from: u64,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let mut input: Box<dyn BufRead> = match file.to_str() {
        Some("-") => Box::new(BufReader::new(stdin())),
        _ => {
            Box::new(BufReader::new(File::open(file).with_context(|| file.display().to_string())?))
        }
    };
    skip_byte_order_mark(&mut *input).with_context(|| file.display().to_string())?;
    let mut import = Import {
        counts: Counts::default(),
        pending: BTreeSet::new(),
        messages: BTreeMap::new(),
        reported: Instant::now(),
    };
    let mut requests = JoinSet::new();
    let (mut number, mut more) = (0u64, true);
    while more || !requests.is_empty() {
        if more && requests.len() < parallel {
            number += 1;
            match next_line(&mut *input).with_context(|| format!("line {number}"))? {
                None => more = false,
                Some(_) if number < from => {}
                Some(Err(why)) => {
                    import.counts.failed += 1;
                    import.report(number, Cleaned(&why).to_string());
                }
                Some(Ok(name)) if name.is_empty() => {}
                Some(Ok(name)) => {
                    let registration = Arc::clone(&registration);
                    import.pending.insert(number);
                    requests
                        .spawn(async move { (number, register(&registration, &name).await, name) });
                }
            }
            continue;
        }
        let Some(ended) = requests.join_next().await else { continue };
        let (line, outcome, name) = ended?;
        import.record(line, &name, outcome)?;
        import.report_progress(number);
    }
    let counts = import.counts;
    let Counts { created, already_registered, failed } = counts;
    let result =
        json!({"created": created, "already_registered": already_registered, "failed": failed});
    if !output.print(&result) {
        println!("{}", counts.text());
    }
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Import {
    /// Records the outcome of a line.  Returns an error if the import must stop.
    fn record(&mut self, line: u64, name: &str, outcome: Outcome) -> anyhow::Result<()> {
        match outcome {
            Outcome::Created => self.counts.created += 1,
            Outcome::AlreadyRegistered => {
                self.counts.already_registered += 1;
                self.messages.insert(line, format!("`{}` is already registered", Cleaned(name)));
            }
            Outcome::Failed(why) => {
                self.counts.failed += 1;
                self.messages.insert(line, format!("`{}`: {}", Cleaned(name), Cleaned(&why)));
            }
            Outcome::Stop(why) => {
                self.show_messages(u64::MAX);
                // Pending requests may still succeed.  The next import finds their devices
                // registered.
                let first = self.pending.first().unwrap_or(&line);
                eprintln!("stopped: {}; continue with `--from {first}`", self.counts.text());
                return Err(why.context(format!("line {line}: `{}`", Cleaned(name))));
            }
        }
        self.pending.remove(&line);
        self.show_messages(self.first_pending());
        Ok(())
    }

    /// Reports the problem of a line, in the order of the lines.
    fn report(&mut self, line: u64, why: String) {
        self.messages.insert(line, why);
        self.show_messages(self.first_pending());
    }

    fn first_pending(&self) -> u64 {
        self.pending.first().copied().unwrap_or(u64::MAX)
    }

    /// Shows the messages of the lines before `end`.
    fn show_messages(&mut self, end: u64) {
        let later = self.messages.split_off(&end);
        for (line, message) in std::mem::replace(&mut self.messages, later) {
            eprintln!("line {line}: {message}");
        }
    }

    /// Reports the counts at an interval.  `number` is the last line that was read.
    fn report_progress(&mut self, number: u64) {
        if self.reported.elapsed() >= PROGRESS {
            self.reported = Instant::now();
            let first = self.pending.first().unwrap_or(&number);
            eprintln!("{}; all lines before {first} are done", self.counts.text());
        }
    }
}

/// Skips the mark that spreadsheets write before UTF-8 text.
fn skip_byte_order_mark(input: &mut dyn BufRead) -> std::io::Result<()> {
    if input.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
    }
    Ok(())
}

/// Returns the next line without its line end, or the reason why it cannot be an externalDeviceId.
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
                let why = format!("{MAX_LINE} bytes or more; an externalDeviceId has fewer");
                return Ok(Some(Err(why)));
            }
        }
    }
    let text = match String::from_utf8(line) {
        Ok(text) => text,
        Err(_) => return Ok(Some(Err("not UTF-8".into()))),
    };
    Ok(Some(Ok(text.trim_end_matches(['\n', '\r']).to_owned())))
}

/// Registers one device.  Repeating a request is safe: if the response to the first one was lost,
/// the device is found as registered.
async fn register(registration: &Registration, name: &str) -> Outcome {
    if let Err(why) = registration.check(name) {
        return Outcome::Failed(format!("{why:#}"));
    }
    let mut pause = MIN_PAUSE;
    let mut attempt = 1;
    loop {
        let error = match registration.send(name).await {
            Ok(_) => return Outcome::Created,
            Err(error) => error,
        };
        let is_temporary = match &error {
            FetchError::Transport(_) => true,
            FetchError::Status { status: 400 | 409, .. } => {
                return match registration.find_existing(name).await {
                    Ok(Existing::Same) => Outcome::AlreadyRegistered,
                    Ok(Existing::Other(why)) => Outcome::Failed(why),
                    Ok(Existing::No) => Outcome::Failed(error.to_string()),
                    Err(why) => Outcome::Failed(format!("{error}; and {why:#}")),
                };
            }
            FetchError::Status { status: 401 | 403 | 404, .. } | FetchError::Auth(_) => {
                return Outcome::Stop(error.into());
            }
            FetchError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        };
        if !is_temporary {
            return Outcome::Failed(error.to_string());
        }
        let wait = error.retry_after().unwrap_or(pause);
        if attempt >= ATTEMPTS || wait > MAX_PAUSE {
            // Every further line would wait as long and fail.
            return Outcome::Stop(error.into());
        }
        tokio::time::sleep(wait).await;
        pause = MAX_PAUSE.min(pause * 2);
        attempt += 1;
    }
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
    fn a_line_that_is_not_valid_fails_alone() {
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
        fn lines_are_read_as_written(written in prop::collection::vec("[^\\r\\n]{1,40}", 0..9)) {
            let read: Result<Vec<_>, _> = lines(format!("\u{feff}{}", written.join("\n")).as_bytes()).into_iter().collect();
            prop_assert_eq!(read, Ok(written));
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            lines(&bytes);
        }
    }
}
