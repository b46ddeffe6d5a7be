//! Decisions, in the shape that crosses the boundary fastest: few values, no object.

use napi::bindgen_prelude::*;
use p3sched::Decision;
use serde_json::Value;

use crate::{error, plain};

/// The chosen endpoint, with the fallbacks behind it where there are some.
pub(crate) type Endpoints = Either<String, Vec<String>>;

/// Endpoints, id, matched tokens, prompt tokens, and the explanation with its text.
pub(crate) type Explained = (Endpoints, f64, u32, u32, Option<Value>, Option<String>);

pub(crate) fn endpoints(decision: &Decision) -> Endpoints {
    if decision.fallbacks.is_empty() {
        return Either::A(decision.endpoint.as_ref().to_owned());
    }
    let all = std::iter::once(&decision.endpoint).chain(&decision.fallbacks);
    Either::B(all.map(|name| name.as_ref().to_owned()).collect())
}

/// Writes id, matched tokens and prompt tokens.
pub(crate) fn write_numbers(decision: &Decision, numbers: &mut [f64]) {
    if let [id, matched_tokens, prompt_tokens, ..] = numbers {
        // Ids are below 2⁵³.
        *id = decision.id as f64;
        *matched_tokens = decision.matched_tokens.into();
        *prompt_tokens = decision.prompt_tokens.into();
    }
}

pub(crate) fn explained(decision: &Decision) -> error::Result<Explained> {
    let explanation = decision.explanation();
    Ok((
        endpoints(decision),
        decision.id as f64,
        decision.matched_tokens,
        decision.prompt_tokens,
        explanation.map(plain::write).transpose()?,
        explanation.map(ToString::to_string),
    ))
}
