//! A chain of hashes over the lines of a sink.
//!
//! # Design notes
//! Each line has the SHA-256 of the whole line before it in `previous`, so that a line that is changed,
//! removed, added or moved is found.  The chain has no key: an attacker who can write the file can compute
//! a new chain, and can cut its end.  Both are found if the hash of a later line is kept elsewhere.

use std::fmt;
use std::io::{self, BufRead};

use serde_json::Value;

use crate::x509::certificate::Fingerprint;

/// Name of the field.
const FIELD: &str = "previous";
/// Longest line in bytes.
const MAX_LINE: usize = 64 * 1024;

/// Adds the hash of each line to the next one.
pub(super) struct Chain {
    last: Fingerprint,
}

impl Chain {
    /// A chain that continues after the line `last`, without its end.
    pub(super) fn after(last: Option<&[u8]>) -> Self {
        Self { last: last.map_or(Fingerprint([0; 32]), Fingerprint::of) }
    }

    /// Adds the hash to a line, which is a JSON object and has its end.
    pub(super) fn add(&mut self, line: &[u8]) -> Vec<u8> {
        let object = line.strip_suffix(b"}\n").unwrap_or(line);
        let mut out = object.to_vec();
        out.extend_from_slice(format!(",\"{FIELD}\":\"{}\"}}", self.last).as_bytes());
        self.last = Fingerprint::of(&out);
        out.push(b'\n');
        out
    }
}

/// A fault of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Number of the line, from 1.
    pub line: u64,
    /// Description.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

/// The first and the last hash of a sequence of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chained {
    /// Number of lines.
    pub lines: u64,
    /// Hash of the line before the first one; all zeros at the start of a chain.
    pub before: String,
    /// Hash of the last line.
    pub last: String,
}

/// The result of reading one or several files, in the order in which they were written.
#[derive(Debug, Default)]
pub struct Verification {
    before: Option<String>,
    last: Option<String>,
    lines: u64,
}

impl Verification {
    /// Verifies the lines of one file.
    ///
    /// # Errors
    /// The file cannot be read, or the chain has a fault.
    pub fn read(&mut self, mut file: impl BufRead) -> io::Result<Result<(), Fault>> {
        let mut number = 0;
        loop {
            let mut line = Vec::new();
            let read = (&mut file).take_line(&mut line)?;
            if read == 0 {
                return Ok(Ok(()));
            }
            number += 1;
            if let Err(problem) = self.add(&line) {
                return Ok(Err(Fault { line: number, problem }));
            }
        }
    }

    /// Returns the ends of the chain; `None` if no line was read.
    pub fn finish(self) -> Option<Chained> {
        Some(Chained { lines: self.lines, before: self.before?, last: self.last? })
    }

    fn add(&mut self, line: &[u8]) -> Result<(), String> {
        let line = line.strip_suffix(b"\n").ok_or_else(|| {
            format!("it has no end, or more than {MAX_LINE} bytes: its writing was interrupted")
        })?;
        let record: Value = serde_json::from_slice(line)
            .map_err(|error| format!("it is not one JSON object: {error}"))?;
        let previous =
            record[FIELD].as_str().ok_or_else(|| format!("it has no field `{FIELD}`"))?;
        match &self.last {
            Some(last) if last != previous => {
                return Err(format!(
                    "`{FIELD}` is {previous}, and the hash of the line before it is {last}: a line \
                     was changed, removed, added or moved"
                ));
            }
            Some(_) => {}
            None => self.before = Some(previous.to_owned()),
        }
        self.last = Some(Fingerprint::of(line).to_string());
        self.lines += 1;
        Ok(())
    }
}

/// Reads one line with its end, of a bounded length.
trait TakeLine {
    fn take_line(self, line: &mut Vec<u8>) -> io::Result<usize>;
}

impl<R: BufRead> TakeLine for &mut R {
    fn take_line(self, line: &mut Vec<u8>) -> io::Result<usize> {
        io::Read::take(self, MAX_LINE as u64).read_until(b'\n', line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chained(records: usize) -> Vec<Vec<u8>> {
        let mut chain = Chain::after(None);
        (0..records).map(|n| chain.add(format!("{{\"n\":{n}}}\n").as_bytes())).collect()
    }

    fn verify(lines: &[Vec<u8>]) -> Result<Chained, Fault> {
        let mut verification = Verification::default();
        verification.read(&lines.concat()[..]).expect("read")?;
        Ok(verification.finish().expect("lines"))
    }

    #[test]
    fn a_chain_is_verified_across_files() {
        let lines = chained(5);
        let whole = verify(&lines).expect("a chain");
        assert_eq!((whole.lines, &*whole.before), (5, &*"00".repeat(32)));
        let mut parts = Verification::default();
        parts.read(&lines[..2].concat()[..]).expect("read").expect("a chain");
        parts.read(&lines[2..].concat()[..]).expect("read").expect("a chain");
        assert_eq!(parts.finish(), Some(whole));
        assert_eq!(Verification::default().finish(), None);
        let last = lines[4].strip_suffix(b"\n");
        let next = Chain::after(last).add(b"{\"n\":5}\n");
        verify(&[lines, vec![next]].concat()).expect("continues after a restart");
    }

    #[test]
    fn finds_every_change_of_a_line_and_its_place() {
        let lines = chained(5);
        let with = |change: fn(&mut Vec<Vec<u8>>)| {
            let mut lines = lines.clone();
            change(&mut lines);
            verify(&lines).expect_err("a fault").line
        };
        assert_eq!(with(|lines| lines[1][5] = b'7'), 3, "changed");
        assert_eq!(with(|lines| drop(lines.remove(2))), 3, "removed");
        assert_eq!(with(|lines| lines.swap(1, 2)), 2, "moved");
        assert_eq!(with(|lines| lines.insert(3, b"{\"n\":9}\n".to_vec())), 4, "added");
        assert_eq!(with(|lines| lines[4].truncate(9)), 5, "interrupted");
        assert_eq!(with(|lines| lines[2] = vec![b'x'; MAX_LINE + 1]), 3, "too long");
        assert_eq!(with(|lines| lines[0] = b"\n".to_vec()), 1, "empty");
        // A chain without its end is a chain.
        assert_eq!(verify(&lines[..4]).expect("a chain").lines, 4);
    }
}
