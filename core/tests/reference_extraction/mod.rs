//! The documented extraction once more, over `serde_json`, without a thought for speed.

use std::fmt;

use p3sched::{Prompt, Request};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

/// Whether `serde_json` accepts a body; nothing when it could not say because a number is too large for it.
pub(crate) fn is_json(body: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Value>(body) {
        Ok(_) => Some(true),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(_) => Some(false),
    }
}

/// The request in a body, or nothing inside when it has to be refused; nothing at all when the reference cannot say.
pub(crate) fn reference(path: &str, body: &[u8]) -> Option<Option<Request>> {
    Some(if is_json(body)? { extract(path, str::from_utf8(body).unwrap()) } else { None })
}

fn extract(path: &str, body: &str) -> Option<Request> {
    if kind(body) != '{' {
        return None;
    }
    let members = members(body);
    let text = |key: &str| {
        last(&members, &[key]).filter(|raw| kind(raw) == '"').map(string).filter(|text| !text.is_empty())
    };
    let mut request = Request::from_text("", "");
    match last(&members, &["model"]).map(|raw| (kind(raw), raw)) {
        Some(('"', raw)) => request.model = string(raw),
        // Earlier ones are checked as well, hence all below.
        Some(('n', _)) | None if path.ends_with("/generate") => {}
        _ => return None,
    }
    if members.iter().any(|(key, raw)| key == "model" && !matches!(kind(raw), '"' | 'n')) {
        return None;
    }
    request.stream = last(&members, &["stream"]) == Some("true");
    request.cache_salt = text("cache_salt");
    request.session = text("prompt_cache_key").or(text("user"));
    let all = |keys: &[&str]| {
        members.iter().filter(|(key, raw)| keys.contains(&key.as_str()) && kind(raw) != 'n').count() > 0
    };
    let get = |keys: &[&str]| last(&members, keys).filter(|raw| kind(raw) != 'n');

    let mut bytes = Vec::new();
    let is_conversation = ["chat/completions", "responses", "messages"].iter().any(|end| path.ends_with(end));
    if let Some(tools) = get(&["tools"]).map(compact).filter(|tools| is_conversation && tools != b"[]") {
        bytes.extend([&[0xFA], &tools[..]].concat());
    }
    let system = match path {
        "/v1/messages" => get(&["system"]),
        "/v1/responses" => get(&["instructions"]),
        _ => None,
    };
    if let Some(system) = system {
        bytes.extend([b"\xFFsystem\xFE", &content(system)[..]].concat());
    }
    let mut found = None;
    if matches!(path, "/v1/chat/completions" | "/v1/messages" | "/v1/embeddings") {
        if members.iter().any(|(key, raw)| key == "messages" && !matches!(kind(raw), '[' | 'n')) {
            return None;
        }
        found = get(&["messages"]).inspect(|raw| bytes.extend(elements(raw).into_iter().flat_map(message)));
    }
    if path == "/v1/responses" {
        found = get(&["input"]).inspect(|raw| match kind(raw) {
            '[' => bytes.extend(elements(raw).into_iter().flat_map(message)),
            _ => bytes.extend([b"\xFFuser\xFE", &content(raw)[..]].concat()),
        });
    }
    let prompt_keys: &[&str] = match path {
        "/v1/completions" => &["prompt"],
        "/v1/embeddings" => &["input"],
        "/inference/v1/generate" => &["token_ids"],
        "/generate" => &["text", "input_ids"],
        _ => &[],
    };
    // Earlier ones are checked as well.
    for (_, raw) in members.iter().filter(|(key, _)| prompt_keys.contains(&key.as_str())) {
        prompt(raw)?;
    }
    let mut tokens = Vec::new();
    let written =
        members.iter().rev().find(|(key, raw)| prompt_keys.contains(&key.as_str()) && kind(raw) != 'n');
    // Where two keys hold the prompt, `null` under one says nothing of the other.
    let prompt_value = if path == "/generate" { written.map(|(_, raw)| *raw) } else { get(prompt_keys) };
    if let Some(raw) = prompt_value {
        let (text, ids) = prompt(raw)?;
        (tokens, found) = (ids, Some(raw));
        bytes.extend(text);
    }
    if path == "/v1/completions" && all(&["prompt_embeds"]) {
        found = get(&["prompt_embeds"]).inspect(|raw| bytes.extend(hash(&compact(raw)))).or(found);
    }
    if found.is_none() && path != "/generate" {
        return None;
    }
    request.prompt = if tokens.is_empty() { Prompt::Bytes(bytes) } else { Prompt::Tokens(tokens) };
    Some(request)
}

