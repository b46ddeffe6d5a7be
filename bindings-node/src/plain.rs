//! Plain data across the boundary: the core's types as JavaScript objects with names in camel case.

use napi::bindgen_prelude::*;
use p3sched::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use crate::error::{self, from_core};
use crate::reason::reason;

/// The integers that every number type of the core can hold as a float without loss.
const SAFE: f64 = 9_007_199_254_740_991.0;

/// Reads one of the core's types, whose fields have names in camel case; `invalid` makes the error of a wrong one.
pub(crate) fn read<T: DeserializeOwned>(value: Value, invalid: fn(String) -> Error) -> error::Result<T> {
    parse(&with_names(with_integers(value), snake_case), invalid, camel_case)
}

/// Reads one of the core's types whose fields have the same names in every language.
pub(crate) fn read_verbatim<T: DeserializeOwned>(
    value: Value,
    invalid: fn(String) -> Error,
) -> error::Result<T> {
    parse(&with_integers(value), invalid, str::to_owned)
}

fn parse<T: DeserializeOwned>(
    value: &Value,
    invalid: fn(String) -> Error,
    renamed: fn(&str) -> String,
) -> error::Result<T> {
    T::deserialize(value).map_err(|error| {
        // Only a reader of text tells how far it came, and with it the field.
        let text = value.to_string();
        let located = serde_json::from_str::<T>(&text).err().unwrap_or(error);
        from_core(invalid(reason(&text, &located, renamed)))
    })
}

/// Writes one of the core's types, with names in camel case.
pub(crate) fn write(data: &impl Serialize) -> error::Result<Value> {
    Ok(with_names(write_verbatim(data)?, camel_case))
}

/// Writes one of the core's types, with the names that it has in every language.
pub(crate) fn write_verbatim(data: &impl Serialize) -> error::Result<Value> {
    // Through text, which writes a 32-bit float as `0.1` and not as the nearest 64-bit one.
    serde_json::to_string(data)
        .and_then(|text| serde_json::from_str(&text))
        .map_err(|error| napi::Error::new(Status::GenericFailure.as_ref().to_owned(), error.to_string()))
}

/// JavaScript has one type of numbers: whole ones beyond 32 bits come as floats.
fn with_integers(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::Number(integer(&number).unwrap_or(number)),
        Value::Array(items) => Value::Array(items.into_iter().map(with_integers).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, with_integers(value))).collect())
        }
        other => other,
    }
}

fn integer(number: &Number) -> Option<Number> {
    let float = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0)?;
    if (0.0..=SAFE).contains(&float) { Some(Number::from(float as u64)) } else { None }
}

fn with_names(value: Value, renamed: fn(&str) -> String) -> Value {
    match value {
        Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| with_names(item, renamed)).collect())
        }
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (renamed(&name), with_names(value, renamed)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// `cached_tokens` becomes `cachedTokens`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

/// `cachedTokens` becomes `cached_tokens`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
