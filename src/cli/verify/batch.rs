//! `verify --batch`: one question a line, one answer a line, in order and at once.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::verify::request::Request;
use crate::domain::trust::path::signature::SignatureMemo;

/// Bytes of a line: a list of the largest size, twice, in base64.
const MAX_LINE: u64 = 192 << 20;

/// Answers until the input ends or nobody reads the output.
pub fn run(mut input: impl BufRead, mut output: impl Write) -> ExitCode {
    let signatures = Arc::new(SignatureMemo::default());
    let mut line = Vec::new();
    loop {
        line.clear();
        let answer = match next_line(&mut input, &mut line) {
            Ok(Line::End) => return ExitCode::SUCCESS,
            Ok(Line::TooLong) => error(&Value::Null, &format!("a line above {MAX_LINE} bytes")),
            Ok(Line::Read) if line.trim_ascii().is_empty() => continue,
            Ok(Line::Read) => answer(&line, &signatures),
            Err(failure) => {
                eprintln!("anchorgate verify: {failure}");
                return ExitCode::FAILURE;
            }
        };
        if writeln!(output, "{answer}").and_then(|()| output.flush()).is_err() {
            return ExitCode::FAILURE;
        }
    }
}

enum Line {
    Read,
    TooLong,
    End,
}

/// Reads one line; of one that is too long only the end is looked for.
fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    if input.by_ref().take(MAX_LINE).read_until(b'\n', line)? == 0 {
        return Ok(Line::End);
    }
    if line.ends_with(b"\n") || (line.len() as u64) < MAX_LINE {
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
