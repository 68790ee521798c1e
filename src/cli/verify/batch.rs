//! `verify --batch`: one request per line, one decision per line, in order and at once.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::terminal::json_text;
use crate::cli::verify::request::Request;
use crate::trust::path::signature::SignatureMemo;

/// Limit in bytes on a line: two lists of the largest size, in base64.
const MAX_LINE: u64 = 192 << 20;

/// Judges each line until the input ends or the reader of the output has gone.
pub(super) fn run(mut input: impl BufRead, mut output: impl Write) -> ExitCode {
    let signatures = Arc::new(SignatureMemo::default());
    let mut line = Vec::new();
    loop {
        line.clear();
        let answer = match next_line(&mut input, &mut line, MAX_LINE) {
            Ok(Line::End) => return ExitCode::SUCCESS,
            Ok(Line::TooLong) => {
                error(&Value::Null, &format!("the line has more than {MAX_LINE} bytes"))
            }
            Ok(Line::Read) if line.trim_ascii().is_empty() => continue,
            Ok(Line::Read) => answer(&line, &signatures),
            Err(failure) => {
                eprintln!("anchorgate verify: {failure}");
                return ExitCode::FAILURE;
            }
        };
        if writeln!(output, "{}", json_text(&answer.to_string()))
            .and_then(|()| output.flush())
            .is_err()
        {
            return ExitCode::FAILURE;
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Read,
    TooLong,
    End,
}

/// Reads one line.  A line that is too long is skipped up to its end.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>, max: u64) -> io::Result<Line> {
    if input.by_ref().take(max).read_until(b'\n', line)? == 0 {
        return Ok(Line::End);
    }
    if line.ends_with(b"\n") || (line.len() as u64) < max {
        return Ok(Line::Read);
    }
    line.clear();
    line.shrink_to(0);
    loop {
        let buffer = input.fill_buf()?;
        let Some(end) = buffer.iter().position(|&b| b == b'\n') else {
            let length = buffer.len();
            if length == 0 {
                return Ok(Line::TooLong);
            }
            input.consume(length);
            continue;
        };
        input.consume(end + 1);
        return Ok(Line::TooLong);
    }
}

fn answer(line: &[u8], signatures: &Arc<SignatureMemo>) -> Value {
    let mut request: Value = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(why) => return error(&Value::Null, &format!("not JSON: {why}")),
    };
    let id = request.get_mut("id").map_or(Value::Null, Value::take);
    let judged = Request::from_json(request)
        .and_then(|request| request.judge(Some(Arc::clone(signatures)), false));
    match judged {
        Ok(answer) => answer.to_json(Some(&id)),
        Err(why) => error(&id, &why),
    }
}

fn error(id: &Value, detail: &str) -> Value {
    json!({"id": id, "decision": "error", "detail": detail})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_skipped_completely() {
        let mut input =
            io::BufReader::with_capacity(3, &b"0123\n01234567\n0123456789abc\nlast"[..]);
        let mut line = Vec::new();
        let mut next = |line: &mut Vec<u8>| {
            line.clear();
            let read = next_line(&mut input, line, 8).expect("no failure");
            (read, String::from_utf8_lossy(line).into_owned())
        };
        assert_eq!(next(&mut line), (Line::Read, "0123\n".into()));
        assert_eq!(next(&mut line), (Line::TooLong, String::new()));
        assert_eq!(next(&mut line), (Line::TooLong, String::new()));
        assert_eq!(next(&mut line), (Line::Read, "last".into()));
        assert_eq!(next(&mut line), (Line::End, String::new()));
    }

    #[test]
    fn every_line_has_a_decision() {
        let mut output = Vec::new();
        run(&b"{\"id\":1}\n\n[]\n\xff\n"[..], &mut output);
        let text = String::from_utf8(output).expect("UTF-8");
        let ids: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].clone())
            .collect();
        assert_eq!(ids, [json!(1), Value::Null, Value::Null]);
        assert_eq!(text.matches("\"decision\":\"error\"").count(), 3);
    }
}
