//! Incremental decoder of the `X509 CRL` block of a PEM text.
//!
//! A text with two such blocks is rejected, because the entries of the second one would be missed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &[u8] = b"-----BEGIN X509 CRL-----";
const END: &[u8] = b"-----END X509 CRL-----";
/// Longest accepted line before the end of the block, in bytes.  Real ones are far shorter.
const MAX_LINE: usize = 64 * 1024;

/// Line-by-line decoder.
#[derive(Default)]
pub(super) struct Decoder {
    state: State,
    line: Vec<u8>,
    /// Base64 digits that do not yet make a group of four.
    digits: Vec<u8>,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Before,
    Inside,
    After,
}

impl Decoder {
    /// Decodes more text and appends the result to `out`.
    pub(super) fn feed(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        for piece in text.split_inclusive(|&b| b == b'\n') {
            if self.line.len() + piece.len() > MAX_LINE {
                if self.state == State::After {
                    // A line of this length cannot begin another block.
                    self.line.clear();
                    continue;
                }
                return Err("a line is longer than 65536 characters");
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end_line(out)?;
            }
        }
        Ok(())
    }

    /// Decodes the last line, which may lack its line break.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        self.end_line(out)?;
        match self.state {
            State::Before => Err("no `BEGIN X509 CRL` line"),
            State::Inside => Err("no `END X509 CRL` line"),
            State::After => Ok(()),
        }
    }

    fn end_line(&mut self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        // Some editors put a byte order mark at the start of a text.
        let line = self.line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.line).trim_ascii();
        match self.state {
            State::Before if line == BEGIN => self.state = State::Inside,
            State::Inside if line == END => {
                if !self.digits.is_empty() {
                    return Err("base64 digits are not a multiple of four");
                }
                self.state = State::After;
            }
            State::Inside => {
                self.digits.extend(line.iter().filter(|b| !b.is_ascii_whitespace()));
                let whole = self.digits.len() / 4 * 4;
                let rest = self.digits.split_off(whole);
                let decoded = STANDARD.decode(&self.digits).map_err(|_| "not base64")?;
                out.extend_from_slice(&decoded);
                self.digits = rest;
            }
            State::After if line == BEGIN => return Err("more than one `BEGIN X509 CRL` line"),
            State::Before | State::After => {}
        }
        self.line.clear();
        Ok(())
    }
}
