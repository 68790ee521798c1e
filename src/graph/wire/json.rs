//! Reads JSON with tolerance for its spelling.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

/// Limit on the nesting of JSON.
pub const MAX_JSON_DEPTH: usize = 32;
/// Limit on the characters of an object's `id`.
pub const MAX_ID_LENGTH: usize = 128;

/// A response is not usable as a whole.  No part of it is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The response is not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// The JSON is nested too deeply.
    #[error("JSON nested deeper than {MAX_JSON_DEPTH} levels")]
    Depth,
    /// The JSON is not a response of Graph.
    #[error("not a Graph response: {0}")]
    Shape(String),
}

/// Parses JSON within [`MAX_JSON_DEPTH`].
///
/// # Errors
/// The text is not JSON or is nested too deeply.
pub fn parse(json: &[u8]) -> Result<Value, WireError> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    return Err(WireError::Depth);
                }
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    serde_json::from_slice(json).map_err(|error| WireError::Json(error.to_string()))
}

/// Returns the member `name`.  If it is absent, a member whose name differs only by surrounding blanks
/// is returned, because a published example has one.
pub(crate) fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object
        .get(name)
        .or_else(|| object.iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value))
}

/// Returns `value` as an object.  `what` names it in the error.
pub(super) fn object<'a>(
    value: &'a Value,
    what: &str,
) -> Result<&'a Map<String, Value>, WireError> {
    value.as_object().ok_or_else(|| WireError::Shape(format!("{what} is not an object")))
}

/// Returns the `value` of a list response.
pub(super) fn list(response: &Map<String, Value>) -> Result<&[Value], WireError> {
    match member(response, "value") {
        Some(Value::Array(list)) => Ok(list),
        _ => Err(WireError::Shape("`value` is not a list".into())),
    }
}

/// Returns a link of a list response, such as `@odata.nextLink`.
pub(super) fn link(response: &Map<String, Value>, name: &str) -> Result<Option<String>, WireError> {
    match member(response, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(link)) => Ok(Some(link.clone())),
        Some(other) => Err(WireError::Shape(format!("{name} is {other}"))),
    }
}

/// Returns the `id` of an object.  `what` names the object in the error.
pub(super) fn id<'a>(object: &'a Map<String, Value>, what: &str) -> Result<&'a str, WireError> {
    match member(object, "id").and_then(Value::as_str) {
        Some(id) if is_id(id) => Ok(id),
        Some(_) => {
            let why =
                format!("{what} has an id that is not 1 to {MAX_ID_LENGTH} printable characters");
            Err(WireError::Shape(why))
        }
        None => Err(WireError::Shape(format!("{what} has no id"))),
    }
}

/// True if `id` is acceptable as the `id` of an object.
pub(super) fn is_id(id: &str) -> bool {
    !id.is_empty()
        && id.chars().count() <= MAX_ID_LENGTH
        && !id.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Decodes Edm.Binary: base64 with the standard or the URL-safe alphabet, with or without padding and
/// line breaks.
pub(crate) fn binary(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text: String = text.split_ascii_whitespace().collect();
    let alphabet =
        if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    GeneralPurpose::new(alphabet, LENIENT).decode(text).ok()
}