/// Text and token ids of a prompt; nothing when it holds both or what is no token id.
fn prompt(raw: &str) -> Option<(Vec<u8>, Vec<u32>)> {
    let token = |raw: &str| raw.parse::<u32>().ok();
    match kind(raw) {
        'n' => return Some((Vec::new(), Vec::new())),
        '[' => {}
        _ => return Some((text_or_compact(raw), Vec::new())),
    }
    let (mut text, mut tokens, mut has_text) = (Vec::new(), Vec::new(), false);
    for (index, element) in elements(raw).into_iter().enumerate() {
        match kind(element) {
            '0' => tokens.push(token(element)?),
            '[' => {
                if index > 0 {
                    tokens.push(u32::MAX);
                }
                for element in elements(element) {
                    tokens.push(token(element)?);
                }
            }
            _ => {
                has_text = true;
                if index > 0 {
                    text.push(0xFD);
                }
                text.extend(text_or_compact(element));
            }
        }
        if has_text && !tokens.is_empty() {
            return None;
        }
    }
    Some((text, tokens))
}

fn message(raw: &str) -> Vec<u8> {
    if kind(raw) != '{' {
        return [&[0xFF], &compact(raw)[..]].concat();
    }
    let members = members(raw);
    let get = |key: &str| last(&members, &[key]).filter(|raw| kind(raw) != 'n');
    let calls = |key: &str| get(key).map(compact).filter(|calls| calls != b"[]");
    let (role, text, output) = (get("role"), get("content"), get("output"));
    let (tool_calls, function_call) = (calls("tool_calls"), calls("function_call"));
    if role.is_none() && text.is_none() && output.is_none() && tool_calls.is_none() && function_call.is_none()
    {
        return [&[0xFF], &other(raw)[..]].concat();
    }
    let mut bytes = vec![0xFF];
    bytes.extend(role.map(text_or_compact).unwrap_or_default());
    bytes.push(0xFE);
    bytes.extend(text.map(content).unwrap_or_default());
    for field in [output.map(content), tool_calls, function_call].into_iter().flatten() {
        bytes.extend([&[0xFE], &field[..]].concat());
    }
    bytes
}

fn content(raw: &str) -> Vec<u8> {
    match kind(raw) {
        '[' => elements(raw).into_iter().map(part).collect::<Vec<_>>().join(&0xFD),
        'n' => Vec::new(),
        _ => part(raw),
    }
}

fn part(raw: &str) -> Vec<u8> {
    if kind(raw) != '{' {
        return text_or_compact(raw);
    }
    let members = members(raw);
    if let Some(inner) = last(&members, &["content"]) {
        return content(inner);
    }
    match (last(&members, &["text"]), type_of(&members).as_deref()) {
        (Some("null"), None | Some("text" | "input_text" | "output_text")) => Vec::new(),
        (Some(text), None | Some("text" | "input_text" | "output_text")) => text_or_compact(text),
        _ => other(raw),
    }
}

fn other(raw: &str) -> Vec<u8> {
    match type_of(&members(raw)) {
        Some(kind) if kind.ends_with("call") || kind.ends_with("tool_use") => compact(raw),
        _ => hash(&compact(raw)),
    }
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    [&[0xFB], &xxh3_64(bytes).to_le_bytes()[..]].concat()
}

fn type_of(members: &[(String, &str)]) -> Option<String> {
    last(members, &["type"]).filter(|raw| kind(raw) == '"').map(string)
}

fn text_or_compact(raw: &str) -> Vec<u8> {
    if kind(raw) == '"' { string(raw).into_bytes() } else { compact(raw) }
}

fn compact(raw: &str) -> Vec<u8> {
    let quoted = |text: &str| [&[0xFC], text.as_bytes(), &[0xFC]].concat();
    let join =
        |open: u8, items: Vec<Vec<u8>>, close: u8| [&[open], &items.join(&b',')[..], &[close]].concat();
    match kind(raw) {
        '"' => quoted(&string(raw)),
        '[' => join(b'[', elements(raw).into_iter().map(compact).collect(), b']'),
        '{' => {
            let member = |(key, value): (String, &str)| [&quoted(&key)[..], b":", &compact(value)].concat();
            join(b'{', members(raw).into_iter().map(member).collect(), b'}')
        }
        _ => raw.as_bytes().to_vec(),
    }
}

/// First character of a value; `0` for every number.
fn kind(raw: &str) -> char {
    match raw.trim_start().chars().next().unwrap() {
        '-' | '0'..='9' => '0',
        other => other,
    }
}

fn string(raw: &str) -> String {
    serde_json::from_str(raw).unwrap()
}

fn last<'a>(members: &[(String, &'a str)], keys: &[&str]) -> Option<&'a str> {
    members.iter().rev().find(|(key, _)| keys.contains(&key.as_str())).map(|(_, value)| *value)
}

fn elements(raw: &str) -> Vec<&str> {
    serde_json::from_str::<Vec<&RawValue>>(raw).unwrap().into_iter().map(RawValue::get).collect()
}

fn members(raw: &str) -> Vec<(String, &str)> {
    serde_json::from_str::<Members<'_>>(raw).unwrap().0
}

/// All members of an object in their order, repeated ones too.
struct Members<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((key, value.get()));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}
